"""Copies of what is in a bucket: bounded, the least recently used go first, and none is believed unproven."""

import errno
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from store_cases import content, fill, job_of

from pipeline.errors import ConfigError, CorruptError, StorageError
from pipeline.store import residence
from pipeline.store.addresses import place_of
from pipeline.store.buckets import Bucket
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import FOLDER, LEDGER, TAG, Mirror, MirrorSettings
from pipeline.store.places import Place
from pipeline.store.verify import verify


@pytest.fixture
def place() -> Place:
    """Ten objects of a hundred bytes, named as shards of one array are."""
    made = place_of(f"memory://{uuid4().hex}")
    for number in range(10):
        made.write(name(number), [bytes([number]) * 100])
    return made


def name(number: int) -> str:
    """Of an object."""
    return f"labels.zarr/logits/c/0/{number}"


def whole(named: str, data: bytes) -> None:
    """Refuse all but the bytes that were written."""
    if data != bytes([int(named[-1])]) * 100:
        raise CorruptError(f"{named} is damaged")


def fetch(mirror: Mirror, *numbers: int) -> None:
    """Make sure that these are here."""
    mirror.fetch([(name(number), 100) for number in numbers], whole)


def here(mirror: Mirror) -> list[int]:
    """Which are here."""
    return sorted(int(path.name) for path in (mirror.root / "labels.zarr/logits/c/0").iterdir())


def test_what_was_used_longest_ago_makes_room(place: Place, tmp_path: Path) -> None:
    """Law: what is here is at most as many bytes as allowed, and what was asked for last stays."""
    mirror = Mirror(place, "one", MirrorSettings(tmp_path, 450))
    for number in range(4):
        fetch(mirror, number)
        os.utime(mirror.root / name(number), (number, number))
    fetch(mirror, 0)
    fetch(mirror, 4)
    assert here(mirror) == [0, 2, 3, 4]
    assert int((tmp_path / FOLDER / LEDGER).read_text()) == 400


def test_copies_of_all_caches_share_one_room(place: Place, tmp_path: Path) -> None:
    """Law: those of another cache make room too."""
    first, second = (Mirror(place, each, MirrorSettings(tmp_path, 450)) for each in ("one", "two"))
    fetch(first, 0, 1, 2, 3)
    for number in range(4):
        os.utime(first.root / name(number), (number, number))
    fetch(second, 7)
    assert (here(first), here(second)) == ([1, 2, 3], [7])


def test_a_count_that_was_lost_is_taken_anew(place: Place, tmp_path: Path) -> None:
    """Law: a process that was killed while it wrote costs a look at what is there, and no more."""
    mirror = Mirror(place, "one", MirrorSettings(tmp_path, 450))
    fetch(mirror, 0, 1)
    (tmp_path / FOLDER / LEDGER).write_bytes(b"")
    fetch(mirror, 2)
    assert int((tmp_path / FOLDER / LEDGER).read_text()) == 300


def test_a_file_that_has_no_room_at_all_is_refused(place: Place, tmp_path: Path) -> None:
    """Law: the key to change is named."""
    with pytest.raises(ConfigError, match=r"has 100 bytes, and cache.mirror_bytes allows 99 for all. Raise it"):
        fetch(Mirror(place, "one", MirrorSettings(tmp_path, 99)), 0)


class Noisy(Bucket):
    """A bucket over a way that changes what is read, so many times."""

    times = 1

    def read(self, name: str, most: int = 100) -> bytes | None:
        """Something else first."""
        data = super().read(name, most)
        self.times -= 1
        return b"?" * most if data and self.times >= 0 else data


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_damaged_on_its_way_is_fetched_once_more(times: int, place: Place, tmp_path: Path) -> None:
    """Law: and refused if it comes damaged again; nothing of it is kept then."""
    noisy = Noisy(str(place))
    noisy.times = times
    mirror = Mirror(noisy, "one", MirrorSettings(tmp_path, 450))
    if times == 1:
        fetch(mirror, 3)
        assert here(mirror) == [3]
    else:
        with pytest.raises(CorruptError, match="is damaged"):
            fetch(mirror, 3)
        assert not (mirror.root / name(3)).exists()


def test_an_object_that_is_gone_is_damage(place: Place, tmp_path: Path) -> None:
    """Law: it is named by its address."""
    place.remove(name(3))
    with pytest.raises(CorruptError, match=f"{place}/labels.zarr/logits/c/0/3 is gone"):
        fetch(Mirror(place, "one", MirrorSettings(tmp_path, 450)), 3)


def test_a_backup_knows_that_copies_are_not_worth_keeping(place: Place, tmp_path: Path) -> None:
    """The mark is that of https://bford.info/cachedir."""
    Mirror(place, "one", MirrorSettings(tmp_path / "new", 450))
    assert (tmp_path / "new" / FOLDER / TAG).read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


@pytest.mark.parametrize("shards", [1, 3, 10])
def test_a_cache_is_read_through_any_room(shards: int, tmp_path: Path) -> None:
    """Law: rows in any order are those that were written, though copies leave again before all have come."""
    job = job_of(rows=160, views=1)
    url = f"memory://{uuid4().hex}"
    fill(url, job)
    most = shards * job.bytes_of([job.layout.shard(0)])
    cache = LabelCache.open(url, settings=MirrorSettings(tmp_path, most))
    rows = np.random.default_rng(0).permutation(160)
    for part in np.split(rows, 8):
        found = cache.gather(0, part)
        for array in found:
            np.testing.assert_array_equal(found[array], content(job)[array][0, part])
    copies = [path for path in tmp_path.glob("copies/*/labels.zarr/*/c/**/*") if path.is_file()]
    assert sum(path.stat().st_size for path in copies) <= most


def test_a_copy_that_rotted_under_a_reader_is_fetched_again(tmp_path: Path) -> None:
    """Law: a chunk that is first touched later is held against its checksum then, and mended from the bucket."""
    job = job_of(rows=16, views=1)
    url = f"memory://{uuid4().hex}"
    fill(url, job)
    cache = LabelCache.open(url, settings=MirrorSettings(tmp_path, 10**6))
    cache.gather(0, np.arange(4))
    file = cache.root / "labels.zarr/logits/c/0/0/0"
    data = bytearray(file.read_bytes())
    data[4 * 6 + 4] ^= 1  # the second chunk's first byte
    with file.open("r+b") as opened:
        opened.write(data)
    for name_of, found in cache.gather(0, np.arange(16)).items():
        np.testing.assert_array_equal(found, content(job)[name_of][0])


def test_a_reader_that_was_sent_elsewhere_finds_its_bucket_and_its_copies(tmp_path: Path) -> None:
    """Law: pickled, it is the same cache with the same settings."""
    job = job_of(rows=16, views=1)
    url = f"memory://{uuid4().hex}"
    fill(url, job)
    cache = LabelCache.open(url, settings=MirrorSettings(tmp_path, 10**6))
    again = pickle.loads(pickle.dumps(cache))  # noqa: S301 - made here
    assert (again.root, again.cache_id, str(again.place)) == (cache.root, cache.cache_id, url)


def test_a_cache_that_lies_beside_the_copies_is_left_alone(tmp_path: Path) -> None:
    """Law: room is made among copies alone, wherever they were told to go."""
    job = job_of(rows=160, views=1)
    url = f"memory://{uuid4().hex}"
    fill(url, job)
    for neighbour in ("precious", "copies-of-mine"):
        fill(tmp_path / neighbour, job)
    cache = LabelCache.open(url, settings=MirrorSettings(tmp_path, 3 * job.bytes_of([job.layout.shard(0)])))
    for part in np.split(np.arange(160), 20):
        cache.gather(0, part)
    for neighbour in ("precious", "copies-of-mine"):
        assert verify(tmp_path / neighbour).problems == ()


def test_copies_that_cannot_be_mapped_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what reads an absent file as filling is never let near copies that may leave."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENODEV, "no such device")

    monkeypatch.setattr(residence, "map_whole", refuse)
    job = job_of(rows=16, views=1)
    url = f"memory://{uuid4().hex}"
    fill(url, job)
    cache = LabelCache.open(url, settings=MirrorSettings(tmp_path, 10**6))
    with pytest.raises(StorageError, match=r"cannot map files, .* Set cache.mirror to a directory on a disk of this"):
        cache.gather(0, np.arange(4))


def test_a_process_forked_while_a_copy_is_written_keeps_no_one_waiting(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: it shares the open lock, and its end is not waited for."""
    mirror = Mirror(place, "one", MirrorSettings(tmp_path, 450))
    children: list[int] = []
    real = vars(Mirror)["_write"].__func__

    def write(path: Path, data: bytes) -> None:
        if not (child := os.fork()):
            time.sleep(60)
            os._exit(0)
        children.append(child)
        real(path, data)

    monkeypatch.setattr(mirror, "_write", write)
    fetch(mirror, 0)
    monkeypatch.undo()
    fetcher = threading.Thread(target=fetch, args=(mirror, 1), daemon=True)
    fetcher.start()
    fetcher.join(30)
    assert here(mirror) == [0, 1]
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)


def test_a_link_in_the_place_of_the_ledger_is_not_followed(place: Place, tmp_path: Path) -> None:
    """Law: nothing elsewhere is written to."""
    mirror = Mirror(place, "one", MirrorSettings(tmp_path, 450))
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / FOLDER / LEDGER).symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match="could not write this file"):
        fetch(mirror, 0)
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_threads_may_open_one_cache_at_once(tmp_path: Path) -> None:
    """Law: the documents that each of them puts here come in no one's way."""
    job = job_of(rows=16, views=1)
    url = f"memory://{uuid4().hex}"
    fill(url, job)
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: LabelCache.open(url, settings=MirrorSettings(tmp_path, 10**6)), range(60)))
    assert len({cache.root for cache in opened}) == 1
