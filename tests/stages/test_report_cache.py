"""A label cache on one page: `report`."""

import re
import shutil
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import zarr
from river_cases import DENSE, job_for, samples, write_cache
from stage_cases import CLASSES, KINDS, ROWS, images, must, shown, snapshot, softlabels, write_idx

from pipeline.audit.statistics import statistics
from pipeline.store.documents import Receipt, Seal
from pipeline.store.group import metadata_documents
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import MirrorSettings
from pipeline.store.state import State, read_state, receipt_path
from stages import report_cache
from stages.look_into_cache import overall

KEPT = (
    'teacher.features=[{module = "2", name = "hidden"}, {module = "1", name = "middle", dtype = "int8"}]',
    'teacher.gradients={of = "top", dtype = "float32"}',
)
EVIL = '"><script>alert(1)</script>$_\u202e\u4e2d\n'
CERTAINTY = "accuracy by confidence, and rows by entropy"


def retold(path: Path, made: Callable[[int], dict[str, Any]], about: dict[str, Any] | None = None) -> None:
    """Have the receipts of a sealed cache, and its seal, say something else of how they came about."""
    state = read_state(path)
    receipts = []
    for number, receipt in state.receipts.items():
        says = receipt.made.model_copy(update=made(number)).model_dump()
        receipts.append(Receipt.signed(**{**receipt.model_dump(exclude={"sha256"}), "made": says}))
        receipt_path(path, number).write_bytes(receipts[-1].to_bytes())
    seal = Seal.of(state.job, metadata_documents(state.job), receipts, receipts[0].made, about or {})
    (path / "seal.json").write_bytes(seal.to_bytes())


def unseal(path: Path, *undone: int) -> None:
    """As if a writer had been stopped before it came to these shards."""
    (path / "seal.json").unlink()
    for number in undone:
        receipt_path(path, number).unlink()


def test_a_page_shows_what_a_cache_is_and_leaves_it_as_it_was(filled: Path) -> None:
    """Law: beside the cache; who made it, what a row holds, how fast, how sure, its teacher, its losses."""
    before = snapshot(filled / "cache")
    outcome = softlabels("report", "cache")
    assert (outcome.code, outcome.err) == (0, "")
    cache_id = read_state(filled / "cache").seal.cache_id
    assert outcome.out == f"cache.html: {ROWS} rows in 1 view, 4 of 4 shards done: sealed, cache id {cache_id}.\n"
    words = shown(filled / "cache.html")
    host = read_state(filled / "cache").receipts[0].made.host
    for said in (
        f"state | sealed, cache id {cache_id}",
        "shards | 4 of 4 done",
        f" | {host} | 4 | {ROWS} | ",
        "rows a second of 4 shards by host",
        CERTAINTY,
        "Its teacher | test accuracy | ",
        "kd | any temperature, standardised too",
        "labels.encoding | dense",
        "teacher.model | mlp",
    ):
        assert said in words
    assert snapshot(filled / "cache") == before


def test_a_page_runs_nothing_and_fetches_nothing(filled: Path) -> None:
    """Law: no script, no address, no file beside it: pictures are inside."""
    softlabels("report", "cache", "--out", "there/p.html")
    page = (filled / "there/p.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert len(pictures) == 2
    assert all(b64decode(each).startswith(b"\x89PNG") for each in pictures)
    assert not re.search(r"<script|<link|https?:|src=\"(?!data:)|href|url\(", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("kind", ["dense", *KINDS])
def test_figures_are_those_of_inspect(kind: str, filled: Path) -> None:
    """Law: as JSON the same facts and one more, where the page is; on the page the same words."""
    if kind != "dense":
        shutil.rmtree("cache")
        must("generate", *KINDS[kind])
    facts = softlabels("report", "cache", "--json").facts
    assert facts.pop("page") == "cache.html"
    assert facts == softlabels("inspect", "cache", "--stats", "--json").facts
    found, words = statistics(LabelCache.open(filled / "cache")), shown(filled / "cache.html")
    for name, said in overall(found).items():
        assert f"{name} | {said}" in words
    text = softlabels("inspect", "cache", "--stats").out
    for line in re.search(r"\ntrue class  +rows .*\n((?:.+\n)+)", text)[1].splitlines():
        assert " | ".join(re.split(" {2,}", line)) in words
    assert found.known in words


def test_what_is_kept_of_a_teacher_is_named_with_its_bytes(fitted: Path) -> None:
    """Law: each array by module and reduction; bytes of a row are exact, and shares are of all files there are."""
    must("generate", *KEPT)
    softlabels("report", "cache")
    words = shown(fitted / "cache.html")
    for said in (
        "feature_hidden | feature of the module '2', reduction 'mean' of [8] | float16 | [8] | 16 | ",
        "feature_middle | feature of the module '1', reduction 'mean' of [8] | int8 | [8] | 8 | ",
        "feature_middle_scale | feature of the module '1', reduction 'mean' of [8] | float32 | [] | 4 | ",
        "gradient | gradient of 'top' by the input | float32 | [1, 4, 4] | 64 | ",
        "gradient_class | gradient of 'top' by the input | int32 | [] | 4 | ",
        f"logits | dense labels | float16 | [{CLASSES}] | {2 * CLASSES} | ",
        "sample_id | which sample | int64 | [] | 8 | ",
    ):
        assert said in words
    assert f"all | {8 + 4 + 4 + 2 * CLASSES + 16 + 8 + 4 + 64 + 4} | 100.0%" in words
    files = list((fitted / "cache/labels.zarr").glob("gradient/c/*/*/**/*"))
    share = sum(file.stat().st_size for file in files if file.is_file()) / read_state(fitted / "cache").seal.bytes
    assert f"| 64 | {share:.1%} | " in words


def test_who_is_slow_is_seen(filled: Path) -> None:
    """Law: hosts from the slowest on, and the shards that took more than twice the median time a row."""
    times = {0: 1.0, 1: 1.0, 2: 9.0, 3: 0.125}
    retold(
        filled / "cache",
        lambda number: {
            "host": "lame" if number == 2 else "fast",
            "seconds": times[number],
            "finished": f"2030-01-01T0{number}:00:00+00:00",
        },
    )
    softlabels("report", "cache")
    words = shown(filled / "cache.html")
    assert " | lame | 1 | 16 | 9.0 s | 1.778 | 2 | 1.778 | fast | 3 | 34 | 2.1 s | 16 | 0 | 16 | " in words
    assert "1 shard of 4 took more than twice the median time a row. | slow shard" in words
    assert " | 2 | 0 | lame | 1.778 | 9.0 s | " in words
    retold(filled / "cache", lambda _: {"seconds": 0.0, "finished": "yesterday"})
    assert softlabels("report", "cache").code == 0
    words = shown(filled / "cache.html")
    assert "rows a second of" not in words
    assert " | 0 shards of 4 took more" in words


def test_of_clusters_their_sizes_are_shown(fitted: Path) -> None:
    """Law: how many rows are nearest to each, in place of how right classes are; and what serves no true label."""
    must("generate", 'teacher.features=[{module = "2", name = "hidden"}]')
    assert softlabels("cluster", "cache", "--clusters", "4").code == 0
    facts = softlabels("report", "cache-clusters", "--json").facts
    logits = np.asarray(zarr.open_group("cache-clusters/labels.zarr", mode="r")["logits"][0])
    sizes = np.bincount(logits.argmax(axis=1), minlength=4)
    assert facts["statistics"]["likeliest"] == sizes.tolist()
    assert (facts["about"]["largest"], facts["about"]["smallest"]) == (sizes.max(), sizes.min())
    words = shown(fitted / "cache-clusters.html")
    assert "rows of 4 clusters, the largest first" in words
    listed = [f"cluster {place} | {sizes[place]} | {sizes[place] / ROWS:.2%}" for place in np.argsort(-sizes).tolist()]
    assert all(each in words for each in listed)
    assert re.search(rf"cluster \d \| {sizes.max()} \| .*cluster \d \| {sizes.min()} \| ", words)
    assert CERTAINTY not in words
    assert "hard | not from these labels" in words
    assert "normalised_mutual_information | 0." in words


def test_a_cache_on_its_way_is_shown_as_far_as_it_is(filled: Path) -> None:
    """Law: exit code 4 and its words, as inspect has them; figures are of the shards that are done, if any is."""
    unseal(filled / "cache", 2)
    outcome = softlabels("report", "cache")
    assert (outcome.code, outcome.err) == (4, "")
    said = "NOT SEALED: run `softlabels generate` again"
    assert outcome.out == f"cache.html: {ROWS} rows in 1 view, 3 of 4 shards done: {said}.\n"
    words = shown(filled / "cache.html")
    assert f"state | {said}" in words
    assert "looked at | 34 rows in 3 shards" in words
    facts = softlabels("inspect", "cache", "--stats", "--json").facts
    assert softlabels("report", "cache", "--json").facts == {"page": "cache.html", **facts}
    for number in (0, 1, 3):
        receipt_path(filled / "cache", number).unlink()
    outcome = softlabels("report", "cache", "--json")
    assert (outcome.code, outcome.facts["statistics"], outcome.facts["shards_done"]) == (4, None, 0)
    words = shown(filled / "cache.html")
    assert "No shard is done." in words
    assert "logits | dense labels | float16 | [3] | 6 | - | " in words
    assert "looked at" not in words


def test_a_page_is_of_one_moment(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a shard that is done while the page is made is in all of it."""
    last, seal = max((filled / "cache/receipts").iterdir()), filled / "cache/seal.json"
    kept = {path: path.read_bytes() for path in (last, seal)}
    for path in kept:
        path.unlink()

    def finished_meanwhile(where: Path | str) -> State:
        state = read_state(where)
        for path, data in kept.items():
            path.write_bytes(data)
        return state

    monkeypatch.setattr(report_cache, "read_state", finished_meanwhile)
    outcome = softlabels("report", "cache", "--json")
    assert (outcome.code, outcome.facts["sealed"]) == (0, True)
    assert outcome.facts["shards_done"] == outcome.facts["statistics"]["shards"]


def test_a_cache_that_grows_is_shown_as_it_was(filled: Path) -> None:
    """Law: exit code 4; figures are of what can be read."""
    old = (filled / "cache/seal.json").read_bytes()
    write_idx(filled / "images", np.concatenate([images(ROWS), images(ROWS + 10, 1)[ROWS:]]))
    write_idx(filled / "labels", (np.arange(ROWS + 10) % CLASSES).astype(np.uint8))
    must("extend")
    (filled / "cache/seal.json").write_bytes(old)
    assert softlabels("report", "cache").code == 4
    words = shown(filled / "cache.html")
    assert "state | GROWING from 1 view of 50 samples, which can be read" in words
    assert f"looked at | {ROWS} rows in 4 shards" in words


def test_a_cache_at_an_address_has_its_page_here(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same figures, and the page where --out says."""
    copies = MirrorSettings(filled / "copies", 2**30)
    monkeypatch.setattr(LabelCache.open.__func__, "__defaults__", (False, copies))
    url = f"memory://{uuid4().hex}"
    assert softlabels("push", "cache", url).code == 0
    facts = softlabels("report", url, "--out", "p.html", "--json").facts
    assert (facts["page"], facts["cache"]) == ("p.html", url)
    assert facts["statistics"] == softlabels("report", "cache", "--json").facts["statistics"]
    assert shown(filled / "p.html").startswith(f"{url} | ")
    softlabels("report", url).refuses(2, f"{url} has no place beside it", "--out FILE.html")
    softlabels("report", f"{url}/not", "--out", "p.html").refuses(4, "holds no label cache", "folder on this machine")


@pytest.mark.parametrize("name", [".", "../cache", "labels.zarr/.."])
def test_a_cache_by_whatever_path_has_its_page_beside_it(
    name: str, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: never inside it, also where the path has no name."""
    before = snapshot(filled / "cache").keys()
    monkeypatch.chdir(filled / "cache")
    assert softlabels("report", name).code == 0
    assert (filled / "cache.html").exists()
    assert snapshot(filled / "cache").keys() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 4, ("nowhere holds no run that is done", "no label cache: no job.json")),
        (("e.toml",), 7, ("e.toml is a file", "Give the path of a label cache or of a folder of runs")),
        (("cache", "--out", "cache/p.html"), 2, ("cache/p.html is inside the cache cache", "--out FILE.html")),
        (("cache", "--out", "link/new/p.html"), 2, ("link/new/p.html is inside the cache cache",)),
        (("cache", "--out", "s3://bucket/p.html"), 2, ("s3://bucket/p.html is an address", "a file of this machine")),
        (("runs", "--out", "s3://bucket/p.html"), 2, ("s3://bucket/p.html is an address",)),
        (("cache", "--out", "e.toml/p.html"), 7, ("e.toml is a file",)),
        (("nothing://there",), 2, ("is no address that is known here",)),
    ],
)
def test_what_has_no_page_is_refused(
    arguments: tuple[str, ...], code: int, said: tuple[str, ...], filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: before a shard is read, with what to do; nothing is written."""
    monkeypatch.setattr("stages.report_cache.statistics", lambda *_, **__: pytest.fail("it was looked at"))
    (filled / "link").symlink_to("cache")
    before = snapshot(filled)
    softlabels("report", *arguments).refuses(code, *said)
    assert snapshot(filled) == before


def test_what_is_not_as_it_was_written_has_no_page(filled: Path) -> None:
    """Law: exit code 3, by its name: a shard, a document."""
    shard = filled / "cache/labels.zarr/logits/c/0/2/0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 0x10
    shard.write_bytes(data)
    softlabels("report", "cache").refuses(3, "logits/c/0/2/0")
    for name in ("receipts/000000001.json", "job.json"):
        document = filled / "cache" / name
        document.write_bytes(document.read_bytes().replace(b": ", b":  ", 1))
        softlabels("report", "cache").refuses(3, name, "that was written")
    assert not (filled / "cache.html").exists()


def test_labels_that_this_version_does_not_know_have_no_page(tmp_path: Path) -> None:
    """Law: exit code 3, as `inspect --stats`; no folder is made for it."""
    labels = {"encoding": "wavelet", "classes": 3, "dtype": "float16"}
    job = job_for(samples(), DENSE).model_copy(update={"labels": labels})
    write_cache(tmp_path / "foreign", samples(), job=job)
    outcome = softlabels("report", str(tmp_path / "foreign"), "--out", str(tmp_path / "new/p.html"))
    outcome.refuses(3, "its job describes labels that cannot be")
    assert not (tmp_path / "new").exists()


@pytest.mark.promise("P12")
def test_what_a_cache_says_is_shown_and_not_obeyed_by_a_page(tmp_path: Path) -> None:
    """Law: tags, quotes and signs that turn text around stay text, whoever named a class, a host or a figure."""
    words = {EVIL: EVIL, "deep": [EVIL, {EVIL: None}], "long": EVIL * 1000}
    named = {"dataset": {"class_names": [EVIL, EVIL, EVIL]}, "teacher": words, "views": words}
    path = tmp_path / "cache"
    write_cache(path, samples(), job=job_for(samples(), DENSE).model_copy(update=named))
    about = {**words, "teacher_parameters": EVIL, "teacher_test_accuracy": 0.5, "teacher_test_ece": 10**400}
    retold(path, lambda _: {"host": EVIL, "seconds": 1.0, "versions": {EVIL: EVIL}}, about)
    assert softlabels("report", str(path)).code == 0
    page = (tmp_path / "cache.html").read_text()
    assert not re.search(r"<script|\u202e|onerror=|\n\u4e2d", page)
    assert page.count("&lt;script&gt;") > 10
    assert len(page) < 500_000


def test_a_document_of_any_length_is_cut(tmp_path: Path) -> None:
    """Law: what takes megabytes in a job takes a line of the page."""
    named = {"dataset": {"class_names": ["x" * 10**6, "y", "z"]}}
    write_cache(tmp_path / "cache", samples(), job=job_for(samples(), DENSE).model_copy(update=named))
    softlabels("report", str(tmp_path / "cache"))
    page = (tmp_path / "cache.html").read_text()
    assert "x" * 250 in page
    assert "x" * 301 not in page
    assert len(page) < 500_000
