"""Counts of draws: unbiased, exact, summing to the number of draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import encodings
from pipeline.errors import ConfigError
from pipeline.labels import LabelSpec, SampledLabels

CLASSES = 30
SPEC = LabelSpec("multinomial", CLASSES, "float16", k=20, temperatures=(2.0,))


def drawn(logits: torch.Tensor, spec: LabelSpec) -> SampledLabels:
    """Through the cache and back."""
    record = encodings.encode(spec, logits, torch.full((len(logits),), -1), np.arange(len(logits)))
    labels = encodings.decode(spec, {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()})
    assert isinstance(labels, SampledLabels)
    return labels


@pytest.mark.parametrize("row", [torch.zeros(CLASSES), torch.linspace(0, -40, CLASSES), torch.eye(CLASSES)[3] * 500])
def test_every_class_weighs_its_probability_in_expectation(row: torch.Tensor) -> None:
    """Law: E[w] = p, within five standard deviations sqrt(p (1 - p) / k) of a mean of 3000."""
    labels = drawn(row.expand(3000, -1), SPEC)
    weights = torch.zeros(3000, CLASSES, dtype=torch.float64)
    weights.scatter_add_(1, labels.ids_NK, labels.weights_NK.double())
    p = torch.softmax(row.double() / 2, dim=0)
    bound = 5 * (p * (1 - p) / 20 / 3000).sqrt() + 1e-5 * p + 1e-9
    assert ((weights.mean(dim=0) - p).abs() <= bound).all()


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=9), st.integers(1, 300))
def test_counts_sum_to_the_draws_and_no_class_comes_twice(row: list[float], draws: int) -> None:
    """Law: for any number of draws and classes; weights are whole counts of them."""
    labels = drawn(torch.tensor([row]), replace(SPEC, classes=len(row), k=draws))
    counts = labels.weights_NK[0].double() * draws
    assert counts.sum().item() == pytest.approx(draws)
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)
    there = labels.ids_NK[0][counts > 0]
    assert len(set(there.tolist())) == len(there)


@pytest.mark.parametrize(
    ("draws", "dtype", "room"), [(5, "uint8", 5), (254, "uint8", CLASSES), (255, "uint16", 30), (65535, "uint32", 30)]
)
def test_counts_take_the_narrowest_integer_that_leaves_a_number_free(draws: int, dtype: str, room: int) -> None:
    """A row has room for every class that its draws may hit."""
    ids, counts = encodings.arrays(replace(SPEC, k=draws))
    assert (counts.dtype, counts.row_shape, ids.row_shape) == (dtype, (room,), (room,))


def test_what_cannot_be_drawn_is_refused() -> None:
    """As for `sampled`, by its own name."""
    with pytest.raises(ConfigError, match=r'The encoding "multinomial" needs labels\.k'):
        encodings.check(replace(SPEC, k=None))
