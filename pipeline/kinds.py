"""Kinds of dataset as an experiment file names them: which keys each takes. Nothing here imports torch.

What opens them is `pipeline.sources`; what reads them, `pipeline.datasets`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, PositiveInt, Tag, model_validator

from pipeline.errors import ConfigError
from pipeline.settings import FilePath, Options, Settings

REFERENCE = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"

Reference: TypeAlias = Annotated[str, Field(pattern=REFERENCE)]


def _listed(value: object) -> object:
    """A list of one, where one is written alone."""
    return [value] if isinstance(value, str) else value


class Source(Settings):
    """What every kind of dataset may say about itself."""

    classes: Annotated[int | None, Field(ge=2, lt=2**31)] = None
    class_names: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    version: str | None = None
    """A declared version stands for the content, which is then not read through to be hashed."""
    without: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()
    """Classes whose samples are left out. The classes stay as they are, so a network still has a logit for each."""
    rows: Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]], Field(strict=False)] | None = None
    """From this sample on to before that one, as [0, 50000]: a part, such as a validation split. Left out, all."""

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


class Decoded(Source):
    """What every kind that decodes pictures takes besides their size."""

    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the shorter side that is kept: pictures are resized to size / crop, and the middle is cut out."""
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "nearest"] = "bilinear"
    damaged: Literal["refuse", "skip"] = "refuse"
    """What becomes of pictures that do not decode: one is an error, or all are tried first and these left out."""


class Pictures(Decoded):
    """What has pictures alone, of which all have to be brought to one size."""

    size: PositiveInt | None = None
    """The height and width of an input, in pixels; the teacher's own, with `preprocessing = "teacher"` in `[views]`."""

    def arguments(self) -> dict[str, object]:
        """The keywords of the kind itself; ConfigError without a size."""
        if self.size is None:
            raise ConfigError(
                f'The dataset of kind = "{getattr(self, "kind", "")}" says no size. Set the size of its pictures in '
                'pixels, such as size = 224; or let the teacher say it: preprocessing = "teacher" in [views].'
            )
        return super().arguments()


class Images(Pictures):
    """A folder with a folder of pictures a class, or any folder of pictures without labels."""

    kind: Literal["images"]
    path: FilePath
    labelled: bool = True


class WebDataset(Pictures):
    """Samples in tar files: a picture, and its class beside it."""

    kind: Literal["webdataset"]
    shards: Annotated[tuple[FilePath, ...], BeforeValidator(_listed), Field(strict=False, min_length=1)]
    """Tar files, or patterns of them such as data/train-{0000..0011}.tar or data/*.tar: one, or a list."""

    def arguments(self) -> dict[str, object]:
        """The keywords of the kind itself, with patterns as they are written."""
        return {**super().arguments(), "shards": [str(each) for each in self.shards]}


class HuggingFace(Decoded):
    """A dataset of the library `datasets`, from a folder or by its name."""

    kind: Literal["huggingface"]
    path: FilePath | None = None
    """Where `save_to_disk` put it."""
    name: str | None = None
    """What `load_dataset` knows it by, which may fetch it."""
    config: str | None = None
    split: str | None = None
    input: str
    """The column of inputs: pictures, or numbers of one shape."""
    label: str | None = None
    size: PositiveInt | None = None
    """Of pictures, which need it."""

    @model_validator(mode="after")
    def _one_place(self) -> "HuggingFace":
        if (self.path is None) == (self.name is None):
            raise ValueError("expected either `path`, a folder, or `name`, that of a published dataset")
        if self.path is not None and self.config is not None:
            raise ValueError("`config` chooses among those of a `name`; leave it out beside `path`")
        return self


class Tokens(Source):
    """Tokens of texts, all documents one after the other: what `softlabels tokenize` wrote, or an array of your own."""

    kind: Literal["tokens"]
    path: FilePath
    """A folder that `softlabels tokenize` wrote, or an array of tokens: X.npy, X.bin, X.h5:KEY or X.zarr."""
    length: Annotated[int, Field(ge=2, lt=2**31)]
    """How many tokens a sample has."""
    layout: Literal["packed", "documents"] = "packed"
    """A sample is a window of the stream, whose tokens are to be foretold; or a document, which may have a class."""
    long: Literal["cut", "refuse"] = "cut"
    """What becomes of a document longer than a sample: it is cut, or it is an error."""
    dtype: Literal["uint16", "uint32", "int32", "int64"] | None = None
    """Of a .bin file, which does not say it: little-endian."""
    vocabulary: Annotated[int | None, Field(ge=2, lt=2**31)] = None
    """How many tokens there are, of an array of your own."""
    end: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    """The token that ends a document, of an array of your own; without it, the whole is one document."""
    mask: FilePath | None = None
    """For an array of your own, another as long as it: 1 where a token is to be learnt and 0 where not."""


_READ: Mapping[type[Source], tuple[str, ...]] = {
    Decoded: ("crop", "interpolation"),
    Tokens: ("end", "mask", "long", "vocabulary"),
}


def decoding(source: Source) -> dict[str, object]:
    """How files become inputs, where that is said: all that decides them, besides their shape."""
    kinds = [kind for kind in _READ if isinstance(source, kind)]
    found = {key: getattr(source, key) for kind in kinds for key in _READ[kind] if key in source.model_fields_set}
    found = {key: value for key, value in found.items() if value != type(source).model_fields[key].default}
    return {key: value.name if isinstance(value, Path) else value for key, value in found.items()}


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
    | Annotated[HuggingFace, Tag("huggingface")]
    | Annotated[Images, Tag("images")]
    | Annotated[Npy, Tag("npy")]
    | Annotated[Tokens, Tag("tokens")]
    | Annotated[WebDataset, Tag("webdataset")]
    | Annotated[ZarrPair, Tag("zarr")]
    | Annotated[Factory, Tag("own")],
    Discriminator(_tag_of),
]


SOURCES: Mapping[str, type[Source]] = {
    "digits": Digits,
    "idx": Idx,
    "hdf5": Hdf5,
    "huggingface": HuggingFace,
    "images": Images,
    "npy": Npy,
    "tokens": Tokens,
    "webdataset": WebDataset,
    "zarr": ZarrPair,
    "own": Factory,
}
