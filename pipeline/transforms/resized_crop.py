"""A part of an image, of a size and a form of chance, brought to one size: the augmentation of ImageNet.

Szegedy et al. (2015), arXiv 1409.4842, section 6: a crop of `scale` of the area and a `ratio` of width to height. As in
torchvision the logarithm of the ratio is drawn, and there are ten tries, else the largest in the middle; then mirrored
or not. Resized by Pillow, with a filter that looks at all pixels.

Shape legend: N images, C channels (1 or 3), H height, W width, S size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.pictures import FILTERS, resized
from pipeline.transforms.contract import Name

TRIES = 10
IMAGE_AXES = 4
Box = tuple[float, float, float, float]


def resized_crop(
    size: int,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
    *,
    flip: bool = True,
) -> "ResizedCrop":
    """Crops of chance, brought to `size` x `size`.

    Args:
        size: pixels.
        scale: the least and the largest share of the image's area.
        ratio: the least and the largest width over height.
        interpolation: bilinear, bicubic, lanczos, box or nearest.
        flip: whether half of them are mirrored, left to right.

    Raises:
        ConfigError: options that are no such numbers.

    """
    ranges = [tuple(map(float, each)) for each in (scale, ratio)]
    fine = all(len(each) == 2 and 0 < each[0] <= each[1] for each in ranges) and ranges[0][1] <= 1  # noqa: PLR2004
    if not fine or size < 1 or interpolation not in FILTERS:
        raise ConfigError(
            f"resized_crop with size = {size}, scale = {scale}, ratio = {ratio}, interpolation = {interpolation!r}: "
            "expected a positive size, two rising shares of the area up to 1, two rising ratios, and one of "
            f"{', '.join(FILTERS)}."
        )
    return ResizedCrop(size, (ranges[0][0], ranges[0][1]), (ranges[1][0], ranges[1][1]), interpolation, flip)


@dataclass(frozen=True)
class ResizedCrop:
    """The transform."""

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    flip: bool
    library = "pillow"
    outcomes = None

    def __call__(self, inputs_NX: NDArray[np.generic], names: list[Name]) -> NDArray[np.generic]:
        """`[N, C, S, S]` of `[N, C, H, W]`."""
        if inputs_NX.ndim != IMAGE_AXES or inputs_NX.dtype != np.uint8:
            raise ConfigError(
                f"resized_crop takes images [channels, height, width] of uint8, but the inputs of this dataset are "
                f"{inputs_NX.dtype} of shape {list(inputs_NX.shape[1:])}. Name another transform."
            )
        views = np.empty((*inputs_NX.shape[:2], self.size, self.size), np.uint8)
        for place, name in enumerate(names):
            draws = np.random.default_rng(name.seed)
            box = self._box(draws, *inputs_NX.shape[2:])
            view = resized(inputs_NX[place], (self.size, self.size), self.interpolation, box)
            views[place] = view[..., ::-1] if self.flip and draws.random() < 1 / 2 else view
        return views

    def _box(self, draws: np.random.Generator, height: int, width: int) -> Box:
        """Left, top, right and bottom of a crop."""
        for _ in range(TRIES):
            area = height * width * draws.uniform(*self.scale)
            ratio = math.exp(draws.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left, top = int(draws.integers(0, width - wide + 1)), int(draws.integers(0, height - high + 1))
                return left, top, left + wide, top + high
        wide = min(width, round(height * self.ratio[1]))
        high = min(height, round(width / self.ratio[0]))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high
