"""Images moved by a few pixels, and mirrored: the augmentation of CIFAR and of Fashion-MNIST.

A crop of the image's own size out of the image with a border of zeros (He et al. 2016, arXiv 1512.03385, section 4.2),
mirrored or not. It has (2 pixels + 1)^2 outcomes, twice as many with flips. Not for digits and letters, which mirrored
are others: set flip = false.

Shape legend: N images, C channels, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.transforms.contract import Name

IMAGE_AXES = 4


def crop_flip(pixels: int = 4, *, flip: bool = True, every: bool = False) -> "CropFlip":
    """Crops of the image's own size, moved by up to so many pixels each way.

    Args:
        pixels: the most that it is moved by.
        flip: whether half of them are mirrored, left to right.
        every: view v is the v-th outcome, and none is drawn: as many views as there are outcomes are all of them.

    Raises:
        ConfigError: options that are no such numbers.

    """
    if type(pixels) is not int or pixels < 0 or type(flip) is not bool or type(every) is not bool:
        raise ConfigError(
            f"crop_flip with pixels = {pixels!r}, flip = {flip!r}, every = {every!r}: expected a whole number of "
            "pixels, 0 or more, and true or false."
        )
    return CropFlip(pixels, flip, every)


@dataclass(frozen=True)
class CropFlip:
    """The transform."""

    pixels: int
    flip: bool
    every: bool
    library = None

    @property
    def outcomes(self) -> int | None:
        """How many there are, if each is made in turn."""
        return self._count if self.every else None

    @property
    def _count(self) -> int:
        return (2 * self.pixels + 1) ** 2 * (1 + self.flip)

    def __call__(self, inputs_NX: NDArray[np.generic], names: list[Name]) -> NDArray[np.generic]:
        """`[N, C, H, W]`, of the same size."""
        if inputs_NX.ndim != IMAGE_AXES:
            raise ConfigError(
                f"crop_flip moves images [channels, height, width], but the inputs of this dataset are "
                f"{list(inputs_NX.shape[1:])}. Name another transform."
            )
        (height, width), edge = inputs_NX.shape[2:], self.pixels
        bordered = np.pad(inputs_NX, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
        views = np.empty_like(inputs_NX)
        for place, name in enumerate(names):
            down, right, mirrored = self._move(name)
            crop = bordered[place, :, down : down + height, right : right + width]
            views[place] = crop[..., ::-1] if mirrored else crop
        return views

    def _move(self, name: Name) -> tuple[int, int, int]:
        """Where the crop begins, and whether it is mirrored: the digits of a number."""
        rest, down = divmod((name.view if self.every else name.seed) % self._count, 2 * self.pixels + 1)
        mirrored, right = divmod(rest, 2 * self.pixels + 1)
        return down, right, mirrored
