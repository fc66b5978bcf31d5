"""Workers, drivers and schedulers of a cluster killed at random moments: no row is lost, nothing done is done again."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from cluster_cases import Cluster, cluster, kill, receipts, unfinished, until
from ledger import Attack
from stage_cases import decided, must, run, softlabels, started

ROWS_A_SHARD, SHARDS = 4, 13
KEPT = r"is gone\. At least \d+ of 13 shards are done and kept\. Run the same command again to go on\."
CLOCK_SECONDS = 0.02  # by so much a file may look older than it is


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of two workers."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with cluster(folder) as made:
        yield made


def settings(folder: Path) -> tuple[str, ...]:
    """A teacher that takes its time, and keeps a diary."""
    diary = json.dumps(str(folder / "diary"))
    return (
        f"teacher.options={{seconds = 0.04, diary = {diary}}}",
        "teacher.model=own_mortals:Mortal",
        "teacher.checkpoint=patient.safetensors",
        "teacher.batch_size=2",
        f"cache.shard_rows={ROWS_A_SHARD}",
        "cache.chunk_rows=2",
    )


@pytest.fixture
def undisturbed(fitted: Path) -> dict[str, object]:
    """What the cache holds when nothing is killed. There is no test set: the diary is about labels alone."""
    head, rest = (fitted / "e.toml").read_text().split("[test]")
    (fitted / "e.toml").write_text(f"{head}[views]{rest.split('[views]')[1]}")
    must("generate", *settings(fitted), "cache.path=alone")
    (fitted / "diary").unlink()
    return decided(fitted / "alone")


def done_twice(folder: Path) -> list[int]:
    """The shards of which the teacher was asked after they had their receipts."""
    since = {
        int(path.stem): path.stat().st_mtime + CLOCK_SECONDS for path in (folder / "cache/receipts").glob("*.json")
    }
    asked = [line.split() for line in (folder / "diary").read_text().splitlines()]
    return sorted({shard for when, row in asked if float(when) > since[shard := int(row) // ROWS_A_SHARD]})


def assert_nothing_was_lost(folder: Path, undisturbed: dict[str, object], *, at_most_twice: int = 0) -> None:
    """Law: the cache is whole, verified and the one of a quiet run."""
    assert softlabels("verify", "cache").code == 0
    assert decided(folder / "cache") == undisturbed
    assert unfinished(folder / "cache") == []
    assert len(done_twice(folder)) <= at_most_twice


def clear(folder: Path) -> None:
    """Nothing of one try is left for the next."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    (folder / "diary").unlink(missing_ok=True)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Something that is done by another thread, while this one labels."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def at_a_random_moment(dice: Random, folder: Path, at_least: int = 0) -> None:
    """Return once some of the receipts are there, anywhere between two of them."""
    enough = dice.randrange(at_least, SHARDS - 2)
    until(lambda: receipts(folder) >= enough)
    time.sleep(dice.uniform(0, 0.05))


@pytest.mark.promise("P5", tries=2, torture=60)
def test_workers_of_a_cluster_that_are_killed_cost_no_row(
    fitted: Path, there: Cluster, undisturbed: dict[str, object], attack: Attack
) -> None:
    """Law: SIGKILL to any worker at any moment, two in a run: it goes on to the same bytes, and does nothing again.

    A shard that three deaths met alone, by chance, is set aside; the same command makes it.
    """
    victims: list[int] = []
    for number, dice in attack.tries():
        if number % 2:
            continue  # two kills a run

        def murder(dice: Random = dice) -> None:
            for _ in range(2):
                at_a_random_moment(dice, fitted)
                until(lambda: there.workers)
                victim = dice.choice(there.workers)
                kill(victim)
                victims.append(victim.pid)

        with meanwhile(murder):
            outcome = run("generate", *settings(fitted), flags=there.flags)
        with attack.attempt(number):
            assert outcome.code in (0, 4), outcome.err
            if outcome.code == 4:
                must("generate", *settings(fitted), flags=there.flags)
            assert_nothing_was_lost(fitted, undisturbed)
        clear(fitted)
        attack.made += 1
        there.wait_for(2)
    attack.assert_kept(at_least=len(victims))
    assert len(victims) == attack.planned


@pytest.mark.promise("P5", tries=1, torture=10)
def test_drivers_of_a_cluster_that_are_killed_cost_no_row(
    fitted: Path, there: Cluster, undisturbed: dict[str, object], attack: Attack
) -> None:
    """Law: SIGKILL to the driver at any moment: the same command goes on to the same bytes.

    What the workers of the dead driver are at, they end: a shard each may then be asked for once more.
    """
    for number, dice in attack.tries():
        with started(fitted, "generate", *settings(fitted), flags=there.flags) as driver:
            at_a_random_moment(dice, fitted)
            kill(driver)
        with attack.attempt(number):
            must("generate", *settings(fitted), flags=there.flags)
            assert_nothing_was_lost(fitted, undisturbed, at_most_twice=4)
        clear(fitted)
    attack.assert_kept()


@pytest.mark.promise("P5", tries=1, torture=5)
def test_schedulers_that_are_killed_cost_no_row(
    fitted: Path, tmp_path: Path, undisturbed: dict[str, object], attack: Attack
) -> None:
    """Law: SIGKILL to the scheduler at any moment: exit code 4 and how to go on, and the same command does."""
    for number, dice in attack.tries():
        (folder := tmp_path / f"cluster-{number}").mkdir()
        with cluster(folder) as there:

            def murder(dice: Random = dice, there: Cluster = there) -> None:
                at_a_random_moment(dice, fitted, 1)  # before, there may be no run yet to lose it
                kill(there.processes[0])

            with meanwhile(murder):
                outcome = run("generate", *settings(fitted), flags=there.flags)
        with attack.attempt(number):
            assert outcome.code in (0, 4), outcome.err
            assert outcome.code == 0 or re.search(KEPT, outcome.err), outcome.err
            must("generate", *settings(fitted))
            assert_nothing_was_lost(fitted, undisturbed)
        clear(fitted)
    attack.assert_kept()
