"""A teacher that sleeps, for `benchmarks.cluster`: what its workers are asked for. Imports nothing heavy."""

import asyncio
import sys
import threading
import time
from collections import defaultdict

from distributed import Worker, WorkerPlugin, get_worker

_asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class Nothing(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """What these workers are told of a run."""


def label(token: int, number: int, milliseconds: int) -> None:  # noqa: ARG001 - every task of a run brings these
    """A shard: whoever has the worker's teacher sleeps, and the other task waits for it."""
    with _asking[get_worker().address]:
        time.sleep(milliseconds / 1000)


async def serve(address: str, count: int) -> None:
    """So many workers of two threads in this process, until it is ended."""
    workers = [Worker(address, nthreads=2, memory_limit=0, dashboard=False) for _ in range(count)]
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
