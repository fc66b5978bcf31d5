"""Crops with a border, mirrored or not: all outcomes there are, and none else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.errors import ConfigError
from pipeline.transforms import Name
from pipeline.transforms.crop_flip import crop_flip

IMAGES = np.random.default_rng(0).integers(1, 256, (3, 2, 5, 6), np.uint8)


def every_view(image: np.ndarray, pixels: int, *, flip: bool) -> set[bytes]:
    """By hand: each move of the image over zeros, and its mirror."""
    _, height, width = image.shape
    found = set()
    for down in range(-pixels, pixels + 1):
        for right in range(-pixels, pixels + 1):
            view = np.zeros_like(image)
            for y in range(height):
                for x in range(width):
                    if 0 <= y + down < height and 0 <= x + right < width:
                        view[:, y, x] = image[:, y + down, x + right]
            found |= {view.tobytes(), view[..., ::-1].tobytes() if flip else view.tobytes()}
    return found


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_every_outcome_is_made_once(pixels: int, flip: bool) -> None:
    """Law: with `every`, view v of as many as there are is each of them, once."""
    transform = crop_flip(pixels, flip=flip, every=True)
    assert transform.outcomes == (2 * pixels + 1) ** 2 * (2 if flip else 1)
    names = [Name(0, view) for view in range(transform.outcomes)]
    made = [view.tobytes() for view in transform(np.repeat(IMAGES[:1], len(names), axis=0), names)]
    assert set(made) == every_view(IMAGES[0], pixels, flip=flip)
    assert len(set(made)) == len(made)


@STEADY
@given(st.integers(0, 2**63 - 1), st.integers(0, 2), st.booleans())
def test_a_drawn_view_is_one_of_the_outcomes(seed: int, pixels: int, flip: bool) -> None:
    """Law: for every seed."""
    transform = crop_flip(pixels, flip=flip)
    assert transform.outcomes is None
    (view,) = transform(IMAGES[1:2], [Name(seed, 7)])
    assert view.tobytes() in every_view(IMAGES[1], pixels, flip=flip)


def test_seeds_reach_every_outcome_as_often() -> None:
    """Of 50 outcomes each comes once in fifty seeds, as far as chance goes: chi-squared with 49 degrees of freedom."""
    transform, count = crop_flip(2), 5000
    names = [Name(seed, 0) for seed in np.random.default_rng(1).integers(0, 2**63, count).tolist()]
    _, found = np.unique(
        [view.tobytes() for view in transform(np.repeat(IMAGES[:1], count, 0), names)], return_counts=True
    )
    assert found.size == 50
    assert ((found - count / 50) ** 2 / (count / 50)).sum() < 85  # one in a thousand is beyond


@pytest.mark.parametrize("options", [{"pixels": -1}, {"pixels": 1.5}, {"flip": 1}, {"every": "no"}, {"pixels": True}])
def test_options_that_are_none_are_refused(options: dict) -> None:
    """Law: with what was found and what is expected."""
    with pytest.raises(ConfigError, match=r"crop_flip with pixels = .*expected a whole number of pixels, 0 or more"):
        crop_flip(**options)


def test_what_is_no_image_is_refused() -> None:
    """Law: with its shape."""
    with pytest.raises(ConfigError, match=r"moves images .* are \[3\]. Name another"):
        crop_flip()(np.zeros((2, 3)), [Name(0, 0)] * 2)
