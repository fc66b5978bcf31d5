"""How a command ends: with a report, or with an error in one paragraph, and an exit code."""

import json
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pipeline.errors import SoftLabelsError
from stages.report import Report, printable, reports

STOPS = {
    int(signal.SIGTERM): ("Stopped by SIGTERM. Run the same command again to go on.", 75),
    int(signal.SIGINT): ("Stopped by Ctrl-C. Run the same command again to go on.", 130),
}


class _Stopped(BaseException):
    """Raised wherever a signal finds us; no `except Exception` keeps it."""


def run_to_its_end(command: Callable[[], object], misused: Callable[[BaseException], None]) -> None:
    """Run a command; what a user can cause ends in one paragraph and an exit code.

    Args:
        command: may end the process.
        misused: is given what the command raises, and ends the process if that is about its usage.

    """
    # Long work asks between its steps whether to stop (`stages.signals`); all else stops where it is. What came is
    # noted too: an import that is interrupted may swallow the exception, or raise another one in its place.
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise _Stopped

    for number in STOPS:
        signal.signal(number, stop)
    try:
        command()
    except SystemExit:
        raise
    except BaseException as error:
        if came:
            refuse(*STOPS[came[0]])
        misused(error)
        _explain(error)
        raise


def _explain(error: BaseException) -> None:
    """End with what a user can mend; return from what is a fault of ours."""
    match error:
        case SoftLabelsError():
            refuse(str(error), error.exit_code)
        case KeyboardInterrupt():
            refuse(*STOPS[signal.SIGINT])
        case OSError():
            where = error.filename or "a file"
            refuse(f"{where}: {error.strerror or error}. Mend this, then run the same command again.", 7)


def finish(report: Report, *, as_json: bool) -> NoReturn:
    """End with what a program says."""
    if reports():
        _say(json.dumps(report.facts, default=str) if as_json else printable(report.text))
    sys.exit(report.exit_code)


def refuse(message: str, exit_code: int) -> NoReturn:
    """End with an error."""
    say_json(message, exit_code)
    # A paragraph: no forged lines.
    print(printable(f"softlabels: {' '.join(message.splitlines())}"), file=sys.stderr, flush=True)  # noqa: T201
    sys.exit(exit_code)


def say_json(message: str, exit_code: int) -> None:
    """Say an error as JSON, where that was asked for."""
    if "--json" in sys.argv and reports():
        _say(json.dumps({"error": message, "exit_code": exit_code}))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - what a command is for
