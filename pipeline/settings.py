"""What every table of an experiment shares: strict about keys and types, frozen, finite numbers only."""

import os
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Settings(BaseModel):
    """A table of an experiment file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _expanded(value: object) -> object:
    """A path with `~` and `$VARIABLES` filled in; relative ones stay relative to the working directory."""
    if not isinstance(value, str):
        return value
    path = os.path.expanduser(os.path.expandvars(value))  # noqa: PTH111  # pathlib's raises what pydantic does not take
    if "$" in path:
        raise ValueError(f"the environment variable in {value!r} is not set; set it, or write the path out")
    if not path:
        raise ValueError("an empty path names nothing; leave the key out, or name a place")
    if path.startswith("~") or "\0" in path:
        raise ValueError(f"{value!r} is no path: it names a user that is not known, or holds a NUL character")
    return Path(path)


FilePath: TypeAlias = Annotated[Path, BeforeValidator(_expanded)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
