"""Weight decay by kinds of parameters and by name: who shrinks, who does not, and what names nobody."""

import math

import pytest
import torch
from torch import nn

from pipeline.config import Experiment, Student, ViewSettings, dump
from pipeline.decay import decaying
from pipeline.errors import ConfigError
from pipeline.regimen import Training
from pipeline.training import Learner, start

RATE, DECAY = 0.1, 0.5


class Small(nn.Module):
    """A matrix, a filter, biases, a norm, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(8, 3)
        self.places = nn.Parameter(torch.ones(1, 2, 2, 2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits."""
        hidden: torch.Tensor = self.norm(self.conv(inputs)) + self.places
        logits: torch.Tensor = self.head(hidden.flatten(1))
        return logits


NAMES = {name for name, _ in Small().named_parameters()}
VECTORS = {"conv.bias", "norm.weight", "norm.bias", "head.bias"}


def taught(**said: object) -> Learner:
    """A network whose parameters are all 1, at its first step."""
    asked = {"learning_rate": RATE, "weight_decay": DECAY, "warmup": 0.0, "device": "cpu", **said}
    network = Small()
    for weight in network.parameters():
        nn.init.ones_(weight)
    return start(network, Training.model_validate(asked), ViewSettings(), 10)


def shrunk(learner: Learner) -> set[str]:
    """The parameters that a step without any gradient makes smaller, each by the rate times the decay."""
    for weight in learner.network.parameters():
        weight.grad = torch.zeros_like(weight)
    learner.optimizer.step()
    values = {name: weight.detach().mean().item() for name, weight in learner.network.named_parameters()}
    assert all(
        math.isclose(value, 1.0) or math.isclose(value, 1 - RATE * DECAY, rel_tol=1e-6) for value in values.values()
    )
    return {name for name, value in values.items() if value < 1}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("said", "spared"),
    [
        ({}, set()),
        ({"decay": "weights"}, VECTORS),
        ({"no_decay": ["*.bias"]}, {name for name in NAMES if name.endswith("bias")}),
        ({"no_decay": ["norm*", "places"]}, {"norm.weight", "norm.bias", "places"}),
        ({"decay": "weights", "no_decay": ["places"]}, {*VECTORS, "places"}),
        ({"no_decay": ["*"]}, NAMES),
    ],
)
def test_what_is_spared_does_not_shrink_and_the_rest_does(
    said: dict[str, object], spared: set[str], optimizer: str
) -> None:
    """Law: with no gradient, a parameter loses rate times decay of itself a step, or nothing; none is forgotten."""
    assert shrunk(taught(**said, optimizer=optimizer)) == NAMES - spared


def test_every_parameter_has_its_gradients_whether_it_decays_or_not() -> None:
    """Law: without decay, groups change no step: plain SGD by hand."""
    apart, whole = taught(decay="weights", weight_decay=0.0, optimizer="sgd"), taught(weight_decay=0.0, optimizer="sgd")
    for learner in (apart, whole):
        for weight in learner.network.parameters():
            weight.grad = torch.full_like(weight, 0.25)
        learner.optimizer.step()
    for one, other in zip(apart.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.detach(), torch.full_like(one, 1 - RATE * 0.25))


def test_where_all_decay_they_are_one_list_as_ever() -> None:
    """Law: by default the optimizer is given what it was given before: bits and checkpoints stay."""
    learner = taught()
    assert [len(group["params"]) for group in learner.optimizer.param_groups] == [len(NAMES)]


def test_the_rate_of_all_groups_is_one() -> None:
    """Law: the schedule moves those that decay and those that do not alike."""
    learner = taught(decay="weights", warmup=0.5)
    assert [group["lr"] for group in learner.optimizer.param_groups] == [pytest.approx(RATE / 5)] * 2


@pytest.mark.parametrize("pattern", ["*.bais", "head", "Norm*", "module.*"])
def test_a_pattern_that_fits_no_parameter_is_refused(pattern: str) -> None:
    """Law: it would spare nothing, unseen; the nearest names are told."""
    with pytest.raises(
        ConfigError, match=r"^no_decay: no parameter of Small is named like .* The nearest are [\w.]+, "
    ):
        list(decaying(Small(), Training.model_validate({"no_decay": ["*.bias", pattern]})))


def test_a_slip_is_told_with_the_name_that_was_meant() -> None:
    """By hand."""
    with pytest.raises(ConfigError, match=r"named like 'head.bais'. The nearest are head.bias, .*mend this one"):
        start(Small(), Training(no_decay=("head.bais",), device="cpu"), ViewSettings(), 1)


def test_a_run_that_does_without_reads_as_it_did_before() -> None:
    """Law: what decides a run has the two keys only where they are used, so no run that is there is another's."""
    for settings in (Training(), Student(model="mlp")):
        assert not {"decay", "no_decay"} & settings.model_dump(mode="json").keys()
    used = Training.model_validate({"decay": "weights", "no_decay": ["a"]}).model_dump(mode="json")
    assert (used["decay"], used["no_decay"]) == ("weights", ["a"])


def test_an_experiment_keeps_them() -> None:
    """Law: of a student and of `[teacher.fit]`, they are in the experiment that a run folder keeps."""
    fit = {"decay": "weights"}
    experiment = Experiment.model_validate(
        {
            "dataset": {"kind": "digits"},
            "teacher": {"model": "mlp", "checkpoint": "t.safetensors", "fit": fit},
            "cache": {"path": "cache"},
            "students": {"one": {"model": "mlp", "no_decay": ["*.bias"]}},
        }
    )
    said = dump(experiment)
    assert 'decay = "weights"' in said
    assert '"*.bias",' in said
