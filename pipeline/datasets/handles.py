"""A handle that each process opens for itself.

h5py handles that were opened before a fork give wrong data (pytorch#11887), and no open file survives a pickle. So a
handle is opened on first use, remembered with the process that opened it, and left behind by fork and pickle alike.
"""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Handle = TypeVar("Handle")


class PerProcess(Generic[Handle]):
    """`opener()`, called once in each process; `opener` itself must be picklable."""

    def __init__(self, opener: Callable[[], Handle]) -> None:
        self._opener = opener
        self._held: tuple[int, Handle] | None = None

    def get(self) -> Handle:
        """The handle of the process that asks."""
        held = self._held
        if held is None or held[0] != os.getpid():
            # The parent's handle goes first: while it lives, HDF5 answers from it and opens nothing anew.
            self._held = held = None
            self._held = held = (os.getpid(), self._opener())
        return held[1]

    def __getstate__(self) -> dict[str, object]:
        return {"_opener": self._opener, "_held": None}
