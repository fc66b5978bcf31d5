"""The second course of a student: hard labels from the distilled weights, as a run and a line of its own."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_cases import CLASSES, ROWS, TOPK, images, must, run, snapshot, write_idx

from pipeline.config import load
from pipeline.weights import file_digest
from stages.signals import Stop

TABLE = "students.distilled.finetune={epochs = 2, learning_rate = 0.05}"
SMALL = "students.distilled.finetune={epochs = 1, learning_rate = 1e-30, weight_decay = 0.0}"
ONLY = ("students.distilled.baseline=distilled",)
FLAGS = ("--student", "distilled")
RESULTS = {"config.toml", "metrics.jsonl", "metrics.json", "student.safetensors", "curve.png", "test.json"}
FIRST, SECOND = Path("runs/e/distilled/seed-0"), Path("runs/e/distilled/finetuned/seed-0")


def weights(folder: Path) -> bytes:
    """What a run ended with."""
    return (folder / "student.safetensors").read_bytes()


def metrics_of(folder: Path) -> dict[str, object]:
    """The result of a run."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert isinstance(metrics, dict)
    return metrics


def another_dataset(rows: int, classes: int = CLASSES, side: int = 4) -> str:
    """The words of a table for samples of their own."""
    pixels = np.resize(images(rows, seed=5), (rows, side, side)).astype(np.uint8)
    write_idx(Path("more-images"), pixels)
    write_idx(Path("more-labels"), (np.arange(rows) % classes).astype(np.uint8))
    return "{kind = 'idx', inputs = 'more-images', labels = 'more-labels'}"


@contextmanager
def soon(steps: int) -> Iterator[Stop]:
    """A request to stop after so many looks at it."""

    class Soon(Stop):
        left = steps

        def __call__(self) -> bool:
            self.left -= 1
            return self.left < 0

    yield Soon()


def test_a_second_course_has_a_line_and_a_folder_of_its_own(trained: Path) -> None:
    """Law: after the line of its student comes its own, in table and JSON; the first course is left alone."""
    before = snapshot(FIRST)
    rows = [line.rsplit("  ")[0].strip() for line in must("train", TABLE).out.splitlines()[1:5]]
    assert rows == ["alone", "distilled", "distilled + finetune", "teacher"]
    assert snapshot(FIRST) == before
    assert {file.name for file in (trained / SECOND).iterdir()} == RESULTS
    assert weights(SECOND) != weights(FIRST)
    facts = must("train", TABLE, flags=("--json",)).facts
    assert list(facts["students"]) == ["alone", "distilled", "distilled + finetune"]
    (metrics,) = facts["students"]["distilled + finetune"]
    assert (metrics["true_labels"], metrics["soft_labels"]) == (ROWS, 0)
    assert metrics["identity"]["distilled_sha256"] == file_digest(FIRST / "student.safetensors")
    assert metrics["test_accuracy"] is not None


@pytest.mark.usefixtures("trained")
def test_it_begins_at_the_distilled_weights() -> None:
    """Law: a course of steps that go nowhere ends where distillation did, to the bit."""
    must("train", SMALL)
    first, second = load_file(FIRST / "student.safetensors"), load_file(SECOND / "student.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_course_that_is_done_is_not_done_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same command again trains nothing, builds nothing, changes no file and prints the same table."""
    said = must("train", TABLE).out
    before = snapshot(trained)
    monkeypatch.delattr("stages.train_student.teach")
    monkeypatch.delattr("stages.school.build")
    assert must("train", TABLE).out == said
    assert snapshot(trained) == before


@pytest.mark.parametrize("steps", [3, 9, 10, 15])
def test_stopped_in_either_course_it_ends_as_one_that_was_not(
    steps: int, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: the same command goes on from that step; both courses end with the bytes of an undisturbed run."""
    must("train", TABLE, *ONLY, flags=(*FLAGS, "--runs", "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("stages.train_student.stop_on_signals", lambda: soon(steps))
        assert run("train", TABLE, *ONLY, flags=FLAGS).code == 75
    first_done = (FIRST / "metrics.json").exists()
    assert first_done == (steps >= 10)
    before = snapshot(FIRST)
    must("train", TABLE, *ONLY, flags=FLAGS)
    for folder in (FIRST, SECOND):
        assert weights(folder) == weights(filled / "whole" / folder.relative_to("runs/e"))
    assert not first_done or snapshot(FIRST) == before


def killed(*_: object) -> None:
    """What a process that is killed does not survive."""
    raise KeyboardInterrupt


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("place", ["stages.finetune.load_state", "pipeline.course.save_progress"])
def test_killed_on_its_way_into_the_second_course_it_goes_on(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: before its first step or at its first save; a first course that is finished is not repeated."""
    must("train", *ONLY, flags=FLAGS)
    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        assert run("train", TABLE, *ONLY, flags=FLAGS).code != 0
    before = snapshot(FIRST)
    must("train", TABLE, *ONLY, flags=FLAGS)
    assert snapshot(FIRST) == before
    assert (SECOND / "metrics.json").exists()


@pytest.mark.usefixtures("trained")
def test_other_distilled_weights_make_another_run() -> None:
    """Law: what was learnt from weights that are no longer there is refused until it is started over with them."""
    must("train", TABLE)
    shutil.rmtree(FIRST)
    rate = "students.distilled.learning_rate=0.01"
    run("train", TABLE, rate).refuses(5, f"{SECOND} holds another run: distilled_sha256 was ", "--restart")
    must("train", TABLE, rate, flags=("--restart",))
    assert metrics_of(SECOND)["identity"]["distilled_sha256"] == metrics_of(FIRST)["weights_sha256"]


def test_other_settings_of_it_are_refused_before_anything_is_trained(trained: Path) -> None:
    """Law: field by field, as of any run; the first course is not another run for it."""
    must("train", TABLE)
    shutil.rmtree(trained / "runs/e/alone")
    before = snapshot(trained)
    run("train", TABLE.replace("0.05", "0.5")).refuses(
        5, f"{SECOND} holds another run: learning_rate was 0.05 and is now 0.5.", "Nothing was changed."
    )
    assert snapshot(trained) == before


def test_the_config_of_a_second_course_trains_both_again(trained: Path) -> None:
    """Law: from the config in its folder alone come the distilled weights and those after them, bit for bit."""
    must("train", TABLE)
    shutil.copy(SECOND / "config.toml", "e.toml")
    must("train", flags=("--runs", "again"))
    for folder in (FIRST, SECOND):
        assert weights(trained / "again" / folder.relative_to("runs/e")) == weights(folder)
    assert load(FIRST / "config.toml").students["distilled"].finetune is None


@pytest.mark.usefixtures("filled")
def test_every_repeat_has_its_second_course() -> None:
    """Law: from the weights of its own seed."""
    facts = must("train", TABLE, *ONLY, "students.distilled.repeats=2", flags=(*FLAGS, "--json")).facts
    assert [len(facts["students"][name]) for name in ("distilled", "distilled + finetune")] == [2, 2]
    for seed, metrics in enumerate(facts["students"]["distilled + finetune"]):
        folder = FIRST.with_name(f"seed-{seed}")
        assert metrics["seed"] == seed
        assert metrics["identity"]["distilled_sha256"] == metrics_of(folder)["weights_sha256"]


@pytest.mark.usefixtures("trained")
def test_it_learns_from_other_samples_where_they_are_named() -> None:
    """Law: from all their true labels; what they hold decides the run."""
    more = another_dataset(21)
    setting = f"students.distilled.finetune={{epochs = 1, dataset = {more}}}"
    facts = must("train", setting, flags=("--json",)).facts
    (metrics,) = facts["students"]["distilled + finetune"]
    assert metrics["true_labels"] == 21
    assert metrics["identity"]["dataset"] != facts["students"]["distilled"][0]["identity"]["dataset"]
    write_idx(Path("more-labels"), np.zeros(21, np.uint8))
    run("train", setting).refuses(5, f"{SECOND} holds another run: dataset was 'sha256 ")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: another_dataset(21, classes=5), ("has the label 3, expected a class in [0, 3)",)),
        (lambda: another_dataset(21, classes=5)[:-1] + ", classes = 5}", ("has 5 classes, and [dataset] 3",)),
        (
            lambda: another_dataset(21, side=6),
            ("[students.distilled.finetune.dataset] has inputs of shape [1, 6, 6], and [dataset] of [1, 4, 4]",),
        ),
        (
            lambda: re.sub(", labels.*", "}", another_dataset(21)),
            ("students.distilled.finetune: this course is of true labels, and its samples have none.",),
        ),
    ],
)
def test_samples_that_do_not_fit_are_refused_before_the_first_course(
    made: Callable[[], str], said: tuple[str, ...], filled: Path
) -> None:
    """Law: another shape, other classes, or no true labels: nothing is trained."""
    setting = f"students.distilled.finetune={{epochs = 1, dataset = {made()}}}"
    before = snapshot(filled)
    outcome = run("train", setting)
    assert (outcome.code, outcome.out) == (1, ""), outcome.err
    assert [text for text in said if text not in outcome.err] == [], outcome.err
    assert snapshot(filled) == before


@pytest.mark.usefixtures("filled")
def test_of_few_true_labels_it_sees_no_more_than_the_first_course() -> None:
    """Law: what a student may not see, it does not see later."""
    facts = must("train", TABLE, "students.distilled.true_labels=6", flags=("--json",)).facts
    assert [facts["students"][name][0]["true_labels"] for name in ("distilled", "distilled + finetune")] == [6, 6]


def test_what_cannot_begin_is_refused_before_the_first_course(filled: Path) -> None:
    """Law: a slip in the second course costs none of the first."""
    before = snapshot(filled)
    table = "students.distilled.finetune={epochs = 1, no_decay = ['*.bais']}"
    run("train", table, *ONLY, flags=FLAGS).refuses(2, "no_decay: no parameter of ", "'*.bais'", "The nearest are ")
    assert snapshot(filled) == before


def test_of_mixed_views_it_sees_them_unmixed(fitted: Path) -> None:
    """Law: a mixture has no true label, so the second course is of the samples alone."""
    mixed = ("views.mix=mixup", "views.count=2", "students.distilled.baseline=distilled")
    must("generate", *mixed)
    facts = must("train", *mixed, TABLE, flags=(*FLAGS, "--json")).facts
    second = facts["students"]["distilled + finetune"][0]
    assert second["true_labels"] == ROWS
    assert "mix" not in second["identity"]
    assert (fitted / SECOND / "metrics.json").exists()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{learning_rate = 0.1}", "the key students.distilled.finetune.epochs is missing; it is needed."),
        ("{epochs = 1, seed = 4}", "students.distilled.finetune: seed is the student's, one for each of its repeats"),
        ("{epochs = 1, loss = 'kd'}", 'students.distilled.finetune.loss: "kd" asks the teacher'),
        ("{epochs = 1, loss = [{name = 'hard'}, {name = 'mse'}]}", 'finetune.loss: "mse" asks the teacher'),
        (
            "{epochs = 1, loss = [{name = 'hard', smoothing = 0.1}]}",
            "unknown key students.distilled.finetune.loss.0.smoothing: did you mean label_smoothing?",
        ),
        ("{epochs = 1, epoch = 1}", "unknown key students.distilled.finetune.epoch: did you mean epochs?"),
        (
            "{epochs = 1, dataset = {kind = 'idz'}}",
            "students.distilled.finetune.dataset.kind: found 'idz', expected one of ",
        ),
        (
            "{epochs = 1, dataset = {kind = 'digits', pat = 'test'}}",
            "unknown key students.distilled.finetune.dataset.pat: did you mean part?",
        ),
    ],
)
@pytest.mark.usefixtures("filled")
def test_a_table_that_says_what_cannot_be_is_refused(table: str, said: str) -> None:
    """Law: exit code 2 that names the key."""
    run("train", f"students.distilled.finetune={table}").refuses(2, said)


@pytest.mark.usefixtures("filled")
def test_its_labels_are_smoothed_as_the_students_are() -> None:
    """Law: unless it says a loss of its own; what it leaves out is the student's."""
    loss = "students.distilled.loss=[{name = 'hard', label_smoothing = 0.1}, {name = 'kd'}]"
    student = load(Path("e.toml"), [loss, TABLE]).students["distilled"]
    second = student.finetuned
    assert [(term.name, term.options()) for term in second.terms] == [("hard", {"label_smoothing": 0.1})]
    assert (second.epochs, second.learning_rate, second.batch_size) == (2, 0.05, 16)
    own = "students.distilled.finetune={epochs = 1, loss = [{name = 'hard'}, {name = 'entropy', weight = -0.1}]}"
    assert [t.name for t in load(Path("e.toml"), [loss, own]).students["distilled"].finetuned.terms] == [
        "hard",
        "entropy",
    ]


def test_a_temperature_that_moves_is_refused_of_sparse_labels_before_training(fitted: Path) -> None:
    """Law: exit code 2 with what the cache has; nothing is written."""
    must("generate", *TOPK)
    before = snapshot(fitted)
    run("train", *TOPK, "students.distilled.temperature={start = 4, end = 1}").refuses(
        2, 'students.distilled.loss: these "topk" labels', "goes from 4 to 1", "1, 2, 4, 8"
    )
    assert snapshot(fitted) == before


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_a_student_of_a_moving_temperature_resumes_exactly(
    by: str, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: stopped and resumed, it ends with the bytes of one that never stopped; by step and by epoch differ."""
    asked = f"students.distilled.temperature={{start = 4, end = 1, by = '{by}'}}"
    must("train", asked, *ONLY, flags=(*FLAGS, "--runs", "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("stages.train_student.stop_on_signals", lambda: soon(6))
        assert run("train", asked, *ONLY, flags=FLAGS).code == 75
    must("train", asked, *ONLY, flags=FLAGS)
    assert weights(FIRST) == weights(filled / "whole/distilled/seed-0")
    must("train", *ONLY, flags=(*FLAGS, "--runs", "plain"))
    assert weights(FIRST) != weights(filled / "plain/distilled/seed-0")


def test_the_table_says_whether_a_judge_was_worth_it(filled: Path) -> None:
    """Law: beside its twin without the term, that it helped or did not; without a twin, that nobody knows."""
    loss = "[{name = 'hard', weight = 0.1}, {name = 'kd', weight = 0.9}, {name = 'adversarial', weight = 0.2}]"
    like = "model = 'mlp', options = {hidden = [4]}, epochs = 2, batch_size = 16, device = 'cpu'"
    judged = (*ONLY, f"students.judged={{{like}, loss = {loss}}}")
    alpha = "students.distilled.loss=[{name = 'hard', weight = 0.1}, {name = 'kd', weight = 0.9}]"
    assert (
        'Whether "adversarial" helps judged is not known' in must("train", *judged, flags=("--student", "judged")).out
    )
    both = ("--student", "judged", "--student", "distilled")
    outcome = must("train", *judged, alpha, flags=both)
    assert '"adversarial" helped judged: ' in outcome.out or '"adversarial" did not help judged: ' in outcome.out
    facts = must("train", *judged, alpha, flags=(*both, "--json")).facts
    assert facts["adversarial"]["judged"]["twin"] == "distilled"
    assert "adversarial" not in must("train", alpha, *ONLY, flags=(*FLAGS, "--json")).facts
    assert (filled / "runs/e/judged/seed-0/metrics.json").exists()
