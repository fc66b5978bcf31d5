"""Class ids in the fewest bytes: every one comes back, and none is the fill value."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encodings.ids import four_bytes, ids_array, packed, unpacked

FORMS = [
    (2, "uint8", (3,), 255),
    (255, "uint8", (3,), 255),
    (256, "uint16", (3,), 65535),
    (65535, "uint16", (3,), 65535),
    (65536, "uint8", (3, 3), 255),
    (2**24 - 1, "uint8", (3, 3), 255),
    (2**24, "uint32", (3,), 4294967295),
]


@pytest.mark.parametrize(("classes", "dtype", "row_shape", "fill"), FORMS)
def test_ids_take_the_fewest_bytes_that_leave_a_number_free(
    classes: int, dtype: str, row_shape: tuple[int, ...], fill: int
) -> None:
    """The largest number of a form is the fill value, so it can be no class: 256 classes need two bytes."""
    array = ids_array("ids", classes, 3)
    assert (array.name, array.dtype, array.row_shape, array.fill) == ("ids", dtype, row_shape, fill)


@pytest.mark.parametrize("classes", [classes for classes, *_ in FORMS])
@given(data=st.data())
def test_ids_come_back_as_they_were(classes: int, data: st.DataObject) -> None:
    """Law: unpacked of packed is the same int64, from the first class to the last, in the array's dtype and shape."""
    drawn = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=9))
    ids_NK = torch.tensor([[0, classes - 1], [drawn[0], drawn[-1]]])
    stored, array = packed(ids_NK, classes), ids_array("ids", classes, 2)
    assert (str(stored.numpy().dtype), tuple(stored.shape[1:])) == (array.dtype, array.row_shape)
    assert not (stored == array.fill).flatten(1).all(dim=1).any()
    assert unpacked(stored).equal(ids_NK)


def test_ids_of_older_caches_come_back_too() -> None:
    """They had four bytes where three do now."""
    array = ids_array("ids", 70_000, 2)
    assert (four_bytes(array).dtype, four_bytes(array).row_shape) == ("uint32", (2,))
    assert unpacked(torch.tensor([[3, 69_999]]).to(torch.uint32)).tolist() == [[3, 69_999]]
    assert four_bytes(ids_array("ids", 300, 2)) == ids_array("ids", 300, 2)
