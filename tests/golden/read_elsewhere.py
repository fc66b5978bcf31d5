"""Read a label cache without softlabels, by each implementation of Zarr at hand; run as a script, in any environment.

    python tests/golden/read_elsewhere.py READER CACHE

One JSON object: for each array, the SHA-256 of its values as little-endian bytes in C order.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


def by_zarr(group: Path) -> Iterator[tuple[str, np.ndarray]]:
    """zarr-python, of whatever version."""
    import zarr  # noqa: PLC0415 - each implementation where it is used: one may be missing

    for name, array in zarr.open_group(group, mode="r").arrays():
        yield name, array[...]


def by_zarrs(group: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Zarrs, written in Rust, which decodes in zarr-python's place."""
    import zarr  # noqa: PLC0415
    import zarrs  # noqa: F401, PLC0415 - registers its pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        yield from by_zarr(group)


def by_tensorstore(group: Path) -> Iterator[tuple[str, np.ndarray]]:
    """TensorStore, written in C++."""
    import tensorstore  # noqa: PLC0415

    for folder in sorted(path.parent for path in group.glob("*/zarr.json")):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
        yield folder.name, tensorstore.open(spec, read=True).result().read().result()


READERS: dict[str, Callable[[Path], Iterator[tuple[str, np.ndarray]]]] = {
    "zarr": by_zarr,
    "zarrs": by_zarrs,
    "tensorstore": by_tensorstore,
}


def digest(values: np.ndarray) -> str:
    """SHA-256 of values as little-endian bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).hexdigest()


def main(reader: str, cache: Path) -> None:
    """Print what it reads."""
    found = {name: digest(values) for name, values in READERS[reader](cache / "labels.zarr")}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
