"""One way of writing a JSON document, and no other way of reading it.

A document is its canonical bytes: sorted keys, two spaces, UTF-8, one newline at the end, no NaN. What is read must be
byte for byte what would be written, so no edit of a document goes unseen, not even one of its spaces, and a digest of
the bytes is a digest of the content.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline.errors import CorruptError, MismatchError

FORMAT = "softlabels/2"
DEEPEST = 32  # levels of nesting; unbounded ones would end Python's stack, wherever it happens to be
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def canonical(value: object) -> bytes:
    r"""The bytes of a JSON value.

    Raises:
        ValueError: the value holds NaN, infinity or half of a surrogate pair.

    >>> canonical({"b": 1, "a": [True]})
    b'{\n  "a": [\n    true\n  ],\n  "b": 1\n}\n'
    """
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def sha256(data: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class Document(BaseModel):
    """A frozen model that is written in canonical bytes and allows no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    remedy: ClassVar[str] = ""  # what to do when its bytes are not what was written

    def to_bytes(self) -> bytes:
        """The bytes on disk."""
        return canonical(self.model_dump())


class Signed(Document):
    """A document that carries its own digest: SHA-256 of its canonical bytes without the key `sha256`."""

    sha256: Digest

    @classmethod
    def signed(cls, **fields: object) -> Self:
        """The document of these fields, with its digest."""
        document = cls.model_validate({**fields, "sha256": "0" * 64})
        return document.model_copy(update={"sha256": document.digest()})

    def digest(self) -> str:
        """What the key `sha256` has to say."""
        return sha256(canonical(self.model_dump(exclude={"sha256"})))


D = TypeVar("D", bound=Document)


def parse(kind: type[D], data: bytes, path: Path | str) -> D:
    """A document from its bytes.

    Args:
        kind: which document it is.
        data: what was read; any bytes at all.
        path: where it was read, for the message.

    Raises:
        MismatchError: a format version that this version of softlabels does not know.
        CorruptError: anything else than the bytes that such a document is written in.

    """
    try:
        raw = _json(data)
        _refuse_other_format(kind, raw, path)
        document = kind.model_validate(raw)
        if document.to_bytes() != data:
            raise ValueError("its layout is not the one it was written in")  # noqa: TRY301 - worded below
        if isinstance(document, Signed) and document.sha256 != document.digest():
            raise ValueError("its content does not have the SHA-256 that it states")  # noqa: TRY301 - worded below
    except ValidationError as error:
        raise _corrupt(kind, path, _first(error)) from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(kind, path, str(error)) from error
    return document


def _json(data: bytes) -> object:
    value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
    _refuse_deep(value, DEEPEST)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key is there twice")
    return keys


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.20} is not a finite number")
    return number


def _refuse_deep(value: object, left: int) -> None:
    if not left:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_deep(item, left - 1)


def _refuse_other_format(kind: type[Document], raw: object, path: Path | str) -> None:
    if "format" not in kind.model_fields or not isinstance(raw, dict):
        return
    found = raw.get("format")
    if isinstance(found, str) and found != FORMAT:
        raise MismatchError(
            f"{path} is of the format {found[:40]!r}; this version of softlabels reads {FORMAT!r}. Use the version of "
            "softlabels that wrote it, or make a new cache in another place."
        )


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:80] or 'it'}: {first['msg'][:200]}"


def _corrupt(kind: type[Document], path: Path | str, what: str) -> CorruptError:
    return CorruptError(
        f"{path} is not the {kind.__name__.lower()} that was written: {what[:300]}. Expected the very bytes that "
        f"softlabels wrote. {kind.remedy}"
    )
