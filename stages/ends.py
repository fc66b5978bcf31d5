"""How a command ends: with a report, or with an error in one paragraph, and an exit code."""

import json
import signal
import sys
from typing import NoReturn

from stages.report import Report, printable, reports

STOPS = {
    int(signal.SIGTERM): ("Stopped by SIGTERM. Run the same command again to go on.", 75),
    int(signal.SIGINT): ("Stopped by Ctrl-C. Run the same command again to go on.", 130),
}


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
