"""Rows of one width, copied from any places of memory in one call, by whichever of three ways is fastest at that width.

The checksums between chunks leave rows at places that are no multiple of their width. So memory is seen as windows, one
from each byte on, that overlap: where a row begins is then the number of its window.

Shape legend
    A  arrays
    N  rows
"""

import os
from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pipeline.labels import ArraySpec
from pipeline.store.layout import row_bytes
from pipeline.store.shards import stored_dtype

Out = Mapping[str, NDArray[np.generic]]
Places = NDArray[np.int64]
Form = tuple[str, np.dtype[np.generic], tuple[int, ...]]
WORD = 4
MOST_BYTES = 2**63 - 1  # that NumPy and torch grant an array; windows count as if they did not overlap
WIDE = 512  # bytes; from here on torch's copy by several threads was measured to win, below it NumPy's smaller start
LONG, SLOW = 5e-5, 2e9  # a copy that takes longer than 50 us and a second for 2e9 bytes was waiting for a core
FEWEST_ALONE, MOST_ALONE = 64, 4096  # copies by one thread after such a wait


class Windows:
    """Arrays whose rows all have one width, in memory.

    Args:
        memory: the bytes, `[M]`, from an address that is a multiple of 4; M is one too, and M times the bytes of a row
            is `MOST_BYTES` at most.
        specs: the arrays.

    """

    def __init__(self, memory: NDArray[np.uint8], specs: Sequence[ArraySpec]) -> None:
        self._memory, self._width = memory, row_bytes(specs[0])
        self._forms: list[Form] = [(spec.name, stored_dtype(spec), spec.row_shape) for spec in specs]
        self._native = all(stored.isnative for _, stored, _ in self._forms)
        count = memory.size - self._width + 1
        self._items = np.ndarray((count,), np.dtype((np.void, self._width)), memory.data, strides=(1,))
        self._words = memory.view(np.int32)
        self._wide = torch.from_numpy(as_strided(memory, (count, self._width), (1, 1)))

    @property
    def unit(self) -> int:
        """What places are counted in: bytes, or words of four for rows of one word."""
        return WORD if self._width == WORD else 1

    def gather(self, places_AN: Places, out: Out | None) -> dict[str, NDArray[np.generic]]:
        """The rows that begin at these places, for each array `[n, *row_shape]`, in `out` where that is given."""
        if self._width >= WIDE:
            return {
                form[0]: self._gather_wide(form, places_N, out)
                for form, places_N in zip(self._forms, places_AN, strict=True)
            }
        rows_AN = self._words.take(places_AN) if self._width == WORD else self._items[places_AN]
        count, size = places_AN.shape[1], places_AN.shape[1] * self._width
        found: dict[str, NDArray[np.generic]] = {
            name: np.ndarray((count, *row_shape), stored, rows_AN, number * size)
            for number, (name, stored, row_shape) in enumerate(self._forms)
        }
        if self._native and out is None:
            return found
        return {name: _delivered(array, name, out) for name, array in found.items()}

    def _gather_wide(self, form: Form, places_N: Places, out: Out | None) -> NDArray[np.generic]:
        """Rows whose copying, not finding, takes the time."""
        name, stored, row_shape = form
        # A byte of both ends of every row first: so the processor waits for all pages at once.
        self._memory.take(places_N)
        self._memory.take(places_N + (self._width - 1))
        if not crew.is_free():
            rows_N = self._items[places_N]
            return _delivered(np.ndarray((places_N.size, *row_shape), stored, rows_N), name, out)
        straight = out is not None and stored.isnative
        array = out[name] if out is not None and straight else np.empty((places_N.size, *row_shape), stored)
        target = array.reshape(-1).view(np.uint8).reshape(places_N.size, self._width)
        begun = perf_counter()
        torch.index_select(self._wide, 0, torch.from_numpy(places_N), out=torch.from_numpy(target))
        crew.took(perf_counter() - begun, target.size)
        return array if straight else _delivered(array, name, out)


def _delivered(array: NDArray[np.generic], name: str, out: Out | None) -> NDArray[np.generic]:
    """Numbers as stored, in this machine's byte order, and in their place in `out` if there is one."""
    if out is not None:
        out[name][...] = array
        return out[name]
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class Crew:
    """Whether torch's threads are worth waiting for; one thread alone copies faster by NumPy.

    They halve the time where cores are free. Where other processes have the cores, the last thread to get one keeps the
    others waiting for milliseconds, a hundred times as long as the copy; so after such a wait the next copies are made
    by one thread, twice as many after each wait that follows. In a forked process the threads are gone, and torch would
    wait for ever. Who reads beside a network on the CPU has none: see `devices.for_one_thread`.
    """

    def __init__(self) -> None:
        self._gone, self._alone, self._rest = False, 0, FEWEST_ALONE

    def is_free(self) -> bool:
        """Whether to copy by torch now."""
        if self._alone:
            self._alone -= 1
        return not (self._gone or self._alone) and torch.get_num_threads() > 1

    def took(self, seconds: float, size: int) -> None:
        """Note how long torch took to copy `size` bytes."""
        if seconds > LONG + size / SLOW:
            self._alone, self._rest = self._rest, min(2 * self._rest, MOST_ALONE)
        else:
            self._rest = max(self._rest // 2, FEWEST_ALONE)

    def leave(self) -> None:
        """Never copy by torch again in this process, and never let torch use more than this thread.

        What is done with the rows next would hang too: a conversion of 256 wide ones is enough for OpenMP to wake its
        threads, and a forked process still counts on those of its parent.
        """
        self._gone = True
        torch.set_num_threads(1)


crew = Crew()
os.register_at_fork(after_in_child=crew.leave)
