"""The front door of the encodings: what it refuses, and what every encoding promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import encodings
from pipeline.encodings import ENCODINGS
from pipeline.errors import ConfigError, DatasetError, TeacherError
from pipeline.labels import LabelSpec

SPECS = [
    LabelSpec("dense", classes=7, dtype="float32"),
    LabelSpec("dense", classes=7, dtype="float16"),
    LabelSpec("topk", classes=7, dtype="float32", k=3, temperatures=(1.0, 4.0)),
    LabelSpec("topk", classes=7, dtype="float16", k=7, temperatures=(0.5,)),
    LabelSpec("dense", classes=7, dtype="int8"),
    LabelSpec("topk", classes=7, dtype="int8", k=3, temperatures=(1.0, 4.0)),
    LabelSpec("topk", classes=7, dtype="float16", k=3, temperatures=(1.0, 4.0), standardised=True),
    LabelSpec("sampled", classes=7, dtype="float16", k=3, temperatures=(2.0,)),
    LabelSpec("sampled", classes=7, dtype="float32", k=1, temperatures=(1.0,)),
    LabelSpec("multinomial", classes=7, dtype="float16", k=5, temperatures=(1.0,)),
    LabelSpec("head+sampled", classes=7, dtype="float16", k=2, temperatures=(1.0, 4.0), tail=2),
]
LABELS = torch.tensor([0, 6, -1, 2])
IDS = np.array([100, 101, 102, 103])


def logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Four rows of seven logits, the same each time."""
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_every_encoding_has_a_spec_here() -> None:
    """A new encoding is held to these laws too."""
    assert {spec.encoding for spec in SPECS} == set(ENCODINGS)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_encoded_has_the_names_dtypes_and_shapes_of_the_arrays(spec: LabelSpec) -> None:
    """The store makes room by `arrays` alone."""
    record = encodings.encode(spec, logits(), LABELS, IDS)
    found = {name: (str(tensor.numpy().dtype), tuple(tensor.shape[1:])) for name, tensor in record.items()}
    assert found == {array.name: (array.dtype, array.row_shape) for array in encodings.arrays(spec)}


@pytest.mark.parametrize("spec", SPECS)
def test_no_row_is_all_fill_values(spec: LabelSpec) -> None:
    """A missing shard reads as the fill value: it must not look like a row. A target may be NaN: no true class."""
    record = encodings.encode(spec, logits(), LABELS, IDS)
    for array in encodings.arrays(spec):
        stored = record[array.name].to(torch.float64)
        held = (stored.isnan() if np.isnan(array.fill) else stored == array.fill).reshape(len(IDS), -1)
        assert held.all(dim=1).nonzero().tolist() == ([[2]] if array.name == "target" else [])


@pytest.mark.parametrize("spec", SPECS)
def test_half_precision_logits_are_widened_before_any_arithmetic(spec: LabelSpec) -> None:
    """A teacher under autocast gives bfloat16; its row is that of the same numbers in float32."""
    half = logits(torch.bfloat16)
    narrow, wide = (encodings.encode(spec, z, LABELS, IDS) for z in (half, half.float()))
    for name in narrow:
        torch.testing.assert_close(narrow[name], wide[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("spec", SPECS)
def test_every_encoding_says_how_far_off_it_is(spec: LabelSpec) -> None:
    """The bound is stated in words."""
    assert ("none" in encodings.error(spec)) != ("|log p error| <=" in encodings.error(spec))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_refused_by_sample_id(spec: LabelSpec, value: float) -> None:
    """A NaN would be stored as if the row had never been written."""
    broken = logits()
    broken[1, 3] = broken[3, 0] = value
    with pytest.raises(TeacherError, match=r"not finite \(NaN or infinite\) for 2 of 4 samples \(ids 101, 103\)"):
        encodings.encode(spec, broken, LABELS, IDS)


def test_what_is_launched_is_not_looked_at_until_it_is_asked_for() -> None:
    """A look waits for the device. A record tells by itself whether it can be stored."""
    for spec in SPECS:
        for value in (float("nan"), float("inf"), float("-inf")):
            broken = logits()
            broken[3, 0] = value
            assert encodings.storable(encodings.launch(spec, logits(), LABELS, IDS))
            assert not encodings.storable(encodings.launch(spec, broken, LABELS, IDS))


ALL_FLOATS = hnp.arrays(np.float32, (4, 7), elements=st.floats(width=32) | st.sampled_from([7e4, -7e4, 65519, 65520]))


@pytest.mark.parametrize("spec", SPECS)
@settings(deadline=None)
@given(values=ALL_FLOATS)
def test_a_batch_is_either_stored_in_finite_numbers_or_refused(spec: LabelSpec, values: np.ndarray) -> None:
    """Law: for logits of any bits; and a refusal is an error each time, never a silent return."""
    logits_NC = torch.from_numpy(values)
    record = encodings.launch(spec, logits_NC, LABELS, IDS)
    if encodings.storable(record):
        assert all(record[name].isfinite().all() for name in record if name not in ("ids", "target"))
        assert record.get("target", LABELS.float())[[0, 1, 3]].isfinite().all()
        encodings.encode(spec, logits_NC, LABELS, IDS)
    else:
        for refused in (encodings.encode, lambda spec, logits, _, ids: encodings.refuse(spec, logits, ids)):
            with pytest.raises(TeacherError, match=r"for [1-4] of 4 samples \(ids 10"):
                refused(spec, logits_NC, LABELS, IDS)


def test_a_refusal_names_five_samples_and_counts_the_rest() -> None:
    """A message stays one paragraph when all of a batch is broken."""
    broken = torch.full((9, 7), torch.nan)
    with pytest.raises(TeacherError, match=r"for 9 of 9 samples \(ids 0, 1, 2, 3, 4 and 4 more\)"):
        encodings.encode(SPECS[0], broken, torch.zeros(9, dtype=torch.int64), np.arange(9))


def test_a_teacher_of_another_number_of_classes_is_refused() -> None:
    """Seven outputs are no answer about eight classes."""
    with pytest.raises(TeacherError, match=r"of shape \[4, 7\], but the dataset has 8 classes: \[4, 8\] was expected"):
        encodings.encode(replace(SPECS[0], classes=8), logits(), LABELS, IDS)


def test_logits_of_another_rank_are_refused() -> None:
    """A feature map is no row of logits, even when one of its axes is as long."""
    with pytest.raises(TeacherError, match=r"of shape \[4, 7, 1\]"):
        encodings.encode(SPECS[0], logits()[:, :, None], LABELS, IDS)


@pytest.mark.parametrize("label", [7, -2])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    """Labels are 0 to C - 1, or -1."""
    labels = torch.tensor([0, 1, label, 2])
    with pytest.raises(DatasetError, match=rf"1 of 4 samples \(ids 102\) .* found \[{label}\], expected 0 to 6, or -1"):
        encodings.encode(SPECS[2], logits(), labels, IDS)


def test_an_unknown_encoding_is_refused_with_the_nearest_known() -> None:
    """A typing error costs one look."""
    with pytest.raises(ConfigError, match=r"no encoding 'top_k'\. Did you mean 'topk'\? .* one of: dense, topk"):
        encodings.check(replace(SPECS[0], encoding="top_k"))


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_that_fits_is_not_refused(spec: LabelSpec) -> None:
    """The checks let pass what the other tests use."""
    encodings.check(spec)
