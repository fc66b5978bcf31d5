"""Rows encoded a block at a time, so the memory needed besides the logits is a few blocks, however large the batch.

Nor need the logits themselves ever be whole: `Deferred` ones are made when a block of them is wanted.

Shape legend
    N  rows
    L  positions of a record
    R  rows of all positions
    C  classes
    E  width of what a network's last layer is given
    X  the shape of a row's logits: C, or [L, C] of a record of positions
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.errors import TeacherError

CACHED, WHOLE, RESIDENT = 2**21, 2**24, 2**26
"""Logits of a block: on a CPU what its caches hold, or, of a record, what is worth a matrix product; elsewhere enough
that a kernel takes longer than its launch."""


@dataclass(frozen=True)
class Deferred:
    """Logits that are yet to be made: by `head`, of the `hidden` vectors that a network's last layer is given.

    Each call of `made` makes them anew, and gives the same.
    """

    hidden_NLE: Tensor
    head: Callable[[Tensor], Tensor]
    classes: int

    @property
    def shape(self) -> torch.Size:
        """[N, L, C]."""
        return torch.Size((*self.hidden_NLE.shape[:-1], self.classes))

    @property
    def device(self) -> torch.device:
        """Where they will be."""
        return self.hidden_NLE.device

    def of(self, rows: slice, positions: slice = slice(None)) -> "Deferred":
        """Those of some records, or of some positions of these."""
        return replace(self, hidden_NLE=self.hidden_NLE[rows, positions])

    def made(self) -> Tensor:
        """Logits [N, L, C]; those beyond the classes are padding, and left out.

        Raises:
            TeacherError: the head gives something else.

        """
        logits = self.head(self.hidden_NLE)
        if logits.shape[:-1] != self.hidden_NLE.shape[:-1] or logits.shape[-1] < self.classes:
            raise TeacherError(
                f"The teacher's head gives logits of shape {list(logits.shape)} for {list(self.hidden_NLE.shape)}; "
                f"{list(self.shape)} was expected, or more classes. Mend `head` of its network."
            )
        return logits[..., : self.classes]


Logits = Tensor | Deferred


def made(logits_NLC: Logits) -> Tensor:
    """Logits, made if they are not yet."""
    return logits_NLC.made() if isinstance(logits_NLC, Deferred) else logits_NLC


def part(logits_NLC: Logits, rows: slice, positions: slice = slice(None)) -> Logits:
    """Those of some records, or of some positions of these; nothing is made."""
    return logits_NLC.of(rows, positions) if isinstance(logits_NLC, Deferred) else logits_NLC[rows, positions]


def steps(logits_NLC: Logits) -> Iterator[tuple[slice, list[slice]]]:
    """Records as many as make a block, and the positions that do: all of them, where a record is less than a block."""
    records, positions, classes = logits_NLC.shape
    most = WHOLE if logits_NLC.device.type == "cpu" else RESIDENT
    rows = max(1, most // max(1, positions * classes))
    length = positions if rows * positions * classes <= most else max(1, most // classes)
    for row in range(0, max(1, records), rows):  # no records make an empty block
        yield slice(row, row + rows), [slice(at, at + length) for at in range(0, positions, length)]


def in_blocks(encode: Callable[..., dict[str, Tensor]], logits_NX: Tensor, *others: Tensor) -> dict[str, Tensor]:
    """What `encode` makes of each block of logits in float32, and of the same rows of the others, put together."""
    most = CACHED if logits_NX.device.type == "cpu" else RESIDENT
    rows = max(1, most // max(1, logits_NX.shape[1:].numel()))
    blocks = (torch.split(each, rows) for each in (logits_NX, *others))
    return joined([encode(block.to(torch.float32), *same) for block, *same in zip(*blocks, strict=True)])


def joined(parts: list[dict[str, Tensor]], axis: int = 0) -> dict[str, Tensor]:
    """Records of blocks as one."""
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts], dim=axis) for name in parts[0]}
