"""How an answer changes with the input: the student's derivatives held against the teacher's.

A loss of derivatives reaches the student's weights by a second backward pass, so they are made with `create_graph`. Not
for inputs without derivatives (token ids), nor for networks that mix the rows of a batch, as batch normalisation does
in training: the derivative of a row's logit is then not that of the sum of all rows' logits, which is what is asked.
A piecewise linear network (ReLU) is told of its slopes and not of where they change, having no second derivative.

Shape legend
    N  rows (samples)
    C  classes
    R  projections
    X  all elements of a row's derivatives, whatever their axes
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pipeline.errors import ConfigError
from pipeline.hints.rows import equal_shapes, flat, lifted
from pipeline.losses.hard import UNLABELLED
from pipeline.losses.logspace import at_least_float32
from pipeline.seeds import generator

LOGIT_AXES = 2


def input_gradient(
    logits_NC: Tensor, inputs: Tensor, targets_N: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """The derivative of one logit of each row by the input, of the shape of the inputs.

    What Srinivas and Fleuret (2018), "Knowledge Transfer with Jacobian Matching", arXiv 1803.00443, match in place of
    the whole Jacobian. The graph of the logits stays, for the loss that they are for.

    Args:
        logits_NC: made of the inputs.
        inputs: [N, *], floating point, with `requires_grad` before the network saw them.
        targets_N: which logit; left out, the largest of each row. Student and teacher need the same: give the student
            the teacher's. A row of -1 has zeros for a derivative.
        create_graph: whether a loss of it is to have a gradient.

    Raises:
        ConfigError: the inputs have no derivatives, or the logits are not [N, C] or were not made of them.

    """
    _refuse_without_graph(logits_NC, inputs)
    targets_N = logits_NC.argmax(dim=1) if targets_N is None else targets_N
    chosen_N = at_least_float32(logits_NC).gather(1, targets_N.clamp(min=0)[:, None])[:, 0]
    return _derivative(chosen_N.masked_fill(targets_N == UNLABELLED, 0.0).sum(), inputs, create_graph=create_graph)


def projected_jacobian(
    logits_NC: Tensor, inputs: Tensor, projections_RC: Tensor, *, create_graph: bool = False
) -> Tensor:
    """v_r . J for each projection v_r of the logits and the Jacobian J of each row, [N, R, *input].

    The stochastic form of Czarnecki et al. (2017), "Sobolev Training for Neural Networks", arXiv 1706.04859: with
    random v, the expected squared difference goes as that of the whole Jacobians, for R backward passes instead of C.
    Student and teacher need the same projections: see `random_projections`.

    Raises:
        ConfigError: the inputs have no derivatives, the logits are not [N, C] or were not made of them, or the
            projections are not [R, C] for one R or more.

    """
    _refuse_without_graph(logits_NC, inputs)
    if projections_RC.ndim != LOGIT_AXES or projections_RC.shape[1] != logits_NC.shape[1] or not len(projections_RC):
        raise ConfigError(
            f"The projections of a Jacobian have the shape {list(projections_RC.shape)}, expected [R, "
            f"{logits_NC.shape[1]}] with R at least 1: a weight for each class. Draw them for the student's classes."
        )
    logits_NC, projections_RC = lifted(logits_NC, projections_RC.to(logits_NC.device))
    sums = [(logits_NC * weights_C).sum() for weights_C in projections_RC]
    return torch.stack([_derivative(each, inputs, create_graph=create_graph) for each in sums], dim=1)


def random_projections(projections: int, classes: int, seed: int) -> Tensor:
    """Directions drawn evenly from the sphere, [R, C] in float32, each of length 1; the same on every machine.

    As in Czarnecki et al. (2017), arXiv 1706.04859. E ||v . J||^2 = ||J||_F^2 / C.
    """
    drawn_RC = generator("projections", seed, projections, classes).standard_normal((projections, classes))
    directions_RC = torch.from_numpy(drawn_RC)
    lengths_R1: Tensor = vector_norm(directions_RC, dim=1, keepdim=True)
    return (directions_RC / lengths_R1).float()


def gradient_matching(student_NX: Tensor, teacher_NX: Tensor) -> Tensor:
    """Sum over elements of (g - g')^2 a row, [N], for derivatives of any axes after the first.

    The term of first derivatives of Czarnecki et al. (2017), arXiv 1706.04859; of all logits it is what small Gaussian
    noise in the inputs adds to their squared error, over its variance (Srinivas and Fleuret 2018, arXiv 1803.00443,
    proposition 1). Of R projections it is their sum: a weight of 1 / R makes it their mean. In inputs of another unit
    it has another size: it goes as 1 / unit^2.

    Raises:
        ConfigError: the shapes differ.

    """
    student_NX, teacher_NX = equal_shapes("gradient", student_NX, teacher_NX)
    return (student_NX - teacher_NX).square().sum(dim=1)


def gradient_penalty(student_NX: Tensor, alpha: float | Tensor = 0.0) -> Tensor:
    """(||g|| - alpha)^2 a row, [N]: how steep, not which way.

    With alpha = 0 the penalty of Drucker and Le Cun (1992), "Improving Generalization Performance Using Double
    Backpropagation", there of the loss's derivative; with 1, Gulrajani et al. (2017), arXiv 1704.00028, equation 3,
    there of a critic's at points between samples; with [N] norms of a teacher's, four bytes a row of cache. At g = 0 it
    has the value alpha^2 and no gradient: which way to be steeper is not known.
    """
    norms_N: Tensor = vector_norm(flat(at_least_float32(student_NX)), dim=1)
    return (norms_N - alpha).square()


def _derivative(value: Tensor, inputs: Tensor, *, create_graph: bool) -> Tensor:
    (found,) = torch.autograd.grad(value, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)
    if found is None:
        raise ConfigError(
            "The logits do not depend on these inputs, and have no derivative by them. Give the network the very "
            "tensor that is asked about: not a copy, and not one that it detaches."
        )
    return found


def _refuse_without_graph(logits_NC: Tensor, inputs: Tensor) -> None:
    if logits_NC.ndim != LOGIT_AXES:
        raise ConfigError(
            f"A derivative was asked of logits {list(logits_NC.shape)}, expected [N, C]: one answer a row."
        )
    if not inputs.is_floating_point():
        raise ConfigError(
            f"Inputs of type {inputs.dtype} have no derivatives; expected floating point. Leave out the losses of "
            "gradients: they are not for token ids."
        )
    if not (inputs.requires_grad and logits_NC.requires_grad):
        raise ConfigError(
            "The logits have no derivative by the inputs: no graph was kept. Call inputs.requires_grad_() before the "
            "network sees them, outside torch.no_grad() and torch.inference_mode()."
        )
