"""The ledger of promises: which test attacks which, how often, and how often one broke.

A test that attacks a promise carries its mark. One that makes many tries takes `attack`. How many are planned is the
mark's `tries`, or its `torture` where that is asked for; words, or nothing, for a test that knows by itself. Every
other test is a try by itself.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROMISES = Path(__file__).parents[2] / "docs" / "promises.md"


@dataclass
class Attack:
    """Tries to break a promise; one that breaks it is noted, and the next is made."""

    planned: int | None
    made: int = 0
    violations: list[str] = field(default_factory=list)

    def tries(self) -> Iterator[tuple[int, random.Random]]:
        """As many as planned, each with dice of its own."""
        for number in range(self.planned or 0):
            yield number, random.Random(number)  # noqa: S311 - chance, not a secret

    @contextmanager
    def attempt(self, what: object = "") -> Iterator[None]:
        """One try: whatever an assertion inside says against it is a violation."""
        self.made += 1
        try:
            yield
        except (AssertionError, pytest.fail.Exception) as error:
            self.violations.append(f"try {self.made} {what}: {error}")

    def assert_kept(self, at_least: int = 1) -> None:
        """The promise was attacked that often, and kept each time."""
        assert not self.violations, "\n".join(self.violations[:10])
        assert self.made >= at_least


@dataclass
class Entry:
    """What became of the attacks on one promise."""

    tries: int = 0
    violations: int = 0
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)


class Ledger:
    """What became of all of them."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def note(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Count a test, once it was called or skipped."""
        for mark in item.iter_markers("promise"):
            entry = self.entries.setdefault(mark.args[0], Entry())
            attack: Attack | None = getattr(item, "funcargs", {}).get("attack")
            if report.skipped:
                entry.skipped.append(item.name)
            elif report.when == "call" or report.failed:
                tries = 1 if report.failed else mark.kwargs.get("tries", 1)
                entry.tries += attack.made if attack else tries
                entry.violations += max(len(attack.violations) if attack else 0, int(report.failed))
                entry.seconds += report.duration

    def lines(self) -> Iterator[str]:
        """The table."""
        words = dict(promises())
        yield "| promise | tries | violations | seconds |"
        yield "|---|---|---|---|"
        for name, entry in sorted(self.entries.items(), key=lambda each: int(each[0][1:])):
            left = f" (not tried here: {', '.join(entry.skipped)})" if entry.skipped else ""
            yield f"| {name} {words[name]}{left} | {entry.tries:,} | {entry.violations} | {entry.seconds:.0f} |"


def promises() -> Iterator[tuple[str, str]]:
    """Each promise's number and words, as `docs/promises.md` heads its section with them."""
    for line in PROMISES.read_text().splitlines():
        if line.startswith("## P"):
            number, words = line.removeprefix("## ").split(". ", 1)
            yield number, words
