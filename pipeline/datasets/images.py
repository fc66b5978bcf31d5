"""Pictures in folders: a folder a class, or any folders of pictures without labels."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.encoded import REFUSE, Cut, PictureDataset, from_shelf, stable_ids
from pipeline.errors import DatasetError

SUFFIXES = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Files:
    """The pictures at these paths of a folder."""

    root: Path
    inside: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inside)

    def name(self, place: int) -> str:
        """The path of this picture."""
        return str(self.root / self.inside[place])

    def content(self, place: int) -> bytes:
        """The bytes of this file."""
        path = self.root / self.inside[place]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{path}: this file cannot be read: {error.strerror or error}. It was there when the folder was "
                "listed: make it readable, or leave the folder as it is while it is in use."
            ) from error


def from_images(
    path: str | Path,
    size: int,
    crop: float = 1.0,
    interpolation: str = "bilinear",
    *,
    labelled: bool = True,
    damaged: str = REFUSE,
) -> PictureDataset:
    """The pictures of a folder, as uint8 `[3, size, size]`, in the order of their paths in it.

    The folders in it are the classes, in the order of their names, and a class has all pictures at any depth of its
    own; or, not `labelled`, all pictures at any depth are samples without a label. What is a picture is told by its
    suffix; names that begin with a dot are passed over. An id is made of a picture's path in the folder: the folder
    may be moved, and pictures added, but one that is renamed is another sample.

    With damaged = "skip" every picture is decoded once when the dataset is opened, by one thread, and those that do not
    decode are left out; one that cannot be read at all is an error all the same, as the next run would find it again.

    Not for many epochs over large pictures: each is decoded in every epoch anew. Write them out at their size, and say
    `kind = "npy"`.
    """
    cut, root = Cut(size, crop, interpolation, damaged), Path(path)
    files = Files(root, tuple(sorted(_pictures(root))))
    labels, names = _classes(files) if labelled else (None, None)
    if not files.inside:
        raise DatasetError(
            f"{root}: this folder holds no picture, expected files that end in one of {', '.join(SUFFIXES)}. Point at "
            "a folder that does."
        )
    return from_shelf(files, cut, stable_ids(files.inside, files.name), labels, names)


def _pictures(root: Path) -> Iterator[str]:
    """The paths of all pictures in a folder, in no order; links to folders are followed."""
    for folder, inner, names in os.walk(root, onerror=_refuse, followlinks=True):
        inner[:] = [each for each in inner if not each.startswith(".")]
        for each in inner:
            _refuse_loop(Path(folder, each))
        inside = Path(folder).relative_to(root)
        yield from ((inside / each).as_posix() for each in names if _is_picture(each))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _refuse(error: OSError) -> None:
    raise DatasetError(
        f"{error.filename}: this folder cannot be listed: {error.strerror}. Expected a folder of pictures: correct the "
        "path, or make the folder readable."
    ) from error


def _refuse_loop(folder: Path) -> None:
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(
            f"{folder}: this link leads back to a folder that it is in, which has no end. Remove the link."
        )


def _classes(files: Files) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """`[N]`, the class of each picture, and the names of all classes, be there pictures of them or not."""
    unlabelled = "or say labelled = false for pictures without labels."
    names = sorted(each.name for each in files.root.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not names:
        raise DatasetError(
            f"{files.root}: this folder holds no folder, expected a folder a class. Point at the folder that the "
            f"classes are in, {unlabelled}"
        )
    loose = [inside for inside in files.inside if "/" not in inside]
    if loose:
        raise DatasetError(
            f"{files.root / loose[0]}: this picture is in no class ({len(loose)} are in all), expected pictures in a "
            f"folder a class only. Move them into one, {unlabelled}"
        )
    places = {name: place for place, name in enumerate(names)}
    labels = [places[inside.partition("/")[0]] for inside in files.inside]
    return np.array(labels, dtype=np.int64), tuple(names)
