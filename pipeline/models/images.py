"""Small networks on images, and a multilayer perceptron on inputs of any shape."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.errors import ConfigError
from pipeline.hubs.contract import IMAGE_AXES, channels
from pipeline.models.options import positive


def mlp(
    input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (64,), dropout: float = 0.0, jitter: int = 0
) -> nn.Module:
    """A multilayer perceptron on flattened inputs of any shape: (linear, ReLU, dropout) for each width, linear.

    With `jitter`, it learns from images that are moved by up to so many pixels.
    """
    layers: list[nn.Module] = [*([Jitter(input_shape, jitter)] if jitter else []), nn.Flatten()]
    inputs = math.prod(input_shape)
    for width in hidden:
        layers += [nn.Linear(inputs, positive("hidden", width)), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class Jitter(nn.Module):
    """In training, each image is moved by up to `pixels` in any direction, and its edge repeated where it moved away.

    The shifts are drawn from torch's own generator, which a run seeds at every step.
    """

    def __init__(self, input_shape: tuple[int, ...], pixels: int) -> None:
        super().__init__()
        if len(input_shape) != IMAGE_AXES:
            raise ConfigError(
                "The model option jitter moves images [channels, height, width], but the inputs of this dataset are "
                f"{list(input_shape)}. Leave jitter out, or use a dataset of images."
            )
        self.pixels = positive("jitter", pixels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], moved in training and as it is in evaluation."""
        if not self.training:
            return x
        device, (height, width) = x.device, x.shape[2:]
        down_N1, right_N1 = torch.randint(-self.pixels, self.pixels + 1, (2, len(x), 1), device=device)
        rows_NH = (torch.arange(height, device=device) - down_N1).clamp(0, height - 1)
        columns_NW = (torch.arange(width, device=device) - right_N1).clamp(0, width - 1)
        moved = x.gather(2, rows_NH[:, None, :, None].expand_as(x))
        return moved.gather(3, columns_NW[:, None, None, :].expand_as(x))


def cnn(input_shape: tuple[int, ...], classes: int, width: int = 16, depth: int = 2) -> nn.Module:
    """A plain convolutional network on images: `depth` stages that halve the image and double the width."""
    inputs = channels("cnn", input_shape)
    layers: list[nn.Module] = []
    for stage in range(positive("depth", depth)):
        outputs = positive("width", width) * 2**stage
        # ceil_mode: an image of one pixel stays one pixel, so any depth fits any image.
        layers += [*_convolution(inputs, outputs), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        inputs = outputs
    return nn.Sequential(*layers, *_head(inputs, classes))


def resnet(input_shape: tuple[int, ...], classes: int, width: int = 32, blocks: Sequence[int] = (1, 1, 1)) -> nn.Module:
    """A small residual network on images: a stage for each number of blocks; every next one halves and doubles.

    The basic block and the 3x3 stem of He et al. (2016), arXiv 1512.03385, sections 3.3 and 4.2.
    """
    inputs = positive("width", width)
    layers: list[nn.Module] = [*_convolution(channels("resnet", input_shape), inputs), nn.ReLU()]
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(positive("blocks", count)):
            layers.append(Residual(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, *_head(inputs, classes))


class Residual(nn.Module):
    """relu(x + f(x)) with two 3x3 convolutions for f; x goes through a 1x1 convolution where the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(inputs, outputs, stride=stride), nn.ReLU(), *_convolution(outputs, outputs)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        return F.relu(self.shortcut(x) + self.branch(x))


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the image's size but for its stride, and batch norm, which has the bias."""
    return [nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)]


def _head(inputs: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
