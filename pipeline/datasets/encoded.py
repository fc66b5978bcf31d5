"""Encoded pictures: what the kinds of dataset that decode have in common.

Shape legend: N samples, B rows asked for at once.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DatasetError
from pipeline.pictures import DamagedError, decoded

REFUSE, SKIP = "refuse", "skip"
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "box", "nearest")


class Shelf(Protocol):
    """Encoded pictures by position, read by any number of threads at once."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, place: int) -> str:
        """What an error calls this picture."""

    def content(self, place: int) -> bytes:
        """The bytes of this picture as they are stored; a DatasetError if they cannot be read."""


@dataclass(frozen=True)
class Cut:
    """How pictures are brought to one size, and what becomes of those that do not decode."""

    size: int
    crop: float = 1.0
    interpolation: str = "bilinear"
    damaged: str = REFUSE

    def __post_init__(self) -> None:
        """Refuse what is no way to do so."""
        if self.size < 1 or not 0 < self.crop <= 1:
            raise DatasetError(
                f"found size = {self.size} and crop = {self.crop}, expected a size of 1 or more, and a crop above 0 "
                "and at most 1. Correct them."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise DatasetError(
                f"found interpolation = {self.interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}."
            )
        if self.damaged not in (REFUSE, SKIP):
            raise DatasetError(f"found damaged = {self.damaged!r}, expected {REFUSE!r} or {SKIP!r}.")

    def of(self, content: bytes) -> NDArray[np.uint8]:
        """`[3, size, size]`: an encoded picture, decoded and cut.

        Raises:
            DamagedError: it does not decode.

        """
        return decoded(content, self.size, self.crop, self.interpolation)


@dataclass(frozen=True, eq=False)
class PictureDataset:
    """The pictures at some places of a shelf, decoded anew whenever they are asked for."""

    shelf: Shelf
    places: NDArray[np.int64]
    cut: Cut
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    skipped: tuple[str, ...]
    """The names of those that were left out, as they do not decode."""
    classes: int | None = None

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """The dtype of a batch."""
        return np.dtype(np.uint8)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (3, self.cut.size, self.cut.size)

    def __len__(self) -> int:
        return len(self.places)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, 3, size, size]`: the pictures at these positions.

        Raises:
            DatasetError: one of them cannot be read, or does not decode.

        """
        batch = np.empty((len(rows), *self.input_shape), self.input_dtype)
        for row, place in enumerate(self.places[rows].tolist()):
            try:
                batch[row] = self.cut.of(self.shelf.content(place))
            except DamagedError as error:
                raise DatasetError(
                    f"{self.shelf.name(place)}: this picture cannot be decoded: {error}. Restore or remove it, or say "
                    f'damaged = "{SKIP}" to leave out all that do not decode.'
                ) from error
        return batch


def from_shelf(
    shelf: Shelf,
    cut: Cut,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> PictureDataset:
    """The pictures of a shelf that are not left out; `ids` and `labels` are of all.

    Raises:
        DatasetError: one cannot be read, or all would be left out.

    """
    places = np.arange(len(shelf), dtype=np.int64)
    if cut.damaged != SKIP:
        return PictureDataset(shelf, places, cut, ids, labels, class_names, ())
    reasons = {place: reason for place in places.tolist() if (reason := _damage(shelf, place, cut))}
    if reasons and len(reasons) == len(places):
        raise DatasetError(
            f"{shelf.name(0)}: this picture cannot be decoded: {reasons[0]}; nor can any other of {len(places)}, and "
            f'damaged = "{SKIP}" would leave none. Point at pictures, or correct `size` and `crop`.'
        )
    kept = np.delete(places, list(reasons))
    skipped = tuple(map(shelf.name, reasons))
    return PictureDataset(shelf, kept, cut, ids[kept], None if labels is None else labels[kept], class_names, skipped)


def _damage(shelf: Shelf, place: int, cut: Cut) -> str | None:
    """Why a picture does not decode; None if it does."""
    content = shelf.content(place)
    try:
        cut.of(content)
    except DamagedError as error:
        return str(error)
    return None


def stable_ids(keys: Sequence[str], name: Callable[[int], str]) -> NDArray[np.int64]:
    """`[N]`: the ids of samples that are told apart by a text; `name` is what an error calls the one at a position.

    Raises:
        DatasetError: two of them would have one id, or a text is no UTF-8.

    """
    ids = np.array([_id_of(key) for key in keys], dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(same):
        one, other = (name(int(order[same[0] + step])) for step in (0, 1))
        raise DatasetError(
            f"{one} and {other}: both have the id {ids[order[same[0]]]}, expected an id of its own for each: soft "
            "labels are found by id. Rename one of the two, or what it is in."
        )
    return ids


def _id_of(key: str) -> int:
    """The first 8 bytes of a text's SHA-256, little-endian, without the lowest bit: in [0, 2**63)."""
    try:
        text = key.encode()
    except UnicodeEncodeError:
        raise DatasetError(f"{key!r}: this name is no UTF-8, expected one that is. Rename it.") from None
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1
