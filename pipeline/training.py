"""A plain training loop: one step, one epoch. Teachers and students learn through the same one.

Samples with positions, as sequences of tokens, teach by each of their targets: a loss is a mean over targets, with the
hints that are added to it.

Shape legend: N rows of a batch, L positions of a sample, R targets of a batch (or N), X the shape of one input, C
classes.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import ParamsT

from pipeline.config import ViewSettings
from pipeline.datasets import Dataset
from pipeline.decay import decaying
from pipeline.devices import autocast, pick_device, place
from pipeline.errors import TrainingError
from pipeline.generators import GENERATORS
from pipeline.judges import Judge
from pipeline.labels import Heard
from pipeline.losses import blended
from pipeline.objective import Objective
from pipeline.ranks import ALONE, Ranks
from pipeline.reader import Batch
from pipeline.regimen import Training
from pipeline.schedules import BEGIN, Progress
from pipeline.seeds import seed_of
from pipeline.sequences import refuse_other_tokenizer
from pipeline.slopes import Slopes
from pipeline.taps import tapped
from pipeline.tutor import Tutor
from pipeline.views import network_input, viewed

Loss = Callable[[torch.Tensor, torch.Tensor, Heard | None], torch.Tensor]
"""From student logits [N, C], true labels [N] (-1 unknown) and soft labels to a loss a row, [N]."""

OPTIMIZERS: dict[str, Callable[[ParamsT, Training], torch.optim.Optimizer]] = {
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


@dataclass(frozen=True)
class Learner:
    """A network being trained, with the state of its optimisation; `shared` is the same one, trained by all ranks."""

    network: torch.nn.Module
    shared: torch.nn.Module
    ranks: Ranks
    settings: Training
    views: ViewSettings
    device: torch.device
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    steps: int
    judges: Mapping[int, Judge] = field(default_factory=dict)  # of its adversarial terms, by their place
    tutor: Tutor | None = None
    tutoring: torch.nn.Module | None = None  # the same, trained by all ranks
    slopes: Slopes | None = None  # what it is told of its teacher's gradients

    @property
    def weights(self) -> Iterable[torch.nn.Parameter]:
        """All that is trained: the network's, and the tutor's, which are thrown away."""
        return chain(self.network.parameters(), self.tutor.parameters() if self.tutor else ())

    @property
    def progress(self) -> float:
        """The share of all steps before this one: 0 at the first, 1 at the last."""
        return min(1.0, self.schedule.last_epoch / max(1, self.steps - 1))

    def input(self, inputs_NX: torch.Tensor) -> torch.Tensor:
        """What the network is given of inputs on its device."""
        return network_input(inputs_NX, self.views, channels_last=self.settings.channels_last)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        state = {name: getattr(self, name).state_dict() for name in self._parts}
        if self.judges:
            state["judges"] = {number: judge.state() for number, judge in self.judges.items()}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state as if never stopped."""
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        for number, judge in self.judges.items():
            judge.load_state(state["judges"][number])

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("network", "optimizer", "schedule", "scaler", *(["tutor"] if self.tutor else []))


def start(
    network: torch.nn.Module,
    settings: Training,
    views: ViewSettings,
    steps: int,
    ranks: Ranks = ALONE,
    *,
    tutor: Tutor | None = None,
) -> Learner:
    """A learner at its first step, on its device; the tutor trains with the network.

    Raises:
        ConfigError: this machine has no such device, or the network no parameter that a pattern of `no_decay` names.

    """
    device = pick_device(settings.device)
    place(network, device, channels_last=settings.channels_last)
    weights: list[Any] = list(decaying(network, settings))
    if tutor is not None and (own := list(tutor.to(device).parameters())):
        weights = [*(weights if isinstance(weights[0], dict) else [{"params": weights}]), {"params": own}]
    optimizer = OPTIMIZERS[settings.optimizer](weights, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(settings, step, steps))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    shared = ranks.share(network, device)
    learns = tutor is not None and any(True for _ in tutor.parameters())
    tutoring = ranks.share(tutor, device) if tutor is not None and learns else tutor
    return Learner(
        network,
        shared,
        ranks,
        settings,
        views,
        device,
        optimizer,
        schedule,
        scaler,
        steps,
        tutor=tutor,
        tutoring=tutoring,
    )


def step(
    learner: Learner, batch: Batch, loss: Loss, rows: int | None = None, progress: Progress = BEGIN
) -> torch.Tensor:
    """One step of optimisation on a batch on the learner's device; the mean loss before it, still on the device.

    Among ranks, `rows` is what all of them have of the batch: the gradient is then that of its mean over all rows, and
    what is returned is a rank's part of that mean, times the number of ranks. Of samples with positions, rows are
    targets.
    """
    inputs, heard = learner.input(batch.inputs_NX), learner.tutor.modules_heard if learner.tutor else ()
    with autocast(learner.device, learner.settings.precision), tapped(learner.network, heard) as seen:
        logits = learner.shared(inputs)
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"in training the network answers {type(logits).__name__}, and a tensor of logits is needed")
    answers = batch.answers(logits).float()
    losses_R = blended(answers, batch.blended) if batch.blended else loss(answers, batch.labels_N, batch.soft)
    if learner.tutoring is not None:
        losses_R = losses_R + learner.tutoring(seen, batch, progress)
    if learner.slopes is not None and batch.inside is not None:
        given = learner.input(batch.inputs_NX)
        losses_R = losses_R + learner.slopes.told(learner.network, given, batch.inside, batch.labels_N, progress)
    mean = losses_R.sum() * (learner.ranks.world / (rows or max(1, len(losses_R))))
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(mean).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    if learner.settings.clip_norm is not None:
        learner.scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(learner.weights, learner.settings.clip_norm)
    scale = learner.scaler.get_scale()
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    if learner.scaler.get_scale() >= scale:  # else float16 overflowed, and the optimizer did not step either
        learner.schedule.step()
    return mean.detach()


WEAK_KEPT = "weak_kept"
"""In the line of an epoch, and the metrics of a run by its last: what came of each `weak` term."""


@dataclass
class Epoch:
    """One learner's way through an epoch, from any step of it.

    Every step draws dropout from a seed of its own, so nothing but the learner's state and this has to be kept to go
    on. A step's loss is read while the next one runs: a GPU then never waits for the question.
    """

    learner: Learner
    loss: Loss
    seed: int
    number: int  # of the epoch, from 0
    steps: int = 0  # done
    rows: int = 0  # of the steps whose loss is read, over all ranks
    total: float = 0.0  # of the losses of these rows, those of this rank alone
    heard: tuple[float, ...] = ()  # on this rank: see `Objective.heard`
    _unread: tuple[torch.Tensor, int, torch.Tensor | None] | None = None

    def learn(self, batch: Batch, rows: int | None = None) -> float | None:
        """Take a step on this rank's share of `rows` samples; the mean loss of the one before.

        Raises:
            TrainingError: a step fails, or the loss of the one before is not finite.

        """
        rows = rows or batch.taught
        if batch.places_R is not None:  # each counts as often as it has targets, whichever rank it is on
            rows = round(self.learner.ranks.total(batch.taught)[0])
        if not rows:  # nothing to learn from: momentum and decay would move the weights all the same
            before = self.settle()
            self.steps += 1
            return before
        if not self.learner.network.training:
            self.learner.shared.train()
        try:
            loss = self.loss.at(self.progress, self.learner.judges) if isinstance(self.loss, Objective) else self.loss
            with GENERATORS:
                torch.manual_seed(seed_of("step", self.seed, self.number, self.steps, self.learner.ranks.rank))
                mean = step(self.learner, batch, loss, rows, self.progress)
            heard = loss.heard(batch.soft) if isinstance(loss, Objective) else None
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:  # the user's network
            raise TrainingError(
                f"Step {self.steps + 1} of epoch {self.number + 1} failed on inputs of shape "
                f"{list(batch.inputs_NX.shape)}: {type(error).__name__}: {error}. {self._advice}"
            ) from error
        before = self.settle()
        self.steps += 1
        self._unread = mean, rows, heard
        return before

    def heard_by_all(self) -> list[float]:
        """What `weak` terms have heard in the epoch so far, over all ranks; nothing without such a term."""
        if not isinstance(self.loss, Objective) or not self.loss.weak:
            return []
        return self.learner.ranks.total(*(self.heard or (0.0,) * (1 + len(self.loss.weak))))

    def weak_kept(self) -> dict[str, Any]:
        """Of each `weak` term the share of rows whose teacher was sure enough; no word without such a term."""
        rows, *kept = self.heard_by_all() or [0.0]
        if not rows or not isinstance(self.loss, Objective):
            return {}
        asked = [term.model_dump(mode="json", include={"temperature", "threshold"}) for term in self.loss.weak]
        return {WEAK_KEPT: [{**each, "share": many / rows} for each, many in zip(asked, kept, strict=True)]}

    @property
    def progress(self) -> Progress:
        """How much of the run is done, in steps and in epochs."""
        return Progress(self.learner.progress, self.number / max(1, self.learner.settings.epochs - 1))

    @property
    def _advice(self) -> str:
        if self.learner.ranks.world > 1:
            return "If another rank has ended, its own message says why; else mend the model or its options."
        return "Mend the model or its options; if memory ran out, lower batch_size, or train fewer students at once."

    def settle(self) -> float | None:
        """Wait for the last step; its mean loss, once.

        Raises:
            TrainingError: it is not finite.

        """
        if self._unread is None:
            return None
        (loss, rows, heard), self._unread = self._unread, None
        mean = loss.item()
        if not math.isfinite(mean):
            raise TrainingError(
                f"Training diverged: the loss of step {self.steps} of epoch {self.number + 1} is {mean}. "
                "Lower learning_rate, or set clip_norm."
            )
        self.rows, self.total = self.rows + rows, self.total + mean * rows / self.learner.ranks.world
        if heard is not None:
            before = self.heard or (0.0,) * len(heard)
            self.heard = tuple(one + more for one, more in zip(before, heard.tolist(), strict=True))
        return mean


def run_epoch(learner: Learner, data: Iterable[Batch], loss: Loss, seed: int, epoch: int) -> list[float]:
    """Every step of an epoch by itself; the loss of each. Raises as `Epoch.learn`."""
    way = Epoch(learner, loss, seed, epoch)
    losses = [way.learn(batch.to(learner.device)) for batch in data]
    return [loss for loss in (*losses, way.settle()) if loss is not None]


def predictor(learner: Learner) -> Callable[[NDArray[np.generic]], torch.Tensor]:
    """The learner's network as it stands, from inputs `[N, X]` to logits `[N, C]`, or `[N, L, C]` of sequences."""

    def predict(inputs_NX: NDArray[np.generic]) -> torch.Tensor:
        learner.network.eval()
        logits: torch.Tensor = learner.network(learner.input(torch.from_numpy(inputs_NX).to(learner.device)))
        return logits

    return predict


@torch.no_grad()  # inference mode would spoil tensors that a network makes once and keeps
def try_out(learner: Learner, dataset: Dataset) -> None:
    """Refuse, before the first step, a network that does not answer a sample, or each position, with a logit a class.

    Of a vocabulary it may have more logits, which are padding.

    Raises:
        TrainingError: its forward fails, or its answer has another shape.
        MismatchError: it is of another tokenizer.

    """
    refuse_other_tokenizer(learner.network, viewed(dataset).tokenizer_sha256)
    sample, positions = dataset.inputs(np.zeros(1, np.int64)), viewed(dataset).positions
    try:
        answer = predictor(learner)(sample)
        found = f"an answer of shape {list(answer.shape)}"
    except Exception as error:  # noqa: BLE001  # the user's network: anything may come of it
        answer, found = None, f"{type(error).__name__}: {error}"
    expected = (1, dataset.classes) if positions is None else (1, positions, dataset.classes)
    if answer is not None and positions is not None:
        answer = answer[..., : dataset.classes]
    if answer is None or answer.shape != expected:
        raise TrainingError(
            f"The network {type(learner.network).__name__} was given one input of shape {list(sample.shape)}. Found: "
            f"{found}. Expected: logits of shape {list(expected)}, one for each class of the dataset. Mend the "
            "model or its options."
        )
