"""A user's own transforms, named in experiments as `own_transforms:NAME`."""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def noisy(scale: float = 1.0) -> Callable[..., np.ndarray]:
    """Noise of the generator that it is given."""
    return lambda x, generator: x + generator.normal(scale=scale, size=x.shape).astype(x.dtype)


def shaken() -> Callable[[np.ndarray], np.ndarray]:
    """Noise of all three generators that a process has."""

    def transform(x: np.ndarray) -> np.ndarray:
        assert os.getpid() != MAIN or "as a daemon" in sys.argv
        drawn = random.random() + np.random.standard_normal() + torch.rand(1).item()  # noqa: NPY002, S311 - these are what it is about
        return (x + drawn).astype(np.float32)

    return transform


class Shifted(torch.nn.Module):
    """A module of torch's, as torchvision has them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Moved by a number of torch's."""
        return x + torch.rand(1)


def forgetful() -> Callable[..., np.ndarray]:
    """It counts, so no view can be made twice."""
    calls = iter(range(10**9))
    return lambda x, _: x + next(calls)


def ragged() -> Callable[..., np.ndarray]:
    """Views of different lengths."""
    return lambda x, generator: x.reshape(-1)[: generator.integers(1, 5)]


def widening() -> Callable[..., np.ndarray]:
    """Views of the input's type at first, and of another later."""
    calls = iter(range(10**9))
    return lambda x, _: x if next(calls) < 1 else x.astype(np.float64)


def complex_views() -> Callable[..., np.ndarray]:
    """What no tensor of ours can hold."""
    return lambda x, _: x + 1j


def failing(where: str = "call") -> Callable[..., np.ndarray]:
    """An error when it is made, or when it is called."""
    if where == "build":
        raise ValueError("no such strength")

    def transform(x: np.ndarray) -> np.ndarray:
        raise ValueError(f"this image is {x.dtype}")

    return transform


def deadly() -> Callable[[np.ndarray], np.ndarray]:
    """It takes its process with it."""
    return lambda x: os.kill(os.getpid(), signal.SIGKILL) or x


def slow(diary: str) -> Callable[[np.ndarray], np.ndarray]:
    """It writes the number of its process to a file, and sleeps."""

    def transform(x: np.ndarray) -> np.ndarray:
        with Path(diary).open("a") as file:
            file.write(f"{os.getpid()}\n")
        signal.pause()
        return x

    return transform


def number() -> int:
    """No transform."""
    return 3


MAIN = int(os.environ.setdefault("MAIN_OF_TESTS", str(os.getpid())))
