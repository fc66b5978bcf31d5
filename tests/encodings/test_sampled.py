"""Sampled labels, of rows and of records of positions: unbiased, exact where they say so, the same when drawn again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import encodings
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import LabelSpec, SampledLabels
from pipeline.losses import kl

CLASSES = 40
SPEC = LabelSpec("sampled", CLASSES, "float32", k=6, temperatures=(1.0,))
ROWS = {
    "peaked": torch.linspace(0, -30, CLASSES),
    "flat": torch.zeros(CLASSES),
    "tied": torch.tensor([5.0, 5.0, 5.0] + [0.0] * (CLASSES - 3)),
    "one class": torch.tensor([500.0] + [0.0] * (CLASSES - 1)),
    "ordinary": torch.randn(CLASSES, generator=torch.Generator().manual_seed(3)) * 2,
}


def drawn(logits: torch.Tensor, spec: LabelSpec = SPEC, first: int = 0) -> SampledLabels:
    """Through the cache and back, each row by another id."""
    ids = np.arange(first, first + len(logits))
    record = encodings.encode(spec, logits, torch.full((len(logits),), -1), ids)
    labels = encodings.decode(spec, {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()})
    assert isinstance(labels, SampledLabels)
    return labels


def threshold(logits: torch.Tensor, spec: LabelSpec) -> float:
    """The tau of a record, which its logits decide alone."""
    return encodings.encode(spec, logits, torch.tensor([-1]), np.arange(1))["tau"].item()


def dense(labels: SampledLabels) -> torch.Tensor:
    """The weights of all classes, [N, C]."""
    whole = torch.zeros(len(labels.ids_NK), labels.classes, dtype=torch.float64)
    return whole.scatter_add(1, labels.ids_NK, labels.weights_NK.double())


def check_unbiased(weights_DC: torch.Tensor, p_C: torch.Tensor, variance_C: torch.Tensor) -> None:
    """The mean of D draws within five standard deviations of p, and of a float's own error."""
    bound_C = 5 * (variance_C / len(weights_DC)).sqrt() + 1e-5 * p_C + 1e-9
    assert ((weights_DC.mean(dim=0) - p_C).abs() <= bound_C).all()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("k", [1, 6, CLASSES])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_every_class_weighs_its_probability_in_expectation(name: str, k: int, temperature: float) -> None:
    """Law: E[w] = p for every class, within a bound computed from its variance p (tau - p)."""
    spec = replace(SPEC, k=k, temperatures=(temperature,))
    weights = dense(drawn(ROWS[name].expand(2000, -1), spec))
    p = torch.softmax(ROWS[name].double() / temperature, dim=0)
    check_unbiased(weights, p, p * (threshold(ROWS[name][None], spec) - p).clamp(min=0))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_weights_of_a_row_sum_to_one(name: str, dtype: str) -> None:
    """Exactly, but for the float32 that they are added in."""
    weights = dense(drawn(ROWS[name].expand(50, -1), replace(SPEC, dtype=dtype)))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=20), st.integers(1, 22), st.booleans())
def test_exact_classes_have_their_probability_and_none_comes_twice(row: list[float], k: int, half: bool) -> None:
    """Law: the first `exact_N` weigh p, within the stated bound; ids that weigh something differ."""
    logits = torch.tensor([row])
    spec = replace(SPEC, classes=len(row), k=k, dtype="float16" if half else "float32")
    labels = drawn(logits, spec)
    assert labels.exact_N is not None
    exact = int(labels.exact_N)
    ids, weights = labels.ids_NK[0, :exact], labels.weights_NK[0, :exact].double()
    p = torch.softmax(logits.double(), dim=1)[0]
    assert ((weights.log() - p[ids].log()).abs() <= encodings.bound(spec, logits, 1.0).double()).all()
    there = labels.ids_NK[0][labels.weights_NK[0] > 0]
    assert len(set(there.tolist())) == len(there) <= k
    assert weights.diff().le(1e-12).all()


def test_a_row_is_drawn_by_its_sample_and_seed_alone() -> None:
    """Resumed, in another batch or another place, it is the same; by another seed it is not."""
    logits = ROWS["flat"].expand(8, -1)
    whole, part = drawn(logits), drawn(logits[:3], first=5)
    assert torch.equal(whole.ids_NK[5:], part.ids_NK)
    assert not torch.equal(whole.ids_NK, drawn(logits, replace(SPEC, seed=1)).ids_NK)
    assert not torch.equal(whole.ids_NK[0], whole.ids_NK[1])


POSITIONS = 5
RECORD = replace(SPEC, k=4, positions=POSITIONS)
SEQUENCE = torch.stack(list(ROWS.values()))


def test_a_record_spends_one_budget_on_its_positions() -> None:
    """Flat positions get more ids than sharp ones, all together no more than the budget; the sum is exact."""
    labels = drawn(SEQUENCE.expand(30, -1, -1), RECORD)
    assert len(labels.ids_NK) == 30 * POSITIONS
    counts = (labels.weights_NK > 0).sum(dim=1).view(30, POSITIONS)
    assert (counts.sum(dim=1) <= 4 * POSITIONS).all()
    names = list(ROWS)
    assert (counts[:, names.index("flat")] > counts[:, names.index("one class")]).all()
    torch.testing.assert_close(
        dense(labels).view(30, -1).sum(dim=1),
        torch.full((30,), float(POSITIONS), dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )


def test_each_position_of_a_record_is_unbiased() -> None:
    """Law: E[w] = p at each position, though they share one threshold."""
    weights = dense(drawn(SEQUENCE.expand(3000, -1, -1), RECORD)).view(3000, POSITIONS, CLASSES)
    tau = threshold(SEQUENCE[None], RECORD)
    for position, row in enumerate(SEQUENCE):
        p = torch.softmax(row.double(), dim=0)
        check_unbiased(weights[:, position], p, p * (tau - p).clamp(min=0))


def test_a_record_of_one_position_is_a_row() -> None:
    """The same ids and weights, but for the common rounding that a row's sum takes out."""
    logits = ROWS["ordinary"].expand(4, -1)
    single, record = drawn(logits), drawn(logits[:, None], replace(SPEC, positions=1))
    assert torch.equal(dense(single) > 0, dense(record) > 0)
    torch.testing.assert_close(dense(single), dense(record), rtol=1e-6, atol=1e-9)


def test_positions_come_back_in_their_places() -> None:
    """Exact weights belong to the position whose probabilities they are."""
    p = torch.softmax(SEQUENCE.double(), dim=1)
    labels = drawn(SEQUENCE[None], RECORD)
    assert labels.exact_N is not None
    for position in range(POSITIONS):
        exact = int(labels.exact_N[position])
        ids, weights = labels.ids_NK[position, :exact], labels.weights_NK[position, :exact].double()
        torch.testing.assert_close(weights, p[position, ids], rtol=1e-5, atol=0)


def test_the_gradient_of_kd_is_that_of_the_whole_row_in_expectation() -> None:
    """What unbiased labels are for: the mean gradient of 4000 draws is the dense one, within five deviations."""
    student = torch.randn(1, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = drawn(ROWS["ordinary"].expand(4000, -1))
    logits = student.expand(4000, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kl(logits, labels, 1.0).sum(), logits)
    truth = torch.softmax(student[0], 0) - torch.softmax(ROWS["ordinary"].double(), 0)
    deviation = gradient.std(dim=0) / 4000**0.5
    assert ((gradient.mean(dim=0) - truth).abs() <= 5 * deviation + 1e-6).all()


REFUSALS = [
    ({"k": None}, 'The encoding "sampled" needs labels.k, the number of ids a row, and found none'),
    (
        {"temperatures": (1.0, 2.0)},
        r"at one temperature that float32 can hold, but labels.temperatures = \[1.0, 2.0\]",
    ),
    ({"temperatures": ()}, r"that float32 can hold, but labels.temperatures = \[\]"),
    ({"temperatures": (1e-300,)}, r"that float32 can hold, but labels.temperatures = \[1e-300\]"),
    ({"dtype": "int8"}, 'keeps probabilities, which labels.dtype = "int8" would spoil. Set labels.dtype = "float16"'),
    ({"k": 2**17 + 1}, "are too many: expected at most 131072 ids and 65536 positions a record"),
    ({"k": 1, "positions": 2**16 + 1}, "labels.k = 1 ids at 65537 positions are too many"),
]


@pytest.mark.parametrize(("change", "said"), REFUSALS)
def test_what_cannot_be_drawn_is_refused(change: dict[str, object], said: str) -> None:
    """Before anything is asked of the teacher."""
    with pytest.raises(ConfigError, match=said):
        encodings.check(replace(SPEC, **change))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_of_many_ids_are_those_of_few(dtype: str) -> None:
    """Law: the sum of a row is mended where that is precise, also where all exact classes together weigh little."""
    logits = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0)) / 2
    spec = replace(SPEC, classes=20_000, k=6000, dtype=dtype)
    labels = drawn(logits, spec)
    assert labels.exact_N is not None
    exact = int(labels.exact_N)
    p = torch.softmax(logits.double(), dim=1)[0, labels.ids_NK[0, :exact]]
    assert 0.0 < float(p.sum()) < 0.5
    assert ((labels.weights_NK[0, :exact].double() / p).log().abs() <= encodings.bound(spec, logits, 1.0)).all()
    assert labels.weights_NK.sum().item() == pytest.approx(1, abs=1e-5)


def test_no_more_ids_are_kept_than_there_are_classes() -> None:
    """Room for more would be bytes for nothing."""
    assert encodings.arrays(replace(SPEC, classes=4, k=100))[0].row_shape == (4,)


def test_a_sick_position_is_named_by_its_record() -> None:
    """A NaN anywhere in a record of positions."""
    logits = torch.zeros(2, POSITIONS, CLASSES)
    logits[1, 3, 7] = torch.nan
    with pytest.raises(TeacherError, match=r"not finite .* for 1 of 2 samples \(ids 11\)"):
        encodings.encode(RECORD, logits, torch.full((2,), -1), np.array([10, 11]))
