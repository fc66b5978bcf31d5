"""A plain training loop: one step, one epoch, one evaluation. Teachers and students learn through the same one.

Shape legend: N rows of a batch, X the shape of one input, C classes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassAccuracy

from pipeline.config import Training, ViewSettings
from pipeline.datasets import Dataset
from pipeline.devices import autocast, pick_device, place
from pipeline.errors import DatasetError, TrainingError
from pipeline.labels import DenseLabels, SoftLabels, SparseLabels
from pipeline.reader import Batch, Rows
from pipeline.seeds import generator, seed_of
from pipeline.views import network_input

Loss = Callable[[torch.Tensor, torch.Tensor, SoftLabels | None], torch.Tensor]
"""From student logits [N, C], true labels [N] (-1 unknown) and soft labels to a loss a row, [N]."""

OPTIMIZERS: dict[str, Callable[[Iterable[torch.nn.Parameter], Training], torch.optim.Optimizer]] = {
    "adamw": lambda weights, s: torch.optim.AdamW(weights, lr=s.learning_rate, weight_decay=s.weight_decay),
    "sgd": lambda weights, s: torch.optim.SGD(
        weights, lr=s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay
    ),
}

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}


def rate_factor(settings: Training, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at a step: a linear warm-up, then the schedule.

    >>> [rate_factor(Training(warmup=0.5, schedule="constant"), step, 4) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    warm = round(settings.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return SCHEDULES[settings.schedule]((step - warm) / max(1, steps - warm))


def epoch_order(usable: Rows, length: int, seed: int, epoch: int) -> Rows:
    """The rows of an epoch, `[length]`: the usable ones shuffled, again and again until the epoch is full.

    An epoch is as long for a student that sees few samples as for one that sees all, so the number of steps is equal.
    """
    dice = generator("order", seed, epoch)
    rounds = [dice.permutation(usable) for _ in range(math.ceil(length / usable.size))]
    return np.concatenate(rounds)[:length]


def batches(rows: Rows, batch_size: int) -> list[Rows]:
    """Rows cut into batches. A single row left over joins the last one: batch norm cannot learn from one row."""
    return np.split(rows, range(batch_size, rows.size - (batch_size > 1), batch_size))


@dataclass(frozen=True)
class Learner:
    """A network being trained, with the state of its optimisation."""

    network: torch.nn.Module
    settings: Training
    views: ViewSettings
    device: torch.device
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler

    def input(self, inputs_NX: torch.Tensor) -> torch.Tensor:
        """What the network is given of inputs on its device."""
        return network_input(inputs_NX, self.views, channels_last=self.settings.channels_last)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        parts = (self.network, self.optimizer, self.schedule, self.scaler)
        return dict(zip(_PARTS, (part.state_dict() for part in parts), strict=True))

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state as if never stopped."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])


_PARTS = ("network", "optimizer", "schedule", "scaler")


def start(network: torch.nn.Module, settings: Training, views: ViewSettings, steps: int) -> Learner:
    """A learner at its first step, on its device."""
    device = pick_device(settings.device)
    place(network, device, channels_last=settings.channels_last)
    optimizer = OPTIMIZERS[settings.optimizer](network.parameters(), settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(settings, step, steps))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    return Learner(network, settings, views, device, optimizer, schedule, scaler)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on a device."""
    return Batch(batch.inputs_NX.to(device), batch.labels_N.to(device), _soft_on(batch.soft, device))


def _soft_on(soft: SoftLabels | None, device: torch.device) -> SoftLabels | None:
    if not isinstance(soft, DenseLabels | SparseLabels):
        return None
    moved = {name: value.to(device) for name, value in vars(soft).items() if isinstance(value, torch.Tensor)}
    return type(soft)(**{**vars(soft), **moved})


def step(learner: Learner, batch: Batch, loss: Loss) -> float:
    """One step of optimisation on a batch; the mean loss before it."""
    batch = on_device(batch, learner.device)
    inputs = learner.input(batch.inputs_NX)
    with autocast(learner.device, learner.settings.precision):
        logits = learner.network(inputs)
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"in training the network answers {type(logits).__name__}, and a tensor of logits is needed")
    mean = loss(logits.float(), batch.labels_N, batch.soft).mean()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    if learner.settings.clip_norm is not None:
        learner.scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(learner.network.parameters(), learner.settings.clip_norm)
    scale = learner.scaler.get_scale()
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.scaler.get_scale() >= scale:  # else float16 overflowed, and the optimizer did not step either
        learner.schedule.step()
    return mean.item()


def run_epoch(learner: Learner, data: Iterable[Batch], loss: Loss, seed: int, epoch: int) -> list[float]:
    """Every step of an epoch; the loss of each. Dropout draws from the epoch's own seed, also when resumed.

    Raises:
        TrainingError: a step fails, or its loss is not finite.

    """
    torch.manual_seed(seed_of("epoch", seed, epoch))
    learner.network.train()
    losses = []
    for batch in data:
        try:
            losses.append(step(learner, batch, loss))
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:  # the user's network
            raise TrainingError(
                f"Step {len(losses) + 1} of epoch {epoch + 1} failed on inputs of shape {list(batch.inputs_NX.shape)}: "
                f"{type(error).__name__}: {error}. Mend the model or its options; if memory ran out, lower batch_size."
            ) from error
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"Training diverged: the loss of step {len(losses)} of epoch {epoch + 1} is {losses[-1]}. "
                "Lower learning_rate, or set clip_norm."
            )
    return losses


def predictor(learner: Learner) -> Callable[[NDArray[np.generic]], torch.Tensor]:
    """The learner's network as it stands, from inputs `[N, X]` to logits `[N, C]`."""

    def predict(inputs_NX: NDArray[np.generic]) -> torch.Tensor:
        learner.network.eval()
        logits: torch.Tensor = learner.network(learner.input(torch.from_numpy(inputs_NX).to(learner.device)))
        return logits

    return predict


@torch.inference_mode()
def try_out(learner: Learner, dataset: Dataset) -> None:
    """Refuse, before the first step, a network that does not answer a sample with one logit a class.

    Raises:
        TrainingError: its forward fails, or its answer has another shape.

    """
    sample = dataset.inputs(np.zeros(1, np.int64))
    try:
        answer = predictor(learner)(sample)
        found = f"an answer of shape {list(answer.shape)}"
    except Exception as error:  # noqa: BLE001  # the user's network: anything may come of it
        answer, found = None, f"{type(error).__name__}: {error}"
    if answer is None or answer.shape != (1, dataset.classes):
        raise TrainingError(
            f"The network {type(learner.network).__name__} was given one input of shape {list(sample.shape)}. Found: "
            f"{found}. Expected: logits of shape [1, {dataset.classes}], one for each class of the dataset. Mend the "
            "model or its options."
        )


@torch.inference_mode()
def accuracy(predict: Callable[[NDArray[np.generic]], torch.Tensor], dataset: Dataset, batch_size: int) -> float:
    """The share of a dataset's labelled samples whose largest logit is the true class's.

    Raises:
        DatasetError: the dataset has no true label.

    """
    if dataset.labels is None or dataset.classes is None or not (dataset.labels >= 0).any():
        raise DatasetError(
            "[test] has no true labels, so accuracy cannot be measured on it. Give it labels or leave it out."
        )
    right = MulticlassAccuracy(dataset.classes, average="micro")
    for rows in batches(np.flatnonzero(dataset.labels >= 0), batch_size):
        right.update(predict(dataset.inputs(rows)).cpu(), torch.from_numpy(dataset.labels[rows]))
    return float(right.compute())
