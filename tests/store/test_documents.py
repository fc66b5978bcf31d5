"""Job, receipts and seal."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from store_cases import STEADY, fill, job_of

from pipeline.errors import CorruptError, MismatchError
from pipeline.store.canonical import Document
from pipeline.store.documents import Job, Made, Seal, cache_id, parse_job, parse_receipt, parse_seal
from pipeline.store.state import State, read_state

PARSERS = {"job": parse_job, "receipt": parse_receipt, "seal": parse_seal}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The documents of a whole cache."""
    path = tmp_path_factory.mktemp("documents") / "cache"
    fill(path, job_of())
    return read_state(path)


@pytest.fixture(scope="module")
def documents(state: State) -> dict[str, Document]:
    """One of each kind."""
    return {"job": state.job, "receipt": state.receipts[1], "seal": state.seal}


def parsed_or_refused(kind: str, data: bytes) -> Document | None:
    """The document, or None if the bytes were refused the proper way."""
    try:
        return PARSERS[kind](data, Path("a.json"))
    except (CorruptError, MismatchError) as refusal:
        assert "a.json" in str(refusal)  # noqa: PT017 - most bytes are refused, a few are a document
        return None


@pytest.mark.parametrize("kind", PARSERS)
def test_a_document_is_read_back_as_it_was_written(kind: str, documents: dict[str, Document]) -> None:
    """Law: parse inverts to_bytes."""
    again = parsed_or_refused(kind, documents[kind].to_bytes())
    assert again.to_bytes() == documents[kind].to_bytes()


@pytest.mark.promise("P12", tries=100, torture=100)
@pytest.mark.parametrize("kind", PARSERS)
@STEADY
@given(data=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_document_or_are_refused(kind: str, data: bytes) -> None:
    """Law: no bytes end a parser with anything but CorruptError or MismatchError, which name the file."""
    assert parsed_or_refused(kind, data) is None


@pytest.mark.promise("P12", tries=150, torture=150)
@pytest.mark.parametrize("kind", PARSERS)
@settings(STEADY, max_examples=150)
@given(data=st.data())
def test_a_document_with_any_one_value_replaced_is_that_other_document_or_refused(
    kind: str, data: st.DataObject, documents: dict[str, Document]
) -> None:
    """Law: what is parsed is what the bytes say; signed documents do not survive any change."""
    value = documents[kind].model_dump()
    field = data.draw(st.sampled_from(sorted(value)))
    value[field] = data.draw(JSON)
    written = (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")
    found = parsed_or_refused(kind, written)
    assert found is None or found.to_bytes() == written
    assert found is None or kind == "job" or written == documents[kind].to_bytes()


@pytest.mark.parametrize("kind", ["receipt", "seal"])
def test_a_signed_document_does_not_survive_a_flip_of_any_byte(kind: str, documents: dict[str, Document]) -> None:
    """Law: its own digest finds every single-byte change."""
    data = documents[kind].to_bytes()
    for place in range(len(data)):
        assert parsed_or_refused(kind, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None


def test_the_fingerprint_is_of_all_that_the_job_says() -> None:
    """Law: two jobs that differ in any field have different fingerprints; equal ones have the same."""
    jobs = [job_of(), job_of(rows=22), job_of(views=3), job_of(chunk_rows=8), job_of(teacher="x"), job_of(arrays=())]
    assert len({job.fingerprint for job in jobs}) == len(jobs)
    assert job_of().fingerprint == job_of().fingerprint


def test_differences_are_named_by_field_with_what_was_and_is() -> None:
    """Law: a job has no differences to itself; what was asked is named, the arrays only where nothing else differs."""

    def found(now: Job) -> dict[str, tuple[str, str]]:
        return {item.field: (item.was, item.now) for item in job_of().differences(now)}

    assert found(job_of()) == {}
    assert found(job_of(teacher="teacher-2", arrays=())) == {"teacher.sha256": ('"teacher-1"', '"teacher-2"')}
    assert found(job_of(arrays=()))["arrays[3].fill"] == ('"NaN"', "nothing")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rows": 0}, "rows = 0: expected a whole number"),
        ({"shard_rows": 6}, "shard_rows = 6 is not a multiple of chunk_rows = 4"),
        ({"shard_rows": 2**40, "chunk_rows": 2**40}, "of which 17179869184 are allowed"),
        ({"rows": "21"}, "valid integer"),
        ({"more": 1}, "Extra inputs are not permitted"),
        ({"teacher": {"accuracy": float("nan")}}, "Out of range float values are not JSON compliant"),
    ],
)
def test_a_job_that_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    """A job is checked when it is made, not when its cache is read."""
    with pytest.raises(ValidationError, match=text):
        type(job_of()).model_validate({**job_of().model_dump(), **changes})


def test_the_cache_id_does_not_depend_on_how_the_cache_was_made(state: State) -> None:
    """Law: time, host, attempt and tools are no part of it; each array's digest is."""
    made = Made(seconds=9.0, host="elsewhere", attempt=7, finished="2030-01-01T00:00:00+00:00", versions={})
    receipts = list(state.receipts.values())
    fields = [receipt.model_dump() for receipt in receipts]
    elsewhere = [type(receipts[0]).signed(**{**field, "made": made.model_dump()}) for field in fields]
    assert cache_id(state.job, {}, elsewhere) == cache_id(state.job, {}, receipts)
    fields[0]["arrays"]["logits"]["sha256"] = "0" * 64
    other = [type(receipts[0]).signed(**field) for field in fields]
    assert cache_id(state.job, {}, other) != cache_id(state.job, {}, receipts)
    assert cache_id(state.job, {"zarr.json": b""}, receipts) != cache_id(state.job, {}, receipts)


@pytest.mark.parametrize("seconds", [-1.0, 1e300, float("inf"), float("nan")])
def test_a_time_that_no_sum_can_hold_is_refused(seconds: float) -> None:
    """Law: what receipts say of time adds up to a number, whoever wrote them."""
    with pytest.raises(ValidationError, match="seconds"):
        Made(seconds=seconds, host="h", attempt=1, finished="", versions={})


def test_a_seal_counts_what_its_receipts_prove(state: State) -> None:
    """Law: shards and bytes of the seal are those of the receipts."""
    seal = state.seal
    sizes = [proof.bytes for receipt in state.receipts.values() for proof in receipt.arrays.values()]
    assert (seal.shards, seal.bytes) == (len(state.receipts), sum(sizes))
    assert isinstance(seal, Seal)
    assert seal.about == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"view": 1}, "it is for shard, view, start, stop = (1, 1, 8, 16), where (1, 0, 8, 16) was expected"),
        ({"job": "0" * 64}, "it belongs to the job 000000000000"),
        ({"arrays": {}}, "its arrays or their sizes are not those of the job"),
    ],
)
def test_a_receipt_that_does_not_fit_its_shard_is_refused(state: State, changes: dict[str, Any], text: str) -> None:
    """A true receipt in the wrong place proves nothing about the place."""
    receipt = type(state.receipts[1]).signed(**{**state.receipts[1].model_dump(), **changes})
    with pytest.raises(ValueError, match=r"it is for|it belongs|its arrays") as refusal:
        receipt.refuse_misfit(state.job, state.job.fingerprint, state.job.layout.shard(1))
    assert text in str(refusal.value)
