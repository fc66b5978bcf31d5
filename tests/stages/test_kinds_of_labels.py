"""Every kind of labels from end to end: planned, made, stopped and resumed, inspected and learned from."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from stage_cases import KINDS, ROWS, TOPK, decided, must, run, snapshot, softlabels

from stages.signals import Stop


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind_teach_a_student(kind: str, fitted: Path) -> None:
    """Law: what was planned is made, to the byte; plan and inspect promise the same losses; a student trains by one."""
    settings = KINDS[kind]
    plan = must("plan", *settings, flags=("--json",)).facts
    assert must("generate", *settings, flags=("--json",)).facts["bytes"] == plan["bytes"]
    files = [file for file in (fitted / "cache/labels.zarr").glob("*/c/**/*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) == plan["bytes"]
    facts = softlabels("inspect", "cache", "--json").facts
    assert facts["serves"] == plan["losses"]
    assert facts["serves"]["kd"].startswith("any temp" if kind == "dense int8" else "temperature")
    text = softlabels("inspect", "cache").out
    assert all(re.search(f"\n  {name} +{re.escape(words)}\n", text) for name, words in facts["serves"].items())
    (metrics,) = must("train", *settings, flags=("--json",)).facts["students"]["distilled"]
    assert (metrics["soft_labels"], metrics["cache_id"]) == (ROWS, facts["cache_id"])


@contextmanager
def after_a_shard() -> Iterator[Stop]:
    """A request to stop that comes when a shard is done and the next one begun."""

    @dataclass
    class Soon(Stop):
        batches: int = 3

        def __call__(self) -> bool:
            self.batches -= 1
            return self.batches < 0

    yield Soon()


@pytest.mark.parametrize(
    "settings",
    [(*KINDS["sampled"], "labels.k=2"), KINDS["multinomial"], KINDS["head+sampled"]],
    ids=lambda each: each[0],
)
def test_what_is_drawn_is_drawn_again_the_same(
    settings: tuple[str, ...], fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a run stopped after a shard and resumed makes the cache of one that was not, to the byte; a seed decides."""
    must("generate", *settings)
    other = (*settings, "cache.path=other")
    with monkeypatch.context() as patch:
        patch.setattr("stages.soft_labels.stop_on_signals", after_a_shard)
        run("generate", *other).refuses(75, "1 of 4 shards are done and kept")
    must("generate", *other)
    assert decided(fitted / "other") == decided(fitted / "cache")
    must("generate", *settings, "cache.path=third", "labels.seed=1")
    seals = [json.loads((fitted / name / "seal.json").read_bytes()) for name in ("cache", "other", "third")]
    assert seals[0]["cache_id"] == seals[1]["cache_id"] != seals[2]["cache_id"]
    drawn = [(fitted / name / "labels.zarr").glob("*ids/c/**/*") for name in ("cache", "third")]
    first, third = ([file.read_bytes() for file in sorted(files) if file.is_file()] for files in drawn)
    assert first != third


LOSSES = "students.distilled.loss="


@pytest.mark.parametrize(
    ("labels", "loss", "said"),
    [
        (KINDS["sampled"], "[{name = 'hard'}, {name = 'dkd'}]", 'the loss "dkd" cannot be had from "sampled" labels'),
        (
            KINDS["multinomial"],
            "[{name = 'kd', temperature = 2}]",
            "cannot serve temperature 2: the probabilities they",
        ),
        (KINDS["head+sampled"], "dist", 'the loss "dist" cannot be had from "head+sampled" labels'),
        (TOPK, "[{name = 'kd', standardise = true}]", '"topk" labels cannot be standardised'),
    ],
)
def test_a_loss_that_labels_cannot_serve_is_refused_before_training(
    labels: tuple[str, ...], loss: str, said: str, fitted: Path
) -> None:
    """Law: exit code 2 that names the student's loss, before any student trains; nothing is written."""
    must("generate", *labels)
    before = snapshot(fitted)
    run("train", *labels, f"{LOSSES}{loss}").refuses(2, "students.distilled.loss: ", said)
    assert snapshot(fitted) == before


@pytest.mark.usefixtures("filled")
def test_a_sum_with_costs_and_ramps_trains_and_its_costs_are_looked_at_first(filled: Path) -> None:
    """Law: a list of terms is a loss like any other; a cost file that is not there is exit code 2, nothing written."""
    terms = "{name = 'hard', weight = {start = 1, end = 0}}, {name = 'kd', standardise = true}"
    must("train", f"{LOSSES}[{terms}, {{name = 'wkd', temperature = 4}}]")
    before = snapshot(filled)
    run("train", f"{LOSSES}[{{name = 'wkd', cost = 'none.npy'}}]", flags=("--runs", "others")).refuses(
        2, "none.npy: these class costs cannot be read", "Write them with numpy.save."
    )
    assert snapshot(filled) == before
