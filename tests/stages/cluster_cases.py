"""Clusters of processes on this machine, and what is killed of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import distributed
import psutil

PATIENCE = 60
LOCAL = ("--no-dashboard", "--host", "127.0.0.1")


def until(true: Callable[[], bool]) -> None:
    """Return once something is so; fail if that takes a minute."""
    late = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < late, "it never came"
        time.sleep(0.01)


def receipts(folder: Path, cache: str = "cache") -> int:
    """How many shards of an experiment's cache are done."""
    return len(list((folder / cache / "receipts").glob("*.json")))


def unfinished(cache: Path) -> list[str]:
    """What killed workers have left in a cache."""
    return [path.name for path in cache.rglob("*") if path.name.startswith((".softlabels", "lock"))]


def children(process: int) -> list[psutil.Process]:
    """The worker processes of a driver or a nanny: not what else Python starts beside them."""
    try:
        return [each for each in psutil.Process(process).children() if "spawn_main" in " ".join(each.cmdline())]
    except psutil.NoSuchProcess:
        return []


@dataclass
class Cluster:
    """A scheduler and workers, each in a process of its own, started as a user starts them."""

    folder: Path
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """Where the scheduler says where it is."""
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        """Where that is."""
        return json.loads(self.file.read_bytes())["address"]

    @property
    def flags(self) -> tuple[str, ...]:
        """What `generate` is told of it."""
        return ("--scheduler", self.address)

    def start(self, program: str, *words: str) -> "subprocess.Popen[bytes]":
        """A scheduler or a worker; its words go to a file."""
        paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        with (self.folder / f"{program}-{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", program, "--scheduler-file", str(self.file), *words],
                    cwd=self.folder,
                    env={**os.environ, "PYTHONPATH": paths},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return self.processes[-1]

    def schedule(self) -> "subprocess.Popen[bytes]":
        """The scheduler."""
        started = self.start("scheduler", "--port", "0", *LOCAL)
        until(lambda: self.file.exists() and self.file.stat().st_size > 0)  # it is there before it is written
        return started

    def work(self, threads: int = 2) -> "subprocess.Popen[bytes]":
        """A worker and the nanny that begins it anew when it dies."""
        return self.start("worker", "--nthreads", str(threads), *LOCAL, "--local-directory", str(self.folder))

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes of its workers."""
        return [each for process in self.processes for each in children(process.pid)]

    def wait_for(self, workers: int) -> None:
        """Until so many workers are there."""
        with distributed.Client(self.address, set_as_default=False) as client:
            until(lambda: len(client.nthreads()) >= workers)

    def stop(self) -> None:
        """End all, without ceremony. Workers end with their nannies."""
        workers = self.workers
        for process in self.processes:
            process.kill()
            process.wait()
        psutil.wait_procs(workers, PATIENCE)


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """A cluster that does not outlive the test."""
    made = Cluster(folder)
    try:
        made.schedule()
        for _ in range(workers):
            made.work()
        made.wait_for(workers)
        yield made
    finally:
        made.stop()


def kill(process: "psutil.Process | subprocess.Popen[bytes]") -> None:
    """SIGKILL, and it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
