"""A stretch of addresses with files in it."""

import errno
import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import span
from pipeline.store.span import HUGE_BYTES, MAP_COUNT_DEFAULT, Span, begins, map_whole, most_maps, whole_pages

PAGE = mmap.PAGESIZE


def file_of(path: Path, content: bytes) -> int:
    """A descriptor of a file with this content."""
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


def maps_of(path: Path) -> int:
    """How many maps of a file this process has."""
    return sum(line.endswith(str(path)) for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_file_is_read_where_it_was_placed_and_another_takes_its_place(tmp_path: Path) -> None:
    """Law: the bytes at an offset are those of the file placed there last; its descriptor may be closed."""
    stretch = Span(4 * PAGE)
    for content in (b"ab" * 100, b"x" * (PAGE + 1)):
        descriptor = file_of(tmp_path / "file", content)
        stretch.place(2 * PAGE, descriptor, len(content))
        os.close(descriptor)
        assert stretch.bytes[2 * PAGE : 2 * PAGE + len(content)].tobytes() == content


def test_a_reserved_stretch_takes_no_memory() -> None:
    """Case: 2^40 bytes, more than any machine that runs this has."""
    assert Span(2**40).bytes.size == 2**40


def test_a_stretch_ends_with_the_last_array_that_sees_it(tmp_path: Path) -> None:
    """Law: no map outlives its stretch, and no array outlives its map."""
    stretch, descriptor = Span(PAGE), file_of(tmp_path / "file", b"abc")
    stretch.place(0, descriptor, 3)
    os.close(descriptor)
    seen = stretch.bytes[:3]
    del stretch
    gc.collect()
    assert (seen.tobytes(), maps_of(tmp_path / "file")) == (b"abc", 1)
    del seen
    gc.collect()
    assert maps_of(tmp_path / "file") == 0


def test_what_cannot_be_reserved_or_placed_is_an_os_error(tmp_path: Path) -> None:
    """Law: the error says what the kernel said."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        Span(2**62)
    descriptor = file_of(tmp_path / "file", b"")
    for attempt in (lambda: Span(PAGE).place(0, descriptor, 0), lambda: map_whole(descriptor)):
        with pytest.raises((OSError, ValueError), match=r"Invalid argument|cannot mmap an empty file"):
            attempt()
    os.close(descriptor)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        Span(PAGE).place(0, descriptor, PAGE)


@pytest.mark.parametrize(
    ("size", "whole"),
    [(0, 0), (1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (HUGE_BYTES, HUGE_BYTES), (HUGE_BYTES + 1, 2 * HUGE_BYTES)],
)
def test_sizes_are_rounded_up_to_pages(size: int, whole: int) -> None:
    """Case: on and beside the edge; a file that fills a huge page has huge ones."""
    assert whole_pages(size) == whole


@given(st.lists(st.integers(0, 5 * HUGE_BYTES).map(whole_pages), max_size=5), st.integers(1, 9))
def test_places_do_not_overlap_and_large_ones_begin_on_huge_pages(sizes: list[int], count: int) -> None:
    """Law: one size after the other; all places of whole huge pages begin on one, in a stretch that does so too."""
    *found, end = begins(sizes, count)
    ends = [begin + count * size for begin, size in zip(found, sizes, strict=True)]
    assert all(before <= after for before, after in zip([0, *ends], [*found, end], strict=True))
    assert not any(begin % HUGE_BYTES for begin, size in zip(found, sizes, strict=True) if size % HUGE_BYTES == 0)
    assert Span(PAGE).bytes.ctypes.data % HUGE_BYTES == 0


@pytest.mark.parametrize(
    ("said", "most"), [("400\n", 100), ("1", 1), ("?", MAP_COUNT_DEFAULT // 4), (None, MAP_COUNT_DEFAULT // 4)]
)
def test_a_cache_takes_a_quarter_of_the_maps_that_the_kernel_grants(
    said: str | None, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: at least one; where the kernel does not say, of Linux's default."""
    if said is not None:
        (tmp_path / "count").write_text(said)
    monkeypatch.setattr(span, "MAP_COUNT", tmp_path / "count")
    assert most_maps() == most


def test_a_stretch_shows_the_bytes_as_numbers() -> None:
    """Law: an array of bytes, from the first on."""
    assert (Span(PAGE).bytes.dtype, Span(PAGE).bytes.shape) == (np.uint8, (PAGE,))
