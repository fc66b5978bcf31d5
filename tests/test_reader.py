"""A student is told what the teacher said of that very sample, or nothing at all."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import CLASSES, DENSE, STEADY, job_for, part_of, samples, told, write_cache
from sequence_cases import Packed
from torch.utils.data import DataLoader

from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import CorruptError, DatasetError, MismatchError
from pipeline.labels import ArraySpec, LabelSpec, SparseLabels
from pipeline.reader import UNLABELLED, Batch, Reader, collate, few_labels, label_spec
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache

TOPK = LabelSpec("topk", CLASSES, "float32", k=2, temperatures=(1.0, 4.0))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LabelCache]:
    """Sealed caches of `samples()`, which take three shards of two chunks."""
    folder = tmp_path_factory.mktemp("caches")
    return {spec.encoding: write_cache(folder / spec.encoding, samples(), spec) for spec in (DENSE, TOPK)}


@pytest.fixture
def cache(caches: dict[str, LabelCache]) -> LabelCache:
    """Every logit of every sample."""
    return caches["dense"]


def assert_every_row_is_right(batch: Batch, dataset: ArrayDataset, rows: list[int], encoding: str) -> None:
    """Inputs and true labels are the dataset's at these rows, and soft labels are what was said of their ids."""
    ids, labels = dataset.ids[rows], torch.from_numpy(dataset.labels[rows])
    assert torch.equal(batch.inputs_NX, torch.from_numpy(dataset.array[rows]))
    assert torch.equal(batch.labels_N, labels)
    said = told(ids)
    if encoding == "dense":
        assert torch.equal(batch.soft.logits_NC, said)
    else:
        assert isinstance(batch.soft, SparseLabels)
        counted = said - said.amax(1, keepdim=True)
        assert torch.equal(counted.gather(1, batch.soft.ids_NK), batch.soft.logits_NK)
        assert torch.equal(batch.soft.max_N, said.amax(1))
        assert torch.equal(batch.soft.target_N, counted.gather(1, labels[:, None])[:, 0])


@STEADY
@given(encoding=st.sampled_from(["dense", "topk"]), data=st.data())
def test_whatever_the_order_a_row_comes_with_its_own_labels(
    caches: dict[str, LabelCache], encoding: str, data: st.DataObject
) -> None:
    """Law: any subset of the dataset, in any order, and any rows of it in a batch, some of them twice."""
    everything = samples()
    kept = data.draw(st.lists(st.integers(0, len(everything) - 1), min_size=1, unique=True))
    dataset = part_of(everything, np.array(kept))
    rows = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=40))
    reader = Reader(dataset, caches[encoding])
    assert len(reader) == len(dataset)
    assert_every_row_is_right(reader.__getitems__(rows), dataset, rows, encoding)


@pytest.mark.parametrize(("shard_rows", "chunk_rows"), [(1, 1), (5, 5), (6, 2), (24, 24), (64, 8)])
def test_however_the_cache_is_cut_a_row_comes_with_its_own_labels(
    tmp_path: Path, shard_rows: int, chunk_rows: int
) -> None:
    """Shards of one row, shards that do not divide the rows, one shard that holds them all."""
    dataset = samples()
    job = job_for(dataset, DENSE, shard_rows=shard_rows, chunk_rows=chunk_rows)
    reader = Reader(dataset, write_cache(tmp_path / "cache", dataset, DENSE, job))
    rows = np.random.default_rng(0).integers(0, len(dataset), 100).tolist()
    assert_every_row_is_right(reader.__getitems__(rows), dataset, rows, "dense")


def test_a_reader_that_was_pickled_reads_the_same(cache: LabelCache) -> None:
    """Loader workers get it so, however they are started."""
    reader = Reader(samples(), cache)
    first = reader.__getitems__([3, 1])
    second = pickle.loads(pickle.dumps(reader)).__getitems__([3, 1])  # noqa: S301 - made here
    assert torch.equal(first.inputs_NX, second.inputs_NX)
    assert torch.equal(first.soft.logits_NC, second.soft.logits_NC)


def test_samples_that_the_cache_does_not_know_are_refused(cache: LabelCache) -> None:
    """At once, not when their turn comes."""
    dataset = samples()
    ids = dataset.ids.copy()
    ids[[2, 5]] = 1000, 2000
    strange = ArrayDataset(dataset.array, ids, dataset.labels, CLASSES)
    with pytest.raises(
        MismatchError, match=r"has no labels for 2 of the samples asked for: 1000, 2000\. It holds 24 samples"
    ):
        Reader(strange, cache)


def test_an_input_that_changed_under_its_id_is_refused(cache: LabelCache) -> None:
    """Labels that do not belong to the input are an error, not a worse student; whole rows are still read."""
    dataset = samples()
    changed = ArrayDataset(dataset.array.copy(), dataset.ids, dataset.labels, CLASSES)
    changed.array[4, 0, 1, 2] += 1
    reader = Reader(changed, cache)
    reader.__getitems__([3, 5])
    with pytest.raises(
        MismatchError, match=rf"1 of the 3 inputs of this batch .* \(sample ids {dataset.ids[4]}\).*dataset has changed"
    ):
        reader.__getitems__([3, 4, 5])


def test_inputs_that_changed_places_under_their_ids_are_refused(cache: LabelCache) -> None:
    """The mistake of a dataset that was shuffled, or made again, and kept its numbering."""
    dataset = samples()
    moved = ArrayDataset(np.roll(dataset.array, 1, axis=0), dataset.ids, dataset.labels, CLASSES)
    with pytest.raises(MismatchError, match="24 of the 24 inputs of this batch are not the ones the teacher saw"):
        Reader(moved, cache).__getitems__(range(24))


def relabelled(labels: np.ndarray) -> ArrayDataset:
    """The same samples under other true labels."""
    dataset = samples()
    return ArrayDataset(dataset.array, dataset.ids, labels, CLASSES)


@pytest.mark.promise("P7")
def test_true_labels_that_changed_since_the_cache_was_made_are_refused(cache: LabelCache) -> None:
    """Shuffled labels under the same inputs are an error; how many of the batch and the first sample are said."""
    labels = samples().labels
    reader = Reader(relabelled(np.roll(labels, 1)), cache)
    changed = np.flatnonzero(np.roll(labels, 1) != labels)
    assert 0 < changed.size <= 24
    with pytest.raises(
        MismatchError,
        match=rf"^{changed.size} of the 24 samples of this batch have another true label than when the cache was made "
        rf"\(the first is sample {samples().ids[changed[0]]}\)\. Restore the dataset's labels, or make a new cache",
    ):
        reader.__getitems__(range(24))


def test_one_changed_label_is_found_when_its_turn_comes(cache: LabelCache) -> None:
    """Batches without it are still read."""
    labels = samples().labels.copy()
    labels[4] = (labels[4] + 1) % CLASSES
    reader = Reader(relabelled(labels), cache)
    reader.__getitems__([3, 5])
    with pytest.raises(MismatchError, match=r"^1 of the 2 samples of this batch have another true label"):
        reader.__getitems__([5, 4])


@STEADY
@given(hidden=st.sets(st.integers(0, 23)))
def test_a_hidden_label_is_no_other_label(caches: dict[str, LabelCache], hidden: set[int]) -> None:
    """Law: whichever labels the dataset now hides, the rest agree with the cache, and all rows are read."""
    labels = samples().labels.copy()
    labels[list(hidden)] = UNLABELLED
    batch = Reader(relabelled(labels), caches["dense"]).__getitems__(range(24))
    assert batch.labels_N.tolist() == labels.tolist()


def test_a_label_that_the_cache_does_not_know_is_no_other_label(tmp_path: Path) -> None:
    """A dataset may be labelled after its cache was made; the labels that were known still have to agree."""
    labels = samples().labels.copy()
    labels[:20] = UNLABELLED
    cache = write_cache(tmp_path / "cache", relabelled(labels))
    assert Reader(samples(), cache).__getitems__(range(24)).labels_N.tolist() == samples().labels.tolist()
    labels[20] = (labels[20] + 1) % CLASSES
    with pytest.raises(MismatchError, match=r"^1 of the 24 samples"):
        Reader(relabelled(labels), cache).__getitems__(range(24))


def test_without_a_cache_a_batch_has_true_labels_alone() -> None:
    """-1 where a sample has none, and where the dataset has none at all."""
    labels = np.array([1, UNLABELLED, 0, UNLABELLED])
    batch = Reader(ArrayDataset(np.zeros((4, 2)), np.arange(4), labels, CLASSES)).__getitems__([2, 1])
    assert (batch.labels_N.tolist(), batch.soft, batch.rows.tolist()) == ([0, UNLABELLED], None, [2, 1])
    bare = Reader(ArrayDataset(np.zeros((4, 2)), np.arange(4), None, CLASSES)).__getitems__([2, 1])
    assert bare.labels_N.tolist() == [UNLABELLED] * 2


def test_one_row_is_a_batch_of_one(cache: LabelCache) -> None:
    """A loader may ask for single rows too."""
    reader = Reader(samples(), cache)
    one, many = reader[5], reader.__getitems__([5])
    assert torch.equal(one.inputs_NX, many.inputs_NX)
    assert torch.equal(one.soft.logits_NC, many.soft.logits_NC)


def test_a_batch_moves_as_one(cache: LabelCache) -> None:
    """Law: to a device and back, every tensor in it, soft labels too, and nothing is lost."""
    batch = Reader(samples(), cache).__getitems__([3, 1])
    there = batch.to("meta")
    assert {tensor.device.type for tensor in (there.inputs_NX, there.labels_N, there.soft.logits_NC)} == {"meta"}
    assert there.rows is batch.rows
    assert Reader(samples()).__getitems__([3]).to("meta").soft is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_drops_into_a_plain_loader(cache: LabelCache, workers: int) -> None:
    """Law: shuffled, in any number of processes, every sample once and with its own labels; one gather a batch."""
    dataset, reader = samples(), Reader(samples(), cache)
    loader = DataLoader(reader, batch_size=7, shuffle=True, num_workers=workers, collate_fn=collate)
    batches = list(loader)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(24))
    assert [len(batch.inputs_NX) for batch in batches] == [7, 7, 7, 3]
    torch.testing.assert_close(torch.cat([batch.soft.logits_NC for batch in batches]), told(dataset.ids[rows]))


LABELS = st.lists(st.integers(UNLABELLED, 4), min_size=1, max_size=60).map(np.array)


@STEADY
@given(LABELS, st.data())
def test_few_labels_are_true_and_shared_out_evenly(labels: np.ndarray, data: st.DataObject) -> None:
    """Law: exactly so many, each as it was; a class has fewer than another by two only if it has no more to give."""
    count = data.draw(st.integers(0, int((labels >= 0).sum())))
    visible = few_labels(labels, count, data.draw(st.integers(0, 9)))
    shown = visible >= 0
    assert shown.sum() == count
    assert np.array_equal(visible[shown], labels[shown])
    assert visible.shape == labels.shape
    given_away, there = (np.bincount(some[some >= 0], minlength=5) for some in (visible, labels))
    assert (given_away[given_away < there] >= given_away.max() - 1).all()


def test_a_seed_decides_which_labels_are_shown() -> None:
    """The same for one seed, others for another: a student's spread over seeds is also that of its labels."""
    labels = np.arange(100) % 5
    shown = [tuple(np.flatnonzero(few_labels(labels, 20, seed) >= 0)) for seed in (0, 0, 1, 2, 3)]
    assert shown[0] == shown[1]
    assert len(set(shown)) == 4


def test_more_labels_than_there_are_is_refused() -> None:
    """Unlabelled samples do not count."""
    with pytest.raises(DatasetError, match=r"true_labels = 3: the dataset has only 2 labelled samples\. Ask for fewer"):
        few_labels(np.array([0, UNLABELLED, 2]), 3, 0)


def with_job(cache: LabelCache, **changed: Any) -> LabelCache:  # noqa: ANN401 - any field of a job
    """The cache as it would be opened with another job."""
    job = Job.model_validate({**cache.job.model_dump(), **changed})
    return LabelCache(
        cache.root, job, cache.seal, {spec.name: np.zeros(job.layout.shards, np.int64) for spec in job.arrays}
    )


@pytest.mark.parametrize("encoding", ["dense", "topk"])
def test_the_labels_of_a_cache_are_those_asked_for(caches: dict[str, LabelCache], encoding: str) -> None:
    """What `job.json` holds, read again, is the spec it was written from."""
    assert label_spec(caches[encoding]) == {"dense": DENSE, "topk": TOPK}[encoding]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoding": "dens"}, "There is no encoding 'dens'. Did you mean 'dense'"),
        ({"encoding": None}, "encoding"),
        ({"classes": "many"}, "classes"),
        ({"classes": 2.5}, "classes"),
        ({"dtype": "int4"}, "dtype"),
        ({"rotated": True}, "rotated"),
        ({"k": 2}, "labels.k = 2 was set"),
        ({"encoding": "topk"}, "needs labels.k"),
        ({"encoding": "topk", "k": 0}, "labels.k = 0"),
        ({"encoding": "topk", "k": 2, "temperatures": []}, "is no grid"),
        ({"encoding": "topk", "k": 2, "temperatures": ["hot"]}, "temperatures"),
    ],
)
def test_a_job_of_labels_that_make_no_sense_is_refused(
    cache: LabelCache, changed: dict[str, object], message: str
) -> None:
    """As corrupt: a writer of ours never asks for them."""
    broken = with_job(cache, labels={**cache.job.labels, **changed})
    with pytest.raises(
        CorruptError, match=rf"(?s)^{cache.root}: its job describes labels that cannot be read: .*{message}"
    ):
        Reader(samples(), broken)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"encoding": "dense", "classes": CLASSES + 1, "dtype": "float32"}},
        {"labels": {"encoding": "dense", "classes": CLASSES, "dtype": "float16"}},
        {"labels": {"encoding": "dense", "classes": -1, "dtype": "float32"}},
        {"arrays": (*job_for(samples(), DENSE).arrays, ArraySpec("more", "float32", (), 0.5))},
        {"arrays": job_for(samples(), TOPK).arrays},
    ],
)
def test_a_job_whose_arrays_do_not_fit_its_labels_is_refused(cache: LabelCache, change: dict[str, object]) -> None:
    """Sizes and dtypes are checked before a byte is decoded."""
    with pytest.raises(CorruptError, match=r"its job lists other arrays than its dense labels have\. Make it again"):
        label_spec(with_job(cache, **change))


@pytest.mark.parametrize("encoding", ["dense", "topk"])
def test_a_batch_that_is_cut_is_the_batches_of_its_rows(caches: dict[str, LabelCache], encoding: str) -> None:
    """Law: every tensor, and whose rows they are."""
    reader, rows = Reader(samples(), caches[encoding]), np.array([5, 0, 23, 7, 7])
    assert reader.divides
    part, alone = reader.__getitems__(rows).select(slice(1, 4)), reader.__getitems__(rows[1:4])
    assert part.rows.tolist() == alone.rows.tolist() == [0, 23, 7]
    assert torch.equal(part.inputs_NX, alone.inputs_NX)
    assert torch.equal(part.labels_N, alone.labels_N)
    for name, tensor in vars(alone.soft).items():
        found = getattr(part.soft, name)
        assert torch.equal(found, tensor) if isinstance(tensor, torch.Tensor) else found == tensor, name


@pytest.mark.parametrize(("what", "asked"), [("features", {"last": 4}), ("gradients", True)])
def test_batches_that_are_told_more_than_labels_are_not_read_as_one(
    cache: LabelCache, monkeypatch: pytest.MonkeyPatch, what: str, asked: object
) -> None:
    """Law: others' features are drawn by all that is asked for at once, so they would be others."""
    reader = Reader(samples(), cache)
    monkeypatch.setattr(reader, what, asked)
    assert not reader.divides


def test_batches_of_sequences_are_not_read_as_one() -> None:
    """Law: their rows are targets, and where one batch ends among these is not known."""
    assert not Reader(Packed()).divides


def test_batches_that_may_have_to_be_fetched_are_not_read_as_one(
    cache: LabelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: the first of a run does not wait for what the last one needs from a server."""
    monkeypatch.setattr(LabelCache, "may_fetch", property(lambda _: True))
    assert not Reader(samples(), cache).divides
    assert Reader(samples()).divides
