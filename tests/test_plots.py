"""Plots are pictures, whatever is drawn."""

import pytest

from pipeline.plots import Spot, spots


@pytest.mark.parametrize("names", [("a", "b"), ("$", "\u6f22"), ("a", "a")], ids=["plain", "strange", "equal"])
def test_points_are_drawn_wherever_they_are(names: tuple[str, str]) -> None:
    """Law: a point that costs nothing has a place on a logarithmic axis, and equal points do not hide each other."""
    first, second = (Spot(name, across, 90.0, 0.5) for name, across in zip(names, (0, 1608), strict=True))
    pictures = {spots({"panel": found}, "bytes", "accuracy") for found in ([first], [first, second], [first, first])}
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
