"""What is promised of a directory, kept in a bucket: over a network that fails, by writers that die, on a server."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from ledger import Attack
from promise_cases import undisturbed_id
from store_cases import VERSIONS, block, content, fill, job_of, tree

from benchmarks.servers import FAULTS, Traffic, proxy
from pipeline.errors import CorruptError, StorageError
from pipeline.store import buckets, files
from pipeline.store.addresses import place_of
from pipeline.store.copies import copy
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import LEDGER, MirrorSettings
from pipeline.store.places import Place
from pipeline.store.state import read_state, shard_name
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter

Reach = Callable[[str], str]
OFTEN = 0.12  # of all requests that something becomes of


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives up soon."""
    hurried = {"retries": {"mode": "standard", "max_attempts": 2}, "read_timeout": 1, "connect_timeout": 1}
    monkeypatch.setitem(buckets.OPTIONS, "s3", {**buckets.OPTIONS["s3"], "config_kwargs": hurried})


@contextmanager
def faulty(server: str, reach: Reach, dice: random.Random, kind: str | None = None) -> Iterator[tuple[str, Traffic]]:
    """The address of a prefix behind a proxy that does harm to some requests, of one kind or of any."""

    def fault(_method: str, path: str) -> str | None:
        harmed = "/caches/" in path and dice.random() < OFTEN
        return (kind or dice.choice(FAULTS)) if harmed else None

    with proxy(server, fault) as (address, traffic):
        yield f"{reach(address)}/{uuid4().hex}", traffic


@pytest.mark.promise("P16", tries=7, torture=70)
def test_a_cache_made_over_a_faulty_network_is_the_one_made_without(
    attack: Attack, reach: Reach, seaweed: str, tmp_path: Path
) -> None:
    """Law: 500, 503, cut before and after the work, half an answer, none, a slow one: the same id, and all of it whole.

    Each kind of fault in turn. What the client was not told of is asked again, and found done.
    """
    job, done = job_of(rows=16, views=1), Counter[str]()
    for number, dice in attack.tries():
        kind = FAULTS[number % len(FAULTS)]
        with faulty(seaweed, reach, dice, kind) as (url, traffic), attack.attempt(kind):
            fill(url, job)
            copy(url, tmp_path / str(number))
            cache = LabelCache.open(url, settings=MirrorSettings(tmp_path / "mirror" / str(number), 10**6))
            np.testing.assert_array_equal(cache.gather(0, np.arange(16))["logits"], content(job)["logits"][0])
            done += traffic.faults
            assert read_state(tmp_path / str(number)).seal.cache_id == undisturbed_id(job.to_bytes())
            assert verify(tmp_path / str(number)).problems == ()
    attack.assert_kept(7)
    assert min(done[kind] for kind in FAULTS) > 0


@pytest.mark.promise("P16")
@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_gone_is_an_error_and_costs_nothing_that_is_done(reach: Reach, seaweed: str, job: Job) -> None:
    """Law: exit code 7 says what was attempted and where; the same writer goes on once the server is back."""
    down: list[bool] = []
    with proxy(seaweed, lambda *_: "503" if down else None) as (address, _):
        url = reach(address)
        with CacheWriter.open(url, job, VERSIONS) as writer:
            writer.commit(job.layout.shard(0), block(job, job.layout.shard(0)), 0.5)
            down.append(True)
            with pytest.raises(StorageError, match=r"could not .* this object: .*what is already done is kept"):
                writer.commit(job.layout.shard(1), block(job, job.layout.shard(1)), 0.5)
        down.clear()
        assert list(read_state(url).receipts) == [0]
        fill(url, job)
        assert verify(url).problems == ()


WRITE = """
import sys
sys.path[:0] = sys.argv[2:]
from store_cases import VERSIONS, block, job_of
from pipeline.store.writer import CacheWriter
job = job_of(rows=40, views=2)
with CacheWriter.open(sys.argv[1], job, VERSIONS) as writer:
    for shard in writer.missing():
        print(writer.commit(shard, block(job, shard), 0.5).shard, flush=True)
    writer.seal({})
"""


@pytest.mark.promise("P16", tries=4, torture=60)
def test_a_writer_of_a_bucket_killed_at_random_moments_loses_nothing_it_said_was_done(
    attack: Attack, reach: Reach, seaweed: str
) -> None:
    """Law: after SIGKILL all that it said was committed has its receipt, no receipt lies, and the next one goes on."""
    url, job = reach(seaweed), job_of(rows=40, views=2)
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "store")]
    prefix = f"{url}/{uuid4().hex}"
    for _, dice in attack.tries():
        command = [sys.executable, "-c", WRITE, prefix, *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer, attack.attempt(prefix):
            said = [int(writer.stdout.readline() or -1) for _ in range(dice.randrange(1, 5))]
            time.sleep(dice.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            said += map(int, writer.stdout.read().split())
            report = verify(prefix)
            assert report.problems == ()
            assert {number for number in said if number >= 0} <= set(read_state(prefix).receipts)
        if report.sealed:
            prefix = f"{url}/{uuid4().hex}"
    fill(prefix, job)
    assert read_state(prefix).seal.cache_id == undisturbed_id(job.to_bytes())
    attack.assert_kept(4)


@pytest.mark.promise("P16")
@pytest.mark.parametrize("there", ["directory", "bucket"])
def test_a_copy_that_was_cut_short_goes_on_and_is_the_cache(
    there: str, reach: Reach, seaweed: str, job: Job, tmp_path: Path
) -> None:
    """Law: pulled or pushed, stopped after any shard, the copy ends with the same bytes and nothing is copied twice."""
    fill(tmp_path / "cache", job)
    places = [place_of(tmp_path / "cache"), place_of(reach(seaweed)), place_of(tmp_path / "again")]
    source, dest = places[:2] if there == "bucket" else places[1:]
    if there == "directory":
        copy(places[0], source)
    asked = iter([False, False, True])
    assert copy(source, dest, stopped=lambda: next(asked, True)) is None
    begun = len(read_state(dest).receipts)
    assert 0 < begun < job.layout.shards
    assert copy(source, dest).shards == job.layout.shards - begun
    assert copy(source, dest).shards == 0
    assert {name: dest.read(name) for name in dest.names("")} == tree(tmp_path / "cache")


@pytest.mark.promise("P16")
def test_a_copy_never_mixes_two_runs_of_a_job_and_never_copies_damage(
    reach: Reach, seaweed: str, job: Job, tmp_path: Path
) -> None:
    """Law: shards of another run at the destination, and a damaged one at the source, are refused by name."""
    dest = place_of(reach(seaweed))
    fill(tmp_path / "cache", job)
    fill(tmp_path / "other", job, seed=1)
    copy(tmp_path / "cache", dest, stopped=iter([False, True, True]).__next__)
    with pytest.raises(Exception, match="is not of the cache that is copied, though of the same job"):
        copy(tmp_path / "other", dest)
    file = tmp_path / "cache" / shard_name(job.arrays[3], job.layout, job.layout.shard(5))
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    with pytest.raises(CorruptError, match=r"logits.*chunks without their checksum"):
        copy(tmp_path / "cache", dest)
    assert verify(dest).problems == ()


def mirrored(place: Place, folder: Path, most: int = 10**6) -> LabelCache:
    """A reader with copies of its own."""
    return LabelCache.open(place, settings=MirrorSettings(folder, most))


READ = """
import os, sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
import numpy as np
from store_cases import content, job_of
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import LEDGER, MirrorSettings
job = job_of(rows=400, views=1, shard_rows=8, chunk_rows=4)
cache = LabelCache.open(sys.argv[1], settings=MirrorSettings(Path(sys.argv[2]), int(sys.argv[3])))
dice, expected = np.random.default_rng(os.getpid()), content(job)
for _ in range(20):
    rows = dice.integers(0, 400, 16)
    for name, found in cache.gather(0, rows).items():
        np.testing.assert_array_equal(found, expected[name][0, rows])
"""


@pytest.mark.promise("P16", tries=2, torture=30)
def test_processes_share_bounded_copies_and_are_never_deceived(
    attack: Attack, reach: Reach, seaweed: str, tmp_path: Path
) -> None:
    """Law: readers at once over copies with room for a tenth of the cache read what was written.

    One of them is killed meanwhile, and in every other try copies are damaged, each once. What is copied never takes
    more than its room.
    """
    job = job_of(rows=400, views=1, shard_rows=8, chunk_rows=4)
    url, most = reach(seaweed), job.bytes_of(job.layout.all_shards()) // 10
    fill(url, job)
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "store")]
    for number, dice in attack.tries():
        folder = tmp_path / str(number)
        command = [sys.executable, "-c", READ, url, str(folder), str(most), *paths]
        with attack.attempt(number), ExitStack() as stack:
            readers = [stack.enter_context(process(command)) for _ in range(3)]
            largest, damaged = 0, set()
            while any(reader.poll() is None for reader in readers[1:]):
                with _nobody_writing(folder):
                    copies = [path for path in folder.glob("copies/*/labels.zarr/*/c/**/*") if path.is_file()]
                    largest = max(largest, sum(_size(path) for path in copies))
                copies = [path for path in copies if not files.is_leftover(path.name) and path not in damaged]
                if number % 2 and copies and dice.random() < 0.3:
                    path = dice.choice(copies)
                    damaged.add(path)  # once: a reader that finds it damaged again and again is right to stop
                    _damage(path, dice)
                if dice.random() < 0.1:
                    readers[0].kill()
                time.sleep(0.02)
            readers[0].kill()
            errors = [reader.communicate()[1] for reader in readers]
            assert [reader.returncode for reader in readers[1:]] == [0, 0], errors
            assert largest > 0
            assert largest <= most or number % 2  # a damaged copy is not one that anyone made room for
    attack.assert_kept(2)


@contextmanager
def process(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that ends with what it was for."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


@contextmanager
def _nobody_writing(folder: Path) -> Iterator[None]:
    """While inside, no copy comes: else one that has left would be counted with the one that has come for it."""
    ledger = folder / "copies" / LEDGER
    if not ledger.exists():
        yield
        return
    with ledger.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _damage(path: Path, dice: random.Random) -> None:
    """Put another file of the same size in a copy's place, as a disk does that lost some of its pages."""
    try:
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_bytes(data)
        beside.replace(path)
    except FileNotFoundError:
        return  # someone made room


@pytest.mark.promise("P16")
def test_what_is_here_is_not_fetched_again(reach: Reach, seaweed: str, job: Job, tmp_path: Path) -> None:
    """Law: later epochs, and later processes, ask the server for documents alone."""
    with proxy(seaweed) as (address, traffic):
        place = place_of(reach(address))
        fill(place, job)
        cache = mirrored(place, tmp_path)
        for _ in range(3):
            cache.gather(0, np.arange(job.rows))
        fetched = traffic.methods["GET"]
        cache.gather(0, np.arange(job.rows))
        assert traffic.methods["GET"] == fetched
        again = mirrored(place, tmp_path)
        opened = traffic.methods["GET"]
        again.gather(0, np.arange(job.rows))
        assert traffic.methods["GET"] == opened < fetched + 10
