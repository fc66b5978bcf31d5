"""Stopped and killed: real processes, real signals; the same command goes on to the same bytes."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from random import Random
from subprocess import Popen

import pytest
from ledger import Attack
from stage_cases import PATIENT, Outcome, decided, must, run, softlabels, started

from pipeline.errors import StoppedError
from stages.signals import ECHO_SECONDS, stop_on_signals

PATIENT_STUDENT = (
    "students.distilled.model=own_networks:Patient",
    'students.distilled.options={after = "runs/e/distilled/seed-0/checkpoint.pt"}',
    "students.distilled.epochs=4",
)
RECEIPTS = "receipts/*.json"
BATCH = 2  # rows the patient teacher is asked at once


def wait_until(true: Callable[[], bool], process: "Popen[str]") -> None:
    """Return once something is so; the process must not end before."""
    while not true():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def stopped(folder: Path, process: "Popen[str]", number: signal.Signals) -> Outcome:
    """Send a signal, and only then let a process go on that the file `hold` keeps at work."""
    process.send_signal(number)
    (folder / "hold").unlink()
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)


@pytest.fixture(scope="module")
def undisturbed(fitted_once: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the patient teacher's cache holds when nothing stops the run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "here"
    shutil.copytree(fitted_once, folder)
    with chdir(folder):
        must("generate", *PATIENT)
    return decided(folder / "cache")


@pytest.mark.promise("P11")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_generate_goes_on_to_the_same_cache(
    number: signal.Signals,
    code: int,
    fitted: Path,
    undisturbed: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law: a signal ends stage one with its exit code and how to go on; the same command then makes the same bytes.

    Meanwhile a second writer is refused by the first one's lock, and the cache is seen as unfinished.
    """
    (fitted / "hold").touch()
    with started(fitted, "generate", *PATIENT) as process:
        wait_until((fitted / "cache/receipts/000000002.json").exists, process)
        with monkeypatch.context() as patch:  # labels its first batch before it asks for the lock
            patch.setattr("own_networks.Patient.forward", lambda self, x: self.linear(x.flatten(1)))
            run("generate", *PATIENT).refuses(6, f"is being written by process {process.pid}", "Wait for it to end")
            run("generate", *PATIENT, "labels.dtype=float32").refuses(6, f"is being written by process {process.pid}")
        assert softlabels("inspect", "cache").code == 4
        outcome = stopped(fitted, process, number)
    done = len(list((fitted / "cache").glob(RECEIPTS)))
    outcome.refuses(
        code, f"Stopped by {number.name}. {done} of 13 shards are done and kept. Run the same command again to go on."
    )
    assert 3 <= done < 13
    assert softlabels("verify", "cache").code == 4
    made = must("generate", *PATIENT, flags=("--json",)).facts["made"]
    assert made == 50 - 4 * done
    assert decided(fitted / "cache") == undisturbed


@pytest.mark.promise("P13")
def test_a_stopped_train_goes_on_to_the_same_weights(filled: Path) -> None:
    """Law: SIGTERM ends stage two with 75 after a step; the same command then gives the weights of a whole run."""
    (filled / "hold").touch()
    folder = filled / "runs/e/distilled/seed-0"
    with started(filled, "train", *PATIENT_STUDENT) as process:
        wait_until((folder / "checkpoint.pt").exists, process)
        outcome = stopped(filled, process, signal.SIGTERM)
    outcome.refuses(75, "Stopped by SIGTERM. Every run in runs/e is kept, to the step. Run the same command again")
    assert not (folder / "student.safetensors").exists()
    must("train", *PATIENT_STUDENT)
    must("train", *PATIENT_STUDENT, flags=("--runs", "whole"))
    again = (filled / "whole/distilled/seed-0/student.safetensors").read_bytes()
    assert (folder / "student.safetensors").read_bytes() == again
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


def at_a_random_moment(dice: Random, folder: Path, process: "Popen[str]") -> None:
    """Return once the cache is begun and some of the receipts are there, anywhere between two of them."""
    receipts, pause = dice.randrange(12), dice.uniform(0, 0.03)
    wait_until((folder / "cache/job.json").exists, process)
    wait_until(lambda: len(list((folder / "cache").glob(RECEIPTS))) >= receipts, process)
    time.sleep(pause)


@pytest.mark.promise("P5", tries=3, torture=50)
def test_a_killed_generate_goes_on_to_the_same_cache(
    fitted: Path, undisturbed: dict[str, object], attack: Attack
) -> None:
    """Law: killed at any moment, stage one leaves nothing false, and the same command makes the same bytes."""
    for number, dice in attack.tries():
        with started(fitted, "generate", *PATIENT) as process:
            at_a_random_moment(dice, fitted, process)
            process.kill()
        with attack.attempt(number):
            must("generate", *PATIENT)
            assert softlabels("verify", "cache").code == 0
            assert decided(fitted / "cache") == undisturbed
        shutil.rmtree(fitted / "cache")
    attack.assert_kept()


def shards(content: dict[str, object]) -> dict[str, object]:
    """The shard files of what a cache holds."""
    return {name: data for name, data in content.items() if isinstance(data, bytes) and not name.endswith(".json")}


@pytest.mark.promise("P11", tries=2, torture=20)
def test_a_generate_that_is_preempted_ends_soon_and_keeps_what_is_done(
    fitted: Path, undisturbed: dict[str, object], attack: Attack
) -> None:
    """Law: SIGTERM at any moment: exit code 75 within 20 s; what was asked of the teacher is kept but for two shards.

    One batch is asked before the cache is begun, and not kept.
    """
    asked = fitted / "asked"
    for number, dice in attack.tries():
        asked.unlink(missing_ok=True)
        with started(fitted, "generate", *PATIENT, 'teacher.options.asked="asked"') as process:
            at_a_random_moment(dice, fitted, process)
            done, begun = len(list((fitted / "cache").glob(RECEIPTS))), time.monotonic()
            process.terminate()
            err = process.communicate(timeout=60)[1]
            seconds = time.monotonic() - begun
        with attack.attempt(number):
            kept = len(list((fitted / "cache").glob(RECEIPTS)))
            assert (process.returncode, seconds < 20, kept >= done) == (75, True, True), err
            assert "Stopped by SIGTERM. " in err
            assert "Run the same command again to go on." in err
            assert f"{kept} of 13 shards are done and kept" in err or kept == 0  # it had not begun to label
            assert asked.stat().st_size - BATCH - 4 * kept <= 2 * 4
            must("generate", *PATIENT, 'teacher.options.asked="asked"')
            assert shards(decided(fitted / "cache")) == shards(undisturbed)
        shutil.rmtree(fitted / "cache")
    attack.assert_kept()


@pytest.mark.promise("P11")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("native", [False, True], ids=["in Python", "in native code"])
def test_a_second_signal_stops_at_once(number: signal.Signals, native: bool, fitted: Path) -> None:
    """Law: asked twice, the program does not wait for the batch it is at, wherever it is; what is done is kept."""
    (fitted / "hold").touch()  # the teacher does not return while it is there
    settings = (*PATIENT, f"teacher.options.native={str(native).lower()}")
    with started(fitted, "generate", *settings) as process:
        wait_until((fitted / "cache/receipts/000000002.json").exists, process)
        time.sleep(0.2)
        process.send_signal(number)
        process.send_signal(number)  # an echo of the first
        time.sleep(2 * ECHO_SECONDS)
        assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert len(list((fitted / "cache").glob(RECEIPTS))) >= 3
    assert softlabels("verify", "cache").code == 4


@pytest.mark.usefixtures("filled")
def test_sigterm_outside_the_long_work_is_exit_code_75(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: SIGTERM before the first batch, or after the last, is told in a line as well."""
    monkeypatch.setattr("stages.soft_labels.open_views", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    outcome = run("generate")
    assert (outcome.code, outcome.out) == (75, "")
    assert outcome.err.strip() == "softlabels: Stopped by SIGTERM. Run the same command again to go on."


@pytest.mark.parametrize(
    ("verb", "flags", "again"),
    [
        ("train", (), "Run the same command again to go on."),
        ("train", ("--restart",), "Run the same command again, without --restart, to go on."),
        ("fit-teacher", ("--restart",), "Run the same command again, without --restart, to go on."),
    ],
)
@pytest.mark.usefixtures("filled")
def test_a_restart_that_is_stopped_says_to_go_on_without_it(
    verb: str, flags: tuple[str, ...], again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: the command as it was would throw away what is kept, so it is not the one that is advised."""
    module = {"train": "stages.train_student", "fit-teacher": "stages.fit_teacher"}[verb]

    def stopped(entries: list[object], *_: object) -> list[None]:
        signal.raise_signal(signal.SIGTERM)
        return [None] * len(entries)

    monkeypatch.setattr(f"{module}.teach", stopped)
    run(verb, flags=flags).refuses(75, "Stopped by SIGTERM.", again)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_is_a_question_once(number: signal.Signals, code: int) -> None:
    """Law: the first signal only asks, and so does its echo, as launchers send a signal twice."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
        error = stop.error("All is kept.")
    assert {each: signal.getsignal(each) for each in before} == before
    assert isinstance(error, StoppedError)
    assert (str(error), error.exit_code) == (
        f"Stopped by {number.name}. All is kept. Run the same command again to go on.",
        code,
    )
