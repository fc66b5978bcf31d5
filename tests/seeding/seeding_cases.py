"""Teachers of every make that is known, students that are smaller, and what can be done to a teacher's units."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pipeline.models import build
from pipeline.seeding.axes import Axis
from pipeline.seeding.making import Anatomy
from pipeline.weights import State

IMAGES, NEXT, TEXTS = (1, 8, 8), (3, 6), (2, 6)
CLASSES, WORDS = 5, 11
IDS = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 8, 3, 3, 4, 10]])
TOKENS = torch.stack([IDS, torch.arange(6).expand(2, 6)], 1)
PIXELS = torch.randn(4, *IMAGES, generator=torch.Generator().manual_seed(1))
SMALL: Mapping[str, Any] = {
    "vocab_size": WORDS,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "num_labels": CLASSES,
}
LARGE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 24}
NARROW = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 12}
GROUPED, FEWER = {"num_key_value_heads": 4}, {"num_key_value_heads": 2}
"""Two queries to a key in both."""


@dataclass(frozen=True)
class Make:
    """How networks of one make are built and asked, and the options of a teacher and of a narrower one of its depth."""

    built: Callable[[Mapping[str, Any]], nn.Module]
    answer: Callable[[nn.Module], Tensor]
    large: Mapping[str, Any]
    narrow: Mapping[str, Any]

    def network(self, options: Mapping[str, Any], seed: int = 0) -> nn.Module:
        """One whose weights are all drawn: no gain is 1, no bias 0, no statistic of a batch its first value."""
        torch.manual_seed(seed)
        network = self.built(options).eval()
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.ndim == 1 else torch.randn_like(tensor) / 4)
        return network

    def asked(self, network: nn.Module) -> Tensor:
        """What it answers."""
        with torch.no_grad():
            return self.answer(network)


def own(model: str, shape: tuple[int, ...], large: dict[str, Any], narrow: dict[str, Any], classes: int) -> Make:
    """Of `pipeline.models`."""
    inputs = {IMAGES: PIXELS, TEXTS: TOKENS, NEXT: TOKENS}[shape]
    return Make(lambda options: build(model, options, shape, classes), lambda network: network(inputs), large, narrow)


def hub(config: str, kind: str, large: dict[str, Any], narrow: dict[str, Any]) -> Make:
    """Of transformers."""

    def built(options: Mapping[str, Any]) -> nn.Module:
        network: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**{**SMALL, **options}))
        return network

    return Make(built, lambda network: network(input_ids=IDS).logits, {**LARGE, **large}, {**NARROW, **narrow})


DEEP = {"depth": 4, "vocabulary": WORDS}
GPT = {"depth": 4}
MAKES: Mapping[str, Make] = {
    "mlp": own("mlp", IMAGES, {"hidden": [16, 12]}, {"hidden": [8, 5]}, CLASSES),
    "cnn": own("cnn", IMAGES, {"width": 8, "depth": 3}, {"width": 4, "depth": 3}, CLASSES),
    "resnet": own("resnet", IMAGES, {"width": 8, "blocks": [3, 3, 2]}, {"width": 4, "blocks": [3, 3, 2]}, CLASSES),
    "gpt": own("gpt", NEXT, {"width": 32, "heads": 4, **GPT}, {"width": 16, "heads": 2, **GPT}, WORDS),
    "gpt untied": own(
        "gpt",
        NEXT,
        {"width": 32, "heads": 4, "tied": False, **GPT},
        {"width": 16, "heads": 2, "tied": False, **GPT},
        WORDS,
    ),
    "text_classifier": own(
        "text_classifier", TEXTS, {"width": 32, "heads": 4, **DEEP}, {"width": 16, "heads": 2, **DEEP}, CLASSES
    ),
    "llama": hub("LlamaConfig", "LlamaForCausalLM", GROUPED, FEWER),
    "llama with biases": hub(
        "LlamaConfig",
        "LlamaForCausalLM",
        {"attention_bias": True, "mlp_bias": True},
        {"attention_bias": True, "mlp_bias": True},
    ),
    "llama classifies": hub("LlamaConfig", "LlamaForSequenceClassification", GROUPED, FEWER),
    "mistral": hub("MistralConfig", "MistralForCausalLM", {**GROUPED, "head_dim": 4}, {**FEWER, "head_dim": 4}),
    "qwen2": hub("Qwen2Config", "Qwen2ForCausalLM", GROUPED, FEWER),
    "qwen3": hub("Qwen3Config", "Qwen3ForCausalLM", {**GROUPED, "head_dim": 6}, {**FEWER, "head_dim": 6}),
    "bert": hub("BertConfig", "BertForSequenceClassification", {}, {}),
    "bert foretells": hub("BertConfig", "BertLMHeadModel", {"is_decoder": True}, {"is_decoder": True}),
    "roberta": hub("RobertaConfig", "RobertaForSequenceClassification", {}, {}),
    "distilbert": hub(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 4, "n_heads": 8, "hidden_dim": 24},
        {"dim": 16, "n_layers": 4, "n_heads": 4, "hidden_dim": 12},
    ),
}
MEANS = ("bert", "bert foretells", "roberta", "distilbert")
"""Those that subtract the mean over the stream."""
UNCENTRED = ("bert foretells",)
"""Of these, what comes of a GELU, which has no mean of zero whatever the weights are."""


def entries(axis: Axis, units: list[int], of: int) -> Tensor:
    """Where the entries of some units are, in their order."""
    places = torch.arange(axis.copies * of * axis.width).reshape(axis.copies, of, axis.width)
    return places[:, units].flatten()


def units_of(anatomy: Anatomy) -> dict[str, int]:
    """How many units each axis has."""
    return {
        axis.name: axis.units(size)
        for name, axes in anatomy.axes.items()
        for axis, size in zip(axes, anatomy.shapes[name], strict=True)
        if axis.name
    }


def in_order(anatomy: Anatomy, order: Mapping[str, list[int]]) -> Anatomy:
    """The same network, with the units of each axis in another order."""
    state: State = {}
    for name, tensor in anatomy.state.items():
        for number, axis in enumerate(anatomy.axes[name]):
            if axis.name:
                units = order[axis.name]
                tensor = tensor.index_select(number, entries(axis, units, len(units)))  # noqa: PLW2901 - each in turn
        state[name] = tensor
    return replace(anatomy, state=state)


def without(anatomy: Anatomy, dead: Mapping[str, list[int]], *, centred: bool) -> Anatomy:
    """A network some of whose units are zero; `centred`, the others of the stream have a mean of zero."""
    state: State = {}
    sizes = units_of(anatomy)
    for name, found in anatomy.state.items():
        tensor = found.clone()
        for number, axis in enumerate(anatomy.axes[name]):
            if axis.name:
                where = entries(axis, dead[axis.name], sizes[axis.name])
                tensor.index_fill_(number, where, 0)
                if centred and axis.name == "stream":
                    there = torch.ones(tensor.shape[number]).index_fill_(0, where, 0)
                    along = there.reshape(-1, *[1] * (tensor.ndim - number - 1))
                    mean = tensor.sum(number, keepdim=True) / there.sum()
                    tensor = along * (torch.ones_like(tensor) if axis.gain else tensor - mean)
        state[name] = tensor
    return replace(anatomy, state=state)
