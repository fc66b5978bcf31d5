"""What all tests share: one thread a process, so that small kernels do not wait for each other on shared cores.

And the ledger of promises, which `make torture` ends with.
"""

import logging
import os
from collections.abc import Callable, Iterator

import fsspec
import pytest
import torch
from ledger import Attack, Ledger
from moto.server import ThreadedMotoServer

from benchmarks.servers import BUCKET, environment, seaweedfs

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


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of an S3 server in memory."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture(scope="session")
def seaweed() -> Iterator[str]:
    """The address of a real S3 server, which keeps its data on this machine's disk."""
    with seaweedfs() as url:
        yield url


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Let this process and those it starts find a server; the address of a prefix there that is this test's own."""
    clients = fsspec.get_filesystem_class("s3")

    def found(server: str) -> str:
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        clients.clear_instance_cache()
        fsspec.filesystem("s3").makedirs(BUCKET, exist_ok=True)
        return f"s3://{BUCKET}/{os.getpid()}-{abs(hash(request.node.nodeid))}"

    yield found
    clients.clear_instance_cache()


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
