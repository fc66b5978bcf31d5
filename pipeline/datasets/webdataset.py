"""Pictures in tar files, as WebDataset lays them out: a sample is the members that share a name up to its first dot."""

import glob
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from pipeline.datasets.checks import UNLABELLED
from pipeline.datasets.encoded import REFUSE, Cut, PictureDataset, from_shelf, stable_ids
from pipeline.errors import DatasetError

PICTURES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
TAIL = 2**20

Places: TypeAlias = dict[str, tuple[int, int]]
"""Where each member of a sample is, by its extension: offset and size."""


@dataclass(frozen=True, slots=True)
class Member:
    """A picture in a tar file."""

    tar: Path
    name: str
    offset: int
    size: int
    label: int


@dataclass(frozen=True)
class Members:
    """The pictures of all tar files."""

    found: tuple[Member, ...]

    def __len__(self) -> int:
        return len(self.found)

    def name(self, place: int) -> str:
        """The path of the tar file, and the name in it."""
        member = self.found[place]
        return f"{member.tar}/{member.name}"

    def content(self, place: int) -> bytes:
        """The bytes of this member, through a handle of its own: any number of threads may ask."""
        member = self.found[place]
        try:
            with member.tar.open("rb") as file:
                return _read(file, member.tar, member.offset, member.size)
        except OSError as error:
            raise _unreadable(member.tar, error) from error


def from_webdataset(
    shards: str | Path | Sequence[str | Path],
    size: int,
    crop: float = 1.0,
    interpolation: str = "bilinear",
    damaged: str = REFUSE,
) -> PictureDataset:
    """The pictures of tar files, as uint8 `[3, size, size]`, in the order of the files and of what is in each.

    `shards` is a tar file, a pattern such as `data/train-{0000..0011}.tar` or `data/*.tar`, or several. A sample is the
    members that share folder and name up to the first dot: one picture (jpg, jpeg, png or webp), and a `cls` with its
    class in digits, if it has one; others are passed over. An id is made of the tar file's name and the sample's, as
    in `train-0000.tar/000017`: the files may be moved, but not renamed or dealt out anew. With damaged = "skip" every
    picture is decoded once when the dataset is opened, and those that do not decode are left out.

    Not for compressed tar files: nothing in them can be read without all that is before it. And opening reads through
    the headers of all members, minutes for millions; a folder of pictures is listed faster.
    """
    cut = Cut(size, crop, interpolation, damaged)
    members = Members(tuple(member for path in _expanded(shards) for member in _indexed(path)))
    labels = np.array([member.label for member in members.found], dtype=np.int64)
    keys = [f"{member.tar.name}/{_key_of(member.name)[0]}" for member in members.found]
    return from_shelf(members, cut, stable_ids(keys, members.name), labels if (labels != UNLABELLED).any() else None)


def _expanded(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    """The tar files that patterns stand for, each once."""
    patterns = [shards] if isinstance(shards, str | Path) else shards
    paths = [path for pattern in patterns for each in braces(str(pattern)) for path in _matches(each)]
    twice = [str(path) for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise DatasetError(f"{twice[0]}: this tar file is named twice, expected each once. Correct `shards`.")
    return paths


def braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, in its order.

    >>> braces("a-{08..11}.tar"), braces("{a,b}{1..2}")
    (['a-08.tar', 'a-09.tar', 'a-10.tar', 'a-11.tar'], ['a1', 'a2', 'b1', 'b2'])
    """
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    first, last, listed = found.groups()
    values = listed.split(",") if listed else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return [pattern[: found.start()] + value + rest for value in values for rest in braces(pattern[found.end() :])]


def _matches(pattern: str) -> list[Path]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [Path(pattern)]
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207  # of any folder, be it absolute or not
    if not paths:
        raise DatasetError(f"{pattern}: no file matches this pattern, expected tar files. Correct `shards`.")
    return paths


def _indexed(path: Path) -> list[Member]:
    """The pictures of a tar file, in its order."""
    try:
        with path.open("rb") as file:
            _refuse_compressed(path, file)
            samples = _samples(path, file)
            return [member for key, places in samples.items() for member in _member(path, file, key, places)]
    except tarfile.TarError as error:
        raise DatasetError(f"{path}: this is no whole tar file: {error}. Fetch it again.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _refuse_compressed(path: Path, file: BinaryIO) -> None:
    start = file.read(8)
    file.seek(0)
    for magic, (name, command) in COMPRESSED.items():
        if start.startswith(magic):
            raise DatasetError(
                f"{path}: this tar file is compressed ({name}), expected a plain one: what is in it is read in any "
                f"order. Unpack it, with `{command}`, and name what comes of it; pictures are compressed as they are."
            )


def _samples(path: Path, file: BinaryIO) -> dict[str, Places]:
    """The members of each sample. Stops at nothing but the end: `tarfile` takes a damaged header for it."""
    samples: dict[str, Places] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            key, extension = _key_of(member.name)
            if not member.isreg() or not key or extension not in (*PICTURES, LABEL):
                continue
            places = samples.setdefault(key, {})
            if extension in places or member.issparse():
                problem = "is there twice" if extension in places else "is stored with holes"
                raise DatasetError(f"{path}/{member.name}: this member {problem}. Write the tar file anew.")
            places[extension] = (member.offset_data, member.size)
        end = tar.offset
    _check_end(path, file, end)
    return samples


def _key_of(name: str) -> tuple[str, str]:
    """The key of a sample, and the extension of its member; the key is empty where the name begins with a dot."""
    name = name.removeprefix("./")
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (folder + slash + stem if stem else ""), extension.lower()


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    file.seek(end)
    block, tail = file.read(tarfile.BLOCKSIZE), file.read(TAIL)
    if len(block) < tarfile.BLOCKSIZE:
        raise DatasetError(f"{path}: this tar file is cut short, expected a block of zeros at its end. Fetch it again.")
    if any(block):
        raise DatasetError(f"{path}: this tar file is damaged: there is no member at byte {end}. Fetch it again.")
    if any(tail):
        raise DatasetError(
            f"{path}: more follows the end of this tar file, at byte {end}. Several were joined: name each by itself."
        )


def _member(path: Path, file: BinaryIO, key: str, places: Places) -> Iterator[Member]:
    pictures = sorted(places.keys() & set(PICTURES))
    if len(pictures) != 1:
        raise DatasetError(
            f"{path}/{key}: found {' and '.join(pictures) or 'a class and no picture'}, expected one of "
            f"{', '.join(PICTURES)} a sample. Write the tar file anew."
        )
    offset, size = places[pictures[0]]
    yield Member(path, f"{key}.{pictures[0]}", offset, size, _label(path, file, key, places))


def _label(path: Path, file: BinaryIO, key: str, places: Places) -> int:
    if LABEL not in places:
        return UNLABELLED
    offset, size = places[LABEL]
    text = _read(file, path, offset, min(size, 99)).strip()
    if not re.fullmatch(rb"-?\d{1,18}", text):
        raise DatasetError(
            f"{path}/{key}.{LABEL}: found {text!r}, expected a class in digits. Write the tar file anew."
        )
    return int(text)


def _read(file: BinaryIO, path: Path, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise DatasetError(
            f"{path}: this tar file ends at byte {offset + len(content)}, expected {size} bytes from {offset} on: "
            "it was longer when it was opened. Leave it as it is while it is in use, or fetch it again."
        )
    return content


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path}: this tar file cannot be read: {error.strerror or error}. Correct `shards`, or make it readable."
    )
