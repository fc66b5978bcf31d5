"""A shuffle within windows keeps an epoch to a few shards at a time, and is otherwise an order like any other."""

import tracemalloc
from collections import Counter, defaultdict
from itertools import chain, islice, pairwise, permutations, product
from math import factorial, prod, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY, part_of, samples, write_cache

from pipeline.errors import ConfigError
from pipeline.order import EpochSampler, Order, Windows
from pipeline.reader import Reader
from pipeline.shuffles import Rows, WindowShuffle

SEEDS = st.integers(0, 2**62)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Windows, Rows]:
    """Windows over the rows of a dataset, in the cache's order, in another, or but a part of it; and their shards."""
    length, shard_rows, shards = draw(st.integers(1, 200)), draw(st.integers(1, 60)), draw(st.integers(1, 12))
    if draw(st.booleans()):
        return Windows.cut(shards, shard_rows, length), np.arange(length) // shard_rows
    held = draw(st.integers(length, 2 * length))
    places = np.random.default_rng(draw(SEEDS)).permutation(held)[:length]
    return Windows.cut(shards, shard_rows, length, places), places // shard_rows


def some_of(length: int) -> st.SearchStrategy[Rows]:
    """A few usable rows."""
    return st.sets(st.integers(0, length - 1), min_size=1).map(sorted).map(np.array)


def open_at_once(shards: Rows) -> int:
    """The most shards that are begun and not done, at any place of an order."""
    begun, done = (np.unique(line, return_index=True)[1] for line in (shards, shards[::-1]))
    changes = np.zeros(shards.size + 1, np.int64)
    np.add.at(changes, begun, 1)
    np.add.at(changes, shards.size - done, -1)
    return int(np.cumsum(changes).max())


@STEADY
@given(cut=cuts(), seed=SEEDS, epoch=st.integers(0, 1000))
def test_a_windowed_epoch_has_every_row_once(cut: tuple[Windows, Rows], seed: int, epoch: int) -> None:
    """Law: whatever the size, the shards, the windows and the order of the cache."""
    windows, shards = cut
    rows = Order(shards.size, seed, epoch, windows=windows).take(0, shards.size)
    assert np.array_equal(np.sort(rows), np.arange(shards.size))


@STEADY
@given(cut=cuts(), seed=SEEDS, epoch=st.integers(0, 1000))
def test_no_more_shards_are_open_at_once_than_a_window_has(cut: tuple[Windows, Rows], seed: int, epoch: int) -> None:
    """Law: at each place of an epoch, at most so many shards are begun and not done."""
    windows, shards = cut
    rows = Order(shards.size, seed, epoch, windows=windows).take(0, shards.size)
    assert open_at_once(shards[rows]) <= windows.shards


@STEADY
@given(cut=cuts(), seed=SEEDS, data=st.data())
def test_a_part_of_a_windowed_epoch_is_a_slice_of_the_whole(
    cut: tuple[Windows, Rows], seed: int, data: st.DataObject
) -> None:
    """Law: take(a, b) == take(0, length)[a:b], also where only some rows are usable, and in an epoch of many turns."""
    windows, shards = cut
    usable = data.draw(st.none() | some_of(shards.size))
    length = data.draw(st.sampled_from([shards.size, 3 * shards.size]))
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    order = Order(length, seed, 2, usable, windows)
    assert order.take(start, stop).tolist() == order.take(0, length)[start:stop].tolist()


@STEADY
@given(cut=cuts(), seed=SEEDS, data=st.data())
def test_usable_rows_go_round_in_windows(cut: tuple[Windows, Rows], seed: int, data: st.DataObject) -> None:
    """Law: only they come, each once a turn, and no more shards are open at once than a window has."""
    windows, shards = cut
    usable = data.draw(some_of(shards.size))
    rows = Order(3 * usable.size, seed, 0, usable, windows).take(0, 3 * usable.size).reshape(3, -1)
    assert (np.sort(rows, axis=1) == usable).all()
    assert max(open_at_once(shards[turn]) for turn in rows) <= windows.shards


def test_the_turns_of_few_rows_have_orders_of_their_own() -> None:
    """Twenty rows of ten shards in an epoch of a hundred: five orders, of shards as of rows."""
    order = Order(100, 0, 0, np.arange(0, 40, 2), Windows.cut(1, 4, 40))
    turns = order.take(0, 100).reshape(5, 20)
    assert len({tuple(turn) for turn in turns}) == len({tuple(turn[::2] // 4) for turn in turns}) == 5


def test_another_seed_or_epoch_is_another_order_of_shards_and_of_rows() -> None:
    """Law: seed and epoch each count by themselves, and a window is shuffled as no other is."""
    rows = [
        Order(80, seed, epoch, windows=Windows.cut(1, 8, 80)).take(0, 80) for seed in range(5) for epoch in range(5)
    ]
    assert len({tuple(each[::8] // 8) for each in rows}) == 25
    assert len({tuple(window) for each in rows for window in each.reshape(10, 8) % 8}) > 245


def chances(bounds: list[int], window: int) -> dict[tuple[int, ...], float]:
    """How likely each order is: all orders of the blocks alike, and for each of them all those of its windows' rows."""
    blocks = [range(start, stop) for start, stop in pairwise(bounds)]
    many = -(-len(blocks) // window)
    cuts = [number * len(blocks) // many for number in range(many + 1)]
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for order in permutations(blocks):
        within = [list(permutations(chain.from_iterable(order[start:stop]))) for start, stop in pairwise(cuts)]
        chance = 1 / factorial(len(blocks)) / prod(map(len, within))
        for rows in product(*within):
            found[tuple(chain.from_iterable(rows))] += chance
    return found


@pytest.mark.parametrize("by_turns", [False, True])
@pytest.mark.parametrize(
    ("bounds", "window"),
    [([0, 2, 4], 1), ([0, 2, 3], 1), ([0, 1, 2, 4], 2), ([0, 1, 2, 3], 2), ([0, 2, 4], 2), ([0, 1, 4], 9), ([0, 3], 1)],
)
def test_all_orders_that_windows_allow_come_up_as_often_as_they_should(
    bounds: list[int], window: int, by_turns: bool
) -> None:
    """Law: over many seeds, and over many turns of one: chi-square within six deviations of its mean."""
    expected = chances(bounds, window)
    size, tries = bounds[-1], 100 * len(expected)
    if by_turns:
        places, turns = np.tile(np.arange(size), tries), np.repeat(np.arange(tries), size)
        seen = WindowShuffle(np.array(bounds), window, 1)(places, turns).reshape(tries, size)
    else:
        seen = np.array([WindowShuffle(np.array(bounds), window, seed)(np.arange(size)) for seed in range(tries)])
    found = Counter(map(tuple, seen.tolist()))
    assert found.keys() <= expected.keys()
    freedom = len(expected) - 1
    distance = sum((found[order] - tries * chance) ** 2 / (tries * chance) for order, chance in expected.items())
    assert distance < freedom + 6 * sqrt(2 * freedom)


@pytest.mark.parametrize("shards", [10, 64])
def test_one_window_is_a_shuffle_of_all_rows(shards: int) -> None:
    """Law: with room for all shards, neighbours and shards are parted as in an order of chance, and no row lags."""
    rows = Order(10_000, 3, 0, windows=Windows.cut(shards, 1000, 10_000)).take(0, 10_000)
    assert (np.abs(np.diff(rows)) <= 10).sum() < 50
    assert np.abs(np.diff(rows // 1000) == 0).mean() == pytest.approx(0.1, abs=0.02)
    for lag in (0, 1, 2, 100):
        assert abs(np.corrcoef(rows[lag:], np.arange(10_000 - lag))[0, 1]) < 0.05


@pytest.mark.parametrize(("blocks", "window"), [(65, 64), (7, 3), (6, 3), (5, 4), (3, 1)])
def test_windows_are_as_even_as_can_be(blocks: int, window: int) -> None:
    """Law: as few windows as will do, which differ by a shard at most: none at the end mixes hardly anything."""
    rows = WindowShuffle(np.arange(0, 100 * blocks + 1, 100), window, seed=5)(np.arange(100 * blocks)) // 100
    many = -(-blocks // window)
    begins = [100 * (number * blocks // many) for number in range(1, many)]
    held = [np.unique(each).size for each in np.split(rows, begins)]
    assert sum(held) == blocks
    assert max(held) <= min(window, min(held) + 1)


def test_windows_take_memory_for_shards_and_not_for_rows() -> None:
    """A hundred rows from the middle of 10^13 in ten thousand shards take less than two megabytes."""
    windows = Windows.cut(4, 10**9, 10**13)
    tracemalloc.start()
    rows = Order(10**13, 1, 5, windows=windows).take(10**12, 10**12 + 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.unique(rows).size == 100
    assert np.unique(rows // 10**9).size <= 4
    assert peak < 2 * 10**6


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Every third sample of a cache of shards of eight, the last one first."""
    return Reader(part_of(samples(), np.arange(23, 0, -3)), write_cache(tmp_path / "cache", samples()))


def test_a_reader_knows_which_of_its_rows_share_a_shard(reader: Reader) -> None:
    """Law: windows are of the cache's shards, in whatever order the dataset has the samples, and of whatever part."""
    rows = Order(len(reader), 0, 0, windows=reader.windows(1)).take(0, len(reader))
    shards = np.arange(23, 0, -3)[rows] // 8
    assert open_at_once(shards) == 1
    assert sorted(shards) == [0, 0, 1, 1, 1, 2, 2, 2]


def test_without_a_cache_there_are_no_windows() -> None:
    """Refused, for a dataset has no shards of its own."""
    with pytest.raises(ConfigError, match=r"^window = 4: windows are of shards of a label cache.* shuffle over all"):
        Reader(samples()).windows(4)


def test_windows_have_one_digest_for_one_order() -> None:
    """Law: the same cut again has the same; other shards, other places or fewer rows have another each."""
    reversed_ = np.arange(24)[::-1]
    given = [(2, 8, 24), (3, 8, 24), (2, 6, 24), (2, 8, 23), (2, 8, 24, reversed_), (2, 8, 24, reversed_ // 2 * 4)]
    kinds = [Windows.cut(*each) for each in given]
    digests = [windows.digest for windows in [*kinds, kinds[0].among(np.arange(1, 24))]]
    assert len(set(digests)) == len(digests)
    assert digests[: len(given)] == [Windows.cut(*each).digest for each in given]


@STEADY
@given(cut=cuts(), world=st.sampled_from([1, 2, 4]), data=st.data())
def test_what_is_upcoming_is_what_will_be_walked(cut: tuple[Windows, Rows], world: int, data: st.DataObject) -> None:
    """Law: before, in the midst of and after a walk, the batches of any epoch from any step on; it disturbs none."""
    windows, shards = cut
    length, rank = 16 + shards.size, data.draw(st.integers(0, world - 1))
    sampler = EpochSampler(length, 16, seed=1, rank=rank, world=world, windows=windows)
    step = data.draw(st.integers(0, sampler.steps))
    sampler.set_epoch(3, step)
    before = [batch.tolist() for batch in sampler.upcoming(3, step)]
    walk = iter(sampler)
    walked = [batch.tolist() for batch in islice(walk, 1)]
    between = [batch.tolist() for batch in sampler.upcoming(3, step)]
    other = [batch.tolist() for batch in sampler.upcoming(4)]
    walked += [batch.tolist() for batch in walk]
    assert before == between == walked == [batch.tolist() for batch in sampler.upcoming(3, step)]
    sampler.set_epoch(4)
    assert [batch.tolist() for batch in sampler] == other
