"""Files to read: what the tests of several kinds write."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

IdxWriter: TypeAlias = Callable[..., Path]

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def _write_idx(path: Path, values: NDArray[np.generic], *, packed: bool = False) -> Path:
    head = bytes((0, 0, CODES[values.dtype.name], values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    content = head + values.astype(values.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return path


@pytest.fixture(scope="session")
def write_idx() -> IdxWriter:
    """Writes values as the IDX format says, independently of the reader; `packed` in gzip."""
    return _write_idx
