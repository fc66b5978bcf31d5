"""Threads that read leave torch's threads to the network."""

import threading
from collections.abc import Iterator

import pytest
import torch

from pipeline.ahead import ahead
from pipeline.devices import for_one_thread


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes with two here, as on a user's machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_thread_that_reads_computes_by_itself(workers: int) -> None:
    """Law: and no other thread does so for it, be it there already or begun later."""
    found: list[int] = []
    assert set(ahead(range(20), lambda _: torch.get_num_threads(), workers)) == {2}
    assert set(ahead(range(20), lambda _: torch.get_num_threads(), workers, begin=for_one_thread())) == {1}
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *found] == [2, 2]
