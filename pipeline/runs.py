"""A run folder: one network trained once, resumable at every epoch, with all that is needed to believe it.

config.toml             the experiment with this run alone in it: training it again gives the same network
metrics.jsonl           a line an epoch
checkpoint.pt           the state after the last epoch, while the run is not done
metrics.json            the result; its presence says that the run is done
student.safetensors     the weights
curve.png               loss and accuracy by epoch
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import Training, ViewSettings
from pipeline.datasets import Dataset
from pipeline.errors import CorruptError, MismatchError, TrainingError
from pipeline.models import count_parameters
from pipeline.reader import Reader
from pipeline.seeds import seed_of
from pipeline.store.files import make_directory, read, remove, write_durably
from pipeline.training import Learner, Loss, accuracy, batches, epoch_order, predictor, run_epoch, start, try_out
from pipeline.weights import file_digest, save_state

Metrics = dict[str, Any]

CONFIG, LINES, CHECKPOINT, METRICS, CURVE = (
    "config.toml",
    "metrics.jsonl",
    "checkpoint.pt",
    "metrics.json",
    "curve.png",
)


@dataclass(frozen=True)
class Run:
    """What a run is made of.

    `identity` is what decides its outcome, as plain JSON: a folder whose identity differs is another run's.
    """

    folder: Path
    weights: Path
    identity: Mapping[str, Any]
    config: str
    settings: Training
    views: ViewSettings
    seed: int

    @property
    def begun(self) -> bool:
        """Whether a run was here: only then are the weights a run's, and not the user's own."""
        # No run writes its weights without a checkpoint beside it, which goes only once the metrics are there.
        return any((self.folder / name).exists() for name in (CHECKPOINT, METRICS))

    def clear(self) -> None:
        """Forget an earlier run in this folder. What no run of ours made is left alone, weights too."""
        if self.begun:
            for path in (self.weights, *(self.folder / name for name in (CONFIG, LINES, CURVE, METRICS, CHECKPOINT))):
                remove(path)


@dataclass(frozen=True)
class Lesson:
    """Who learns, from what, told how, and what it is tested on."""

    build: Callable[[], torch.nn.Module]
    reader: Reader
    loss: Loss
    test: Dataset | None


@dataclass(frozen=True)
class Watch:
    """How a run reports and is asked to stop, after each epoch."""

    stopped: Callable[[], bool]
    progress: Callable[[int, Metrics], object]


class _Finished(BaseModel):
    """What a table needs of a run's metrics."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    test_accuracy: float | None
    parameters: int
    seconds: float
    weights_sha256: str
    identity: dict[str, Any]
    true_labels: int
    soft_labels: int


def finished(run: Run) -> Metrics | None:
    """The metrics of a run that is done; None if there are none yet.

    Raises:
        MismatchError: the folder holds another run, or the weights are not those that its run wrote.
        CorruptError: its metrics or its checkpoint are not what a run wrote.

    """
    metrics = _metrics(run.folder, run.weights) if run.weights.exists() else None
    if metrics is None:
        _checkpoint(run)  # a run half done is refused as early as one that is done
    else:
        _check_identity(run, metrics["identity"])
        if metrics["weights_sha256"] != file_digest(run.weights):
            raise MismatchError(
                f"{run.weights} is not what the run in {run.folder} wrote. To use it as it is, delete that folder; to "
                "train these weights again, use --restart."
            )
    return metrics


def fit_seconds(weights: Path) -> float | None:
    """How long a teacher's weights took to train; None if no run here says so."""
    with suppress(CorruptError):
        metrics = _metrics(weights.with_suffix(""), weights)
        if metrics and metrics["weights_sha256"] == file_digest(weights):
            return float(metrics["seconds"])
    return None


def _metrics(folder: Path, weights: Path) -> Metrics | None:
    data = read(folder / METRICS)
    if data is None:
        return None
    try:
        return _Finished.model_validate_json(data).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CorruptError(
            f"{folder / METRICS} is not what a run wrote ({'.'.join(map(str, first['loc']))}: {first['msg']}). "
            f"Delete it and {weights}, and run the same command again: it trains this network anew."
        ) from None


def train(run: Run, lesson: Lesson, facts: Mapping[str, Any], watch: Watch) -> Metrics | None:
    """Train to the end, from the last checkpoint if there is one; `facts` are kept with the metrics.

    Returns:
        The metrics, or None if asked to stop before the end; the same call goes on from the last whole epoch.

    Raises:
        MismatchError: the folder holds another run, or one of a network that was built otherwise.
        CorruptError: its checkpoint is damaged.

    """
    make_directory(run.folder)
    saved = _checkpoint(run)
    write_durably(run.folder / CONFIG, [run.config.encode()])
    torch.manual_seed(seed_of("weights", run.seed))
    network, length, size = lesson.build(), len(lesson.reader), run.settings.batch_size
    learner = start(network, run.settings, run.views, run.settings.epochs * len(batches(np.arange(length), size)))
    try_out(learner, lesson.reader.dataset)
    history: list[Metrics] = []
    if saved:
        _go_on(run, learner, saved["learner"])
        history = saved["history"]
    for epoch in range(len(history), run.settings.epochs):
        line = _epoch(run, lesson, learner, epoch, watch.stopped)
        if line is None:
            return None
        history.append(line)
        _save_progress(run, {"learner": learner.state(), "history": history, "identity": run.identity})
        watch.progress(length, line)
    return _finish(run, network, history, {**_told(lesson.reader), **facts})


def _epoch(run: Run, lesson: Lesson, learner: Learner, epoch: int, stopped: Callable[[], bool]) -> Metrics | None:
    """An epoch's line of metrics; None if asked to stop: half an epoch is dropped, as runs go on from a whole one."""
    begun, rate = perf_counter(), learner.schedule.get_last_lr()[0]
    cut = batches(epoch_order(lesson.reader.usable, len(lesson.reader), run.seed, epoch), run.settings.batch_size)
    data = (lesson.reader.__getitems__(rows) for rows in cut if not stopped())
    losses = run_epoch(learner, data, lesson.loss, run.seed, epoch)
    if stopped():
        return None
    line: Metrics = {"epoch": epoch + 1, "learning_rate": rate}
    line["loss"] = float(np.average(losses, weights=[rows.size for rows in cut]))
    if lesson.test is not None:
        line["test_accuracy"] = accuracy(predictor(learner), lesson.test, 4 * run.settings.batch_size)
    return {**line, "seconds": perf_counter() - begun}


def _checkpoint(run: Run) -> dict[str, Any] | None:
    path = run.folder / CHECKPOINT
    data = read(path)
    if data is None:
        return None
    try:
        saved: dict[str, Any] = torch.load(_whole(data), map_location="cpu", weights_only=True)
        identity, _, _ = (saved[key] for key in ("identity", "learner", "history"))
    except Exception as error:  # whatever is in it, it is not what was written
        raise CorruptError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete it and run the same command again: it "
            "trains this network from the start."
        ) from error
    _check_identity(run, identity)
    return saved


def _whole(data: bytes) -> BytesIO:
    """A zip file whose members have their checksums, which torch writes and does not read."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not fit")
    return BytesIO(data)


def _go_on(run: Run, learner: Learner, state: dict[str, Any]) -> None:
    try:
        learner.load_state(state)
    except (RuntimeError, ValueError, KeyError) as error:
        first = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise MismatchError(
            f"{run.folder / CHECKPOINT} is of another network than is built now ({first}), and of the same settings: "
            "the code that builds it has changed. Put the code back, or start the run over with --restart."
        ) from error


def _save_progress(run: Run, state: dict[str, Any]) -> None:
    # The checkpoint last: killed in between, the epoch is done again, and its line is written again with it.
    lines = "".join(json.dumps(line) + "\n" for line in state["history"])
    write_durably(run.folder / LINES, [lines.encode()])
    buffer = BytesIO()
    torch.save(state, buffer)
    write_durably(run.folder / CHECKPOINT, [buffer.getbuffer()])


def _told(reader: Reader) -> Metrics:
    """How many labels of either kind a network learns from."""
    return {"true_labels": int((reader.labels_N >= 0).sum()), "soft_labels": len(reader) if reader.cache else 0}


def _finish(run: Run, network: torch.nn.Module, history: list[Metrics], facts: Mapping[str, Any]) -> Metrics:
    state = network.state_dict()
    if broken := [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise TrainingError(
            f"Training diverged in its last step: {broken[0]} is not finite. Lower learning_rate, or set clip_norm."
        )
    save_state(run.weights, state)
    metrics: Metrics = {
        "test_accuracy": history[-1].get("test_accuracy"),
        "parameters": count_parameters(network),
        "seconds": sum(line["seconds"] for line in history),
        **facts,
        "weights_sha256": file_digest(run.weights),
        "identity": dict(run.identity),
    }
    write_durably(run.folder / CURVE, [_curve(history)])
    write_durably(run.folder / METRICS, [json.dumps(metrics, indent=2).encode()])
    remove(run.folder / CHECKPOINT)
    return metrics


def _check_identity(run: Run, found: Mapping[str, Any]) -> None:
    changed = [
        f"{key} was {found.get(key)!r} and is now {run.identity.get(key)!r}"
        for key in sorted({*found, *run.identity})
        if found.get(key) != run.identity.get(key)
    ]
    if changed:
        raise MismatchError(
            f"{run.folder} holds another run: {'; '.join(changed)}. Nothing was changed. "
            "Name another place for this one, or start it over with --restart."
        )


def _curve(history: list[Metrics]) -> bytes:
    """A PNG of loss and test accuracy by epoch."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # slow to import, and needed once a run

    epochs = [line["epoch"] for line in history]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, [line["loss"] for line in history], color="tab:blue", marker=".")
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.yaxis.label.set_color("tab:blue")
    if "test_accuracy" in history[0]:
        right = axes.twinx()
        right.plot(epochs, [100 * line["test_accuracy"] for line in history], color="tab:orange", marker=".")
        right.set_ylabel("test accuracy (%)", color="tab:orange")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
