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


class Detached(nn.Module):
    """Answers with what it does not let be derived by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        return self.linear(inputs.detach().flatten(1))


class _Once(torch.autograd.Function):
    """The identity, whose derivative has none."""

    @staticmethod
    def forward(_: object, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_: object, gradient: Tensor) -> Tensor:
        return gradient.clone()


class Once(nn.Module):
    """Can be derived once, and not again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        return self.linear(_Once.apply(inputs.flatten(1)))


class Keeping(nn.Module):
    """Makes a table when it first answers, and keeps it; it writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(16, 3), None

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        if self.table is None:
            self.table = torch.linspace(0.5, 1.5, 16)
        return self.linear(inputs.flatten(1).mul_(self.table).tanh_())


class Hasty(nn.Module):
    """Writes into what a module of its own has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.rectified = nn.Linear(16, 3), nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        rectified: Tensor = self.rectified(self.inside(inputs.flatten(1)))
        return rectified


class Sick(nn.Module):
    """Has a module that answers NaN to the sample 7, whose id is its first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.scale = nn.Identity(), nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4], of which views.std is 64, to [N, 3]."""
        rows = inputs.flatten(1)
        self.inside(rows[:, :8] / (rows[:, :1] != 7 / 64))
        return rows[:, :3]
