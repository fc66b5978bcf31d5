"""What a cluster is asked for: a function and numbers.

A scheduler has to import what it passes on, so importing this costs nothing: the work itself, with torch and all, is
imported by the worker that does it.
"""

import logging
import platform
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class RefusalError(Exception):
    """What went wrong in a worker, told in words, since not every exception can be sent.

    Args:
        kind: the name of the exception's class.
        text: what it said.
        host: the machine it was raised on.

    """

    def __init__(self, kind: str, text: str, host: str) -> None:
        super().__init__(kind, text, host)
        self.kind, self.text, self.host = kind, text, host


def greet(token: int, number: int) -> dict[str, str]:
    """Set up the desk of a run and name its tools; with a shard's number, see whether its first batch can be stored."""
    return _done(lambda desk: desk.greet(token, number))


def label(token: int, number: int, attempt: int) -> None:
    """Make a shard durable, unless it is."""
    _done(lambda desk: desk.label(token, number, attempt))


def about(token: int) -> dict[str, object]:
    """Figures of the teacher, for the seal."""
    return _done(lambda desk: desk.about(token))


def _done(work: Callable[[Any], Result]) -> Result:
    """What a worker's desk says; whatever goes wrong, in words."""
    try:
        from pipeline.executors import desk  # noqa: PLC0415 - see above

        return work(desk)
    except BaseException as error:  # sys.exit() in a user's code, too: it is the task that ends
        logging.getLogger("distributed.worker").info("A task failed.", exc_info=True)  # where a worker has a log
        refusal = RefusalError(type(error).__name__, str(error), platform.node())
    raise refusal  # out here: Dask sends along what an exception was raised in, and that may not survive the way
