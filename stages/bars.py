"""Progress bars: on stderr, only on a terminal, with the rate and the time left."""

from typing import NoReturn

from tqdm import tqdm

from stages.report import reports


def bar(title: str, total: int, done: int = 0, unit: str = " rows") -> "tqdm[NoReturn]":
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
