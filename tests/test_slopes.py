"""What a student is told of its teacher's derivatives: whose, in which mode and precision, and when nothing."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.gradients import StudentGradients
from pipeline.labels import GradientSpec, Inside
from pipeline.schedules import BEGIN, Progress
from pipeline.slopes import Slopes, derivative, slopes_of

TOP = GradientSpec("top", "float32", (1, 4, 4))
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])


class Attentive(nn.Module):
    """Four tokens of an image's rows that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(4, 2, 8, 0.3, batch_first=True), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        return self.head(self.layer(inputs[:, 0]).flatten(1))


def convolutional() -> nn.Module:
    """With batch normalisation and dropout, which are others in training."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )


NETWORKS = {"attentive": Attentive, "convolutional": convolutional}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network in training, and six inputs."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():  # running statistics that are not those of a first step
        network(3 * torch.randn(20, 1, 4, 4) + 1)
    return network, torch.randn(6, 1, 4, 4)


def told(network: nn.Module, inputs: Tensor, spec: GradientSpec = TOP, **settings: object) -> Tensor:
    """Against a teacher of zeros, whose labels hide that of the fifth row."""
    teacher = torch.zeros(len(inputs), *spec.row_shape)
    inside = Inside({}, {}, 1, teacher, None if spec.projections else CLASSES)
    labels_N, progress = torch.tensor([0, 2, 1, 1, -1, 2]), settings.pop("progress", BEGIN)
    return Slopes(StudentGradients(**settings), spec).told(network, inputs, inside, labels_N, progress)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_row_is_told_of_its_own_derivative_in_float32_as_the_network_answers_when_done(
    name: str, precision: torch.dtype
) -> None:
    """Law: by itself it has the same; no autocast, dropout or statistic of a batch counts; nothing else is changed."""
    network, inputs = made(name)
    expected = []
    network.eval()
    for row, each in enumerate(inputs):
        given = each[None].requires_grad_()
        (slope,) = torch.autograd.grad(network(given)[0, CLASSES[row]], given)
        expected.append(slope.square().sum())
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found = told(network, inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    found.sum().backward()
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_second_backward_is_that_of_finite_differences(name: str) -> None:
    """Law: of the loss by a weight, for attention and for statistics that run."""
    network, inputs = made(name)
    network, inputs = network.double(), inputs.double()
    weight = next(network.parameters())
    settings = {"weight": 0.7, "penalty": 0.4, "alpha": 0.5}
    told(network, inputs, **settings).sum().backward()
    step, at = 1e-6, (0,) * weight.ndim
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[at] += sign * step
        ends.append(told(network, inputs, **settings).sum().item())
        with torch.no_grad():
            weight[at] -= sign * step
    assert weight.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_the_terms_are_weighed_and_may_change_over_a_run() -> None:
    """Law: weight ||J||^2 + penalty (||J|| - alpha)^2 against a teacher of zeros; of no weight, plain zeros."""
    network, inputs = made("attentive")
    squares = told(network, inputs)
    both = told(network, inputs, weight={"start": 0.0, "end": 0.2}, penalty=3.0, alpha=0.1, progress=Progress(0.5, 0))
    torch.testing.assert_close(both, 0.1 * squares + 3 * (squares.sqrt() - 0.1).square())
    nothing = told(network, inputs, weight={"start": 0.0, "end": 0.2})
    assert nothing.tolist() == [0] * 6
    assert not nothing.requires_grad


def test_a_student_is_not_told_of_the_logit_of_a_true_class_that_it_may_not_see() -> None:
    """Law: its row has 0, also by the penalty; of the teacher's largest logit or of projections it may hear."""
    network, inputs = made("convolutional")
    hidden = told(network, inputs, GradientSpec("true", "float32", (1, 4, 4)), penalty=1.0, alpha=5.0)
    seen = told(network, inputs, penalty=1.0, alpha=5.0)
    assert hidden[4] == 0
    torch.testing.assert_close(hidden[[0, 1, 2, 3, 5]], seen[[0, 1, 2, 3, 5]])
    assert (told(network, inputs, GradientSpec("projections", "float32", (2, 1, 4, 4), 2)) > 0).all()
    assert (seen > 0).all()


def test_trying_out_leaves_no_gradient_behind() -> None:
    """Law: the weights are those of before, and the first step begins with none."""
    network, inputs = made("attentive")
    slopes_of("students.a", network, StudentGradients(), TOP, inputs[:1])
    assert all(weight.grad is None for weight in network.parameters())
    assert network.training


def test_a_derivative_leaves_its_inputs_as_they_are() -> None:
    """Law: also of a network that writes into them; they want no gradient after."""
    inputs = torch.ones(2, 3)
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))
    derivative(network, inputs - 2, TOP, torch.zeros(2, dtype=torch.int64))
    given = inputs - 2
    derivative(network, given, TOP, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(given, inputs - 2)
    assert not given.requires_grad
