"""The rows of a cache of any size as a dask array, a block a shard. The one door to dask.

Nothing is read until something is computed; then each shard is read once, examined and added up, and a few are in
memory at a time, however many there are. Dask's threads do it, or the cluster of a `distributed` client, if one is
there.

Not for rows in another order than the cache's, or a few of them: `LabelCache.gather` reads just those.

Shape legend
    B  blocks: shards that are done
    N  rows of these (of records of positions, these)
    C  classes
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback
from numpy.typing import NDArray

from pipeline.ahead import loaders
from pipeline.audit.rows import ROW, examined
from pipeline.audit.sums import Part
from pipeline.errors import IncompleteError
from pipeline.labels import LabelSpec
from pipeline.store.mapped import LabelCache

FAN_IN = 4  # blocks that are added up at once


class Rows:
    """The rows of the shards that are done, by shard number.

    `examined` is a dask array `[N]` of `pipeline.audit.rows.ROW`: `rows.examined["entropy_low"].mean().compute()`.

    Args:
        cache: sealed or partial.
        spec: its labels.
        temperature: one that they know.
        confusion: whether p is added up by true class, too.

    Raises:
        IncompleteError: no shard is done.

    """

    def __init__(self, cache: LabelCache, spec: LabelSpec, temperature: float, *, confusion: bool = False) -> None:
        done_B = np.flatnonzero(cache.chains[cache.job.arrays[0].name] >= 0)
        if not done_B.size:
            raise IncompleteError(
                f"{cache.place}: none of its {cache.layout.shards} shards is done, so there is nothing to look at. Run "
                "the `softlabels generate` that began it."
            )
        self.shards = done_B.size
        sizes = tuple(cache.layout.shard(number).rows * (spec.positions or 1) for number in done_B.tolist())
        read = partial(_read, cache, spec, temperature, confusion)
        # Both arrays below come of one block, so that a shard is read once.
        self._blocks = da.from_array(done_B, chunks=1).map_blocks(read, dtype=object, meta=np.empty(0, object))
        self.examined = self._blocks.map_blocks(_rows, chunks=(sizes,), dtype=ROW, meta=np.empty(0, ROW))
        self._confusion = _stack(self._blocks, _sums, (spec.classes, spec.classes)) if confusion else None

    def added(
        self, parts: Mapping[str, Part], progress: Callable[[int], object] = lambda _: None
    ) -> dict[str, NDArray[np.float64]]:
        """Each part of all rows, in one walk over the shards; with `confusion`, the sums of p by true class too.

        Args:
            parts: what to make of the rows of a block.
            progress: told the number of shards done.

        Raises:
            CorruptError: a shard is damaged, or names what is no class.

        """
        wanted = {name: self._merged(part) for name, part in parts.items()}
        if self._confusion is not None:
            wanted["confusion"] = self._confusion.sum(axis=0, split_every=FAN_IN)
        threads = {} if dask.config.get("num_workers", None) else {"num_workers": loaders(None)}
        with dask.config.set(threads), Callback(posttask=partial(_told, self._blocks.name, progress)):
            (found,) = dask.compute(wanted)
        return dict(found)

    def _merged(self, part: Part) -> Any:  # noqa: ANN401 - dask has no types
        made = _stack(self.examined, partial(_made, part.of), part.shape)
        return (made.max if part.merge == "max" else made.sum)(axis=0, split_every=FAN_IN)


def _stack(blocks: Any, make: Callable[..., NDArray[np.float64]], shape: tuple[int, ...]) -> Any:  # noqa: ANN401
    """What a function makes of each block, `[B, *shape]`."""
    chunks = ((1,) * blocks.numblocks[0], *((size,) for size in shape))
    new_axis, meta = list(range(1, len(chunks))), np.empty((0,) * len(chunks))
    return blocks.map_blocks(make, chunks=chunks, new_axis=new_axis, dtype=np.float64, meta=meta)


def _read(
    cache: LabelCache,
    spec: LabelSpec,
    temperature: float,
    confusion: bool,  # noqa: FBT001 - `partial` passes it by place
    number_1: NDArray[np.int64],
) -> NDArray[np.object_]:
    """A shard examined, as the one object of a block."""
    block = np.empty(1, object)
    block[0] = examined(cache, spec, temperature, cache.layout.shard(int(number_1[0])), confusion=confusion)
    return block


def _rows(block: NDArray[np.object_]) -> NDArray[np.void]:
    rows: NDArray[np.void] = block[0][0]
    return rows


def _sums(block: NDArray[np.object_]) -> NDArray[np.float64]:
    sums_1CC: NDArray[np.float64] = block[0][1][None]
    return sums_1CC


def _made(of: Callable[[NDArray[np.void]], NDArray[np.float64]], rows: NDArray[np.void]) -> NDArray[np.float64]:
    return of(rows)[None]


def _told(name: str, progress: Callable[[int], object], key: object, *_: object) -> None:
    """Count the shard whose task is done. A cluster calls nobody back: its own dashboard shows how far it is."""
    if isinstance(key, tuple) and key[0] == name:
        progress(1)
