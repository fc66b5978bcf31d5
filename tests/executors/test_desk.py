"""What a worker does: one teacher for all tasks of a run, the job's own files or none, and nothing left behind."""

import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stage_cases import PATIENT, decided, must, untimed, write_experiment, write_idx

from pipeline import errand
from pipeline.config import load
from pipeline.errors import ClusterError, MismatchError, TeacherError
from pipeline.executors import desk
from pipeline.executors.desk import Desk, Order, Turn, rooted
from pipeline.labeller import Labeller
from pipeline.store.committer import Committer
from pipeline.store.state import read_state
from pipeline.store.writer import CacheWriter
from stages.soft_labels import asked

TOKEN, PATIENCE = 12345, 20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an experiment of 13 shards, its cache begun."""
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    CacheWriter.open("cache", order().job, {}).__exit__()
    return tmp_path


@pytest.fixture(autouse=True)
def _cleared() -> Iterator[None]:
    """No desk outlives its test."""
    yield
    for token in list(desk._desks):  # noqa: SLF001 - no task of ours may see another test's desk
        desk.end(token)


def order(*settings: str, token: int = TOKEN, readers: int = 1) -> Order:
    """What the workers of a run are told."""
    experiment = load(Path("e.toml"), (*PATIENT, "teacher.options={}", *settings))
    return Order(token, rooted(experiment), asked(experiment)[2], threads=1, readers=readers)


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Every result of a function of the desk's module."""
    real, found = getattr(desk, name), []

    def called(*arguments: object) -> object:
        found.append(real(*arguments))
        return found[-1]

    monkeypatch.setattr(desk, name, called)
    return found


def test_tasks_at_once_share_one_teacher_and_make_the_cache(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: thirteen tasks in four threads load the teacher once, and every shard is the one of a single process."""
    loaded, opened = counted(monkeypatch, "load_teacher"), counted(monkeypatch, "open_own")
    desk.begin(order(), 1)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: desk.label(TOKEN, number, 3), range(13)))
    assert (len(loaded), len(opened)) == (1, 1)
    must("generate", *PATIENT, "teacher.options={}")
    must("generate", *PATIENT, "teacher.options={}", "cache.path=alone")
    assert decided(here / "cache") == decided(here / "alone")
    made = [receipt.made for receipt in read_state(here / "cache").receipts.values()]
    assert {(each.attempt, each.versions["threads"], each.versions["device"]) for each in made} == {(3, "1", "cpu")}


@pytest.mark.usefixtures("here")
def test_the_teacher_is_asked_by_one_thread_and_so_is_a_dataset_that_bears_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law: of two tasks at once, one waits for the other to have read, or to have been answered."""
    at_once, most = {"load": 0, "launch": 0}, {"load": 0, "launch": 0}

    def watched(name: str) -> Callable[..., object]:
        real = getattr(Labeller, name)

        def call(self: Labeller, *arguments: object) -> object:
            at_once[name] += 1
            most[name] = max(most[name], at_once[name])
            try:
                sys.setswitchinterval(1e-5)
                return real(self, *arguments)
            finally:
                at_once[name] -= 1

        return call

    interval = sys.getswitchinterval()
    for name in most:
        monkeypatch.setattr(Labeller, name, watched(name))
    try:
        desk.begin(order(), 1)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number: desk.label(TOKEN, number, 1), range(13)))
    finally:
        sys.setswitchinterval(interval)
    assert most == {"load": 1, "launch": 1}


@pytest.mark.usefixtures("here")
def test_a_shard_is_written_while_another_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the commit of one task ends only once another's is under way."""
    together, real = threading.Barrier(2, timeout=PATIENCE), Committer.commit

    def commit(self: Committer, *arguments: object) -> object:
        together.wait()
        return real(self, *arguments)

    monkeypatch.setattr(Committer, "commit", commit)
    desk.begin(order(), 1)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda number: desk.label(TOKEN, number, 1), range(2)))


@pytest.mark.usefixtures("here")
def test_a_shard_that_has_its_receipt_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a task that comes twice, as after a death that was none, asks the teacher once."""
    desk.begin(order(), 1)
    desk.label(TOKEN, 5, 1)
    monkeypatch.delattr(desk, "run_inline")
    desk.label(TOKEN, 5, 1)


def other_checkpoint(folder: Path) -> None:
    """Another teacher."""
    path = folder / "patient.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def fewer_rows(folder: Path) -> None:
    """A dataset that has lost a sample."""
    write_idx(folder / "images", np.zeros((49, 4, 4), np.uint8))
    write_idx(folder / "labels", np.arange(49, dtype=np.uint8) % 3)


def other_shape(folder: Path) -> None:
    """A dataset of larger images."""
    write_idx(folder / "images", np.zeros((50, 5, 4), np.uint8))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_checkpoint, "teacher.checkpoint_sha256 is "),
        (fewer_rows, "dataset.ids_sha256 is "),
        (other_shape, "dataset.input_shape is [1, 5, 4] there, and [1, 4, 4] in the job"),
    ],
)
def test_a_worker_that_sees_other_files_than_the_job_was_made_of_refuses(
    change: Callable[[Path], None], field: str, here: Path
) -> None:
    """Law: it names its machine and what differs, and makes no shard."""
    told = order()
    change(here)
    desk.begin(told, 1)
    with pytest.raises(MismatchError, match="has other files than the job was made of: ") as met:
        desk.label(TOKEN, 0, 1)
    assert field in str(met.value)
    assert not list((here / "cache").glob("receipts/*"))


@pytest.mark.usefixtures("here")
def test_a_worker_does_not_read_the_dataset_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the content was hashed by the driver; a hundred workers do not do it again."""
    told = order()
    monkeypatch.delattr("pipeline.job.content_digest")
    desk.begin(told, 1)
    desk.label(TOKEN, 0, 1)


@pytest.mark.usefixtures("here")
def test_the_first_batch_is_tried_where_that_is_asked_for() -> None:
    """Law: with a shard's number what cannot be stored is refused; without, the tools are named."""
    sick = ("teacher.model=own_networks:Echo", "teacher.checkpoint=echo.safetensors", "teacher.options={sick = [5]}")
    desk.begin(order(*sick, "views.mean=0", "views.std=1"), 1)
    assert desk.greet(TOKEN, -1)["batch_size"] == "2"
    assert desk.greet(TOKEN, 0)["threads"] == "1"
    with pytest.raises(TeacherError, match="not finite"):
        desk.greet(TOKEN, 1)


@pytest.mark.usefixtures("here")
def test_the_figures_of_the_teacher_are_those_that_one_process_finds(here: Path) -> None:
    """Law: parameters, accuracy, calibration and the time of its training, for the seal."""
    must("generate", *PATIENT, "teacher.options={}")
    desk.begin(order(), 1)
    assert untimed(desk.about(TOKEN)) == untimed(read_state(here / "cache").seal.about)


@pytest.mark.usefixtures("here")
def test_the_teacher_goes_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: once a run is ended nothing holds its teacher, and what still comes of it is refused."""
    loaded = counted(monkeypatch, "load_teacher")
    desk.begin(order(), 1)
    desk.label(TOKEN, 0, 1)
    teacher = weakref.ref(loaded.pop().network)
    desk.end(TOKEN)
    gc.collect()
    assert teacher() is None
    desk.end(TOKEN)
    with pytest.raises(ClusterError, match="was not told what the run is about"):
        desk.label(TOKEN, 1, 1)


def test_a_task_at_work_ends_at_its_next_batch_when_its_run_does(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: its shard is dropped, and the teacher goes with it."""
    loaded, real = counted(monkeypatch, "load_teacher"), Labeller.launch

    def launch(self: Labeller, batch: object) -> object:
        desk.end(TOKEN)
        return real(self, batch)

    monkeypatch.setattr(Labeller, "launch", launch)
    desk.begin(order(), 1)
    with pytest.raises(ClusterError, match="Shard 0 was dropped: its run has ended"):
        desk.label(TOKEN, 0, 1)
    teacher = weakref.ref(loaded.pop().network)
    gc.collect()
    assert teacher() is None
    assert not list((here / "cache").glob("receipts/*"))


@pytest.mark.usefixtures("here")
def test_a_new_run_has_the_teachers_of_idle_ones_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what a killed driver left takes no memory then; and a run that was only idle loads its teacher again."""
    loaded = counted(monkeypatch, "load_teacher")
    desk.begin(order(), 1)
    desk.label(TOKEN, 0, 1)
    teacher = weakref.ref(loaded[0].network)
    loaded.clear()
    desk.begin(order(token=2), 1)
    gc.collect()
    assert teacher() is None
    desk.label(TOKEN, 1, 1)
    assert len(loaded) == 1


@pytest.mark.usefixtures("here")
def test_a_run_that_is_at_work_keeps_its_teacher_when_another_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: two runs share a worker."""
    loaded, real = counted(monkeypatch, "load_teacher"), Labeller.launch
    other = order(token=2)

    def launch(self: Labeller, batch: object) -> object:
        desk.begin(other, 1)
        return real(self, batch)

    desk.begin(order(), 1)
    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "launch", launch)
        desk.label(TOKEN, 0, 1)
    desk.label(TOKEN, 1, 1)
    assert len(loaded) == 1


def test_all_paths_of_an_order_are_absolute_and_a_users_own_options_are_left(here: Path) -> None:
    """Law: a worker may have another working directory; what it is told is small, and can be sent."""
    told = order('test={kind = "own_datasets:Crumbling", options = {place = "there"}}')
    experiment = told.experiment
    assert experiment.cache.path == here / "cache"
    assert (experiment.dataset.inputs, experiment.dataset.labels) == (here / "images", here / "labels")
    assert experiment.teacher.checkpoint == here / "patient.safetensors"
    assert experiment.test.options == {"place": "there"}
    data = pickle.dumps(told)
    assert len(data) < 20_000
    again = pickle.loads(data)  # noqa: S301 - made here
    assert (again.experiment, again.job.to_bytes()) == (experiment, told.job.to_bytes())
    assert rooted(experiment) == experiment


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("no such thing"), MemoryError()])
def test_whatever_goes_wrong_in_a_task_is_told_in_words(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: its kind, its text and the machine survive the way to the driver, and nothing that could not."""

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(desk, "label", broken)
    with pytest.raises(errand.RefusalError) as met:
        errand.label(TOKEN, 0, 1)
    again = pickle.loads(pickle.dumps(met.value))  # noqa: S301 - made here
    assert (again.kind, again.text) == (type(error).__name__, str(error))
    assert again.host
    assert met.value.__context__ is None


@pytest.mark.parametrize("threads", [None, 3])
@pytest.mark.usefixtures("here")
def test_torch_has_the_threads_of_the_order_or_else_the_workers(threads: int | None) -> None:
    """Law: the number is the order's; where that has none, as on a cluster of others, the worker's own."""
    told = replace(order(), threads=threads)
    desk.begin(told, 2)
    assert Desk(told, told.threads or 2)._threads == desk._desks[TOKEN]._threads == (threads or 2)  # noqa: SLF001


def test_a_shards_batches_are_asked_for_in_one_turn() -> None:
    """Law: no other shard comes between its first batch and its last; one that ends early gives its turn back."""
    lock = threading.Lock()
    turn, cut_short = Turn(lock, 2), Turn(lock, 2)
    for number in range(2):
        with turn:
            assert lock.locked()
        assert lock.locked() == (number == 0)
    with cut_short:
        pass
    cut_short.end()
    turn.end()
    assert not lock.locked()
