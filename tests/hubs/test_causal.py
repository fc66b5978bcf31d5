"""Models of transformers on tokens: its own logits, documents kept apart, padding overlooked, or a refusal."""

import copy
import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pipeline.errors import ConfigError, TeacherError
from pipeline.hubs import tokenizer_digest
from pipeline.models import build
from pipeline.weights import fit_state, load_state, save_state

WORDS, CLASSES, LENGTH = 40, 5, 12
CAUSAL, TEXTS = (3, LENGTH), (2, LENGTH)
PLACES = torch.tensor(
    [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, -1], [0, 0, 1, 2, 3, -1, -1, -1, -1, -1, -1, -1], [*range(LENGTH)]]
)
TOKENS = torch.stack(
    [torch.randint(3, WORDS, PLACES.shape, generator=torch.Generator().manual_seed(0)) * (PLACES >= 0), PLACES], 1
)
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 1}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
OPT = {"word_embed_proj_dim": 16, "ffn_dim": 16}
CONFIGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama with dropout": ("LlamaConfig", {"attention_dropout": 0.5}),
    "gpt2": ("GPT2Config", {}),
    "gpt-neox": ("GPTNeoXConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2 with a window": ("Qwen2Config", WINDOW),
    "gemma2 with a window": ("Gemma2Config", {"head_dim": 8, "sliding_window": 3}),
    "mixtral": ("MixtralConfig", EXPERTS),
    "opt, masked here": ("OPTConfig", OPT),
    "gpt-oss with a window, masked here": ("GptOssConfig", {**EXPERTS, "sliding_window": 3}),
    "bert that is told to be causal": ("BertConfig", {"is_decoder": True}),
}
EAGER = {"gemma2 with a window", "gpt-oss with a window, masked here"}
"""Those that transformers computes in one way only."""
CLASSIFIERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bert": ("BertConfig", {}),
    "roberta": ("RobertaConfig", {"pad_token_id": 1, "bos_token_id": 0}),
    "distilbert": ("DistilBertConfig", {"hidden_dim": 16}),
    "llama": ("LlamaConfig", {}),
    "llama whose padding is its mark of the end": ("LlamaConfig", {"pad_token_id": 2}),
    "gpt2": ("GPT2Config", {}),
    "gemma2": ("Gemma2Config", {"head_dim": 8}),
}


def told(folder: Path, name: str, **changes: object) -> Path:
    """The folder with a small config of that name."""
    kind, own = {**CLASSIFIERS, **CONFIGS}.get(name, (name, {}))
    values = {**SMALL, **own, **changes}
    if kind == "XLNetConfig":
        del values["max_position_embeddings"]
    getattr(transformers, kind)(**values).save_pretrained(folder)
    return folder


def stirred(network: nn.Module) -> nn.Module:
    """The network with weights far enough from 0 for one token to matter to another."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.2, generator=random)
    return network.eval()


def built(folder: Path, shape: tuple[int, ...], classes: int, **options: object) -> nn.Module:
    """The model of a folder, stirred."""
    return stirred(build(f"transformers:{folder}", options, shape, classes))


def documents() -> list[tuple[int, int, int]]:
    """The row, start and end of each document of TOKENS."""
    found = []
    for row, places in enumerate(PLACES.tolist()):
        starts = [*(at for at, place in enumerate(places) if place == 0), sum(place >= 0 for place in places)]
        found += [(row, start, end) for start, end in pairwise(starts)]
    return found


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        (name, attention)
        for name in CONFIGS
        for attention in ("sdpa", "eager")
        if attention == "eager" or name not in EAGER
    ],
)
@torch.no_grad()
def test_a_packed_document_is_answered_as_transformers_answers_it_alone(
    name: str, attention: str, tmp_path: Path
) -> None:
    """Law: up to rounding, with windows of attention and positions that are those of the document."""
    network = built(told(tmp_path, name), CAUSAL, WORDS, attn_implementation=attention)
    packed = network(TOKENS)
    for row, start, end in documents():
        # As a user of transformers asks: forward has no hook of ours.
        alone = network.forward(input_ids=TOKENS[row : row + 1, 0, start:end]).logits[0]
        torch.testing.assert_close(packed[row, start:end], alone, atol=1e-5, rtol=0)
    assert packed.shape == (*PLACES.shape, WORDS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_asked_in_halves_where_its_last_layer_is_all_that_is_left_to_do(name: str, tmp_path: Path) -> None:
    """Law: what it hides, through its head, is its answer. BERT does more before its head, Gemma 2 behind it.

    No tensor has a second name by it.
    """
    network = built(told(tmp_path, name), CAUSAL, WORDS)
    halved = {"hidden", "head"} <= set(vars(network))
    assert halved == (not name.startswith(("gemma2", "bert")))
    if halved:
        with torch.no_grad():
            assert torch.equal(network.head(network.hidden(TOKENS)), network(TOKENS))  # type: ignore[operator]
            other = copy.deepcopy(network).apply(_halve)
            assert torch.equal(other.head(other.hidden(TOKENS)), other(TOKENS)), "also of a copy"  # type: ignore[operator]
        assert not any(each.startswith(("head", "hidden")) for each in network.state_dict())


def _halve(module: nn.Module) -> None:
    for weight in module.parameters(recurse=False):
        weight.data.mul_(0.5)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_what_comes_later_and_what_is_padding_changes_nothing(name: str, tmp_path: Path) -> None:
    """Law: and a token changes the answers at itself and after it in its document."""
    network = built(told(tmp_path, name), CAUSAL, WORDS)
    changed = TOKENS.clone()
    changed[0, 0, 5] = 3 + (TOKENS[0, 0, 5] - 2) % (WORDS - 3)
    changed[:, 0][PLACES < 0] = -100
    before, after = network(TOKENS), network(changed)
    differs = (before - after).abs().amax(-1) > 1e-6
    assert differs[0, [5, 6, 7]].all()
    differs[0, 5:10] = False
    assert not differs[PLACES >= 0].any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2 with a window", "opt, masked here"])
def test_a_student_learns_with_all_its_weights_in_mixed_precision(name: str, attention: str, tmp_path: Path) -> None:
    """Law: masks have a dtype that attention takes under autocast; logits are those in float32 up to its rounding."""
    network = built(told(tmp_path, name), CAUSAL, WORDS, attn_implementation=attention)
    exact = network(TOKENS)[PLACES >= 0]
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(TOKENS)[PLACES >= 0]
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max()
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize("name", ["llama", "llama tied", "gpt2", "gemma2 with a window"])
@torch.no_grad()
def test_a_checkpoint_of_transformers_fits_also_where_it_leaves_out_tied_weights(name: str, tmp_path: Path) -> None:
    """Law: it answers as its own library; what we write fits the library, and us again."""
    config = transformers.AutoConfig.from_pretrained(told(tmp_path, name))
    model = stirred(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    assert ("lm_head.weight" in load_file(path)) == (name == "llama")
    network = build(f"transformers:{tmp_path}", {}, CAUSAL, WORDS).eval()
    fit_state(network, load_state(path), path)
    expected = model(input_ids=TOKENS[2:, 0]).logits
    torch.testing.assert_close(network(TOKENS)[2:], expected, atol=1e-6, rtol=0)
    assert set(network.state_dict()) == set(model.state_dict())
    save_state(path, network.state_dict())
    again = build(f"transformers:{tmp_path}", {}, CAUSAL, WORDS).eval()
    fit_state(again, load_state(path), path)
    assert again(TOKENS).equal(network(TOKENS))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert theirs(input_ids=TOKENS[2:, 0]).logits.equal(expected)


@pytest.mark.parametrize("name", ["llama", "llama tied"])
def test_a_model_that_transformers_saved_in_several_files_is_the_same_one(name: str, tmp_path: Path) -> None:
    """Law: its index names what the one file holds, bit for bit."""
    config = transformers.AutoConfig.from_pretrained(told(tmp_path, name))
    model = stirred(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="1KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    whole = load_state(tmp_path / "whole/model.safetensors")
    parts = load_state(tmp_path / "parts/model.safetensors.index.json")
    assert whole.keys() == parts.keys()
    assert all(parts[tensor].equal(whole[tensor]) for tensor in whole)


def test_a_checkpoint_that_says_two_things_of_one_tensor_is_refused(tmp_path: Path) -> None:
    """Law: as is one that lacks a tensor which is in no other's memory; equal values are one."""
    network = build(f"transformers:{told(tmp_path, 'llama tied')}", {}, CAUSAL, WORDS)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fit_state(network, state, tmp_path)
    state["lm_head.weight"][0, 0] += 1
    with pytest.raises(
        TeacherError, match=r"LlamaForCausalLM: \S+ is not \S+, and the model ties them\. Name the model"
    ):
        fit_state(network, state, tmp_path)
    del state["lm_head.weight"], state["model.norm.weight"]
    with pytest.raises(TeacherError, match=r"LlamaForCausalLM: model\.norm\.weight is missing\. Name"):
        fit_state(network, state, tmp_path)
    del state["model.embed_tokens.weight"]
    with pytest.raises(TeacherError, match=r"model\.embed_tokens\S+ is missing; model\.norm\S+ is missing; lm_head"):
        fit_state(network, state, tmp_path)


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_a_classifier_answers_a_padded_text_as_transformers_answers_it_alone(name: str, tmp_path: Path) -> None:
    """Law: whatever stands in the padding, from a checkpoint that the library wrote."""
    folder = told(tmp_path, name, num_labels=CLASSES)
    model = stirred(AutoModelForSequenceClassification.from_config(transformers.AutoConfig.from_pretrained(folder)))
    save_file(model.state_dict(), folder / "w.safetensors")
    network = build(f"transformers:{folder}", {}, TEXTS, CLASSES).eval()
    fit_state(network, load_state(folder / "w.safetensors"), folder)
    lengths = torch.tensor([9, 1, 12])
    places = torch.arange(LENGTH).where(torch.arange(LENGTH) < lengths[:, None], -1)
    ids = torch.randint(3, WORDS, places.shape, generator=torch.Generator().manual_seed(0))
    answers = network(torch.stack([ids.where(places >= 0, -100), places], 1))
    for answer, row, length in zip(answers, ids, lengths, strict=True):
        torch.testing.assert_close(answer, model(input_ids=row[None, :length]).logits[0], atol=1e-5, rtol=0)
    assert answers.shape == (3, CLASSES)


def test_options_and_the_dataset_decide_as_for_images(tmp_path: Path) -> None:
    """Law: classes become num_labels, the option is refused; weights are float32, whatever the config says."""
    folder = told(tmp_path, "bert", dtype="bfloat16")
    network = build(f"transformers:{folder}", {"num_hidden_layers": 1}, TEXTS, 7)
    assert (network.config.num_labels, len(network.bert.encoder.layer)) == (7, 1)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert network.training
    with pytest.raises(ConfigError, match=r"num_labels follows from the classes of the dataset"):
        build(f"transformers:{folder}", {"num_labels": 3}, TEXTS, 7)


def test_a_vocabulary_may_be_larger_than_the_datasets_and_not_smaller(tmp_path: Path) -> None:
    """Law: the embedding is never resized."""
    folder = told(tmp_path, "llama")
    assert build(f"transformers:{folder}", {}, CAUSAL, 30)(TOKENS % 30).shape == (*PLACES.shape, WORDS)
    said = rf"transformers:{folder}: the dataset's tokens go up to 40, the model knows 40 \(vocab_size .*\)\. Tokenize"
    with pytest.raises(ConfigError, match=said):
        build(f"transformers:{folder}", {}, CAUSAL, WORDS + 1)


def test_sequences_longer_than_the_model_knows_are_refused(tmp_path: Path) -> None:
    """Law: some answer them in their own way, others raise; none was trained on them."""
    folder = told(tmp_path, "llama")
    most = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    build(f"transformers:{folder}", {}, (3, most), WORDS)
    said = rf"sequences have {most + 1} tokens, the model knows {most} positions .* Set a smaller dataset\.length"
    with pytest.raises(ConfigError, match=said):
        build(f"transformers:{folder}", {}, (3, most + 1), WORDS)


APART = r"does not keep apart the documents that are packed into one sequence, or sees what comes later"


@pytest.mark.parametrize(
    ("name", "changes", "shape", "said"),
    [
        ("BloomConfig", {}, CAUSAL, rf"transformers:.*: a BloomForCausalLM {APART}\. Take another model: those whose"),
        ("MambaConfig", {}, CAUSAL, rf"a MambaForCausalLM {APART}"),
        ("BertConfig", {}, CAUSAL, rf"a BertLMHeadModel {APART}"),
        ("RecurrentGemmaConfig", {"lru_width": 16}, CAUSAL, rf"a RecurrentGemmaForCausalLM {APART}"),
        ("ViTConfig", {"vocab_size": 99}, CAUSAL, r"ValueError: Unrecognized configuration class .*ViTConfig"),
        ("BertConfig", {}, (8, LENGTH), r"images \[.*\] or sequences of tokens \[2 or 3, length\], but .* \[8, 12\]"),
        ("BertConfig", {}, (64,), r"'transformers:.*' takes images .* are \[64\]\. Use the model 'mlp'"),
        ("LlamaConfig", {"pad_token_id": None}, TEXTS, r"pad_token_id is None .* a LlamaForSeq.* from 0 to 39"),
        (
            "XLNetConfig",
            {"d_head": 8},
            TEXTS,
            r"a XLNetForSequenceClassification answers otherwise once a text is padded",
        ),
        ("FNetConfig", {}, TEXTS, r"a FNetForSequenceClassification answers otherwise"),
    ],
)
def test_a_model_that_cannot_be_asked_about_these_inputs_is_refused(
    name: str, changes: dict[str, object], shape: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    """Law: none mixes documents, sees what comes later, or takes padding for a text without a word."""
    folder = told(tmp_path, name, **changes)
    with pytest.raises(ConfigError, match=said):
        build(f"transformers:{folder}", {}, shape, CLASSES)


def test_rotary_positions_that_depend_on_the_batch_are_refused(tmp_path: Path) -> None:
    """Law: where the sequences are long enough for that."""
    folder = told(tmp_path, "LlamaConfig")
    path = folder / "config.json"
    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": rotary}))
    assert build(f"transformers:{folder}", {}, (3, 32), WORDS)(TOKENS).shape == (*PLACES.shape, WORDS)
    with pytest.raises(ConfigError, match=r"rotary positions \(dynamic\) are other ones .* longer than 32, so that"):
        build(f"transformers:{folder}", {}, (3, 33), WORDS)


def test_a_tokenizer_beside_a_model_is_known_by_its_digest(tmp_path: Path) -> None:
    """Law: the sha256 of its file, and nothing where there is none."""
    names = ("gpt", "timm:resnet18", "my_models:build", f"transformers:{tmp_path}", "transformers:none/such")
    assert {tokenizer_digest(name) for name in names} == {None}
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    assert tokenizer_digest(f"transformers:{tmp_path}") == hashlib.sha256(b"{}").hexdigest()
