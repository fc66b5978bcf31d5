"""Kinds of dataset as an experiment file names them: which keys each takes. Nothing here imports torch.

What opens them is `pipeline.sources`; what reads them, `pipeline.datasets`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from pipeline.settings import FilePath, Options, Settings

REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"

Reference: TypeAlias = Annotated[str, Field(pattern=REFERENCE)]


class Source(Settings):
    """What every kind of dataset may say about itself."""

    classes: Annotated[int | None, Field(ge=2, lt=2**31)] = None
    class_names: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    version: str | None = None
    """A declared version stands for the content, which is then not read through to be hashed."""
    without: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()
    """Classes whose samples are left out. The classes stay as they are, so a network still has a logit for each."""

    def arguments(self) -> dict[str, object]:
        """The keywords of the kind itself."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in _DECLARED}


_DECLARED = {"kind", *Source.model_fields}


class Digits(Source):
    """scikit-learn's bundled handwritten digits."""

    kind: Literal["digits"]
    part: Literal["train", "test"] = "train"


class Idx(Source):
    """IDX files, plain or gzip: the format of MNIST and its family."""

    kind: Literal["idx"]
    inputs: FilePath
    labels: FilePath | None = None


class Hdf5(Source):
    """Datasets of one HDF5 file, named by their keys."""

    kind: Literal["hdf5"]
    path: FilePath
    inputs: str
    labels: str | None = None
    ids: str | None = None


class Npy(Source):
    """A .npy file of inputs and, beside it, files of labels and ids."""

    kind: Literal["npy"]
    inputs: FilePath
    labels: FilePath | None = None
    ids: FilePath | None = None


class ZarrPair(Source):
    """A Zarr array of inputs and, beside it, arrays of labels and ids."""

    kind: Literal["zarr"]
    inputs: FilePath
    labels: FilePath | None = None
    ids: FilePath | None = None


class Factory(Source):
    """The user's own map-style dataset: `kind = "package.module:callable"`."""

    kind: Reference
    options: Options = Field(default_factory=dict)

    def arguments(self) -> dict[str, object]:
        """The keywords of the user's callable."""
        return dict(self.options)


def _tag_of(value: object) -> str:
    kind = value.get("kind", "") if isinstance(value, Mapping) else getattr(value, "kind", "")
    return "own" if isinstance(kind, str) and ":" in kind else str(kind)


AnySource: TypeAlias = Annotated[
    Annotated[Digits, Tag("digits")]
    | Annotated[Idx, Tag("idx")]
    | Annotated[Hdf5, Tag("hdf5")]
    | Annotated[Npy, Tag("npy")]
    | Annotated[ZarrPair, Tag("zarr")]
    | Annotated[Factory, Tag("own")],
    Discriminator(_tag_of),
]


SOURCES: Mapping[str, type[Source]] = {
    "digits": Digits,
    "idx": Idx,
    "hdf5": Hdf5,
    "npy": Npy,
    "zarr": ZarrPair,
    "own": Factory,
}
