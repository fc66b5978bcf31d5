"""What every table of an experiment shares: strict about keys and types, frozen, finite numbers only."""

import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

ELSEWHERE = (
    "put keys where the store's own library finds them (for S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
    "~/.aws), and leave them out here"
)


class Settings(BaseModel):
    """A table of an experiment file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _expanded(value: object) -> object:
    """A path with `~` and `$VARIABLES` filled in; relative ones stay relative to the working directory."""
    if not isinstance(value, str):
        return value
    path = os.path.expanduser(_filled_in(value))  # noqa: PTH111  # pathlib's raises what pydantic does not take
    if not path:
        raise ValueError("an empty path names nothing; leave the key out, or name a place")
    if path.startswith("~") or "\0" in path:
        raise ValueError(f"{value!r} is no path: it names a user that is not known, or holds a NUL character")
    return Path(path)


def _located(value: object) -> object:
    """A path, or an address of an object store with `$VARIABLES` filled in."""
    if not isinstance(value, str | Path):
        raise PydanticCustomError("is_instance_of", "a path")
    if isinstance(value, str) and (slip := _ONE_SLASH.match(value)):
        raise ValueError(f"{value!r} has one slash where an address has two; did you mean {slip[1]}://{slip[2]}?")
    if not isinstance(value, str) or "://" not in value:
        return _expanded(value)
    address = _filled_in(value)
    if has_key(address):
        raise ValueError(f"an address with a key in it would be kept in every run folder; {ELSEWHERE}")
    return address


def has_key(address: str) -> bool:
    """Whether an address holds a password, as in s3://key:secret@bucket/prefix.

    >>> has_key("s3://key:secret@bucket/x"), has_key("abfs://container@account.dfs.core.windows.net/x")
    (True, False)
    """
    user, at, _ = address.partition("://")[2].partition("/")[0].rpartition("@")
    return bool(at) and ":" in user


def _filled_in(value: str) -> str:
    filled = os.path.expandvars(value)
    if "$" in filled:
        raise ValueError(f"the environment variable in {value!r} is not set; set it, or write the path out")
    return filled


def _written(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they are; they count in fingerprints, which are JSON."""
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected strings, finite numbers, booleans, lists and tables ({error})") from None
    return options


def _numbers(value: object) -> float | tuple[float, ...]:
    """A number, or one for each channel."""
    numbers = [
        float(each)
        for each in (value if isinstance(value, list | tuple) else [value])
        if isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each)
    ]
    if not numbers or len(numbers) != (len(value) if isinstance(value, list | tuple) else 1):
        raise PydanticCustomError("numbers", "Input should be a finite number, or a list with one for each channel")
    return tuple(numbers) if isinstance(value, list | tuple) else numbers[0]


_ONE_SLASH = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)(.*)")  # of more than one letter: C:/ is a disk


def _listed(value: float | tuple[float, ...]) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else value


FilePath: TypeAlias = Annotated[Path, BeforeValidator(_expanded)]
Location: TypeAlias = Annotated[Path | str, PlainValidator(_located), PlainSerializer(str)]
"""A path, or an address such as s3://bucket/prefix."""
PerChannel: TypeAlias = Annotated[float | tuple[float, ...], PlainValidator(_numbers), PlainSerializer(_listed)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Options: TypeAlias = Annotated[dict[str, Any], AfterValidator(_written)]
