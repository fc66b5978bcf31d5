"""A run folder: one network trained once, resumable at every step, with all that is needed to believe it.

config.toml             the experiment with this run alone in it: training it again gives the same network
metrics.jsonl           a line an epoch
checkpoint.pt           the state after some step, while the run is not done
metrics.json            the result; its presence says that the run is done
student.safetensors     the weights
test.json               what is drawn of its answers to [test]: see `pipeline.counts`
curve.png               loss and accuracy by epoch
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config import ViewSettings
from pipeline.counts import Counts
from pipeline.errors import CorruptError, MismatchError, TrainingError
from pipeline.models import count_parameters
from pipeline.plots import curve
from pipeline.regimen import Training
from pipeline.store.files import make_directory, read, remove, write_durably
from pipeline.weights import file_digest, save_state

Metrics = dict[str, Any]

CONFIG, LINES, CHECKPOINT, METRICS, CURVE, TEST = (
    "config.toml",
    "metrics.jsonl",
    "checkpoint.pt",
    "metrics.json",
    "curve.png",
    "test.json",
)
STATE = ("learner", "history", "epoch")


@dataclass(frozen=True)
class Run:
    """What a run is made of.

    `identity` is what decides its outcome, as plain JSON: a folder whose identity differs is another run's. `facts` are
    kept with its metrics.
    """

    folder: Path
    weights: Path
    identity: Mapping[str, Any]
    config: str
    settings: Training
    views: ViewSettings
    seed: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether a run was here: only then are the weights a run's, and not the user's own."""
        # No run writes its weights without a checkpoint beside it, which goes only once the metrics are there.
        return any((self.folder / name).exists() for name in (CHECKPOINT, METRICS))

    def clear(self) -> None:
        """Forget an earlier run in this folder. What no run of ours made is left alone, weights too."""
        if self.begun:
            names = (CONFIG, LINES, CURVE, TEST, METRICS, CHECKPOINT)
            for path in (self.weights, *(self.folder / name for name in names)):
                remove(path)


class _Finished(BaseModel):
    """What a table needs of a run's metrics."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    test_accuracy: float | None
    test_ece: float | None = None  # runs made before it was measured have none
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
    metrics = read_metrics(run.folder, run.weights) if run.weights.exists() else None
    if metrics is None:
        saved_state(run)  # a run half done is refused as early as one that is done
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
        metrics = read_metrics(weights.with_suffix(""), weights)
        if metrics and metrics["weights_sha256"] == file_digest(weights):
            return float(metrics["seconds"])
    return None


def read_metrics(folder: Path, weights: Path) -> Metrics | None:
    """The metrics in a folder of a run that left these weights; None if it has none.

    Raises:
        CorruptError: they are not what a run wrote.

    """
    data = read(folder / METRICS)
    if data is None:
        return None
    try:
        return _Finished.model_validate_json(data).model_dump()
    except ValidationError as error:
        raise CorruptError(
            f"{folder / METRICS} is not what a run wrote ({_first(error)}). "
            f"Delete it and {weights}, and run the same command again: it trains this network anew."
        ) from None


def read_counts(folder: Path) -> Counts | None:
    """What is drawn of a run's answers; None if that was not kept.

    Raises:
        CorruptError: it is not what a run wrote.

    """
    data = read(folder / TEST)
    try:
        return None if data is None else Counts.model_validate_json(data)
    except ValidationError as error:
        raise CorruptError(
            f"{folder / TEST} is not what a run wrote ({_first(error)}). Delete it to do without its plots, or train "
            "that network again with --restart."
        ) from None


def begin(run: Run) -> None:
    """Make the folder of a run, with the experiment that makes it again."""
    make_directory(run.folder)
    write_durably(run.folder / CONFIG, [run.config.encode()])


def saved_state(run: Run) -> dict[str, Any] | None:
    """What `save_progress` kept of a run that is not done; None if nothing.

    Raises:
        MismatchError: the folder holds another run.
        CorruptError: its checkpoint is damaged.

    """
    path = run.folder / CHECKPOINT
    data = read(path)
    if data is None:
        return None
    try:
        saved: dict[str, Any] = torch.load(_whole(data), map_location="cpu", weights_only=True)
        identity, *_ = (saved[key] for key in ("identity", *STATE))
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


def save_progress(run: Run, state: Mapping[str, Any]) -> None:
    """Make a run's state durable, each of `STATE` under its name, and a line for each epoch done."""
    # The checkpoint last: killed in between, the epoch is done again, and its line is written again with it.
    lines = "".join(json.dumps(line) + "\n" for line in state["history"])
    write_durably(run.folder / LINES, [lines.encode()])
    buffer = BytesIO()
    torch.save({**state, "identity": run.identity}, buffer)
    write_durably(run.folder / CHECKPOINT, [buffer.getbuffer()])


def finish(
    run: Run, network: torch.nn.Module, history: Sequence[Metrics], figures: Metrics, counts: Counts | None
) -> Metrics:
    """Keep the weights, the curve and the metrics of a run.

    Args:
        run: whose.
        network: as it is now.
        history: a line for each epoch.
        figures: of the network as it is now; those of the last line stay what they are.
        counts: what is drawn of it.

    Raises:
        TrainingError: a weight is not finite.

    """
    state = network.state_dict()
    if broken := [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise TrainingError(
            f"Training diverged in its last step: {broken[0]} is not finite. Lower learning_rate, or set clip_norm."
        )
    save_state(run.weights, state)
    metrics: Metrics = {
        "test_accuracy": None,
        "test_ece": None,
        **figures,
        **{name: value for name, value in history[-1].items() if name.startswith("test_")},
        "parameters": count_parameters(network),
        "weights_bytes": run.weights.stat().st_size,
        "seconds": sum(line["seconds"] for line in history),
        **run.facts,
        "weights_sha256": file_digest(run.weights),
        "identity": dict(run.identity),
    }
    write_durably(run.folder / CURVE, [curve(history)])
    if counts is not None:
        write_durably(run.folder / TEST, [counts.model_dump_json().encode()])
    write_durably(run.folder / METRICS, [json.dumps(metrics, indent=2).encode()])
    remove(run.folder / CHECKPOINT)
    return metrics


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


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
