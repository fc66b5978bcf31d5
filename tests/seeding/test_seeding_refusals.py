"""What cannot be made of a teacher is named."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import transformers
from seeding_cases import MAKES, SMALL
from torch import nn

from pipeline.errors import ConfigError
from pipeline.seeding.making import Anatomy, seed

GPT = {"width": 32, "heads": 4, "depth": 2}


@pytest.mark.parametrize(
    ("name", "teacher", "student", "said"),
    [
        (
            "mlp",
            {"hidden": [8]},
            {"hidden": [9]},
            "1.weight is [8, 64] in the teacher and [9, 64] in the student, which",
        ),
        ("mlp", {"hidden": [8]}, {"hidden": [9]}, "which has more on axis 0"),
        ("gpt", GPT, {**GPT, "heads": 2}, "attention has heads of 16 entries, and the teacher's heads of 8 entries"),
        ("gpt", GPT, {**GPT, "width": 16}, "attention has heads of 4 entries"),
        ("gpt", GPT, {**GPT, "depth": 3}, "decoder.blocks has 3 layers where the teacher's has 2"),
        ("gpt", {**GPT, "tied": False}, GPT, "head.weight and decoder.embedding.weight are one tensor in the student"),
        (
            "llama",
            {},
            {"num_key_value_heads": 8},
            "heads of 4 entries, and the teacher's heads of 4 entries, 2 to a key",
        ),
        ("llama", {}, {"vocab_size": 9}, "and [9, 32] in the student, and none can be left out of axis 0"),
        ("bert", {}, {"max_position_embeddings": 8}, "none can be left out of axis 0"),
        ("llama", {"attention_bias": True}, {}, "the student has no "),
    ],
)
def test_what_cannot_be_had_is_named(
    name: str, teacher: Mapping[str, Any], student: Mapping[str, Any], said: str
) -> None:
    """Law: the first tensors, and what both have."""
    make = MAKES[name]
    large = make.large if name in ("llama", "bert") else {}
    networks = (Anatomy.of(make.network({**large, **options})) for options in (teacher, student))
    with pytest.raises(ConfigError, match=re.escape(said)):
        seed(*networks, "even")


def test_units_that_are_not_known_are_not_sliced_and_their_layers_are_taken() -> None:
    """Law: of a network of another make whole layers can be had, and narrower ones not."""

    def network(width: int, depth: int) -> nn.Module:
        blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, width) for _ in range(depth))
        return nn.ModuleDict({"blocks": blocks})

    teacher = Anatomy.of(network(8, 3))
    made = seed(teacher, Anatomy.of(network(8, 1)), "last")
    assert made.state["blocks.0.linear1.weight"].equal(teacher.state["blocks.2.linear1.weight"])
    with pytest.raises(ConfigError, match="which units its axes count is not known of this network"):
        seed(teacher, Anatomy.of(network(4, 3)), "last")


def test_networks_whose_code_counts_their_width_are_not_sliced() -> None:
    """Law: Gemma names its tensors as Llama does, and multiplies by the root of its width: whole layers alone."""

    def network(width: int, depth: int) -> Anatomy:
        config = transformers.GemmaConfig(
            **{**SMALL, "hidden_size": width, "num_hidden_layers": depth, "intermediate_size": 8},
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
        return Anatomy.of(transformers.GemmaForCausalLM(config))

    assert seed(network(8, 2), network(8, 1), "even").kept == {}
    with pytest.raises(ConfigError, match="is not known of this network"):
        seed(network(8, 2), network(4, 2), "even")
