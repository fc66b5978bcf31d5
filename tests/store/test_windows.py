"""Rows of any width, copied from any places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_cases import STEADY

from pipeline.labels import ArraySpec
from pipeline.seeds import generator
from pipeline.store import windows
from pipeline.store.windows import FEWEST_ALONE, MOST_ALONE, WIDE, Crew, Windows

MEMORY = generator("memory", 0).integers(0, 256, 8192, np.uint8)
SPECS = {
    1: ("uint8", ()),
    2: ("float16", ()),
    4: ("uint32", ()),
    6: ("float16", (3,)),
    8: ("int64", ()),
    15: ("uint8", (3, 5)),
    32: ("uint16", (16,)),
    WIDE - 1: ("uint8", (WIDE - 1,)),
    WIDE: ("float32", (WIDE // 4,)),
    2 * WIDE + 2: ("float16", (WIDE + 1,)),
}


MIXED = {4: [("uint32", ()), ("float16", (2,)), ("uint8", (4,))]}  # arrays of one width need not share a dtype


def arrays_of(width: int, count: int, first: int = 0) -> list[ArraySpec]:
    """Arrays whose rows have that width."""
    kinds = MIXED.get(width, [SPECS[width]])
    return [ArraySpec(f"array_{number}", *kinds[(number + first) % len(kinds)], 0) for number in range(count)]


def expected(places: np.ndarray, width: int) -> np.ndarray:
    """The rows at these places, by slicing."""
    dtype, shape = SPECS[width]
    rows = [np.frombuffer(MEMORY[place : place + width].tobytes(), dtype) for place in places]
    return np.array(rows, dtype).reshape(len(places), *shape)


@STEADY
@given(
    width=st.sampled_from(sorted(SPECS)),
    arrays=st.integers(1, 3),
    first=st.integers(0, 2),
    rows=st.integers(0, 9),
    how=st.sampled_from(["new", "given", "new, alone", "given, alone"]),
    data=st.data(),
)
def test_rows_are_the_bytes_at_their_places(
    *, width: int, arrays: int, first: int, rows: int, how: str, data: st.DataObject
) -> None:
    """Law: a gather is slicing, at any width and place, for several arrays, into new memory or what is given."""
    specs = arrays_of(width, arrays, first)
    kind = Windows(MEMORY, specs)
    last = (MEMORY.size - width) // kind.unit
    places = np.array(
        data.draw(st.lists(st.integers(0, last), min_size=arrays * rows, max_size=arrays * rows)), np.int64
    )
    places = places.reshape(arrays, rows)
    out = {spec.name: np.empty((rows, *spec.row_shape), spec.dtype) for spec in specs} if "given" in how else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "crew", crew := Crew())
        patch.setattr(windows.torch, "get_num_threads", lambda: 2)
        if "alone" in how:
            crew.leave()
        found = kind.gather(places, out)
    for spec, places_N, (name, array) in zip(specs, places, found.items(), strict=True):
        assert (name, array.dtype, array.flags.c_contiguous) == (spec.name, np.dtype(spec.dtype), True)
        assert out is None or array is out[name]
        assert array.shape == (rows, *spec.row_shape)
        assert array.tobytes() == expected(places_N * kind.unit, width).tobytes()


def test_rows_in_another_byte_order_become_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what is stored one way round reads as the same numbers on a machine of the other, narrow or wide."""
    monkeypatch.setattr(windows, "stored_dtype", lambda spec: np.dtype(spec.dtype).newbyteorder("S"))
    for width in (4, 8, 32, WIDE):
        kind = Windows(MEMORY, arrays_of(width, 1))
        places = np.array([[0, 4, 400]], np.int64)
        wanted = expected(places[0] * kind.unit, width).byteswap()
        out = {"array_0": np.empty_like(wanted)}
        assert kind.gather(places, None)["array_0"].tobytes() == wanted.tobytes()
        assert kind.gather(places, out)["array_0"] is out["array_0"]
        assert (out["array_0"].tobytes(), wanted.dtype.isnative) == (wanted.tobytes(), True)


@pytest.fixture
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows.torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("_two_threads")
def test_after_a_wait_for_a_core_the_next_copies_are_made_alone() -> None:
    """Law: twice as many after each wait in a row, up to a bound, and fewer again once there was none."""
    crew, alone = Crew(), []
    for _ in range(12):
        assert crew.is_free()
        crew.took(10.0, 1)
        alone.append(next(copies for copies in range(10**5) if crew.is_free()))
    assert alone[:3] == [FEWEST_ALONE - 1, 2 * FEWEST_ALONE - 1, 4 * FEWEST_ALONE - 1]
    assert alone[-1] == MOST_ALONE - 1
    for _ in range(20):
        crew.took(1e-5, 1)
    crew.took(10.0, 1)
    assert next(copies for copies in range(10**5) if crew.is_free()) == FEWEST_ALONE - 1


@pytest.mark.usefixtures("_two_threads")
def test_a_large_copy_may_take_its_time() -> None:
    """Law: how long is long goes by the bytes copied."""
    crew = Crew()
    crew.took(0.5, 10**9)
    assert crew.is_free()


def test_one_thread_is_no_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: where torch has one thread, NumPy copies."""
    monkeypatch.setattr(windows.torch, "get_num_threads", lambda: 1)
    assert not Crew().is_free()


@pytest.mark.usefixtures("_two_threads")
def test_a_crew_that_left_never_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: threads do not follow a process into its fork, and no other work of torch may wait for them."""
    granted: list[int] = []
    monkeypatch.setattr(windows.torch, "set_num_threads", granted.append)
    crew = Crew()
    crew.leave()
    assert not any(crew.is_free() for _ in range(10))
    assert granted == [1]
