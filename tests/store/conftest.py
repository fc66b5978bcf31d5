"""No test of the store waits for the disk; those that are about syncing watch the calls themselves."""

from pathlib import Path

import pytest
from faulty_os import Calls
from store_cases import fill, job_of

from pipeline.store import files
from pipeline.store.documents import Job


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", Calls())


@pytest.fixture
def job() -> Job:
    """Two views of 21 rows in shards of 8 and chunks of 4: the last shard and the last chunk are not full."""
    return job_of()


@pytest.fixture
def sealed(tmp_path: Path, job: Job) -> Path:
    """A whole cache of `job`."""
    fill(tmp_path / "cache", job)
    return tmp_path / "cache"


@pytest.fixture
def partial(tmp_path: Path, job: Job) -> Path:
    """A cache of `job` with its first four shards of six: view 0 and one shard of view 1."""
    fill(tmp_path / "cache", job, commits=4)
    return tmp_path / "cache"
