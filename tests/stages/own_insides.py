"""Networks with insides that a cache cannot keep."""

import torch
from torch import Tensor, nn


class Counts(nn.Module):
    """Answers in whole numbers."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, X] to [N, 1]."""
        return torch.ones(len(inputs), 1, dtype=torch.int64)


class Idle(nn.Module):
    """Has a module that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.counts, self.scale = nn.Identity(), Counts(), nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        self.counts(inputs)
        return inputs.flatten(1)[:, :3]


class Fickle(nn.Module):
    """Has a module whose answer depends on how many inputs there are."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.scale = nn.Identity(), nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        self.inside(inputs.flatten(1)[:, : 1 + len(inputs)])
        return inputs.flatten(1)[:, :3]


class Huge(nn.Module):
    """Has a module of which float16 does not hold the third row."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.scale = nn.Identity(), nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        rows = inputs.flatten(1)
        self.inside(rows * torch.where(torch.arange(len(rows)) == 2, 1e6, 1.0)[:, None])
        return rows[:, :3]
