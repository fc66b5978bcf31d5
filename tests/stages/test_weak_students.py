"""Students of weak labels on the command line: how often the teacher was sure enough is said."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from stage_cases import must

WEAK = 'students.distilled.loss=[{name = "weak", threshold = 0.45}]'


def sure(threshold: float) -> float:
    """The share of the cache's rows with so likely a class, read by zarr alone."""
    logits = np.asarray(zarr.open_group("cache/labels.zarr", mode="r")["logits"][0]).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float((p.max(axis=1) >= threshold).mean())


@pytest.mark.usefixtures("filled")
def test_a_weak_student_says_of_how_many_rows_it_heard_the_teacher() -> None:
    """Law: as counted in the cache; others have no word of it; and the same is said of a run that was done before."""
    share = sure(0.45)
    assert 0 < share < 1
    said = f"distilled, weak: {100 * share:.2f} % of rows are at or above the confidence of 0.45, in its last epoch."
    for _ in range(2):
        done = must("train", WEAK)
        assert said in done.out.splitlines()
        assert done.out.count("weak") == 1
    students = must("train", WEAK, flags=("--json",)).facts["students"]
    assert students["distilled"][0]["weak_kept"] == [{"temperature": 1.0, "threshold": 0.45, "share": share}]
    assert "weak_kept" not in students["alone"][0]


@pytest.mark.usefixtures("filled")
def test_a_threshold_of_0_keeps_all_and_repeats_have_their_spread() -> None:
    """Law: 100 % of the rows of every seed."""
    told = must("train", "students.distilled.loss=weak", "students.distilled.repeats=2").out
    assert "distilled, weak: 100.00 ± 0.00 % of rows are at or above the confidence of 0, in its last epoch." in told
    assert Path("runs/e/distilled/seed-1/metrics.json").exists()
