"""Which units the axes of a network's tensors count: axes of one name have their units in common.

What one tensor writes the next one reads: the rows of `wide` are the columns of `narrow`, and everything between two
residual additions reads and writes one stream. That is known here for the networks of `pipeline.models` and for those
that name their tensors as Llama, BERT, RoBERTa or DistilBERT do in transformers. Of others nothing is known, and they
are not sliced.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.models.gpt import Block
from pipeline.seeding.layers import Shape

SCALED_BY_WIDTH = ("gemma",)
"""Model types whose code multiplies by a power of the width: sliced, they would answer otherwise."""


@dataclass(frozen=True)
class Heads:
    """Those of attention: `shared` queries each have one key and value, all of one width."""

    width: int
    shared: int = 1


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor: `copies` times all units, one after the other, each of `width` entries.

    Without a name its entries are no units, and none can be left out. A `gain` multiplies what was divided by the root
    of the mean square over all units.
    """

    name: str | None = None
    width: int = 1
    copies: int = 1
    gain: bool = False

    def units(self, entries: int) -> int:
        """How many units so many entries are."""
        return entries // (self.width * self.copies)


Axes = Mapping[str, tuple[Axis, ...]]


def axes_of(shapes: Mapping[str, Shape], heads: Heads | None) -> Axes:
    """The axes of each tensor of a network by its name; none if one of the names is not known."""
    for family in (_chained, *map(_reader_of, TABLES)):
        found = family(shapes, heads or Heads(1))
        if found is not None and all(len(found[name]) == len(shape) for name, shape in shapes.items()):
            return found
    return {}


def sliceable(network: nn.Module) -> bool:
    """Whether a network with fewer units does the same with those it has."""
    return not str(getattr(getattr(network, "config", None), "model_type", "")).startswith(SCALED_BY_WIDTH)


def heads_of(network: nn.Module) -> Heads | None:
    """The heads of a network's attention, of which its tensors do not tell; None if there are none, or none known."""
    config: Any = getattr(network, "config", None)
    count = getattr(config, "num_attention_heads", None)
    if isinstance(count, int):
        keys = getattr(config, "num_key_value_heads", None) or count
        return Heads(getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // count, count // keys)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    return Heads(blocks[0].attended.in_features // blocks[0].heads) if blocks else None


Family = Callable[[Mapping[str, Shape], Heads], "dict[str, tuple[Axis, ...]] | None"]
Table = Sequence[tuple[str, str]]

_WHERE = r"(?:.*\.)?"
_NORM = (("weight", "gain"), ("bias", "stream"))


def _dense(name: str, out: str, given: str) -> Table:
    return ((rf"{name}\.weight", f"{out} {given}"), (rf"{name}\.bias", out))


def _norm(name: str) -> Table:
    return tuple((rf"{name}\.{part}", axis) for part, axis in _NORM)


OWN: Table = (
    (r"decoder\.embedding\.weight", "- stream"),
    (r"decoder\.blocks\.\d+\.asked\.weight", "qkv stream"),
    (r"decoder\.blocks\.\d+\.attended\.weight", "stream queries"),
    (r"decoder\.blocks\.\d+\.wide\.weight", "inner stream"),
    (r"decoder\.blocks\.\d+\.narrow\.weight", "stream inner"),
    (r"decoder\.(?:blocks\.\d+\.)?(?:attention_)?norm\.weight", "gain"),
    (r"head\.weight", "- stream"),
)
LLAMA: Table = (
    (r"model\.embed_tokens\.weight", "- stream"),
    *_dense(r"model\.layers\.\d+\.self_attn\.q_proj", "queries", "stream"),
    *_dense(r"model\.layers\.\d+\.self_attn\.[kv]_proj", "keys", "stream"),
    *_dense(r"model\.layers\.\d+\.self_attn\.o_proj", "stream", "queries"),
    (r"model\.layers\.\d+\.self_attn\.[qk]_norm\.weight", "-"),
    *_dense(r"model\.layers\.\d+\.mlp\.(?:gate|up)_proj", "inner", "stream"),
    *_dense(r"model\.layers\.\d+\.mlp\.down_proj", "stream", "inner"),
    (r"model\.layers\.\d+\.(?:input|post_attention)_layernorm\.weight", "gain"),
    (r"model\.norm\.weight", "gain"),
    (r"(?:lm_head|score)\.weight", "- stream"),
)
_LAYER = _WHERE + r"layer\.\d+\."
BERT: Table = (
    (_WHERE + r"embeddings\.\w+_embeddings\.weight", "- stream"),
    *_norm(_WHERE + r"(?:embeddings|layer\.\d+\.(?:attention\.)?output)\.LayerNorm"),
    *_norm(_LAYER + r"(?:sa|output)_layer_norm"),
    *_dense(_LAYER + r"attention\.(?:self\.(?:query|key|value)|[qkv]_lin)", "queries", "stream"),
    *_dense(_LAYER + r"attention\.(?:output\.dense|out_lin)", "stream", "queries"),
    *_dense(_LAYER + r"(?:intermediate\.dense|ffn\.lin1)", "inner", "stream"),
    *_dense(_LAYER + r"(?:output\.dense|ffn\.lin2)", "stream", "inner"),
    *_dense(r"(?:(?:bert|roberta)\.pooler\.dense|pre_classifier|classifier\.dense)", "pooled", "stream"),
    *_dense(r"classifier(?:\.out_proj)?", "-", "pooled"),
    # Tied to the embedding of the tokens, the last layer reads units that are those of the stream.
    *_dense(r"(?:cls\.predictions\.transform|lm_head)\.dense", "stream", "stream"),
    *_norm(r"(?:cls\.predictions\.transform\.LayerNorm|lm_head\.layer_norm)"),
    *_dense(r"(?:cls\.predictions|lm_head)\.decoder", "-", "stream"),
    (r"(?:cls\.predictions|lm_head)\.bias", "-"),
)
TABLES: Sequence[Table] = (OWN, LLAMA, BERT)


def _reader_of(table: Table) -> Family:
    def read(shapes: Mapping[str, Shape], heads: Heads) -> dict[str, tuple[Axis, ...]] | None:
        found = {}
        for name in shapes:
            said = next((axes for pattern, axes in table if re.fullmatch(pattern, name)), None)
            if said is None:
                return None
            found[name] = tuple(_axis(word, name, heads) for word in said.split())
        return found

    return read


def _axis(word: str, name: str, heads: Heads) -> Axis:
    """An axis by a word of the tables; what is not of the stream is of its layer."""
    layer = re.match(r".*?\.\d+(?=\.)", name)
    of = f"{layer[0]}." if layer else ""
    return {
        "-": Axis(),
        "stream": Axis("stream"),
        "gain": Axis("stream", gain=True),
        "pooled": Axis("pooled"),
        "inner": Axis(f"{of}inner"),
        "queries": Axis(f"{of}heads", heads.width * heads.shared),
        "keys": Axis(f"{of}heads", heads.width),
        "qkv": Axis(f"{of}heads", heads.width, copies=3),
    }[word]


_CHAINED = re.compile(
    r"\d+\.(?:(?:branch|shortcut)\.\d+\.)?(?:weight|bias|running_mean|running_var|num_batches_tracked)"
)


def _chained(shapes: Mapping[str, Shape], _: Heads) -> dict[str, tuple[Axis, ...]] | None:
    """The axes of a Sequential: layers, each reading what the one before wrote, and `Residual` blocks among them."""
    if not all(_CHAINED.fullmatch(name) for name in shapes):
        return None
    found: dict[str, tuple[Axis, ...]] = {}
    last = max((_place(name) for name, shape in shapes.items() if len(shape) > 1), default=[])
    given = Axis()
    for place in sorted({_place(name)[0] for name in shapes}):
        parts = {name: shape for name, shape in shapes.items() if _place(name)[0] == place}
        branch = {name: shape for name, shape in parts.items() if ".branch." in name}
        beside = {name: shape for name, shape in parts.items() if name not in branch}
        # What passes it by, or goes through a shortcut without weights, has its axis still.
        written = Axis(str(place)) if any(len(shape) > 1 for shape in beside.values()) else given
        if last == [place]:
            written = Axis()  # the logits
        found |= _layers(branch, given, written) | _layers(beside, given, written)
        given = written
    return found


def _layers(shapes: Mapping[str, Shape], given: Axis, written: Axis) -> dict[str, tuple[Axis, ...]]:
    """The axes of layers that read one axis first and write another one last."""
    found: dict[str, tuple[Axis, ...]] = {}
    names = sorted(shapes, key=lambda name: (_place(name), -len(shapes[name])))
    final = next((name for name in reversed(names) if len(shapes[name]) > 1), None)
    for name in names:
        shape = shapes[name]
        if len(shape) > 1:
            wrote = written if name == final else Axis(name.rpartition(".")[0])
            found[name] = (wrote, given, *(Axis() for _ in shape[2:]))
            given = wrote
        else:
            found[name] = (given,) * len(shape)
    return found


def _place(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]
