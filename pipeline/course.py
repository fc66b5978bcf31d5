"""A course: one walk over the dataset that teaches several students.

Those who are to see the same rows in the same order share what is read: inputs, views, soft labels, their checks and
their way to the device. Each has its own network, seed of dropout and run folder, and ends with the weights that it
would have alone. All are in the device's memory at once; for students too large for that, train them one by one.

Shape legend: N samples of the dataset.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from time import perf_counter
from typing import Any

import numpy as np
import torch

from pipeline.ahead import MOST_IN_A_RUN, ahead
from pipeline.cost import cost
from pipeline.datasets import Dataset
from pipeline.devices import for_one_thread
from pipeline.errors import MismatchError, SoftLabelsError
from pipeline.evaluation import Evaluation, evaluate, evaluate_clusters, measurable
from pipeline.judges import judges_of
from pipeline.lesson import Lesson, Told
from pipeline.objective import Objective
from pipeline.order import EpochSampler
from pipeline.prefetch import prefetching
from pipeline.ranks import ALONE, Ranks
from pipeline.reader import UNLABELLED, Batch, Reader, Rows
from pipeline.runs import CHECKPOINT, Metrics, Run, begin, finish, finished, save_progress, saved_state
from pipeline.seeds import seed_of
from pipeline.slopes import slopes_of
from pipeline.store.mapped import LabelCache
from pipeline.training import WEAK_KEPT, Epoch, Learner, predictor, start, try_out
from pipeline.tutor import refuse_few, refuse_untold, tutor_of
from pipeline.views import viewed

SAVE_SECONDS = 300.0  # the most that a kill costs, where an epoch takes longer


@dataclass(frozen=True)
class Watch:
    """How a course reports and is asked to stop: after each step, the rows that one student has been shown."""

    stopped: Callable[[], bool]
    progress: Callable[[int], object]


Entry = tuple[Run, Lesson]
Given = tuple[Batch, Sequence[Told]]
"""What was read, and what each pupil is told of it."""


def classes(entries: Sequence[Entry], dataset: Dataset) -> list[list[Entry]]:
    """Who can be taught together: those with the same usable rows, windows, views, seed and batch size."""
    groups: dict[object, list[Entry]] = {}
    for run, lesson in entries:
        usable = lesson.usable(dataset)
        rows = None if usable is None else sha256(usable.tobytes()).digest()
        order = (run.seed, run.settings.batch_size, rows, lesson.windows and lesson.windows.digest, lesson.views)
        key = (order, lesson.hears)
        groups.setdefault(key, []).append((run, lesson))
    return list(groups.values())


def rehearse(entries: Sequence[Entry], reader: Reader) -> None:
    """Refuse networks that cannot be built, or do not answer a sample, before anything of theirs is thrown away.

    Raises:
        ConfigError: a model that cannot be built.
        TrainingError: a network that does not answer with one logit a class.

    """
    for run, lesson in entries:
        _seated(run, lesson, reader, 1)


def teach(
    entries: Sequence[Entry], reader: Reader, watch: Watch, workers: int = 1, ranks: Ranks = ALONE
) -> list[Metrics | None]:
    """Train a class to the end, each student from its checkpoint if there is one.

    Args:
        entries: students that share an order, as `classes` groups them.
        reader: over a cache, if any of them hears the teacher.
        watch: how to report and when to stop.
        workers: threads that read.
        ranks: the processes that train together; a batch is shared among them, and the first one writes.

    Returns:
        The metrics of each, or None if asked to stop before its end; the same call goes on from that very step.

    Raises:
        MismatchError: a folder holds another run, or one of a network that was built otherwise.
        CorruptError: a checkpoint is damaged, or a label.
        TrainingError: a network fails or diverges; the others' progress is kept.

    """
    run, lesson = entries[0]
    sampler = EpochSampler(
        len(reader),
        run.settings.batch_size,
        seed=run.seed,
        rank=ranks.rank,
        world=ranks.world,
        usable=lesson.usable(reader.dataset),
        windows=lesson.windows,
        views=lesson.views,
    )
    pupils = [_Pupil.enrolled(run, lesson, reader, sampler.steps, ranks) for run, lesson in entries]
    _refuse_apart(pupils, ranks)
    for pupil in pupils:
        pupil.graduate()  # one that was killed when only that was left to do
    for epoch in range(max(run.settings.epochs for run, _ in entries)):
        present = [pupil for pupil in pupils if pupil.epoch.number == epoch and pupil.metrics is None]
        if present and not _walk(present, sampler, reader, watch, workers):
            break
    return [pupil.metrics for pupil in pupils]


def _refuse_apart(pupils: Sequence["_Pupil"], ranks: Ranks) -> None:
    """Refuse ranks that would begin at different steps, as those do that see different folders."""
    at = [float(number) for pupil in pupils for number in (pupil.epoch.number, pupil.epoch.steps)]
    if ranks.any(ranks.total(*at) != [number * ranks.world for number in at]):
        raise MismatchError(
            f"Rank {ranks.rank} of {ranks.world} finds other checkpoints in {pupils[0].run.folder} than the others do. "
            "Put the run folders where all ranks see them."
        )


def _walk(pupils: Sequence["_Pupil"], sampler: EpochSampler, reader: Reader, watch: Watch, workers: int) -> bool:
    """The rest of an epoch; a pupil that is ahead waits for the others. False if asked to stop."""
    number, ranks = min(pupil.epoch.steps for pupil in pupils), pupils[0].learner.ranks
    sampler.set_epoch(pupils[0].epoch.number, number)
    saved = begun = perf_counter()
    try:
        for number, (batch, told) in enumerate(_batches(sampler, reader, pupils, workers), number):  # noqa: B020 - on
            if ranks.any(watch.stopped()):
                break
            learning = [each for each in zip(pupils, told, strict=True) if each[0].epoch.steps == number]
            rows = sampler.rows(number)
            _lesson(learning, batch, rows, begun)
            begun = perf_counter()
            watch.progress(len(learning) * rows)
            if ranks.any(begun - saved > SAVE_SECONDS):
                _save(pupils)
                saved = begun = perf_counter()
        if ranks.any(watch.stopped()):
            _save(pupils)
            return False
        for pupil in pupils:
            pupil.pass_on()
    except (SoftLabelsError, OSError):
        if ranks.world == 1:  # else the others wait for this one, and torchrun ends them
            _save([pupil for pupil in pupils if not pupil.failed])
        raise
    return True


def _batches(sampler: EpochSampler, reader: Reader, pupils: Sequence["_Pupil"], workers: int) -> Iterator[Given]:
    """What is left of an epoch, read ahead of the networks, and fetched ahead of the readers."""
    kinds = [pupil.learner.device.type for pupil in pupils]
    # Not those of a batch: of the last one, which is smaller, what it was read with would decide how it is told.
    most = pupils[0].run.settings.batch_size * (reader.dataset.positions or 1)

    def read(rows: Rows) -> Given:
        batch = reader.__getitems__(rows)
        told = [
            pupil.lesson.made_ready(batch, most) if kind == "cpu" else pupil.lesson.told(batch)
            for pupil, kind in zip(pupils, kinds, strict=True)
        ]
        if "cuda" in kinds:  # into memory that a GPU can copy from by itself
            return batch.pin_memory(), [each.pin_memory() for each in told]
        return batch, told

    beside = set(kinds) == {"cpu"}
    # A transform has as many threads as when its views were cached: their number may decide a float's last bit.
    begin = for_one_thread() if beside and not reader.dataset.changes else None
    together = partial(_several, read) if beside and reader.divides else None
    coming = map(reader.in_cache, sampler.upcoming(sampler.epoch, sampler.step))
    with prefetching(reader.cache, coming) as walked:
        for given in ahead(sampler, read, workers, MOST_IN_A_RUN, together=together, begin=begin):
            yield given
            walked()


def _several(read: Callable[[Rows], Given], asked: Sequence[Rows]) -> list[Given]:
    """Several batches read as one: what is done for each costs as much as copying its rows."""
    batch, told = read(np.concatenate(asked))
    ends = np.cumsum([rows.size for rows in asked]).tolist()
    cuts = map(slice, [0, *ends], ends)
    return [(batch.select(cut), [each.select(cut) for each in told]) for cut in cuts]


def _lesson(given: Sequence[tuple["_Pupil", Told]], batch: Batch, rows: int, begun: float) -> None:
    """One batch for all; each pays for its own step and its share of the reading, which began a while ago."""
    devices = {pupil.learner.device for pupil, _ in given}
    moved = {device: batch.to(device, non_blocking=True) for device in devices if device.type != "cpu"}
    share = (perf_counter() - begun) / max(1, len(given))
    for pupil, told in given:
        pupil.seconds += share
        pupil.learn(moved.get(pupil.learner.device, batch), told, rows)


def _save(pupils: Sequence["_Pupil"]) -> None:
    for pupil in pupils:
        pupil.save()


@dataclass
class _Pupil:
    """A student in class: where it is, and how it is doing."""

    run: Run
    lesson: Lesson
    learner: Learner
    epoch: Epoch
    history: list[Metrics]
    rate: float  # at the epoch's first step
    dataset: Dataset
    seconds: float = 0.0  # of this epoch, so far
    failed: bool = False
    metrics: Metrics | None = None

    @classmethod
    def enrolled(cls, run: Run, lesson: Lesson, reader: Reader, steps: int, ranks: Ranks) -> "_Pupil":
        """At its first step, or where its checkpoint left off."""
        if ranks.leads:
            begin(run)
        saved = saved_state(run)
        torch.manual_seed(seed_of("weights", run.seed))
        learner = _seated(run, lesson, reader, run.settings.epochs * steps, ranks)
        if isinstance(lesson.loss, Objective):
            judges = judges_of(lesson.loss.terms, reader.dataset.classes or 0, run.seed, learner.device)
            learner = replace(learner, judges=judges)
        run = replace(run, facts={**_counts(lesson, reader), **run.facts})
        epoch = Epoch(learner, lesson.loss, run.seed, 0)
        if not saved:
            return cls(run, lesson, learner, epoch, [], _rate(learner), reader.dataset)
        _go_on(run, learner, saved["learner"])
        history, at = saved["history"], saved["epoch"]
        total, heard = (at["total"], at.get("heard", ())) if ranks.leads else (0.0, ())
        epoch = replace(epoch, number=len(history), steps=at["steps"], rows=at["rows"], total=total, heard=tuple(heard))
        return cls(run, lesson, learner, epoch, history, at["rate"], reader.dataset, at["seconds"])

    def learn(self, batch: Batch, told: Told, rows: int) -> None:
        """Take a step on a batch that is on the device, this rank's share of so many rows."""
        begun, device = perf_counter(), self.learner.device
        heard = told if device.type == "cpu" else told.to(device, non_blocking=True)
        self._attempt(lambda: self.epoch.learn(heard.of(batch), rows))
        self.seconds += perf_counter() - begun

    def pass_on(self) -> None:
        """Close an epoch: test, note, save; after the last one, graduate."""
        begun = perf_counter()
        self._attempt(self.epoch.settle)
        loss = self._total() / self.epoch.rows
        line: Metrics = {"epoch": self.epoch.number + 1, "learning_rate": self.rate, "loss": loss}
        if (test := self.lesson.test) is not None and self.learner.ranks.leads:
            found = self._tested(test, self.lesson.test_cache)
            line |= {f"test_{name}": value for name, value in found.figures.items()}
            line |= {"test_perplexity": found.perplexity} if viewed(test).positions else {}
        line |= self.epoch.weak_kept()
        self.history.append({**line, "seconds": self.seconds + perf_counter() - begun})
        self.epoch = Epoch(self.learner, self.lesson.loss, self.run.seed, self.epoch.number + 1)
        self.rate, self.seconds = _rate(self.learner), 0.0
        self.save()
        self.graduate()

    def graduate(self) -> None:
        """After the last epoch, keep what has come of it."""
        if self.epoch.number == self.run.settings.epochs:
            self._attempt(self._finish)

    def save(self) -> None:
        """Keep all that the next step depends on."""
        if self.metrics is not None:
            return
        self._attempt(self.epoch.settle)
        at: Metrics = {"steps": self.epoch.steps, "rows": self.epoch.rows, "total": self._total()}
        at |= {"rate": self.rate, "seconds": self.seconds}
        at |= {"heard": heard} if (heard := self.epoch.heard_by_all()) else {}
        if self.learner.ranks.leads:
            save_progress(self.run, {"learner": self.learner.state(), "history": self.history, "epoch": at})

    def _total(self) -> float:
        """The sum of the epoch's losses so far, over all ranks."""
        return self.learner.ranks.total(self.epoch.total)[0]

    def _finish(self) -> None:
        if self.learner.ranks.leads:
            found, asked = self._examined(), self.lesson.test or self.dataset
            costs = cost(predictor(self.learner), asked, _tested_at_once(self.run, asked), self.learner.device)
            figures = {f"test_{name}": value for name, value in found.figures.items()} | costs
            figures |= {name: value for name, value in self.history[-1].items() if name == WEAK_KEPT}
            self.metrics = finish(self.run, self.learner.network, self.history, figures, found.counts)
        self.learner.ranks.wait()
        self.metrics = self.metrics or finished(self.run)

    def _examined(self) -> Evaluation:
        """A close look at the weights that the run leaves: once, so that no epoch takes longer for it."""
        test = measurable(self.lesson.test)
        if test is None or viewed(test).positions is not None or self.lesson.clustered:
            return Evaluation()
        return self._tested(test, closely=True)

    def _tested(self, test: Dataset, cache: LabelCache | None = None, *, closely: bool = False) -> Evaluation:
        asked = predictor(self.learner), test, _tested_at_once(self.run, test)
        return evaluate_clusters(*asked) if self.lesson.clustered else evaluate(*asked, cache, closely=closely)

    def _attempt(self, action: Callable[[], object]) -> None:
        """Remember who failed: its state is not worth keeping."""
        try:
            action()
        except SoftLabelsError:
            self.failed = True
            raise


def _seated(run: Run, lesson: Lesson, reader: Reader, steps: int, ranks: Ranks = ALONE) -> Learner:
    """A learner at its first step, tried out on a sample, with a tutor if it is given hints."""
    network, key = lesson.build(), f"students.{run.folder.parent.name}"
    refuse_few(key, lesson.hints, len(reader), run.settings.batch_size)
    refuse_untold(key, lesson.hints, ranks.world)
    # By itself first, if more is tried out than its answer: ranks share each network once.
    apart = bool(lesson.hints) or lesson.gradients is not None
    learner = start(network, run.settings, run.views, steps, ALONE if apart else ranks)
    try_out(learner, reader.dataset)
    if not apart:
        return learner
    tutor, slopes, sample = None, None, reader.dataset.inputs(np.zeros(1, np.int64))
    if lesson.hints:
        tokens = reader.dataset.settings.input == "tokens"
        tutor = tutor_of(key, network, lesson.hints, reader.spec, lambda: predictor(learner)(sample), tokens=tokens)
    if lesson.gradients is not None and reader.spec.gradient is not None:
        given = learner.input(torch.from_numpy(sample).to(learner.device))
        slopes = slopes_of(key, network, lesson.gradients, reader.spec.gradient, given)
    return replace(start(network, run.settings, run.views, steps, ranks, tutor=tutor), slopes=slopes)


def _tested_at_once(run: Run, test: Dataset) -> int:
    """Samples of a batch that is only answered; a position of a sequence takes as much room as a sample."""
    return run.settings.batch_size * (4 if viewed(test).positions is None else 1)


def _rate(learner: Learner) -> float:
    return float(learner.schedule.get_last_lr()[0])


def _go_on(run: Run, learner: Learner, state: dict[str, Any]) -> None:
    try:
        learner.load_state(state)
    except (RuntimeError, ValueError, KeyError) as error:
        first = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise MismatchError(
            f"{run.folder / CHECKPOINT} is of another network than is built now ({first}), and of the same settings: "
            "the code that builds it has changed. Put the code back, or start the run over with --restart."
        ) from error


def _counts(lesson: Lesson, reader: Reader) -> Metrics:
    """How many labels of either kind a network learns from."""
    if reader.dataset.positions is not None:
        count = reader.dataset.targets
        return {"true_labels": count, "soft_labels": count if lesson.soft else 0}
    labels = lesson.labels(reader.dataset)
    hidden = 0 if labels is None or labels.min() > UNLABELLED else int((labels == UNLABELLED).sum())
    true = 0 if labels is None else labels.size - hidden
    return {"true_labels": true, "soft_labels": len(reader) if lesson.soft else 0}
