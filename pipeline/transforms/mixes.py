"""Views of two samples: mixup and cutmix. A mixed view has no true label; the teacher's answer to it is what it has.

Which sample is the partner is drawn by the view's name, as all else, so it may be of any batch: the teacher is asked
about the same mixture whose labels the student gets (Beyer et al. 2022, arXiv 2106.05237).

Shape legend: N views, X the shape of one, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Array = NDArray[np.generic]
Mix = Callable[[Array, Array, float, np.random.Generator], Array]
IMAGE_AXES = 3


def mixup(one_X: Array, other_X: Array, share: float, _: np.random.Generator) -> Array:
    """`share` of one and 1 - `share` of the other: mixup, Zhang et al. (2018), arXiv 1710.09412.

    Whole numbers are rounded.
    """
    mixed = np.float32(share) * one_X.astype(np.float32) + np.float32(1 - share) * other_X.astype(np.float32)
    return mixed.round().astype(one_X.dtype) if one_X.dtype.kind in "biu" else mixed.astype(one_X.dtype)


def cutmix(one_X: Array, other_X: Array, share: float, draws: np.random.Generator) -> Array:
    """One, with a box of the other in it, of 1 - share of the area: Yun et al. (2019), arXiv 1905.04899, equation 2."""
    if one_X.ndim != IMAGE_AXES:
        raise ConfigError(
            f"views.mix: cutmix cuts images [channels, height, width], and these inputs are {list(one_X.shape)}. Use "
            "mixup."
        )
    height, width = one_X.shape[1:]
    high, wide = height * math.sqrt(1 - share), width * math.sqrt(1 - share)
    middle_y, middle_x = draws.uniform(0, height), draws.uniform(0, width)
    top, bottom = (round(min(max(middle_y + side * high / 2, 0), height)) for side in (-1, 1))
    left, right = (round(min(max(middle_x + side * wide / 2, 0), width)) for side in (-1, 1))
    mixed = one_X.copy()
    mixed[:, top:bottom, left:right] = other_X[:, top:bottom, left:right]
    return mixed


MIXES: Mapping[str, Mix] = MappingProxyType({"cutmix": cutmix, "mixup": mixup})
