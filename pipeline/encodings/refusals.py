"""How a refusal names the samples it is about."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SHOWN = 5


def samples(rows_N: Tensor, ids_N: NDArray[np.int64]) -> str:
    """The count and the first few ids of the rows that are True.

    >>> import torch
    >>> samples(torch.tensor([True, False, True]), np.array([10, 11, 12]))
    '2 of 3 samples (ids 10, 12)'
    >>> samples(torch.ones(8, dtype=torch.bool), np.arange(8))
    '8 of 8 samples (ids 0, 1, 2, 3, 4 and 3 more)'
    """
    found = ids_N[rows_N.cpu().numpy()].tolist()
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} of {len(ids_N)} samples (ids {', '.join(map(str, found[:SHOWN]))}{more})"
