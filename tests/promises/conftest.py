"""What the attacks on the store share. They wait for no disk; those about syncing watch the calls themselves."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_os import Calls
from store_cases import fill, job_of

from pipeline.store import files
from pipeline.store.documents import Job

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - made by the system; what is made there is a folder of our own


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", Calls())


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of small trees are laid out there."""
    folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else tmp_path
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def job() -> Job:
    """Two views of 21 rows in shards of 8 and chunks of 4: the last shard and the last chunk are not full."""
    return job_of()


@pytest.fixture
def sealed(tmp_path: Path, job: Job) -> Path:
    """A whole cache of `job`."""
    fill(tmp_path / "cache", job)
    return tmp_path / "cache"
