"""From what a user writes to the place that it means."""

from pathlib import Path
from typing import TypeAlias

from pipeline.errors import ConfigError
from pipeline.settings import ELSEWHERE, has_key
from pipeline.store.directories import Directory
from pipeline.store.places import Place

Where: TypeAlias = Path | str | Place
"""A path, an address, or the place itself."""


def place_of(where: Where) -> Place:
    """The place that a path or an address names.

    Raises:
        ConfigError: an address that nothing here knows.

    """
    if isinstance(where, Place):
        return where
    if isinstance(where, str) and "://" in where:
        protocol, _, path = where.partition("://")
        if has_key(where):
            raise ConfigError(f"An address of {protocol} with a key in it would be shown in messages; {ELSEWHERE}.")
        if protocol not in ("file", "local"):
            from pipeline.store.buckets import Bucket  # noqa: PLC0415 - loads fsspec: only who uses it pays for it

            return Bucket(where)
        where = path
    return Directory(Path(where).absolute())
