"""Sequences of tokens to test on, and a language model whose answers are a function of what it sees."""

import numpy as np
import torch

from pipeline.seeds import generator
from pipeline.sequences import NONE

WORDS, LENGTH = 11, 6


class Packed:
    """Sequences `[3, L]` of random tokens in random documents; some targets are hidden, the end is padding."""

    classes, class_names, labels, tokenizer_sha256 = WORDS, None, None, None
    input_shape, input_dtype, positions = (3, LENGTH), np.dtype(np.int32), LENGTH

    def __init__(self, rows: int = 9, seed: int = 0) -> None:
        random = generator("sequences", seed)
        self.ids = random.permutation(10 * rows)[:rows].astype(np.int64)
        stream = random.integers(0, WORDS, rows * LENGTH).reshape(rows, LENGTH)
        first = random.random((rows, LENGTH)) < 0.3
        first[:, 0] = True
        began = np.maximum.accumulate(np.where(first, np.arange(LENGTH), 0), axis=1)
        places = np.arange(LENGTH) - began
        targets = np.full((rows, LENGTH), NONE)
        follows = places[:, 1:] > 0
        targets[:, :-1] = np.where(follows & (random.random(follows.shape) < 0.8), stream[:, 1:], NONE)
        stream[-1, 4:], places[-1, 4:], targets[-1, 3:] = 0, NONE, NONE
        self.array = np.stack([stream, places, targets], axis=1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def target_count(self) -> int:
        """How many there are."""
        return int((self.array[:, 2] != NONE).sum())

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """`[B, 3, L]`."""
        return self.array[rows]


class Speaker(torch.nn.Module):
    """Logits [N, L, V + pad] from the token and its place, with weights by a seed."""

    def __init__(self, seed: int = 0, pad: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.words = torch.nn.Parameter(torch.randn(WORDS, WORDS + pad, generator=random))
        self.places = torch.nn.Parameter(torch.randn(LENGTH, WORDS + pad, generator=random))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[N, 2, L]` to `[N, L, V + pad]`."""
        assert tokens.dtype == torch.int64
        assert tokens.shape[1:] == (2, LENGTH), "the third row would tell what comes next"
        return self.words[tokens[:, 0]] + self.places[tokens[:, 1].clamp(min=0)]
