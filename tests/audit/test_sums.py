"""What is made of the rows of one shard adds up, and every row is in one bin."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audit.rows import ROW
from pipeline.audit.sums import TAIL_EDGES, Part, parts


def rows(**columns: list[float]) -> NDArray[np.void]:
    """Rows of which some columns are given; the others are 0."""
    made = np.zeros(len(next(iter(columns.values()))), ROW)
    for name, column in columns.items():
        made[name] = column
    return made


PARTS = parts(3)


@pytest.mark.parametrize(
    ("name", "column", "value", "place"),
    [
        ("calibration", "confidence", 0.2, 2),  # the end of the third bin of 15: it has its upper edge, not its lower
        ("calibration", "confidence", 0.2000001, 3),
        ("calibration", "confidence", 1.0, 14),
        ("calibration", "confidence", 1e-9, 0),
        ("tail", "tail", 0.0, 0),
        ("tail", "tail", 1e-300, 1),
        ("tail", "tail", TAIL_EDGES[40], 40),
        ("tail", "tail", np.nextafter(TAIL_EDGES[40], 1), 41),
        ("tail", "tail", 1.0, TAIL_EDGES.size - 1),
    ],
)
def test_a_row_on_an_edge_is_in_the_bin_below(name: str, column: str, value: float, place: int) -> None:
    """Law: bins have their upper edge, as in Guo et al.; one row is in one bin."""
    made = PARTS[name].of(rows(**{column: [value]}))
    count = made[0] if name == "calibration" else made
    assert count.nonzero()[0].tolist() == [place]
    assert count.sum() == 1


def test_an_entropy_beyond_its_ends_by_rounding_is_in_the_first_or_last_bin() -> None:
    """Law: no row is lost; what is left open is at the middle; what is not known is nowhere."""
    most = math.log(3)
    low, high = [-1e-17, most + 1e-15, 0.2 * most, math.nan], [-1e-17, most + 1e-15, 0.4 * most, math.nan]
    made = PARTS["entropy"].of(rows(entropy_low=low, entropy_high=high))
    assert made.nonzero()[0].tolist() == [0, 15, 49]


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_parts_of_two_shards_make_those_of_both(part: Part) -> None:
    """Law: by their sum or their maximum; of any rows they have the shape that is said."""
    random = np.random.default_rng(0)
    both = rows(label=random.integers(-1, 3, 40).tolist(), top=random.integers(0, 3, 40).tolist())
    for name in ("confidence", "p_true", "entropy_low", "entropy_high", "tail"):
        both[name] = random.uniform(0, 1, 40)
    first, second = part.of(both[:17]), part.of(both[17:])
    merged = first + second if part.merge == "sum" else np.maximum(first, second)
    np.testing.assert_allclose(merged, part.of(both))
    assert merged.shape == part.shape
