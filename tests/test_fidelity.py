"""How near encodings and rules stay to the teacher: each figure against what it must be.

Shape legend: N rows, C classes.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from pipeline import encodings
from pipeline.encodings.topk import largest
from pipeline.fidelity import Block, Estimate, Fidelity, Method, calibration_error, compare, stored, weights
from pipeline.labels import LabelSpec
from pipeline.rules import RULES, renormalised, rule

ROWS, CLASSES, T = 60, 12, 2.0
GRID = (1.0, T, 4.0, 8.0)
LOGITS_NC = 3 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0))
TRUE_N = torch.arange(ROWS) % (CLASSES + 1) - 1
DENSE = LabelSpec("dense", CLASSES, "float32")
SPECS = {
    "dense float32": DENSE,
    "dense float16": replace(DENSE, dtype="float16"),
    "dense int8": replace(DENSE, dtype="int8"),
    "topk float32": LabelSpec("topk", CLASSES, "float32", 4, GRID),
    "topk int8": LabelSpec("topk", CLASSES, "int8", 4, GRID),
    "topk, all": LabelSpec("topk", CLASSES, "float32", CLASSES, GRID),
    "head+sampled": LabelSpec("head+sampled", CLASSES, "float16", 2, GRID, tail=3),
    "sampled": LabelSpec("sampled", CLASSES, "float16", 5, (T,)),
    "sampled of positions": LabelSpec("sampled", CLASSES, "float16", 5, (T,), positions=4),
    "multinomial": LabelSpec("multinomial", CLASSES, "float16", 15, (T,)),
}
DRAWN = ("head+sampled", "sampled", "sampled of positions", "multinomial")


def block(temperature: float = T, rows: int = ROWS) -> Block:
    """The rows at a temperature."""
    return Block(LOGITS_NC[:rows], TRUE_N[:rows], 0, temperature)


def measured(method: Method, temperature: float = T, draws: int = 2) -> Fidelity:
    """The figures of one method."""
    (found,) = compare(LOGITS_NC, TRUE_N, [method], temperature, draws)
    return found


@pytest.mark.parametrize("temperature", [1.0, 8.0])
@pytest.mark.parametrize("name", ["dense float32", "topk, all"])
def test_what_keeps_everything_is_no_distance_from_the_teacher(name: str, temperature: float) -> None:
    """Law: dense float32, and topk with K = C, to float32 rounding; the calibration is then the teacher's own."""
    found = measured(stored(name, SPECS[name]), temperature)
    assert (found.kl, found.tv, found.bias, found.variance) == pytest.approx((0, 0, 0, 0), abs=1e-6)
    assert (found.angle, found.batch_angle) == pytest.approx((0, 0), abs=1e-3)
    assert found.norm == pytest.approx(1, abs=1e-5)
    assert (found.ids, found.chance) == (CLASSES, 0.0)
    p_NC = block(temperature).teacher()
    confidence_N, class_N = p_NC.max(dim=1)
    right_N = torch.where(TRUE_N < 0, confidence_N, (class_N == TRUE_N).float())
    assert found.ece == pytest.approx(calibration_error(confidence_N, right_N), abs=1e-6)


@pytest.mark.parametrize("name", sorted(SPECS.keys() - {"head+sampled"}))
def test_weights_are_those_of_a_whole(name: str) -> None:
    """Law: they are no less than 0, and sum to one but for the rounding of their dtype; those of positions together."""
    weights_NC, _ = stored(name, SPECS[name]).estimate(block(), 0)
    positions = SPECS[name].positions or 1
    assert weights_NC.min() >= 0
    sums = weights_NC.reshape(-1, positions * CLASSES).sum(dim=1) / positions
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=0.02 if "topk int8" in name else 1e-4)


def test_weights_with_a_sampled_tail_sum_to_one_in_expectation() -> None:
    """Law: over 100 draws, within five deviations of each row's mean."""
    method = stored("head+sampled", SPECS["head+sampled"])
    sums_DN = torch.stack([method.estimate(block(), seed)[0].sum(dim=1) for seed in range(100)])
    deviation_N = sums_DN.std(dim=0) / math.sqrt(len(sums_DN))
    assert deviation_N.max() > 0.01
    assert ((sums_DN.mean(dim=0) - 1).abs() <= 5 * deviation_N + 1e-3).all()


@pytest.mark.parametrize("temperature", GRID)
def test_the_mass_outside_the_kept_classes_is_exact_at_every_temperature_of_the_grid(temperature: float) -> None:
    """Law: of topk, where renormalising errs by that whole mass: on the kept classes, too, it is spread."""
    p_NC = block(temperature).teacher()
    outside = 1 - p_NC.topk(4, dim=1).values.sum(dim=1).mean().item()
    assert outside > 0.01
    assert measured(stored("topk", SPECS["topk float32"]), temperature).tail == pytest.approx(0, abs=1e-6)
    kept = measured(rule("renormalised or re-tempered", 4, CLASSES), temperature)
    assert (kept.tail, kept.tv) == pytest.approx((outside, outside), abs=1e-3)


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_unbiased_has_the_bias_of_chance(name: str) -> None:
    """Law: the mean of the draws is as far from the teacher as their own variance explains, no more and no less."""
    found = measured(stored(name, SPECS[name]), draws=200)
    assert found.bias == pytest.approx(found.chance, rel=0.35)
    assert 0 < found.bias < found.variance / 50


def test_what_is_biased_shows_beyond_chance() -> None:
    """Law: however it is drawn; here counts of draws at a temperature next to the one asked for."""
    beside = stored("multinomial", SPECS["multinomial"])

    def estimate(asked: Block, seed: int) -> Estimate:
        return beside.estimate(replace(asked, logits_NC=1.3 * asked.logits_NC), seed)

    found = measured(replace(beside, estimate=estimate), draws=200)
    assert found.bias > 3 * found.chance > 0


@pytest.mark.parametrize("name", RULES)
def test_the_rules_of_others_are_biased_by_all_their_distance(name: str) -> None:
    """Law: what is not drawn again is not averaged out."""
    found = measured(rule(name, 4, CLASSES))
    assert found.bias == pytest.approx(found.variance, rel=1e-5)
    assert found.bias > 1e-3
    assert found.chance == 0


@pytest.mark.parametrize("spread", [0.6, 2.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_the_one_of_torchmetrics(seed: int, spread: float) -> None:
    """Law: on random probabilities and labels, of a teacher that is all but ignorant, doubtful, or all but certain."""
    random = torch.Generator().manual_seed(seed)
    p_NC = (spread * torch.randn(500, 40, generator=random)).softmax(dim=1)
    true_N = torch.multinomial(p_NC, 1, generator=random)[:, 0]
    confidence_N, class_N = p_NC.max(dim=1)
    assert (0.2 < (confidence_N < 1 / 15).float().mean() < 0.8) == (spread < 1)
    theirs = MulticlassCalibrationError(40, n_bins=15, norm="l1")(p_NC, true_N)
    assert calibration_error(confidence_N, (class_N == true_N).float()) == pytest.approx(theirs.item(), abs=1e-6)


def test_rows_without_a_label_are_right_as_often_as_the_teacher_thinks() -> None:
    """By hand, at T = 1: one row of p = [.8, .2] and no label is no error; with the label 1 it errs by .8."""
    logits_NC = torch.tensor([[0.8, 0.2]]).log()
    for label, error in ((-1, 0.0), (0, 0.2), (1, 0.8)):
        spec = LabelSpec("dense", 2, "float32")
        (found,) = compare(logits_NC, torch.tensor([label]), [stored("dense", spec)], 1.0, 2)
        assert found.ece == pytest.approx(error, abs=1e-6)


def autograd(asked: Block, weights_NC: Tensor) -> Tensor:
    """The gradient of -sum w log q_T by the student's logits."""
    student_NC = asked.student().requires_grad_()
    log_q_NC = torch.log_softmax(student_NC / asked.temperature, dim=1)
    (gradient_NC,) = torch.autograd.grad(-(weights_NC * log_q_NC).sum(), student_NC)
    return gradient_NC


@pytest.mark.parametrize("name", [name for name in SPECS if not name.startswith("topk ")])
def test_gradients_are_those_of_the_loss_by_the_weights(name: str) -> None:
    """Law: what `kl` gives of the labels is the gradient of the cross-entropy with their weights, by autograd."""
    weights_NC, gradient_NC = stored(name, SPECS[name]).estimate(block(), 7)
    torch.testing.assert_close(gradient_NC, autograd(block(), weights_NC), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block().gradient(weights_NC), autograd(block(), weights_NC), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_gradients_of_rules_are_those_of_their_weights(name: str) -> None:
    """The same of what is not ours."""
    weights_NC, gradient_NC = rule(name, 4, CLASSES).estimate(block(), 0)
    torch.testing.assert_close(gradient_NC, autograd(block(), weights_NC), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_bytes_are_those_of_the_arrays(name: str) -> None:
    """Law: of a row, of what the encoding makes of it; positions share those of their record."""
    spec = SPECS[name]
    shape = (-1, spec.positions, CLASSES) if spec.positions else (-1, CLASSES)
    record = encodings.encode(
        spec, LOGITS_NC.reshape(shape), TRUE_N[:: spec.positions or 1], np.arange(0, ROWS, spec.positions or 1)
    )
    assert stored(name, spec).bytes == sum(array.numpy().nbytes for array in record.values()) / ROWS


@pytest.mark.parametrize("name", ["topk float32", "head+sampled", "sampled of positions", "multinomial"])
def test_figures_do_not_depend_on_how_rows_are_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: in blocks of a few rows each row is drawn as in one; the bias alone is that of the first block."""
    whole = measured(stored(name, SPECS[name]))
    monkeypatch.setattr("pipeline.fidelity.BLOCK", 9 * CLASSES)
    cut = measured(stored(name, SPECS[name]))
    figures = ("ids", "kl", "tv", "tail", "ece", "angle", "norm", "batch_angle", "variance")
    expected = [getattr(whole, figure) for figure in figures]
    assert [getattr(cut, figure) for figure in figures] == pytest.approx(expected, rel=1e-4, nan_ok=True)


P = torch.tensor([0.5, 0.3, 0.15, 0.05])
HAND = {
    ("renormalised or re-tempered", 3): [0.625, 0.375, 0, 0],
    ("tail spread evenly", 3): [0.5, 0.3, 0.1, 0.1],
    ("tail to the label", 3): [0.5, 0.3, 0, 0.2],
    ("tail to the label", 0): [0.7, 0.3, 0, 0],
    ("tail to the label", -1): [0.625, 0.375, 0, 0],
}


@pytest.mark.parametrize(("name", "label"), HAND)
def test_a_rule_is_its_formula(name: str, label: int) -> None:
    """By hand, of p = [.5, .3, .15, .05] with two kept in float16: an id is one byte, a probability two."""
    method = rule(name, 2, 4)
    weights_NC, _ = method.estimate(Block(P.log()[None], torch.tensor([label]), 0, 1.0), 0)
    assert weights_NC[0].tolist() == pytest.approx(HAND[name, label], abs=2e-4)
    assert (method.name, method.bytes, method.kept) == (f"top-2, {name}", 6, 2)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_keeps_every_class_is_the_teacher(name: str) -> None:
    """To float16: there is nothing to make up."""
    assert measured(rule(name, CLASSES, CLASSES)).tv < 1e-3


def test_renormalising_is_what_retempering_makes_of_probabilities_at_one() -> None:
    """Law: p_k^(1 / T) over the sum of these of the kept is p_k(T) over the sum of the kept, to float16."""
    ids_NK = largest(LOGITS_NC, 4)
    powers_NK = block(1.0).teacher().gather(1, ids_NK).pow(1 / T)
    found_NK = renormalised(block(), ids_NK).gather(1, ids_NK)
    torch.testing.assert_close(found_NK, powers_NK / powers_NK.sum(dim=1, keepdim=True), rtol=2e-3, atol=1e-6)


def test_kept_classes_weigh_what_they_should_and_the_others_share_alike() -> None:
    """Of topk labels: p of the kept, and the rest of one spread evenly."""
    labels = encodings.decode(
        SPECS["topk float32"], encodings.encode(SPECS["topk float32"], LOGITS_NC, TRUE_N, np.arange(ROWS))
    )
    found_NC, p_NC = weights(labels, T), block().teacher()
    ids_NK = largest(LOGITS_NC, 4)
    torch.testing.assert_close(found_NC.gather(1, ids_NK), p_NC.gather(1, ids_NK))
    others_NC = found_NC.scatter(1, ids_NK, math.nan)
    rest_N = (1 - p_NC.gather(1, ids_NK).sum(dim=1)) / (CLASSES - 4)
    assert ((others_NC - rest_N[:, None]).nan_to_num(0.0).abs() < 1e-6).all()


EXTREMES = {"flat": [0.0] * 5, "certain": [1e4, 0.0, 0.0, 0.0, 0.0], "torn": [300.0, 300.0, 0.0, 0.0, 0.0]}


@pytest.mark.parametrize("row", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("name", ["dense float32", "topk float32", "head+sampled", "sampled", "multinomial"])
def test_a_row_that_teaches_nothing_has_no_angle(name: str, row: list[float]) -> None:
    """Law: where the whole softmax moves the student by less than rounding, angle and norm are those of other rows."""
    method = stored(name, replace(SPECS[name], classes=5, k=None if SPECS[name].k is None else 2))
    ordinary = [0.0, 1.0, 2.0, 3.0, 4.0]
    logits_NC, true_N = torch.tensor([row, row, ordinary]), torch.tensor([0, -1, 4])
    (found,) = compare(logits_NC, true_N, [method], T, 3)
    assert all(math.isfinite(value) for key, value in vars(found).items() if key not in ("method", "tail"))
    asked = Block(logits_NC, true_N, 0, T)
    share_N = method.estimate(asked, 0)[1].norm(dim=1) / asked.gradient(asked.teacher()).norm(dim=1)
    assert found.norm == pytest.approx(share_N[2].item(), rel=1e-4)
    (nothing,) = compare(logits_NC[:2], true_N[:2], [method], T, 3)
    assert [math.isnan(value) for value in (nothing.angle, nothing.norm, nothing.batch_angle)] == [True] * 3
