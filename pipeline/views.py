"""The view of a sample: the very input that a network sees, the same whoever asks, and its fingerprint.

A view is named by (seed, sample id, view number). There is one view a sample now, the sample itself. Its fingerprint is
taken of the dataset's own bytes, before the normalisation, which runs on the device.

Shape legend: N rows, X the shape of one input.
"""

import numpy as np
import torch
from crc32c import crc32c
from numpy.typing import NDArray

from pipeline.config import ViewSettings
from pipeline.errors import MismatchError

NAMED = 5
IMAGE_AXES = 4  # [N, C, H, W]: what channels-last is defined for


def fingerprints(inputs_NX: NDArray[np.generic]) -> NDArray[np.uint32]:
    """The crc32c of each row's bytes: `[N]`."""
    # A row of one dimension more: it is an array, and no scalar, which would mend the bytes of a damaged boolean.
    rows_NX = np.ascontiguousarray(inputs_NX)[:, None]
    return np.fromiter((crc32c(row) for row in rows_NX), np.uint32, len(inputs_NX))


def check_fingerprints(inputs_NX: NDArray[np.generic], stored_N: NDArray[np.generic], ids_N: NDArray[np.int64]) -> None:
    """Refuse inputs that are not those which the teacher saw.

    Raises:
        MismatchError: naming the first samples whose crc32c differs.

    """
    strangers = ids_N[fingerprints(inputs_NX) != stored_N]
    if strangers.size:
        named = ", ".join(map(str, strangers[:NAMED])) + (", …" if strangers.size > NAMED else "")
        raise MismatchError(
            f"{strangers.size} of the {ids_N.size} inputs of this batch are not the ones the teacher saw (sample ids "
            f"{named}): their crc32c is not the cached one. The dataset has changed since the cache was made, so its "
            "labels do not belong to it. Restore the dataset, or make a new cache."
        )


def network_input(inputs_NX: torch.Tensor, views: ViewSettings, *, channels_last: bool) -> torch.Tensor:
    """(x - mean) / std in float32 on the tensor's own device: what a network is given."""
    inputs = (inputs_NX.to(torch.float32) - views.mean) / views.std
    if channels_last and inputs.ndim == IMAGE_AXES:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs
