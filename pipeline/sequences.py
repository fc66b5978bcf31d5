"""Sequences of tokens as samples: what a network is given of one, and which of its positions teach.

A sample is an array of integers, [R, L], with a row for each of these:

    IDS        the tokens
    POSITIONS  the place of each in its document, from 0; -1 for padding, which is behind everything else
    TARGETS    the token that is to come next, -1 where nothing is to be learnt; only where each position has an answer

A sequence may hold several documents. Each begins where its positions begin again at 0, and none sees another. A
network is given the first two rows, [N, 2, L] in int64, and never the third.

Shape legend
    N  rows (samples)
    L  positions of a sequence
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from pipeline.errors import MismatchError

IDS, POSITIONS, TARGETS = range(3)
SHOWN = 2
NONE = -1


def documents(positions_NL: Tensor) -> Tensor:
    """The number of the document that each token is of, from 1, [N, L]; 0 for padding."""
    return (positions_NL == 0).cumsum(dim=-1) * (positions_NL >= 0)


def attention_mask(positions_NL: Tensor) -> Tensor:
    """Which tokens each may see, [N, L, L]: itself and those before it in its document. Padding sees itself.

    >>> import torch
    >>> attention_mask(torch.tensor([[0, 1, 0, -1]])).int().tolist()
    [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]
    """
    document_NL = documents(positions_NL)
    same_NLL = document_NL[:, :, None] == document_NL[:, None, :]
    there_NLL = (document_NL > 0)[:, :, None]
    itself = same_NLL.new_ones(same_NLL.shape[1:]).triu().tril()
    return (same_NLL & there_NLL).tril() | itself


def shown(inputs_NRL: Tensor) -> Tensor:
    """What a network is given of sequences: int64, [N, 2, L]. Samples of another form are a user's own, given whole."""
    rows = inputs_NRL[:, :SHOWN] if inputs_NRL.ndim == TARGETS + 1 else inputs_NRL
    return rows.long()


def there(inputs_NRL: Tensor) -> Tensor | None:
    """Which positions are no padding, [N, L]; None of samples of a user's own form."""
    return inputs_NRL[:, POSITIONS] >= 0 if inputs_NRL.ndim == TARGETS + 1 else None


def refuse_other_tokenizer(network: Module, tokenizer: str | None) -> None:
    """Refuse a network of other tokens than a dataset's: its ids would mean other words.

    Args:
        network: of a library, it may know the sha256 of its tokenizer, as `tokenizer_sha256`.
        tokenizer: the sha256 of the dataset's; None: it does not say.

    Raises:
        MismatchError: both are known, and differ.

    """
    known = getattr(network, "tokenizer_sha256", None)
    if known and tokenizer and known != tokenizer:
        raise MismatchError(
            f"The network {type(network).__name__} has the tokenizer {known[:12]}, and the dataset was made with "
            f"{tokenizer[:12]}: the same ids are other words. Tokenise the texts with the tokenizer.json beside the "
            "model, or use a model of the dataset's tokenizer."
        )


def targets(inputs_NRL: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places among all N L positions that have a target, rising, and these targets."""
    flat = np.asarray(inputs_NRL[:, TARGETS], np.int64).ravel()
    places = np.flatnonzero(flat != NONE)
    return places, flat[places]
