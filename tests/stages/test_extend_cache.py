"""More views or samples for a whole cache: nothing of it is rewritten, and until the new seal it is read as it was."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY
from stage_cases import (
    CLASSES,
    ECHO,
    PATIENT,
    ROWS,
    TOPK,
    decided,
    images,
    must,
    run,
    softlabels,
    words,
    write_experiment,
    write_idx,
)
from store_cases import block, fill, job_of

from pipeline.config import load
from pipeline.errors import CorruptError, LockedError
from pipeline.sources import open_views
from pipeline.store.documents import Job, parse_job
from pipeline.store.growth import extend
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_job
from pipeline.store.unmapped import Unmapped
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter

VIEWS = ("views.transform=crop_flip", "views.options={pixels = 1}")
TWO, FIVE = (*VIEWS, "views.count=2"), (*VIEWS, "views.count=5")


def kept(cache: Path) -> dict[str, tuple[bytes, int]]:
    """Every shard file and receipt: its bytes, and when they were written."""
    files = [*cache.glob("labels.zarr/*/c/**/*"), *cache.glob("receipts/*")]
    return {
        str(path.relative_to(cache)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.is_file()
    }


def of_views(cache: Path, views: int) -> Job:
    """The job of a cache with another number of views."""
    return read_job(cache).model_copy(update={"view_count": views})


def labels(cache: LabelCache) -> dict[str, list[bytes]]:
    """All rows of all views."""
    found = [cache.gather(view, np.arange(cache.layout.rows)) for view in range(cache.layout.views)]
    return {name: [record[name].tobytes() for record in found] for name in found[0]}


def test_views_are_added_and_nothing_is_rewritten(fitted: Path) -> None:
    """Law: the labels are those of a cache made at once with as many views; every old file and receipt is untouched."""
    must("generate", *TWO)
    before, first = kept(fitted / "cache"), LabelCache.open(fitted / "cache")
    facts = must("extend", *TWO, flags=("--views", "5", "--json")).facts
    assert (facts["rows"], facts["made"]) == (50, 150)
    assert facts["cache_id"] != first.cache_id
    after = kept(fitted / "cache")
    assert {name: after[name] for name in before} == before
    must("generate", *FIVE, "cache.path=at-once")
    whole = LabelCache.open(fitted / "cache")
    assert labels(whole) == labels(LabelCache.open(fitted / "at-once"))
    assert verify(fitted / "cache").problems == ()
    assert zarr.open_group(fitted / "cache/labels.zarr", mode="r")["logits"].shape == (5, 50, 3)
    assert must("generate", *FIVE, flags=("--json",)).facts["made"] == 0
    assert labels(first)["logits"] == labels(whole)["logits"][:2]


def test_a_cache_may_grow_more_than_once_and_by_workers(fitted: Path) -> None:
    """Law: each time all that was there stays; students of any of its views are trained from it."""
    must("generate", *TWO)
    must("extend", *TWO, flags=("--views", "3"))
    must("extend", *TWO, flags=("--views", "5", "--workers", "2"))
    must("generate", *FIVE, "cache.path=at-once")
    assert labels(LabelCache.open(fitted / "cache")) == labels(LabelCache.open(fitted / "at-once"))
    assert [stage.views for stage in LabelCache.open(fitted / "cache").job.stages] == [2, 3]
    assert softlabels("verify", "cache", "--teacher", "e.toml", *(w for s in FIVE for w in ("--set", s))).code == 0
    must("train", *TWO, "students.distilled.views=4")
    assert softlabels("push", "cache", "copy").code == 0
    assert LabelCache.open(fitted / "copy").cache_id == LabelCache.open(fitted / "cache").cache_id


def grow(folder: Path) -> "subprocess.Popen[bytes]":
    """`extend` on a patient teacher."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, "-m", "stages", *words("extend", (*PATIENT, *TWO), ("--views", "3"))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )


def test_one_that_was_killed_half_way_is_read_as_it_was_and_goes_on(fitted: Path) -> None:
    """Law: until the new seal is there readers find the old cache; the same command makes what is missing, no more."""
    must("generate", *PATIENT, *TWO)
    before = LabelCache.open(fitted / "cache")
    process = grow(fitted)
    late = time.monotonic() + 60
    while len(list((fitted / "cache/receipts").glob("*.json"))) < 30:
        assert time.monotonic() < late
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((fitted / "cache/receipts").glob("*.json")))
    assert 30 <= done < 39
    half = LabelCache.open(fitted / "cache")
    assert (half.cache_id, half.layout.views) == (before.cache_id, 2)
    assert labels(half) == labels(before)
    report = verify(fitted / "cache")
    assert (report.sealed, report.problems, report.shards) == (False, (), done)
    facts = must("extend", *PATIENT, *TWO, flags=("--views", "3", "--json")).facts
    assert facts["made"] == 150 - min(50 * 2, 150) - 4 * (done - 26)
    assert verify(fitted / "cache").sealed
    assert LabelCache.open(fitted / "cache").layout.views == 3


@pytest.mark.parametrize("lost", ["seal.json", "labels.zarr/logits/zarr.json", "labels.zarr/zarr.json"])
def test_killed_while_sealing_it_is_read_as_it_was_and_sealed_by_the_same_command(lost: str, fitted: Path) -> None:
    """Law: at any of the files that are replaced last, in any order."""
    must("generate", *TWO)
    shutil.copytree(fitted / "cache", fitted / "old")
    must("extend", *TWO, flags=("--views", "3"))
    new = decided(fitted / "cache")
    shutil.copy(fitted / "old/seal.json", fitted / "cache/seal.json")
    shutil.copy(fitted / "old" / lost, fitted / "cache" / lost)
    old, half = LabelCache.open(fitted / "old"), LabelCache.open(fitted / "cache")
    assert (half.cache_id, labels(half)) == (old.cache_id, labels(old))
    assert must("extend", *TWO, flags=("--views", "3", "--json")).facts["made"] == 0
    assert decided(fitted / "cache") == new
    assert verify(fitted / "cache").problems == ()


def test_what_cannot_be_extended_is_refused_and_left_as_it_is(fitted: Path) -> None:
    """Law: with the way out, and not one byte is changed."""
    run("extend", *TWO, flags=("--views", "3")).refuses(4, "holds no label cache")
    must("generate", *TWO)
    before = kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()
    run("extend", *TWO, flags=("--views", "2")).refuses(
        2, "has 2 views of 50 samples, and 2 views of 50 samples are no more"
    )
    run("extend", *TWO, "views.seed=4", flags=("--views", "3")).refuses(5, "views.seed was 0 and is now 4")
    run("generate", *FIVE).refuses(
        5,
        "was made with 2 views of 50 samples, and now 5 views of 50 samples are asked for",
        "softlabels extend CONFIG --views 5",
    )
    both = run("extend", *TWO, flags=("--views", "3", "--workers", "1", "--scheduler", "x"))
    assert (both.code, both.out) == (2, "")
    assert "give one of them" in both.err
    (fitted / "cache/seal.json").unlink()
    run("extend", *TWO, flags=("--views", "3")).refuses(4, "has no seal: 8 of its 8 shards are done. Finish it")
    assert (kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()) == before


@STEADY
@given(st.lists(st.integers(1, 30), min_size=2, max_size=5, unique=True).map(sorted))
def test_a_job_remembers_what_it_was(views: list[int]) -> None:
    """Law: each stage is that very job, and each shard is of the stage that had its view first."""
    first = job_of(views=views[0])
    job = first
    jobs = [first]
    for count in views[1:]:
        job = job.extended(job_of(views=count), f"{count:064x}")
        jobs.append(job)
    assert [job.at(each.fingerprint) for each in jobs] == jobs
    assert job.at("0" * 64) is None
    assert parse_job(job.to_bytes(), "job.json") == job
    assert b"stages" not in first.to_bytes()
    assert job.differences(job_of(views=views[-1])) == []
    owner = job.owners()
    for shard in job.layout.all_shards():
        assert owner(shard.number) == next(each for each in jobs if shard.view < each.view_count).fingerprint


@pytest.mark.parametrize("change", [{"views": 3}, {"job": "0" * 64}, {"views": 9}])
def test_a_job_that_lies_about_what_it_was_is_refused(change: dict[str, object]) -> None:
    """Law: its stages are checked against its own content."""
    job = job_of(views=2).extended(job_of(views=4), "1" * 64)
    lying = json.loads(job.to_bytes())
    lying["stages"][0] |= change
    data = json.dumps(lying, separators=(",", ":")).encode()
    with pytest.raises(CorruptError, match="is not the job that was written"):
        parse_job(data, "job.json")


def test_the_views_of_an_experiment_do_not_depend_on_how_many_there_are(fitted: Path) -> None:
    """Law: view 1 of two is view 1 of five."""
    two, five = (open_views(load(fitted / "e.toml", each)) for each in (TWO, FIVE))
    np.testing.assert_array_equal(two.inputs(np.arange(50), 1), five.inputs(np.arange(50), 1))


def test_what_would_make_other_views_is_refused_before_the_job_grows(fitted: Path) -> None:
    """Law: the old views are made again first, and a transform is needed for more; `job.json` stays as it is."""
    must("generate", "cache.path=plain")
    before = (fitted / "plain/job.json").read_bytes()
    run("extend", "cache.path=plain", flags=("--views", "4")).refuses(2, "would all be the same: name a transform")
    assert (fitted / "plain/job.json").read_bytes() == before
    own = ("views.transform=own_transforms:noisy", "views.count=2", 'dataset.version="1"')
    must("generate", *own, "views.options={scale = 0.0}")
    job = (fitted / "cache/job.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("own_transforms.noisy", lambda scale: lambda x, _: x + 1 + int(scale))
        run("extend", *own, "views.options={scale = 0.0}", flags=("--views", "3")).refuses(
            5, "not the ones the teacher saw"
        )
    assert (fitted / "cache/job.json").read_bytes() == job


def test_a_growth_with_a_wrong_number_can_be_mended_or_taken_back(fitted: Path) -> None:
    """Law: while no shard of it is done; the old number gives the very cache that was there."""
    must("generate", *TWO)
    before, job = kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()
    extend(fitted / "cache", of_views(fitted / "cache", 50))
    said = softlabels("inspect", "cache")
    assert said.code == 4
    assert (
        "GROWING from 2 views of 50 samples, which can be read: run `softlabels extend CONFIG --views 50` again"
        in said.out
    )
    assert must("extend", *TWO, flags=("--views", "2", "--json")).facts["made"] == 0
    assert (kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()) == (before, job)
    extend(fitted / "cache", of_views(fitted / "cache", 50))
    extend(fitted / "cache", of_views(fitted / "cache", 3))
    assert must("extend", *TWO, flags=("--json",)).facts["made"] == 50
    assert verify(fitted / "cache").sealed
    assert LabelCache.open(fitted / "cache").layout.views == 3


def test_a_growth_that_has_shards_keeps_its_number(fitted: Path) -> None:
    """Law: another is refused with the one to finish it by; `verify` says so too, and finds no fault."""
    must("generate", *TWO)
    old = (fitted / "cache/seal.json").read_bytes()
    must("extend", *TWO, flags=("--views", "3"))
    (fitted / "cache/seal.json").write_bytes(old)
    for views in ("2", "5"):
        run("extend", *TWO, flags=("--views", views)).refuses(
            4,
            "is growing from 2 views of 50 samples to 3 views of 50 samples, and some shards of that are done",
            "softlabels extend CONFIG --views 3",
        )
    said = softlabels("verify", "cache")
    assert said.code == 4
    assert "it is growing to 3 views of 50 samples. Run the `softlabels extend` that began that again" in said.out
    assert must("extend", *TWO, flags=("--views", "3", "--json")).facts["made"] == 0


def test_students_of_views_that_were_there_stay_what_they_are(fitted: Path) -> None:
    """Law: their finished runs are kept; one that was trained on all there were is another student now."""
    must("generate", *TWO)
    must("train", *TWO, "students.distilled.views=2")
    before = (fitted / "runs/e/distilled/seed-0/metrics.jsonl").stat().st_mtime_ns
    must("extend", *TWO, flags=("--views", "5"))
    must("train", *TWO, "students.distilled.views=2")
    assert (fitted / "runs/e/distilled/seed-0/metrics.jsonl").stat().st_mtime_ns == before
    run("train", *TWO, "students.distilled.views=3").refuses(5, "cache_id")


def test_a_copy_of_before_grows_by_the_same_push(fitted: Path) -> None:
    """Law: also from a cache that is growing, whose copy is read as it was, and from there to the end."""
    must("generate", *TWO)
    old = (fitted / "cache/seal.json").read_bytes()
    assert softlabels("push", "cache", "copy").code == 0
    must("extend", *TWO, flags=("--views", "3"))
    new = (fitted / "cache/seal.json").read_bytes()
    (fitted / "cache/seal.json").write_bytes(old)
    for copy in ("copy", "another"):
        assert softlabels("push", "cache", copy).code == 4
        assert LabelCache.open(fitted / copy).layout.views == 2
    (fitted / "cache/seal.json").write_bytes(new)
    for copy in ("copy", "another"):
        assert softlabels("push", "cache", copy).code == 0
        assert decided(fitted / copy) == decided(fitted / "cache")
        assert verify(fitted / copy).problems == ()


def test_a_writer_of_what_the_cache_was_does_not_seal_it(tmp_path: Path) -> None:
    """Law: where nothing locks, a growth may be extended under its writer; then it stops, and readers find the old."""
    place = tmp_path / "cache"
    fill(place, job_of(views=2))
    job = extend(place, job_of(views=3))
    with CacheWriter.open(place, job, {}) as writer:
        for shard in writer.missing():
            writer.commit(shard, block(job, shard), 0.0)
        (place / "job.json").write_bytes(job_of(views=2).extended(job_of(views=5), "1" * 64).to_bytes())
        with pytest.raises(LockedError, match="is being extended by another process"):
            writer.seal({})
    (place / "job.json").write_bytes(job.to_bytes())
    assert LabelCache.open(place).layout.views == 2


def test_a_reader_that_was_sent_before_finds_what_it_had(fitted: Path) -> None:
    """Law: one that was pickled is opened again as it was, though the cache has grown since."""
    must("generate", *TWO)
    reader = LabelCache.open(fitted / "cache")
    sent = pickle.dumps(reader)
    must("extend", *TWO, flags=("--views", "3"))
    found = pickle.loads(sent)  # noqa: S301 - our own
    assert (found.layout.views, labels(found)) == (2, labels(reader))


def test_what_verify_began_on_may_grow_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: shards of views that came while it read are no strays."""
    place, old = tmp_path / "cache", job_of(views=2)
    fill(place, old)
    fill(place, extend(place, job_of(views=3)), seal=False)
    jobs = iter([old])
    now = read_job(place)
    monkeypatch.setattr("pipeline.store.verify.read_job", lambda _: next(jobs, now))
    assert verify(place).problems == ()


MORE = ROWS + 23  # two shards of 16 rows more, the last of them not full
STEPS = st.tuples(st.integers(0, 3), st.integers(0, 60)).filter(any)  # views more, samples more


def append(folder: Path, rows: int = MORE, seed: int = 0) -> None:
    """Have the dataset of an experiment have more samples, after those that it has."""
    there = images(ROWS)
    more = images(rows, seed + 1)[ROWS:]
    write_idx(folder / "images", np.concatenate([there, more]))
    write_idx(folder / "labels", (np.arange(rows) % CLASSES).astype(np.uint8))


@pytest.mark.parametrize("settings", [(), TWO, (*TWO, *TOPK, *ECHO)], ids=["one view", "two views", "top-k"])
def test_samples_are_added_and_nothing_is_rewritten(settings: tuple[str, ...], fitted: Path) -> None:
    """Law: the labels are those of a cache made at once of all of them; every old file and receipt is untouched."""
    must("generate", *settings)
    before, first = kept(fitted / "cache"), LabelCache.open(fitted / "cache")
    was = labels(first)
    append(fitted)
    facts = must("extend", *settings, flags=("--json",)).facts
    views = first.layout.views
    assert (facts["rows"], facts["made"]) == (MORE, views * (MORE - ROWS))
    after = kept(fitted / "cache")
    assert {name: after[name] for name in before} == before
    must("generate", *settings, "cache.path=at-once")
    whole = LabelCache.open(fitted / "cache")
    assert labels(whole) == labels(LabelCache.open(fitted / "at-once"))
    assert verify(fitted / "cache").problems == ()
    assert must("generate", *settings, flags=("--json",)).facts["made"] == 0
    assert labels(first) == was
    group = zarr.open_group(fitted / "cache/labels.zarr", mode="r")
    stored = {name: np.asarray(group[name][views - 1]) for name in ("sample_id", "label")}
    there = stored["sample_id"] != -1
    assert (there.size, there.sum()) == (64 + MORE - ROWS, MORE)
    found = whole.gather(views - 1, np.arange(MORE), ["sample_id", "label"])
    for name, array in stored.items():
        np.testing.assert_array_equal(array[there], found[name])
    slow = Unmapped(whole._residence)  # noqa: SLF001 - what zarr reads
    places = whole.layout.flattened(views - 1, np.arange(MORE))
    ids = slow.gather("sample_id", places)
    np.testing.assert_array_equal(ids, whole.gather(views - 1, np.arange(MORE), ["sample_id"])["sample_id"])
    must("train", *settings, "students.distilled.window=2")
    assert softlabels("verify", "cache", "--teacher", "e.toml", *(w for s in settings for w in ("--set", s))).code == 0


def test_a_cache_grows_by_views_and_samples_in_any_order_and_by_workers(fitted: Path) -> None:
    """Law: the labels are those of a cache made at once; copies grow with it; `job.json` tells all that it was."""
    must("generate", *TWO)
    assert softlabels("push", "cache", "copy").code == 0
    append(fitted, 60)
    must("extend", *TWO, flags=("--workers", "2"))
    must("extend", *TWO, flags=("--views", "3"))
    append(fitted)
    must("extend", *TWO, flags=("--views", "5"))
    must("generate", *FIVE, "cache.path=at-once")
    whole = LabelCache.open(fitted / "cache")
    assert labels(whole) == labels(LabelCache.open(fitted / "at-once"))
    assert whole.layout.before == ((2, 50), (2, 60), (3, 60))
    assert (whole.id_of(2), whole.id_of(5)) == (whole.cache_id, whole.cache_id)
    assert softlabels("push", "cache", "copy").code == 0
    assert decided(fitted / "copy") == decided(fitted / "cache")
    assert verify(fitted / "copy").problems == ()


def test_what_the_samples_of_a_cache_cannot_become_is_refused(fitted: Path) -> None:
    """Law: other samples before the new ones, fewer of them, or mixtures; not one byte is changed."""
    must("generate")
    before = kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()
    run("extend").refuses(2, "has 1 view of 50 samples, and 1 view of 50 samples are no more")
    append(fitted)
    for verb in ("generate", "train"):
        run(verb).refuses(
            5,
            "was made with 1 view of 50 samples, and now 1 view of 73 samples",
            "`softlabels extend CONFIG --views 1`",
        )
    write_idx(fitted / "images", images(MORE)[:, ::-1])
    run("extend").refuses(
        5, "holds 50 samples, and the first 50 of the dataset's 73 are others: dataset.content differs"
    )
    write_idx(fitted / "images", images(ROWS - 1))
    write_idx(fitted / "labels", (np.arange(ROWS - 1) % CLASSES).astype(np.uint8))
    run("extend").refuses(5, "rows was 50 and is now 49")
    write_experiment(fitted)
    mixed = (*TWO, "views.mix=mixup", "cache.path=mixed")
    must("generate", *mixed)
    append(fitted)
    run("extend", *mixed).refuses(2, "the partners of views are drawn among all samples", "Set another cache path")
    assert (kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()) == before


def test_samples_that_were_added_half_way_are_finished_or_taken_back(fitted: Path) -> None:
    """Law: until the new seal is there readers find the old cache; a growth without a shard can be undone."""
    must("generate")
    before, job = kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()
    old = (fitted / "cache/seal.json").read_bytes()
    append(fitted)
    must("extend")
    (fitted / "cache/seal.json").write_bytes(old)
    assert LabelCache.open(fitted / "cache").layout.rows == ROWS
    assert "GROWING from 1 view of 50 samples, which can be read" in softlabels("inspect", "cache").out
    write_experiment(fitted)
    run("extend").refuses(4, "is growing from 1 view of 50 samples to 1 view of 73 samples", "with the dataset of then")
    for name in kept(fitted / "cache").keys() - before.keys():
        (fitted / "cache" / name).unlink()
    assert must("extend", flags=("--json",)).facts["made"] == 0
    assert (kept(fitted / "cache"), (fitted / "cache/job.json").read_bytes()) == (before, job)


@STEADY
@given(st.lists(STEPS, min_size=1, max_size=5))
def test_a_job_remembers_how_many_samples_it_was_of(steps: list[tuple[int, int]]) -> None:
    """Law: each stage is that very job, of that very dataset, and each shard is of the first that had it."""
    history = list(accumulate(steps, lambda was, more: (was[0] + more[0], was[1] + more[1]), initial=(1, 21)))
    asked = [
        job_of(views=views, rows=rows).model_copy(update={"dataset": {"content": str(rows)}}) for views, rows in history
    ]
    job, jobs = asked[0], asked[:1]
    for each in asked[1:]:
        job = job.extended(each, f"{each.rows:064x}")
        jobs.append(job)
    assert [job.at(each.fingerprint) for each in jobs] == jobs
    assert parse_job(job.to_bytes(), "job.json") == job
    assert job.differences(asked[-1]) == []
    owner = job.owners()
    for shard in job.layout.all_shards():
        first = next(each for each in jobs if shard.view < each.view_count and shard.stop <= each.rows)
        assert owner(shard.number) == first.fingerprint
        assert first.layout.shard(shard.number) == shard
        assert first.layout.place(shard) == job.layout.place(shard)
