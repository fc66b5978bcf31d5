"""The reference networks, and networks of one's own."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import MODELS, Jitter, build, count_parameters
from pipeline.models.gpt import turned, turns_of
from pipeline.weights import fit_state, load_state, save_state

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 1, 3)]
SEQUENCES, WORDS = (3, 9), 11
IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 0], [2, 7, 1, 8, 2, 8, 1, 0, 0], [1, 6, 1, 8, 0, 3, 3, 9, 8]]
PLACES = [[0, 1, 2, 0, 1, 2, 3, 0, -1], [0, 0, 1, 2, 3, 4, 5, -1, -1], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
TOKENS = torch.tensor([IDS, PLACES]).transpose(0, 1)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"gpt", "text_classifier"}))
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
        ("gpt", {"width": 8, "depth": 2}, (3, 5), 3 * 8 + 2 * (12 * 64 + 16) + 8),
        ("gpt", {"width": 8, "depth": 1, "tied": False}, (3, 5), 2 * 3 * 8 + 12 * 64 + 16 + 8),
        ("text_classifier", {"width": 8, "depth": 1, "vocabulary": 7}, (2, 5), 7 * 8 + 12 * 64 + 16 + 8 + 8 * 3),
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
            r"no model 'resnett'\. Did you mean 'resnet'\? Known are mlp, cnn, resnet, gpt, text_classifier; name one",
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
        (
            "gpt",
            {},
            (1, 8, 8),
            r"'gpt' takes sequences of tokens \[2 or 3, length\], but .* are \[1, 8, 8\]\. .*'mlp', or a dataset",
        ),
        ("gpt", {}, (8, 8), r"'gpt' takes sequences of tokens"),
        ("text_classifier", {"vocabulary": 9}, (64,), r"'text_classifier' takes sequences of tokens"),
        ("text_classifier", {}, (2, 8), r"missing 1 required keyword-only argument: 'vocabulary'"),
        ("text_classifier", {"vocabulary": 0}, (2, 8), r"option vocabulary holds 0"),
        ("gpt", {"width": 10}, (3, 8), r"width = 10 and heads = 4 do not fit: .* would have 2\.5\. Mend one"),
        ("gpt", {"width": 12}, (3, 8), r"width = 12 and heads = 4 do not fit: .* even share .* would have 3\. Mend"),
        ("gpt", {"heads": 0}, (3, 8), r"option heads holds 0"),
        ("gpt", {"depth": 0}, (3, 8), r"option depth holds 0"),
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


def speaker(**options: object) -> nn.Module:
    """A small language model whose weights are far enough from 0 for one token to matter to another."""
    torch.manual_seed(0)
    network = build("gpt", {"width": 16, "depth": 2, "heads": 2, **options}, SEQUENCES, WORDS).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1 if weight.ndim == 1 else 8)
    return network


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_answers_each_position_and_learns_with_all_its_weights(tied: bool) -> None:
    """[N, 2, L] to [N, L, V]."""
    network = speaker(tied=tied).train()
    logits = network(TOKENS)
    logits.square().sum().backward()
    assert logits.shape == (3, 9, WORDS)
    assert all(weight.grad is not None and weight.grad.count_nonzero() for weight in network.parameters())


def test_a_language_model_answers_a_packed_document_as_by_itself() -> None:
    """Law: up to rounding, wherever it stands and whatever stands around it."""
    network, checked = speaker(), 0
    packed = network(TOKENS)
    for row, places in enumerate(PLACES):
        starts = [*(at for at, place in enumerate(places) if place == 0), sum(place >= 0 for place in places)]
        for start, end in pairwise(starts):
            alone = network(TOKENS[row : row + 1, :, start:end])[0]
            torch.testing.assert_close(packed[row, start:end], alone, atol=1e-5, rtol=0)
            checked += end - start
    assert checked == sum(place >= 0 for places in PLACES for place in places)


@pytest.mark.parametrize("at", range(9))
def test_what_comes_later_changes_nothing_before_it(at: int) -> None:
    """Law: bit for bit; and the token itself and those after it in its document change."""
    network, changed = speaker(), TOKENS.clone()
    changed[2, 0, at] = 10
    before, after = network(TOKENS)[2], network(changed)[2]
    assert before[:at].equal(after[:at])
    assert (before[at:] != after[at:]).any(-1).all()


def test_the_order_of_tokens_matters_and_only_how_far_apart_they_are() -> None:
    """Law: rotary positions are relative; the product of two vectors depends on the distance of their places only."""
    network, places = speaker(), torch.arange(5)[None]
    answers = [
        network(torch.stack([torch.tensor([ids]), places], 1))[0, 4] for ids in ([3, 1, 4, 1, 5], [1, 3, 4, 1, 5])
    ]
    assert not torch.allclose(*answers, atol=1e-3)
    query, key = torch.randn(2, 1, 1, 5, 8)
    products = []
    for start in (0, 100):
        turns = turns_of(places + start, 8)
        products.append(turned(query, turns) @ turned(key, turns).transpose(2, 3))
    torch.testing.assert_close(*products, atol=1e-4, rtol=0)
    assert not torch.allclose(products[0], query @ key.transpose(2, 3), atol=1e-2)


@pytest.mark.parametrize("name", ["gpt", "text_classifier"])
def test_padding_changes_no_answer(name: str) -> None:
    """Law: what stands in it bit for bit, even if it is no token, and how much there is of it up to rounding."""
    options = {"vocabulary": WORDS} if name == "text_classifier" else {}
    torch.manual_seed(0)
    network = build(name, {"width": 16, "heads": 2, **options}, SEQUENCES, WORDS).eval()
    there, other = TOKENS[:, 1] >= 0, TOKENS.clone()
    other[:, 0][~there] = -100
    answer, again, longer = (network(each) for each in (TOKENS, other, nn.functional.pad(TOKENS, (0, 5), value=-1)))
    asked = there if name == "gpt" else slice(None)
    assert answer[asked].equal(again[asked])
    cut = longer[:, :9] if name == "gpt" else longer
    torch.testing.assert_close(answer[asked], cut[asked], atol=1e-5, rtol=0)


def test_a_classifier_of_texts_answers_a_sequence_and_learns_with_all_its_weights() -> None:
    """[N, 2, L] to [N, C], also for a sequence with no token at all."""
    network = build("text_classifier", {"vocabulary": WORDS, "width": 16, "dropout": 0.1}, (2, 9), 3)
    tokens = torch.cat([TOKENS, torch.stack([torch.zeros(1, 9), torch.full((1, 9), -1.0)], 1).long()])
    logits = network(tokens)
    logits.square().sum().backward()
    assert logits.shape == (4, 3)
    assert logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.count_nonzero() for weight in network.parameters())


@pytest.mark.parametrize("depth", [1, 8])
def test_a_language_model_begins_as_gpt_2_does(depth: int) -> None:
    """Law: weights have the standard deviation 0.02, those that add to what passes through 0.02 / sqrt(2 depth)."""
    torch.manual_seed(0)
    for name, weight in build("gpt", {"depth": depth}, SEQUENCES, 500).named_parameters():
        if weight.ndim == 1:
            assert weight.eq(1).all()
        else:
            wanted = 0.02 / (2 * depth) ** 0.5 if ".attended" in name or ".narrow" in name else 0.02
            assert weight.std().item() == pytest.approx(wanted, rel=0.05)


def test_autocast_keeps_a_language_models_answers() -> None:
    """Law: up to bfloat16's rounding."""
    network = speaker()
    with torch.autocast("cpu", torch.bfloat16):
        answer = network(TOKENS)
    assert (answer - network(TOKENS)).abs().max() < 0.05 * network(TOKENS).abs().max()


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_is_read_as_it_was_written(tied: bool, tmp_path: Path) -> None:
    """Law: tied or not, and tied after as before."""
    network, other = (
        speaker(tied=tied),
        build("gpt", {"width": 16, "depth": 2, "heads": 2, "tied": tied}, (3, 9), WORDS),
    )
    save_state(tmp_path / "gpt.safetensors", network.state_dict())
    fit_state(other, load_state(tmp_path / "gpt.safetensors"), tmp_path / "gpt.safetensors")
    assert other.eval()(TOKENS).equal(network(TOKENS))
    assert (other.head.weight is other.decoder.embedding.weight) == tied
