"""What a place promises, held against every kind of it: a directory, memory, and S3 by two servers."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from store_cases import VERSIONS, block, content, fill, job_of, tree

from benchmarks.servers import proxy
from pipeline.errors import ConfigError, CorruptError, IncompleteError, LockedError, MismatchError, StorageError
from pipeline.store import lease
from pipeline.store.addresses import place_of
from pipeline.store.buckets import Bucket
from pipeline.store.committer import Committer
from pipeline.store.copies import copy
from pipeline.store.documents import Job
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import MirrorSettings
from pipeline.store.places import LOCK, Place
from pipeline.store.state import read_state, receipt_name, shard_name
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter, free_bytes, missing_shards, require_space

Reach = Callable[[str], str]


@pytest.fixture(params=["directory", "memory", "moto", "seaweed"])
def place(request: pytest.FixtureRequest, tmp_path: Path, reach: Reach) -> Place:
    """An empty place of each kind."""
    match request.param:
        case "directory":
            return place_of(tmp_path / "place")
        case "memory":
            return place_of(f"memory://{uuid4().hex}")
        case _:
            return place_of(reach(request.getfixturevalue(request.param)))


@pytest.fixture
def bucket(reach: Reach, moto: str) -> Place:
    """A prefix of a bucket that is empty."""
    return place_of(reach(moto))


def test_what_is_written_is_read_and_nothing_else_is_there(place: Place) -> None:
    """Law: names, sizes and contents are those that were written, over and over, and none of others."""
    place.prepare()
    for content_of in (b"one", b"another"):
        place.write("a/b", [content_of[:1], content_of[1:]])
        assert place.read("a/b") == content_of
    place.write("a/c/d", [b"x" * 1000])
    assert (place.read("a/none"), place.read("none/none")) == (None, None)
    assert sorted(place.names("a")) == sorted(place.names("")) == ["a/b", "a/c/d"]
    assert (list(place.names("none")), place.sizes("a/c")) == ([], {"a/c/d": 1000})
    assert place.entries() == ["a"]
    assert list(place.read_many(["a/c/d", "no", "a/b"])) == [("a/c/d", b"x" * 1000), ("no", None), ("a/b", b"another")]
    place.remove("a/b")
    place.remove("a/b")
    assert place.read("a/b") is None


def test_the_first_to_create_wins(place: Place) -> None:
    """Law: a second one is told so, and changes nothing."""
    place.prepare()
    assert place.create("x/y", b"first")
    assert not place.create("x/y", b"second")
    assert place.read("x/y") == b"first"


def test_what_is_larger_than_it_can_be_is_refused(place: Place) -> None:
    """Law: no more is read than was written at most."""
    place.prepare()
    place.write("x", [b"12345"])
    assert place.read("x", 5) == b"12345"
    with pytest.raises(CorruptError, match=r"Restore it from a copy of the cache"):
        place.read("x", 4)


def test_a_place_is_found_again_elsewhere(place: Place) -> None:
    """Law: pickled or by its name, it is the same place."""
    place.prepare()
    place.write("x", [b"1"])
    for again in (pickle.loads(pickle.dumps(place)), place_of(str(place))):  # noqa: S301 - made here
        assert (str(again), again.read("x"), again.where("x")) == (str(place), b"1", place.where("x"))


def test_a_cache_is_the_same_in_every_place(place: Place, sealed: Path, job: Job, tmp_path: Path) -> None:
    """Law: the same bytes under the same names, so the same cache id; whole by `verify`, and read back in any order."""
    for commits in (2, None):
        with CacheWriter.open(place, job, VERSIONS) as writer:
            for shard in writer.missing()[:commits]:
                writer.commit(shard, block(job, shard), 0.5)
            assert missing_shards(place, job) == writer.missing()
            if commits:
                with pytest.raises(IncompleteError, match="has no seal: 2 of its 6 shards are done"):
                    LabelCache.open(place)
            else:
                writer.seal({"accuracy": 0.5})
    expected = {name: data for name, data in tree(sealed).items() if name.startswith("labels.zarr")}
    assert {name: place.read(name) for name in place.names("labels.zarr")} == expected
    assert read_state(place).seal.cache_id == read_state(sealed).seal.cache_id
    assert verify(place).problems == ()
    cache = LabelCache.open(place, settings=MirrorSettings(tmp_path / "mirror", 10**6))
    rows = np.random.default_rng(0).integers(0, job.rows, 50)
    for view in range(job.view_count):
        for name, found in cache.gather(view, rows).items():
            np.testing.assert_array_equal(found, content(job)[name][view, rows])


def test_the_same_job_again_does_nothing_and_another_is_refused(place: Place, job: Job) -> None:
    """Law: in every place a sealed cache is left alone, and an answer says what is different."""
    fill(place, job)
    before = {name: place.read(name) for name in place.names("")}
    with CacheWriter.open(place, job, VERSIONS) as writer:
        assert writer.sealed
    with pytest.raises(MismatchError, match=r'teacher.sha256 was "teacher-1" and is now "teacher-2"'):
        CacheWriter.open(place, job_of(teacher="teacher-2"), VERSIONS)
    assert {name: place.read(name) for name in place.names("")} == before


def test_damage_in_a_bucket_is_found_and_no_reader_is_deceived(bucket: Place, job: Job, tmp_path: Path) -> None:
    """Law: an object that is gone, cut, changed or another's is named by `verify` and refused by a reader."""
    fill(bucket, job)
    name = shard_name(job.arrays[3], job.layout, job.layout.shard(1))
    whole, other = bucket.read(name), bucket.read(shard_name(job.arrays[3], job.layout, job.layout.shard(0)))
    for number, damaged in enumerate((None, whole[:-1], b"", whole[:5] + b"\xff" + whole[6:], other)):
        bucket.remove(name)
        if damaged is not None:
            bucket.write(name, [damaged])
        assert [problem.path for problem in verify(bucket).problems] == [bucket.where(name)]
        cache = LabelCache.open(bucket, settings=MirrorSettings(tmp_path / str(number), 10**6))
        np.testing.assert_array_equal(cache.gather(0, np.arange(8))["logits"], content(job)["logits"][0, :8])
        with pytest.raises(CorruptError):
            cache.gather(0, np.arange(8, 16))


def test_two_writers_of_one_bucket_keep_what_the_other_has_done(bucket: Place, job: Job) -> None:
    """Law: with the same labels the first receipt wins, and both go on."""
    writers = [CacheWriter.open(bucket, job, VERSIONS) for _ in range(2)]
    for shard in job.layout.all_shards():
        receipts = [writer.commit(shard, block(job, shard), 0.5) for writer in writers]
        assert receipts[0] == receipts[1]
    writers[0].seal({})
    assert verify(bucket).problems == ()


def test_other_labels_of_a_shard_that_is_done_are_refused(bucket: Place, job: Job) -> None:
    """Law: the first are kept, whole; who comes second with others is told."""
    first, second = (CacheWriter.open(bucket, job, VERSIONS) for _ in range(2))
    first.commit(job.layout.shard(0), block(job, job.layout.shard(0)), 0.5)
    with pytest.raises(MismatchError, match=r"was written by .* meanwhile, for other logits than were made here"):
        second.commit(job.layout.shard(0), block(job, job.layout.shard(0), seed=1) | ids(job), 0.5)
    assert verify(bucket).problems == ()


def ids(job: Job) -> dict[str, np.ndarray]:
    """What two runs of one job share of shard 0."""
    return {name: block(job, job.layout.shard(0))[name] for name in ("sample_id", "label", "input_crc32c")}


def test_what_a_killed_writer_left_without_a_receipt_is_replaced(bucket: Place, job: Job) -> None:
    """Law: an object without a receipt proves nothing."""
    name = shard_name(job.arrays[3], job.layout, job.layout.shard(0))
    CacheWriter.open(bucket, job, VERSIONS)
    bucket.write(name, [b"left over"])
    fill(bucket, job)
    assert verify(bucket).problems == ()


def test_a_writer_that_slept_changes_nothing_of_what_is_done_or_sealed(
    bucket: Place, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: who has looked, slept, and comes with other labels once all is sealed is told, and all stays whole."""
    CacheWriter.open(bucket, job, VERSIONS)
    committer = Committer(bucket, job, VERSIONS, 1, among=True)
    awake, slept = committer.receipt, []

    def asleep(number: int) -> object:
        if not slept:
            slept.append(number)
            assert awake(number) is None
            fill(bucket, job)
            return None
        return awake(number)

    monkeypatch.setattr(committer, "receipt", asleep)
    with pytest.raises(MismatchError, match="The first are kept, whole"):
        committer.commit(job.layout.shard(0), block(job, job.layout.shard(0), seed=1) | ids(job), 0.5)
    assert verify(bucket).problems == ()


def test_two_writers_of_the_same_labels_both_end_well(bucket: Place, job: Job) -> None:
    """Law: the second finds the first one's seal, which is its own but for how it came about."""
    writers = [CacheWriter.open(bucket, job, VERSIONS) for _ in range(2)]
    for writer in writers:
        for shard in job.layout.all_shards():
            writer.commit(shard, block(job, shard), 0.5)
    assert writers[0].seal({}).cache_id == writers[1].seal({}).cache_id


def test_two_copies_of_two_runs_never_mix(bucket: Place, job: Job, tmp_path: Path) -> None:
    """Law: who comes to a shard second is refused; what is there is one run's, to the byte."""
    fill(tmp_path / "a", job)
    fill(tmp_path / "b", job, seed=1)
    pushed = []

    def other_first() -> bool:
        if not pushed:
            pushed.append(copy(tmp_path / "b", bucket))
        return False

    with pytest.raises(MismatchError, match="is not of the cache that is copied"):
        copy(tmp_path / "a", bucket, stopped=other_first)
    assert verify(bucket).problems == ()
    assert read_state(bucket).seal.cache_id == read_state(tmp_path / "b").seal.cache_id


def test_a_copy_over_one_that_is_further_is_refused_without_harm(tmp_path: Path, job: Job) -> None:
    """Law: it is never advised to delete what is more."""
    fill(tmp_path / "a", job, commits=2)
    fill(tmp_path / "b", job)
    with pytest.raises(MismatchError, match="has 4 shards more than the cache that is copied: it is further"):
        copy(tmp_path / "a", tmp_path / "b")
    assert verify(tmp_path / "b").problems == ()


def test_a_probe_that_a_killed_writer_left_is_no_problem_and_goes(bucket: Place, job: Job) -> None:
    """Law: `verify` passes over it, and the next writer clears it up."""
    fill(bucket, job, commits=2)
    left = f"lock.probe-{uuid4().hex}"
    bucket.write(left, [b"1"])
    assert verify(bucket).problems == ()
    fill(bucket, job)
    assert bucket.read(left) is None


class Deaf(Bucket):
    """A bucket whose first answer is lost, and asked for again."""

    deaf = True

    def _created(self, name: str, data: bytes) -> bool:
        created = super()._created(name, data)
        heard, self.deaf = not self.deaf, False
        return created and heard


def test_a_lost_answer_does_not_make_a_store_one_without_conditions(bucket: Place) -> None:
    """Law: what is there and is ours was created."""
    deaf = Deaf(str(bucket))
    deaf.prepare()
    assert deaf.shared


class Meddler(Bucket):
    """A bucket in which, once an object of a shard was replaced, another writer replaces it too."""

    theirs = b"theirs"

    def write(self, name: str, pieces: object) -> None:
        """As the bucket does, and then as the other one does."""
        super().write(name, pieces)
        super().write(name, [self.theirs])


def test_a_receipt_that_came_to_lie_is_taken_back(bucket: Place, job: Job) -> None:
    """Law: where two writers replaced each other's objects, who looks last leaves no receipt over what is mixed."""
    name = shard_name(job.arrays[3], job.layout, job.layout.shard(0))
    CacheWriter.open(bucket, job, VERSIONS)
    bucket.write(name, [b"left over"])
    committer = Committer(Meddler(str(bucket)), job, VERSIONS, 1, among=True)
    with pytest.raises(StorageError, match="two processes wrote this shard at the same time"):
        committer.commit(job.layout.shard(0), block(job, job.layout.shard(0)), 0.5)
    assert bucket.read(receipt_name(0)) is None
    fill(bucket, job)
    assert verify(bucket).problems == ()


def test_a_store_without_conditional_writes_is_found_out_and_has_one_writer(
    reach: Reach, moto: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a second writer is refused while the first one says that it lives, and let in once it is gone or silent."""
    monkeypatch.setattr(lease, "SETTLES_SECONDS", 0.0)
    with proxy(moto, conditions=False) as (server, _):
        place = place_of(reach(server))
        with CacheWriter.open(place, job, VERSIONS) as writer:
            assert not writer.place.shared
            with pytest.raises(LockedError, match="has no conditional writes, so a cache there has one writer"):
                CacheWriter.open(place_of(str(place)), job, VERSIONS)
            with pytest.raises(LockedError, match="is being written by process"):
                missing_shards(place, job_of(teacher="x"))
            writer.commit(job.layout.shard(0), block(job, job.layout.shard(0)), 0.5)
        assert LOCK not in place.entries()
        abandoned = lease.Lease(place)
        monkeypatch.setattr(lease, "LASTS_SECONDS", 0.0)
        fill(place_of(str(place)), job)
        abandoned.release(remove=True)
        assert verify(place).problems == ()


def test_a_store_with_conditional_writes_is_shared(place: Place, job: Job) -> None:
    """Law: where the first create wins, several processes may write."""
    with CacheWriter.open(place, job, VERSIONS) as writer:
        assert writer.place.shared


@pytest.mark.parametrize(
    ("url", "texts"),
    [
        ("nothing://x/y", ("is no address that is known here", "s3://bucket/prefix")),
        ("hdfs://x/y", ("Install what reaches such a store", "or set another cache path")),
    ],
)
def test_an_address_that_nothing_reaches_is_refused(url: str, texts: tuple[str, ...]) -> None:
    """Law: at once, with what would be right."""
    with pytest.raises(ConfigError) as refusal:
        place_of(url)
    assert [text for text in texts if text not in str(refusal.value)] == []


def test_wrong_keys_and_a_server_that_is_not_there_are_storage_errors(
    reach: Reach, seaweed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: each says which object, what was attempted, and where to look."""
    url = reach(seaweed)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"could not read this object: PermissionError: .*Check its keys"):
        read_state(Bucket(url))


def test_a_bucket_does_not_say_how_much_room_it_has(bucket: Place) -> None:
    """Law: nothing is refused for want of what is not known."""
    assert free_bytes(bucket) is None
    require_space(bucket, 10**18)


def test_an_address_of_files_is_a_directory(tmp_path: Path, job: Job) -> None:
    """Law: file:// is the path that follows it."""
    fill(f"file://{tmp_path}/cache", job)
    assert verify(tmp_path / "cache").problems == ()


@pytest.mark.parametrize("event", ["stolen", "server down"])
def test_a_lease_that_is_lost_ends_its_writer(
    event: str, reach: Reach, moto: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: who was replaced, or could not say for too long that it lives, writes no more and takes no one's lease."""
    monkeypatch.setattr(lease, "SETTLES_SECONDS", 0.0)
    monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.01)
    with proxy(moto, conditions=False) as (server, _):
        place = place_of(reach(server))
        with CacheWriter.open(place, job, VERSIONS) as writer:
            if event == "server down":
                monkeypatch.setattr(lease, "LASTS_SECONDS", -1.0)
            end = time.monotonic() + 20
            while not vars(held_by(writer))["_lost"] and time.monotonic() < end:
                if event == "stolen":  # again and again: a renewal that was under way replaces what it did not see
                    place.write(LOCK, [b'{"token": "another", "who": "x", "when": 0}'])
                time.sleep(0.01)
            with pytest.raises(LockedError, match=r"may be written by another process now.*What is done is kept"):
                writer.commit(job.layout.shard(0), block(job, job.layout.shard(0)), 0.5)
        assert (LOCK in place.entries()) == (event == "stolen")


def held_by(writer: CacheWriter) -> lease.Lease:
    """A writer's lease."""
    found = vars(writer)["_lock"]
    assert isinstance(found, lease.Lease)
    return found


def test_a_key_in_an_address_is_refused_and_not_shown() -> None:
    """Law: wherever an address may come from; Azure's own form, which has none, is one."""
    with pytest.raises(ConfigError, match="with a key in it") as refusal:
        place_of("s3://key:secret@bucket/x")
    assert "secret" not in str(refusal.value)
