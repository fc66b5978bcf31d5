"""Samples in views: by name, whoever asks; with a cache of all of them, and without."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import CLASSES, DENSE, STEADY, job_for, part_of, samples

from pipeline.audit.answers import stored_log_p
from pipeline.config import Student, TeacherSettings, ViewSettings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import ConfigError, DatasetError, MismatchError
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.order import EpochSampler, ViewOrder
from pipeline.reader import Reader
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher
from pipeline.views import Viewed, viewed

VIEWS = ViewSettings(count=3, seed=5, transform="crop_flip", options={"pixels": 1})
MIXED = ViewSettings(count=2, seed=5, mix="mixup", alpha=0.4)
BOTH = ViewSettings(count=2, transform="crop_flip", mix="cutmix")


class Summing(torch.nn.Module):
    """A teacher whose logits tell one input from another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 3]` of `[N, 1, 4, 4]`."""
        flat = x.flatten(1)
        return torch.stack([flat.sum(1), flat[:, 3] - flat[:, 7], (flat * torch.arange(16)).sum(1)], dim=1) / 1e6


TEACHER = Teacher(
    Summing(), torch.device("cpu"), TeacherSettings(model="own", checkpoint="none", batch_size=5), ViewSettings()
)


def cached(path: Path, views: Viewed, spec: LabelSpec = DENSE) -> LabelCache:
    """A cache of all views, as stage one makes it."""
    labeller = Labeller(views, TEACHER, spec)
    job = job_for(views.dataset, spec).model_copy(update={"view_count": views.settings.count})
    with CacheWriter.open(path, job, {"kornia": "0.0.1"}) as writer:
        for shard in writer.missing():
            writer.commit(shard, labeller.label(labeller.load(shard.start, shard.stop, shard.view)), 0.0)
        writer.seal({})
    return LabelCache.open(path)


@pytest.mark.parametrize("settings", [VIEWS, MIXED, BOTH], ids=["transform", "mix", "both"])
def test_a_view_is_the_same_whoever_asks(settings: ViewSettings) -> None:
    """Law: in any batch, order, thread and copy; of a part of the dataset too, unless another sample is in it."""
    views = Viewed(samples(), settings)
    rows = np.arange(24)
    found = views.inputs(rows, 1)
    assert not np.array_equal(found, views.inputs(rows, 0))
    order = np.array([7, 3, 3, 20])
    np.testing.assert_array_equal(views.inputs(order, 1), found[order])
    mixed_up = views.inputs(order, np.array([1, 0, 1, 0]))
    np.testing.assert_array_equal(mixed_up[[0, 2]], found[[7, 3]])
    np.testing.assert_array_equal(mixed_up[[1, 3]], views.inputs(order, 0)[[1, 3]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(views)).inputs(rows, 1), found)  # noqa: S301 - our own
    if settings.mix is None:
        part = Viewed(part_of(samples(), order[[0, 1, 3]]), settings)
        np.testing.assert_array_equal(part.inputs(np.arange(3), 1), found[order[[0, 1, 3]]])
    views.prove()


def test_without_a_transform_a_sample_is_its_one_view() -> None:
    """Law: nothing is copied or computed, and there is no second one."""
    dataset = samples()
    views = viewed(dataset)
    assert (views.changes, viewed(views), views.labels) == (False, views, dataset.labels)
    np.testing.assert_array_equal(views.inputs(np.array([4, 2])), dataset.inputs(np.array([4, 2])))
    for wrong in (1, -1, np.array([0, 3])):
        with pytest.raises(IndexError, match="of samples that have none but the first"):
            views.inputs(np.array([4, 2]), wrong)


@pytest.mark.parametrize("settings", [VIEWS, MIXED, BOTH], ids=["transform", "mix", "both"])
@pytest.mark.parametrize("spec", [DENSE, LabelSpec("topk", CLASSES, "float32", 2, (1.0,))], ids=["dense", "topk"])
def test_each_view_is_given_its_own_labels(settings: ViewSettings, spec: LabelSpec, tmp_path: Path) -> None:
    """Law: for any rows in any views, by a dataset in any order, they are the teacher's answer to these inputs."""
    order = np.arange(24) if settings.mix else np.random.default_rng(3).permutation(24)[:20]
    cache = cached(tmp_path / "cache", Viewed(samples(), settings), spec)
    reader = Reader(Viewed(part_of(samples(), order), settings), cache)
    wanted = np.random.default_rng(4).permutation(settings.count * len(reader))
    assert reader.cached == wanted.size
    for batch in map(reader.__getitems__, np.array_split(wanted, 7)):
        expected = TEACHER.logits(batch.inputs_NX.numpy())
        assert batch.soft is not None
        log_p_NK, ids_NK = stored_log_p(batch.soft, 1.0)
        torch.testing.assert_close(log_p_NK, expected.log_softmax(1).gather(1, ids_NK), rtol=0, atol=1e-5)
        known = np.full(batch.rows.size, -1) if settings.mix else samples().labels[order][batch.rows]
        assert batch.labels_N.tolist() == known.tolist()


def test_what_is_drawn_of_a_sample_is_drawn_anew_in_each_view(tmp_path: Path) -> None:
    """Law: a sample's labels are drawn by its name, of which the view is a part; those of view 0 as without views."""
    still = ViewSettings(count=3, transform="crop_flip", options={"pixels": 0, "flip": False})
    spec = LabelSpec("multinomial", CLASSES, "float32", 8, (1.0,), seed=4)
    cache = cached(tmp_path / "cache", Viewed(samples(), still), spec)
    counts = [cache.gather(view, np.arange(24), ["counts"])["counts"] for view in range(3)]
    plain = Labeller(samples(), TEACHER, spec)
    np.testing.assert_array_equal(counts[0][:5], plain.label(plain.load(0, 5))["counts"])
    assert not np.array_equal(counts[0], counts[1])
    assert not np.array_equal(counts[1], counts[2])


@pytest.mark.parametrize("changed", ["the seed", "the transform", "the dataset", "no views"])
def test_views_that_are_not_the_teachers_are_refused(changed: str, tmp_path: Path) -> None:
    """Law: with the samples and what may have changed."""
    cache = cached(tmp_path / "cache", Viewed(samples(), VIEWS))
    other = {
        "the seed": lambda: Viewed(samples(), VIEWS.model_copy(update={"seed": 6})),
        "the transform": lambda: Viewed(samples(), VIEWS.model_copy(update={"options": {"pixels": 2}})),
        "the dataset": lambda: Viewed(ArrayDataset(samples().array + 1, samples().ids, samples().labels, 3), VIEWS),
        "no views": samples,
    }[changed]()
    said = (
        "The dataset has changed" if changed == "no views" else "made by views.transform crop_flip: it or the dataset"
    )
    with pytest.raises(MismatchError, match=rf"of the 24 inputs of this batch are not the ones.*{said}"):
        Reader(other, cache).__getitems__(np.arange(24))


def test_another_version_of_the_library_is_named(tmp_path: Path) -> None:
    """Law: which rows, which library, both versions."""
    settings = ViewSettings(transform="kornia.augmentation:RandomRotation", options={"degrees": 30.0})
    cache = cached(tmp_path / "cache", Viewed(samples(), settings))
    newer = Viewed(samples(), settings.model_copy(update={"options": {"degrees": 31.0}}))
    said = rf"sample ids .*RandomRotation with kornia 0\.0\.1, and here is {newer.tools['kornia']}\. If the versions"
    with pytest.raises(MismatchError, match=said):
        Reader(newer, cache).__getitems__(np.arange(24))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (
            {"transform": "own_transforms:complex_views"},
            DatasetError,
            "gave views of dtype complex64, expected numbers",
        ),
        (
            {"transform": "crop_flip", "count": 19, "options": {"pixels": 1, "every": True}},
            ConfigError,
            "views.count = 19, and crop_flip has 18 outcomes .* Set count = 18, or less",
        ),
    ],
)
def test_views_that_cannot_be_are_refused_when_they_are_opened(settings: dict, error: type, said: str) -> None:
    """Law: before the teacher is loaded."""
    with pytest.raises(error, match=said):
        Viewed(samples(), ViewSettings(**settings))


def test_a_transform_that_remembers_is_found_out() -> None:
    """Law: views are made twice at the start."""
    views = Viewed(samples(), ViewSettings(transform="own_transforms:forgetful"))
    with pytest.raises(DatasetError, match=r"forgetful is not deterministic under its seed: view 0 of sample .* made"):
        views.prove()


def test_views_that_change_their_shape_have_the_first_ones() -> None:
    """Law: what a network is built for is the view."""
    images = ArrayDataset(np.random.default_rng(0).integers(0, 256, (6, 3, 10, 12), np.uint8), np.arange(6), None, 3)
    views = Viewed(images, ViewSettings(transform="resized_crop", options={"size": 7}))
    assert (views.input_shape, views.input_dtype, len(views)) == ((3, 7, 7), np.uint8, 6)
    assert views.inputs(np.arange(6)).shape == (6, 3, 7, 7)


def test_views_that_are_not_like_the_first_are_refused() -> None:
    """Law: of one type and shape are all, whatever a batch has by itself."""
    views = Viewed(samples(), ViewSettings(count=2, transform="own_transforms:widening"))
    with pytest.raises(DatasetError, match=r"gave views of float64 and shape .* where the first was float32"):
        views.inputs(np.arange(3), 1)


@STEADY
@given(st.integers(1, 7), st.integers(0, 3))
def test_each_view_is_shown_once_in_as_many_epochs(count: int, turn: int) -> None:
    """Law: in turn or shuffled, of every row; and of as many views as epochs, a new one each."""
    rows = np.arange(20)
    epochs = range(turn * count, (turn + 1) * count)
    for order in (ViewOrder(count), ViewOrder(count, shuffled=True)):
        shown = np.stack([np.broadcast_to(order.views(rows, 3, epoch), rows.shape) for epoch in epochs])
        assert (np.sort(shown, axis=0) == np.arange(count)[:, None]).all()
    assert [ViewOrder().views(rows, 3, epoch) for epoch in epochs] == list(epochs)


def test_a_shuffled_order_is_each_rows_own() -> None:
    """Law: by its name alone, whoever else is asked about; and another one in each turn."""
    order, rows = ViewOrder(6, shuffled=True), np.arange(30)
    first = order.views(rows, 1, 0)
    assert len(set(first.tolist())) > 3
    np.testing.assert_array_equal(order.views(rows[[4, 9]], 1, 0), first[[4, 9]])
    assert not np.array_equal(order.views(rows, 1, 6), first)
    assert not np.array_equal(order.views(rows, 2, 0), first)


@pytest.mark.parametrize("world", [1, 3])
def test_a_sampler_asks_for_the_views_of_its_epoch(world: int) -> None:
    """Law: the rows of an epoch are the same with views and without; view v of row r is v N + r, on any rank."""
    for epoch in range(4):
        parts, plain = [], []
        for rank in range(world):
            sampler = EpochSampler(31, 8, seed=2, rank=rank, world=world, views=ViewOrder(3))
            parts += list(sampler.upcoming(epoch))
            plain += list(EpochSampler(31, 8, seed=2, rank=rank, world=world).upcoming(epoch))
        asked = np.concatenate(parts)
        assert set((asked // 31).tolist()) == {epoch % 3}
        assert (asked % 31).tolist() == np.concatenate(plain).tolist()


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("together", [2, 4])
def test_views_side_by_side_are_of_one_sample(together: int, world: int) -> None:
    """Law: in so many epochs every sample comes once, in as many views, side by side in one batch; steps are the same.

    A walk that begins at any step goes on as one that began at the first.
    """
    order = ViewOrder(8, together=together)
    samplers = [EpochSampler(64, 8, seed=2, rank=rank, world=world, views=order) for rank in range(world)]
    seen = []
    for epoch in range(2 * together):
        parts = [list(sampler.upcoming(epoch)) for sampler in samplers]
        assert [len(part) for part in parts] == [8] * world
        for step in range(8):
            batch = np.concatenate([part[step] for part in parts])
            assert np.unique(batch % 64).size == 8 // together
            assert np.unique(batch).size == 8
            seen.append(batch)
        for later, part in zip(samplers[0].upcoming(epoch, 5), parts[0][5:], strict=True):
            np.testing.assert_array_equal(later, part)
    for turn in range(2):
        shown = np.concatenate(seen[turn * 8 * together : (turn + 1) * 8 * together])
        assert (np.bincount(shown % 64) == together).all()
        assert set((shown // 64).tolist()) == set(range(turn * together, (turn + 1) * together))


def test_a_sample_that_is_there_in_several_views_is_read_once() -> None:
    """Law: whatever it takes to decode it."""
    asked: list[int] = []

    class Watched(ArrayDataset):
        def inputs(self, rows: np.ndarray) -> np.ndarray:
            asked.extend(rows.tolist())
            return super().inputs(rows)

    one = samples()
    views = Viewed(Watched(one.array, one.ids, one.labels, one.classes), VIEWS)
    asked.clear()
    found = views.inputs(np.array([5, 5, 2, 2]), np.array([0, 1, 0, 1]))
    assert sorted(asked) == [2, 5]
    np.testing.assert_array_equal(found[[0, 2]], Viewed(one, VIEWS).inputs(np.array([5, 2]), 0))


def student(**settings: object) -> Student:
    """One that hears the teacher, unless told otherwise."""
    return Student(model="mlp", batch_size=8, **settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ViewOrder(3)),
        ({"views": 2}, ViewOrder(2)),
        ({"view_order": "shuffle", "views_at_once": 2}, ViewOrder(3, shuffled=True, together=2)),
        ({"loss": "hard"}, ViewOrder(None)),
        ({"loss": "hard", "views": 9}, ViewOrder(9)),
    ],
)
def test_a_student_sees_what_is_cached_or_what_is_new(settings: dict, expected: ViewOrder, tmp_path: Path) -> None:
    """Law: who hears the teacher sees cached views, all or as many as asked for; others a new one in each epoch."""
    reader = Reader(Viewed(samples(), VIEWS), cached(tmp_path / "cache", Viewed(samples(), VIEWS)))
    assert reader.views(student(**settings)) == expected


def test_more_views_than_there_are_are_refused(tmp_path: Path) -> None:
    """Law: of a cache, and of samples without a transform."""
    reader = Reader(Viewed(samples(), VIEWS), cached(tmp_path / "cache", Viewed(samples(), VIEWS)))
    for settings in ({"views": 4}, {"views_at_once": 4}):
        with pytest.raises(ConfigError, match=r"4 views of a sample for a student: .*cache has 3. Ask for no more"):
            reader.views(student(**settings))
    with pytest.raises(ConfigError, match="2 views of a sample for a student: without a transform a sample has 1"):
        Reader(samples()).views(student(loss="hard", views=2))
    assert Reader(samples()).views(student(loss="hard")) == ViewOrder(1)
