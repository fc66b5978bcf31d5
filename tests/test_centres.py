"""K-means over rows that are read in batches."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline import centres
from pipeline.centres import BATCH, FARTHEST, SAMPLE, Centres, Samples, blocks, fit
from pipeline.contingency import Contingency
from pipeline.seeds import generator


def blobs(clusters: int, rows: int, seed: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows of balls far from each other, of deviation 1, one ball after the other; and whose they are."""
    random = generator("blobs", seed)
    middles = 40 * random.permutation(np.eye(max(clusters, width)))[:clusters, :width] + 100
    middles += 20 * random.normal(size=middles.shape)
    of = np.sort(np.arange(rows) % clusters)
    return (middles[of] + random.normal(size=(rows, width))).astype(np.float32), of


def samples(rows_ND: np.ndarray) -> Samples:
    """Rows in memory."""
    return Samples(lambda places: rows_ND[places], *rows_ND.shape)


def found(rows_ND: np.ndarray, clusters: int, seed: int = 0, passes: int = 4) -> Centres:
    """Their centres."""
    return fit(samples(rows_ND), clusters, seed=seed, passes=passes, each=lambda _: None)


@pytest.mark.parametrize(("clusters", "rows"), [(2, 40), (6, 300), (6, 5000)])
@pytest.mark.parametrize("seed", range(3))
def test_balls_far_from_each_other_are_found(clusters: int, rows: int, seed: int) -> None:
    """Law: also where they come one after the other; and the variance is that of a ball in one direction."""
    rows_ND, of = blobs(clusters, rows, seed)
    means, pairs = found(rows_ND, clusters, seed), Contingency()
    pairs.update(of, means.squares(rows_ND).argmin(axis=1))
    assert pairs.nmi == 1
    assert means.variance == pytest.approx(1, rel=0.35 if rows < 100 else 0.1)


def test_a_seed_decides_every_bit() -> None:
    """Law: the same again, and another of another seed."""
    rows_ND, _ = blobs(5, 2500, 0)
    one, again, other = (found(rows_ND, 7, seed) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert one.centres_KD.tobytes() == again.centres_KD.tobytes()
    assert replace(one, variance=2 * one.variance).digest != one.digest


@STEADY
@given(st.integers(1, 5000), st.integers(2, 3000), st.integers(0, 9))
def test_a_pass_reads_every_row_once_and_a_batch_at_a_time(count: int, clusters: int, seed: int) -> None:
    """Law: the first batch has a row for each cluster, or all there are; none has more than a step's and two runs."""
    read = list(Samples(lambda places: places, count, 1).batches(clusters, seed))
    assert np.array_equal(np.sort(np.concatenate(read)), np.arange(count))
    assert min(count, clusters) <= read[0].size
    assert max(map(len, read)) <= max(BATCH, clusters + 32)
    cut = list(blocks(count, clusters))
    assert np.array_equal(np.concatenate(cut), np.arange(count))


def test_memory_is_that_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: of whatever many rows, no more are asked for at a time, and not one is held in two batches."""
    monkeypatch.setattr(centres, "ROOM", 16_000)
    rows_ND, asked = blobs(4, 30_000, 0, width=4)[0], []

    def read(places: np.ndarray) -> np.ndarray:
        asked.append(places.size)
        return rows_ND[places]

    fit(Samples(read, *rows_ND.shape), 4, seed=0, passes=2, each=lambda _: None)
    assert max(asked) <= max(BATCH, 16_000 // 8)
    assert sum(asked) <= 3 * len(rows_ND) + SAMPLE * BATCH


@STEADY
@given(st.integers(2, 9), st.floats(0.05, 50), st.integers(0, 99))
def test_assignments_are_the_posterior_of_equal_balls(clusters: int, temperature: float, seed: int) -> None:
    """Law: softmax of minus squared distances over 2 s^2 T; the nearest centre has 0, the most."""
    random = generator("assignments", seed)
    means = Centres(*(random.normal(size=shape).astype(np.float32) for shape in (3, (clusters, 3))), variance=0.7)
    rows_ND = random.normal(size=(5, 3)).astype(np.float32)
    logits_NK = means.logits(rows_ND, temperature)
    squares_NK = ((rows_ND[:, None].astype(np.float64) - means.origin_D - means.centres_KD) ** 2).sum(axis=2)
    np.testing.assert_allclose(means.squares(rows_ND), squares_NK, rtol=1e-9, atol=1e-9)
    density_NK = np.exp(-(squares_NK - squares_NK.min(axis=1, keepdims=True)) / (2 * 0.7 * temperature))
    softmax_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax_NK, density_NK / density_NK.sum(axis=1, keepdims=True), atol=1e-9)
    assert (logits_NK.max(axis=1) == 0).all()
    assert np.array_equal(logits_NK.argmax(axis=1), squares_NK.argmin(axis=1))


def test_rows_that_are_their_centres_are_sure_of_them() -> None:
    """Law: no distance, no variance, and still numbers that float16 holds; equal rows are of one cluster."""
    rows_ND = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    means = found(rows_ND, 4)
    logits_NK = means.logits(rows_ND, 1.0)
    assert means.variance == pytest.approx(0, abs=1e-12)
    assert ((logits_NK == 0).sum(axis=1) == 1).all()
    assert logits_NK.min() == FARTHEST
    assert np.isfinite(logits_NK.astype(np.float16)).all()
    assert found(rows_ND[:2], 2).centres_KD.shape == (2, 4)


def test_more_clusters_than_distinct_rows_leave_some_empty() -> None:
    """Law: of four distinct rows, twelve clusters are made all the same."""
    rows_ND = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    means = found(rows_ND, 12)
    assert np.isfinite(means.centres_KD).all()
    assert np.unique(means.squares(rows_ND).argmin(axis=1)).size == 4


def test_what_counts_rows_may_end_it() -> None:
    """Law: it is told of every row of every pass and of the last, and what it raises ends the fit."""
    rows_ND, told = blobs(3, 2000, 0)[0], []
    fit(samples(rows_ND), 3, seed=0, passes=2, each=told.append)
    assert sum(told) == 3 * len(rows_ND)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(samples(rows_ND), 3, seed=0, passes=2, each=stop)
