"""Top-k labels: exact probabilities of the kept classes, the exact mass of the others, one order."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline import encodings
from pipeline.encodings import blocks, topk
from pipeline.encodings.topk import largest
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import DType, LabelSpec, SparseLabels
from pipeline.losses.logspace import complement

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
DTYPES: tuple[DType, ...] = ("float16", "float32", "int8")
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
ELEMENTS = {
    "ordinary": st.floats(-60, 60, width=32),
    "tied": st.sampled_from([-5.0, -0.0, 0.0, 5.0]),
    "constant": st.just(17.5),
    "far apart": st.floats(-30000, 30000, width=32),
}
ANY = st.one_of(*(hnp.arrays(np.float32, SHAPES, elements=elements) for elements in ELEMENTS.values()))
ORDINARY = hnp.arrays(np.float32, SHAPES, elements=ELEMENTS["ordinary"])


def spec_for(logits: np.ndarray, k: int, dtype: DType = "float32") -> LabelSpec:
    """The top k (at most all) of these logits."""
    classes = logits.shape[1]
    return LabelSpec("topk", classes=classes, dtype=dtype, k=min(k, classes), temperatures=TEMPERATURES)


def stored(logits: np.ndarray, spec: LabelSpec, labels: np.ndarray | None = None) -> SparseLabels:
    """Through the cache and back, by NumPy as in the store."""
    labels = np.full(len(logits), -1) if labels is None else labels
    record = encodings.encode(spec, torch.from_numpy(logits), torch.from_numpy(labels), np.arange(len(logits)))
    rows = {name: torch.from_numpy(tensor.numpy().copy()) for name, tensor in record.items()}
    decoded = encodings.decode(spec, rows)
    assert isinstance(decoded, SparseLabels)
    return decoded


def true_log_p(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The log of the softmax in float64, with nothing of the encoding in it."""
    counted = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    return counted - np.log(np.exp(counted).sum(axis=1, keepdims=True))


def kept_log_p(labels: SparseLabels, place: int) -> np.ndarray:
    """What the labels say, with float64 arithmetic: log p = z / T - logsumexp."""
    logits, logsumexp = labels.logits_NK.double(), labels.logsumexp_NG.double()
    return (logits / labels.temperatures[place] - logsumexp[:, [place]]).numpy()


@settings(deadline=None)
@given(ANY, st.integers(1, 12), st.sampled_from(DTYPES))
def test_log_probabilities_err_by_no_more_than_the_stated_bound(logits: np.ndarray, k: int, dtype: DType) -> None:
    """|log p error| <= (2^-11 gap + 2^-25) / T in float16, 2^-23 gap / T in float32, besides float32 sums.

    In int8 it is (1 / 508 + 2^-22) of the largest kept gap. What `bound` says of a row is the most of its classes.
    """
    spec = spec_for(logits, k, dtype)
    labels = stored(logits, spec)
    ids = labels.ids_NK.numpy()
    gap = logits.max(axis=1, keepdims=True) - np.take_along_axis(logits.astype(np.float64), ids, axis=1)
    rounding = {
        "float16": np.maximum(2.0**-11 * gap, 2.0**-25),
        "float32": 2.0**-23 * gap,
        "int8": (1 / 508 + 2.0**-22) * gap.max(axis=1, keepdims=True),
    }[dtype]
    for place, temperature in enumerate(TEMPERATURES):
        truth = np.take_along_axis(true_log_p(logits, temperature), ids, axis=1)
        errors = np.abs(kept_log_p(labels, place) - truth)
        assert (errors <= rounding * (1 + 2**-10) / temperature + 1e-6).all()
        most = encodings.bound(spec, torch.from_numpy(logits), temperature).numpy()
        assert (errors.max(axis=1) <= most * (1 + 2**-10)).all()


@settings(deadline=None)
@given(ORDINARY, st.integers(1, 12))
def test_kept_probabilities_are_those_of_the_full_softmax_at_every_temperature(logits: np.ndarray, k: int) -> None:
    """p_k(T) = softmax(z / T)_k over all classes, not over the kept."""
    labels = stored(logits, spec_for(logits, k))
    for place, temperature in enumerate(TEMPERATURES):
        truth = np.take_along_axis(np.exp(true_log_p(logits, temperature)), labels.ids_NK.numpy(), axis=1)
        np.testing.assert_allclose(np.exp(kept_log_p(labels, place)), truth, rtol=0, atol=1e-5)


@settings(deadline=None)
@given(ORDINARY)
def test_the_logsumexp_of_a_certain_teacher_keeps_its_digits(logits: np.ndarray) -> None:
    """log(1 + x) to a share of itself, where 1 + x rounds to 1: what 1 - p is known from."""
    counted = np.sort(logits.astype(np.float64) - logits.max(axis=1, keepdims=True), axis=1)[:, :-1]
    labels = stored(logits, spec_for(logits, 1))
    for place, temperature in enumerate(TEMPERATURES):
        truth = np.log1p(np.exp(counted / temperature).sum(axis=1))
        np.testing.assert_allclose(labels.logsumexp_NG[:, place].numpy(), truth, rtol=1e-4, atol=1e-37)


@settings(deadline=None)
@given(ORDINARY, st.integers(1, 11))
def test_the_complement_is_the_mass_of_the_classes_not_kept(logits: np.ndarray, k: int) -> None:
    """1 - sum of kept p = sum of the others, at every temperature."""
    labels = stored(logits, spec_for(logits, k))
    for place, temperature in enumerate(TEMPERATURES):
        others = np.exp(true_log_p(logits, temperature))
        np.put_along_axis(others, labels.ids_NK.numpy(), 0, axis=1)
        tail = complement(torch.from_numpy(kept_log_p(labels, place)).float()).exp().numpy()
        np.testing.assert_allclose(tail, others.sum(axis=1), rtol=0, atol=2e-6)
        np.testing.assert_allclose(tail + np.exp(kept_log_p(labels, place)).sum(axis=1), 1, rtol=0, atol=2e-6)


@settings(deadline=None)
@given(ORDINARY, st.integers(1, 11))
def test_the_mass_of_the_others_errs_in_int8_by_what_the_kept_ones_do(logits: np.ndarray, k: int) -> None:
    """By (exp(bound) - 1) of the kept mass without the first, which is exact; all sum to one, but for that."""
    spec = spec_for(logits, k, "int8")
    labels = stored(logits, spec)
    for place, temperature in enumerate(TEMPERATURES):
        others = np.exp(true_log_p(logits, temperature))
        kept = np.take_along_axis(others, labels.ids_NK.numpy(), axis=1)[:, 1:].sum(axis=1)
        np.put_along_axis(others, labels.ids_NK.numpy(), 0, axis=1)
        tail = complement(torch.from_numpy(kept_log_p(labels, place)).float()).exp().numpy()
        most = kept * np.expm1(encodings.bound(spec, torch.from_numpy(logits), temperature).numpy()) + 2e-6
        assert (np.abs(tail - others.sum(axis=1)) <= most).all()
        assert (np.abs(tail + np.exp(kept_log_p(labels, place)).sum(axis=1) - 1) <= most).all()


@settings(deadline=None)
@given(ANY)
def test_standardised_sums_are_those_of_all_logits(logits: np.ndarray) -> None:
    """The log of the sum of exp((z - max) / ((std + 1e-7) T)), for the std that is stored."""
    labels = stored(logits, replace(spec_for(logits, 1), standardised=True))
    assert labels.standard_logsumexp_NG is not None
    counted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    standard = counted / (labels.std_N.double()[:, None].numpy() + 1e-7)
    truth = np.log(np.exp(standard[:, :, None] / TEMPERATURES).sum(axis=1))
    np.testing.assert_allclose(labels.standard_logsumexp_NG.numpy(), truth, rtol=0, atol=2e-6)


def test_standardised_sums_of_a_constant_row_are_those_of_the_uniform() -> None:
    """It has no deviation to be divided by."""
    logits = np.full((1, 10), 17.3, np.float32)
    labels = stored(logits, replace(spec_for(logits, 2), standardised=True))
    torch.testing.assert_close(labels.standard_logsumexp_NG, torch.full((1, len(TEMPERATURES)), np.log(10)).float())


@settings(deadline=None)
@given(ANY, st.integers(1, 12), st.sampled_from(DTYPES))
def test_standardised_sums_are_one_array_more_and_change_no_other(logits: np.ndarray, k: int, dtype: DType) -> None:
    """Law: and without them the field says so."""
    spec = spec_for(logits, k, dtype)
    without, asked = stored(logits, spec), stored(logits, replace(spec, standardised=True))
    names = [array.name for array in encodings.arrays(replace(spec, standardised=True))]
    names.remove("standard_logsumexp")
    assert [array.name for array in encodings.arrays(spec)] == names
    assert without.standard_logsumexp_NG is None
    for name, tensor in vars(without).items():
        if isinstance(tensor, Tensor):
            torch.testing.assert_close(getattr(asked, name), tensor, rtol=0, atol=0, equal_nan=True)


@settings(deadline=None)
@given(ANY, st.integers(1, 12))
def test_kept_classes_come_by_falling_logit_then_rising_id(logits: np.ndarray, k: int) -> None:
    """Ties too, and those at the cut: equal logits are kept from the lowest id."""
    k = min(k, logits.shape[1])
    ids = np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
    expected = np.lexsort((ids, -logits), axis=1)[:, :k]
    np.testing.assert_array_equal(largest(torch.from_numpy(logits), k).numpy(), expected)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 700), st.integers(1, 9), st.integers(1, 300))
def test_the_order_is_the_same_in_rows_of_any_length(seed: int, classes: int, k: int, values: int) -> None:
    """Law: falling logit, then rising id, whether few or many are equal, and wherever a span of classes ends."""
    random, k = np.random.default_rng(seed), min(k, classes)
    logits = random.integers(-values, values, (3, classes)).astype(np.float32) * np.float32(-0.5)
    ids = np.broadcast_to(np.arange(classes), logits.shape)
    expected = np.lexsort((ids, -logits), axis=1)[:, :k]
    np.testing.assert_array_equal(largest(torch.from_numpy(logits), k).numpy(), expected)


@settings(deadline=None)
@given(ANY, st.integers(1, 12), st.integers(1, 40))
def test_a_row_is_encoded_the_same_in_a_block_of_any_size(logits: np.ndarray, k: int, block: int) -> None:
    """Law: blocks bound the memory and change nothing, but for the order in which a kernel sums."""
    spec = replace(spec_for(logits, k), standardised=True)
    whole = stored(logits, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CACHED", block)
        parts = stored(logits, spec)
    assert parts.ids_NK.equal(whole.ids_NK)
    assert parts.logits_NK.equal(whole.logits_NK)
    for name in ("logsumexp_NG", "standard_logsumexp_NG", "max_N", "mean_N", "std_N", "target_N"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-6, equal_nan=True)


class Widest(TorchDispatchMode):
    """Keeps the size of the largest tensor that any step makes."""

    numbers = 0

    def __torch_dispatch__(
        self,
        step: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """The step itself, measured."""
        made = step(*args, **kwargs or {})
        self.numbers = max(self.numbers, *(part.numel() for part in tree_leaves(made) if isinstance(part, Tensor)), 0)
        return made


@pytest.mark.parametrize(("classes", "k"), [(5000, 4), (100, 4)])
def test_no_step_works_on_more_than_a_block(classes: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory besides the logits and the record does not grow with the batch."""
    monkeypatch.setattr(blocks, "CACHED", 4 * classes)
    spec = LabelSpec("topk", classes, "int8", k=k, temperatures=(1.0, 2.0), standardised=True)
    logits, unlabelled = torch.zeros(80, classes, dtype=torch.bfloat16), torch.full((80,), -1)
    with Widest() as widest:
        topk.encode(spec, logits, unlabelled, np.arange(80))
    assert widest.numbers == 4 * classes


def test_ties_are_ordered_in_long_rows_of_few_values() -> None:
    """bfloat16 logits of a large vocabulary tie at nearly every cut."""
    logits = torch.randn(16, 50_000, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    expected = logits.sort(dim=1, descending=True, stable=True).indices[:, :64]
    assert torch.equal(largest(logits, 64), expected)


def test_long_rows_keep_the_stated_bound() -> None:
    """Sums over 100,000 classes in float32 are still good to 1e-6."""
    logits = (5 * np.random.default_rng(0).standard_normal((4, 100_000))).astype(np.float32)
    labels = stored(logits, spec_for(logits, 32))
    for place, temperature in enumerate(TEMPERATURES):
        truth = np.take_along_axis(true_log_p(logits, temperature), labels.ids_NK.numpy(), axis=1)
        np.testing.assert_allclose(kept_log_p(labels, place), truth, rtol=2**-23, atol=1e-6)


@settings(deadline=None)
@given(ANY, st.data())
def test_statistics_are_those_of_all_logits(logits: np.ndarray, data: st.DataObject) -> None:
    """The mean and the target count from the largest; the deviation is the population's."""
    rows, classes = logits.shape
    true = data.draw(hnp.arrays(np.int64, rows, elements=st.integers(-1, classes - 1)))
    labels = stored(logits, spec_for(logits, 1), true)
    counted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    scale = 1e-6 * (1 + np.abs(counted).max())
    np.testing.assert_array_equal(labels.max_N.numpy(), logits.max(axis=1))
    np.testing.assert_allclose(labels.mean_N.numpy(), counted.mean(axis=1), rtol=0, atol=scale)
    np.testing.assert_allclose(labels.std_N.numpy(), counted.std(axis=1), rtol=0, atol=scale)
    expected = np.where(true < 0, np.nan, counted[np.arange(rows), true])
    np.testing.assert_allclose(labels.target_N.numpy(), expected, rtol=0, atol=scale)


@settings(deadline=None)
@given(ANY, st.integers(1, 12), st.sampled_from(DTYPES))
def test_labels_keep_the_promises_of_their_type(logits: np.ndarray, k: int, dtype: DType) -> None:
    """The first logit is exactly 0, the others fall, every logsumexp is at least 0."""
    labels = stored(logits, spec_for(logits, k, dtype))
    assert (labels.logits_NK[:, 0] == 0).all()
    assert (labels.logits_NK.diff(dim=1) <= 0).all()
    assert (labels.logsumexp_NG >= 0).all()
    assert labels.ids_NK.dtype == torch.int64
    assert labels.logits_NK.dtype == torch.float32


@settings(deadline=None)
@given(hnp.arrays(np.float32, SHAPES, elements=st.integers(-400, 400).map(lambda n: n / 8)), st.integers(1, 12))
def test_a_shift_of_all_logits_changes_only_the_maximum(logits: np.ndarray, k: int) -> None:
    """Softmax does not see a shift, nor does the record (of numbers whose sums are exact)."""
    spec = spec_for(logits, k, "float16")
    here, there = stored(logits, spec), stored(logits + np.float32(1024), spec)
    assert torch.equal(here.max_N + 1024, there.max_N)
    for name in ("ids_NK", "logits_NK", "logsumexp_NG", "mean_N", "std_N"):
        assert torch.equal(getattr(here, name), getattr(there, name)), name


def test_counting_from_the_largest_keeps_float16_precise_for_logits_far_from_zero() -> None:
    """At z near 1000 a float16 is a multiple of 0.5; the gap of 0.1 is stored to 2^-11 of itself."""
    logits = np.array([[1000.0, 999.9]], np.float32)
    labels = stored(logits, spec_for(logits, 2, "float16"))
    np.testing.assert_allclose(kept_log_p(labels, 1), true_log_p(logits, 1.0), rtol=0, atol=2**-11 * 0.1 + 1e-6)


def test_only_the_grid_can_be_served() -> None:
    """Between its temperatures the tail mass is not known."""
    assert encodings.temperatures(spec_for(np.zeros((1, 3)), 2)) == TEMPERATURES


def test_a_gap_beyond_float16_is_refused_and_float32_named() -> None:
    """It is the gap of a kept class that must fit, not the logit."""
    logits = np.array([[70000, 69999, 0], [70000, 4000, 0]], np.float32)
    with pytest.raises(TeacherError, match=r"66000 below .* 65504, for 1 of 2 samples \(ids 1\).*dtype = \"float32\""):
        stored(logits, spec_for(logits, 2, "float16"))
    assert stored(logits, spec_for(logits, 2, "float32")).logits_NK[1].tolist() == [0, -66000]
    assert stored(logits[:1], spec_for(logits, 2, "float16")).logits_NK.tolist() == [[0, -1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_spread_beyond_float32_is_refused(dtype: DType) -> None:
    """Classes ruled out by the least float32 leave no finite mean and deviation."""
    logits = np.array([[0, 1, 2], [0, -3e38, 3e38]], np.float32)
    with pytest.raises(
        TeacherError, match=r"reach from -3e\+38 to 3e\+38, too far .* \(ids 1\)\. Rule classes out with"
    ):
        stored(logits, spec_for(logits, 1, dtype))


def test_a_gap_beyond_float32_is_refused_in_int8() -> None:
    """It has no step; a wider dtype would not help."""
    logits = np.array([[3e38, -3e38]], np.float32)
    with pytest.raises(TeacherError, match=r"beyond float32's largest number .* infinite\. Set a smaller labels\.k"):
        stored(logits, spec_for(logits, 2, "int8"))


def test_int8_codes_count_down_from_the_largest() -> None:
    """Case, by hand: 254 steps of 0.5."""
    spec = LabelSpec("topk", classes=6, dtype="int8", k=4, temperatures=(1.0,))
    logits = torch.tensor([[-27.0, 99.9, 100.0, -90.0, 99.0, -27.1]])
    record = encodings.encode(spec, logits, torch.tensor([-1]), np.arange(1))
    assert record["values"].tolist() == [[127, 127, 125, -127]]
    assert record["scale"].tolist() == [0.5]
    labels = encodings.decode(spec, record)
    assert isinstance(labels, SparseLabels)
    assert labels.logits_NK.tolist() == [[0, 0, -1, -127]]


GOOD = LabelSpec("topk", classes=10, dtype="float16", k=4, temperatures=(1.0, 2.0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": None}, "needs labels.k, the number of classes to keep a row, and found none"),
        ({"k": 11}, "labels.k = 11 classes of 10 cannot be kept; expected 1 to 10"),
        ({"k": 0}, "labels.k = 0 classes of 10 cannot be kept"),
        ({"temperatures": ()}, "labels.temperatures = [] is no grid"),
        ({"temperatures": (0.0, 1.0)}, "labels.temperatures = [0.0, 1.0] is no grid"),
        ({"temperatures": (-1.0,)}, "labels.temperatures = [-1.0] is no grid"),
        ({"temperatures": (1e-300,)}, "labels.temperatures = [1e-300] is no grid"),
        ({"temperatures": (float("nan"),)}, "labels.temperatures = [nan] is no grid"),
        ({"temperatures": (float("inf"),)}, "labels.temperatures = [inf] is no grid"),
        ({"temperatures": (2.0, 1.0)}, "labels.temperatures = [2.0, 1.0] is no grid"),
        ({"temperatures": (1.0, 1.0)}, "labels.temperatures = [1.0, 1.0] is no grid"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change: dict[str, Any], text: str) -> None:
    """Before the first row is asked of the teacher."""
    encodings.check(GOOD)
    with pytest.raises(ConfigError, match=re.escape(text)):
        encodings.check(replace(GOOD, **change))
