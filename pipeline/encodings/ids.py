"""Class ids in the fewest bytes that hold them.

One, two, three or four bytes an id, little-endian; in three, an id is a row of three `uint8`, for no integer has that
width. The largest number of a form is no class's id, so that it can be the fill value: 65,535 classes fit two bytes,
16,777,215 three.

Shape legend
    K  ids of a row
"""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.labels import ArraySpec

NARROW = ("uint8", "uint16")
IN_THREE = 2**24 - 1
SHIFTS = (0, 8, 16)


def ids_array(name: str, classes: int, k: int) -> ArraySpec:
    """The array of K ids a row, each below `classes`.

    >>> [ids_array("ids", classes, 4).row_shape for classes in (65_535, 65_536, 2**24)]
    [(4,), (4, 3), (4,)]
    """
    if dtype := next((dtype for dtype in NARROW if classes <= np.iinfo(dtype).max), None):
        return ArraySpec(name, dtype, (k,), int(np.iinfo(dtype).max))
    if classes <= IN_THREE:
        return ArraySpec(name, "uint8", (k, len(SHIFTS)), 255)
    return ArraySpec(name, "uint32", (k,), 2**32 - 1)


def absent(classes: int) -> int:
    """The number that is no class's id, and in bytes the fill value: in a place where there is no id.

    >>> [absent(classes) for classes in (10, 1000, 100_000, 2**24)]
    [255, 65535, 16777215, 4294967295]
    """
    array = ids_array("ids", classes, 1)
    return (1 << 8 * np.dtype(array.dtype).itemsize * math.prod(array.row_shape)) - 1


def packed(ids_NK: Tensor, classes: int) -> Tensor:
    """Ids as they are stored.

    >>> packed(torch.tensor([[0, 65_536 + 2 * 256 + 3]]), 100_000).tolist()
    [[[0, 0, 0], [3, 2, 1]]]
    """
    spec = ids_array("", classes, ids_NK.shape[-1])
    if len(spec.row_shape) == 1:
        return ids_NK.to(getattr(torch, spec.dtype))
    return torch.stack([ids_NK >> shift & 255 for shift in SHIFTS], dim=-1).to(torch.uint8)


def unpacked(stored: Tensor) -> Tensor:
    """Ids in int64, `[N, K]`, from what `packed` made, or once made: see `four_bytes`."""
    if stored.ndim == 2:  # noqa: PLR2004 - [N, K]
        return stored.to(torch.int64)
    low, middle, high = stored.to(torch.int64).unbind(dim=-1)
    return low | middle << SHIFTS[1] | high << SHIFTS[2]


def four_bytes(array: ArraySpec) -> ArraySpec:
    """The array of ids as caches had it before there were three bytes; any other as it is."""
    if array.row_shape[1:] != (len(SHIFTS),):
        return array
    return ArraySpec(array.name, "uint32", array.row_shape[:1], 2**32 - 1)
