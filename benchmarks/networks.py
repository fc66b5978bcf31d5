"""The residual networks of He et al. (2016), arXiv 1512.03385, table 1, with random weights: teachers to time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.models import Residual


class Bottleneck(nn.Module):
    """relu(x + f(x)), where f narrows by a 1x1 convolution, looks by a 3x3, and widens by a 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.branch = nn.Sequential(
            *_convolution(inputs, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, outputs, 1),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        return F.relu(self.shortcut(x) + self.branch(x))


def resnet18() -> nn.Module:
    """11.7 million parameters, for a CPU."""
    return _resnet(Residual, (2, 2, 2, 2), 64)


def resnet50() -> nn.Module:
    """25.6 million parameters, for a GPU."""
    return _resnet(Bottleneck, (3, 4, 6, 3), 256)


def _resnet(block: Callable[[int, int, int], nn.Module], counts: Sequence[int], width: int) -> nn.Module:
    """Images [N, 3, 224, 224] to logits [N, 1000]: a 7x7 stem, a max pool, and stages that halve and double."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [*_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    channels = 64
    for stage, count in enumerate(counts):
        for place in range(count):
            outputs = width * 2**stage
            layers.append(block(channels, outputs, 2 if stage > 0 and place == 0 else 1))
            channels = outputs
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))
    return network.eval().requires_grad_(requires_grad=False)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)]
