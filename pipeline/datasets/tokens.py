"""Texts as tokens: windows of a stream of documents, or the documents one by one.

Shape legend: B rows asked for at once, R rows of a sample (see `pipeline.sequences`), L positions of a sample.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.streams import BLOCK
from pipeline.datasets.texts import Texts, texts_of_array, texts_of_folder
from pipeline.datasets.token_folder import DESCRIPTION
from pipeline.errors import DatasetError

PACKED, DOCUMENTS = LAYOUTS = ("packed", "documents")
CUT, REFUSE = LONG = ("cut", "refuse")


class TokensDataset:
    """Samples of tokens; nothing is read before it is asked for, but what tells documents apart."""

    def __init__(self, texts: Texts, length: int, layout: str) -> None:
        self._texts, self._length, self._packed = texts, length, layout == PACKED
        count = -(-len(texts) // length) if texts.starts is None or self._packed else len(texts.starts)
        self.ids: NDArray[np.int64] = np.arange(count, dtype=np.int64)
        self.labels = None if self._packed else texts.labels
        self.class_names = None if self._packed else texts.class_names
        self.classes: int | None = texts.vocabulary if self._packed else None
        self.positions: int | None = length if self._packed else None
        self.tokenizer_sha256 = texts.tokenizer
        self.input_shape: tuple[int, ...] = (3 if self._packed else 2, length)
        self.input_dtype: np.dtype[np.generic] = np.dtype(np.int32)
        self._targets: int | None = None if self._packed else 0

    def __len__(self) -> int:
        return len(self.ids)

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """`[B, R, L]`: the samples at these positions.

        Raises:
            DatasetError: a token is outside the vocabulary, or cannot be read.

        """
        from pipeline.sequences import IDS, NONE, POSITIONS, TARGETS  # noqa: PLC0415 - loads torch: not for `inspect`

        starts_B, stops_B = self._bounds(rows)
        there_BL = np.arange(self._length) < (stops_B - starts_B)[:, None]
        ids_BL = np.zeros(there_BL.shape, np.int32)
        ids_BL[there_BL] = self._texts.read(starts_B, stops_B)
        batch = np.full((len(rows), *self.input_shape), NONE, np.int32)
        batch[:, IDS] = ids_BL
        batch[:, POSITIONS] = np.where(there_BL, _since(self._begins(ids_BL, starts_B, stops_B)), NONE)
        if self._packed:
            learnt_BL = batch[:, POSITIONS] > 0
            mask = self._texts.learnt(starts_B, stops_B)
            if mask is not None:
                learnt_BL[there_BL] &= mask
            batch[:, TARGETS, :-1] = np.where(learnt_BL[:, 1:], ids_BL[:, 1:], NONE)
        return batch

    @property
    def target_count(self) -> int:
        """How many tokens of all samples are to be foretold. Counted once; read through for it if need be."""
        if self._targets is None:
            self._targets = self._counted()
        return self._targets

    def _counted(self) -> int:
        texts = self._texts
        if texts.mask is None and texts.starts is not None:
            # Every token is foretold but the first of each document and of each window.
            inner = sum(int(np.count_nonzero(block[:-1] % self._length)) for block in texts.starts.blocks())
            return len(texts) - len(self) - inner
        if texts.mask is None and texts.end is None:
            return len(texts) - len(self)
        step = max(1, BLOCK // self._length)
        batches = (self.inputs(self.ids[start : start + step]) for start in range(0, len(self), step))
        return sum(int(np.count_nonzero(batch[:, -1] != -1)) for batch in batches)

    def _bounds(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the stream these samples begin and end."""
        if self._packed or self._texts.starts is None:
            starts_B = rows.astype(np.int64) * self._length
            return starts_B, np.minimum(starts_B + self._length, len(self._texts))
        starts_B, stops_B = self._texts.starts.of(rows)
        return starts_B, np.minimum(stops_B, starts_B + self._length)

    def _begins(
        self, ids_BL: NDArray[np.int32], starts_B: NDArray[np.int64], stops_B: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Where documents begin, `[B, L]`. What is before a window is not seen, so one begins with it."""
        begins_BL = np.zeros(ids_BL.shape, np.bool_)
        if self._packed and self._texts.starts is not None:
            row, place = self._texts.starts.within(starts_B, stops_B)
            begins_BL[row, place] = True
        elif self._packed and self._texts.end is not None:
            begins_BL[:, 1:] = ids_BL[:, :-1] == self._texts.end
        begins_BL[:, 0] = True
        return begins_BL


def from_tokens(
    path: str | Path,
    length: int,
    *,
    layout: str = PACKED,
    long: str = CUT,
    dtype: str | None = None,
    vocabulary: int | None = None,
    end: int | None = None,
    mask: str | Path | None = None,
) -> TokensDataset:
    """Samples of `length` tokens, of a folder that `softlabels tokenize` wrote or of an array of one's own.

    In the layout "packed" a sample is a window of the stream, int32 `[3, length]`, whose tokens are to be foretold,
    each from those before it in its document and its window; the classes are the vocabulary. In "documents" it is a
    document, `[2, length]`, or its beginning, which may have a label. With long = "refuse" a document that is longer is
    an error.

    Not for arrays that may change or shrink while they are read: they are mapped. An array of one's own is read through
    once where documents have to be found (layout = "documents", long = "refuse"), and what of it is to be learnt is
    counted by reading it through. Compressed chunks of HDF5 and Zarr are decoded whole for every window in them.

    Raises:
        DatasetError: there is no such thing, or it is damaged, or does not go together.

    """
    if length < 2:  # noqa: PLR2004 - a token to read and one to foretell
        raise DatasetError(f"{path}: found length = {length}, expected 2 or more tokens a sample. Correct `length`.")
    if layout not in LAYOUTS or long not in LONG:
        raise DatasetError(
            f"{path}: found layout = {layout!r} and long = {long!r}, expected one of {', '.join(LAYOUTS)} and one of "
            f"{', '.join(LONG)}. Correct them."
        )
    place, own = Path(path), {"dtype": dtype, "vocabulary": vocabulary, "end": end, "mask": mask}
    if (place / DESCRIPTION).exists():
        given = [name for name, value in own.items() if value is not None]
        if given:
            raise DatasetError(
                f"{path}: found {', '.join(given)}, which this folder says itself; they are of arrays of your own. "
                "Leave them out."
            )
        texts = texts_of_folder(place)
    else:
        texts = texts_of_array(place, dtype, vocabulary, end, mask, split=layout == DOCUMENTS or long == REFUSE)
    if layout == DOCUMENTS and texts.starts is None:
        raise DatasetError(
            f'{path}: found layout = "documents" and no `end`, expected the token that ends a document, which tells '
            'them apart. Set `end`, or layout = "packed".'
        )
    if long == REFUSE:
        texts.refuse_longer(length)
    return TokensDataset(texts, length, layout)


def _since(begins_BL: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many places ago the last beginning was, `[B, L]`."""
    places = np.arange(begins_BL.shape[1], dtype=np.int32)
    return places - np.maximum.accumulate(np.where(begins_BL, places, 0), axis=1)
