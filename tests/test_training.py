"""One step, one epoch: the laws that a plain training loop has to keep."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import CLASSES, STEADY, samples, told
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.config import ViewSettings
from pipeline.errors import TrainingError
from pipeline.labels import DenseLabels, SoftLabels
from pipeline.losses import kd
from pipeline.models import build
from pipeline.order import EpochSampler
from pipeline.reader import Batch, Reader
from pipeline.regimen import Training
from pipeline.training import (
    Learner,
    predictor,
    rate_factor,
    run_epoch,
    start,
    step,
    try_out,
)

PLAIN = Training(device="cpu", warmup=0.0, schedule="constant", learning_rate=0.01, weight_decay=0.0)
VIEWS = ViewSettings(mean=3000.0, std=2000.0)


def cross_entropy(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: SoftLabels | None) -> torch.Tensor:
    """What a student without a teacher is told."""
    return F.cross_entropy(logits_NC, labels_N, reduction="none")


def learner(settings: Training = PLAIN, steps: int = 100, *, seed: int = 0, model: str = "mlp") -> Learner:
    """A small network at its first step."""
    torch.manual_seed(seed)
    options = {"mlp": {"hidden": [16], "dropout": 0.2}, "cnn": {"width": 4}}[model]
    return start(build(model, options, (1, 4, 4), CLASSES), settings, VIEWS, steps)


def cut(reader: Reader, size: int) -> Iterator[Batch]:
    """All that a reader has, in its own order, in batches."""
    return map(reader.__getitems__, np.split(np.arange(len(reader)), range(size, len(reader), size)))


def weights(of: Learner) -> torch.Tensor:
    """All weights of a learner in one vector."""
    return torch.cat([weight.detach().reshape(-1) for weight in of.network.parameters()])


SETTINGS = st.builds(
    Training, warmup=st.floats(0, 1), schedule=st.sampled_from(["constant", "cosine"]), device=st.just("cpu")
)


@STEADY
@given(SETTINGS, st.integers(1, 300))
def test_the_rate_rises_to_its_full_height_and_falls(settings: Training, steps: int) -> None:
    """Law: above zero at every step and never above one; it rises strictly, reaches one, and never rises again."""
    factors = [rate_factor(settings, step, steps) for step in range(steps)]
    warm = round(settings.warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert all(a < b for a, b in itertools.pairwise(factors[:warm]))
    assert all(a >= b for a, b in itertools.pairwise(factors[warm:]))
    assert factors[max(0, warm - 1)] == 1
    assert factors[warm : warm + 1] in ([1], [])


@STEADY
@given(st.floats(0, 0.9), st.integers(10, 300))
def test_a_cosine_ends_near_zero_and_a_constant_stays(warmup: float, steps: int) -> None:
    """Law: x = pi / (steps after warm-up) from its end a cosine is sin²(x / 2) <= (x / 2)²; beyond it, nothing."""
    falling, flat = (Training(warmup=warmup, schedule=name) for name in ("cosine", "constant"))
    rest = steps - round(warmup * steps)
    assert rate_factor(falling, steps - 1, steps) <= (math.pi / (2 * rest)) ** 2 + 1e-12
    assert rate_factor(falling, steps, steps) == pytest.approx(0, abs=1e-12)
    assert rate_factor(flat, steps - 1, steps) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.01), ("sgd", 0.1)])
@pytest.mark.parametrize(("model", "channels_last"), [("mlp", False), ("cnn", False), ("cnn", True)])
def test_steps_lower_the_loss_in_every_precision(
    model: str,
    channels_last: bool,
    optimizer: str,
    rate: float,
    precision: str,
) -> None:
    """The network runs in the precision asked for; weights stay float32, so that small steps are not lost."""
    changed = {"optimizer": optimizer, "learning_rate": rate, "precision": precision, "channels_last": channels_last}
    student, batch = learner(PLAIN.model_copy(update=changed), model=model), Reader(samples()).__getitems__(range(24))
    answers: list[torch.dtype] = []
    student.network.register_forward_hook(lambda *call: answers.append(call[-1].dtype))
    losses = [step(student, batch, cross_entropy).item() for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert set(answers) == {getattr(torch, precision)}
    assert {weight.dtype for weight in student.network.parameters()} == {torch.float32}


def test_a_step_is_one_of_gradient_descent_on_the_mean_loss() -> None:
    """Plain SGD by hand: w - rate * gradient of the batch's mean; the loss returned is the one before it."""
    settings = PLAIN.model_copy(update={"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.5})
    student, batch = learner(settings, model="cnn"), Reader(samples()).__getitems__(range(6))
    network = student.network
    before = weights(student)
    mean = cross_entropy(network((batch.inputs_NX - 3000) / 2000), batch.labels_N, None).mean()
    gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(mean, list(network.parameters()))])
    assert step(student, batch, cross_entropy).item() == pytest.approx(mean.item(), rel=1e-6)
    torch.testing.assert_close(weights(student), before - 0.5 * gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("clip", [1e-3, 0.5, None])
def test_no_step_is_longer_than_clipping_allows(clip: float | None, precision: str) -> None:
    """Plain SGD moves by the gradient; a steep loss reaches the limit, whatever float16 scales it by in between."""
    settings = PLAIN.model_copy(
        update={"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "clip_norm": clip, "precision": precision}
    )
    student, batch = learner(settings), Reader(samples()).__getitems__(range(24))
    before = weights(student)
    step(student, batch, lambda *told_NC: 10 * cross_entropy(*told_NC))
    moved = (weights(student) - before).norm().item()
    if clip is None:
        assert moved > 0.5
    else:
        assert moved == pytest.approx(clip, rel=1e-3)


def test_a_step_that_overflows_float16_is_not_taken_and_costs_no_place_in_the_schedule() -> None:
    """The scale is halved until the gradients fit; the weights and the rate wait for that."""
    settings = PLAIN.model_copy(update={"precision": "float16", "warmup": 1.0})
    student, batch = learner(settings), Reader(samples()).__getitems__(range(24))
    before, rate, scale = weights(student), student.schedule.get_last_lr(), student.scaler.get_scale()
    step(student, batch, lambda *told_NC: 1e6 * cross_entropy(*told_NC))
    assert torch.equal(weights(student), before)
    assert (student.schedule.get_last_lr(), student.scaler.get_scale()) == (rate, scale / 2)
    step(student, batch, cross_entropy)
    assert not torch.equal(weights(student), before)
    assert student.schedule.get_last_lr() > rate


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_training(wrong: float) -> None:
    """At its first such step, which the error names. It is read while the next one runs; no further one is taken."""
    given_losses = iter([1.0, 1.0, wrong, 1.0, 2.0])
    student, reader = learner(), Reader(samples())

    def loss(logits_NC: torch.Tensor, *_: object) -> torch.Tensor:
        return logits_NC.sum(1) * 0 + next(given_losses)

    data = cut(reader, 5)
    with pytest.raises(
        TrainingError, match=rf"the loss of step 3 of epoch 8 is {wrong}\. Lower learning_rate, or set clip_norm"
    ):
        run_epoch(student, data, loss, 0, 7)
    assert next(given_losses) == 2.0


def test_a_step_that_fails_ends_training_in_one_paragraph() -> None:
    """Law: whatever the network or the memory says, the step, the inputs and the way out are named."""
    student, reader = learner(), Reader(samples())

    def loss(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(
        TrainingError,
        match=r"Step 1 of epoch 3 failed on inputs of shape \[6, 1, 4, 4\]: .*out of memory.*lower batch_size",
    ):
        run_epoch(student, cut(reader, 6), loss, 0, 2)


class Talkative(torch.nn.Module):
    """Answers with more than logits, but only in training, as networks with auxiliary heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits, or a pair of them."""
        logits = self.linear(x.flatten(1))
        return (logits, logits) if self.training else logits


def test_a_network_that_answers_otherwise_in_training_is_refused() -> None:
    """Law: what `try_out` cannot see in evaluation ends the first step in one paragraph."""
    reader = Reader(samples())
    student = start(Talkative(), PLAIN, VIEWS, 10)
    try_out(student, reader.dataset)
    with pytest.raises(
        TrainingError,
        match=r"^Step 1 of epoch 1 failed on inputs of shape \[6, 1, 4, 4\]: TypeError: in training the network "
        r"answers tuple, and a tensor of logits is needed\. Mend the model",
    ):
        run_epoch(student, cut(reader, 6), cross_entropy, 0, 0)


def lesson(seed: int, drawn: int) -> tuple[list[float], torch.Tensor]:
    """Losses and weights of a network with dropout, trained from a seed while others draw from torch's generator."""
    student, reader = learner(seed=seed), Reader(samples())
    losses: list[float] = []
    for epoch in range(2):
        torch.rand(drawn)
        order = EpochSampler(len(reader), 5, seed=seed)
        order.set_epoch(epoch)
        losses += run_epoch(student, map(reader.__getitems__, order), cross_entropy, seed, epoch)
    return losses, weights(student)


def test_a_seed_decides_every_bit_of_the_weights() -> None:
    """The same seed, the same network, whatever else draws in between; another seed, another network."""
    losses, trained = lesson(0, drawn=1)
    again, trained_again = lesson(0, drawn=2)
    other, trained_otherwise = lesson(1, drawn=1)
    assert losses == again
    assert torch.equal(trained, trained_again)
    assert losses != other
    assert not torch.equal(trained, trained_otherwise)


def test_dropout_differs_from_step_to_step_and_is_off_when_asked_for_predictions() -> None:
    """A step draws from its own seed, whoever else draws; an evaluation draws nothing; the next step trains again."""
    frozen = PLAIN.model_copy(update={"learning_rate": 1e-30})
    student, reader = learner(frozen), Reader(samples())
    losses = [run_epoch(student, [reader.__getitems__(range(24))], cross_entropy, 0, epoch)[0] for epoch in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    predict = predictor(student)
    assert torch.equal(predict(samples().array), predict(samples().array))
    assert run_epoch(student, [reader.__getitems__(range(24))], cross_entropy, 0, 0) == losses[:1]


def test_soft_labels_reach_the_loss_as_they_are() -> None:
    """A student hears the teacher through the loss alone: by hand, the mean of the rows' losses."""
    dataset = samples()
    student, soft = learner(model="cnn"), DenseLabels(told(dataset.ids))
    batch = Batch(torch.from_numpy(dataset.array), torch.from_numpy(dataset.labels), soft, np.arange(len(dataset)))
    logits = student.network((batch.inputs_NX - 3000) / 2000)
    expected = kd(logits, soft, batch.labels_N, 4.0, 0.9).mean().item()
    found = step(student, batch, lambda z, y, s: kd(z, s, y, 4.0, 0.9))
    assert found.item() == pytest.approx(expected, rel=1e-6)
