"""An experiment file as the tables it holds, before anything is said of what they should hold (`pipeline.config`)."""

import tomllib
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError


def read_table(path: Path) -> dict[str, Any]:
    """The tables of an experiment file.

    Raises:
        ConfigError: there is no such file, or it is not valid TOML.

    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = ", ".join(sorted(str(p) for p in path.parent.glob("*.toml"))) or "none"
        raise ConfigError(f"{path}: no such experiment file. Files like it there: {near}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this experiment file cannot be read: {error}.") from None
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise ConfigError(f"{path}: this is not valid TOML: {error}. Mend that line and run again.") from None


def apply(table: dict[str, Any], override: str) -> None:
    """Set `key.path=value` in the tables, the value in TOML; a bare word is a string.

    Raises:
        ConfigError: it is not of that form, or leads through a value.

    """
    key, equals, text = override.partition("=")
    *parents, last = (part.strip() for part in key.split("."))
    if not equals or not all((*parents, last)):
        raise ConfigError(f"--set {override}: expected KEY.PATH=VALUE, for example --set cache.path=caches/other.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a table, in this experiment.")
    table[last] = value
