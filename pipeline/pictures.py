"""Pictures as arrays: the one door to Pillow.

Shape legend: C channels, H height, W width.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {each.name.lower(): each for each in Image.Resampling if each.name != "HAMMING"}
)
"""Ways to resize, by name."""


def resized(
    image_CHW: NDArray[np.generic],
    size: tuple[int, int],
    interpolation: str,
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """A part of an image, brought to a size.

    Args:
        image_CHW: uint8, of 1 or 3 channels.
        size: height and width.
        interpolation: one of `FILTERS`.
        box: left, top, right and bottom of the part, in pixels; None for all of it.

    Returns:
        `[C, *size]`.

    """
    height, width = size
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), FILTERS[interpolation], box)
    found = np.asarray(picture)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)  # noqa: PLR2004 - grey has no channel axis
