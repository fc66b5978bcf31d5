"""Experiments on folders of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stage_cases import must, run

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
