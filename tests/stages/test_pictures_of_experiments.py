"""Experiments on folders of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stage_cases import must, run, softlabels

from pipeline.store.mapped import LabelCache
from pipeline.store.verify import verify

PICTURES = (
    'dataset={kind = "images", path = "pictures", size = 4, damaged = "skip"}',
    'test={kind = "images", path = "pictures", size = 4, damaged = "skip"}',
    "views.transform=crop_flip",
    "views.options={pixels = 1}",
    "views.count=2",
    "views.mean=[100, 120, 140]",
    "views.std=[50, 60, 70]",
    "teacher.model=cnn",
    "teacher.options={width = 2}",
    "teacher.checkpoint=cnn.safetensors",
    "students.alone.model=cnn",
    "students.alone.options={width = 2}",
    "students.distilled.model=cnn",
    "students.distilled.options={width = 2}",
)


@pytest.fixture
def pictures(fitted: Path) -> Path:
    """Twelve pictures of three classes, and one that was cut short."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)
    for number, pixels in enumerate(noise):
        folder = fitted / "pictures" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    whole = (fitted / "pictures/a/00.png").read_bytes()
    (fitted / "pictures/b/short.png").write_bytes(whole[: len(whole) // 2])
    return fitted


def test_a_river_runs_from_pictures_to_students(pictures: Path) -> None:
    """Law: what does not decode is left out only if that is asked for, said, and kept in every receipt."""
    must("fit-teacher", *PICTURES)
    made = must("generate", *PICTURES, flags=("--json",))
    assert made.facts["rows"] == 12
    assert "left out, as they cannot be decoded: 1: " in made.err
    for receipt in (pictures / "cache/receipts").iterdir():
        assert "short.png" in json.loads(receipt.read_bytes())["made"]["versions"]["skipped"]
    assert "distilled" in must("train", *PICTURES).out


def test_a_picture_that_does_not_decode_is_named(pictures: Path) -> None:
    """Law: unless it is to be skipped, with the way to do so; nothing is written."""
    run("generate", *PICTURES, 'dataset.damaged="refuse"').refuses(1, "short.png", "damaged")
    assert not (pictures / "cache").exists()


def by_id(cache: Path) -> dict[int, bytes]:
    """All that a cache says of each sample, in every view."""
    opened = LabelCache.open(cache)
    records = [opened.gather(view, np.arange(opened.layout.rows)) for view in range(opened.layout.views)]
    return {
        int(name): b"".join(array[row].tobytes() for record in records for array in record.values())
        for row, name in enumerate(records[0]["sample_id"])
    }


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["here", "by workers"])
def test_pictures_that_come_in_between_join_a_cache_that_is_whole(flags: tuple[str, ...], pictures: Path) -> None:
    """Law: old rows and files stay; each picture has the labels that a cache made at once has; all goes on."""
    settings = (*PICTURES, "cache.test=test-cache")
    must("fit-teacher", *settings)
    must("generate", *settings)
    files = [path for path in (pictures / "cache").glob("labels.zarr/*/c/**/*") if path.is_file()]
    was = {path: path.read_bytes() for path in files}
    old = LabelCache.open(pictures / "cache").sample_ids()
    noise = np.random.default_rng(1).integers(0, 256, (3, 9, 7, 3), np.uint8)
    for name, pixels in zip(("a/00-before.png", "b/05-between.png", "c/99-behind.png"), noise, strict=True):
        Image.fromarray(pixels).save(pictures / "pictures" / name)
    run("train", *settings).refuses(5, "was made with 2 views of 12 samples, and now 2 views of 15 samples")
    tested = ('test={kind = "images", path = "pictures", size = 4, damaged = "skip", rows = [0, 12]}',)
    grown = (*settings, *tested, "cache.test=other-test")
    assert must("extend", *grown, flags=(*flags, "--json")).facts["made"] == 6
    assert {path: path.read_bytes() for path in was} == was
    whole = LabelCache.open(pictures / "cache").sample_ids()
    np.testing.assert_array_equal(whole[: len(old)], old)
    assert len(np.unique(whole)) == 15
    assert verify(pictures / "cache").problems == ()
    must("generate", *grown, "cache.path=at-once", "cache.test=third-test")
    assert by_id(pictures / "cache") == by_id(pictures / "at-once")
    assert not np.array_equal(LabelCache.open(pictures / "at-once").sample_ids(), whole)
    assert must("generate", *grown, flags=("--json",)).facts["made"] == 0
    alone = must("train", *grown, flags=("--json",)).facts["students"]["alone"]
    asked = (word for setting in grown for word in ("--set", setting))
    assert softlabels("verify", "cache", "--teacher", "e.toml", *(again := list(asked))).code == 0
    (pictures / "cache").rename(pictures / "moved")
    assert softlabels("verify", "moved", "--teacher", "e.toml", *again).code == 0
    elsewhere = must("train", *grown, flags=("--student", "alone", "--json")).facts["students"]["alone"]
    assert elsewhere == alone, "whether there is a cache is nothing to a student that hears none"


def test_a_folder_that_lost_a_picture_is_another_dataset(pictures: Path) -> None:
    """Law: also where it has more than before; nothing of the cache is changed."""
    must("fit-teacher", *PICTURES)
    must("generate", *PICTURES)
    (pictures / "pictures/a/03.png").unlink()
    for number in range(3):
        Image.fromarray(np.full((9, 7, 3), number, np.uint8)).save(pictures / f"pictures/a/more-{number}.png")
    job = (pictures / "cache/job.json").read_bytes()
    run("extend", *PICTURES).refuses(5, "holds 12 samples, and the first 12 of the dataset's 14 are others")
    assert (pictures / "cache/job.json").read_bytes() == job
