"""Rows of a cache through zarr, where its files cannot be mapped: slower by far, and as right.

Zarr holds each chunk against its checksum, but reads a file that is gone or empty as filling, and believes any index
that has a checksum. So each file is held against the layout here before zarr is let near it.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptError
from pipeline.store import files
from pipeline.store.group import ShardedArray
from pipeline.store.layout import shard_file_bytes
from pipeline.store.residence import Residence
from pipeline.store.shards import REPAIR, check_chain, check_index

Rows = NDArray[np.int64]


class Unmapped:
    """The arrays of a cache, read by zarr.

    Args:
        residence: what knows the cache's files; it maps none of them here.

    """

    def __init__(self, residence: Residence) -> None:
        self._residence, self._layout = residence, residence.layout
        self._numbers = {spec.name: number for number, spec in enumerate(residence.specs)}
        self._arrays: dict[str, ShardedArray] = {}
        self._seen: set[tuple[int, int]] = set()

    def gather(self, name: str, places_N: Rows) -> NDArray[np.generic]:
        """Rows of an array, `[n, *row_shape]`, at places that count every shard as full.

        Raises:
            CorruptError: a shard file is gone or damaged.
            IncompleteError: a shard of a partial cache that is not done.
            StorageError: a file may not be read.

        """
        number = self._numbers[name]
        for shard in np.unique(places_N // self._layout.shard_rows).tolist():
            if (number, shard) not in self._seen:
                self._check(number, shard)
                self._seen.add((number, shard))
        if name not in self._arrays:
            self._arrays[name] = ShardedArray(self._residence.folder_of(number))
        return self._arrays[name].gather(*self._layout.unflattened(places_N))

    def _check(self, array: int, number: int) -> None:
        self._residence.refuse_undone(number)
        path, spec = self._residence.path_of(array, number), self._residence.specs[array]
        shard, root = self._layout.shard(number), self._residence.root
        files.refuse_links(root, *path.relative_to(root).parts[:-1])
        data = files.read(path, shard_file_bytes(spec, self._layout, shard))
        if data is None:
            raise CorruptError(f"{path} is gone; its receipt says that it was written. {REPAIR}")
        check_index(memoryview(data), spec, self._layout, shard, path)
        check_chain(memoryview(data), spec, self._layout, self._residence.chain_of(array, number), path)
