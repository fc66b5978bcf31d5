"""The table of methods is whole, and its bytes are those of the encodings."""

import re
from pathlib import Path

import pytest

from pipeline import encodings
from pipeline.hints import HINTS
from pipeline.labels import LabelSpec
from pipeline.losses import LOSSES
from pipeline.store.layout import row_bytes

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
IDS = {10: 1, 1000: 2, 151_936: 3}


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    """Law: but for `standardise`, an option, `clusters`, a cache, and the heading."""
    rows = set(re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE))
    assert rows == {*LOSSES, *HINTS, "standardise", "clusters", "name"}


def test_every_row_says_all_that_the_heading_asks() -> None:
    """Law: name, paper, needs, bytes, when to use it and when not."""
    assert {line.count("|") for line in TEXT.splitlines() if line.startswith("| `")} == {7}


def stored(encoding: str, classes: int, **settings: object) -> int:
    """Bytes a row of labels, in float16."""
    spec = LabelSpec(encoding=encoding, classes=classes, dtype="float16", **settings)
    return sum(row_bytes(array) for array in encodings.arrays(spec))


@pytest.mark.parametrize("classes", IDS)
@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 2.0, 4.0)])
def test_the_formulas_of_bytes_are_those_of_the_encodings(classes: int, temperatures: tuple[float, ...]) -> None:
    """Law: of each formula that the text has, for ids of one, two and three bytes."""
    b, e, grid = IDS[classes], 2, len(temperatures)
    for formula in ("eC", "K(b + e) + 4G + 16", "(K + M)(b + e) + 4G + 20", "Kb + 2⌊K/3⌋ + 4", "min(n, C)(b + 1)"):
        assert formula in " ".join(TEXT.split())
    assert stored("dense", classes) == e * classes
    assert stored("multinomial", classes, k=50, temperatures=temperatures[:1]) == min(50, classes) * (b + 1)
    for k in (3, 7, 8):
        topk, head = {"k": k, "temperatures": temperatures}, {"k": k - 1, "tail": 2, "temperatures": temperatures}
        assert stored("topk", classes, **topk) == k * (b + e) + 4 * grid + 16
        assert stored("topk", classes, standardised=True, **topk) == k * (b + e) + 8 * grid + 16
        assert stored("head+sampled", classes, **head) == (k + 1) * (b + e) + 4 * grid + 20
        assert stored("sampled", classes, k=k, temperatures=temperatures[:1]) == k * b + 2 * (k // 3) + 4
