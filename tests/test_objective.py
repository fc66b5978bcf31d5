"""A sum of losses with weights: what it adds, when its weights change, and what it needs.

Shape legend: N rows, C classes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import CLASSES, STEADY, samples, told, write_cache
from torch import Tensor

from pipeline import losses
from pipeline.config import Student, ViewSettings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import ConfigError
from pipeline.judges import Judge
from pipeline.labels import DenseLabels, MixedLabels
from pipeline.models import build
from pipeline.objective import Objective, objective
from pipeline.reader import Batch, Reader
from pipeline.regimen import Training
from pipeline.schedules import Progress
from pipeline.terms import TERMS, Term
from pipeline.training import Epoch, Learner, start

T = 3.0
TEACHER_NC = 2 * told(np.arange(6), 5)
STUDENT_NC = told(np.arange(10, 16), 5)
TRUE_N = torch.tensor([0, 1, -1, 4, 3, 2])
SOFT = DenseLabels(TEACHER_NC)
COSTS = losses.class_cost(TEACHER_NC.T)


class Frozen(Judge):
    """One that does not learn, so that what it says can be told twice."""

    def learn(self, *_: object) -> None:
        """Nothing."""


JUDGE = Frozen(5, 4, 1e-3, torch.device("cpu"))


def term(name: str, **settings: object) -> Term:
    """A term as an experiment names it."""
    return TERMS[name].model_validate({"name": name, **settings})


EACH: dict[str, tuple[Term, Callable[[Tensor, DenseLabels], Tensor]]] = {
    "hard": (term("hard", label_smoothing=0.1), lambda z, _: losses.cross_entropy(z, TRUE_N, 0.1)),
    "kd": (term("kd", temperature=T), lambda z, soft: T**2 * losses.kl(z, soft, T)),
    "soft": (term("soft", temperature=T), lambda z, soft: T**2 * losses.soft_cross_entropy(z, soft, T)),
    "reverse_kl": (term("reverse_kl", temperature=T), lambda z, soft: T**2 * losses.reverse_kl(z, soft, T)),
    "jsd": (term("jsd", temperature=T, beta=0.2), lambda z, soft: T**2 * losses.jsd(z, soft, T, 0.2)),
    "skew_kl": (term("skew_kl", temperature=T, skew=0.3), lambda z, soft: T**2 * losses.skew_kl(z, soft, T, 0.3)),
    "tv": (term("tv", temperature=T), lambda z, soft: losses.total_variation(z, soft, T)),
    "mse": (term("mse"), losses.mse_logits),
    "dkd": (
        term("dkd", temperature=T, alpha=0.5, beta=2),
        lambda z, soft: T**2 * losses.dkd(z, soft, TRUE_N, T, alpha=0.5, beta=2),
    ),
    "dist": (
        term("dist", temperature=T, beta=1, gamma=0.5),
        lambda z, soft: T**2 * losses.dist(z, soft, T, beta=1, gamma=0.5),
    ),
    "wkd": (
        term("wkd", temperature=T, regularisation=0.1, iterations=3, transport=2),
        lambda z, soft: losses.wkd(z, soft, TRUE_N, T, COSTS, regularisation=0.1, iterations=3, transport=2),
    ),
    "weak": (term("weak", temperature=T, threshold=0.4), lambda z, soft: losses.weak(z, soft, T, 0.4)),
    "entropy": (term("entropy"), lambda z, _: losses.entropy(z)),
    "adversarial": (term("adversarial"), lambda z, _: losses.adversarial(z, TRUE_N, JUDGE)),
}
PLACE, JUDGED = list(EACH).index("wkd"), list(EACH).index("adversarial")


def test_these_tests_know_every_term() -> None:
    """Else a new one went untested."""
    assert list(EACH) == list(TERMS)


@STEADY
@given(st.lists(st.floats(-3, 3, width=32), min_size=len(EACH), max_size=len(EACH)))
def test_a_loss_is_the_sum_of_its_terms(weights: list[float]) -> None:
    """Law: each times its weight, and times T^2 what is known to shrink by it; every option reaches its function."""
    terms = [each.model_copy(update={"weight": w}) for (each, _), w in zip(EACH.values(), weights, strict=True)]
    expected_N = sum(w * loss(STUDENT_NC, SOFT) for (_, loss), w in zip(EACH.values(), weights, strict=True))
    found_N = Objective(terms, {PLACE: COSTS}, judges={JUDGED: JUDGE})(STUDENT_NC, TRUE_N, SOFT)
    torch.testing.assert_close(found_N, expected_N, rtol=1e-4, atol=1e-4)


HARDS = [{}, {"label_smoothing": 0.1}, {"weight": {"start": 1.0, "end": 0.0}}, {"weight": 0.0}]
KDS = [{}, {"standardise": True}, {"temperature": {"start": 4.0, "end": 1.0}}, {"weight": -0.5}]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("softly", KDS)
@pytest.mark.parametrize("hardly", HARDS)
def test_hard_and_kd_together_are_each_alone_and_added(
    hardly: dict[str, object], softly: dict[str, object], *, reverse: bool, mixed: bool
) -> None:
    """Law: the sum that most students are told has no value of its own, to the bit, at any point of a run."""
    terms = (term("hard", **hardly), term("kd", **{"temperature": T, **softly}))
    soft = MixedLabels((SOFT, DenseLabels(STUDENT_NC)), (0.25, 0.75)) if mixed else SOFT
    for share in (0.0, 0.5, 1.0):
        at = Progress(share, share)
        apart = [Objective((each,)).at(at)(STUDENT_NC, TRUE_N, soft) for each in terms]
        found = Objective(terms[::-1] if reverse else terms).at(at)(STUDENT_NC, TRUE_N, soft)
        assert torch.equal(found, apart[0] + apart[1])


@pytest.mark.parametrize("softly", [{}, {"weight": -0.5, "temperature": 1.5}])
def test_labels_made_ready_for_a_loss_tell_what_it_tells(softly: dict[str, object]) -> None:
    """Law: of what most students are told, at any point of a run."""
    told_so = Objective((term("hard", weight=0.1), term("kd", **{"temperature": T, **softly})))
    ready = told_so.blend(TRUE_N, SOFT)
    assert ready is not None
    for share in (0.0, 1.0):
        expected = told_so.at(Progress(share, share))(STUDENT_NC, TRUE_N, SOFT)
        torch.testing.assert_close(losses.blended(STUDENT_NC, ready), expected, rtol=1e-6, atol=1e-6)


FALLING = {"start": 1.0, "end": 0.0}


@pytest.mark.parametrize(
    ("terms", "soft"),
    [
        ([term("hard", weight=FALLING), term("kd")], SOFT),
        ([term("hard"), term("kd", weight=FALLING)], SOFT),
        ([term("hard"), term("kd", temperature={"start": 4.0, "end": 1.0})], SOFT),
        ([term("hard"), term("kd"), term("entropy", weight={"start": 0.0, "end": 1.0})], SOFT),
        ([term("hard"), term("kd"), term("kd")], SOFT),
        ([term("hard", label_smoothing=0.1), term("kd")], SOFT),
        ([term("hard"), term("kd", standardise=True)], SOFT),
        ([term("hard"), term("soft")], SOFT),
        ([term("hard")], SOFT),
        ([term("hard"), term("kd")], None),
        ([term("hard"), term("kd")], MixedLabels((SOFT, SOFT), (0.5, 0.5))),
    ],
)
def test_what_only_a_step_can_tell_is_left_to_it(terms: list[Term], soft: DenseLabels | MixedLabels | None) -> None:
    """Law: weights and temperatures that change, other losses, and labels that are not those of one teacher."""
    assert Objective(terms).blend(TRUE_N, soft) is None


@pytest.mark.parametrize("name", [name for name, kind in TERMS.items() if "standardise" in kind.model_fields])
def test_standardised_is_the_loss_of_standardised_logits(name: str) -> None:
    """Law: of both sides, around any loss at a temperature, times T^2 as ever; the terms beside it are left alone."""
    asked, loss = EACH[name]
    standard = asked.model_copy(update={"standardise": True})
    costs = {0: COSTS} if name == "wkd" else {}
    expected_N = loss(losses.standardised(STUDENT_NC), DenseLabels(losses.standardised(TEACHER_NC)))
    assert not torch.allclose(expected_N, loss(STUDENT_NC, SOFT), rtol=1e-2)
    torch.testing.assert_close(Objective([standard], costs)(STUDENT_NC, TRUE_N, SOFT), expected_N)
    both_N = Objective([standard, term("mse")], costs)(STUDENT_NC, TRUE_N, SOFT)
    torch.testing.assert_close(both_N, expected_N + losses.mse_logits(STUDENT_NC, SOFT))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_the_name_kd_is_hintons_loss(alpha: float) -> None:
    """Law: to the bit what `losses.kd` gives, at both ends too."""
    student = Student(model="mlp", loss="kd", temperature=T, alpha=alpha)
    found_N = Objective(student.terms)(STUDENT_NC, TRUE_N, SOFT)
    assert torch.equal(found_N, losses.kd(STUDENT_NC, SOFT, TRUE_N, T, alpha))


@pytest.mark.parametrize("name", [name for name, kind in TERMS.items() if kind.serves])
def test_a_term_that_asks_the_teacher_needs_its_labels(name: str) -> None:
    """And says so by its name, standardised or not."""
    with pytest.raises(
        ConfigError,
        match=f'^The loss "{name}" needs soft labels and was given none. Train from a label cache, or set loss = "har',
    ):
        Objective([term("hard"), term(name)])(STUDENT_NC, TRUE_N, None)


def test_what_weighs_nothing_is_not_computed() -> None:
    """Law: with all weights zero the loss is zero and so is its gradient; no labels are asked for."""
    logits_NC = STUDENT_NC.clone().requires_grad_()
    loss_N = Objective([term("hard", weight=0), term("kd", weight={"start": 0, "end": 1})])(logits_NC, TRUE_N, None)
    loss_N.sum().backward()
    assert torch.equal(loss_N, torch.zeros(6))
    assert torch.equal(logits_NC.grad, torch.zeros_like(STUDENT_NC))


STEPS = 9
FADING = Objective([term("hard", weight={"start": 1, "end": 0}), term("entropy", weight={"start": 0, "end": 1})])


def frozen(steps: int) -> Learner:
    """A network that steps do not move."""
    torch.manual_seed(0)
    settings = Training(device="cpu", learning_rate=1e-30, weight_decay=0.0)
    return start(build("mlp", {"hidden": [4]}, (1, 4, 4), CLASSES), settings, ViewSettings(std=2000.0), steps)


def losses_of(batch: Batch, way: Epoch, steps: int) -> list[float]:
    """Those of some steps on the same batch."""
    found = [way.learn(batch) for _ in range(steps)] + [way.settle()]
    return [loss for loss in found if loss is not None]


def test_weights_go_from_the_first_step_of_a_run_to_its_last() -> None:
    """Law: evenly over all steps of all epochs, whether a run was stopped in the middle of one or not."""
    batch = Reader(samples()).__getitems__(range(8))
    straight = frozen(STEPS)
    hard, doubt = (
        loss(straight.network(straight.input(batch.inputs_NX))).mean().item()
        for loss in (lambda z: losses.cross_entropy(z, batch.labels_N), losses.entropy)
    )
    assert abs(hard - doubt) > 0.01
    expected = [hard + (doubt - hard) * step / (STEPS - 1) for step in range(STEPS)]
    first, second = Epoch(straight, FADING, 0, 0), Epoch(straight, FADING, 0, 1)
    whole = [*losses_of(batch, first, 5), *losses_of(batch, second, STEPS - 5)]
    assert whole == pytest.approx(expected, abs=1e-6)
    stopped, resumed = frozen(STEPS), frozen(STEPS)
    begun = losses_of(batch, Epoch(stopped, FADING, 0, 0), 3)
    resumed.load_state(stopped.state())
    rest = losses_of(batch, Epoch(resumed, FADING, 0, 0, steps=3), 2)
    assert [*begun, *rest, *losses_of(batch, Epoch(resumed, FADING, 0, 1), STEPS - 5)] == whole


def test_a_run_of_one_step_has_the_weights_of_its_start() -> None:
    """There is nowhere to go."""
    batch, learner = Reader(samples()).__getitems__(range(8)), frozen(1)
    hard = losses.cross_entropy(learner.network(learner.input(batch.inputs_NX)), batch.labels_N).mean().item()
    assert losses_of(batch, Epoch(learner, FADING, 0, 0), 1) == pytest.approx([hard])


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Samples with dense labels."""
    return Reader(samples(), write_cache(tmp_path / "cache", samples()))


def logits_of(dataset: ArrayDataset) -> Tensor:
    """What the labels of `reader` say."""
    return told(dataset.ids)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_class_costs_are_those_of_their_file(dtype: type, reader: Reader, tmp_path: Path) -> None:
    """Law: each wkd among the terms has its own, at its place, and counts by it."""
    costs = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]]).astype(dtype)
    np.save(tmp_path / "costs.npy", costs)
    terms = [term("hard"), term("wkd", cost=str(tmp_path / "costs.npy")), term("wkd", weight=0.5)]
    made = objective(terms, reader)
    assert made.costs.keys() == {1, 2}
    assert torch.equal(made.costs[1], torch.from_numpy(costs.astype(np.float32)))
    assert not torch.equal(made.costs[2], made.costs[1])
    batch = reader.__getitems__(range(6))
    student_NC = told(np.arange(100, 106))
    parts = [losses.wkd(student_NC, batch.soft, batch.labels_N, 8.0, made.costs[place]) for place in (1, 2)]
    expected_N = losses.cross_entropy(student_NC, batch.labels_N) + parts[0] + 0.5 * parts[1]
    torch.testing.assert_close(made(student_NC, batch.labels_N, batch.soft), expected_N)
    torch.testing.assert_close(made.at(Progress(0.5))(student_NC, batch.labels_N, batch.soft), expected_N)


def test_the_largest_class_costs_that_are_taken_can_be_counted_with(reader: Reader, tmp_path: Path) -> None:
    """Law: to a finite loss and gradient; a higher regularisation takes higher ones."""
    np.save(tmp_path / "costs.npy", np.where(ONE_PAIR, 0, 70.0))
    made = objective([term("wkd", cost=str(tmp_path / "costs.npy"), regularisation=0.1)], reader)
    batch, student_NC = reader.__getitems__(range(6)), told(np.arange(100, 106)).requires_grad_()
    loss_N = made(student_NC, batch.labels_N, batch.soft)
    loss_N.sum().backward()
    assert loss_N.isfinite().all()
    assert student_NC.grad is not None
    assert student_NC.grad.isfinite().all()


@pytest.mark.parametrize("settings", [{"cost": "costs.npy"}, {"regularisation": 0.0001}])
def test_class_costs_that_let_nothing_flow_are_refused(
    settings: dict[str, object], reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: of a file or estimated, rather than have a loss that is no number in the first step."""
    monkeypatch.chdir(tmp_path)
    np.save("costs.npy", np.where(ONE_PAIR, 0, 35.1))
    with pytest.raises(ConfigError, match=r"class costs of up to [\d.]+, and nothing flows at more than .*Raise reg"):
        objective([term("wkd", **settings)], reader)


def test_class_costs_are_estimated_where_no_file_is_named(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the labels of random samples, the same each time, with the sharpness of the term: not of the first ones."""
    costs = objective([term("wkd", sharpness=2.5)], reader).costs[0]
    torch.testing.assert_close(costs, losses.class_cost(losses.prototypes(logits_of(samples())), 2.5))
    monkeypatch.setattr("pipeline.objective.SAMPLE", 10)
    few, again = (objective([term("wkd", sharpness=2.5)], reader) for _ in range(2))
    assert torch.equal(few.costs[0], again.costs[0])
    first_NC = logits_of(samples())[:10]
    assert not torch.allclose(few.costs[0], losses.class_cost(losses.prototypes(first_NC), 2.5))
    assert few.identity == {}, "the cache and the term decide them"


def test_a_loss_that_compares_rows_is_refused_where_no_process_sees_them_all(reader: Reader) -> None:
    """A batch that is shared by ranks would have another loss for each number of them."""
    assert objective([term("dist")], reader, world=1)
    with pytest.raises(ConfigError, match=r'The loss "dist" compares the rows of a batch, and 2 processes share each'):
        objective([term("hard"), term("dist")], reader, world=2)


SQUARE = np.ones((CLASSES, CLASSES))
ONE_PAIR = np.eye(CLASSES) == 1


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        (np.ones((CLASSES, CLASSES + 1)), r"holds \(3, 4\) of kind 'f' where finite costs"),
        (np.ones(CLASSES), r"holds \(3,\) of kind 'f'"),
        (SQUARE > 0, r"holds \(3, 3\) of kind 'b'"),
        (SQUARE.astype(str), r"holds \(3, 3\) of kind 'U'"),
        (SQUARE + 0j, r"holds \(3, 3\) of kind 'c'"),
        (np.where(ONE_PAIR, np.nan, SQUARE), "where finite costs of at least 0 were expected"),
        (np.where(ONE_PAIR, np.inf, SQUARE), "where finite costs of at least 0 were expected"),
        (np.where(ONE_PAIR, 1e300, SQUARE), "where finite costs of at least 0 were expected"),
        (np.where(ONE_PAIR, -1, SQUARE), r"expected, \[3, 3\], one for each pair of classes. Mend the file, or leave"),
        (np.array([{}]), "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_class_costs_that_are_none_are_refused(costs: np.ndarray, said: str, reader: Reader, tmp_path: Path) -> None:
    """Law: the file is named, what it holds and what was expected; nothing in it is run."""
    np.save(tmp_path / "costs.npy", costs, allow_pickle=True)
    with pytest.raises(ConfigError, match=rf"costs\.npy.*{said}"):
        objective([term("wkd", cost=str(tmp_path / "costs.npy"))], reader)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: .*No such file"),
        (b"", "cannot be read: .*Write them with numpy.save"),
        (b"0 1\n1 0\n", "cannot be read: "),
        (b"\x93NUMPY\x01\x00", "cannot be read: "),
        (b"PK\x03\x04 no archive", "cannot be read: the magic string is not correct"),
    ],
)
def test_a_file_that_holds_no_class_costs_is_refused(
    content: bytes | None, said: str, reader: Reader, tmp_path: Path
) -> None:
    """Law: whatever is there, or nothing, it is named and how to make it is said."""
    path = tmp_path / "costs.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"costs\.npy: these class costs {said}"):
        objective([term("wkd", cost=str(path))], reader)


def test_an_archive_of_arrays_holds_no_class_costs(reader: Reader, tmp_path: Path) -> None:
    """Which of them would count is not said."""
    np.savez(tmp_path / "costs.npz", costs=SQUARE)
    with pytest.raises(ConfigError, match=r"costs\.npz: these class costs cannot be read: .*Write them with"):
        objective([term("wkd", cost=str(tmp_path / "costs.npz"))], reader)
