"""A user's own code that kills, raises and counts, named in experiments as `own_mortals:NAME`."""

import os
import signal
from pathlib import Path
from time import time

import numpy as np
import torch
from own_networks import Patient
from stage_cases import images
from torch import Tensor
from torch.utils.data import DataLoader


class Mortal(Patient):
    """The patient network, whose process is killed at samples of these ids, with all else it was at.

    It writes the number of its process to the file `built` when it is made, and when it is asked about which samples to
    the file `diary`.
    """

    def __init__(self, deadly: tuple[int, ...] = (), built: str = "", diary: str = "", **options: object) -> None:
        super().__init__(**options)
        self.deadly, self.diary = deadly, diary
        if built:
            with Path(built).open("a") as file:
                file.write(f"{os.getpid()}\n")

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3]` of `[N, 1, 4, 4]`, whose first pixel is the id, normalised."""
        ids = (x.flatten(1)[:, 0] * 64 + 128).round()
        if self.diary:
            with Path(self.diary).open("a") as file:
                file.write("".join(f"{time()} {number:.0f}\n" for number in ids.tolist()))
        if torch.isin(ids, torch.tensor(self.deadly)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class OddError(Exception):
    """One that cannot be pickled, as it is made of two things and remembers a file."""

    def __init__(self, row: int, place: str) -> None:
        super().__init__(f"row {row} of {place}")
        self.file = Path(__file__).open()  # noqa: SIM115 - it is what cannot be pickled

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("not to be pickled")


class Spoilt:
    """Fifty labelled samples, of which row 30 cannot be read until the file `mended` is there."""

    targets = np.arange(50) % 3
    classes = 3

    def __init__(self, mended: str = "") -> None:
        self.mended = mended

    def __len__(self) -> int:
        return 50

    def __getitem__(self, row: int) -> np.ndarray:
        if row == 30 and not Path(self.mended).is_file():
            raise OddError(row, "the archive")
        return images(50)[row][None]


class Loaded(Spoilt):
    """The same, read by processes of its own, as torch's DataLoader has them; all of it can be.

    Unless memory goes back to the kernel array by array: Dask's setting for its workers.
    """

    read: np.ndarray | None = None

    def __getitem__(self, row: int) -> np.ndarray:
        if self.read is None:
            assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
            self.read = torch.cat(list(DataLoader(Plain(), batch_size=25, num_workers=2))).numpy()
        return self.read[row]


class Plain:
    """What those processes read."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, row: int) -> np.ndarray:
        return images(50)[row][None]
