"""What is so of a cache whatever was done to its writer; and processes that can be killed without ceremony."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from store_cases import LOGITS, fill, job_of, tree

from pipeline.errors import IncompleteError
from pipeline.store import files
from pipeline.store.documents import Job, parse_job
from pipeline.store.places import LOCK
from pipeline.store.state import JOB, RECEIPTS, SEAL, read_state
from pipeline.store.verify import verify

JOB_OF_THREE = job_of(rows=5, views=1, shard_rows=2, chunk_rows=1, arrays=(LOGITS,))
"""Three shards, the last of one row."""


@cache
def undisturbed_id(job: bytes) -> str:
    """The id of a cache of the job of these bytes that nothing interrupted."""
    with TemporaryDirectory() as folder:
        fill(Path(folder) / "cache", parse_job(job, Path(JOB)))
        return read_state(Path(folder) / "cache").seal.cache_id


def assert_tells_no_lie(path: Path) -> None:
    """Law: all that has a receipt is whole; without a job there is no receipt."""
    try:
        assert verify(path).problems == ()
    except IncompleteError:
        assert not list(path.glob(f"{RECEIPTS}/*"))
        assert not (path / SEAL).exists()


def assert_goes_on(path: Path, job: Job) -> None:
    """Law: the same command ends with the same cache, and clears up after the killed run unless that had sealed it."""
    was_sealed = (path / SEAL).exists()
    fill(path, job)
    report = verify(path)
    assert (report.sealed, report.shards, report.problems) == (True, job.layout.shards, ())
    assert read_state(path).seal.cache_id == undisturbed_id(job.to_bytes())
    assert was_sealed or unfinished(path) == []


def unfinished(path: Path) -> list[str]:
    """What a writer has left behind that is of no use."""
    return [name for name in tree(path) if files.is_leftover(Path(name).name) or name == LOCK]


@contextmanager
def forked(work: Callable[[], object]) -> Iterator["Fork"]:
    """A process of its own that does some work; killed in the end, unless it has ended."""
    if not (number := os.fork()):
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may reach the test that this process was copied from
            traceback.print_exc()
        finally:
            os._exit(code)
    fork = Fork(number)
    try:
        yield fork
    finally:
        if fork.code is None:
            fork.kill()


@dataclass
class Fork:
    """A forked process, and how it has ended: its exit code, or minus the signal's number."""

    number: int
    code: int | None = None

    def kill(self) -> None:
        """End it by SIGKILL, if it has not ended by itself."""
        os.kill(self.number, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """How it has ended, once it has."""
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        return self.code
