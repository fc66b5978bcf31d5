"""Small decoder-only transformers on sequences of tokens (`pipeline.sequences`): a language model and a classifier.

Pre-norm blocks with RMSNorm, a GELU between two linear layers, and rotary positions (Su et al. 2021, arXiv 2104.09864)
that begin anew with each document. Weights are drawn as GPT-2's are. Not for long sequences: the mask of attention
takes N L L bytes.

Shape legend
    N  sequences
    L  positions of a sequence
    E  width
    H  heads
    D  width of a head
    R  half of it: each pair of numbers is turned by one angle
    C  classes: the tokens of the vocabulary, or those of the classifier
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.errors import ConfigError
from pipeline.models.options import positive
from pipeline.sequences import IDS, POSITIONS, SHOWN, TARGETS, attention_mask

STD = 0.02
LONGEST = 10_000.0
"""The base of the wavelengths of rotary positions."""
AXES = 2


def gpt(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    tied: bool = True,
) -> nn.Module:
    """A causal language model: [N, 2, L] to the logits of each position's next token, [N, L, classes].

    With `tied`, the embedding of the tokens is the last layer too.

    Raises:
        ConfigError: the inputs are no sequences, or the width does not divide into heads of an even width.

    """
    _refuse_other("gpt", input_shape)
    return LanguageModel(Decoder(classes, width, depth, heads, dropout), classes, tied=tied)


def text_classifier(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    vocabulary: int,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> nn.Module:
    """A classifier of texts: [N, 2, L] to [N, classes], from the mean over each text's tokens of what `gpt` makes.

    `vocabulary` is the number of different tokens.

    Raises:
        ConfigError: the inputs are no sequences, or the width does not divide into heads of an even width.

    """
    _refuse_other("text_classifier", input_shape)
    return TextClassifier(Decoder(positive("vocabulary", vocabulary), width, depth, heads, dropout), classes)


class LanguageModel(nn.Module):
    """What a decoder makes of each token, and by the `head` the next token's logits from it."""

    def __init__(self, decoder: "Decoder", classes: int, *, tied: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = _linear(decoder.width, classes)
        if tied:
            self.head.weight = decoder.embedding.weight

    def forward(self, tokens_N2L: Tensor) -> Tensor:
        """[N, 2, L] to [N, L, C]."""
        logits: Tensor = self.head(self.hidden(tokens_N2L))
        return logits

    def hidden(self, tokens_N2L: Tensor) -> Tensor:
        """What the head is given: [N, 2, L] to [N, L, E]."""
        hidden: Tensor = self.decoder(tokens_N2L)
        return hidden


class TextClassifier(nn.Module):
    """The mean of what a decoder makes of the tokens of a text, and the logits of its classes from it."""

    def __init__(self, decoder: "Decoder", classes: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = _linear(decoder.width, classes)

    def forward(self, tokens_N2L: Tensor) -> Tensor:
        """[N, 2, L] to [N, C]."""
        there_NL1 = (tokens_N2L[:, POSITIONS] >= 0).unsqueeze(-1)
        # A row of padding alone has no mean; it is given zeros.
        mean_NE = (self.decoder(tokens_N2L) * there_NL1).sum(1) / there_NL1.sum(1).clamp(min=1)
        logits: Tensor = self.head(mean_NE)
        return logits


class Decoder(nn.Module):
    """Token ids and positions to a vector a token, made from it and those before it in its document."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        if positive("width", width) % positive("heads", heads) or width // heads % 2:
            raise ConfigError(
                f"The model options width = {width} and heads = {heads} do not fit: each head needs an even share of "
                f"the width, and would have {width / heads:g}. Mend one of them."
            )
        self.width, self.head_width = width, width // heads
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=STD)
        self.dropout = nn.Dropout(dropout)
        # Each block adds twice to what passes through all of them: the sum keeps its size, whatever the depth.
        residual_std = STD / math.sqrt(2 * positive("depth", depth))
        self.blocks = nn.ModuleList(Block(width, heads, dropout, residual_std) for _ in range(depth))
        self.norm = nn.RMSNorm(width)

    def forward(self, tokens_N2L: Tensor) -> Tensor:
        """[N, 2, L] to [N, L, E]."""
        positions_NL = tokens_N2L[:, POSITIONS]
        there_NL = positions_NL >= 0
        # Whatever stands where padding is, it need be no token.
        x_NLE = self.dropout(self.embedding(tokens_N2L[:, IDS] * there_NL))
        turns = turns_of(positions_NL.clamp(min=0), self.head_width)
        mask_N1LL = attention_mask(positions_NL).unsqueeze(1)
        for block in self.blocks:
            x_NLE = block(x_NLE, turns, mask_N1LL)
        normed: Tensor = self.norm(x_NLE)
        return normed


class Block(nn.Module):
    """x + attention(norm(x)), then x + f(norm(x)) with two linear layers for f, four times as wide between them."""

    def __init__(self, width: int, heads: int, dropout: float, residual_std: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.asked = _linear(width, 3 * width)
        self.attended = _linear(width, width, residual_std)
        self.wide = _linear(width, 4 * width)
        self.narrow = _linear(4 * width, width, residual_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NLE: Tensor, turns: tuple[Tensor, Tensor], mask_N1LL: Tensor) -> Tensor:
        """[N, L, E] to [N, L, E]."""
        x_NLE = x_NLE + self.dropout(self.attended(self._attention(self.attention_norm(x_NLE), turns, mask_N1LL)))
        added: Tensor = x_NLE + self.dropout(self.narrow(F.gelu(self.wide(self.norm(x_NLE)))))
        return added

    def _attention(self, x_NLE: Tensor, turns: tuple[Tensor, Tensor], mask_N1LL: Tensor) -> Tensor:
        query, key, value = self.asked(x_NLE).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        answer_NHLD = F.scaled_dot_product_attention(turned(query, turns), turned(key, turns), value, mask_N1LL)
        return answer_NHLD.transpose(1, 2).flatten(2)


def turns_of(positions_NL: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The cosine and the sine of each position's angles for heads of such a width, [N, 1, L, R] in float32."""
    rates_R = LONGEST ** (-torch.arange(0, width, 2, device=positions_NL.device) / width)
    angles_N1LR = positions_NL[:, None, :, None] * rates_R
    return angles_N1LR.cos(), angles_N1LR.sin()


def turned(x_NHLD: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Each pair (x_r, x_r+R) turned by its position's angle. Products of two depend on how far they are apart only."""
    cosine, sine = turns
    # In float32 also under autocast: bfloat16 does not tell far positions apart.
    first, second = x_NHLD.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x_NHLD.dtype)


def _linear(inputs: int, outputs: int, std: float = STD) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


def _refuse_other(model: str, input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != AXES or not SHOWN <= input_shape[0] <= TARGETS + 1:
        raise ConfigError(
            f"The model {model!r} takes sequences of tokens [{SHOWN} or {TARGETS + 1}, length], but the inputs of this "
            f"dataset are {list(input_shape)}. Use the model 'mlp', or a dataset of tokens."
        )
