"""The reference networks, and networks of one's own."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import MODELS, build, count_parameters

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 1, 3)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", IMAGES)
def test_every_network_answers_images_of_every_size_with_logits(name: str, shape: tuple[int, ...]) -> None:
    """[N, *shape] to [N, classes], and every weight has a gradient."""
    network = build(name, {}, shape, 5)
    logits = network(torch.randn(3, *shape))
    logits.square().sum().backward()
    assert logits.shape == (3, 5)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "parameters"),
    [
        ("mlp", {"hidden": []}, (4,), 4 * 3 + 3),
        ("mlp", {"hidden": [8, 6], "dropout": 0.5}, (2, 2), 4 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3),
        ("cnn", {"width": 4, "depth": 1}, (2, 8, 8), 2 * 9 * 4 + 8 + 4 * 3 + 3),
        ("cnn", {"width": 4, "depth": 2}, (2, 8, 8), 2 * 9 * 4 + 8 + 4 * 9 * 8 + 16 + 8 * 3 + 3),
        ("resnet", {"width": 4, "blocks": [1]}, (2, 8, 8), 2 * 9 * 4 + 8 + 2 * (4 * 9 * 4 + 8) + 4 * 3 + 3),
    ],
)
def test_arguments_decide_the_size(
    name: str, arguments: Mapping[str, object], shape: tuple[int, ...], parameters: int
) -> None:
    """The number of weights, by hand."""
    assert count_parameters(build(name, arguments, shape, 3)) == parameters


@pytest.mark.parametrize(("name", "arguments"), [("cnn", {"depth": 6}), ("resnet", {"blocks": [1] * 6, "width": 2})])
def test_depth_is_not_bounded_by_the_size_of_the_image(name: str, arguments: Mapping[str, object]) -> None:
    """Halving one pixel leaves one pixel."""
    assert build(name, arguments, (1, 8, 8), 2)(torch.randn(2, 1, 8, 8)).shape == (2, 2)


def test_a_network_of_ones_own_is_called_with_its_arguments_only() -> None:
    """`package.module:callable`; the shapes are its author's to know."""
    network = build("torch.nn:Linear", {"in_features": 4, "out_features": 2}, (9, 9), 7)
    assert isinstance(network, nn.Linear)
    assert count_parameters(network) == 4 * 2 + 2


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "text"),
    [
        (
            "resnett",
            {},
            (1, 8, 8),
            r"no model 'resnett'\. Did you mean 'resnet'\? Known are mlp, cnn, resnet; name one",
        ),
        ("vision", {}, (1, 8, 8), r"no model 'vision'\. Known are"),
        ("mlp", {"depth": 3}, (4,), r"'mlp' cannot be built with depth = 3: TypeError: .*unexpected keyword .*'depth'"),
        ("mlp", {"hidden": 64}, (4,), r"hidden = 64: TypeError: 'int' object is not iterable"),
        ("mlp", {"dropout": 2.0}, (4,), r"dropout = 2\.0: ValueError: dropout probability"),
        ("mlp", {"classes": 2}, (4,), r"TypeError: .*multiple values for keyword argument 'classes'"),
        ("mlp", {"hidden": [8, 0]}, (4,), r"option hidden holds 0, but a network needs at least 1"),
        ("cnn", {"width": -1}, (1, 8, 8), r"option width holds -1"),
        ("cnn", {"depth": 0}, (1, 8, 8), r"option depth holds 0"),
        ("resnet", {"blocks": [1, 0]}, (1, 8, 8), r"option blocks holds 0"),
        ("cnn", {}, (64,), r"'cnn' takes images \[channels, height, width\], but the inputs .* are \[64\]\. .*'mlp'"),
        ("resnet", {}, (8, 8), r"'resnet' takes images"),
        ("torch.nn:Linear", {}, (4,), r"'torch\.nn:Linear' cannot be built with no options: TypeError: .*in_features"),
        ("builtins:dict", {"a": 1}, (4,), r"'builtins:dict' gave a dict, where a torch\.nn\.Module was expected"),
        ("torch.nn:Lineer", {}, (4,), r"has no 'Lineer'"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    name: str, arguments: Mapping[str, object], shape: tuple[int, ...], text: str
) -> None:
    """A wrong name, wrong options, or something that is no network."""
    with pytest.raises(ConfigError, match=text):
        build(name, arguments, shape, 3)
