"""What an answer of a network costs: multiply-adds of one input, and how long one and a batch take where it runs.

Seconds are of one machine, on one day: they decide nothing, and no two machines' are to be compared. Not for sequences
in batches, whose logits of all positions may not fit into memory at once: of these, one is timed.

Shape legend: N rows, X the shape of one input, C classes.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from statistics import median
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from pipeline.datasets import Dataset
from pipeline.errors import SoftLabelsError
from pipeline.views import viewed

REPEATS, SECONDS = 20, 0.1  # at most, whichever comes first; once at least
BATCH = 64
FAILURES = (SoftLabelsError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)
"""What may come of a network that someone else wrote, or of memory that does not take the batch."""
ATTENTION = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math_for_mps")
"""What attention is on devices that torch's own table of what counts leaves out."""

Figures = dict[str, int | float | str | None]


@torch.no_grad()
def cost(
    predict: Callable[[NDArray[np.generic]], torch.Tensor], dataset: Dataset, batch_size: int, device: torch.device
) -> Figures:
    """What it costs to be told the logits of the first samples of a dataset.

    Args:
        predict: from inputs in memory to logits on the device; what it takes to get them there counts.
        dataset: of the samples.
        batch_size: the most that are asked about at once; no more than 64 are.
        device: where the network runs.

    Returns:
        `multiply_adds` of one input, as `multiply_adds` counts them; `latency_seconds` of one input and
        `batch_latency_seconds` of a batch of `batch_latency_rows`, each a median of repeats after a warm-up; and the
        `latency_device`. What fails is not known: None.

    """
    rows = 1 if viewed(dataset).positions is not None else min(BATCH, batch_size, len(dataset))
    inputs_NX = dataset.inputs(np.arange(rows))
    found: Figures = {
        "multiply_adds": multiply_adds(lambda: predict(inputs_NX[:1])),
        "latency_seconds": _seconds(lambda: predict(inputs_NX[:1]), device),
        "latency_device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    if rows > 1:
        found |= {"batch_latency_rows": rows, "batch_latency_seconds": _seconds(lambda: predict(inputs_NX), device)}
    return found


def multiply_adds(answer: Callable[[], object]) -> int | None:
    """How many products of two numbers are added up while something is answered; None if that cannot be counted.

    Half of what torch's FlopCounterMode finds: those of matrix products, convolutions and attention, masked parts of it
    too. Not counted: biases, activations, normalisations, softmax, pooling, look-ups in tables of embeddings, fused
    recurrent layers, and kernels of other libraries, such as those of quantised weights.
    """
    attention = {getattr(torch.ops.aten, name): _attention for name in ATTENTION if hasattr(torch.ops.aten, name)}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(
        value=False
    )  # whole layers fused into one kernel, which cannot be seen into
    try:
        with suppress(*FAILURES):
            with FlopCounterMode(display=False, custom_mapping=attention) as counter:
                answer()
            return int(counter.get_total_flops()) // 2
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)
    return None


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """Twice the multiply-adds of attention, of the shapes of its inputs: those of scores, and of what they weigh."""
    *heads, queries, width = query
    return 2 * prod(heads) * queries * key[-2] * (width + value[-1])


def _seconds(answer: Callable[[], object], device: torch.device) -> float | None:
    """The median of repeats, after a first one that is not counted."""
    taken: list[float] = []
    with suppress(*FAILURES):
        answer()
        _wait(device)
        while len(taken) < REPEATS and sum(taken) < SECONDS:
            begun = perf_counter()
            answer()
            _wait(device)
            taken.append(perf_counter() - begun)
    return median(taken) if taken else None


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
