"""Models of transformers that read sequences of tokens (`pipeline.sequences`): how they are asked, and who cannot be.

They are asked by hooks and not by a module around them, in which each tensor would have another name. Whether one keeps
apart the documents of a sequence, and overlooks padding, is not to be read off its config: it is asked, once, before it
has weights. A few tokens are compared, which takes next to nothing beside drawing the weights.

Shape legend
    N  sequences
    L  positions of a sequence
"""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.sequences import IDS, POSITIONS

Asked = tuple[tuple[()], dict[str, object]]
"""What a hook puts in the place of tokens [N, 2, L]: no positional arguments, and transformers' own by name."""

ROTARY_OF_THE_BATCH = {"dynamic", "longrope"}
"""Rotary positions that are other ones once any sequence of the batch is longer than those the model was trained on."""
NOISE = 1e-4
"""Rounding is far below such a share of an answer, and what one token tells another far above, also without weights."""


def refuse_small(model: str, config: Any, classes: int) -> None:  # noqa: ANN401 - transformers' own
    """Refuse a language model that does not know all tokens of the dataset. It may know more.

    Raises:
        ConfigError: its vocabulary is smaller.

    """
    known = config.get_text_config().vocab_size
    if known < classes:
        raise ConfigError(
            f"{model}: the dataset's tokens go up to {classes - 1}, the model knows {known} (vocab_size in its "
            "config.json). Tokenize the dataset with the tokenizer of this model, or take another model."
        )


def refuse_long(model: str, config: Any, length: int) -> None:  # noqa: ANN401 - transformers' own
    """Refuse sequences that are longer than any the model was made for.

    Raises:
        ConfigError: it says so many positions, and no more.

    """
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < length:
        raise ConfigError(
            f"{model}: the dataset's sequences have {length} tokens, the model knows {most} positions "
            "(max_position_embeddings in its config.json). Set a smaller dataset.length, or take another model."
        )


def ask_for_next(model: str, network: nn.Module, length: int) -> None:
    """Make a causal language model of transformers take tokens [N, 2, L], with documents kept apart.

    Raises:
        ConfigError: it cannot keep them apart, or sees what comes later.

    """
    _refuse_rotary_of_the_batch(model, network, length)
    failed = None
    for way in (_by_positions, _by_masks) if "position_ids" in inspect.signature(network.forward).parameters else ():
        handle = network.register_forward_pre_hook(way, with_kwargs=True)
        try:
            if _apart(network):
                _in_halves(network, way)
                return
        except Exception as error:  # noqa: BLE001 - a model that cannot be asked this way: anything may come of it
            failed = error
        handle.remove()
    said = f" ({type(failed).__name__}: {failed})" if failed else ""
    raise ConfigError(
        f"{model}: a {type(network).__name__} does not keep apart the documents that are packed into one sequence, or "
        f"sees what comes later{said}. Take another model: those whose layers are all causal attention do, such as "
        "Llama's, Qwen's, Gemma's, Mistral's and GPT-2's."
    ) from failed


def _in_halves(network: nn.Module, way: Callable[..., Asked]) -> None:
    """Let a model be asked for what its last layer is given, and that layer by itself, where no more is to be done.

    Some scale the logits, or bend them: those are left alone, and asked as a whole.
    """
    body, last = getattr(network, "base_model", network), network.get_output_embeddings()  # type: ignore[operator]
    if body is network or last is None or hasattr(network, "hidden") or hasattr(network, "head"):
        return

    def hidden(network: nn.Module, tokens_N2L: Tensor) -> Tensor:
        _, asked = way(network, (tokens_N2L,), {})
        given: Tensor = network.base_model(**asked)[0]  # type: ignore[operator]
        return given

    tokens_12L = torch.stack([torch.tensor(_words(_config(network), 4)), torch.arange(4)])[None]
    training = network.training
    network.eval()
    with torch.no_grad():
        whole = torch.equal(last(hidden(network, tokens_12L)), network(tokens_12L))
    network.train(training)
    if whole:
        # Past the network's own list of modules, in which its last layer would have two names.
        vars(network).update(hidden=MethodType(hidden, network), head=last)


def ask_for_classes(model: str, network: nn.Module) -> None:
    """Make a classifier of transformers take tokens [N, 2, L]. Each sequence is one text, whatever its positions say.

    Raises:
        ConfigError: it cannot tell padding from a text.

    """
    padding, known = _config(network).pad_token_id, _config(network).vocab_size
    if padding is None or not 0 <= padding < known:
        raise ConfigError(
            f"{model}: pad_token_id is {padding} in its config.json, and a {type(network).__name__} is to find the end "
            f"of a text by it. Set the option pad_token_id to that of its tokenizer, from 0 to {known - 1}."
        )
    network.register_forward_pre_hook(_by_padding, with_kwargs=True)
    if not _overlooks_padding(network):
        raise ConfigError(
            f"{model}: a {type(network).__name__} answers otherwise once a text is padded. Take another model."
        )


def _by_positions(_: nn.Module, tokens: tuple[Tensor], __: dict[str, object]) -> Asked:
    """Positions say by themselves where documents begin: transformers masks by them, where a model makes use of that.

    So windows and chunks of attention are those of each document. Each token of padding becomes a document of its own.
    """
    positions_NL = tokens[0][:, POSITIONS]
    # Whatever stands where padding is, it need be no token.
    ids_NL = tokens[0][:, IDS] * (positions_NL >= 0)
    return (), {"input_ids": ids_NL, "position_ids": positions_NL.clamp(min=0), "use_cache": False}


def _by_masks(network: nn.Module, tokens: tuple[Tensor], given: dict[str, object]) -> Asked:
    """The same masks, made here for a model that does not make them of its positions."""
    from transformers.masking_utils import create_masks_for_generate  # noqa: PLC0415 - nobody waits for what is not named

    _, asked = _by_positions(network, tokens, given)
    # Of the embedded tokens, only the form and the dtype are looked at.
    like = next(network.parameters()).new_empty(*tokens[0].shape[::2], 1)
    asked["attention_mask"] = create_masks_for_generate(
        _config(network),
        inputs_embeds=like,
        attention_mask=None,
        cache=None,
        position_ids=asked["position_ids"],
    )
    return (), asked


def _by_padding(network: nn.Module, tokens: tuple[Tensor], __: dict[str, object]) -> Asked:
    """Ids and what of them is text. No positions: from the start of a text, each model counts its own way."""
    there_NL = tokens[0][:, POSITIONS] >= 0
    # Decoders look for the last token that is no padding, by its id.
    ids_NL = tokens[0][:, IDS].where(there_NL, _config(network).pad_token_id)
    asked: dict[str, object] = {"input_ids": ids_NL, "attention_mask": there_NL.long()}
    if "use_cache" in inspect.signature(network.forward).parameters:
        asked["use_cache"] = False
    return (), asked


def _apart(network: nn.Module) -> bool:
    """Whether a document behind another is answered as by itself, and no token changes an answer it must not."""
    other, one, two, three = _words(_config(network), 4)
    positions = torch.tensor([0, 1, 0, 1, 2])
    first = _answer(network, torch.tensor([one, two, one, two, three]), positions)[0]
    second = _answer(network, torch.tensor([one, other, one, two, other]), positions)[0]
    # As transformers itself is asked, with no hook: positions of some models do not begin at 0.
    alone = _answer(network, torch.tensor([one, two, three]))[0]
    change_L = (first - second).abs().amax(-1)
    return bool(
        change_L[[0, 2, 3]].max() <= NOISE * change_L[[1, 4]].min()
        and (first[2:] - alone).abs().max() <= NOISE * alone.abs().max()
    )


def _overlooks_padding(network: nn.Module) -> bool:
    """Whether a text is answered alike by itself and before padding, but for rounding."""
    config = _config(network)
    end = getattr(config, "eos_token_id", None)
    # Encoder-decoders want their mark at the end of each text.
    words = [*_words(config, 3)[1:], end if isinstance(end, int) else _words(config, 1)[0]]
    padded = _answer(network, torch.tensor([*words, 0, 0]), torch.tensor([0, 1, 2, -1, -1]))
    alone = _answer(network, torch.tensor(words))
    return bool((alone - padded).abs().max() <= NOISE * alone.abs().max())


def _words(config: Any, count: int) -> list[int]:  # noqa: ANN401 - transformers' own
    """The last ids of its vocabulary that mean nothing to the model itself, over again where there are too few."""
    marks = {getattr(config, mark, None) for mark in ("pad_token_id", "bos_token_id", "eos_token_id")}
    last = range(max(0, config.vocab_size - count - len(marks)), config.vocab_size)
    words = [word for word in last if word not in marks][-count:] or [0]
    return (words * count)[:count]


@torch.no_grad()
def _answer(network: nn.Module, ids_L: Tensor, positions_L: Tensor | None = None) -> Tensor:
    """The logits of one sequence, as in evaluation; without positions, those that transformers itself gives."""
    training = network.training
    network.eval()
    answer: Tensor
    if positions_L is None:
        answer = network.forward(input_ids=ids_L[None]).logits
    else:
        answer = network(torch.stack([ids_L, positions_L])[None])
    network.train(training)
    return answer


def _refuse_rotary_of_the_batch(model: str, network: nn.Module, length: int) -> None:
    config = _config(network)
    found = getattr(config, "rope_parameters", None) or {}
    for rotary in (found, *found.values()):
        kind = rotary.get("rope_type") if isinstance(rotary, dict) else None
        trained = rotary.get("original_max_position_embeddings") if isinstance(rotary, dict) else None
        if kind in ROTARY_OF_THE_BATCH and length > (trained or config.max_position_embeddings):
            raise ConfigError(
                f"{model}: its rotary positions ({kind}) are other ones once a sequence of the batch is longer than "
                f"{trained or config.max_position_embeddings}, so that a document's answers depend on its neighbours. "
                "Take sequences of at most that length."
            )


def _config(network: nn.Module) -> Any:  # noqa: ANN401 - transformers' own
    """That of its tokens, in a model that also knows images or sounds."""
    config: Any = network.config
    return config.get_text_config()
