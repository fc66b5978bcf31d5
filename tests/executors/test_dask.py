"""Whatever becomes of workers: each shard is done or set aside with its causes, and no worker is at more than two."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.errors import IncompleteError
from pipeline.executors import EXECUTORS
from pipeline.executors.dask import Done, Failed, Gone, Joined, Left, News, run_dask
from pipeline.executors.rota import FAILURES, HOPELESS, IN_FLIGHT
from pipeline.store.layout import Layout, Shard


@dataclass
class Town:
    """Workers of no cluster, whose fates are drawn: what is good, raises or kills is known by its number."""

    dice: random.Random
    workers: int = 2
    raising: dict[int, int] = field(default_factory=dict)  # how often
    deadly: set[int] = field(default_factory=set)
    holes: set[str] = field(default_factory=set)  # workers at which everything raises
    unrest: float = 0.0  # how often a worker dies, leaves or comes for no reason
    most: int = 4
    at: dict[str, list[int]] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)
    came: int = 0
    lost: int = 0

    def ask(self, worker: str, number: int, attempt: int) -> None:
        """A shard goes to a worker that is there, beside one other at most, and to no second one."""
        assert attempt == 7
        assert number not in [each for held in self.at.values() for each in held]
        self.asked.append((worker, number))
        self.at[worker].append(number)
        assert len(self.at[worker]) <= IN_FLIGHT
        assert len(self.at[worker]) == 1 or not self.suspects & set(self.at[worker])

    def recall(self, number: int) -> None:
        """Only what a worker that is gone was at."""
        assert number not in [each for held in self.at.values() for each in held]

    def news(self, seconds: float) -> Iterator[News]:
        """One thing that happens."""
        assert seconds > 0
        busy = [worker for worker, held in self.at.items() if held]
        if len(self.at) < self.workers or (len(self.at) < self.most and self.dice.random() < self.unrest):
            yield self._comes()
        elif self.dice.random() < self.unrest and len(self.at) > 1:
            yield self._goes(self.dice.choice(list(self.at)), expected=self.dice.random() < 0.5)
        elif busy:
            worker = self.dice.choice(busy)
            yield self._ends(worker, self.dice.choice(self.at[worker]))

    def _comes(self) -> News:
        self.came += 1
        self.at[f"worker-{self.came}"] = []
        return Joined(f"worker-{self.came}")

    def _goes(self, worker: str, *, expected: bool) -> News:
        held = self.at.pop(worker)
        self.lost += len(held)
        self.suspects |= set(held) if not expected else set()
        return Left(worker, expected)

    def _ends(self, worker: str, number: int) -> News:
        if number in self.deadly:
            return self._goes(worker, expected=False)
        self.at[worker].remove(number)
        if worker in self.holes or self.raising.get(number, 0) > 0:
            self.raising[number] = self.raising.get(number, 0) - 1
            self.suspects.discard(number)
            return Failed(number, f"DatasetError on {worker}: no row of {number}.")
        return Done(number)

    def run(self, plan: list[Shard], shards: int | None = None) -> int:
        """The rows done, where the plan is run to its end."""
        rows = 0

        def progress(more: int) -> None:
            nonlocal rows
            rows += more

        assert run_dask(plan, self, attempt=7, shards=shards or len(plan), stopped=lambda: False, progress=progress)
        return rows


def plan_of(shards: int) -> list[Shard]:
    """So many shards of three rows."""
    return list(Layout(3 * shards, 1, 3, 1).all_shards()) if shards else []


DICE = st.integers(0, 2**32).map(random.Random)


@STEADY
@given(DICE, st.integers(0, 30), st.integers(1, 5))
def test_every_shard_is_done_once_where_all_is_well(dice: random.Random, shards: int, workers: int) -> None:
    """Law: no shard is asked for twice, and every row is told."""
    town = Town(dice, workers=workers, most=workers)
    assert town.run(plan_of(shards)) == 3 * shards
    assert sorted(number for _, number in town.asked) == list(range(shards))


@STEADY
@given(DICE, st.integers(1, 30), st.integers(1, 4))
def test_a_failure_or_two_cost_no_shard(dice: random.Random, shards: int, workers: int) -> None:
    """Law: what raises up to twice is made all the same; at another worker, if there is one."""
    raising = {number: dice.randrange(FAILURES) for number in range(shards)}
    town = Town(dice, workers=workers, most=workers, raising=dict(raising))
    assert town.run(plan_of(shards)) == 3 * shards
    for number, times in raising.items():
        asked = [worker for worker, each in town.asked if each == number]
        assert len(asked) == times + 1
        assert len(set(asked)) == min(times + 1, workers)


@STEADY
@given(DICE, st.integers(6, 30), st.integers(1, 4), st.data())
def test_poison_is_set_aside_and_the_rest_is_done(
    dice: random.Random, shards: int, workers: int, data: st.DataObject
) -> None:
    """Law: what raises or kills each time is tried three times, named with its cause, and harms no other shard."""
    bad = data.draw(st.sets(st.integers(0, shards - 1), min_size=1, max_size=4))
    deadly = {number for number in bad if dice.random() < 0.5}
    town = Town(dice, workers=workers, most=workers, raising=dict.fromkeys(bad - deadly, 99), deadly=deadly)
    with pytest.raises(IncompleteError) as met:
        town.run(plan_of(shards), shards + 1)
    said = str(met.value)
    assert f"{len(bad)} of {shards + 1} shards were set aside, each after 3 failures" in said
    assert f" {shards + 1 - len(bad)} of {shards + 1} shards are done and kept. Mend what they name" in said
    for number in range(shards):
        times = [each for _, each in town.asked].count(number)
        rows = f"shard {number} (rows {3 * number} to {3 * number + 2}): "
        assert (rows in said) == (number in bad)
        assert number in deadly or times >= (FAILURES if number in bad else 1)
        assert times <= FAILURES + len(deadly) * (FAILURES + 1)
    assert all(f"no row of {number}" in said for number in bad - deadly)
    assert not deadly or "ended while it was at this shard alone" in said


@STEADY
@given(DICE, st.integers(1, 40))
def test_workers_that_come_and_go_lose_no_shard(dice: random.Random, shards: int) -> None:
    """Law: a shard is done, or it is named, and then three deaths met it alone."""
    town = Town(dice, unrest=0.2)
    said = ""
    try:
        assert town.run(plan_of(shards), shards + 1) == 3 * shards
    except IncompleteError as error:
        said = str(error)
    assert said.count("ended while it was at this shard alone") <= town.lost / FAILURES
    assert {number for _, number in town.asked} == set(range(shards))


@STEADY
@given(DICE, st.integers(4, 40), st.integers(3, 5))
def test_a_worker_at_which_all_fails_costs_no_shard(dice: random.Random, shards: int, workers: int) -> None:
    """Law: a machine without the dataset, or with a broken GPU, spoils each shard once at most."""
    town = Town(dice, workers=workers, most=workers, holes={"worker-1"})
    assert town.run(plan_of(shards)) == 3 * shards
    spoilt = [number for worker, number in town.asked if worker == "worker-1"]
    assert len(spoilt) == len(set(spoilt))


def test_where_nothing_can_be_made_the_rest_is_given_up() -> None:
    """Law: three shards set aside and none done: the cause is a common one, and a plan of millions is not tried."""
    town = Town(random.Random(0), raising=dict.fromkeys(range(1000), 99))  # noqa: S311 - chance, not a secret
    with pytest.raises(IncompleteError, match="None could be made, so the other 997 were given up"):
        town.run(plan_of(1000))
    assert len(town.asked) <= (HOPELESS + 2 * IN_FLIGHT) * FAILURES


def test_where_others_were_made_before_each_is_tried() -> None:
    """Law: what earlier runs set aside does not hide the rest from this one."""
    town = Town(random.Random(0), raising=dict.fromkeys(range(10), 99))  # noqa: S311 - chance, not a secret
    with pytest.raises(IncompleteError, match=r"10 of 99 shards were set aside.*89 of 99 shards are done and kept"):
        town.run(plan_of(10), 99)


def test_of_many_causes_some_are_named() -> None:
    """Law: ten, and how many more there are."""
    town = Town(random.Random(0), raising=dict.fromkeys(range(15), 99))  # noqa: S311 - chance, not a secret
    with pytest.raises(IncompleteError, match=r"shard 9 .*; and 5 more") as met:
        town.run(plan_of(15), 99)
    assert str(met.value).count("DatasetError on worker-") == 10


class Silent(Town):
    """Where no worker ever comes."""

    def news(self, seconds: float) -> Iterator[News]:  # noqa: ARG002 - as Town's
        """Nothing."""
        return iter(())


def test_a_run_without_workers_ends_when_patience_does() -> None:
    """Law: exit code 4, since what is done is kept."""
    with pytest.raises(IncompleteError, match=r"no worker for 0 s\. 2 of 5 shards are done and kept\. See why") as met:
        run_dask(
            plan_of(3),
            Silent(random.Random(0)),  # noqa: S311 - chance, not a secret
            attempt=7,
            shards=5,
            stopped=lambda: False,
            progress=lambda _: None,
            patience=0.0,
        )
    assert met.value.exit_code == 4


class Doomed(Town):
    """Whose scheduler dies after four shards."""

    def news(self, seconds: float) -> Iterator[News]:
        """As Town's, until then."""
        if len(self.asked) > 4:
            yield Gone("tcp://10.0.0.1:8786")
        else:
            yield from super().news(seconds)


def test_a_scheduler_that_is_gone_ends_the_run() -> None:
    """Law: exit code 4, with how much is kept and how to go on."""
    with pytest.raises(
        IncompleteError, match=r"at tcp://10.0.0.1:8786 is gone. At least \d+ of 20 shards are done and kept. Run"
    ):
        Doomed(random.Random(0)).run(plan_of(9), 20)  # noqa: S311 - chance, not a secret


def test_a_request_to_stop_ends_the_run_at_once() -> None:
    """Law: False, and nothing more is asked for."""
    town, count = Town(random.Random(0)), iter(range(100))  # noqa: S311 - chance, not a secret
    assert not run_dask(
        plan_of(50), town, attempt=7, shards=50, stopped=lambda: next(count) > 9, progress=lambda _: None
    )
    assert 0 < len(town.asked) < 20


class Late(Town):
    """Where a shard that was given up for lost has its receipt all the same, and each end is told twice."""

    given_up: tuple[int, ...] = ()

    def news(self, seconds: float) -> Iterator[News]:
        """As Town's, and what is late."""
        for news in super().news(seconds):
            yield news
            yield from [news] * isinstance(news, Done)
            yield from map(Done, self.given_up)
            self.given_up = ()

    def _goes(self, worker: str, *, expected: bool) -> News:
        self.given_up = tuple(self.at[worker])
        return super()._goes(worker, expected=expected)


@STEADY
@given(DICE, st.integers(1, 30))
def test_what_is_told_twice_is_counted_once(dice: random.Random, shards: int) -> None:
    """Law: the rows that are told are those that there are."""
    assert Late(dice, unrest=0.2).run(plan_of(shards)) == 3 * shards


def test_the_executor_of_a_cluster_is_in_the_table() -> None:
    """The stages ask for it by name."""
    assert EXECUTORS["dask"] is run_dask
