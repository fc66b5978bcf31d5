"""Writes folders of tokens as they come, each whole or not there at all."""

import fcntl
import os
import re
import shutil
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus import Document, Tokenizer
from pipeline.datasets.checks import MOST_CLASSES, UNLABELLED
from pipeline.datasets.streams import BLOCK
from pipeline.datasets.token_folder import DESCRIPTION, LABELS, MASK, STARTS, TOKENS, Description
from pipeline.errors import DatasetError, StorageError
from pipeline.seeds import seed_of
from pipeline.store.canonical import canonical
from pipeline.store.files import ADVICE, PREFIX, SUFFIX, make_directory, sync_directory, write_durably

BUFFER = 2**20
_INTEGER = re.compile(r"-?[0-9]{1,10}")


class Growing:
    """A `.npy` file of one axis that grows at its end; its header says how long it is once it is closed."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.length = 0
        self._dtype: np.dtype[np.generic] = np.dtype(dtype).newbyteorder("<")
        self._file = path.open("xb", buffering=BUFFER)
        self._header()

    def append(self, values: NDArray[np.generic]) -> None:
        """Write these at the end."""
        self._file.write(values.astype(self._dtype).tobytes())
        self.length += len(values)

    def close(self) -> None:
        """Make what there is last."""
        self._file.seek(0)
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.abandon()

    def abandon(self) -> None:
        """Write no more."""
        with suppress(OSError):  # where the disk is full, closing writes what is held back, and fails as well
            self._file.close()

    def _header(self) -> None:
        # NumPy leaves room in a header for the first axis to grow: one for any length is of the same size.
        head = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, head)


class Classes:
    """Classes as they are written, numbered in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, label: str | None) -> int:
        """The number of a class, for now; -1 where it is not known."""
        return UNLABELLED if label is None else self._numbers.setdefault(label, len(self._numbers))

    def settled(self) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
        """What each of these numbers becomes, and the names of the classes.

        Where all are written as integers they are these, without names. Else they are counted in the order of their
        names. The last is for -1.
        """
        if all(_INTEGER.fullmatch(each) and UNLABELLED <= int(each) < MOST_CLASSES for each in self._numbers):
            return np.array([*map(int, self._numbers), UNLABELLED], np.int64), None
        names = tuple(sorted(self._numbers))
        places = {name: place for place, name in enumerate(names)}
        return np.array([*(places[each] for each in self._numbers), UNLABELLED], np.int64), names

    def __len__(self) -> int:
        return len(self._numbers)


class TokenWriter:
    """A folder of tokens in the making, beside its place; it takes its place when it is finished.

    Raises:
        StorageError: the disk refuses.

    """

    def __init__(self, place: Path, tokenizer: Tokenizer) -> None:
        self.place, self.documents = place, 0
        self._tokenizer = tokenizer
        self._folder = place.with_name(f"{PREFIX}{os.getpid()}-{place.name}{SUFFIX}")
        self._labels = array("q")
        self._mask: Growing | None = None

    def __enter__(self) -> Self:
        make_directory(self.place.parent)
        _remove_abandoned(self.place)
        with _explained(self.place):
            self._folder.mkdir()
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # a disk without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            small = self._tokenizer.vocabulary <= np.iinfo(np.uint16).max + 1
            self._tokens = Growing(self._folder / TOKENS, np.uint16 if small else np.uint32)
            self._starts = Growing(self._folder / STARTS, np.int64)
        return self

    def __exit__(self, *_: object) -> None:
        for file in filter(None, (self._tokens, self._starts, self._mask)):
            file.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    @property
    def tokens(self) -> int:
        """How many tokens there are so far."""
        return self._tokens.length

    def add(self, ids: NDArray[np.int64], *, prompt: int | None, label: int) -> None:
        """A document's tokens, of which so many are its prompt, and its class."""
        with _explained(self.place):
            if prompt is not None and self._mask is None:
                self._mask = self._marked_so_far()
            if self._mask is not None:
                self._mask.append(np.arange(len(ids)) >= (prompt or 0))
            self._starts.append(np.array([self.tokens], np.int64))
            self._tokens.append(ids)
        self._labels.append(label)
        self.documents += 1

    def finish(self, classes: Classes, left_out: int, made_from: dict[str, object]) -> Description:
        """Make the folder last, under its name."""
        meaning, names = classes.settled()
        said = Description.model_validate(
            {
                "format": "softlabels-tokens/1",
                "vocabulary": self._tokenizer.vocabulary,
                "end": self._tokenizer.end,
                "tokenizer": self._tokenizer.name,
                "tokenizer_sha256": self._tokenizer.digest,
                "documents": self.documents,
                "tokens": self.tokens,
                "class_names": names,
                "left_out": left_out,
                "made_from": made_from,
            }
        )
        with _explained(self.place):
            for file in filter(None, (self._tokens, self._starts, self._mask)):
                file.close()
            if len(classes):
                labels = Growing(self._folder / LABELS, np.int64)
                labels.append(meaning[np.frombuffer(self._labels, np.int64)])
                labels.close()
            write_durably(self._folder / DESCRIPTION, [canonical(said.model_dump(mode="json"))])
            sync_directory(self._folder)
            self._folder.rename(self.place)
            sync_directory(self.place.parent)
        return said

    def _marked_so_far(self) -> Growing:
        """A mask in which all documents up to here are to be learnt."""
        mask = Growing(self._folder / MASK, np.uint8)
        for start in range(0, self.tokens, BLOCK):
            mask.append(np.ones(min(BLOCK, self.tokens - start), np.uint8))
        return mask


@dataclass
class Parting:
    """What becomes of documents: most go to one folder, some are held out, and empty ones are left out."""

    tokenizer: Tokenizer
    train: TokenWriter
    test: TokenWriter | None
    held_out: float
    classes: Classes = field(default_factory=Classes)
    left_out: int = 0

    def take(self, documents: list[Document]) -> None:
        """Write the tokens of these documents."""
        encoded = self.tokenizer.encode(
            [*(each.prompt or "" for each in documents), *(each.text for each in documents)]
        )
        end = np.array([] if self.tokenizer.end is None else [self.tokenizer.end], np.int64)
        for document, prompt, text in zip(documents, encoded, encoded[len(documents) :], strict=False):
            if not document.text.strip() or not len(text):
                self.left_out += 1
                continue
            before = None if document.prompt is None else len(prompt)
            label = self.classes.number(document.label)
            self._writer().add(np.concatenate([prompt, text, end]), prompt=before, label=label)

    @property
    def writers(self) -> list[TokenWriter]:
        """Those of both folders, or of the one that there is."""
        return [self.train] if self.test is None else [self.train, self.test]

    def refuse_empty(self) -> None:
        """Raise DatasetError if a folder would have no document."""
        empty = [writer.place for writer in self.writers if not writer.documents]
        if empty:
            total = sum(writer.documents for writer in self.writers)
            raise DatasetError(
                f"{empty[0]}: found no document for this folder, of {total:,} that have a text and {self.left_out:,} "
                "empty ones, expected one at least. Give more texts, or hold out another share."
            )

    def _writer(self) -> TokenWriter:
        """Where the next document goes. Its number tells, so that the same texts are always parted in the same way."""
        if self.test is None:
            return self.train
        number = self.train.documents + self.test.documents
        return self.test if seed_of("held out document", number) < self.held_out * 2**63 else self.train


def refuse_other(place: Path) -> None:
    """Raise DatasetError if something is at the place of a folder of tokens."""
    if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise DatasetError(
            f"{place}: something else is there already, or tokens of other texts, another tokenizer or other options; "
            "expected nothing: tokens are written once. Remove it, or give another --out."
        )


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "Look into what the system says about this disk.")
        raise StorageError(
            f"{place}: this folder could not be written: {error.strerror or error}. {advice} Nothing of it is kept."
        ) from error


def _remove_abandoned(place: Path) -> None:
    """Remove what killed runs left of the same folder; whoever still writes holds a lock on it."""
    for folder in place.parent.glob(f"{PREFIX}*{SUFFIX}"):
        if folder.name.removeprefix(PREFIX).partition("-")[2] != f"{place.name}{SUFFIX}" or not folder.is_dir():
            continue
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)
