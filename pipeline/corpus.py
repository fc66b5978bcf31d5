"""Texts, wherever they lie, and what makes tokens of them. No more than a document is held at a time.

The only module that imports the library `tokenizers`, and only when a file of its format is asked for.
"""

import csv
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.huggingface import rows_of
from pipeline.errors import ConfigError, DatasetError, SoftLabelsError
from pipeline.kinds import REFERENCE
from pipeline.references import named

BYTES = "bytes"
END_OF_BYTES = 256
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
PROMPT, COMPLETION = "prompt", "completion"
HUB = "hf:"
NAMES_SHOWN = 10


@dataclass(frozen=True)
class Document:
    """A text; what comes before it and is not to be learnt, if there is such; and its class, as it is written."""

    text: str
    prompt: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Keys:
    """How documents are told apart in files, and what holds what where they have keys."""

    text: str = "text"
    label: str | None = None
    per_line: bool = False


def texts_of(source: str, keys: Keys) -> Iterator[Document]:
    """All documents of a source, in their order, one after the other.

    A source is a file, a folder of files, hf:NAME[:SPLIT] (or hf:NAME:CONFIG:SPLIT) for the library `datasets`, or
    module:attribute of installed Python: a text, texts, or a mapping of texts, or a function that gives one of these.
    In a .jsonl or .csv file a row is a document; of any other the whole is one, or a line, with keys.per_line.

    Raises:
        ConfigError: there is no such source.
        DatasetError: it cannot be read, is no UTF-8, or lacks a key.

    """
    if source.startswith(HUB):
        return _of_hub(source, keys)
    path = Path(source)
    if path.is_dir():
        return (document for file in _files(path) for document in _of_file(file, keys))
    if path.exists():
        return _of_file(path, keys)
    if re.fullmatch(REFERENCE, source):
        return _of_reference(source, keys)
    raise ConfigError(
        f"{source}: there is no such file or folder; expected texts as one, as hf:NAME:SPLIT, or as module:attribute "
        "of installed Python. Correct the source."
    )


def _files(folder: Path) -> list[Path]:
    """All files in a folder and below it, in the order of their paths; names that begin with a dot are passed over."""
    found = sorted(path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file())
    return [folder.joinpath(*parts) for parts in found if not any(part.startswith(".") for part in parts)]


def _of_file(path: Path, keys: Keys) -> Iterator[Document]:
    with _readable(path):
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                yield from _of_json_lines(path, file, keys)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from _of_table(path, file, keys)
        elif keys.per_line:
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                yield from (Document(line.removesuffix("\n").removesuffix("\r")) for line in file)
        else:
            yield Document(path.read_bytes().decode("utf-8-sig"))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: this file is no text in UTF-8 ({error.reason} at byte {error.start} of what was read at once). "
            "Convert it, or leave it out."
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{path}: this file cannot be read: {error.strerror or error}. Make it readable, or leave it out."
        ) from error


def _of_json_lines(path: Path, file: IO[str], keys: Keys) -> Iterator[Document]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}, line {number}: this is no JSON: {error}. Write one object a line.") from error
        yield _document(row, keys, f"{path}, line {number}")


def _of_table(path: Path, file: IO[str], keys: Keys) -> Iterator[Document]:
    csv.field_size_limit(sys.maxsize)  # 128 KiB otherwise, which is less than many a text
    rows = csv.DictReader(file, strict=True)
    try:
        for row in rows:
            yield _document(row, keys, f"{path}, line {rows.line_num}")
    except csv.Error as error:
        raise DatasetError(f"{path}, line {rows.reader.line_num}: this is no CSV: {error}. Mend the file.") from error


def _of_hub(source: str, keys: Keys) -> Iterator[Document]:
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:  # noqa: PLR2004 - a configuration and a split
        raise ConfigError(f"{source}: expected hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT. Write it so.")
    config, split = rest if len(rest) == 2 else (None, *rest, None)[:2]  # noqa: PLR2004 - the same
    for number, row in enumerate(rows_of(name, config, split or None)):
        yield _document(row, keys, f"{source}, row {number}")


def _of_reference(source: str, keys: Keys) -> Iterator[Document]:
    found = named(source)
    try:
        for number, text in enumerate(_texts(found() if callable(found) else found, source)):
            yield _document({keys.text: text} if isinstance(text, str) else text, keys, f"{source}, text {number}")
    except SoftLabelsError:
        raise
    except Exception as error:  # the user's code: anything may come of it
        raise DatasetError(f"{source}: this raised {type(error).__name__}: {error}. Mend it.") from error


def _texts(found: object, source: str) -> Iterable[object]:
    if isinstance(found, str):
        return [found]
    if isinstance(found, Mapping):
        return (found[key] for key in sorted(found))
    if isinstance(found, Iterable):
        return found
    raise DatasetError(
        f"{source}: found {type(found).__name__}, expected a text, texts, a mapping of texts, or a function that gives "
        "one of these. Name another."
    )


def _document(row: object, keys: Keys, where: str) -> Document:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where}: found {type(row).__name__}, expected an object with the key {keys.text!r}.")
    if keys.text in row:
        text, prompt = _text(row, keys.text, where), None
    elif PROMPT in row and COMPLETION in row:
        text, prompt = _text(row, COMPLETION, where), _text(row, PROMPT, where)
    else:
        shown = ", ".join(str(key) for key in list(row)[:NAMES_SHOWN]) or "none"
        raise DatasetError(
            f"{where}: found the keys {shown}, expected {keys.text!r}, or {PROMPT!r} and {COMPLETION!r}. Say which one "
            "holds the text: --text-key."
        )
    return Document(text, prompt, None if keys.label is None else _label(row.get(keys.label), where))


def _text(row: Mapping[str, object], key: str, where: str) -> str:
    text = row[key]
    if not isinstance(text, str):
        raise DatasetError(f"{where}: found {type(text).__name__} at the key {key!r}, expected a text. Mend the row.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{where}: the text at the key {key!r} is no UTF-8: {error.reason} at character {error.start}. Mend the "
            "row."
        ) from error
    return text


def _label(value: object, where: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str | int):
        raise DatasetError(
            f"{where}: found {type(value).__name__} as the label, expected the number or the name of a class. Mend "
            "the row, or name another key: --label-key."
        )
    return str(value)


class Tokenizer(Protocol):
    """What makes tokens of texts, and texts of tokens."""

    @property
    def name(self) -> str:
        """What it is called in a folder of tokens."""

    @property
    def digest(self) -> str:
        """What tells it from any other."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: one more than the largest."""

    @property
    def end(self) -> int | None:
        """The token that ends a document."""

    @property
    def end_name(self) -> str:
        """What that token is called."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The tokens of each text, without any that begin or end it."""

    def decode(self, ids: NDArray[np.integer[Any]]) -> str:
        """The text of these tokens, without ends."""


@dataclass(frozen=True)
class Bytes:
    """The bytes of UTF-8, and one token more, which ends a document: nothing is learnt and nothing is unknown."""

    name: str = BYTES
    vocabulary: int = END_OF_BYTES + 1
    end: int | None = END_OF_BYTES
    end_name: str = "the token after all bytes"

    @property
    def digest(self) -> str:
        """The SHA-256 of what it is, in words."""
        return hashlib.sha256(b"softlabels: the bytes of UTF-8 are tokens 0 to 255, 256 ends a document").hexdigest()

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in texts]

    def decode(self, ids: NDArray[np.integer[Any]]) -> str:
        """The text of these bytes, without ends; what is no UTF-8, as after a cut, is shown as it may be."""
        return bytes(ids[ids != END_OF_BYTES].astype(np.uint8)).decode(errors="replace")


@dataclass(frozen=True, eq=False)
class FromFile:
    """A file in the format of the library `tokenizers`."""

    name: str
    digest: str
    vocabulary: int
    end: int | None
    end_name: str
    library: Any

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The tokens of each text, by all cores."""
        found = self.library.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int64) for each in found]

    def decode(self, ids: NDArray[np.integer[Any]]) -> str:
        """The text of these tokens, without ends."""
        return str(self.library.decode([each for each in ids.tolist() if each != self.end], skip_special_tokens=False))


def tokenizer_of(name: str, end: str | None = None) -> Tokenizer:
    """The tokenizer of this name: "bytes", or the path of a tokenizer.json. `end` is the token that ends a document.

    Raises:
        ConfigError: there is none, or it has no such token; or the library `tokenizers` is not there.

    """
    if name == BYTES:
        if end is not None:
            raise ConfigError(f"--end {end}: the tokenizer {BYTES!r} has an end of its own. Leave --end out.")
        return Bytes()
    path = Path(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{name}: this tokenizer cannot be read: {error.strerror or error}; expected {BYTES!r}, or the path of a "
            "tokenizer.json of the library `tokenizers`. Correct it."
        ) from error
    library = _loaded(content, name)
    ids: dict[str, int] = library.get_vocab(with_added_tokens=True)
    ending = _ending(ids, end, name)
    return FromFile(path.name, hashlib.sha256(content).hexdigest(), max(ids.values()) + 1, ids[ending], ending, library)


def _loaded(content: bytes, name: str) -> Any:  # noqa: ANN401 - the library is there for some only
    try:
        found = importlib.import_module("tokenizers")
        load: Callable[[str], Any] = found.Tokenizer.from_str
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{name}: this needs the library `tokenizers`, which cannot be imported here: {error}. Install it: pip "
            f"install tokenizers; or say --tokenizer {BYTES}."
        ) from error
    try:
        library = load(content.decode())
    except Exception as error:  # the library raises no type of its own
        raise ConfigError(
            f"{name}: the library `tokenizers` cannot read this: {error}. Expected a tokenizer.json, as saved by it or "
            "by transformers: point at one."
        ) from error
    # A file may say that texts are cut or filled up to a length, which is for batches of a network.
    library.no_truncation()
    library.no_padding()
    return library


def _ending(ids: Mapping[str, int], end: str | None, name: str) -> str:
    """The name of the token that ends a document."""
    if end is not None and end not in ids:
        raise ConfigError(f"{name}: found no token {end!r} in this tokenizer, expected --end to be one. Correct it.")
    found = end or next((each for each in ENDS if each in ids), None)
    if found is None:
        raise ConfigError(
            f"{name}: found none of {', '.join(ENDS)} in this tokenizer, expected a token to end documents with. Say "
            "which one: --end TOKEN."
        )
    return found
