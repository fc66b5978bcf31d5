"""Some arrays of a cache, read together: from rows' places to their numbers.

Shape legend
    A  arrays of the selection, by width
    K  terms of the sum that says where a row begins
    N  rows
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import ArraySpec
from pipeline.store.layout import row_bytes
from pipeline.store.residence import Residence
from pipeline.store.windows import Out, Windows

Rows = NDArray[np.int64]
Found = dict[str, NDArray[np.generic]]


class Selection:
    """Arrays of a cache, and what is known of them before any row is asked for.

    Args:
        residence: the cache's mapped files.
        chosen: the arrays, in the order in which they are wanted.

    """

    def __init__(self, residence: Residence, chosen: Sequence[ArraySpec]) -> None:
        self.specs = tuple(chosen)
        self._residence, self._layout = residence, residence.layout
        specs = residence.specs
        self._arrays = sorted(map(specs.index, chosen), key=lambda array: row_bytes(specs[array]))
        self._ready = residence.new_flags()
        self._groups: list[tuple[int, int, Windows]] = []
        factors: list[NDArray[np.float64]] = []
        for _, same in groupby(self._arrays, key=lambda array: row_bytes(specs[array])):
            arrays = list(same)
            windows = Windows(residence.span.bytes, [specs[array] for array in arrays])
            self._groups.append((len(factors), len(factors) + len(arrays), windows))
            factors += [np.array(residence.coefficients(array), np.float64) / windows.unit for array in arrays]
        self._factors_AK = np.array(factors)
        self._in_order = self._arrays == [specs.index(spec) for spec in chosen]

    def gather(self, places_N: Rows, out: Out | None) -> Found:
        """The rows at places that count every shard as full. Raises as `Residence.once_ready`."""
        chunks_N = places_N // self._layout.chunk_rows
        if self._residence.may_evict:
            with self._residence.reading():
                found = self._gather_ready(places_N, chunks_N, out)
        else:
            found = self._gather_ready(places_N, chunks_N, out)
        return self._gather_first(places_N, chunks_N, out) if found is None else found

    def _gather_ready(self, places_N: Rows, chunks_N: Rows, out: Out | None) -> Found | None:
        """The rows, or None if some cannot be read as they lie."""
        if np.count_nonzero(self._ready.take(chunks_N)) < chunks_N.size:
            return None
        shards_N = places_N // self._layout.shard_rows
        terms_KN = np.empty((self._factors_AK.shape[1], places_N.size))
        terms_KN[0], terms_KN[1], terms_KN[2], terms_KN[3] = places_N, chunks_N, shards_N, 1
        if self._residence.may_evict:
            terms_KN[4] = self._residence.slots_of(shards_N)
        begins_AN = (self._factors_AK @ terms_KN).astype(np.int64)
        found: Found = {}
        for first, end, windows in self._groups:
            found.update(windows.gather(begins_AN[first:end], out))
        return found if self._in_order else {spec.name: found[spec.name] for spec in self.specs}

    def _gather_first(self, places_N: Rows, chunks_N: Rows, out: Out | None) -> Found:
        """The rows, after mapping and proving what they are in; by parts, if they are of more shards than have room."""
        shards_N = places_N // self._layout.shard_rows
        shards = np.unique(shards_N)
        if shards.size > self._residence.slots:
            return self._gather_by_parts(places_N, np.searchsorted(shards, shards_N) // self._residence.slots, out)

        def read() -> Found:
            found = self._gather_ready(places_N, chunks_N, out)
            assert found is not None, "chunks that were made ready, and nobody else may map"
            return found

        return self._residence.once_ready(self._arrays, self._ready, chunks_N, read)

    def _gather_by_parts(self, places_N: Rows, parts_N: Rows, out: Out | None) -> Found:
        whole = dict(out) if out is not None else {}
        for part in range(int(parts_N.max()) + 1):
            where = np.flatnonzero(parts_N == part)
            for name, array in self.gather(places_N[where], None).items():
                whole.setdefault(name, np.empty((places_N.size, *array.shape[1:]), array.dtype))[where] = array
        return {spec.name: whole[spec.name] for spec in self.specs}
