"""The one way of writing a document, and what is refused on reading."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue
from store_cases import STEADY

from pipeline.errors import CorruptError, MismatchError
from pipeline.store.canonical import DEEPEST, Document, canonical, parse
from pipeline.store.documents import Job

PATH = Path("some/free.json")
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    LEAVES | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


class Free(Document):
    """A document that holds any JSON."""

    body: JsonValue


@STEADY
@given(VALUES)
def test_what_is_written_is_read_back_and_written_the_same(value: JsonValue) -> None:
    """Law: parse inverts to_bytes, for any JSON value, and bytes are a function of the value."""
    document = Free(body=value)
    assert parse(Free, document.to_bytes(), PATH) == document
    assert parse(Free, document.to_bytes(), PATH).to_bytes() == document.to_bytes()


@STEADY
@given(st.dictionaries(TEXT, LEAVES, min_size=2, max_size=4))
def test_the_order_of_keys_does_not_matter(value: JsonValue) -> None:
    """Law: the same keys and values in another order are the same bytes."""
    assert canonical(value) == canonical(dict(reversed(value.items())))


@STEADY
@given(VALUES, st.data())
def test_another_layout_of_the_same_value_is_refused(value: JsonValue, data: st.DataObject) -> None:
    """Law: only one writing of a value is read."""
    written = json.dumps({"body": value}, indent=data.draw(st.sampled_from([None, 1, 4]))).encode()
    with pytest.raises(CorruptError, match="its layout is not the one it was written in"):
        parse(Free, written, PATH)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode byte 0xff"),
        (b'{"body": NaN}', "NaN is not JSON"),
        (b'{"body": -Infinity}', "-Infinity is not JSON"),
        (b'{"body": 1e999}', "1e999 is not a finite number"),
        (b'{"body": 1, "body": 2}', "a key is there twice"),
        (b'{"body": 1, "more": 2}', "more: Extra inputs are not permitted"),
        (b"{}", "body: Field required"),
        (b"[]", "it: Input should be"),
        (b'{"body": "\\ud800"}', "is not the free that was written"),
        (b'{"body": ' + b"9" * 5000 + b"}", "integer string conversion"),
        (b'{"body": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", "nested more than 32 levels"),
        (b"[" * 10**6, "is not the free that was written"),
    ],
)
def test_bytes_that_are_no_document_are_refused_with_the_reason(data: bytes, text: str) -> None:
    """Each refusal is a CorruptError that names the file and what is wrong with it."""
    with pytest.raises(CorruptError, match=r"some/free.json") as refusal:
        parse(Free, data, PATH)
    assert text in str(refusal.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"])
def test_what_has_no_canonical_bytes_is_not_written(value: JsonValue) -> None:
    """NaN, infinity and half a surrogate pair have no JSON that every reader agrees on."""
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        canonical([value])


def test_another_format_version_is_a_mismatch_that_names_both(job: Job) -> None:
    """A newer cache is not called damaged: the reader is too old for it."""
    newer = job.to_bytes().replace(b"softlabels/2", b"softlabels/3")
    with pytest.raises(MismatchError, match="'softlabels/3'; this version of softlabels reads 'softlabels/2'"):
        parse(type(job), newer, PATH)
