"""The share of rows that weak labels keep: what a student heard, counted as it learned."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from river_cases import CLASSES, DENSE, samples, told, write_cache

from pipeline.config import ViewSettings
from pipeline.course import Entry, Watch, teach
from pipeline.labels import DenseLabels, LabelSpec, MixedLabels
from pipeline.lesson import Lesson
from pipeline.models import build
from pipeline.objective import Objective
from pipeline.ranks import Ranks
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.runs import Run
from pipeline.schedules import Progress
from pipeline.terms import TERMS, Term
from pipeline.training import Epoch, start

SETTINGS = Training(epochs=2, batch_size=5, device="cpu")
ROWS, STEPS = 24, 5
NEVER = Watch(lambda: False, lambda _: None)


def weak(**said: object) -> Term:
    """A term as an experiment names it."""
    return TERMS["weak"].model_validate({"name": "weak", **said})


def certain(threshold: float, temperature: float = 1.0) -> float:
    """The share of rows of which the teacher is sure enough, by NumPy."""
    logits = told(samples().ids).double().numpy() / temperature
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float((p.max(axis=1) >= threshold).mean())


def entry(folder: Path, *terms: Term) -> Entry:
    """A student of these terms."""
    lesson = Lesson(lambda: build("mlp", {"hidden": [4]}, (1, 4, 4), CLASSES), Objective(terms), soft=True)
    return Run(folder, folder / "w.safetensors", {}, "", SETTINGS, ViewSettings(), 0), lesson


def lines(folder: Path) -> list[dict[str, object]]:
    """The line of each epoch but for its time."""
    return [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("spec", [DENSE, LabelSpec("topk", CLASSES, "float32", k=1, temperatures=(1.0, 4.0))])
def test_the_share_is_that_of_the_rows_a_student_heard(spec: LabelSpec, tmp_path: Path) -> None:
    """Law: of each term its own, in each epoch, as counted by hand; a threshold of 0 keeps all."""
    reader = Reader(samples(), write_cache(tmp_path / "cache", samples(), spec))
    run, lesson = entry(tmp_path / "run", weak(threshold=0.5), weak(threshold=0.4, temperature=4.0), weak())
    (metrics,) = teach([(run, lesson)], reader, NEVER)
    shares = [certain(0.5), certain(0.4, 4.0), 1.0]
    assert 0 < min(shares) < max(shares[:2]) < 1
    assert metrics is not None
    for told_of in (metrics, *lines(run.folder)):
        assert [each["share"] for each in told_of["weak_kept"]] == shares
    assert metrics["weak_kept"][1] == {"temperature": 4.0, "threshold": 0.4, "share": shares[1]}


def test_other_students_are_told_nothing_of_it(tmp_path: Path) -> None:
    """Law: without a weak term neither metrics nor lines have a word of it."""
    reader = Reader(samples(), write_cache(tmp_path / "cache", samples()))
    run, lesson = entry(tmp_path / "run", TERMS["kd"].model_validate({"name": "kd"}))
    (metrics,) = teach([(run, lesson)], reader, NEVER)
    assert metrics is not None
    assert not [each for each in (metrics, *lines(run.folder)) if "weak_kept" in each]


@pytest.mark.parametrize("stop", [2, STEPS, STEPS + 3])
def test_a_run_that_was_stopped_reports_the_same_share(stop: int, tmp_path: Path) -> None:
    """Law: what was heard before the stop counts after it, once."""
    reader = Reader(samples(), write_cache(tmp_path / "cache", samples()))
    term, taken = weak(threshold=0.5), []
    teach([entry(tmp_path / "whole", term)], reader, NEVER)
    stopped: Callable[[], bool] = lambda: len(taken) >= stop  # noqa: E731 - a question of a line
    assert teach([entry(tmp_path / "run", term)], reader, Watch(stopped, taken.append)) == [None]
    (metrics,) = teach([entry(tmp_path / "run", term)], reader, NEVER)
    assert metrics is not None
    assert metrics["weak_kept"][0]["share"] == certain(0.5)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_of_several_teachers_it_is_the_mean_by_their_weights() -> None:
    """Law: one that is sure of all rows and counts 3, and one sure of none that counts 1, keep three quarters."""
    sure, unsure = DenseLabels(torch.eye(3) * 20), DenseLabels(torch.zeros(3, 3))
    objective = Objective([weak(threshold=0.9)])
    found = objective.heard(MixedLabels((sure, unsure), (0.75, 0.25)))
    assert found is not None
    assert found.tolist() == [3.0, 2.25]


def test_the_temperature_is_that_of_the_step() -> None:
    """Law: of a ramp the value it has by then; where nothing is heard there is no count."""
    objective = Objective([weak(threshold=0.9, temperature={"start": 1.0, "end": 50.0})])
    soft = DenseLabels(torch.eye(3) * 20)
    heard = [objective.at(Progress(done, done)).heard(soft) for done in (0.0, 1.0)]
    assert [each.tolist() for each in heard if each is not None] == [[3.0, 3.0], [3.0, 0.0]]
    assert objective.heard(None) is None


class Two(Ranks):
    """Two ranks, of which the other heard two rows, one of them sure."""

    def total(self, *values: float) -> list[float]:
        """What both have."""
        return [mine + other for mine, other in zip(values, (2.0, 1.0), strict=True)]


def test_ranks_count_together() -> None:
    """Law: the share is that of all rows of all ranks, also of one that has none."""
    learner = start(build("mlp", {"hidden": [4]}, (1, 4, 4), CLASSES), SETTINGS, ViewSettings(), 1)
    epoch = Epoch(replace(learner, ranks=Two(0, 2)), Objective([weak(threshold=0.5)]), 0, 0)
    assert epoch.weak_kept()["weak_kept"][0]["share"] == 0.5
    epoch.heard = (6.0, 5.0)
    assert epoch.weak_kept()["weak_kept"][0]["share"] == 0.75
