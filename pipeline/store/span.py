"""One reserved stretch of addresses with files mapped into it, so that where a row lies is integer arithmetic.

Many maps at addresses of the kernel's choice would need a table of pointers and a call for each; in one stretch, rows
of any number of files are one list of offsets. Reserving takes addresses and no memory.

A file that is large enough begins on a huge page. Where the kernel holds it in huge pages too, as it does where a file
system can and the file was written in long strokes, one entry of the processor's table then stands for 512 pages, and
random rows of a cache of gigabytes seldom have to wait for a page to be looked up.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
MAP_COUNT = Path("/proc/sys/vm/max_map_count")
MAP_COUNT_DEFAULT = 65_530
HUGE_BYTES = 2**21  # of x86-64, and of arm64 with pages of 4 KiB; elsewhere it does no harm
MAP_FIXED = 0x10  # the same number on Linux and macOS; Python's `mmap` does not name it
UNMAPPABLE = frozenset({errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSYS})


class Span:
    """A stretch of addresses from a huge page's first on, given back when it and all arrays that see it are gone.

    Args:
        size: its length in bytes, a multiple of `mmap.PAGESIZE`.

    Raises:
        OSError: so many addresses are not to be had.

    """

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        reserved = mmap.mmap(-1, size + HUGE_BYTES, flags=flags, prot=0)
        self._address: int = _multiple(np.frombuffer(reserved, np.uint8).ctypes.data, HUGE_BYTES)
        # The same bytes by their address: torch warns of an array that says it is read-only, and never writes to it.
        window: Any = (ctypes.c_uint8 * size).from_address(self._address)
        window.owner = reserved
        self.bytes: Bytes = np.frombuffer(window, np.uint8)

    def place(self, offset: int, descriptor: int, size: int) -> None:
        """Map a file of `size` bytes at an offset that is a multiple of `mmap.PAGESIZE`, over what was there.

        Raises:
            OSError: as mmap(2).

        """
        # Private and shared maps that are never written share the same pages; some file systems refuse shared ones.
        flags = mmap.MAP_PRIVATE | MAP_FIXED
        at = _libc_mmap(self._address + offset, size, mmap.PROT_READ, flags, descriptor, 0)
        if at != self._address + offset:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def map_whole(descriptor: int) -> mmap.mmap:
    """A file that is not empty, mapped wherever the kernel likes; OSError if it cannot be."""
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def whole_pages(size: int) -> int:
    """The size of a file in bytes, rounded up to pages; to huge ones, if it fills one."""
    return _multiple(size, mmap.PAGESIZE if size < HUGE_BYTES else HUGE_BYTES)


def begins(sizes: Sequence[int], count: int) -> list[int]:
    """Where so many places of each of these sizes begin, one size after the other, and where the last one ends.

    >>> begins([4096, 2**21], 3) == [0, 2**21, 4 * 2**21]
    True
    """
    found, end = [], 0
    for size in sizes:
        found.append(end if size % HUGE_BYTES else _multiple(end, HUGE_BYTES))
        end = found[-1] + count * size
    return [*found, end]


def most_maps() -> int:
    """How many files one cache may have mapped at once.

    A quarter of what the kernel grants a process: a file may cost two of its maps (what is left of its slot is the
    second), and other caches and libraries need some too.
    """
    try:
        granted = int(MAP_COUNT.read_text())
    except (OSError, ValueError):
        granted = MAP_COUNT_DEFAULT
    return max(1, granted // 4)


def _multiple(number: int, unit: int) -> int:
    return -(-number // unit) * unit


_libc_mmap = ctypes.CDLL(None, use_errno=True).mmap
_libc_mmap.restype = ctypes.c_void_p
_libc_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
