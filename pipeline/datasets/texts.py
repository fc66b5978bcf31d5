"""Tokens of many documents, one after the other, and all that is known of them.

Shape legend: B stretches asked for at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.checks import FEWEST_CLASSES, MOST_CLASSES
from pipeline.datasets.contract import integer_vector
from pipeline.datasets.npy import open_npy
from pipeline.datasets.streams import BLOCK, MARKS, MappedVector, Vector, blocks, open_vector
from pipeline.datasets.token_folder import LABELS, MASK, STARTS, TOKENS, read_description
from pipeline.errors import DatasetError


class Whole(Protocol):
    """Something that has an array."""

    def whole(self) -> NDArray[np.generic]:
        """The array."""


@dataclass(frozen=True, eq=False)
class Kept:
    """An array in memory."""

    array: NDArray[np.int64]

    def whole(self) -> NDArray[np.generic]:
        """The array."""
        return self.array


@dataclass(frozen=True, eq=False)
class Starts:
    """Where each document begins, rising, and where the last one ends."""

    held: Whole
    total: int

    def __len__(self) -> int:
        return len(self.held.whole())

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """All beginnings, block by block, each with the first of the next block, or with the end of all."""
        array = self.held.whole()
        for start in range(0, len(array), BLOCK):
            block = array[start : start + BLOCK + 1].astype(np.int64)
            yield block if len(block) > BLOCK else np.append(block, self.total)

    def of(self, documents_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where these documents begin and end."""
        array = self.held.whole()
        last = documents_B == len(array) - 1
        stops_B = np.where(last, self.total, array[np.where(last, 0, documents_B + 1)])
        return array[documents_B].astype(np.int64), stops_B.astype(np.int64)

    def within(
        self, starts_B: NDArray[np.int64], stops_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All beginnings in these stretches: the row of the stretch, and the place in it."""
        array = self.held.whole()
        first_B, beyond_B = np.searchsorted(array, starts_B), np.searchsorted(array, stops_B)
        counts_B = beyond_B - first_B
        rows = np.repeat(np.arange(len(starts_B)), counts_B)
        offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        return rows, array[first_B[rows] + offsets].astype(np.int64) - starts_B[rows]

    def refuse_unfit(self, what: str) -> None:
        """Raise DatasetError unless they rise from 0, all before the end."""
        first = int(self.held.whole()[0])
        number = 0
        for block in self.blocks():
            wrong = np.flatnonzero(np.diff(block) <= 0)
            if first or len(wrong):
                place, found = (number + int(wrong[0]), block[wrong[0]]) if len(wrong) and not first else (0, first)
                raise DatasetError(
                    f"{what}: document {place} begins at {found}, expected beginnings that rise from 0, all before the "
                    f"end at {self.total}. Make the tokens again."
                )
            number += len(block) - 1

    def refuse_longer(self, length: int, what: str) -> None:
        """Raise DatasetError if a document has more tokens than this."""
        number = 0
        for block in self.blocks():
            lengths = np.diff(block)
            if lengths.max() > length:
                place = int(np.flatnonzero(lengths > length)[0])
                raise DatasetError(
                    f"{what}: document {number + place} has {lengths[place]:,} tokens, expected at most length = "
                    f'{length:,}, as long = "refuse" has it. Set a larger `length`, or long = "cut", or shorten it.'
                )
            number += len(lengths)


@dataclass(frozen=True)
class Texts:
    """Tokens of all documents, and what is known of them."""

    path: Path
    stream: Vector
    vocabulary: int
    end: int | None = None
    """What ends a document, where it is not known otherwise."""
    starts: Starts | None = None
    mask: Vector | None = None
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    tokenizer: str | None = None

    def __len__(self) -> int:
        return self.stream.shape[0]

    def read(self, starts_B: NDArray[np.int64], stops_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of these stretches, one after the other.

        Raises:
            DatasetError: one of them is outside the vocabulary.

        """
        ids = _stretches(self.stream, starts_B, stops_B).astype(np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary):
            wrong = int(np.flatnonzero((ids < 0) | (ids >= self.vocabulary))[0])
            row = int(np.searchsorted(np.cumsum(stops_B - starts_B), wrong, side="right"))
            place = stops_B[row] - (np.cumsum(stops_B - starts_B)[row] - wrong)
            raise DatasetError(
                f"{self.path}: the token at place {place} is {ids[wrong]}, expected 0 to {self.vocabulary - 1}. "
                "Correct `vocabulary`, or make the tokens again: they are damaged, or another tokenizer's."
            )
        return ids

    def learnt(self, starts_B: NDArray[np.int64], stops_B: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which of these tokens are to be learnt; None for all."""
        if self.mask is None:
            return None
        found = _stretches(self.mask, starts_B, stops_B)
        if found.size and (found.min() < 0 or found.max() > 1):
            raise DatasetError(
                f"{self.path}: its mask holds {found.max() if found.max() > 1 else found.min()}, expected 1 where a "
                "token is to be learnt, and 0 where not. Write it so."
            )
        learnt: NDArray[np.bool_] = found == 1
        return learnt

    def refuse_longer(self, length: int) -> None:
        """Raise DatasetError if a document has more tokens than this."""
        starts = self.starts or Starts(Kept(np.zeros(1, np.int64)), len(self))
        starts.refuse_longer(length, str(self.path))


def texts_of_folder(folder: Path) -> Texts:
    """What `softlabels tokenize` wrote to a folder.

    Raises:
        DatasetError: it is damaged, or its parts do not go together.

    """
    said = read_description(folder)
    stream = open_vector(folder / TOKENS)
    if stream.shape != (said.tokens,):
        raise DatasetError(
            f"{folder / TOKENS}: found {stream.shape[0]} tokens, expected {said.tokens}, as the description beside it "
            "says. They are not of one run: make the tokens again."
        )
    held = MappedVector(folder / STARTS)
    if held.shape != (said.documents,) or held.dtype.kind not in "iu":
        raise DatasetError(
            f"{folder / STARTS}: found {held.dtype} of shape {list(held.shape)}, expected {said.documents} integers, "
            "the beginning of each document. Make the tokens again."
        )
    starts = Starts(held, said.tokens)
    starts.refuse_unfit(str(folder / STARTS))
    mask = _mask(folder / MASK, said.tokens) if (folder / MASK).exists() else None
    labels = _labels(folder / LABELS, said.documents) if (folder / LABELS).exists() else None
    return Texts(
        folder, stream, said.vocabulary, said.end, starts, mask, labels, said.class_names, said.tokenizer_sha256
    )


def texts_of_array(
    path: Path, dtype: str | None, vocabulary: int | None, end: int | None, mask: str | Path | None, *, split: bool
) -> Texts:
    """An array of tokens of one's own. With `split` it is read through for where documents begin, if `end` says.

    Raises:
        DatasetError: there is none, or it is empty, or not of tokens; or nothing says how many tokens there are.

    """
    stream = open_vector(path, dtype)
    total = stream.shape[0]
    if vocabulary is None or not FEWEST_CLASSES <= vocabulary <= MOST_CLASSES:
        raise DatasetError(
            f"{path}: found vocabulary = {vocabulary}, expected how many tokens there are, 2 or more: an array of your "
            "own does not say it. Set `vocabulary` to that of its tokenizer."
        )
    if end is not None and not 0 <= end < vocabulary:
        raise DatasetError(f"{path}: found end = {end}, expected a token, 0 to {vocabulary - 1}. Correct `end`.")
    if not total:
        raise DatasetError(f"{path}: found no token, expected enough for one sample. Point at an array of tokens.")
    starts = _scanned(stream, end) if split and end is not None else None
    return Texts(path, stream, vocabulary, end, starts, None if mask is None else _mask(Path(mask), total))


def _scanned(stream: Vector, end: int) -> Starts:
    """The beginnings of documents: 0, and whatever follows the token that ends one."""
    total = stream.shape[0]
    found = [np.flatnonzero(block == end) + (start + 1) for start, block in blocks(stream)]
    array = np.concatenate([np.zeros(1, np.int64), *found])
    return Starts(Kept(array[: np.searchsorted(array, total)]), total)


def _mask(path: Path, total: int) -> Vector:
    mask = open_vector(path, MARKS if path.suffix == ".bin" else None, what="marks")
    if mask.shape != (total,):
        raise DatasetError(
            f"{path}: found a mask of {mask.shape[0]} marks, expected {total}, one for each token. Make both of one "
            "stream."
        )
    if not any((block == 1).any() for _, block in blocks(mask)):
        raise DatasetError(
            f"{path}: found an empty mask, which has no 1, and leaves no token to learn; expected 1 where a token is "
            "to be learnt. Correct it, or leave it out."
        )
    return mask


def _labels(path: Path, documents: int) -> NDArray[np.int64]:
    labels = integer_vector(open_npy(path), str(path))
    if len(labels) != documents:
        raise DatasetError(
            f"{path}: found {len(labels)} labels for {documents} documents, expected one a document. Make the tokens "
            "again."
        )
    return labels


def _stretches(vector: Vector, starts_B: NDArray[np.int64], stops_B: NDArray[np.int64]) -> NDArray[np.generic]:
    """What lies in these stretches, one after the other. Those that follow each other are read at one go."""
    if not len(starts_B):
        return np.empty(0, vector.dtype)
    cuts = np.flatnonzero(starts_B[1:] != stops_B[:-1])
    firsts, lasts = starts_B[[0, *(cuts + 1)]], stops_B[[*cuts, -1]]
    return np.concatenate([vector.read(*each) for each in zip(firsts.tolist(), lasts.tolist(), strict=True)])
