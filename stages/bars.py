"""Progress bars: on stderr, only on a terminal, with the rate and the time left."""

import sys
from time import time
from typing import NoReturn, TypeAlias

from tqdm import tqdm

from stages.report import reports

Bar: TypeAlias = "tqdm[NoReturn]"
SECONDS = 0.5


def bar(title: str, total: int, done: int = 0, unit: str = " rows") -> Bar:
    """A bar over rows or bytes, of which some are done already; a total of 0 is not known."""
    return tqdm(
        desc=title,
        total=total or None,
        initial=done,
        unit=unit,
        unit_scale=True,
        disable=None if reports() else True,
        dynamic_ncols=True,
    )


def beside(shown: Bar, text: str) -> None:
    """Say something beside a bar's figures, now and then, also where the bar itself does not move."""
    shown.set_postfix_str(text, refresh=not shown.disable and time() - shown.last_print_t > SECONDS)


def note(text: str) -> None:
    """A line of news on stderr."""
    if reports():
        tqdm.write(f"softlabels: {text}", file=sys.stderr)
