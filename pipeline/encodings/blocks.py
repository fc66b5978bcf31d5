"""Rows encoded a block at a time, so the memory needed besides the logits is a few blocks, however large the batch.

Shape legend
    N  rows
    X  the shape of a row's logits: C, or [L, C] of a record of positions
"""

from collections.abc import Callable

import torch
from torch import Tensor

CACHED, RESIDENT = 2**21, 2**26
"""Logits of a block: on a CPU what its caches hold; elsewhere enough that a kernel takes longer than its launch."""


def in_blocks(encode: Callable[..., dict[str, Tensor]], logits_NX: Tensor, *others: Tensor) -> dict[str, Tensor]:
    """What `encode` makes of each block of logits in float32, and of the same rows of the others, put together."""
    most = CACHED if logits_NX.device.type == "cpu" else RESIDENT
    rows = max(1, most // max(1, logits_NX.shape[1:].numel()))
    blocks = (torch.split(each, rows) for each in (logits_NX, *others))
    parts = [encode(block.to(torch.float32), *same) for block, *same in zip(*blocks, strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
