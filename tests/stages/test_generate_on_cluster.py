"""Stage one on a Dask cluster, as a user starts it: real schedulers, real workers, real kills."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed
import pytest
from cluster_cases import Cluster, children, cluster, kill, receipts, unfinished, until
from stage_cases import PATIENT, Outcome, decided, must, run, softlabels, started, untimed, words

MORTAL = (
    "teacher.model=own_mortals:Mortal",
    "teacher.checkpoint=patient.safetensors",
    "teacher.batch_size=2",
    "cache.shard_rows=4",
    "cache.chunk_rows=2",
)
"""13 shards of four rows, the last of two."""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two workers of two threads."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


def options(**named: object) -> str:
    """The options of a teacher."""
    return f"teacher.options={{{', '.join(f'{name} = {json.dumps(value)}' for name, value in named.items())}}}"


def versions(cache: Path) -> set[tuple[tuple[str, str], ...]]:
    """The tools that the receipts of a cache name."""
    made = (json.loads(path.read_bytes())["made"] for path in (cache / "receipts").iterdir())
    return {tuple(sorted(each["versions"].items())) for each in made}


def cache_id(cache: Path) -> str:
    """The id of a sealed cache."""
    return json.loads((cache / "seal.json").read_bytes())["cache_id"]


def assert_whole(cache: Path, expected: Path) -> None:
    """Law: a cache is sealed, verified, the very bytes of another, and nothing unfinished is left in it."""
    assert softlabels("verify", str(cache)).code == 0
    assert decided(cache) == decided(expected)
    assert cache_id(cache) == cache_id(expected)
    assert unfinished(cache) == []


def test_workers_here_make_the_very_bytes_that_one_process_makes(fitted: Path) -> None:
    """Law: files, Zarr documents, what receipts prove and the cache id are the same, for the same number of threads."""
    settings = (*PATIENT, "labels.encoding=topk", "labels.k=2")
    must("generate", *settings, "cache.path=alone")
    facts = must("generate", *settings, flags=("--workers", "2", "--json")).facts
    assert (facts["workers"], facts["made"], facts["rows"]) == (2, 50, 50)
    assert_whole(fitted / "cache", fitted / "alone")
    assert versions(fitted / "cache") == versions(fitted / "alone")
    about = (untimed(json.loads((fitted / name / "seal.json").read_bytes())["about"]) for name in ("cache", "alone"))
    assert next(about) == next(about)


def test_a_cluster_that_runs_makes_the_same_bytes(fitted: Path, there: Cluster) -> None:
    """Law: whichever way it is named; and a cache that is complete asks no one."""
    must("generate", *PATIENT, "cache.path=alone")
    for number, name in enumerate((there.address, there.address.removeprefix("tcp://"), str(there.file))):
        outcome = must("generate", *PATIENT, f"cache.path=cache-{number}", flags=("--scheduler", name))
        assert "50 rows made now" in outcome.out
        assert "by 2 workers" in outcome.out
        assert_whole(fitted / f"cache-{number}", fitted / "alone")
    again = must("generate", *PATIENT, "cache.path=cache-0", flags=("--scheduler", "tcp://127.0.0.1:1"))
    assert "already complete" in again.out


def test_only_numbers_are_sent_and_each_worker_has_two_shards_at_most(
    fitted: Path, there: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a task is a function by its name and whole numbers, given to one worker by its address."""
    sent, submit = [], distributed.Client.submit

    def watched(self: distributed.Client, task: object, *arguments: object, **how: object) -> object:
        sent.append((task.__module__, task.__name__, arguments, how.get("workers")))
        return submit(self, task, *arguments, **how)

    monkeypatch.setattr(distributed.Client, "submit", watched)
    must("generate", *PATIENT, flags=there.flags)
    assert [name for _, name, _, _ in sent] == ["greet", *["label"] * 13, "about"]
    assert {module for module, _, _, _ in sent} == {"pipeline.errand"}
    assert {type(number) for _, _, arguments, _ in sent for number in arguments} == {int}
    assert sorted(arguments[1] for _, name, arguments, _ in sent if name == "label") == list(range(13))
    assert len({workers[0] for _, name, _, workers in sent if name == "label"}) == 2
    assert receipts(fitted) == 13


def test_the_teacher_is_loaded_once_a_worker(fitted: Path, there: Cluster) -> None:
    """Law: whatever the number of shards and of tasks at once; and it goes with the run."""
    for count in (1, 2):
        must("generate", *MORTAL, options(built=str(fitted / "built")), f"cache.path=c{count}", flags=there.flags)
        made = [int(line) for line in (fitted / "built").read_text().split()]
        assert len(set(made)) == 2
        assert sorted(made) == sorted([*set(made)] * count)


def test_a_shard_that_raises_is_set_aside_and_the_rest_is_made(fitted: Path, there: Cluster) -> None:
    """Law: three tries, then exit code 4 with the cause and the machine; mended, the same command makes it."""
    mended = fitted / "mended"
    odd = (f'dataset={{kind = "own_mortals:Spoilt", version = "1", options = {{mended = "{mended}"}}}}', *PATIENT)
    outcome = run("generate", *odd, flags=there.flags)
    assert outcome.code == 4
    for text in (
        "1 of 13 shards were set aside, each after 3 failures: shard 7 (rows 28 to 31): ",
        "row 30 of the archive",
        f" on {os.uname().nodename}: ",
        "12 of 13 shards are done and kept.",
        "run the same command again: it tries them anew.",
    ):
        assert text in outcome.err, outcome.err
    assert receipts(fitted) == 12
    assert softlabels("verify", "cache").code == 4
    mended.touch()
    assert must("generate", *odd, flags=(*there.flags, "--json")).facts["made"] == 4
    assert softlabels("verify", "cache").code == 0


def test_a_shard_that_kills_its_worker_is_set_aside_and_the_rest_is_made(fitted: Path, there: Cluster) -> None:
    """Law: three deaths alone; the one that was beside it as it first killed is made, however innocent it looks."""
    outcome = run("generate", *MORTAL, options(deadly=[30]), flags=there.flags)
    assert outcome.code == 4
    assert "1 of 13 shards were set aside, each after 3 failures: shard 7 (rows 28 to 31): " in outcome.err
    assert "ended while it was at this shard alone" in outcome.err
    assert receipts(fitted) == 12
    until(lambda: len(there.workers) == 2)


def test_where_nothing_can_be_made_the_cause_is_said_soon(fitted: Path, there: Cluster) -> None:
    """Law: the first batch is fine and nothing else: three shards are set aside, and the rest is not tried."""
    sick = f"teacher.options={{sick = {list(range(2, 50))}}}"
    echo = ("teacher.model=own_networks:Echo", "teacher.checkpoint=echo.safetensors", "views.mean=0", "views.std=1")
    outcome = run("generate", *PATIENT[3:], *echo, sick, flags=there.flags)
    assert outcome.code == 4
    aside, rest = map(
        int, re.search(r"(\d+) of 13 shards were set aside.* the other (\d+) were given up", outcome.err).groups()
    )
    assert aside + rest == 13
    assert 3 <= aside <= 3 + 4  # so many were in flight
    assert "None could be made" in outcome.err
    assert "the cause may be a common one." in outcome.err
    assert "TeacherError on " in outcome.err
    assert "not finite" in outcome.err
    assert receipts(fitted) == 0


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (("teacher.options={colour = 1}",), 2, "cannot be built with colour = 1"),
        (("teacher.model=own_networks:Ecco",), 2, "has no 'Ecco'"),
        (("teacher.options={sick = [1]}",), 1, "not finite"),
    ],
)
def test_what_one_process_refuses_workers_refuse(
    settings: tuple[str, ...], code: int, said: str, fitted: Path, there: Cluster
) -> None:
    """Law: a teacher that cannot be built or whose first batch cannot be stored: the same words, nothing written."""
    echo = ("teacher.model=own_networks:Echo", "teacher.checkpoint=echo.safetensors", "views.mean=0", "views.std=1")
    outcome = run("generate", *echo, *settings, flags=there.flags)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert not (fitted / "cache").exists()


def test_a_worker_that_comes_late_gets_work(fitted: Path, tmp_path: Path) -> None:
    """Law: it is told of the run as it comes, and asked at once."""
    (tmp_path / "hold").touch()
    built, after = fitted / "built", fitted / "cache/receipts/000000000.json"
    settings = (*MORTAL, options(built=str(built), after=str(after)))
    with cluster(tmp_path, workers=1) as there, started(fitted, "generate", *settings, flags=there.flags) as process:
        until(after.exists)
        there.work()
        until(lambda: len(built.read_text().split()) == 2)
        (tmp_path / "hold").unlink()
        assert process.wait(60) == 0, process.communicate()[1]
    assert softlabels("verify", "cache").code == 0


def test_two_runs_share_a_cluster(fitted: Path, there: Cluster) -> None:
    """Law: drivers of different jobs at the same time; each cache is the one that it would be alone."""
    jobs = {"a": ("labels.dtype=float32",), "b": ("labels.encoding=topk", "labels.k=2")}
    for name, settings in jobs.items():
        must("generate", *PATIENT, *settings, f"cache.path=alone-{name}")
    with (
        started(fitted, "generate", *PATIENT, *jobs["a"], "cache.path=a", flags=there.flags) as first,
        started(fitted, "generate", *PATIENT, *jobs["b"], "cache.path=b", flags=there.flags) as second,
    ):
        assert [process.wait(90) for process in (first, second)] == [0, 0]
    for name in jobs:
        assert_whole(fitted / name, fitted / f"alone-{name}")


@contextmanager
def driving(folder: Path, *settings: str) -> Iterator["subprocess.Popen[str]"]:
    """A run with two workers of its own, once three shards are done."""
    with started(folder, "generate", *settings, flags=("--workers", "2")) as process:
        until(lambda: process.poll() is not None or receipts(folder) >= 3)
        assert process.poll() is None, process.communicate()[1]
        yield process


SLOW = (*PATIENT, options(seconds=0.1))


def test_workers_here_die_with_a_driver_that_is_killed(fitted: Path) -> None:
    """Law: SIGKILL leaves no process behind, and the same command goes on to the same bytes."""
    with driving(fitted, *SLOW) as process:
        ours = children(process.pid)
        assert len(ours) == 2
        kill(process)
        until(lambda: not any(each.is_running() and each.status() != "zombie" for each in ours))
    done = receipts(fitted)
    assert 3 <= done < 13
    must("generate", *SLOW, "cache.path=alone")
    assert must("generate", *SLOW, flags=("--json",)).facts["made"] == 50 - 4 * done
    assert_whole(fitted / "cache", fitted / "alone")


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_a_run_on_workers_that_is_stopped_says_how_to_go_on(number: signal.Signals, code: int, fitted: Path) -> None:
    """Law: as one process does: within 20 s, with its exit code, what is done kept and counted; no worker is left."""
    with driving(fitted, *SLOW) as process:
        ours = children(process.pid)
        for each in (process, *ours) if number == signal.SIGINT else (process,):
            each.send_signal(number)  # a terminal tells Ctrl-C to all
        out, err = process.communicate(timeout=20)
    done = receipts(fitted)
    Outcome(process.returncode, out, err.splitlines()[-1]).refuses(
        code, f"Stopped by {number.name}. {done} of 13 shards are done and kept. Run the same command again to go on."
    )
    assert "Traceback" not in err
    assert not any(each.is_running() for each in ours)
    assert 3 <= done < 13


def test_a_worker_is_a_process_as_any_other(fitted: Path) -> None:
    """Law: torch's DataLoader with workers runs in it, for it is no daemon, and it keeps the memory it works in."""
    own = 'dataset={kind = "own_mortals:Loaded", version = "1"}'
    must("generate", own, "cache.shard_rows=50", flags=("--workers", "1"))
    assert receipts(fitted) == 1


def test_a_run_without_a_cluster_does_not_load_dask(fitted: Path) -> None:
    """Law: what takes a second to import is imported by those who use it."""
    script = (
        "import sys; sys.argv = ['softlabels', *sys.argv[1:]]; from stages.__main__ import main\n"
        "try:\n    main()\nfinally:\n    print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words("generate")], capture_output=True, text=True, check=True, cwd=fitted
    )
    assert {"distributed", "dask"} & set(done.stderr.split()) == set()
    assert "torch" in done.stderr.split()


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--workers", "0"), 2, "x>=1"),
        (("--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), 2, "give one of them"),
        (("--scheduler", "nowhere"), 2, "neither an address, such as tcp://HOST:8786, nor a file that is there"),
        (("--scheduler", "e.toml"), 2, "this is no file that a Dask scheduler wrote"),
        (("--scheduler", "ftp://127.0.0.1:1"), 2, "no address of a Dask scheduler"),
        (("--scheduler", "tcp://127.0.0.1:port"), 2, "no address of a Dask scheduler"),
        (("--scheduler", "tcp://127.0.0.1:1"), 1, "No Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_refused(
    flags: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a mistake on the command line is exit code 2, a scheduler that does not answer is 1; no thread is left."""
    monkeypatch.setattr("pipeline.executors.cluster.CONNECT_SECONDS", 1)
    before = threading.enumerate()
    outcome = run("generate", flags=flags)
    assert set(threading.enumerate()) <= set(before)
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert not Path("cache").exists()


def test_a_scheduler_without_workers_is_said_to_have_none(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: after a minute, exit code 1 and what to do."""
    monkeypatch.setattr("pipeline.executors.crew.Crew.wait.__defaults__", (0.2,), raising=False)
    with cluster(tmp_path, workers=0) as there:
        outcome = run("generate", flags=there.flags)
    assert (outcome.code, outcome.out) == (1, "")
    assert "has had no worker for 0 s. Start workers for it" in outcome.err
    assert not (fitted / "cache").exists()


def test_more_workers_than_gpus_are_refused(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: each worker has a GPU of its own, or there is no run."""
    monkeypatch.setattr("stages.hands.gpus", lambda _: ["0", "1"])
    run("generate", flags=("--workers", "3")).refuses(2, "--workers 3: this machine has 2 GPUs to see", "Ask for fewer")
    assert not (fitted / "cache").exists()
