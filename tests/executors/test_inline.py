"""However slow a thread and wherever the end: whole shards, in order, each its own rows, and no error lost."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.errors import DatasetError
from pipeline.executors import EXECUTORS
from pipeline.executors.inline import LATE, cuts, run_inline
from pipeline.store.layout import Layout, Shard

Block = dict[str, np.ndarray]
Rows = tuple[int, int]


class BrokenError(Exception):
    """What a part of the machinery fails with."""


@dataclass
class Machine:
    """A labeller and a writer that keep count of all that is asked of them, and may fail.

    `fails` says at which call of a kind ("launch", "result", "commit"), or for "load" at which start of a batch.
    """

    batch_size: int
    late: bool = True  # as on a GPU
    fails: dict[str, int] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    loaded: list[Rows] = field(default_factory=list)
    launched: list[Rows] = field(default_factory=list)
    fetched: list[Rows] = field(default_factory=list)
    begun: list[Shard] = field(default_factory=list)
    committed: list[tuple[Shard, Block]] = field(default_factory=list)
    progress: int = 0

    def _at(self, kind: str, count: int) -> None:
        time.sleep(self.delays.get(kind, 0))
        if self.fails.get(kind) == count:
            raise BrokenError(kind)

    def load(self, start: int, stop: int, view: int = 0) -> Rows:  # noqa: ARG002 - as any labeller
        """Only its place."""
        self.loaded.append((start, stop))
        self._at("load", start)
        return start, stop

    def launch(self, batch: Rows) -> "Pending":
        """Labels to come."""
        self._at("launch", len(self.launched) + 1)
        self.launched.append(batch)
        return Pending(self, batch)

    def result(self, batch: Rows) -> Block:
        """A function of each row's place."""
        self._at("result", len(self.fetched) + 1)
        self.fetched.append(batch)
        return computed(*batch)

    def commit(self, shard: Shard, block: Block, seconds: float) -> None:
        """Keeps the shard, once it is whole."""
        assert seconds >= 0
        self.begun.append(shard)
        self._at("commit", len(self.begun))
        self.committed.append((shard, block))

    def run(self, plan: list[Shard], stopped: Callable[[], bool] = lambda: False, workers: int = 2) -> bool:
        """The plan through `run_inline`."""
        return run_inline(plan, self, self.commit, stopped=stopped, progress=self.count, workers=workers)

    def count(self, rows: int) -> None:
        """Rows that are labelled."""
        self.progress += rows

    def assert_commits_are_the_first_of(self, plan: list[Shard]) -> None:
        """Law: in plan order, none left out, each block what its rows give by themselves."""
        assert [shard for shard, _ in self.committed] == plan[: len(self.committed)]
        for shard, block in self.committed:
            expected = computed(shard.start, shard.stop)
            assert block.keys() == expected.keys()
            assert all(np.array_equal(block[name], expected[name]) for name in block)


@dataclass
class Pending:
    """A batch that the machine is at work on."""

    machine: Machine
    batch: Rows

    def result(self) -> Block:
        """Waits for it."""
        return self.machine.result(self.batch)


def until(true: Callable[[], bool]) -> None:
    """Return once something is true; so late that it never comes, fail."""
    patience = time.monotonic() + 20
    while not true():
        assert time.monotonic() < patience, "it never came"
        time.sleep(0.001)


def computed(start: int, stop: int) -> Block:
    """What the machine says of some rows."""
    rows = np.arange(start, stop)
    return {"sample_id": rows * 7, "logits": np.sin(rows[:, None] * [1.0, 2.0])}


LAYOUTS = st.builds(Layout, st.integers(1, 40), st.just(1), st.integers(1, 12), st.just(1))
PLANS = LAYOUTS.flatmap(lambda layout: st.lists(st.sampled_from(list(layout.all_shards())), unique=True, max_size=8))
SIZES = st.integers(1, 15)


@STEADY
@given(PLANS, SIZES)
def test_batches_cover_a_plan_and_never_straddle_shards(plan: list[Shard], size: int) -> None:
    """Law: every row of every shard once, in order, at most `size` together, cut the same whatever came before."""
    found = list(cuts(plan, size))
    assert [row for cut in found for row in range(cut.start, cut.stop)] == [
        row for shard in plan for row in range(shard.start, shard.stop)
    ]
    assert all(cut.shard.start <= cut.start < cut.stop <= cut.shard.stop for cut in found)
    assert all(cut.stop - cut.start <= size for cut in found)
    assert found == [cut for shard in plan for cut in cuts([shard], size)]


@STEADY
@given(PLANS, SIZES, st.integers(1, 4))
def test_every_shard_of_a_plan_is_committed_in_order_with_its_own_rows(
    plan: list[Shard], size: int, workers: int
) -> None:
    """Law: for any plan, in any order, any batch size and number of threads; each row is read once."""
    machine = Machine(size)
    assert machine.run(plan, workers=workers)
    machine.assert_commits_are_the_first_of(plan)
    assert len(machine.committed) == len(plan)
    assert machine.launched == machine.fetched == [(cut.start, cut.stop) for cut in cuts(plan, size)]
    assert sorted(machine.loaded) == sorted(machine.launched)
    assert machine.progress == sum(shard.rows for shard in plan)


@STEADY
@given(PLANS.filter(bool), SIZES, st.data())
def test_stopped_before_any_batch_whole_shards_are_kept_and_the_rest_is_dropped(
    plan: list[Shard], size: int, data: st.DataObject
) -> None:
    """Law: False is returned, all that was launched whole is committed, and nothing else."""
    machine, total = Machine(size), len(list(cuts(plan, size)))
    after = data.draw(st.integers(0, total - 1))
    assert not machine.run(plan, lambda: len(machine.launched) >= after)
    machine.assert_commits_are_the_first_of(plan)
    done = list(cuts(plan, size))[:after]
    assert [shard for shard, _ in machine.committed] == [cut.shard for cut in done if cut.stop == cut.shard.stop]
    assert machine.progress == sum(cut.stop - cut.start for cut in done)


def test_a_request_to_stop_after_the_last_batch_finds_nothing_to_drop() -> None:
    """The plan was run to its end."""
    machine, plan = Machine(4), list(Layout(8, 1, 4, 1).all_shards())
    assert machine.run(plan, lambda: len(machine.launched) == 2)
    assert len(machine.committed) == 2


@settings(STEADY, max_examples=150)
@given(PLANS.filter(bool), SIZES, st.sampled_from(["load", "launch", "result", "commit"]), st.data())
def test_an_error_in_any_thread_ends_the_run_with_that_error(
    plan: list[Shard], size: int, kind: str, data: st.DataObject
) -> None:
    """Law: the very error; what was committed is the plan's first shards, whole; nothing is committed after it."""
    batches = list(cuts(plan, size))
    at = data.draw(st.integers(1, len(plan if kind == "commit" else batches)))
    machine = Machine(size, fails={kind: batches[at - 1].start if kind == "load" else at})
    with pytest.raises(BrokenError, match=kind):
        machine.run(plan)
    machine.assert_commits_are_the_first_of(plan)
    good = [cut.shard for cut in batches[: at - 1] if cut.stop == cut.shard.stop]
    assert len(machine.committed) == (at - 1 if kind == "commit" else len(good))
    assert len(machine.begun) <= at if kind == "commit" else machine.begun == good
    assert not any(thread.name.startswith(("loader", "writer")) for thread in threading.enumerate())


@pytest.mark.parametrize("fails", [{"load": 4}, {"launch": 2}, {"result": 2}])
def test_a_commit_that_is_under_way_when_another_thread_fails_is_finished(fails: dict[str, int]) -> None:
    """A shard that was labelled is not lost, and no thread is left to write when the error is shown."""
    plan = list(Layout(8, 1, 4, 1).all_shards())
    machine = Machine(4, fails=fails, delays={"commit": 0.2})
    with pytest.raises(BrokenError, match=next(iter(fails))):
        machine.run(plan)
    assert [shard for shard, _ in machine.committed] == plan[:1]


def test_a_commit_that_fails_last_is_not_taken_for_done() -> None:
    """Neither at the end of the plan, nor when asked to stop while it is under way."""
    plan = list(Layout(8, 1, 4, 1).all_shards())
    for fails, stop in ((2, 3), (1, 1)):
        machine = Machine(4, fails={"commit": fails}, delays={"commit": 0.05})
        with pytest.raises(BrokenError, match="commit"):
            machine.run(plan, lambda machine=machine, stop=stop: len(machine.launched) >= stop)


def test_a_writer_that_fails_ends_the_run_before_the_next_shard_is_full() -> None:
    """An hour of the teacher's work is not spent on a disk that has failed."""
    plan = [Shard(0, 0, 0, 1), Shard(1, 0, 1, 5000)]
    machine = Machine(1, fails={"commit": 1}, delays={"result": 0.001})
    with pytest.raises(BrokenError, match="commit"):
        machine.run(plan)
    assert len(machine.launched) < 5000


@pytest.mark.parametrize("end", [SystemExit(0), KeyboardInterrupt()])
def test_a_loader_thread_that_is_ended_by_the_dataset_is_an_error(end: BaseException) -> None:
    """`sys.exit(0)` in a worker would otherwise end the program as if the cache were made."""

    class Ending(Machine):
        def load(self, start: int, stop: int, view: int = 0) -> Rows:
            if start == 4:
                raise end
            return super().load(start, stop, view)

    machine, plan = Ending(4), list(Layout(8, 1, 4, 1).all_shards())
    with pytest.raises(
        DatasetError, match=rf"read rows 4 to 7 of the dataset was ended by {type(end).__name__}"
    ) as met:
        machine.run(plan)
    assert met.value.__cause__ is end
    assert [shard for shard, _ in machine.committed] == plan[:1]


class Device(Machine):
    """A GPU, in what matters here: it is done with a batch no sooner than the next one was launched."""

    total = 0

    def result(self, batch: Rows) -> Block:
        """As any other machine, once its turn is over."""
        place = len(self.fetched) + 1
        assert len(self.launched) - len(self.fetched) <= LATE + 1
        until(lambda: len(self.launched) > min(place, self.total - 1))
        return super().result(batch)


def test_the_next_batch_is_launched_before_the_last_is_waited_for() -> None:
    """So the device is never without work while the host is busy; and no more than a few are launched ahead."""
    machine = Device(2)
    machine.total = 15
    assert machine.run(list(Layout(30, 1, 4, 1).all_shards()))
    assert len(machine.fetched) == 15


def test_where_nothing_runs_late_a_batch_is_fetched_before_the_next_is_launched() -> None:
    """Law: on a CPU a network may answer in the same memory each time, and no batch is overwritten by the next."""
    machine = Machine(2, late=False)
    launch = machine.launch

    def launched(batch: Rows) -> Pending:
        assert machine.fetched == machine.launched
        return launch(batch)

    machine.launch = launched
    assert machine.run(list(Layout(30, 1, 4, 1).all_shards()))
    assert len(machine.fetched) == 15


def test_a_shard_is_written_while_the_next_is_read_and_labelled() -> None:
    """The first commit ends only once all batches of the second shard are fetched."""

    class Unhurried(Machine):
        def commit(self, shard: Shard, block: Block, seconds: float) -> None:
            if not self.committed:
                until(lambda: len(self.fetched) >= 2 * shard.rows)
            super().commit(shard, block, seconds)

    machine = Unhurried(1)
    assert machine.run(list(Layout(24, 1, 8, 1).all_shards()))
    assert len(machine.committed) == 3


def test_as_many_batches_are_read_at_once_as_there_are_workers() -> None:
    """Each read ends only once three are under way."""
    together = threading.Barrier(3, timeout=20)

    class Slow(Machine):
        def load(self, start: int, stop: int, view: int = 0) -> Rows:
            together.wait()
            return super().load(start, stop, view)

    assert Slow(2).run(list(Layout(12, 1, 4, 1).all_shards()), workers=3)


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_keeps_ahead_of_a_slow_teacher_by_a_bounded_number_of_batches(workers: int) -> None:
    """Across shards too: two a worker, so that memory does not grow with the plan."""
    most = 0

    class Patient(Machine):
        def launch(self, batch: Rows) -> Pending:
            nonlocal most
            until(lambda: len(self.loaded) >= min(30, len(self.launched) + 1 + 2 * workers))
            most = max(most, len(self.loaded) - len(self.launched) - 1)
            return super().launch(batch)

    assert Patient(2).run(list(Layout(60, 1, 4, 1).all_shards()), workers=workers)
    assert most == 2 * workers


class Stuck(Machine):
    """Reads its third batch for as long as the run needs to end for another reason."""

    def load(self, start: int, stop: int, view: int = 0) -> Rows:
        """As any other machine, or late."""
        batch = super().load(start, stop, view)
        time.sleep(0.5 if len(self.loaded) == 3 else 0)
        return batch


@pytest.mark.parametrize("fails", [{}, {"launch": 2}])
def test_nothing_more_is_read_once_a_run_has_ended(fails: dict[str, int]) -> None:
    """What was only planned to be read is not, be it a stop or an error that ended the run."""
    machine = Stuck(1, fails=fails)
    with contextlib.suppress(BrokenError):
        assert not machine.run(list(Layout(9, 1, 3, 1).all_shards()), lambda: len(machine.launched) == 1, workers=1)
    assert len(machine.loaded) == 3


def test_no_more_than_two_shards_are_labelled_and_not_yet_durable() -> None:
    """A disk slower than the teacher holds it up; memory does not fill with what waits to be written."""
    most = 0

    class Slow(Machine):
        def result(self, batch: Rows) -> Block:
            nonlocal most
            most = max(most, len(self.fetched) + 1 - len(self.committed))
            return super().result(batch)

    machine = Slow(4, delays={"commit": 0.01})
    assert machine.run(list(Layout(40, 1, 4, 1).all_shards()))
    assert most <= 2


def test_the_executor_of_one_process_is_in_the_table() -> None:
    """The stages ask for it by name."""
    assert EXECUTORS["inline"] is run_inline
