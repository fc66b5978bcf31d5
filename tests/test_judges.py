"""The adversarial regulariser: a judge that learns to tell a teacher from a student, and whether it was worth it."""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from river_cases import CLASSES, samples, write_cache
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.config import Student, ViewSettings
from pipeline.course import Watch, teach
from pipeline.errors import ConfigError
from pipeline.judges import Judge, judges_of
from pipeline.labels import DenseLabels, LabelSpec, SampledLabels
from pipeline.lesson import Lesson
from pipeline.losses.adversarial import adversarial, told_apart
from pipeline.models import build
from pipeline.objective import Objective, objective
from pipeline.reader import Reader
from pipeline.runs import Run
from pipeline.schedules import BEGIN
from pipeline.terms import TERMS, Term, refuse_unserved
from pipeline.twins import in_words, verdicts

CPU = torch.device("cpu")
ROWS, STEPS = 24, 5


def term(name: str, **settings: object) -> Term:
    """A term as an experiment names it."""
    return TERMS[name].model_validate({"name": name, **settings})


JUDGED = (term("kd"), term("adversarial", weight=0.5, hidden=8))


def judge(seed: int = 0, classes: int = 4) -> Judge:
    """One at its first step."""
    return judges_of([term("adversarial", hidden=16, learning_rate=0.01)], classes, seed, CPU)[0]


def sides(rows: int = 64, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a sure teacher and of a student who knows as much, half as sure; and the true classes."""
    random = torch.Generator().manual_seed(1)
    labels_N = torch.randint(classes, (rows,), generator=random)
    logits_NC = torch.randn(rows, classes, generator=random) + 4 * F.one_hot(labels_N, classes)
    return logits_NC, 0.5 * logits_NC.roll(1, 0), labels_N.roll(1, 0)


def test_a_verdict_is_paid_for_by_hand() -> None:
    """-log sigmoid(v) for the teacher, -log(1 - sigmoid(v)) for the student, and the cross-entropy of the class."""
    verdict_NV = torch.tensor([[0.3, 1.0, -1.0], [-2.0, 0.0, 0.5]], dtype=torch.float64)
    labels_N = torch.tensor([1, -1])
    likely_N = verdict_NV[:, 0].sigmoid()
    classes_N = torch.stack([-torch.log_softmax(verdict_NV[0, 1:], 0)[1], torch.zeros((), dtype=torch.float64)])
    torch.testing.assert_close(told_apart(verdict_NV, labels_N, teacher=True), -likely_N.log() + classes_N)
    torch.testing.assert_close(told_apart(verdict_NV, labels_N, teacher=False), -(1 - likely_N).log() + classes_N)


def test_a_judge_learns_to_tell_a_teacher_from_a_student() -> None:
    """Law: after some steps it knows most rows of either, and most classes; the student's then cost it more."""
    teacher_NC, student_NC, labels_N = sides()
    one = judge()
    before = adversarial(student_NC, labels_N, one).mean()
    for _ in range(200):
        one.learn(student_NC, DenseLabels(teacher_NC), labels_N.roll(-1))
    assert (one(teacher_NC)[:, 0] > 0).float().mean() > 0.85
    assert (one(student_NC)[:, 0] < 0).float().mean() > 0.85
    assert adversarial(student_NC, labels_N, one).mean() > before


def test_a_student_that_follows_its_judge_is_taken_for_the_teacher() -> None:
    """Law: the gradient goes to the student's logits and leads to where the judge finds the teacher."""
    teacher_NC, student_NC, labels_N = sides()
    one = judge()
    for _ in range(200):
        one.learn(student_NC, DenseLabels(teacher_NC), labels_N.roll(-1))
    moved_NC = student_NC.clone().requires_grad_()
    for _ in range(100):
        (gradient_NC,) = torch.autograd.grad(adversarial(moved_NC, labels_N, one).sum(), moved_NC)
        moved_NC = (moved_NC - 0.1 * gradient_NC).detach().requires_grad_()
    assert one(moved_NC)[:, 0].mean() > one(student_NC)[:, 0].mean() + 1


def test_a_judge_is_left_alone_by_the_students_step_and_the_student_by_the_judges() -> None:
    """Law: neither's gradient reaches the other."""
    teacher_NC, student_NC, labels_N = sides()
    one, logits_NC = judge(), student_NC.clone().requires_grad_()
    adversarial(logits_NC, labels_N, one).sum().backward()
    assert logits_NC.grad is not None
    assert all(weight.grad is None for weight in one.network.parameters())
    logits_NC.grad = None
    one.learn(logits_NC, DenseLabels(teacher_NC), labels_N)
    assert logits_NC.grad is None


def test_a_shift_of_all_logits_changes_no_verdict() -> None:
    """Law: nor does a softmax change by it."""
    _, student_NC, _ = sides()
    torch.testing.assert_close(judge()(student_NC + 7.0), judge()(student_NC), rtol=1e-4, atol=1e-5)


def test_a_judge_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    """Law: to the bit, its optimizer too; another seed makes another one."""
    teacher_NC, student_NC, labels_N = sides()
    straight, resumed = judge(), judge(seed=5)
    assert not torch.equal(straight(student_NC), resumed(student_NC))
    assert torch.equal(straight(student_NC), judge()(student_NC))
    straight.learn(student_NC, DenseLabels(teacher_NC), labels_N)
    resumed.load_state(deepcopy(straight.state()))  # as from a file
    for one in (straight, resumed):
        one.learn(student_NC, DenseLabels(teacher_NC), labels_N)
    assert torch.equal(straight(student_NC), resumed(student_NC))


@pytest.mark.parametrize("encoding", ["topk", "sampled", "multinomial", "head+sampled"])
def test_labels_that_are_not_whole_serve_no_judge(encoding: str) -> None:
    """Law: refused before training, with the encoding that serves it."""
    with pytest.raises(
        ConfigError, match=r'the loss "adversarial" cannot be had from .* labels.encoding = \'dense\'\.$'
    ):
        refuse_unserved("x", JUDGED, LabelSpec(encoding, CLASSES, "float16", 2, (4.0,)))


def test_a_judge_that_no_process_could_teach_is_refused(tmp_path: Path) -> None:
    """Law: among ranks each would have its own, and the student another loss for each number of them."""
    reader = Reader(samples(), write_cache(tmp_path / "cache", samples()))
    assert objective(JUDGED, reader, world=1)
    with pytest.raises(ConfigError, match=r'"adversarial" has a judge that learns from a batch, and 2 processes'):
        objective(JUDGED, reader, world=2)


def test_a_loss_without_its_judge_says_what_it_needs() -> None:
    """Of a loop of one's own."""
    _, student_NC, labels_N = sides()
    with pytest.raises(ConfigError, match=r'The loss "adversarial" needs every logit of the teacher, and a judge'):
        Objective([term("adversarial")])(student_NC, labels_N, DenseLabels(student_NC))
    few = SampledLabels(4, 4.0, torch.zeros(64, 1, dtype=torch.int64), torch.ones(64, 1))
    with pytest.raises(ConfigError, match=r"needs every logit of the teacher"):
        Objective([term("adversarial")], judges={0: judge()})(student_NC, labels_N, few)


def run_in(folder: Path) -> Run:
    """A run of two epochs there."""
    settings = Student(model="mlp", epochs=2, batch_size=5, learning_rate=0.01, device="cpu")
    return Run(folder, folder / "student.safetensors", {"name": "pupil"}, "", settings, ViewSettings(std=2000.0), 3)


def taught(folder: Path, reader: Reader, terms: tuple[Term, ...], stop: Callable[[], bool] = lambda: False) -> bytes:
    """What comes of a student of these terms, or nothing where it was stopped."""
    lesson = Lesson(lambda: build("mlp", {"hidden": [8]}, (1, 4, 4), CLASSES), objective(terms, reader), soft=True)
    (metrics,) = teach([(run_in(folder), lesson)], reader, Watch(stop, lambda _: None))
    return (folder / "student.safetensors").read_bytes() if metrics else b""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Twenty-four samples with dense labels."""
    return Reader(samples(), write_cache(tmp_path / "cache", samples()))


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_judged_student_resumes_exactly(steps: int, tmp_path: Path, reader: Reader) -> None:
    """Law: stopped after any step, it ends with the bytes of one never stopped: its judge goes on where it was."""
    whole = taught(tmp_path / "whole", reader, JUDGED)
    looks = iter(range(100))
    assert taught(tmp_path / "parted", reader, JUDGED, lambda: next(looks) >= steps) == b""
    assert taught(tmp_path / "parted", reader, JUDGED) == whole
    assert whole != taught(tmp_path / "plain", reader, (JUDGED[0],))


def test_a_judge_without_weight_is_no_judge(tmp_path: Path, reader: Reader) -> None:
    """Law: off, the student is to the bit the one that never heard of it."""
    off = (JUDGED[0], term("adversarial", weight=0.0, hidden=8))
    assert taught(tmp_path / "off", reader, off) == taught(tmp_path / "plain", reader, (JUDGED[0],))


def test_a_judge_is_no_part_of_the_student(tmp_path: Path, reader: Reader) -> None:
    """Law: what is saved is the student's network alone."""
    taught(tmp_path / "judged", reader, JUDGED)
    network = build("mlp", {"hidden": [8]}, (1, 4, 4), CLASSES)
    assert load_file(tmp_path / "judged/student.safetensors").keys() == network.state_dict().keys()


def results(**accuracies: tuple[list[Mapping[str, object]] | str, list[float]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of students, each by its loss and the accuracy of each seed."""
    return {
        name: [
            {
                "test_accuracy": accuracy,
                "identity": {"loss": loss, "seed": seed, "epochs": 3, "temperature": 4.0, "alpha": 0.5, "window": None},
            }
            for seed, accuracy in enumerate(found)
        ]
        for name, (loss, found) in accuracies.items()
    }


def dumped(*terms: Term) -> list[dict[str, object]]:
    """Terms as an identity has them."""
    return json.loads(json.dumps([each.model_dump(mode="json") for each in terms]))


KD, HARD, ADVERSARIAL = term("kd", weight=0.5), term("hard", weight=0.5), term("adversarial")


@pytest.mark.parametrize(
    ("with_it", "without", "said"),
    [
        ([0.9, 0.92], [0.8, 0.81], '"adversarial" helped judged: accuracy 91.00 % with it, 80.50 % without (plain).'),
        ([0.8], [0.9], '"adversarial" did not help judged: accuracy 80.00 % with it, 90.00 % without (plain).'),
        ([0.9], [0.9], '"adversarial" did not help judged: accuracy 90.00 % with it, 90.00 % without (plain).'),
        (
            [0.8, 0.9],
            [0.84, 0.85],
            (
                '"adversarial" did not help judged: accuracy 85.00 % with it, 84.50 % without (plain), '
                "no more than seeds differ."
            ),
        ),
    ],
)
@pytest.mark.parametrize("plain", [dumped(HARD, KD), "kd"])
def test_a_term_is_held_against_the_twin_without_it(
    plain: list[Mapping[str, object]] | str, with_it: list[float], without: list[float], said: str
) -> None:
    """Law: it helped where it beats the same student by more than seeds differ; a twin may name its loss."""
    found = results(judged=(dumped(HARD, KD, ADVERSARIAL), with_it), plain=(plain, without), other=("hard", [0.99]))
    judged = verdicts(found, "adversarial")
    assert in_words(judged, "adversarial") == [said]
    assert judged["judged"]["helped"] == ("did not" not in said)


def test_without_a_twin_nothing_is_claimed() -> None:
    """Law: another student, or one of another length, tells nothing about a term; no adversarial term, no line."""
    judged, plain = (dumped(HARD, KD, ADVERSARIAL), [0.9]), (dumped(HARD, KD), [0.1])
    found = results(judged=judged, plain=plain)
    found["plain"][0]["identity"]["epochs"] = 4
    (line,) = in_words(verdicts(found, "adversarial"), "adversarial")
    assert line.startswith('Whether "adversarial" helps judged is not known: no student in this table is told the same')
    assert verdicts(results(plain=plain), "adversarial") == {}
    unmeasured = results(judged=judged, plain=plain)
    unmeasured["plain"][0]["test_accuracy"] = None
    assert verdicts(unmeasured, "adversarial")["judged"] == {"twin": "plain", "helped": None}


def test_progress_does_not_part_a_loss_from_its_judge() -> None:
    """Law: the loss at any moment of a run has the judge that it is given."""
    one = judge()
    assert Objective([ADVERSARIAL]).at(BEGIN, {0: one}).judges == {0: one}
    assert replace(Objective([ADVERSARIAL]), judges={0: one}).at(BEGIN).judges == {0: one}
    assert np.isfinite(one(sides()[0]).detach().numpy()).all()
