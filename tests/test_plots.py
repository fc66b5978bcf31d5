"""Plots are pictures, whatever is drawn."""

import pytest

from pipeline.plots import Spot, pace, sizes, spots


@pytest.mark.parametrize("names", [("a", "b"), ("$", "\u6f22"), ("a", "a")], ids=["plain", "strange", "equal"])
def test_points_are_drawn_wherever_they_are(names: tuple[str, str]) -> None:
    """Law: a point that costs nothing has a place on a logarithmic axis, and equal points do not hide each other."""
    first, second = (Spot(name, across, 90.0, 0.5) for name, across in zip(names, (0, 1608), strict=True))
    pictures = {spots({"panel": found}, "bytes", "accuracy") for found in ([first], [first, second], [first, first])}
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize(
    "hosts",
    [
        {"a": [(0.0, 100.0)]},
        {"a": [(0.0, 121.0), (90.0, 129.0)], "_b$": [(300.0, 5.0)]},
        {"\u6f22\n\x00" * 20: [(0.0, 5e27), (8e11, 1e-12)]},
        {f"host {number}": [(9000.0 * number, 10.0 + number)] for number in range(30)},
        {},
    ],
    ids=["one shard", "two hosts", "what no clock says", "many hosts", "nothing known"],
)
def test_the_pace_of_any_hosts_is_drawn(hosts: dict[str, list[tuple[float, float]]]) -> None:
    """Law: whatever they are called, however far apart; another pace is another picture."""
    slower = {host: [(seconds, rate / 7) for seconds, rate in points] for host, points in hosts.items()}
    drawn = pace(hosts)
    assert drawn.startswith(b"\x89PNG")
    assert (drawn == pace(slower)) == (not hosts)


def test_sizes_are_drawn_in_falling_order() -> None:
    """Law: which cluster is which does not matter, how large they are does."""
    assert sizes([3.0, 0.0, 7.0]) == sizes([7.0, 3.0, 0.0]) != sizes([7.0, 2.0, 1.0])
