"""Students taught together are the students they would have been alone, and the dataset is read once for all."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from river_cases import CLASSES, samples, write_cache
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline import course
from pipeline.config import ViewSettings
from pipeline.course import Entry, Watch, classes, teach
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import DatasetError, MismatchError, TrainingError
from pipeline.labels import SoftLabels
from pipeline.lesson import FEW, Lesson
from pipeline.losses import kd
from pipeline.objective import Objective
from pipeline.order import Windows
from pipeline.reader import UNLABELLED, Batch, Reader
from pipeline.regimen import Training
from pipeline.runs import Run, finished
from pipeline.terms import one_term

SETTINGS = Training(epochs=2, batch_size=5, learning_rate=0.01, device="cpu")
ROWS, STEPS = 24, 5
HIDDEN = np.where(np.arange(ROWS) % 3, UNLABELLED, samples().labels)


def network(width: int = 8) -> nn.Module:
    """Dropout and running statistics: all that could leak from one student into another."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, CLASSES)
    )


def hard(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: SoftLabels | None) -> torch.Tensor:
    """Cross-entropy with the true labels there are."""
    return F.cross_entropy(logits_NC, labels_N, reduction="none", ignore_index=UNLABELLED)


def distilled(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: SoftLabels | None) -> torch.Tensor:
    """What a student of the teacher is told."""
    return kd(logits_NC, soft, labels_N, 4.0, 0.9)


def kd_at(temperature: float) -> Objective:
    """What most students are told, whose labels are made ready as they are read."""
    return Objective(one_term("kd", temperature, 0.9))


LESSONS: dict[str, tuple[Training, Lesson]] = {
    "distilled": (SETTINGS, Lesson(network, kd_at(4.0), soft=True, test=samples(12, seed=1))),
    "hard": (SETTINGS, Lesson(lambda: network(6), hard, soft=False)),
    "few labels": (SETTINGS, Lesson(lambda: network(4), kd_at(3.0), soft=True, visible_N=HIDDEN)),
    "longer": (SETTINGS.model_copy(update={"epochs": 3}), Lesson(network, distilled, soft=True)),
}


def entry(folder: Path, name: str, settings: Training | None = None, lesson: Lesson | None = None) -> Entry:
    """A student in a folder of its own."""
    own, told = LESSONS.get(name, (SETTINGS, None))
    run = Run(
        folder / name, folder / name / "student.safetensors", {"name": name}, "", settings or own, ViewSettings(), 3
    )
    return run, lesson or told


def outcome(run: Run) -> tuple[bytes, list[dict[str, object]]]:
    """Weights to the byte, and the line of each epoch but for its time."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return run.weights.read_bytes(), [{**line, "seconds": None} for line in lines]


def watch(stop: Callable[[], bool] = lambda: False, shown: list[int] | None = None) -> Watch:
    """Never stopped, unless asked."""
    return Watch(stop, ([] if shown is None else shown).append)


class Counted(Reader):
    """A reader that notes every row it is asked for."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self.asked: list[int] = []

    def __getitems__(self, rows: np.ndarray) -> Batch:
        """The batch of some rows."""
        self.asked += rows.tolist()
        return super().__getitems__(rows)


@pytest.fixture
def reader(tmp_path: Path) -> Counted:
    """Twenty-four samples and what a teacher says of them."""
    return Counted(samples(), write_cache(tmp_path / "cache", samples()))


@pytest.fixture
def alone(tmp_path: Path, reader: Counted) -> dict[str, tuple[bytes, list[dict[str, object]]]]:
    """What comes of each student by itself."""
    found = {}
    for name in LESSONS:
        run, lesson = entry(tmp_path / "alone", name)
        teach([(run, lesson)], reader if lesson.soft else Reader(samples()), watch())
        found[name] = outcome(run)
    reader.asked.clear()
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_students_taught_together_are_what_they_are_alone(
    tmp_path: Path, reader: Counted, alone: dict[str, object], workers: int
) -> None:
    """Law: other networks, losses, labels and lengths beside it change no bit; each row is read once an epoch."""
    entries = [entry(tmp_path / "together", name) for name in LESSONS]
    shown: list[int] = []
    metrics = teach(entries, reader, watch(shown=shown), workers)
    assert {run.folder.name: outcome(run) for run, _ in entries} == alone
    assert metrics == [finished(run) for run, _ in entries]
    assert len(set(reader.asked[:ROWS])) == ROWS
    assert len(reader.asked) == 3 * ROWS
    assert sum(shown) == (2 + 2 + 2 + 3) * ROWS


def test_a_student_that_is_ahead_waits_for_the_others(
    tmp_path: Path, reader: Counted, alone: dict[str, object]
) -> None:
    """Law: whoever joins late, is done, or was stopped elsewhere, every one takes each of its steps once."""
    entries = {name: entry(tmp_path / "mixed", name) for name in LESSONS}
    steps: list[int] = []
    teach([entries["distilled"]], reader, watch(lambda: len(steps) >= 3, steps))
    steps.clear()
    teach([entries["longer"]], reader, watch(lambda: len(steps) >= STEPS + 1, steps))
    teach([entries["few labels"]], reader, watch())
    reader.asked.clear()
    left = [each for name, each in entries.items() if name != "few labels"]
    teach(left, reader, watch())
    assert {name: outcome(run) for name, (run, _) in entries.items()} == alone
    # Up to two runs of batches a worker are read ahead of a stop; here nothing is, and no step is read twice.
    assert len(reader.asked) == 3 * ROWS


def test_one_that_fails_does_not_cost_the_others_their_steps(
    tmp_path: Path, reader: Counted, alone: dict[str, object]
) -> None:
    """Law: its error ends the class; the others are kept to the step, and end as they would have alone."""
    told = iter(range(100))

    def diverging(logits_NC: torch.Tensor, *_: object) -> torch.Tensor:
        return logits_NC.sum(1) * (math.nan if next(told) == STEPS + 2 else 0.0)

    broken = entry(tmp_path / "class", "broken", lesson=Lesson(network, diverging, soft=False))
    others = [entry(tmp_path / "class", name) for name in ("distilled", "longer")]
    with pytest.raises(TrainingError, match=r"the loss of step 3 of epoch 2 is nan"):
        teach([others[0], broken, others[1]], reader, watch())
    assert not (broken[0].folder / "metrics.json").exists()
    shown: list[int] = []
    teach(others, reader, watch(shown=shown))
    assert {run.folder.name: outcome(run) for run, _ in others} == {
        name: alone[name] for name in ("distilled", "longer")
    }
    assert sum(shown) < (2 + 3) * ROWS - 2 * ROWS


def test_labels_that_do_not_belong_end_a_class_and_keep_its_steps(tmp_path: Path) -> None:
    """A dataset that changes under a run: what was learnt before is kept, and goes on once it is put back."""
    dataset = samples()
    cache = write_cache(tmp_path / "cache", dataset)
    run, lesson = entry(tmp_path, "distilled")
    steps: list[int] = []
    changed = ArrayDataset(dataset.array.copy(), dataset.ids, dataset.labels, CLASSES)
    reader = Reader(changed, cache)

    def strike() -> bool:
        if len(steps) == 3:
            changed.array[:] += 1
        return False

    with pytest.raises(MismatchError, match=r"are not the ones the teacher saw"):
        teach([(run, lesson)], reader, watch(strike, steps))
    before = len(steps)
    steps.clear()
    teach([(run, lesson)], Reader(dataset, cache), watch(shown=steps))
    assert before + len(steps) == 2 * STEPS


def test_a_class_has_one_order(tmp_path: Path) -> None:
    """Who sees the same rows in the same batches sits together; other seeds, sizes, windows or choices are apart."""
    dataset = samples()
    together = [entry(tmp_path, name) for name in LESSONS]
    few = [entry(tmp_path, f"few-{n}", lesson=Lesson(network, hard, soft=False, visible_N=HIDDEN)) for n in range(2)]
    cut = [
        entry(tmp_path, f"cut-{n}", lesson=replace(lesson, windows=Windows.cut(2, 8, ROWS)))
        for n, (_, lesson) in enumerate((together[0], together[1]))
    ]
    wider = entry(tmp_path, "wider", lesson=replace(together[0][1], windows=Windows.cut(3, 8, ROWS)))
    larger = entry(tmp_path, "larger", SETTINGS.model_copy(update={"batch_size": 6}), together[0][1])
    reseeded = (replace(together[0][0], seed=4), together[0][1])
    found = classes([*together, *few, *cut, wider, larger, reseeded], dataset)
    assert found == [together, few, cut, [wider], [larger], [reseeded]]


@pytest.mark.parametrize("stop", range(1, 2 * STEPS))
def test_a_run_stopped_in_any_window_goes_on_in_it(tmp_path: Path, reader: Counted, stop: int) -> None:
    """Law: stopped after any step of a windowed epoch, the same call ends with the bytes of one never stopped."""
    lesson = replace(LESSONS["distilled"][1], windows=reader.windows(1))
    whole, parted = (entry(tmp_path / name, "windowed", lesson=lesson) for name in ("whole", "parted"))
    teach([whole], reader, watch())
    steps: list[int] = []
    assert teach([parted], reader, watch(lambda: len(steps) >= stop, steps)) == [None]
    teach([parted], reader, watch(shown=steps))
    assert outcome(parted[0]) == outcome(whole[0])
    assert len(steps) == 2 * STEPS


@pytest.mark.parametrize("labels", [None, np.full(ROWS, UNLABELLED)])
def test_nothing_to_learn_from_is_refused(tmp_path: Path, labels: np.ndarray | None) -> None:
    """No teacher heard and no label seen; whoever hears the teacher needs none."""
    dataset = replace(samples(), labels=labels)
    with pytest.raises(DatasetError, match=r"nothing to learn from: .* no true labels, and no cache was given"):
        classes([entry(tmp_path, "hard")], dataset)
    assert len(classes([entry(tmp_path, "distilled")], dataset)) == 1


def test_a_student_learns_from_the_labels_it_may_see(tmp_path: Path, reader: Counted) -> None:
    """Law: what is hidden from it never reaches its loss; its metrics count what it was shown."""
    seen: list[torch.Tensor] = []

    def noting(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: SoftLabels) -> torch.Tensor:
        seen.append(labels_N)
        return distilled(logits_NC, labels_N, soft)

    lesson = Lesson(network, noting, soft=True, visible_N=HIDDEN)
    (metrics,) = teach([entry(tmp_path, "shy", lesson=lesson)], reader, watch())
    shown = torch.cat(seen)
    assert (shown != UNLABELLED).sum() == 2 * (HIDDEN != UNLABELLED).sum()
    assert (metrics["true_labels"], metrics["soft_labels"]) == (int((HIDDEN != UNLABELLED).sum()), ROWS)


@pytest.fixture
def made_ready(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many rows at once labels were made ready."""
    rows: list[int] = []
    blend = Objective.blend

    def noted(told: Objective, labels_N: torch.Tensor, soft: SoftLabels) -> object:
        rows.append(len(labels_N))
        return blend(told, labels_N, soft)

    monkeypatch.setattr(Objective, "blend", noted)
    return rows


@pytest.mark.parametrize("hides", [False, True])
def test_a_loss_whose_labels_are_made_ready_teaches_as_one_whose_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_ready: list[int], *, hides: bool
) -> None:
    """Law: to rounding; and to the bit however many batches are read at once."""
    everyone = samples(120)
    reader, visible_N = Reader(everyone, write_cache(tmp_path / "cache", everyone)), None
    if hides:
        visible_N = np.where(np.arange(120) % 3, UNLABELLED, everyone.labels)
    lesson = Lesson(network, kd_at(3.0), soft=True, visible_N=visible_N)
    # Adaptive rates make much of rounding. The last batch is of one row less.
    settings = SETTINGS.model_copy(update={"optimizer": "sgd", "batch_size": 7})
    monkeypatch.setattr("pipeline.ahead.RUN_SECONDS", 60.0)  # a run is then as long as it may be
    found = []
    cases = (
        ("by step", 16, 0, {0}),
        ("one by one", 1, FEW, {7}),
        ("two", 2, FEW, {14}),
        ("all", 16, FEW, range(15, 113)),
    )
    for name, most, few, at_once in cases:
        monkeypatch.setattr(course, "MOST_IN_A_RUN", most)
        monkeypatch.setattr("pipeline.lesson.FEW", few)
        run, _ = entry(tmp_path, name, settings, lesson)
        made_ready.clear()
        teach([(run, lesson)], reader, watch())
        assert sum(made_ready) == (2 * 120 if few else 0)
        assert max(made_ready, default=0) in at_once
        found.append((load_file(run.weights), outcome(run)[1]))
    (by_step, told), *ready = found
    assert all(lines == ready[0][1] for _, lines in ready)
    for weights, lines in ready:
        for name, tensor in weights.items():
            assert torch.equal(tensor, ready[0][0][name])
            torch.testing.assert_close(tensor, by_step[name], rtol=1e-4, atol=1e-5)
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in told], rel=1e-5)


@pytest.mark.parametrize("less", [0, 1])
def test_the_last_batch_is_told_as_all_are(
    less: int, tmp_path: Path, reader: Counted, made_ready: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: though it is smaller, so that it does not matter what it is read with."""
    monkeypatch.setattr("pipeline.lesson.FEW", CLASSES * SETTINGS.batch_size - less)
    teach([entry(tmp_path, "distilled", lesson=Lesson(network, kd_at(4.0), soft=True))], reader, watch())
    assert sum(made_ready) == (0 if less else 2 * ROWS)


def test_a_class_is_kept_now_and_then(tmp_path: Path, reader: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: every few minutes, of every student in it; not at each step, which would cost more than learning."""
    kept: list[str] = []
    keep = course.save_progress
    monkeypatch.setattr(course, "save_progress", lambda run, state: (kept.append(run.folder.name), keep(run, state)))
    teach([entry(tmp_path / "a", name) for name in ("distilled", "hard")], reader, watch())
    assert kept == ["distilled", "hard"] * 2
    kept.clear()
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.0)
    teach([entry(tmp_path / "b", name) for name in ("distilled", "hard")], reader, watch())
    assert kept == ["distilled", "hard"] * 2 * (STEPS + 1)


@pytest.mark.parametrize("error", [OSError("the disk is gone"), MismatchError("not the same")])
def test_a_dataset_that_fails_costs_no_step(tmp_path: Path, error: Exception) -> None:
    """Law: whatever reading ends with, what was learnt before is kept, and the same call goes on from there."""
    steps: list[int] = []

    class Failing(Reader):
        def __getitems__(self, rows: np.ndarray) -> Batch:
            if len(steps) >= 3:
                raise error
            return super().__getitems__(rows)

    entries = [entry(tmp_path, "hard")]
    with pytest.raises(type(error), match=str(error)):
        teach(entries, Failing(samples()), watch(shown=steps))
    before = len(steps)
    assert 3 <= before < 2 * STEPS
    steps.clear()
    teach(entries, Reader(samples()), watch(shown=steps))
    assert before + len(steps) == 2 * STEPS


def test_a_network_may_make_a_table_in_its_first_forward(tmp_path: Path) -> None:
    """Law: asked once before the first step and after each epoch, it can still be trained with what it made then."""

    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.table = nn.Linear(16, CLASSES), None

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.table is None:
                self.table = torch.linspace(0, 1, 16)
            return self.last(inputs.flatten(1) * self.table)

    lesson = Lesson(Tabled, hard, soft=False, test=samples(12, seed=1))
    (metrics,) = teach([entry(tmp_path, "tabled", lesson=lesson)], Reader(samples()), watch())
    assert metrics is not None
