"""The workers of a Dask cluster: one of our own on this machine, or any that runs. The one door to `distributed`.

Importing this takes a second, so only a run on a cluster does. A run tells each worker what it is about by a plugin,
which Dask passes on to workers that come later too; a task brings numbers.
"""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any

import distributed
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin
from distributed.comm import get_address_host_port
from distributed.utils import LoopRunner

from pipeline.errors import ClusterError, ConfigError
from pipeline.executors import desk
from pipeline.executors.crew import Crew
from pipeline.executors.desk import Order
from pipeline.executors.rota import IN_FLIGHT
from pipeline.executors.surroundings import address_of, quiet, refuse_shared, refuse_silent

CONNECT_SECONDS = 10
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TRIM = "MALLOC_TRIM_THRESHOLD_"


class _Posting(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Tells a worker of a run as it comes, and clears its desk in the end."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def setup(self, worker: Worker) -> None:
        """Lay out the order: nothing is loaded before the first task."""
        desk.begin(self.order, worker.state.nthreads)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - Dask calls it so
        """Clear the desk."""
        desk.end(self.order.token)


@contextmanager
def joined(scheduler: str, order: Order) -> Iterator[Crew]:
    """The workers of a cluster that runs.

    Args:
        scheduler: its address, or the file that it wrote it to.
        order: what the run is about.

    Raises:
        ClusterError: no scheduler answers.
        ConfigError: it is neither an address nor such a file.

    """
    address = address_of(scheduler)
    with quiet(), _client(address) as client, Crew(client, _Posting(order), order) as crew:
        yield crew


@contextmanager
def local(workers: int, gpus: Sequence[str], order: Order) -> Iterator[Crew]:
    """Workers on this machine, one process each, which end with this one however it ends.

    Args:
        workers: how many.
        gpus: what CUDA calls the GPUs; the first worker sees the first one alone, and so on. Empty: none sees any.
        order: what the run is about.

    Raises:
        ClusterError: two workers see the same GPU.

    """
    with quiet(), _settings(order.threads or 1), _loop() as loop:
        cluster = SpecCluster(
            scheduler={"cls": Scheduler, "options": _scheduler()},
            workers={
                number: {"cls": Nanny, "options": _worker(number, gpus[number : number + 1])}
                for number in range(workers)
            },
            loop=loop,
            name="softlabels",
        )
        with cluster, _client(cluster.scheduler_address) as client, Crew(client, _Posting(order), order) as crew:
            if gpus:
                refuse_shared(crew.devices())
            yield crew


def _scheduler() -> dict[str, object]:
    """Only this machine can reach it."""
    shown = find_spec("bokeh") is not None
    return {
        "host": "127.0.0.1",
        "port": 0,
        "protocol": "tcp://",
        "dashboard": shown,
        "dashboard_address": "127.0.0.1:0" if shown else None,
    }


def _worker(number: int, gpu: Sequence[str]) -> dict[str, object]:
    """No limit of memory: the nanny would kill a worker whose pages are a dataset's, mapped."""
    return {
        "host": "127.0.0.1",
        "nthreads": IN_FLIGHT,
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.CRITICAL + 1,
        "env": {"CUDA_VISIBLE_DEVICES": gpu[0]} if gpu else {},
        "name": number,
    }


@contextmanager
def _client(address: str) -> Iterator[Client]:
    try:
        get_address_host_port(address)  # a client that finds out for itself has begun a thread by then, which stays
        refuse_silent(address, CONNECT_SECONDS)
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="softlabels")
    except ValueError as error:
        raise ConfigError(f"--scheduler {address}: this is no address of a Dask scheduler: {error}.") from error
    except OSError as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address} within {CONNECT_SECONDS} s. Check the address, and that this "
            "machine can reach it; or start one with `dask scheduler`, or do without: --workers N."
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError):
            client.close(timeout=CONNECT_SECONDS)


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """Dask's own settings for workers of ours, while they live.

    A worker may have children, as the DataLoader of a user's dataset has: a daemon may not. Its arithmetic has as many
    threads as are its share, where Dask would give it one. And it keeps memory that it will need for the next batch: by
    Dask's setting each array that a teacher on a CPU makes would come from the kernel anew, and go back, page by page.
    """
    worker, nanny = distributed.config["distributed"]["worker"], distributed.config["distributed"]["nanny"]
    before, environment = (dict(worker), dict(nanny)), dict(os.environ)
    worker.update(daemon=False, profile={**worker["profile"], "enabled": False})
    nanny["pre-spawn-environ"] = {
        **nanny["pre-spawn-environ"],
        **dict.fromkeys(THREADS, threads),
        TRIM: None,  # glibc then sees for itself what size comes and goes
    }
    try:
        yield
    finally:
        for settings, was in zip((worker, nanny), before, strict=True):
            settings.clear()
            settings.update(was)
        os.environ.clear()  # Dask leaves the workers' settings in our own
        os.environ.update(environment)


@contextmanager
def _loop() -> Iterator[Any]:
    """The thread that starts workers. It is deaf to Ctrl-C, and so are they: a terminal tells all, and we tell them."""
    resource_tracker.ensure_running()  # which lets its caller hear again: so it is not the thread below that starts it
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    runner = LoopRunner()
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    try:
        yield runner.loop
    finally:
        runner.stop()
