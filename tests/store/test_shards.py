"""The bytes of a shard file, with zarr as the judge of the codec in test_group and test_writer."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st
from store_cases import STEADY

from pipeline.errors import CorruptError
from pipeline.labels import ArraySpec
from pipeline.store.layout import Layout, row_bytes, shard_file_bytes
from pipeline.store.shards import chain_of, check_chain, check_index, chunk_is_whole, decoded, encode_shard, rows_in

DTYPES: dict[str, float] = {"float16": math.nan, "float32": 0.5, "int8": -128, "uint8": 7, "uint16": 7}
DTYPES |= {"uint32": 0, "int32": -1, "int64": -1}
SPECS = st.builds(
    lambda dtype, shape: ArraySpec("a", dtype, shape, DTYPES[dtype]),
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from([(), (1,), (3,), (2, 2)]),
)


@STEADY
@given(
    SPECS,
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_what_is_encoded_is_decoded_and_has_the_size_of_the_layout(
    spec: ArraySpec, rows: int, chunks: int, chunk_rows: int, seed: int
) -> None:
    """Law: for every dtype and shape, rows come back bit for bit, and rows past the end hold the fill value."""
    layout, dtype = Layout(rows, 1, chunks * chunk_rows, chunk_rows), np.dtype(spec.dtype)
    for shard in layout.all_shards():
        raw = np.random.default_rng(seed).bytes(shard.rows * row_bytes(spec))
        block = np.frombuffer(raw, dtype).reshape(shard.rows, *spec.row_shape)
        content = memoryview(b"".join(encode_shard(block, spec, layout)))
        assert len(content) == shard_file_bytes(spec, layout, shard)
        check_index(content, spec, layout, shard, Path("a"))
        assert all(chunk_is_whole(content, chunk, spec, layout) for chunk in range(layout.chunks_in(shard)))
        found = decoded(rows_in(content, spec, layout, shard).reshape(-1), spec)
        assert found[: shard.rows].tobytes() == block.tobytes()
        np.testing.assert_array_equal(found[shard.rows :], np.full_like(found[shard.rows :], spec.fill))


def test_the_file_is_as_the_specification_has_it() -> None:
    """Case, by hand: three rows of two bytes, two a chunk, one chunk of three not stored."""
    spec, layout = ArraySpec("a", "uint16", (), 9), Layout(3, 1, 6, 2)
    first, second = struct.pack("<HH", 1, 2), struct.pack("<HH", 3, 9)
    index = struct.pack("<6Q", 0, 8, 8, 8, 2**64 - 1, 2**64 - 1)
    expected = b"".join(part + struct.pack("<I", crc32c(part)) for part in (first, second, index))
    assert b"".join(encode_shard(np.array([1, 2, 3], "uint16"), spec, layout)) == expected


def test_rows_in_any_memory_order_are_the_same_bytes() -> None:
    """Law: a transposed or big-endian block of the same values is the same file."""
    spec, layout = ArraySpec("a", "float32", (3,), 0.0), Layout(4, 1, 4, 2)
    block = np.arange(12, dtype="float32").reshape(4, 3)
    expected = b"".join(encode_shard(block, spec, layout))
    for same in (np.asfortranarray(block), block.astype(">f4"), np.repeat(block, 2, axis=0)[::2]):
        assert b"".join(encode_shard(same, spec, layout)) == expected


def test_a_flip_of_any_byte_is_found_by_the_index_or_by_its_chunk_alone() -> None:
    """Law: every byte of the file is under exactly one checksum."""
    spec, layout = ArraySpec("a", "uint16", (), 9), Layout(5, 1, 8, 2)
    shard = layout.shard(0)
    whole = b"".join(encode_shard(np.arange(5, dtype="uint16"), spec, layout))
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        content = memoryview(flipped)
        bad = [chunk for chunk in range(3) if not chunk_is_whole(content, chunk, spec, layout)]
        if place < 24:
            check_index(content, spec, layout, shard, Path("a"))
            assert bad == [place // 8]
        else:
            assert bad == []
            with pytest.raises(CorruptError, match="a: the index at its end is not the one that was written"):
                check_index(content, spec, layout, shard, Path("a"))


@pytest.mark.promise("P12", tries=100, torture=100)
@STEADY
@given(data=st.data())
def test_any_bytes_are_a_shard_file_or_are_refused(data: st.DataObject) -> None:
    """Law: only what was written passes index, chain and chunks; all else is refused, by CorruptError or by a chunk."""
    spec, layout = ArraySpec("a", "uint16", (), 9), Layout(5, 1, 8, 2)
    pieces = encode_shard(np.arange(5, dtype="uint16"), spec, layout)
    whole = b"".join(pieces)
    any_bytes = st.binary(min_size=len(whole), max_size=len(whole)) | st.binary(max_size=2 * len(whole))
    tampered = st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=9)).map(
        lambda change: whole[: change[0]] + change[1] + whole[change[0] + len(change[1]) :]
    )
    content = memoryview(data.draw(st.just(whole) | tampered | any_bytes))
    try:
        check_index(content, spec, layout, layout.shard(0), Path("a"))
        check_chain(content, spec, layout, chain_of(pieces), Path("a"))
    except CorruptError as refusal:
        assert content != whole
        assert str(refusal).startswith("a")  # noqa: PT017
    else:
        assert all(chunk_is_whole(content, chunk, spec, layout) for chunk in range(3)) == (content == whole)


@pytest.mark.parametrize("change", [-1, 1, -1000])
def test_a_file_of_another_size_is_refused(change: int) -> None:
    """A shorter file was cut, a longer one is not ours."""
    spec, layout = ArraySpec("a", "uint16", (), 9), Layout(5, 1, 8, 2)
    whole = b"".join(encode_shard(np.arange(5, dtype="uint16"), spec, layout))
    other = memoryview((whole + b"x")[: max(0, len(whole) + change)])
    with pytest.raises(CorruptError, match=rf"a has {len(other)} bytes, and {len(whole)} were written"):
        check_index(other, spec, layout, layout.shard(0), Path("a"))
