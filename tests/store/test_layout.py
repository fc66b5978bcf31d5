"""The cut of rows into shards and chunks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_cases import STEADY

from pipeline.errors import ConfigError
from pipeline.labels import ArraySpec
from pipeline.store.layout import CHUNK_BYTES, SHARD_BYTES, Layout, choose, row_bytes, shard_file_bytes

SIZES = st.integers(1, 40)


@STEADY
@given(SIZES, SIZES, SIZES, SIZES)
def test_shards_cover_each_row_of_each_view_once_and_in_order(
    rows: int, views: int, chunks: int, chunk_rows: int
) -> None:
    """Law: the shards, laid end to end, are the rows of view 0, then of view 1, and so on; numbers count them."""
    layout = Layout(rows, views, chunks * chunk_rows, chunk_rows)
    shards = list(layout.all_shards())
    covered = [(shard.view, row) for shard in shards for row in range(shard.start, shard.stop)]
    assert covered == [(view, row) for view in range(views) for row in range(rows)]
    assert [shard.number for shard in shards] == list(range(layout.shards))
    assert layout.shards == views * layout.shards_per_view


@STEADY
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=5), SIZES, SIZES, SIZES, SIZES)
def test_what_has_grown_has_each_row_of_each_view_once_and_a_place_for_it_in_the_arrays(
    growths: list[tuple[int, int]], rows: int, views: int, chunks: int, chunk_rows: int
) -> None:
    """Law: however it came about; no two rows share a place, and place and indices of a row are those of its shard."""
    before, layout = (), Layout(rows, views, chunks * chunk_rows, chunk_rows)
    for more_views, more_rows in growths:
        if more_views or more_rows:
            before = (*before, (layout.views, layout.rows))
            now = layout.rows + more_rows, layout.views + more_views
            layout = Layout(*now, chunks * chunk_rows, chunk_rows, before)
    shards = list(layout.all_shards())
    assert [shard.number for shard in shards] == list(range(layout.shards))
    assert max(shard.rows for shard in shards) == layout.largest.rows
    seen = set()
    for shard in shards:
        held = np.arange(shard.start, shard.stop)
        places = layout.flattened(shard.view, held)
        assert places.tolist() == (shard.number * layout.shard_rows + np.arange(shard.rows)).tolist()
        found, indices = layout.unflattened(places)
        assert (found == shard.view).all()
        assert indices.tolist() == layout.array_rows_of(held).tolist()
        assert indices.tolist() == (layout.place(shard) * layout.shard_rows + np.arange(shard.rows)).tolist()
        assert indices[-1] < layout.array_rows
        assert layout.number(shard.view, layout.place(shard)) == shard.number
        seen |= {(shard.view, row) for row in held.tolist()}
    assert seen == {(view, row) for view in range(layout.views) for row in range(layout.rows)}
    assert sum(shard.rows for shard in shards) == len(seen)


@STEADY
@given(SIZES, SIZES, SIZES)
def test_a_shard_has_the_chunks_that_hold_rows_and_no_more(rows: int, chunks: int, chunk_rows: int) -> None:
    """Law: one chunk fewer would not hold a shard's rows, and the chunks there are do."""
    layout = Layout(rows, 1, chunks * chunk_rows, chunk_rows)
    for shard in layout.all_shards():
        assert (layout.chunks_in(shard) - 1) * chunk_rows < shard.rows <= layout.chunks_in(shard) * chunk_rows
        assert layout.chunks_in(shard) <= layout.chunks_per_shard


@STEADY
@given(
    st.integers(1, 10**6),
    st.integers(1, 10**7),
    st.none() | st.integers(1, 10**5),
    st.none() | st.integers(1, 10**5),
)
def test_chosen_sizes_are_whole_chunks_near_the_aim_and_no_larger_than_the_rows(
    width: int, rows: int, shard_rows: int | None, chunk_rows: int | None
) -> None:
    """Law: a chosen shard is whole chunks; a size that is left out exceeds neither the aim nor the rows by a chunk."""
    shard, chunk = choose(width, rows, shard_rows, chunk_rows)
    if shard_rows and chunk_rows:
        assert (shard, chunk) == (shard_rows, chunk_rows)
        return
    assert shard % chunk == 0
    assert chunk == chunk_rows or chunk * width <= max(CHUNK_BYTES, width)
    if shard_rows:
        assert shard_rows <= shard < shard_rows + shard // chunk
    else:
        assert shard * width <= max(SHARD_BYTES, chunk * width)
        assert shard < rows + chunk


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ((2000, 50_000, None, None), (8384, 131)),
        ((40, 1797, None, None), (1797, 1797)),
        ((2000, 50_000, 4096, None), (4096, 128)),
        ((2000, 50_000, None, 64), (8384, 64)),
        ((40, 1797, 512, 128), (512, 128)),
        ((10**8, 5, None, None), (1, 1)),
    ],
)
def test_sizes_are_chosen_for_the_widest_array(
    asked: tuple[int, int, int | None, int | None], chosen: tuple[int, int]
) -> None:
    """Cases: defaults, few rows, one size given, both given, a row larger than a shard."""
    assert choose(*asked) == chosen


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 1, 8, 4), "rows = 0: expected a whole number from 1"),
        ((10, -1, 8, 4), "views = -1: expected a whole number from 1"),
        ((10, 1, 2**60, 4), "shard_rows = 1152921504606846976: expected a whole number from 1"),
        ((10, 1, 10, 4), "shard_rows = 10 is not a multiple of chunk_rows = 4"),
        ((2**40, 1, 1, 1), "into 1099511627776 shards, of which 10000000 are allowed"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(numbers: tuple[int, ...], text: str) -> None:
    """Every refusal says which number, what was found and what was expected."""
    with pytest.raises(ConfigError, match=text):
        Layout(*numbers)


def test_sizes_that_cannot_be_are_refused_before_they_are_divided_by() -> None:
    """A size of zero is a ConfigError, not a ZeroDivisionError."""
    with pytest.raises(ConfigError, match="chunk_rows = 0: expected a whole number"):
        choose(8, 10, None, 0)


def test_there_is_no_shard_outside_the_layout() -> None:
    """A number below 0 or past the last shard has no shard."""
    layout = Layout(10, 1, 8, 4)
    for number in (-1, 2):
        with pytest.raises(IndexError, match="of 2"):
            layout.shard(number)


def test_a_shard_file_is_its_chunks_with_checksums_and_its_index() -> None:
    """Case: 5 of 8 rows of 6 bytes, 4 a chunk: 2 chunks of 24 + 4 bytes, an index of 2 entries of 16 and 4 more."""
    layout, spec = Layout(13, 1, 8, 4), ArraySpec("logits", "float16", (3,), 0.0)
    assert row_bytes(spec) == 6
    assert shard_file_bytes(spec, layout, layout.shard(1)) == 2 * (24 + 4) + 2 * 16 + 4
