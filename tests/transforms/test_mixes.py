"""Mixtures of two inputs: what share of each they have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.errors import ConfigError
from pipeline.transforms.mixes import MIXES, cutmix, mixup

ONE, OTHER = (np.random.default_rng(seed).integers(0, 256, (3, 9, 11), np.uint8) for seed in (0, 1))


def draws(seed: int = 0) -> np.random.Generator:
    """What a mix may draw from."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize("mix", MIXES.values(), ids=list(MIXES))
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_mixture_with_all_of_one_is_that_one(mix: object, dtype: str) -> None:
    """Law: in the dtype of the inputs; and neither of them is touched."""
    one, other = ONE.astype(dtype), OTHER.astype(dtype)
    mixed = mix(one, other, 1.0, draws())
    assert mixed.dtype == one.dtype
    np.testing.assert_array_equal(mixed, one)
    np.testing.assert_array_equal(one, ONE)


@STEADY
@given(st.floats(0, 1))
def test_mixup_is_the_weighted_mean(share: float) -> None:
    """Law: share one + (1 - share) other, rounded of whole numbers."""
    exact = share * ONE.astype(np.float64) + (1 - share) * OTHER
    assert np.abs(mixup(ONE, OTHER, share, draws()) - exact).max() <= 0.5 + 1e-4
    floats = mixup(ONE.astype(np.float32), OTHER.astype(np.float32), share, draws())
    np.testing.assert_allclose(floats, exact, rtol=0, atol=1e-4)


@STEADY
@given(st.floats(0, 1), st.integers(0, 1000))
def test_cutmix_is_one_with_a_box_of_the_other(share: float, seed: int) -> None:
    """Law: each pixel is of one or of the other, those of the other make a box of at most their share of the area."""
    mixed = cutmix(ONE, OTHER, share, draws(seed))
    of_other = (mixed != ONE).any(axis=0)
    np.testing.assert_array_equal(np.where(of_other, OTHER, ONE), mixed)
    rows, columns = np.flatnonzero(of_other.any(axis=1)), np.flatnonzero(of_other.any(axis=0))
    if rows.size:
        box = np.zeros_like(of_other)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal(np.where(box, OTHER, ONE), mixed)
        assert rows[-1] - rows[0] <= 9 * np.sqrt(1 - share) + 1
        assert columns[-1] - columns[0] <= 11 * np.sqrt(1 - share) + 1


def test_cutmix_of_what_is_no_image_is_refused() -> None:
    """Law: with its shape, and what would do."""
    with pytest.raises(ConfigError, match=r"cutmix cuts images .*these inputs are \[4\]. Use mixup"):
        cutmix(np.zeros(4), np.zeros(4), 0.5, draws())
