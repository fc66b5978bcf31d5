"""A head as top-k keeps it and a sample of the tail: exact above, unbiased below, at every temperature of the grid."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import encodings
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import DenseLabels, HeadSampledLabels, LabelSpec, SparseLabels
from pipeline.losses import kl

CLASSES = 40
GRID = (1.0, 2.0, 4.0)
SPEC = LabelSpec("head+sampled", CLASSES, "float32", k=4, temperatures=GRID, tail=5)
ROWS = [
    torch.linspace(0, -30, CLASSES),
    torch.zeros(CLASSES),
    torch.randn(CLASSES, generator=torch.Generator().manual_seed(3)) * 2,
    torch.eye(CLASSES)[7] * 500,
]


def drawn(logits: torch.Tensor, spec: LabelSpec = SPEC) -> HeadSampledLabels:
    """Through the cache and back, each row by another id."""
    record = encodings.encode(spec, logits, torch.full((len(logits),), -1), np.arange(len(logits)))
    labels = encodings.decode(spec, {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()})
    assert isinstance(labels, HeadSampledLabels)
    return labels


@pytest.mark.parametrize("row", ROWS)
def test_the_head_is_that_of_top_k(row: torch.Tensor) -> None:
    """The same record and more: whatever top-k serves, this serves alike."""
    spec = replace(SPEC, encoding="topk", tail=None)
    logits = row.expand(3, -1)
    record = encodings.encode(spec, logits, torch.tensor([-1, 0, 39]), np.arange(3))
    labels, more = encodings.decode(spec, record), drawn(logits)
    assert isinstance(labels, SparseLabels)
    for item in fields(SparseLabels):
        if item.name not in ("target_N", "standard_logsumexp_NG", "classes", "temperatures"):
            assert torch.equal(getattr(labels, item.name), getattr(more, item.name)), item.name


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("place", range(len(GRID)))
def test_every_class_of_the_tail_weighs_its_probability_in_expectation(row: torch.Tensor, place: int) -> None:
    """Law: E[w] = p at each temperature, w = p / inclusion; its variance is p^2 (1 / inclusion - 1)."""
    labels, draws = drawn(row.expand(3000, -1)), 3000
    log_p = labels.tail_logits_NM.double() / GRID[place] - labels.logsumexp_NG[:, [place]].double()
    weights = torch.zeros(draws, CLASSES, dtype=torch.float64)
    weights.scatter_add_(1, labels.tail_ids_NM, log_p.exp() / labels.tail_inclusion_NM.double())
    p = torch.softmax(row.double() / GRID[place], dim=0)
    p[labels.ids_NK[0]] = 0
    spread = weights.std(dim=0) / draws**0.5
    widest = weights.max(dim=0).values / draws  # a class that was hardly ever drawn
    assert ((weights.mean(dim=0) - p).abs() <= 5 * spread + 20 * widest + 1e-5 * p + 1e-7).all()


def test_the_divergence_is_that_of_the_whole_row_in_expectation() -> None:
    """Value and all: the mean of 3000 draws is the dense KL, within five deviations, at each temperature."""
    student = torch.randn(CLASSES, generator=torch.Generator().manual_seed(1))
    logits = ROWS[2].expand(3000, -1)
    for temperature in GRID:
        found = kl(student.expand(3000, -1), drawn(logits), temperature)
        truth = kl(student[None], DenseLabels(ROWS[2][None]), temperature)
        assert abs(found.mean() - truth).item() <= 5 * found.std().item() / 3000**0.5 + 1e-6


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12), st.integers(1, 12), st.integers(1, 12))
def test_no_class_is_stored_twice(row: list[float], k: int, tail: int) -> None:
    """Law: neither in the tail nor in head and tail; with room for all of them nothing is left to chance."""
    k = min(k, len(row))
    labels = drawn(torch.tensor([row]), replace(SPEC, classes=len(row), k=k, tail=tail))
    there = labels.tail_inclusion_NM[0].isfinite()
    stored = [*labels.ids_NK[0].tolist(), *labels.tail_ids_NM[0][there].tolist()]
    assert len(set(stored)) == len(stored)
    assert ((labels.tail_inclusion_NM > 0) & (labels.tail_inclusion_NM[0] <= 1) | ~there).all()
    if k + tail > len(row):
        assert (labels.tail_inclusion_NM[0][there] > 0.999).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tail": None}, r'The encoding "head\+sampled" needs labels.tail, .* and found none'),
        ({"tail": 2**17 + 1}, "at most 131072, and found 131073"),
        ({"dtype": "int8"}, 'too far for labels.dtype = "int8". Set labels.dtype = "float16"'),
        (
            {"k": None},
            r'The encoding "head\+sampled" needs labels\.k, the number of classes to keep a row, and found none',
        ),
        ({"k": 41}, "labels.k = 41 classes of 40 cannot be kept"),
    ],
)
def test_what_cannot_be_kept_is_refused(change: dict[str, object], said: str) -> None:
    """Before anything is asked of the teacher."""
    with pytest.raises(ConfigError, match=said):
        encodings.check(replace(SPEC, **change))


def test_a_tail_that_is_asked_of_another_encoding_is_refused() -> None:
    """A setting that would do nothing is a mistake."""
    with pytest.raises(ConfigError, match=r'The encoding "topk" samples no tail, but labels.tail = 5 was set'):
        encodings.check(replace(SPEC, encoding="topk"))


def test_sampled_logits_beyond_the_stored_dtype_are_refused() -> None:
    """At a temperature so high that a gap of 70,000 is still likely."""
    spec = replace(SPEC, dtype="float16", temperatures=(1e6,))
    logits = torch.zeros(2, CLASSES)
    logits[1, 10:] = -70000
    with pytest.raises(TeacherError, match=r"sampled logits lie farther below .* for 1 of 2 samples \(ids 1\)"):
        encodings.encode(spec, logits, torch.tensor([-1, -1]), np.arange(2))
