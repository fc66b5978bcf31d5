"""What is drawn of a network that was tested: how right it is at which confidence, and what it takes for what.

A run keeps it beside its figures, so that a page is made without the network. Not for sequences, whose classes are
tokens.

Shape legend: C classes, M bins.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

BINS = 15  # of confidence
Count = Annotated[int, Field(ge=0, le=2**53)]
Bin = tuple[Count, Annotated[float, Field(ge=0)], Count]


class Counts(BaseModel):
    """Labelled rows, counted; counts of several tests add up.

    Attributes:
        classes: how many there are.
        class_names: their names, if they have any.
        bins: of each of 15 bins of confidence of equal width, how many rows there are, the sum of their confidences,
            and how many are right. A bin is above one edge, up to and with the next: Guo et al. (2017), "On calibration
            of modern neural networks", arXiv 1706.04599, section 2.
        confusion: true class, the class it was taken for and how many rows, where there are any; None of very many
            classes.

    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    classes: Annotated[int, Field(ge=1)]
    class_names: tuple[str, ...] | None
    bins: Annotated[tuple[Bin, ...], Field(min_length=BINS, max_length=BINS)]
    confusion: tuple[tuple[Count, Count, Count], ...] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} names of {self.classes} classes")
        if any(max(true, taken) >= self.classes for true, taken, _ in self.confusion or ()):
            raise ValueError(f"a class in the confusion that is none of {self.classes}")
        return self

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(rows for rows, _, _ in self.bins)

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean over rows of |accuracy - confidence| of their bin, Guo et al., eq. 3."""
        return sum(abs(right - confidence) for _, confidence, right in self.bins) / max(1, self.rows)

    def name(self, place: int) -> str:
        """What a class is called."""
        return str(place) if self.class_names is None else self.class_names[place]

    def matrix(self) -> NDArray[np.int64]:
        """Rows by true class and by the class they were taken for, [C, C]. Not for many classes."""
        matrix_CC = np.zeros((self.classes, self.classes), np.int64)
        for true, taken, rows in self.confusion or ():
            matrix_CC[true, taken] += rows
        return matrix_CC

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes: true class, what it was taken for, rows; equal ones by class."""
        wrong = [each for each in self.confusion or () if each[0] != each[1]]
        return sorted(wrong, key=lambda each: (-each[2], each))[:most]


def added(several: Sequence[Counts]) -> Counts | None:
    """The counts of several tests as of one; None if there are none, or they are not of the same classes."""
    if len({(each.classes, each.class_names, each.confusion is None) for each in several}) != 1:
        return None
    first, pairs = several[0], Counter[tuple[int, int]]()
    for each in several:
        pairs.update({(true, taken): rows for true, taken, rows in each.confusion or ()})
    return Counts(
        classes=first.classes,
        class_names=first.class_names,
        bins=tuple(
            (sum(rows for rows, _, _ in same), sum(sure for _, sure, _ in same), sum(right for _, _, right in same))
            for same in zip(*(each.bins for each in several), strict=True)
        ),
        confusion=None if first.confusion is None else tuple((*pair, rows) for pair, rows in sorted(pairs.items())),
    )
