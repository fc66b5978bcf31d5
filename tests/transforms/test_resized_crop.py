"""Crops of chance brought to one size, by Pillow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from river_cases import STEADY

from pipeline.errors import ConfigError
from pipeline.transforms import Name
from pipeline.transforms.resized_crop import resized_crop


def ramp(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image whose first channel tells the column and whose last the row."""
    image = np.zeros((channels, height, width), np.uint8)
    image[-1] = np.arange(height)[:, None] * 4
    image[0] = np.arange(width) * 4
    return image


@STEADY
@given(st.integers(0, 2**63 - 1), st.integers(8, 60), st.integers(8, 60))
def test_a_view_is_a_part_of_the_image_within_the_bounds(seed: int, height: int, width: int) -> None:
    """Law: its box lies inside, and its ratio is one that was asked for, to the rounding of sides."""
    transform = resized_crop(16, scale=(0.3, 0.8), ratio=(0.8, 1.25))
    left, top, right, bottom = transform._box(np.random.default_rng(seed), height, width)  # noqa: SLF001 - the law is its own
    wide, high = right - left, bottom - top
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert 0.8 * (high - 1) <= wide + 1
    assert wide - 1 <= 1.25 * (high + 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_the_whole_image_is_what_pillow_makes_of_it(channels: int, flip: bool) -> None:
    """Law: with a share of one and its own ratio it is resized as Pillow does, and mirrored half of the time."""
    image = ramp(32, 32, channels)
    transform = resized_crop(8, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)
    pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)
    array = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR))
    expected = array[None] if channels == 1 else array.transpose(2, 0, 1)
    views = transform(np.stack([image] * 64), [Name(seed, 0) for seed in range(64)])
    mirrored = sum(np.array_equal(view, expected[..., ::-1]) for view in views)
    assert sum(np.array_equal(view, expected) for view in views) + mirrored == 64
    assert (10 < mirrored < 54) if flip else mirrored == 0


def test_where_no_crop_fits_the_largest_in_the_middle_is_taken() -> None:
    """Law: of an image much wider than any ratio asked for."""
    transform = resized_crop(4, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    assert transform._box(np.random.default_rng(0), 10, 40) == (15, 0, 25, 10)  # noqa: SLF001 - the law is its own


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"scale": [0.5, 1.2]}, {"ratio": [2, 1]}, {"scale": [0.5]}, {"interpolation": "magic"}]
)
def test_sizes_that_are_none_are_refused(options: dict) -> None:
    """Law: with what was found and what is expected."""
    with pytest.raises(ConfigError, match=r"resized_crop with size = .*expected a positive size"):
        resized_crop(**{"size": 8, **options})


def test_what_are_no_bytes_are_refused() -> None:
    """Law: with dtype and shape."""
    with pytest.raises(ConfigError, match=r"of uint8, but the inputs of this dataset are float32 of shape \[3, 8, 8\]"):
        resized_crop(4)(np.zeros((1, 3, 8, 8), np.float32), [Name(0, 0)])
