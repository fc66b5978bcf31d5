"""One reserved stretch of addresses with files mapped into it, so that where a row lies is integer arithmetic.

Many maps at addresses of the kernel's choice would need a table of pointers and a call for each; in one stretch, rows
of any number of files are one list of offsets. Reserving takes addresses and no memory.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
MAP_COUNT = Path("/proc/sys/vm/max_map_count")
MAP_COUNT_DEFAULT = 65_530
MAP_FIXED = 0x10  # the same number on Linux and macOS; Python's `mmap` does not name it
UNMAPPABLE = frozenset({errno.ENODEV, errno.EOPNOTSUPP, errno.ENOSYS})


class Span:
    """A stretch of addresses, given back when it and all arrays that see it are gone.

    Args:
        size: its length in bytes, a multiple of `mmap.PAGESIZE`.

    Raises:
        OSError: so many addresses are not to be had.

    """

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        reserved = mmap.mmap(-1, size, flags=flags, prot=0)
        self._address: int = np.frombuffer(reserved, np.uint8).ctypes.data
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
    """A size in bytes, rounded up to pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


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


_libc_mmap = ctypes.CDLL(None, use_errno=True).mmap
_libc_mmap.restype = ctypes.c_void_p
_libc_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
