"""Samples by id. A kind is a name in `KINDS`, one file each; `package.module:callable` is the user's own."""

import difflib
from collections.abc import Callable, Mapping

from pipeline.datasets.checks import checked
from pipeline.datasets.contract import Dataset
from pipeline.datasets.digests import content_digest, ids_digest
from pipeline.datasets.digits import from_digits
from pipeline.datasets.factory import from_factory
from pipeline.datasets.hdf5 import from_hdf5
from pipeline.datasets.huggingface import from_huggingface
from pipeline.datasets.idx import from_idx
from pipeline.datasets.images import from_images
from pipeline.datasets.npy import from_npy
from pipeline.datasets.subset import between, leave_out
from pipeline.datasets.tokens import from_tokens
from pipeline.datasets.webdataset import from_webdataset
from pipeline.datasets.zarr_pair import from_zarr
from pipeline.errors import ConfigError

__all__ = ["KINDS", "Dataset", "content_digest", "ids_digest", "open_dataset"]

KINDS: dict[str, Callable[..., Dataset]] = {
    "digits": from_digits,
    "hdf5": from_hdf5,
    "huggingface": from_huggingface,
    "idx": from_idx,
    "images": from_images,
    "npy": from_npy,
    "tokens": from_tokens,
    "webdataset": from_webdataset,
    "zarr": from_zarr,
}


def open_dataset(
    kind: str,
    arguments: Mapping[str, object],
    *,
    classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    without: tuple[int, ...] = (),
    rows: tuple[int, int] | None = None,
) -> Dataset:
    """Open the dataset of a kind, or of the user's `package.module:callable`, and check that it holds together.

    Samples of the classes in `without` are left out, and those outside `rows`, a start and a stop; the others keep
    their ids and their labels.

    Raises:
        ConfigError: there is no such kind.
        DatasetError: it cannot be read, or is not what it says it is (see `checked`), or these classes or rows cannot
            be left out.

    """
    name = f"{kind}({', '.join(f'{key}={value}' for key, value in arguments.items() if value is not None)})"
    source = from_factory(kind, arguments) if ":" in kind else _opener(kind)(**arguments)
    whole = checked(source, name, classes, class_names)
    dataset = between(whole, *rows) if rows else whole
    return leave_out(dataset, without) if without else dataset


def _opener(kind: str) -> Callable[..., Dataset]:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise ConfigError(
            f"{kind!r} is no kind of dataset: expected one of {', '.join(KINDS)}, or your own package.module:callable."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    return KINDS[kind]
