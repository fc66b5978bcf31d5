"""What a program says at its end: facts for machines, text for people."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """The outcome of one command."""

    facts: dict[str, Any]
    text: str
    exit_code: int = 0


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right.

    >>> print(table(["who", "accuracy"], [["alone", "81.0 %"], ["distilled", "9.5 %"]]))
    who        accuracy
    alone        81.0 %
    distilled     9.5 %
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def printable(text: str) -> str:
    r"""Text with control characters shown and not obeyed, but for ends of lines.

    Names in a cache, a config or a dataset are someone's own: they must not drive the terminal of who reads them.

    >>> printable("a\tb\x1b[31m\u202e")
    'a\\tb\\x1b[31m\\u202e'
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def reports() -> bool:
    """Whether this process speaks for all: of those that `torchrun` started, the first."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "shard"), counted(1200, "shard")
    ('1 shard', '1,200 shards')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(4.26), duration(75), duration(7260)
    ('4.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
