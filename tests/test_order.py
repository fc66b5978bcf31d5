"""The order of an epoch is a shuffle, the same for any number of workers and ranks, from any step on."""

import pickle
import tracemalloc
from collections.abc import Iterable
from itertools import chain, islice, pairwise
from math import factorial, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY, samples
from torch.utils.data import DataLoader

from pipeline.errors import ConfigError
from pipeline.order import BLOCK_ROWS, EpochSampler, Order, Windows
from pipeline.reader import Batch, Reader, collate
from pipeline.shuffles import Rows, Shuffle

SEEDS = st.integers(0, 2**62)
WORLDS = (1, 2, 4)
CUTS = st.none() | st.tuples(st.integers(1, 9), st.integers(1, 50))
Cut = tuple[int, int] | None


@STEADY
@given(size=st.integers(1, 3000), seed=SEEDS)
def test_a_shuffle_is_a_bijection(size: int, seed: int) -> None:
    """Law: every number below the size comes up once, whatever the size."""
    assert np.array_equal(np.sort(Shuffle(size, seed)(np.arange(size))), np.arange(size))


@STEADY
@given(size=st.integers(1, 2**62), seed=SEEDS, data=st.data())
def test_a_shuffle_answers_each_place_by_itself(size: int, seed: int, data: st.DataObject) -> None:
    """Law: what stands at a place does not depend on what else is asked for, up to sizes that fit no memory."""
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    together = Shuffle(size, seed)(places)
    assert together.tolist() == [Shuffle(size, seed)(places[n : n + 1]).item() for n in range(places.size)]
    assert 0 <= together.min() <= together.max() < size
    assert np.unique(together).size == np.unique(places).size


@pytest.mark.parametrize("size", [2, 3, 4, pytest.param(5, marks=pytest.mark.slow)])
def test_all_orders_come_up_equally_often(size: int) -> None:
    """Law: over many seeds, each of the size! orders: chi-square within four deviations of its mean."""
    orders = factorial(size)
    seen = [Shuffle(size, seed)(np.arange(size)) for seed in range(100 * orders)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert counts.size == orders
    freedom = orders - 1
    assert ((counts - 100) ** 2 / 100).sum() < freedom + 4 * sqrt(2 * freedom)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_do_not_stay_neighbours(seed: int) -> None:
    """Of the 9999 pairs side by side, about 20 are still within ten places in an order of chance; and none lags."""
    shuffled = Shuffle(10_000, seed)(np.arange(10_000))
    assert (np.abs(np.diff(shuffled)) <= 10).sum() < 50
    for lag in (0, 1, 2, 100):
        assert abs(np.corrcoef(shuffled[lag:], np.arange(10_000 - lag))[0, 1]) < 0.05


def test_another_seed_or_epoch_is_another_order() -> None:
    """Law: seed and epoch each count by themselves: (0, 1) and (1, 0) are no more alike than any other two."""
    orders = {tuple(Order(50, seed, epoch).take(0, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@STEADY
@given(length=st.integers(1, 200), seed=SEEDS, epoch=st.integers(0, 1000), data=st.data())
def test_a_part_of_an_epoch_is_a_slice_of_the_whole(length: int, seed: int, epoch: int, data: st.DataObject) -> None:
    """Law: take(a, b) == take(0, length)[a:b], also where only some rows are usable."""
    usable = data.draw(st.none() | st.sets(st.integers(0, length - 1), min_size=1).map(sorted).map(np.array))
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length))
    order = Order(length, seed, epoch, usable)
    assert order.take(start, stop).tolist() == order.take(0, length)[start:stop].tolist()


@STEADY
@given(length=st.integers(1, 200), seed=SEEDS, data=st.data())
def test_usable_rows_come_equally_often(length: int, seed: int, data: st.DataObject) -> None:
    """Law: only they come, each as often as any other or once more, and each turn has an order of its own."""
    usable = np.array(sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1))))
    rows, counts = np.unique(Order(length, seed, 0, usable).take(0, length), return_counts=True)
    assert rows.tolist() == usable.tolist()
    assert counts.max() - counts.min() <= 1


def test_the_turns_of_few_rows_are_not_alike() -> None:
    """Twenty rows in an epoch of a hundred: five orders."""
    turns = Order(100, 0, 0, np.arange(20)).take(0, 100).reshape(5, 20)
    assert len({tuple(turn) for turn in turns}) == 5


def test_an_order_takes_no_memory_that_grows_with_the_dataset() -> None:
    """A hundred rows from the middle of 10^15 take less than a megabyte."""
    tracemalloc.start()
    sampler = EpochSampler(10**15, 100)
    sampler.set_epoch(3, 10**12)
    rows = np.concatenate(list(islice(sampler, 10)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.unique(rows).size == 1000
    assert rows.max() > 10**14
    assert peak < 10 * BLOCK_ROWS * 8 * 16


def joined(lists: Iterable[list[int]]) -> list[int]:
    """One list of all."""
    return list(chain.from_iterable(lists))


@st.composite
def epochs(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Length, batch size, seed and epoch that up to four ranks can share."""
    return draw(st.integers(8, 300)), draw(st.integers(16, 60)), draw(SEEDS), draw(st.integers(0, 100))


def walk(length: int, batch_size: int, seed: int, epoch: int, *, step: int = 0, **how: object) -> list[list[int]]:
    """The rows of each batch of an epoch."""
    sampler = EpochSampler(length, batch_size, seed=seed, **how)
    sampler.set_epoch(epoch, step)
    expected = len(sampler)
    batches = [batch.tolist() for batch in sampler]
    assert len(batches) == expected
    return batches


def windows(cut: Cut, length: int) -> Windows | None:
    """Windows of so many shards of so many rows, if any."""
    return cut and Windows.cut(*cut, length)


def shared(one: tuple[int, int, int, int], world: int, **how: object) -> list[list[list[int]]]:
    """For each step, the shares of the ranks."""
    ranks = [walk(*one, rank=rank, world=world, **how) for rank in range(world)]
    return [list(shares) for shares in zip(*ranks, strict=True)]


@pytest.mark.promise("P13", tries=100, torture=100)
@STEADY
@given(length=st.integers(1, 300), batch_size=st.integers(1, 60), seed=SEEDS)
def test_an_epoch_has_every_sample_once_in_its_order(length: int, batch_size: int, seed: int) -> None:
    """Law: one batch after the other, they are the order of the epoch: no row twice, none left out."""
    batches = walk(length, batch_size, seed, 3)
    assert joined(batches) == Order(length, seed, 3).take(0, length).tolist()
    assert sorted(joined(batches)) == list(range(length))


@STEADY
@given(length=st.integers(1, 300), batch_size=st.integers(1, 60))
def test_batches_are_as_long_as_asked_but_for_the_last_two(length: int, batch_size: int) -> None:
    """Law: a remainder shares the rows of the batch before it; no batch is a single row, which batch norm cannot take.

    Three rows in batches of two are the one case that no cut serves: there the batch is longer by a row.
    """
    sizes = [len(batch) for batch in walk(length, batch_size, 0, 0)]
    assert set(sizes[:-2]) <= {batch_size}
    assert max(sizes) <= batch_size + (batch_size == 2)
    assert len(sizes) in (length // batch_size, -(-length // batch_size))
    assert batch_size == 1 or length == 1 or min(sizes) > 1
    assert len(sizes) == 1 or min(sizes) >= batch_size // 2


@pytest.mark.promise("P13", tries=100, torture=100)
@STEADY
@given(one=epochs(), world=st.sampled_from(WORLDS), cut=CUTS)
def test_ranks_share_the_batches_of_one_process(one: tuple[int, int, int, int], world: int, cut: Cut) -> None:
    """Law: in each step their rows together are the batch of one process; shares differ by a row at most."""
    sampler, how = EpochSampler(*one[:2], world=world), {"windows": windows(cut, one[0])}
    for step, (shares, batch) in enumerate(zip(shared(one, world, **how), walk(*one, **how), strict=True)):
        assert sorted(joined(shares)) == sorted(batch)
        assert sampler.rows(step) == len(batch)
        sizes = [len(share) for share in shares]
        assert world == 1 or min(sizes) >= 2
        assert max(sizes) <= min(sizes) + 1


@STEADY
@given(one=epochs(), world=st.sampled_from(WORLDS), cut=CUTS)
def test_padding_repeats_only_what_equal_shares_need(one: tuple[int, int, int, int], world: int, cut: Cut) -> None:
    """Law: where the ranks divide the batch, all shares of a step are equal, by fewer repeats than there are ranks."""
    length, batch_size, *rest = one
    one = (length, batch_size - batch_size % world, *rest)
    steps = shared(one, world, pad=True, windows=windows(cut, length))
    assert {len({len(share) for share in shares}) for shares in steps} == {1}
    rows, counts = np.unique(joined(joined(shares) for shares in steps), return_counts=True)
    assert rows.tolist() == list(range(length))
    assert sorted(counts)[length - -length % world :] == [2] * (-length % world)
    assert counts.sum() == length + -length % world


@pytest.mark.promise("P13", tries=100, torture=100)
@STEADY
@given(one=epochs(), world=st.sampled_from(WORLDS), cut=CUTS, data=st.data())
def test_an_epoch_goes_on_from_any_step_twice_in_a_row(
    one: tuple[int, int, int, int], world: int, cut: Cut, data: st.DataObject
) -> None:
    """Law: stopped after any step and after any later one, the three parts are the whole."""
    how = {"rank": data.draw(st.integers(0, world - 1)), "world": world, "windows": windows(cut, one[0])}
    whole = walk(*one, **how)
    first = data.draw(st.integers(0, len(whole)))
    second = data.draw(st.integers(first, len(whole)))
    rest = [walk(*one, step=step, **how) for step in (first, second)]
    assert whole[:first] + rest[0][: second - first] + rest[1] == whole


def test_a_step_is_for_one_walk() -> None:
    """After it, the next epoch begins at its beginning, whether or not it was told the epoch."""
    sampler = EpochSampler(100, 10)
    sampler.set_epoch(1, 7)
    assert [len(sampler), len(list(sampler)), len(sampler), len(list(sampler))] == [3, 3, 10, 10]


@pytest.mark.parametrize("cut", [None, (2, 5000)])
def test_a_block_of_steps_is_invisible(cut: Cut) -> None:
    """Law: batches that begin in a block are those of the whole order, wherever blocks are cut."""
    length, batch_size = 3 * BLOCK_ROWS + 17, 1000
    how = {"windows": windows(cut, length)}
    batches = walk(length, batch_size, 5, 2, **how)
    assert joined(batches) == Order(length, 5, 2, **how).take(0, length).tolist()
    assert walk(length, batch_size, 5, 2, step=20, **how) == batches[20:]


@pytest.mark.parametrize(
    ("length", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (10, 4, [4, 3, 3]),
        (9, 4, [4, 3, 2]),
        (3, 1, [1, 1, 1]),
        (5, 2, [3, 2]),
        (3, 100, [3]),
        (1, 8, [1]),
    ],
)
def test_a_remainder_shares_the_batch_before(length: int, batch_size: int, sizes: list[int]) -> None:
    """Cases of the law above that can be looked at."""
    assert [len(batch) for batch in walk(length, batch_size, 0, 0)] == sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "world": 2}, r"^rank 2 of 2: expected 0 to 1\. Pass the process's own rank\.$"),
        ({"rank": -1, "world": 2}, r"^rank -1 of 2: expected 0 to 1"),
        ({"world": 0}, r"^rank 0 of 0"),
        (
            {"batch_size": 7, "world": 4},
            r"^10 rows in batches of 7 cannot be shared among 4 ranks: expected at least two rows a rank .*Set",
        ),
        ({"length": 7, "world": 4}, r"^7 rows in batches of 8 cannot be shared among 4 ranks.*or use fewer\.$"),
        ({"length": 0}, r"^0 rows in batches of 8 cannot be shared among 1 ranks"),
        ({"batch_size": 0}, r"^10 rows in batches of 0 cannot be shared among 1 ranks"),
        ({"batch_size": 9, "world": 2, "pad": True}, r"^10 rows in batches of 9 .* to pad, .* a multiple of the ranks"),
    ],
)
def test_what_cannot_be_shared_is_refused(arguments: dict[str, int], message: str) -> None:
    """Before the first step, and with what to do about it."""
    with pytest.raises(ConfigError, match=message):
        EpochSampler(**{"length": 10, "batch_size": 8, **arguments})


@pytest.mark.parametrize("cut", [None, (2, 7)])
def test_a_sampler_survives_a_pickle(cut: Cut) -> None:
    """With all it was told: what comes out walks the same rows."""
    sampler = EpochSampler(50, 8, seed=3, rank=1, world=2, usable=np.arange(0, 50, 3), windows=windows(cut, 50))
    sampler.set_epoch(4, 2)
    again: EpochSampler = pickle.loads(pickle.dumps(sampler))  # noqa: S301 - pickled on this very line
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in sampler]


def loaded(sampler: EpochSampler, workers: int) -> list[Rows]:
    """The rows of each batch that a loader over a reader gives."""
    loader: DataLoader[Batch] = DataLoader(
        Reader(samples(50)), batch_sampler=sampler, num_workers=workers, collate_fn=collate
    )
    return [batch.rows for batch in loader]


# From Python 3.12 on a fork beside other libraries' threads warns; a reader holds no lock of theirs. And torch warns of
# more workers than there are cores, which only take their time.
forks = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning", "ignore:This DataLoader will create:UserWarning"
)


@pytest.mark.promise("P13")
@forks
@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("world", WORLDS)
def test_any_number_of_workers_and_ranks_gives_one_global_order(workers: int, world: int) -> None:
    """Law: through a DataLoader, what the ranks see together in each step is what one process sees by itself."""
    ranks = [EpochSampler(50, 16, seed=3, rank=rank, world=world) for rank in range(world)]
    for epoch in range(2):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        steps = zip(*(loaded(sampler, workers) for sampler in ranks), strict=True)
        alone = walk(50, 16, 3, epoch)
        assert [[share.tolist() for share in shares] for shares in steps] == [
            [batch[rank::world] for rank in range(world)] for batch in alone
        ]


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(workers: int) -> None:
    """Law: stopped twice, with batches loaded ahead that no one took, the parts are the whole epoch."""
    sampler = EpochSampler(50, 8, seed=1)
    sampler.set_epoch(2)
    whole = np.concatenate(loaded(sampler, workers))
    stops = (0, 2, 3, sampler.steps)
    seen: list[Rows] = []
    for begun, stopped in pairwise(stops):
        sampler.set_epoch(2, begun)
        loader = DataLoader(Reader(samples(50)), batch_sampler=sampler, num_workers=workers, collate_fn=collate)
        seen += [batch.rows for batch in islice(loader, stopped - begun)]
    assert np.concatenate(seen).tolist() == whole.tolist()


@pytest.mark.parametrize("step", [-1, 4])
def test_an_epoch_has_no_step_beyond_its_last(step: int) -> None:
    """A state of another sampler is refused, rather than an epoch of less than nothing."""
    with pytest.raises(ConfigError, match=rf"^step {step} of an epoch of 3\. Go on from one that it has\.$"):
        EpochSampler(10, 4).set_epoch(0, step)


def test_a_turn_is_another_shuffle_and_few_rows_take_many_turns_at_once() -> None:
    """Law: rows shown again and again come in a new order each time, all 24 of four rows equally often."""
    turns = np.array([Order(4 * 24_000, 1, 0, np.arange(4)).take(4 * n, 4 * n + 4) for n in range(100)])
    assert (np.sort(turns, axis=1) == np.arange(4)).all()
    rows = Order(4 * 24_000, 1, 0, np.arange(4)).take(0, 4 * 24_000).reshape(-1, 4)
    np.testing.assert_array_equal(rows[:100], turns)
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-square with 23 degrees of freedom: 49.7 at p = 0.001
