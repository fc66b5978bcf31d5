"""How the answer of a network changes with its input: asked of a teacher, and held against that of a student.

A derivative is that of the normalised float32 input which the network is given, by a forward pass of its own: in
evaluation, so that dropout draws nothing and batch normalisation mixes no rows, and in float32, whatever the precision
of labels and training. So a student's step costs a forward and two backward passes more (of R projections 1 + R).

Shape legend
    N  rows (samples)
    C  classes
    R  projections
    X  the shape of what is kept of a row: of an input, or R of it
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.errors import ConfigError
from pipeline.gradients import StudentGradients
from pipeline.hints.gradients import (
    gradient_matching,
    gradient_penalty,
    input_gradient,
    projected_jacobian,
    random_projections,
)
from pipeline.hints.rows import full_precision
from pipeline.labels import GradientSpec, Inside
from pipeline.losses.hard import UNLABELLED
from pipeline.schedules import Progress, value_at


def derivative(
    network: nn.Module,
    inputs: Tensor,
    spec: GradientSpec,
    classes_N: Tensor | None = None,
    *,
    create_graph: bool = False,
) -> Tensor:
    """The derivative of a network's logits that a cache keeps, [N, X] in float32, made in the mode it is in.

    Args:
        network: which.
        inputs: [N, *], as it is given them; they stay as they are.
        spec: of which logits.
        classes_N: whose logit of each row, -1 for zeros; None of projections.
        create_graph: whether a loss of it is to have a gradient.

    Raises:
        ConfigError: its logits have no derivative by the inputs.

    """
    given = inputs.detach().requires_grad_()
    with full_precision(given), torch.enable_grad():
        logits_NC = network(given.clone())  # a copy: some networks write into what they are given
        if spec.projections is None:
            return input_gradient(logits_NC, given, classes_N, create_graph=create_graph)
        directions_RC = _directions(spec.projections, logits_NC.shape[-1], spec.seed, given.device)
        return projected_jacobian(logits_NC, given, directions_RC, create_graph=create_graph)


@lru_cache(maxsize=16)
def _directions(projections: int, classes: int, seed: int, device: torch.device) -> Tensor:
    return random_projections(projections, classes, seed).to(device)


@dataclass(frozen=True)
class Slopes:
    """What a student is told of its teacher's derivatives.

    Czarnecki et al. (2017), "Sobolev Training for Neural Networks", arXiv 1706.04859, to the first order; of one logit
    as in Srinivas and Fleuret (2018), "Knowledge Transfer with Jacobian Matching", arXiv 1803.00443.
    """

    settings: StudentGradients
    spec: GradientSpec

    def told(self, network: nn.Module, inputs: Tensor, inside: Inside, labels_N: Tensor, progress: Progress) -> Tensor:
        """Weight ||J - J'||^2 + penalty (||J|| - alpha)^2, [N], with the weights of when so much of a run is done.

        A row without the logit that is asked about has 0. So has one whose true label the student may not see, where
        that is the one. Where both weights are 0, nothing is computed.
        """
        assert inside.gradient is not None, "what is read is what was asked for"
        weight, penalty = (value_at(each, progress) for each in (self.settings.weight, self.settings.penalty))
        classes_N, losses_N = inside.classes_N, torch.zeros(len(labels_N), device=labels_N.device)
        if not weight and not penalty:
            return losses_N
        if classes_N is not None and self.spec.of == "true":
            classes_N = classes_N.masked_fill(labels_N == UNLABELLED, UNLABELLED)
        with evaluating(network):
            own = derivative(network, inputs, self.spec, classes_N, create_graph=True)
        if weight:
            losses_N = losses_N + weight * gradient_matching(own, inside.gradient)
        if penalty:
            losses_N = losses_N + penalty * gradient_penalty(own, self.settings.alpha)
        return losses_N if classes_N is None else losses_N.masked_fill(classes_N == UNLABELLED, 0.0)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network as it answers when it is done, and in kernels that can be derived twice; then in training again."""
    training = network.training
    network.eval()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        network.train(training)


def slopes_of(key: str, network: nn.Module, settings: StudentGradients, spec: GradientSpec, input_1: Tensor) -> Slopes:
    """What a student is told, once its network has shown on one input that it can learn by it.

    Raises:
        ConfigError: its logits have no derivative by the input, or that has none by the weights.

    """
    try:
        _try_out(network, spec, input_1)
    except (RuntimeError, ConfigError) as error:
        raise ConfigError(
            f"{key}.gradients: a {type(network).__name__} cannot learn by its derivatives: "
            f"{' '.join(str(error).split())} Leave the table out, or use a model whose logits can be derived by the "
            "input, and that again by the weights."
        ) from error
    finally:
        network.zero_grad(set_to_none=True)
    return Slopes(settings, spec)


def _try_out(network: nn.Module, spec: GradientSpec, input_1: Tensor) -> None:
    with evaluating(network):
        first = torch.zeros(1, dtype=torch.int64, device=input_1.device)
        own = derivative(network, input_1, spec, first, create_graph=True)
        own.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    if all(weight.grad is None for weight in network.parameters()):
        raise ConfigError("No weight has a part in them.")
