"""Train the teacher on true labels, once, with the loop that students learn through; and fit its features' bases."""

import torch

from pipeline.config import Experiment, dump
from pipeline.course import Watch, rehearse, teach
from pipeline.errors import ConfigError, TeacherError
from pipeline.evaluation import measurable
from pipeline.job import content_of, seen
from pipeline.labels import Heard
from pipeline.lesson import Lesson
from pipeline.losses import cross_entropy
from pipeline.models import build
from pipeline.order import ViewOrder
from pipeline.ranks import Ranks, joined
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.runs import Metrics, Run, finished
from pipeline.sources import open_test, open_views, readers
from pipeline.views import Viewed
from stages.bars import bar
from stages.fit_bases import fit_bases
from stages.report import Report, duration
from stages.signals import stop_on_signals


def fit_teacher(experiment: Experiment, *, restart: bool) -> Report:
    """Train the teacher of an experiment, or each of its members, unless its checkpoint exists; then the same of bases.

    Raises:
        TeacherError: no checkpoint, and no `[teacher.fit]` to make one.
        ConfigError: the checkpoint is to be trained, and its name does not end in .safetensors.
        MismatchError: the checkpoint was trained with other settings.
        StoppedError: asked to stop; every step is kept.

    And as `fit_bases`.
    """
    report, bases = _trained(experiment, restart=restart), fit_bases(experiment, restart=restart)
    if bases is None:
        return report
    return Report({**report.facts, **bases.facts}, f"{report.text}\n{bases.text}")


def _trained(experiment: Experiment, *, restart: bool) -> Report:
    teacher = experiment.teacher
    single = {"members": (), "weight": 1.0, "mixture": "probabilities"}
    alone = [teacher.model_copy(update={**dict(each), **single}) for each in teacher.members]
    reports = [_fitted(experiment.model_copy(update={"teacher": each}), restart=restart) for each in alone or [teacher]]
    if not teacher.members:
        return reports[0]
    return Report({"members": [each.facts for each in reports]}, "\n".join(each.text for each in reports))


def _fitted(experiment: Experiment, *, restart: bool) -> Report:
    teacher = experiment.teacher
    if teacher.fit is None:
        if teacher.checkpoint.is_file():
            return Report({"checkpoint": str(teacher.checkpoint)}, f"The teacher is there: {teacher.checkpoint}.")
        raise TeacherError(
            f"{teacher.checkpoint}: there is no such checkpoint, and the experiment has no [teacher.fit] to train one. "
            "Put the checkpoint there, or add [teacher.fit] (epochs, learning_rate, …)."
        )
    dataset = open_views(experiment)
    run = _run(experiment, teacher.fit, dataset)
    with joined() as ranks:
        lesson = _lesson(experiment, dataset)
        if restart and ranks.leads:
            rehearse([(run, lesson)], Reader(dataset))
            run.clear()
        ranks.wait()
        metrics = finished(run)
        if metrics is None and teacher.checkpoint.is_file() and not run.begun:
            return Report({"checkpoint": str(teacher.checkpoint)}, f"The teacher is there: {teacher.checkpoint}.")
        title = "trained already" if metrics else "trained"
        metrics = metrics or _fit(experiment, run, lesson, dataset, ranks, restart=restart)
    reached = "" if metrics["test_accuracy"] is None else f"; test accuracy {100 * metrics['test_accuracy']:.2f} %"
    return Report(
        {"checkpoint": str(teacher.checkpoint), **metrics},
        f"The teacher is {title}: {teacher.checkpoint} ({metrics['parameters']:,} parameters, "
        f"{duration(metrics['seconds'])}{reached}).",
    )


def _run(experiment: Experiment, settings: Training, dataset: Viewed) -> Run:
    teacher, views = experiment.teacher, experiment.views
    if teacher.checkpoint.suffix != ".safetensors":
        raise ConfigError(
            f"teacher.checkpoint: found {str(teacher.checkpoint)!r}; [teacher.fit] writes safetensors, so a name that "
            "ends in .safetensors was expected. Rename it, or leave [teacher.fit] out to use a checkpoint of yours."
        )
    identity = {
        "model": teacher.model,
        "options": teacher.options,
        **seen(views),
        "dataset": content_of(experiment.dataset, dataset),
        **settings.model_dump(mode="json", exclude={"device"}),
    }
    folder = teacher.checkpoint.with_suffix("")
    return Run(folder, teacher.checkpoint, identity, dump(experiment), settings, views, settings.seed)


def _lesson(experiment: Experiment, dataset: Viewed) -> Lesson:
    def network() -> torch.nn.Module:
        return build(experiment.teacher.model, experiment.teacher.options, dataset.input_shape, dataset.classes or 0)

    def loss(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: Heard | None) -> torch.Tensor:
        return cross_entropy(logits_NC, labels_N)

    views = ViewOrder(None if dataset.changes else 1)
    return Lesson(network, loss, soft=False, test=measurable(open_test(experiment, dataset)), views=views)


def _fit(experiment: Experiment, run: Run, lesson: Lesson, dataset: Viewed, ranks: Ranks, *, restart: bool) -> Metrics:
    with stop_on_signals() as stop, bar("teacher", run.settings.epochs * len(dataset)) as rows:
        watch, workers = Watch(stop, rows.update), readers(experiment)
        (metrics,) = teach([(run, lesson)], Reader(dataset), watch, workers, ranks)
    if metrics is None:
        raise stop.error("Every step is kept.", restart=restart)
    return metrics
