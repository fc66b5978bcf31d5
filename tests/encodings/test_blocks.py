"""Logits that are never whole: a record does not depend on how it is cut, and no more than a block is ever made."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline import encodings
from pipeline.encodings import blocks
from pipeline.encodings.blocks import Deferred
from pipeline.errors import TeacherError
from pipeline.labels import LabelSpec

CLASSES, LENGTH, WIDTH, PADDING = 70, 6, 4, 3
SPECS = [
    LabelSpec("dense", CLASSES, "float16", positions=LENGTH),
    LabelSpec("topk", CLASSES, "float16", k=3, temperatures=(1.0, 4.0), positions=LENGTH),
    LabelSpec("sampled", CLASSES, "float32", k=3, temperatures=(1.0,), positions=LENGTH),
    LabelSpec("sampled", CLASSES, "float32", k=CLASSES, temperatures=(1.0,), positions=LENGTH),
    LabelSpec("multinomial", CLASSES, "float32", k=3, temperatures=(1.0,), positions=LENGTH),
    LabelSpec("head+sampled", CLASSES, "float16", k=2, tail=3, temperatures=(1.0, 2.0), positions=LENGTH),
]


class Head:
    """Weights and vectors of few bits, so that every sum is exact, in whatever order; remembers what was asked."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.weight = torch.randint(-8, 9, (CLASSES + PADDING, WIDTH), generator=random) / 8
        self.asked: list[int] = []

    def __call__(self, hidden_NLE: Tensor) -> Tensor:
        """[N, L, E] to [N, L, C] and a few classes that no token has."""
        self.asked.append(hidden_NLE.shape[:-1].numel())
        return hidden_NLE @ self.weight.T


@pytest.fixture(params=[1, 2 * CLASSES, LENGTH * CLASSES, 2 * LENGTH * CLASSES])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """How many logits a block has."""
    monkeypatch.setattr(blocks, "WHOLE", request.param)
    return request.param


def hidden(samples: int, seed: int = 0) -> Tensor:
    """Some vectors that make peaked and flat positions, and tied logits."""
    random = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([0.0, 1.0, 8.0])[torch.randint(0, 3, (samples, LENGTH, 1), generator=random)]
    return torch.randint(-8, 9, (samples, LENGTH, WIDTH), generator=random) / 8 * sizes


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.encoding}-{spec.k}")
def test_a_record_is_the_same_whole_and_in_blocks_and_no_more_than_a_block_is_made(spec: LabelSpec, most: int) -> None:
    """Law: every array, to the bit; at least one position is asked for at once."""
    head, given_NLE, ids = Head(), hidden(5), np.arange(5) + 10
    labels_NL = torch.randint(-1, CLASSES, (5, LENGTH), generator=torch.Generator().manual_seed(2))
    whole = encodings.encode(spec, Head()(given_NLE)[..., :CLASSES], labels_NL, ids)
    record = encodings.launch(spec, Deferred(given_NLE, head, CLASSES), labels_NL, ids)
    assert list(record) == list(whole)
    for name, array in record.items():
        assert torch.equal(array.nan_to_num(7.0), whole[name].nan_to_num(7.0)), name
        assert array.shape == (5, *{each.name: each.row_shape for each in encodings.arrays(spec)}[name])
    assert max(head.asked) * CLASSES <= max(most, CLASSES)
    assert sum(head.asked) in {5 * LENGTH, 10 * LENGTH}, "no position is made more than twice"


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, LENGTH * CLASSES))
def test_what_is_drawn_of_a_record_does_not_depend_on_its_cuts(seed: int, k: int, most: int) -> None:
    """Law: for every budget and every size of a block, also where many logits are tied."""
    spec = LabelSpec("sampled", CLASSES, "float32", k=k, temperatures=(1.0,), seed=seed, positions=LENGTH)
    logits_NLC, ids = Head()(hidden(2, seed))[..., :CLASSES], np.arange(2)
    unlabelled = torch.full((2, LENGTH), -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "WHOLE", 2 * LENGTH * CLASSES)
        whole = encodings.launch(spec, logits_NLC, unlabelled, ids)
        patch.setattr(blocks, "WHOLE", most)
        cut = encodings.launch(spec, logits_NLC, unlabelled, ids)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.encoding}-{spec.k}")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_deferred_position_that_is_not_finite_is_named(spec: LabelSpec, value: float, most: int) -> None:
    """Law: by its sample and its place, though its logits are not kept."""
    assert most
    given_NLE, ids = hidden(5), np.arange(5) + 10
    given_NLE[3, 4, 0] = value
    logits = Deferred(given_NLE, Head(), CLASSES)
    assert not encodings.storable(encodings.launch(spec, logits, torch.full((5, LENGTH), -1), ids))
    with pytest.raises(TeacherError, match=r"not finite .* samples \(ids 13\), first at position 4"):
        encodings.refuse(spec, logits, ids)


def test_deferred_logits_that_changed_since_are_told_as_such() -> None:
    """Law: what could not be stored, and can now, is no row to guess at."""
    logits = Deferred(hidden(2), Head(), CLASSES)
    with pytest.raises(TeacherError, match=r"of 1 samples \(the first with id 10\) could not be stored, and changed"):
        encodings.refuse(SPECS[1], logits, np.array([10, 11]))


def test_a_head_of_too_few_classes_is_refused() -> None:
    """Law: padding is left out, and nothing is made up."""
    logits = Deferred(hidden(2), Head(), CLASSES + PADDING + 1)
    with pytest.raises(TeacherError, match=r"head gives logits of shape \[2, 6, 73\].*\[2, 6, 74\] was expected"):
        logits.made()
