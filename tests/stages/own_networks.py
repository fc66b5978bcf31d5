"""A user's own networks, named in experiments as `own_networks:NAME`."""

import ctypes
from pathlib import Path
from time import sleep

import torch
from torch import Tensor, nn


class Echo(nn.Module):
    """Logits that are pixels of the input times `scale`, so that a test knows them; NaN where the first pixel says so.

    The samples of the test datasets carry their id in their first pixel.
    """

    def __init__(self, outputs: int = 3, scale: float = 1.0, sick: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.outputs, self.sick = outputs, sick
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, outputs]` of `[N, 1, 4, 4]`."""
        pixels = x.flatten(1)
        logits = pixels[:, 1 : 1 + self.outputs] * self.scale
        logits[torch.isin(pixels[:, 0], torch.tensor(self.sick))] = float("nan")
        return logits


class Patient(nn.Module):
    """A linear network that takes `seconds` a batch; once the file `after` exists, it waits while the file `hold` does.

    So a test stops a run at a known place without a race. With `native` it waits where Python has no say. It adds a dot
    to the file `asked` for every row that it is asked about.
    """

    def __init__(self, seconds: float = 0.0, after: str = "", asked: str = "", *, native: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.seconds, self.after, self.asked, self.native = seconds, after, asked, native

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3]` of `[N, 1, 4, 4]`."""
        sleep(self.seconds)
        if self.asked:
            with Path(self.asked).open("a") as file:
                file.write("." * len(x))
        while self.after and Path(self.after).exists() and Path("hold").exists():
            if self.native:
                ctypes.CDLL(None).usleep(10**7)  # no handler of Python's runs meanwhile
            sleep(0.005)
        return self.linear(x.flatten(1))


class Broken(nn.Module):
    """Fails, whatever it is asked."""

    def forward(self, x: Tensor) -> Tensor:
        """Raise."""
        raise ValueError(f"out of order at {x.ndim} axes")


def no_network() -> str:
    """Something else than a network."""
    return "a network"
