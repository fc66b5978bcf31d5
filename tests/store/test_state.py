"""Reading the documents of a cache."""

import shutil
from pathlib import Path

import pytest
from store_cases import fill, job_of

from pipeline.errors import CorruptError, IncompleteError, MismatchError, StorageError
from pipeline.store.documents import Job
from pipeline.store.state import RECEIPTS, SEAL, read_state, receipt_path, shard_path


def test_a_sealed_cache_has_a_receipt_for_each_shard_in_order(sealed: Path, job: Job) -> None:
    """Law: the state of a whole cache is its job, every receipt, and a seal."""
    state = read_state(sealed)
    assert state.job.to_bytes() == job.to_bytes()
    assert list(state.receipts) == list(range(job.layout.shards))
    assert state.seal.cache_id


def test_a_partial_cache_has_the_receipts_of_what_was_committed(partial: Path) -> None:
    """Law: no seal, and no more receipts than commits."""
    state = read_state(partial)
    assert (list(state.receipts), state.seal) == ([0, 1, 2, 3], None)


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    """A missing path and a folder of something else are no caches; a file is no folder."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        with pytest.raises(IncompleteError, match=f"{name} holds no label cache: it has no job.json"):
            read_state(tmp_path / name)
    with pytest.raises(StorageError, match="file is a file, and a label cache is a directory"):
        read_state(tmp_path / "file")


def test_a_receipt_in_another_s_place_is_refused(sealed: Path) -> None:
    """Law: a receipt proves the shard it names."""
    shutil.copy(receipt_path(sealed, 0), receipt_path(sealed, 1))
    with pytest.raises(
        CorruptError, match=r"000000001.json is no receipt of this cache: it is for shard.*Delete|delete"
    ):
        read_state(sealed)


def test_a_receipt_past_the_last_shard_is_refused(partial: Path) -> None:
    """A cache of six shards has no receipt 6."""
    shutil.copy(receipt_path(partial, 0), receipt_path(partial, 6))
    with pytest.raises(CorruptError, match=r"000000006.json is no receipt of this cache: shard 6 of 6"):
        read_state(partial)


def test_a_seal_without_all_its_receipts_is_refused(sealed: Path) -> None:
    """Law: a seal stands on every receipt."""
    receipt_path(sealed, 2).unlink()
    with pytest.raises(CorruptError, match="is sealed, yet 1 of its 6 receipts are gone"):
        read_state(sealed)


@pytest.mark.parametrize(
    ("other", "taken", "text"),
    [
        (job_of(teacher="x"), [SEAL], "one of them is not what was written"),
        (job_of(), [SEAL], "is for other files than the cache was sealed with"),
        (job_of(teacher="x"), [RECEIPTS], "is no receipt of this cache: it belongs to the job"),
    ],
)
def test_documents_of_another_cache_are_refused(
    sealed: Path, tmp_path: Path, other: Job, taken: list[str], text: str
) -> None:
    """Law: job, receipts and seal of one cache belong together."""
    fill(tmp_path / "other", other, seed=1)
    for name in taken:
        source, target = tmp_path / "other" / name, sealed / name
        if source.is_dir():
            shutil.rmtree(target)
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    with pytest.raises(CorruptError, match=text):
        read_state(sealed)


@pytest.mark.promise("P6")
def test_a_newer_cache_is_a_mismatch(sealed: Path) -> None:
    """Law: another format version is not called corrupt."""
    path = sealed / "job.json"
    path.write_bytes(path.read_bytes().replace(b"softlabels/2", b"softlabels/9"))
    with pytest.raises(MismatchError, match="'softlabels/9'"):
        read_state(sealed)


def test_a_shard_is_where_zarr_looks_for_it(tmp_path: Path, job: Job) -> None:
    """Case: shard 4 of 3 a view is the second of view 1."""
    specs = {spec.name: spec for spec in job.arrays}
    shard = job.layout.shard(4)
    assert shard_path(tmp_path, specs["logits"], job.layout, shard) == tmp_path / "labels.zarr/logits/c/1/1/0"
    assert shard_path(tmp_path, specs["label"], job.layout, shard) == tmp_path / "labels.zarr/label/c/1/1"
