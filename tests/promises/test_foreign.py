"""A foreign cache cannot hurt: it is refused before a byte of it is decoded, and nothing in it is run."""

import hashlib
import importlib
import json
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river_cases import DENSE, job_for, samples, write_cache
from stage_cases import softlabels
from store_cases import VERSIONS, fill, job_of, tree

from pipeline.errors import CorruptError, MismatchError, SoftLabelsError
from pipeline.reader import Reader
from pipeline.store.canonical import canonical
from pipeline.store.documents import Job, Receipt, Seal
from pipeline.store.group import ShardedArray, metadata_documents
from pipeline.store.mapped import LabelCache
from pipeline.store.residence import UnmappableError
from pipeline.store.selection import Selection
from pipeline.store.state import read_state, receipt_path
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter

Raw = dict[str, Any]


def array(**changes: object) -> Callable[[Raw], None]:
    """A change of the last array of a job."""
    return lambda job: job["arrays"][-1].update(changes)


def top(**changes: object) -> Callable[[Raw], None]:
    """A change of a job's own fields."""
    return lambda job: job.update(changes)


JOBS: dict[str, Callable[[Raw], None]] = {
    **{f"name {name!r}": array(name=name) for name in ("../../escape", "/etc/passwd", "a/b", "..", "", "zarr.json")},
    **{f"name {name!r}": array(name=name) for name in ("logits\x00", "Łogits", "a" * 65, "\x1b[2J", "label")},
    **{
        f"dtype {dtype!r}": array(dtype=dtype)
        for dtype in ("object", "|O", "O", "S8", "V16", "complex64", "datetime64[s]")
    },
    **{f"dtype {dtype!r}": array(dtype=dtype) for dtype in (["<f2", "O"], {"name": "os:system"}, None, 7)},
    **{
        f"shape {shape}": array(row_shape=shape)
        for shape in ([2**40], [2**20] * 4, [0], [-3], [1] * 9, [1.5], "3", [[3]])
    },
    **{f"fill {fill!r}": array(fill=fill) for fill in ("Infinity", "__import__('os')", 1e999, None, [0])},
    "no rows": top(rows=0),
    "more rows than any disk has": top(rows=2**60),
    "rows that need a terabyte of flags": top(rows=2**45, shard_rows=2**30, chunk_rows=1),
    "ten billion shards": top(rows=10**10, shard_rows=1, chunk_rows=1),
    "a shard of an exabyte": top(rows=2**48, shard_rows=2**48, chunk_rows=2**48),
    "no views": top(view_count=0),
    "a billion views": top(view_count=2**30),
    "chunks that do not divide": top(chunk_rows=3),
    "chunks of nothing": top(chunk_rows=0),
    "rows as text": top(rows="21"),
    "rows as a truth": top(rows=True),
    "a key nobody knows": top(hook="os:system"),
    "a codec nobody knows": array(codecs=[{"name": "zstd"}]),
    "another format": top(format="softlabels/9"),
    "no format": top(format=None),
    "files as many as a disk has room for": top(rows=10**7, shard_rows=1, chunk_rows=1),
    "a thousand arrays": lambda job: job.update(
        arrays=job["arrays"] + [{**job["arrays"][-1], "name": f"a{n}"} for n in range(1000)]
    ),
    "deep nesting": top(teacher={"a": json.loads("[" * 40 + "]" * 40)}),
}


@pytest.mark.promise("P12")
@pytest.mark.parametrize("change", JOBS.values(), ids=JOBS)
def test_a_job_that_asks_for_what_cannot_be_is_refused_by_all(change: Callable[[Raw], None], memory: Path) -> None:
    """Law: written as its author likes, in the right form: no reader, writer or check goes on, or takes much memory."""
    path = memory / "cache"
    fill(path, job_of(), commits=2)
    raw = json.loads((path / "job.json").read_bytes())
    change(raw)
    (path / "job.json").write_bytes((json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode())
    tracemalloc.start()
    try:
        for attempt in (
            lambda: LabelCache.open(path, allow_partial=True),
            lambda: read_state(path),
            lambda: CacheWriter.open(path, job_of(), VERSIONS),
        ):
            with pytest.raises((CorruptError, MismatchError), match=r"job\.json"):
                attempt()
        assert [problem.path.name for problem in verify(path).problems] == ["job.json"]
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert not (memory / "escape").exists()


def relabel(path: Path, **changes: object) -> None:
    """Make the documents of a cache agree with another job than the one it was made for, as an attacker can."""
    state = read_state(path)
    job = Job.model_validate({**state.job.model_dump(), **changes})
    (path / "job.json").write_bytes(job.to_bytes())
    receipts = [
        Receipt.signed(**{**receipt.model_dump(exclude={"sha256"}), "job": job.fingerprint})
        for receipt in state.receipts.values()
    ]
    for receipt in receipts:
        receipt_path(path, receipt.shard).write_bytes(receipt.to_bytes())
    for name, document in metadata_documents(job).items():
        (path / "labels.zarr" / name).write_bytes(document)
    seal = Seal.of(job, metadata_documents(job), receipts, state.seal.made, state.seal.about)
    (path / "seal.json").write_bytes(seal.to_bytes())


CODE = ("canary:run", "os:system", "canary", "__import__('canary')", "canary.py", "torch.load")


@pytest.mark.promise("P12")
@pytest.mark.parametrize("code", CODE)
def test_a_job_that_names_code_has_none_of_it_run(code: str, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what a cache says of its teacher and dataset is data: opened, read, inspected, verified, it runs nothing."""
    (memory / "canary.py").write_text("import pathlib\npathlib.Path(__file__).with_name('sang').touch()\n")
    monkeypatch.syspath_prepend(memory)
    dataset = samples()
    path = write_cache(memory / "cache", dataset, DENSE, job_for(dataset, DENSE)).root
    relabel(path, teacher={"model": code, "options": {"factory": code}}, dataset={"kind": code}, views={"by": code})
    assert Reader(dataset, LabelCache.open(path)).__getitems__([1, 2]).soft is not None
    assert softlabels("inspect", str(path)).code == 0
    assert softlabels("verify", str(path)).code == 0
    assert not (memory / "sang").exists()
    importlib.import_module("canary")
    assert (memory / "sang").exists()
    del sys.modules["canary"]


@pytest.mark.promise("P12")
def test_names_are_shown_and_not_obeyed(memory: Path) -> None:
    """Law: control characters in what a cache says of itself reach no terminal, in reports and in refusals."""
    path = memory / "cache"
    fill(path, job_of())
    relabel(path, teacher={"model": "\x1b]0;owned\x07\x1b[2J", "classes": ["\u202egnp.exe", "a\tb\x9b31m"]})
    for words in (("inspect", str(path)), ("inspect", "--json", str(path)), ("verify", str(path))):
        outcome = softlabels(*words)
        assert outcome.code == 0
        assert all(each.isprintable() or each == "\n" for each in outcome.out + outcome.err)
    (path / "a\nsoftlabels: all is well\x1b[2J").touch()
    outcome = softlabels("verify", str(path))
    assert (outcome.code, len(outcome.out.splitlines())) == (3, 2)
    assert "a softlabels: all is well\\x1b[2J" in outcome.out
    outcome = softlabels("inspect", str(memory / "no\x1b[2J\ncache"))
    assert (outcome.code, len(outcome.err.splitlines())) == (4, 1)
    assert "no\\x1b[2J cache" in outcome.err


LINKS = (
    "job.json",
    "seal.json",
    "receipts",
    "labels.zarr",
    "labels.zarr/zarr.json",
    "labels.zarr/logits",
    "labels.zarr/logits/c",
    "labels.zarr/logits/c/0",
    "labels.zarr/logits/c/0/1",
    "labels.zarr/logits/c/0/1/0",
)


@pytest.mark.promise("P12")
@pytest.mark.parametrize("name", LINKS)
def test_a_symbolic_link_in_a_cache_is_refused(name: str, memory: Path) -> None:
    """Law: whatever of a cache is a link to elsewhere, even to the right bytes, is refused by readers and by verify."""
    path = memory / "cache"
    fill(path, job_of())
    (path / name).rename(memory / "elsewhere")
    (path / name).symlink_to(memory / "elsewhere")
    with pytest.raises(CorruptError, match="is a symbolic link; expected"):
        LabelCache.open(path).gather(0, np.arange(21))
    if name in {"job.json", "receipts", "labels.zarr"}:
        with pytest.raises(CorruptError, match="is a symbolic link; expected"):
            LabelCache.open(path)
    try:
        assert any("is a symbolic link" in problem.what for problem in verify(path).problems)
    except SoftLabelsError as refusal:
        assert "is a symbolic link" in str(refusal)  # noqa: PT017 - some links end it at once


@pytest.mark.promise("P12")
@pytest.mark.parametrize("name", ["labels.zarr", "labels.zarr/logits", "labels.zarr/logits/c/0", "receipts"])
def test_a_writer_does_not_write_through_a_symbolic_link(name: str, memory: Path) -> None:
    """Law: a cache begun by someone else cannot make the one who goes on with it write elsewhere."""
    path, job = memory / "cache", job_of()
    fill(path, job, commits=1)
    (path / name).rename(memory / "elsewhere")
    (path / name).symlink_to(memory / "elsewhere")
    before = tree(memory / "elsewhere")
    with pytest.raises(CorruptError, match="is a symbolic link; expected"):
        fill(path, job)
    assert tree(memory / "elsewhere") == before
    shutil.rmtree(memory / "elsewhere")
    (memory / "elsewhere").mkdir()  # an empty one: there is something to write at once
    with pytest.raises(CorruptError, match="is a symbolic link; expected"):
        fill(path, job)
    assert list((memory / "elsewhere").iterdir()) == []


def zstd(document: Raw) -> None:
    """A compressor inside, whose frame could claim any size."""
    document["codecs"][0]["configuration"]["codecs"].insert(1, {"name": "zstd", "configuration": {"level": 0}})


ZARR: dict[str, Callable[[Raw], None]] = {
    "zstd": zstd,
    "unknown codec": lambda document: document.update(codecs=[{"name": "numcodecs.pickle"}]),
    "object dtype": lambda document: document.update(data_type="object"),
    "other shape": lambda document: document.update(shape=[2**40, 21, 3]),
    "storage transformer": lambda document: document.update(storage_transformers=[{"name": "canary"}]),
    "another reading of the same": lambda document: document.update(attributes={"a": 1}),
}


@pytest.mark.promise("P12")
@pytest.mark.parametrize("change", ZARR.values(), ids=ZARR)
def test_a_zarr_document_of_another_making_is_refused(change: Callable[[Raw], None], memory: Path) -> None:
    """Law: codecs, dtype and shape are the job's own, to the byte, before any shard is opened."""
    path = memory / "cache"
    fill(path, job_of())
    file = path / "labels.zarr/logits/zarr.json"
    document = json.loads(file.read_bytes())
    change(document)
    file.write_bytes(json.dumps(document, indent=2).encode())
    with pytest.raises(CorruptError, match=r"logits/zarr\.json is not what was written"):
        LabelCache.open(path)
    assert [problem.path for problem in verify(path).problems] == [file]


SHARDS = {
    "a zstd frame that says it holds half a gigabyte": bytes.fromhex("28b52ffda4ffffff1f") + bytes(64),
    "a pickle that calls os.system": b"\x80\x04cos\nsystem\n(Vtrue\ntR.",
    "a zip archive": b"PK\x03\x04" + bytes(60),
    "noise": bytes(range(64)),
}


@pytest.mark.promise("P12")
@pytest.mark.parametrize("mappable", [True, False], ids=["mapped", "by zarr"])
@pytest.mark.parametrize("data", SHARDS.values(), ids=SHARDS)
def test_a_shard_of_any_other_bytes_is_refused_undecoded(
    data: bytes, memory: Path, monkeypatch: pytest.MonkeyPatch, *, mappable: bool
) -> None:
    """Law: at its length or stretched to the right one, no codec is let near it: readers and verify name the file."""
    path, job = memory / "cache", job_of()
    fill(path, job)
    file = path / "labels.zarr/logits/c/0/1/0"
    size = file.stat().st_size
    monkeypatch.setattr(ShardedArray, "gather", lambda *_: pytest.fail("it was decoded"))
    if not mappable:
        monkeypatch.setattr(Selection, "gather", unmappable)
    for there in (data, (data * size)[:size]):
        file.write_bytes(there)
        with pytest.raises(CorruptError, match="logits/c/0/1/0"):
            LabelCache.open(path).gather(0, np.arange(8, 16), ["logits"])
        assert [problem.path for problem in verify(path).problems] == [file]


def unmappable(*_: object) -> None:
    """A file system that cannot map."""
    raise UnmappableError


PROOFS: dict[str, tuple[str, Callable[[Raw], None]]] = {
    "a receipt of a path": (
        "receipts/000000001.json",
        lambda doc: doc["arrays"].update({"../../x": doc["arrays"]["label"]}),
    ),
    "a receipt of no array": ("receipts/000000001.json", lambda doc: doc["arrays"].pop("label")),
    "a receipt of a shard beyond": ("receipts/000000001.json", lambda doc: doc.update(shard=10**9)),
    "a receipt of a huge file": ("receipts/000000001.json", lambda doc: doc["arrays"]["label"].update(bytes=2**60)),
    "a receipt of no chain": ("receipts/000000001.json", lambda doc: doc["arrays"]["label"].update(chain=2**32)),
    "a receipt of a hook": ("receipts/000000001.json", lambda doc: doc.update(hook="os:system")),
    "a seal of a path": ("seal.json", lambda doc: doc["chains"].update({"../../x": doc["chains"]["label"]})),
    "a seal of too few chains": ("seal.json", lambda doc: doc["chains"].update(label=doc["chains"]["label"][:-8])),
    "a seal of too many": ("seal.json", lambda doc: doc["chains"].update(label=doc["chains"]["label"] * 10**5)),
    "a seal of words": ("seal.json", lambda doc: doc["chains"].update(label="canary")),
}


@pytest.mark.promise("P12")
@pytest.mark.parametrize(("name", "change"), PROOFS.values(), ids=PROOFS)
def test_a_proof_of_what_cannot_be_is_refused(name: str, change: Callable[[Raw], None], memory: Path) -> None:
    """Law: signed anew as its author likes, a receipt or seal that does not fit the job proves nothing."""
    path = memory / "cache"
    fill(path, job_of())
    document = json.loads((path / name).read_bytes())
    change(document)
    del document["sha256"]
    document["sha256"] = hashlib.sha256(canonical(document)).hexdigest()
    (path / name).write_bytes(canonical(document))
    assert name in {str(problem.path.relative_to(path)) for problem in verify(path).problems}
    with pytest.raises(CorruptError, match=name):
        read_state(path)
    if name == "seal.json":
        with pytest.raises(CorruptError, match=name):
            LabelCache.open(path)


def test_canonical_bytes_are_what_an_attacker_can_write_too() -> None:
    """Law: the attacks above are of the right form: only their content is refused."""
    raw = job_of().model_dump()
    assert (json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode() == canonical(raw)
