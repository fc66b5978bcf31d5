"""The reference networks, and networks of one's own."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import MODELS, Jitter, build, count_parameters

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
        ("mlp", {"hidden": [], "jitter": 2}, (1, 2, 2), 4 * 3 + 3),
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


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image [C, H, W] moved, by its definition: padded with its edge, and cut out."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
    return padded[:, 2 - down : 2 - down + height, 2 - right : 2 - right + width]


def test_jitter_moves_each_image_by_itself() -> None:
    """Law: in training each image is one of the (2 x 2 + 1)^2 shifts of itself, and all of them come up."""
    images = torch.rand(500, 3, 5, 6)
    moved = Jitter((3, 5, 6), 2)(images)
    steps = range(-2, 3)
    found = [
        [(down, right) for down in steps for right in steps if np.array_equal(shifted(image, down, right), answer)]
        for image, answer in zip(images.numpy(), moved.numpy(), strict=True)
    ]
    assert {len(shifts) for shifts in found} == {1}
    assert {shift for shifts in found for shift in shifts} == {(down, right) for down in steps for right in steps}


def test_jitter_is_drawn_from_the_seed_of_the_step() -> None:
    """Law: the same seed moves the same images alike, so a run that was stopped goes on as if it had not been."""
    jitter, images = Jitter((1, 8, 8), 2), torch.rand(50, 1, 8, 8)
    first, again, other = (jitter(images) for seed in (1, 1, 2) if torch.manual_seed(seed))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_teacher_is_asked_about_the_image_as_it_is() -> None:
    """Law: in evaluation nothing is moved or dropped."""
    images = torch.rand(4, 1, 8, 8)
    network = build("mlp", {"jitter": 2, "dropout": 0.5}, (1, 8, 8), 3).eval()
    assert torch.equal(Jitter((1, 8, 8), 2).eval()(images), images)
    assert torch.equal(network(images), network(images))


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
        (
            "mlp",
            {"jitter": -1},
            (1, 8, 8),
            r"option jitter holds -1, but a network needs at least 1\. Mend that option",
        ),
        (
            "mlp",
            {"jitter": 2},
            (64,),
            r"jitter moves images \[channels, height, width\], but the inputs .* are \[64\]\. Leave jitter out, or",
        ),
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
