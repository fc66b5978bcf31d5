"""Experiments whose samples are seen in views: stage one, its workers, stage two, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from stage_cases import decided, must, run, softlabels

from pipeline.config import load
from pipeline.sources import open_views
from pipeline.store.mapped import LabelCache
from pipeline.views import fingerprints

VIEWS = ("views.count=3", "views.transform=crop_flip", "views.options={pixels = 1}")
SHAKEN = ("views.count=2", "views.transform=own_transforms:shaken", "views.options={}", "loading.workers=2")


def test_every_view_of_every_sample_is_labelled_once(fitted: Path) -> None:
    """Law: V views are V times the rows, each with the fingerprint of its own pixels; the same command says so."""
    facts = must("generate", *VIEWS, flags=("--json",)).facts
    assert (facts["rows"], facts["made"]) == (50, 150)
    cache = LabelCache.open(fitted / "cache")
    views = open_views(load(fitted / "e.toml", VIEWS))
    rows = np.arange(50)
    for view in range(3):
        record = cache.gather(view, rows)
        assert record["input_crc32c"].tolist() == fingerprints(views.inputs(rows, view)).tolist()
        assert record["sample_id"].tolist() == rows.tolist()
    assert len({cache.gather(view, rows, ["logits"])["logits"].tobytes() for view in range(3)}) == 3
    assert must("generate", *VIEWS, flags=("--json",)).facts["made"] == 0
    assert softlabels("verify", str(fitted / "cache")).code == 0
    assert must("plan", *VIEWS, "cache.path=other", flags=("--json",)).facts["bytes_per_row"] > 0


@pytest.mark.parametrize("settings", [(*VIEWS, "views.mix=mixup"), SHAKEN], ids=["mixed", "in processes"])
def test_workers_make_the_same_views(settings: tuple[str, ...], fitted: Path) -> None:
    """Law: those of a cluster label what one process labels, to the byte."""
    must("generate", *settings, "cache.path=alone")
    must("generate", *settings, flags=("--workers", "2"))
    assert decided(fitted / "cache") == decided(fitted / "alone")


@pytest.mark.usefixtures("fitted")
def test_students_are_shown_the_cached_views_in_turn() -> None:
    """Law: as many as asked for, and the teacher is asked again about any of them; a run of other views is another."""
    must("generate", *VIEWS)
    must("train", *VIEWS, "students.distilled.epochs=4")
    one = must("train", *VIEWS, "students.distilled.epochs=4", "students.distilled.views=1", flags=("--runs", "one"))
    assert "distilled" in one.out
    metrics = [json.loads(Path(runs, "distilled/seed-0/metrics.json").read_bytes()) for runs in ("runs/e", "one")]
    assert metrics[0]["weights_sha256"] != metrics[1]["weights_sha256"]
    assert metrics[0]["identity"]["transform"] == "crop_flip"
    run("train", *VIEWS, "students.distilled.epochs=4", "students.distilled.views=2").refuses(
        5, "views was None and is now 2"
    )
    assert softlabels("verify", "cache", "--teacher", "e.toml", *(w for s in VIEWS for w in ("--set", s))).code == 0


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (("views.transform=crop_flop",), 2, "Did you mean 'crop_flip'?"),
        (
            ("views.transform=crop_flip", "views.options={pixles = 1}"),
            2,
            "views.options do not fit the transform crop_flip",
        ),
        (("views.transform=own_transforms:forgetful",), 1, "is not deterministic under its seed"),
        (("views.transform=own_transforms:failing",), 1, "raised ValueError: this image is uint8"),
        (("views.transform=torchvision.transforms.v2:CenterCrop", "views.options={size = 2}"), 2, "torchvision"),
        (("views.transform=resized_crop", "views.options={size = 2}"), 1, "have transforms keep its shape"),
        (("views.mix=blend",), 2, "views.mix: found 'blend' (str), expected 'mixup' or 'cutmix'"),
    ],
)
def test_views_that_cannot_be_made_are_refused_before_anything_is_written(
    settings: tuple[str, ...], code: int, said: str, fitted: Path
) -> None:
    """Law: with what to do; there is no cache then."""
    run("generate", *settings).refuses(code, said)
    assert not (fitted / "cache").exists()


def test_a_cache_of_other_views_is_refused(fitted: Path) -> None:
    """Law: the field is named, and nothing is written."""
    must("generate", *VIEWS)
    before = decided(fitted / "cache")
    run("generate", *VIEWS, "views.options={pixels = 2}").refuses(5, "views.options.pixels")
    run("train", *VIEWS, "views.seed=1").refuses(5, "views.seed")
    run("train").refuses(5, "views.transform")
    assert decided(fitted / "cache") == before
