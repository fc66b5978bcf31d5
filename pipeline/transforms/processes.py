"""A transform that draws from the generators of its process, run by processes that have nothing else to do.

In threads, two views would draw from one sequence, and so would the network's dropout. A process that may have no
children, as the worker of a `DataLoader`, is such a process itself, and runs it.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from threading import Lock, Thread
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import DatasetError
from pipeline.generators import untouched
from pipeline.transforms.contract import Name
from pipeline.transforms.own import Own

Array = NDArray[np.generic]


class InProcesses:
    """A transform of the user's, run elsewhere. May be pickled; the copy has processes of its own.

    Args:
        own: the transform.
        workers: how many processes, at most.

    """

    outcomes = None

    def __init__(self, own: Own, workers: int) -> None:
        self.own, self.workers = own, workers
        self.forget()
        _ALIVE.add(self)

    def forget(self) -> None:
        """Begin without processes: those of the process that this one was forked from are not its own."""
        self._pool: ProcessPoolExecutor | None = None
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["InProcesses"], tuple[Own, int]]:
        return InProcesses, (self.own, self.workers)

    @property
    def library(self) -> str | None:
        """The transform's."""
        return self.own.library

    def __call__(self, inputs_NX: Array, names: list[Name]) -> Array:
        """A view of each input, made by one of the processes.

        Raises:
            DatasetError: the transform raises, or its process was ended.

        """
        if multiprocessing.current_process().daemon:
            with untouched():
                return self.own(inputs_NX, names)
        try:
            return self._asked(inputs_NX, names).result()
        except BrokenProcessPool as error:
            self._pool = None
            raise DatasetError(
                f"views.transform: a process that ran {self.own.reference} was ended (was it killed for its memory?). "
                "Run the same command again to go on, with fewer [loading] workers if memory is short. A script of "
                'yours has to begin its work under `if __name__ == "__main__":`, since each process imports it.'
            ) from error

    def close(self) -> None:
        """End the processes. The next call starts others."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _asked(self, inputs_NX: Array, names: list[Name]) -> "Future[Array]":
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.workers,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_begin,
                    initargs=(self.own.reference, dict(self.own.options), list(sys.path)),
                )
            return self._pool.submit(_made, inputs_NX, names)


_ALIVE: WeakSet[InProcesses] = WeakSet()


def _forget_others() -> None:
    for each in list(_ALIVE):
        each.forget()


os.register_at_fork(after_in_child=_forget_others)

_own: list[Own] = []


def _begin(reference: str, options: Mapping[str, object], path: list[str]) -> None:
    """In a process of the pool: Ctrl-C is its parent's business, and it ends with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was spawned"
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    sys.path[:] = path
    torch.set_num_threads(1)
    _own[:] = [Own(reference, options)]


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)


def _made(inputs_NX: Array, names: list[Name]) -> Array:
    return _own[0](inputs_NX, names)
