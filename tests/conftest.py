"""What all tests share: one thread a process, so that small kernels do not wait for each other on shared cores.

And the ledger of promises, which `make torture` ends with.
"""

from collections.abc import Iterator

import pytest
import torch
from ledger import Attack, Ledger

torch.set_num_threads(1)
LEDGER = pytest.StashKey[Ledger]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the promises be attacked more often."""
    parser.addoption("--torture", action="store_true", help="attack each promise as often as docs/promises.md says")


def pytest_configure(config: pytest.Config) -> None:
    """Begin an empty ledger."""
    config.stash[LEDGER] = Ledger()


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long run."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def attack(request: pytest.FixtureRequest, torture: bool) -> Attack:
    """As many tries as the test's mark says."""
    mark = request.node.get_closest_marker("promise")
    planned = mark.kwargs.get("torture" if torture else "tries")
    return Attack(planned if isinstance(planned, int) else None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Note what became of an attack."""
    report = yield
    item.config.stash[LEDGER].note(item, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the ledger."""
    if config.getoption("--torture"):
        terminalreporter.section("promises")
        for line in config.stash[LEDGER].lines():
            terminalreporter.line(line)
