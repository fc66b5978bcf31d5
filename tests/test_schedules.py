"""Weights and temperatures that change over a run: where they begin and end, by what they go, and what is refused."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from river_cases import CLASSES, STEADY, samples, told, write_cache

from pipeline import losses
from pipeline.config import Student, ViewSettings
from pipeline.errors import ConfigError
from pipeline.labels import DenseLabels, LabelSpec
from pipeline.models import build
from pipeline.objective import Objective
from pipeline.reader import Batch, Reader
from pipeline.regimen import Training
from pipeline.schedules import BEGIN, PositiveRamp, Progress, Ramp, value_at
from pipeline.terms import TERMS, Term, refuse_unserved
from pipeline.training import Epoch, Learner, start

ENDS = st.floats(-1e300, 1e300)
SHARES = st.floats(0, 1)
STUDENT_NC, TRUE_N = told(np.arange(10, 16), 5), torch.tensor([0, 1, -1, 4, 3, 2])
SOFT = DenseLabels(2 * told(np.arange(6), 5))
TEMPERED = [name for name, kind in TERMS.items() if "temperature" in kind.model_fields]
COSTS = losses.class_cost(torch.eye(5))


def term(name: str, **settings: object) -> Term:
    """A term as an experiment names it."""
    return TERMS[name].model_validate({"name": name, **settings})


def told_by(asked: Term, progress: Progress) -> torch.Tensor:
    """The loss of one term, a row, when so much of a run is done."""
    costs = {0: COSTS} if asked.name == "wkd" else {}
    return Objective([asked], costs).at(progress)(STUDENT_NC, TRUE_N, SOFT)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@STEADY
@given(ENDS, ENDS)
def test_a_ramp_begins_and_ends_exactly_where_it_says(schedule: str, start: float, end: float) -> None:
    """Law: to the bit, so that a weight which ends at the one of another run is that one; halfway it is halfway."""
    ramp = Ramp.model_validate({"start": start, "end": end, "schedule": schedule})
    assert (ramp.at(0.0), ramp.at(1.0)) == (start, end)
    rounding = 1e-12 * max(abs(start), abs(end)) + 1e-300
    assert ramp.at(0.5) == pytest.approx(start / 2 + end / 2, abs=rounding)


def test_a_ramp_goes_evenly_or_slowly_at_both_ends() -> None:
    """By hand, a quarter of the way: a quarter of it, or (1 - cos 45 degrees) / 2; left out, evenly."""
    cosine = Ramp(start=2, end=4, schedule="cosine")
    assert Ramp(start=2, end=4).at(0.25) == 2.5
    assert [cosine.at(share) for share in (0.25, 0.75)] == pytest.approx([2 + 0.29289322, 4 - 0.29289322])


@STEADY
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.sampled_from(["linear", "cosine"]), st.lists(SHARES, min_size=2))
def test_a_ramp_never_turns_back_and_stays_between_its_ends(
    first: float, last: float, schedule: str, shares: list[float]
) -> None:
    """Law: so a temperature between two above zero is above zero all the way."""
    ramp = PositiveRamp.model_validate({"start": first, "end": last, "schedule": schedule})
    values = [ramp.at(share) for share in sorted(shares)]
    low, high, rounding = min(first, last), max(first, last), 1e-12 * max(first, last)
    assert all(low - rounding <= value <= high + rounding for value in values)
    assert all((b - a) * (last - first) >= -rounding * abs(last - first) for a, b in pairwise(values))


@STEADY
@given(ENDS, SHARES, SHARES, st.sampled_from(["step", "epoch"]))
def test_a_constant_is_its_number_to_the_bit(value: float, steps: float, epochs: float, by: str) -> None:
    """Law: everywhere, with its end or without; and so is a slope that ends where it began."""
    for table in ({"schedule": "constant"}, {"schedule": "constant", "end": value}, {"end": value}):
        ramp = Ramp.model_validate({"start": value, "by": by, **table})
        assert value_at(ramp, Progress(steps, epochs)) == value_at(value, Progress(steps, epochs)) == value


@pytest.mark.parametrize("name", TEMPERED)
def test_a_constant_temperature_is_the_number_in_every_loss(name: str) -> None:
    """Law: to the bit, halfway through a run too; T^2 counts at the temperature of the moment."""
    constant, number = term(name, temperature={"start": 3.0, "schedule": "constant"}), term(name, temperature=3.0)
    assert torch.equal(told_by(constant, Progress(0.5, 0.5)), told_by(number, BEGIN))


@pytest.mark.parametrize("by", ["step", "epoch"])
@pytest.mark.parametrize("name", TEMPERED)
def test_a_temperature_goes_from_its_start_to_its_end(name: str, by: str) -> None:
    """Law: at the first step the loss is that of its start, at the last that of its end, to the bit; between, between.

    The share that it does not go by counts for nothing.
    """
    asked = term(name, temperature={"start": 4.0, "end": 1.0, "by": by})
    for share, temperature in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        progress = Progress(share, 0.123) if by == "step" else Progress(0.123, share)
        assert torch.equal(told_by(asked, progress), told_by(term(name, temperature=temperature), BEGIN))


def test_the_temperature_of_a_loss_by_its_name_may_change_too() -> None:
    """Law: it is that of the term; beside the true labels, whose loss has none."""
    student = Student.model_validate({"model": "mlp", "temperature": {"start": 4.0, "end": 1.0}})
    end_N = Objective(student.terms).at(Progress(1.0, 1.0))(STUDENT_NC, TRUE_N, SOFT)
    assert torch.equal(end_N, losses.kd(STUDENT_NC, SOFT, TRUE_N, 1.0, 0.9))


STEPS, EPOCHS = 9, 3
FADING = Objective([term("hard", weight={"start": 1, "end": 0, "by": "epoch"}), term("entropy", weight=1e-3)])


def frozen(steps: int) -> Learner:
    """A network that steps do not move."""
    torch.manual_seed(0)
    settings = Training(device="cpu", epochs=EPOCHS, learning_rate=1e-30, weight_decay=0.0)
    return start(build("mlp", {"hidden": [4]}, (1, 4, 4), CLASSES), settings, ViewSettings(std=2000.0), steps)


def losses_of(batch: Batch, way: Epoch, steps: int) -> list[float]:
    """Those of some steps on the same batch."""
    found = [way.learn(batch) for _ in range(steps)] + [way.settle()]
    return [loss for loss in found if loss is not None]


def walk(batch: Batch, learner: Learner, parts: Sequence[tuple[int, int, int]]) -> list[float]:
    """So many steps of an epoch, from one of its steps on, each."""
    ways = [(Epoch(learner, FADING, 0, number, steps=begun), steps) for number, begun, steps in parts]
    return [loss for way, steps in ways for loss in losses_of(batch, way, steps)]


def test_by_epoch_a_value_is_the_same_in_all_steps_of_an_epoch() -> None:
    """Law: it begins in the first epoch and ends in the last, wherever a run was stopped between."""
    batch = Reader(samples()).__getitems__(range(8))
    whole = walk(batch, frozen(STEPS), [(number, 0, 3) for number in range(EPOCHS)])
    first, second, third = (whole[at : at + 3] for at in (0, 3, 6))
    assert all(len(set(epoch)) == 1 for epoch in (first, second, third))
    assert second[0] == pytest.approx((first[0] + third[0]) / 2, rel=1e-5)
    assert first[0] > 100 * third[0] > 0
    stopped, resumed = frozen(STEPS), frozen(STEPS)
    begun = walk(batch, stopped, [(0, 0, 3), (1, 0, 1)])
    resumed.load_state(stopped.state())
    assert [*begun, *walk(batch, resumed, [(1, 1, 2), (2, 0, 3)])] == whole


def test_a_run_of_one_epoch_has_the_values_of_its_start() -> None:
    """There is nowhere to go by epochs."""
    learner = frozen(STEPS)
    settings = learner.settings.model_copy(update={"epochs": 1})
    one = Epoch(Learner(**{**vars(learner), "settings": settings}), FADING, 0, 0)
    assert one.progress == Progress(0.0, 0.0)


def test_what_decided_a_run_reads_as_before() -> None:
    """Law: the settings of a ramp by steps have the keys that they had when there was no other, so no run is another's.

    Those by epochs say so.
    """
    assert Ramp(start=1, end=0).model_dump(mode="json") == {"start": 1.0, "end": 0.0, "schedule": "linear"}
    assert Ramp(start=1, end=0, by="epoch").model_dump(mode="json")["by"] == "epoch"


SPARSE = {
    "topk": LabelSpec("topk", 6, "float16", 3, (1.0, 2.0, 4.0)),
    "sampled": LabelSpec("sampled", 6, "float16", 3, (4.0,)),
    "multinomial": LabelSpec("multinomial", 6, "float16", 8, (4.0,)),
    "head+sampled": LabelSpec("head+sampled", 6, "float16", 2, (1.0, 4.0), tail=2),
}


@pytest.mark.parametrize("encoding", SPARSE)
def test_sparse_labels_serve_no_temperature_that_moves(encoding: str) -> None:
    """Law: even from one of their grid to another, since it is off the grid between; what they know is listed."""
    asked = term("kd", temperature={"start": 4.0, "end": 1.0})
    grid = ", ".join(f"{t:g}" for t in SPARSE[encoding].temperatures)
    with pytest.raises(
        ConfigError,
        match=rf'^x: these "{encoding.replace("+", ".")}" labels cannot serve a temperature that goes from 4 to 1: '
        rf"the probabilities they know are those at {grid}, and on its way .* labels.encoding = \"dense\"\.$",
    ):
        refuse_unserved("x", [asked], SPARSE[encoding])
    refuse_unserved("x", [asked], LabelSpec("dense", 6, "float16"))


def test_sparse_labels_serve_a_constant_of_their_grid_and_no_other() -> None:
    """Law: as they serve a number."""
    refuse_unserved("x", [term("kd", temperature={"start": 4.0, "schedule": "constant"})], SPARSE["topk"])
    with pytest.raises(ConfigError, match=r"cannot serve temperature 3: .* those at 1, 2, 4\. Train at one of these"):
        refuse_unserved("x", [term("kd", temperature={"start": 3.0, "schedule": "constant"})], SPARSE["topk"])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"start": 0.0, "end": 1.0}, "greater than 0"),
        ({"start": 1.0, "end": 0.0}, "greater than 0"),
        ({"start": -4.0, "schedule": "constant"}, "greater than 0"),
        ({"start": 4.0}, "Field required"),
        ({"end": 4.0, "schedule": "constant"}, "Field required"),
        ({"start": 4.0, "end": float("inf")}, "finite number"),
        ({"start": 4.0, "end": 1.0, "schedule": "steps"}, "'linear', 'cosine' or 'constant'"),
        ({"start": 4.0, "end": 1.0, "by": "run"}, "'step' or 'epoch'"),
        ({"start": 4.0, "end": 1.0, "schedule": "constant"}, r"stays at its start, 4\.0, so leave out end = 1\.0"),
    ],
)
def test_no_temperature_is_refused(table: dict[str, object], said: str) -> None:
    """Law: what is zero or less anywhere, or says two things, is refused as it is read."""
    with pytest.raises(ValidationError, match=said):
        term("kd", temperature=table)


def test_a_weight_may_pass_through_zero() -> None:
    """What would be nonsense for a temperature: a reward becomes a penalty."""
    assert term("entropy", weight={"start": -1, "end": 1}).weight_at(Progress(0.5)) == 0.0


def test_a_reader_of_dense_labels_serves_it(tmp_path: Path) -> None:
    """Law: what is trained by a moving temperature has a loss at every step."""
    batch = Reader(samples(), write_cache(tmp_path / "cache", samples())).__getitems__(range(8))
    told_as = Objective([term("kd", temperature={"start": 4.0, "end": 0.5, "schedule": "cosine"})])
    learner = frozen(STEPS)
    found = losses_of(batch, Epoch(learner, told_as, 0, 0), STEPS)
    assert len(set(found)) == STEPS
    assert all(np.isfinite(found))
