"""How stage one scales over the workers of a Dask cluster.

Real: `generate` with a ResNet-18 on images of 64x64, by one process, by one worker and by two of this machine's, each
with one torch thread; counted is the time from the first shard to the last. Beside them two processes that know nothing
of each other and make a cache each: what this machine's cores can do. Simulated: the driver's own loop, a real
scheduler and real Dask workers, but each worker's teacher sleeps for a second a shard, nothing is read or written, and
a process has up to 16 workers, so that 64 fit a small machine. They hardly use the processor; scheduler and driver use
what they would. «Linear» is what as many sleepers would do who need not be told anything.

    python -m benchmarks.cluster [--quick] [--rounds 3]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, sleep
from unittest.mock import patch

import click
import numpy as np
import psutil
import torch
from distributed import Client

from benchmarks.gather import job_of
from benchmarks.networks import resnet18
from benchmarks.results import Row, compared, publish
from benchmarks.sleepers import Nothing, label
from pipeline import errand
from pipeline.config import Experiment
from pipeline.executors.crew import Crew
from pipeline.executors.dask import run_dask
from pipeline.executors.desk import Order
from pipeline.executors.surroundings import quiet
from pipeline.labels import LabelSpec
from pipeline.store.layout import Layout, Shard
from pipeline.weights import save_state

SHARDS, SHARD_ROWS, QUICK_SHARDS, QUICK_SHARD_ROWS = 160, 48, 6, 8
WORKERS, QUICK_WORKERS = (1, 2, 4, 8, 16, 32, 64), (1, 4)
IN_PROCESS = 16
MILLISECONDS, EACH = 1000, 10
FLOOD, QUICK_FLOOD = 5000, 200
MANY, TYPICAL = 100_000, 10
NOTHING = {"dataset": {"kind": "digits"}, "teacher": {"model": "mlp", "checkpoint": "none"}, "cache": {"path": "none"}}
CONFIG = """
[dataset]
kind = "npy"
inputs = "{folder}/inputs.npy"
classes = 1000
version = "1"

[views]
mean = 118.0
std = 58.0

[teacher]
model = "benchmarks.networks:resnet18"
checkpoint = "{folder}/teacher.safetensors"
batch_size = 16
device = "cpu"

[cache]
path = "{folder}/cache-0"
shard_rows = {shard_rows}
chunk_rows = {shard_rows}
"""


def prepare(folder: Path, shards: int, shard_rows: int) -> None:
    """An experiment of so many shards."""
    images = np.random.default_rng(0).integers(0, 256, (shards * shard_rows, 3, 64, 64), np.uint8)
    np.save(folder / "inputs.npy", images)
    torch.manual_seed(0)
    save_state(folder / "teacher.safetensors", resnet18().state_dict())
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, shard_rows=shard_rows))


def begun(folder: Path, cache: str, *flags: str) -> "subprocess.Popen[bytes]":
    """The command, at work."""
    shutil.rmtree(folder / cache, ignore_errors=True)
    setting = f'cache.path="{folder / cache}"'
    return subprocess.Popen(
        [sys.executable, "-m", "stages", "generate", str(folder / "config.toml"), "--json", "--set", setting, *flags],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def seconds(process: "subprocess.Popen[bytes]") -> float:
    """From the first shard to the last."""
    out, _ = process.communicate()
    return float(json.loads(out)["seconds"])


def generated(folder: Path, processes: int, workers: int) -> float:
    """Seconds of the slowest of so many commands at once."""
    flags = ("--workers", str(workers)) if workers else ()
    return max(map(seconds, [begun(folder, f"cache-{number}", *flags) for number in range(processes)]))


def real(rounds: int, *, quick: bool) -> Iterator[Row]:
    """One process, two with a cache each, one worker and two, in turn."""
    shards, rows = (QUICK_SHARDS, QUICK_SHARD_ROWS) if quick else (SHARDS, SHARD_ROWS)
    teams = {"1 process": (1, 0), "2 processes, a cache each": (2, 0), "1 worker": (1, 1), "2 workers": (1, 2)}
    speeds: dict[str, list[float]] = {name: [] for name in teams}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, shards, rows)
        for turn in range(rounds):
            for name, (processes, workers) in list(teams.items())[:: -1 if turn % 2 else 1]:
                speeds[name].append(shards * processes / generated(folder, processes, workers))
    alone = speeds.pop("1 process")
    for name, found in speeds.items():
        linear = [speed * max(teams[name]) for speed in alone]
        yield compared(f"{name}, ResNet-18 on 64x64, {rows} rows a shard, against linear", found, linear, "shards/s")


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """A scheduler in a process of its own, and so many workers: its address, and the process."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "scheduler.json"
        local = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        processes = [start(place, "dask", "scheduler", "--scheduler-file", str(file), *local)]
        try:
            while not file.exists():
                sleep(0.05)
            address = json.loads(file.read_text())["address"]
            for first in range(0, workers, IN_PROCESS):
                count = min(IN_PROCESS, workers - first)
                processes.append(start(place, "benchmarks.sleepers", address, str(count)))
            yield address, psutil.Process(processes[0].pid)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def start(folder: str, *words: str) -> "subprocess.Popen[bytes]":
    """A module of Python's as a program, in silence."""
    with (Path(folder) / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log, env={**os.environ})


@dataclass(frozen=True)
class Found:
    """What a run took: its seconds, and those of the processor in the scheduler and in the driver."""

    seconds: float
    scheduler: float
    driver: float


def slept(workers: int, shards: int, milliseconds: int) -> Found:
    """So many shards by so many workers whose teachers sleep."""
    plan = list(Layout(shards, 1, 1, 1).all_shards())
    order = Order(1, Experiment.model_validate(NOTHING), job_of(LabelSpec("dense", 10, "float16"), shards, shards))
    with (
        quiet(),
        cluster(workers) as (address, scheduler),
        Client(address, set_as_default=False) as client,
        patch.object(errand, "label", label),
    ):
        client.wait_for_workers(workers)
        with Crew(client, Nothing(), order) as crew:
            _run(plan[:workers], crew, 1)  # connections are made by the first tasks
        before, begun = sum(scheduler.cpu_times()[:2]), perf_counter()
        mine = process_time()
        with Crew(client, Nothing(), order) as crew:
            _run(plan, crew, milliseconds)
        seconds = perf_counter() - begun
        return Found(seconds, sum(scheduler.cpu_times()[:2]) - before, process_time() - mine)


def _run(plan: list[Shard], crew: Crew, milliseconds: int) -> None:
    """The driver's loop; a task brings its time where it has the attempt."""
    run_dask(plan, crew, attempt=milliseconds, shards=len(plan), stopped=lambda: False, progress=lambda _: None)


def simulated(*, quick: bool) -> Iterator[Row]:
    """From one worker to 64; and as many tasks as the scheduler and the driver bear."""
    milliseconds, each = (200, 4) if quick else (MILLISECONDS, EACH)
    most = (QUICK_WORKERS if quick else WORKERS)[-1]
    for workers in QUICK_WORKERS if quick else WORKERS:
        found = slept(workers, workers * each, milliseconds)
        name = f"{workers} simulated worker{'s' * (workers > 1)}, {milliseconds / 1000:g} s a shard"
        linear = 1000 * workers / milliseconds
        yield compared(f"{name}, against linear", [workers * each / found.seconds], [linear], "shards/s")
        yield Row(f"{name}: the scheduler's share of a core", 100 * found.scheduler / found.seconds, "%")
        yield Row(f"{name}: the driver's share of a core", 100 * found.driver / found.seconds, "%")
    flood = QUICK_FLOOD if quick else FLOOD
    found = slept(most, flood, 0)
    yield Row(f"{most} simulated workers, shards of no time: the most", flood / found.seconds, "shards/s")
    for who, taken in (("scheduler", found.scheduler), ("driver", found.driver)):
        yield Row(f"the processor's time in the {who} for a shard", 1000 * taken / flood, "ms")
        yield Row(f"the same for {MANY:,} shards", taken / flood * MANY / 60, "minutes")
    yield Row(f"the most workers that {TYPICAL} s a shard leave busy", TYPICAL * flood / found.seconds, "workers")


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="6 shards, 1 and 4 simulated workers, one round.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    rows = [*real(1 if quick else rounds, quick=quick), *simulated(quick=quick)]
    publish("cluster", rows, keep=not quick)


if __name__ == "__main__":
    main()
