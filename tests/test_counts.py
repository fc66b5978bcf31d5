"""What is drawn of a run: adds up, and is what a run wrote."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.counts import BINS, Counts, added
from pipeline.errors import CorruptError
from pipeline.runs import read_counts


def counts(*pairs: tuple[int, int, int], classes: int = 3, names: tuple[str, ...] | None = None) -> Counts:
    """Of these pairs, all rows of them half sure."""
    rows, right = sum(many for *_, many in pairs), sum(many for true, taken, many in pairs if true == taken)
    bins = tuple((rows, rows / 2, right) if place == 7 else (0, 0.0, 0) for place in range(BINS))
    return Counts(classes=classes, class_names=names, bins=bins, confusion=pairs)


def test_mistakes_come_by_how_often_they_are_made() -> None:
    """Law: the diagonal is no mistake; of equal ones the first class comes first."""
    found = counts((0, 0, 9), (0, 1, 2), (1, 0, 5), (2, 1, 2))
    assert found.confused(3) == [(1, 0, 5), (0, 1, 2), (2, 1, 2)]
    assert found.confused(1) == [(1, 0, 5)]
    assert (found.rows, found.ece) == (18, pytest.approx(0))
    assert found.matrix().tolist() == [[9, 2, 0], [5, 0, 0], [0, 2, 0]]


@STEADY
@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), unique=True), min_size=1, max_size=4))
def test_counts_of_several_runs_add_up(several: list[list[tuple[int, int]]]) -> None:
    """Law: matrices, rows and what is right of them."""
    each = [counts(*((*pair, place + 1) for place, pair in enumerate(pairs))) for pairs in several]
    found = added(each)
    assert (found.matrix() == np.sum([one.matrix() for one in each], axis=0)).all()
    assert found.rows == sum(one.rows for one in each)
    assert found.bins[7][1:] == (found.rows / 2, np.trace(found.matrix()))


def test_counts_of_other_classes_do_not_add_up() -> None:
    """Law: nor of none."""
    assert added([]) is None
    assert added([counts(), counts(classes=4)]) is None
    assert added([counts(), counts(names=("a", "b", "c"))]) is None


def test_what_a_run_wrote_is_read_again(tmp_path: Path) -> None:
    """Law: as it was; and nothing, where nothing was written."""
    assert read_counts(tmp_path) is None
    kept = counts((0, 2, 4), names=("a", "b", "c"))
    (tmp_path / "test.json").write_text(kept.model_dump_json())
    assert read_counts(tmp_path) == kept


@pytest.mark.parametrize(
    "change",
    [
        ('"classes":3', '"classes":0'),
        ('"classes":3', '"classes":2'),
        ("[0,2,4]", "[0,3,4]"),
        ("[0,2,4]", "[0,-1,4]"),
        ("[0,2,4]", "[0,2]"),
        ('["a","b","c"]', '["a","b"]'),
        ("[[0,0.0,0],", "["),
        ("[0,0.0,0]", "[0,1e999,0]"),
        ("{", "["),
    ],
)
def test_what_no_run_wrote_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    """Law: with the name of the file and what to do."""
    path, kept = tmp_path / "test.json", counts((0, 2, 4), names=("a", "b", "c")).model_dump_json()
    assert change[0] in kept
    path.write_text(kept.replace(*change, 1))
    with pytest.raises(CorruptError, match=rf"^{path} is not what a run wrote \(.*Delete it to do without its plots"):
        read_counts(tmp_path)
