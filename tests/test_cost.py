"""Multiply-adds counted by hand, and times that are times."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.cost import BATCH, cost, multiply_adds
from pipeline.datasets.arrays import ArrayDataset
from pipeline.models import build

CPU = torch.device("cpu")
IMAGE = (3, 8, 8)


def samples(rows: int) -> ArrayDataset:
    """Of sixteen numbers each."""
    return ArrayDataset(np.zeros((rows, 16), np.float32), np.arange(rows), np.zeros(rows, np.int64), 3)


class Sequences(ArrayDataset):
    """With an answer at each of four positions."""

    positions = 4


class Attention(nn.Module):
    """Two heads of 4 over 10 positions."""

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 2, 10, 4]` of the same."""
        return F.scaled_dot_product_attention(x, x, x, is_causal=self.causal)


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (nn.Linear(16, 8), (16,), 16 * 8),
        (build("mlp", {"hidden": [32, 5]}, (4, 4), 3), (4, 4), 16 * 32 + 32 * 5 + 5 * 3),
        (nn.Conv2d(3, 5, 3, padding=1), IMAGE, 8 * 8 * 5 * 3 * 9),
        (nn.Conv2d(3, 6, 3, stride=2, groups=3), IMAGE, 3 * 3 * 6 * 1 * 9),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), IMAGE, 64 * 4 * 3),
        (nn.Embedding(9, 4), None, 0),
        (Attention(), (2, 10, 4), 2 * 2 * 10 * 10 * 4),
        (Attention(causal=True), (2, 10, 4), 2 * 2 * 10 * 10 * 4),
        (
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
            (10, 16),
            10 * 16 * 3 * 16 + 2 * 10 * 10 * 16 + 10 * 16 * 16 + 2 * 10 * 16 * 32,
        ),
    ],
    ids=["linear", "mlp", "conv", "grouped", "with the rest", "embedding", "attention", "causal", "transformer"],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_multiply_adds_are_those_counted_by_hand(
    mode: type[torch.no_grad], network: nn.Module, shape: tuple[int, ...] | None, expected: int
) -> None:
    """Law: exactly; neither biases, nor what is done to numbers one by one; also where layers are fused by default."""
    inputs = torch.randn(1, *shape) if shape else torch.tensor([[1, 2]])
    network.eval()
    with mode():
        assert multiply_adds(lambda: network(inputs)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_cannot_be_counted_or_timed_is_not_known() -> None:
    """Law: a network that fails costs a run that is done no more than these figures."""

    def broken(_: np.ndarray) -> torch.Tensor:
        raise ValueError("out of order")

    found = cost(broken, samples(3), 3, CPU)
    assert (found["multiply_adds"], found["latency_seconds"], found["batch_latency_seconds"]) == (None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("rows", "batch_size", "batch"), [(200, 500, BATCH), (200, 7, 7), (5, 500, 5)])
def test_a_batch_is_no_larger_than_what_is_asked_at_once(rows: int, batch_size: int, batch: int) -> None:
    """Law: nor than 64 or the dataset; one input is always asked alone, which is what multiply-adds are of."""
    network, asked = nn.Linear(16, 3), set()

    def predict(inputs: np.ndarray) -> torch.Tensor:
        asked.add(len(inputs))
        return network(torch.from_numpy(inputs))

    found = cost(predict, samples(rows), batch_size, CPU)
    assert asked == {1, batch}
    assert (found["multiply_adds"], found["batch_latency_rows"], found["latency_device"]) == (48, batch, "cpu")
    assert 0 < found["latency_seconds"] < 1
    assert 0 < found["batch_latency_seconds"] < 1


def test_of_sequences_one_is_asked_at_a_time() -> None:
    """Law: logits of all positions of a batch may not fit into memory; of one they have to."""
    asked: set[int] = set()
    found = cost(lambda inputs: asked.add(len(inputs)), Sequences(**vars(samples(5))), 500, CPU)
    assert asked == {1}
    assert "batch_latency_seconds" not in found
