"""Encoding a vocabulary's logits to top-k against the matrix product that makes them, on the same device.

4096 rows of a hidden state of 896 numbers times a vocabulary of 151,936 (Qwen2.5-0.5B's last layer), in float32 on a
CPU and bfloat16 on a GPU; then the 16 largest, logsumexp at four temperatures and the statistics, and whether all of
it can be stored. On a CPU both work on the same blocks of 512 rows, so that their logits fit into memory.

    python -m benchmarks.encoding [--quick] [--rounds 5]
"""

from time import perf_counter

import click
import numpy as np
import torch

from benchmarks.results import compared, publish
from pipeline import encodings
from pipeline.labels import LabelSpec

ROWS, QUICK_ROWS, WIDTH = 4096, 128, 896
BLOCK = {"cpu": 512, "cuda": 4096}
VOCABULARY = LabelSpec("topk", 151_936, "float16", k=16, temperatures=(1.0, 2.0, 4.0, 8.0))


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter()


@torch.inference_mode()
def seconds(hidden_ND: torch.Tensor, weight_CD: torch.Tensor) -> tuple[float, float]:
    """How long encoding took, and the product before it, over all blocks."""
    device, encoding, product = hidden_ND.device, 0.0, 0.0
    ids, labels_N = np.arange(len(hidden_ND)), torch.arange(len(hidden_ND), device=device)
    for start in range(0, len(hidden_ND), BLOCK[device.type]):
        block = slice(start, start + BLOCK[device.type])
        begun = clock(device)
        logits_NC = hidden_ND[block] @ weight_CD.T
        made = clock(device)
        record = encodings.launch(VOCABULARY, logits_NC, labels_N[block], ids[block])
        if not encodings.storable(record):
            encodings.refuse(VOCABULARY, logits_NC, ids[block])
        product += made - begun
        encoding += clock(device) - made
    return encoding, product


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help=f"{QUICK_ROWS} rows only.")
def main(rounds: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = QUICK_ROWS if quick else ROWS
    random = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(rows, WIDTH, generator=random).to(device, dtype)
    weight_CD = torch.randn(VOCABULARY.classes, WIDTH, generator=random).mul_(0.1).to(device, dtype)  # logits of std 3
    seconds(hidden_ND[:QUICK_ROWS], weight_CD)  # to warm up
    pairs = [seconds(hidden_ND, weight_CD) for _ in range(rounds)]
    name = (
        f"top-{VOCABULARY.k} of {rows} x {VOCABULARY.classes:,} on {device.type}, against the product that makes them"
    )
    publish("encoding", [compared(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])], keep=not quick)


if __name__ == "__main__":
    main()
