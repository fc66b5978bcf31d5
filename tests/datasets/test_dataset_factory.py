"""The user's own dataset, by reference: what is accepted, and what each mistake is told."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets import open_dataset
from pipeline.datasets.factory import from_factory
from pipeline.errors import ConfigError, DatasetError

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)


class Listed:
    """A map-style dataset over a list, with whatever attributes it is given."""

    def __init__(self, items: Sequence[object], **attributes: object) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> object:
        return self.items[row]


MADE: dict[str, object] = {}


def make(name: str) -> object:
    """What the user's callable returns in the test under way."""
    return MADE[name]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], object]:
    """Opens what the user's callable returns."""

    def open_made(made: object) -> object:
        monkeypatch.setitem(MADE, "it", made)
        return open_dataset(f"{__name__}:make", {"name": "it"})

    return open_made


Opened = Callable[[object], "SimpleNamespace"]


@pytest.mark.parametrize(
    "convert", [np.asarray, torch.from_numpy, Image.fromarray], ids=["NumPy arrays", "torch tensors", "PIL images"]
)
def test_an_item_may_be_an_array_a_tensor_or_an_image(
    opened: Opened, convert: Callable[[NDArray[np.uint8]], object]
) -> None:
    """Whatever np.asarray understands, in its own dtype."""
    dataset = opened(Listed([convert(image) for image in PIXELS]))
    np.testing.assert_array_equal(dataset.inputs(np.array([2, 0])), PIXELS[[2, 0]], strict=True)
    assert dataset.labels is None


@pytest.mark.parametrize("label", [int, np.int32, torch.tensor, np.array])
def test_labels_of_pairs_are_found_by_one_pass(opened: Opened, label: Callable[[int], object]) -> None:
    """Without labels or targets, the labels are those of the pairs, whatever integers they are."""
    dataset = opened(Listed([(image, label(row)) for row, image in enumerate(PIXELS)]))
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(dataset.inputs(np.array([3])), PIXELS[[3]], strict=True)


@pytest.mark.parametrize("attribute", ["labels", "targets"])
def test_declared_labels_spare_the_pass(opened: Opened, attribute: str) -> None:
    """With labels or targets no item but the first is looked at: broken ones stay unseen."""
    items = Listed([(PIXELS[0], "seen"), None, None, None], **{attribute: torch.tensor([3, 2, 1, 0])})
    assert opened(items).labels.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("attributes", "classes", "names"),
    [
        ({}, None, None),
        ({"classes": 7}, 7, None),
        ({"classes": ["a", "b"]}, 2, ("a", "b")),
        ({"class_names": ("a", "b", "c")}, 3, ("a", "b", "c")),
        ({"classes": 2, "class_names": ["a", "b"]}, 2, ("a", "b")),
    ],
)
def test_classes_are_a_number_or_names(
    opened: Opened, attributes: dict[str, object], classes: int | None, names: tuple[str, ...] | None
) -> None:
    """`classes` is a number, or a list of names as torchvision has it."""
    dataset = opened(Listed(list(PIXELS), **attributes))
    assert (dataset.classes, dataset.class_names) == (classes, names)


def test_declared_ids_name_the_samples(opened: Opened) -> None:
    """Ids are the dataset's own where it has them, else positions."""
    assert opened(Listed(list(PIXELS), ids=[9, 8, 7, 6])).ids.tolist() == [9, 8, 7, 6]
    assert opened(Listed(list(PIXELS))).ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (3, "make: it returned int, expected a map-style dataset, with __len__ and __getitem__"),
        (Listed([]), "make: this dataset is empty"),
        (Listed(["a", "b"]), "make: sample 0: found inputs of dtype <U1"),
        (Listed([(1, 2, 3)]), r"make: sample 0 is a tuple of 3, expected an input or an \(input, label\) pair"),
        (Listed([np.zeros(3), np.zeros(3)], ids=[1]), "found 1 ids for 2 inputs"),
        (Listed([np.zeros(3)], ids=["x"]), "make: its ids: found dtype <U1, expected integers"),
        (Listed([np.zeros(3)], labels=[[1, 0]]), r"make: its labels: found an array of shape \[1, 2\]"),
        (
            Listed([np.zeros(3)], classes=2.5),
            "make: found classes = 2.5, expected their number or a list of their names",
        ),
        (
            Listed([(np.zeros(3), 0.5)], ids=[6]),
            "make: sample 6: its label is not an integer: TypeError: 'float' object",
        ),
        (Listed([(np.zeros(3), 2**70)]), "make: the labels of its items: found dtype object, expected integers"),
        (Listed([(np.zeros(3), 0), np.zeros(2)]), "make: sample 1: its label is not an integer: TypeError"),
        (
            Listed([(np.zeros(3), 0), 5]),
            "make: sample 1: its label is not an integer: TypeError: 'int' object is not subscr",
        ),
        (Listed([torch.zeros(2, requires_grad=True)]), "make: sample 0 cannot be made an array: RuntimeError: .*grad"),
        (Listed({"train": 1}), "make: sample 0 cannot be read: KeyError: 0"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_dataset_is_refused(opened: Opened, made: object, message: str) -> None:
    """The error names the reference, the sample where it is one sample's fault, and what was expected."""
    with pytest.raises(DatasetError, match=message):
        opened(made)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            np.zeros(2),
            r"make: sample 31 is float64 of shape \[2\], expected float64 of shape \[3\] as the first sample is",
        ),
        (np.zeros(3, np.float32), r"make: sample 31 is float32 of shape \[3\], expected float64 of shape \[3\]"),
    ],
)
def test_a_sample_unlike_the_first_is_named_by_its_id(opened: Opened, odd: object, message: str) -> None:
    """Nothing is cast or cropped to fit."""
    dataset = opened(Listed([np.zeros(3), odd], ids=[30, 31]))
    with pytest.raises(DatasetError, match=message):
        dataset.inputs(np.array([0, 1]))


class Half:
    """Has what marks a complete dataset, and not the rest."""

    ids = (0, 1)
    labels = None
    classes = None

    def inputs(self, rows: object) -> object:
        """Never called."""
        return rows


def test_a_half_finished_dataset_is_told_what_it_lacks() -> None:
    """inputs() and ids mark a complete dataset: the attributes it lacks are named."""
    message = r"Half, which has inputs\(\) and ids .* but lacks class_names, input_shape, input_dtype, __len__"
    with pytest.raises(DatasetError, match=message):
        from_factory(f"{__name__}:Half", {})


class Endless(Listed):
    """Cannot say how many samples it has."""

    def __len__(self) -> int:
        raise OSError("no index file")


class EndlessHalf(Half):
    """The same, of a complete dataset."""

    class_names = None
    input_shape = (2,)
    input_dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        raise OSError("no index file")


@pytest.mark.parametrize("made", [Endless([]), EndlessHalf()])
def test_a_length_that_raises_is_quoted(opened: Opened, made: object) -> None:
    """The user's own error in one line, whichever kind of dataset it is."""
    with pytest.raises(DatasetError, match="make: its __len__ raised OSError: no index file"):
        opened(made)


def fails(**options: object) -> object:
    """A callable that does not work."""
    raise ValueError(f"no folder for {sorted(options)}")


def refuses() -> object:
    """A callable that knows this tool's errors."""
    raise ConfigError("set options.root")


def test_what_the_callable_raises_is_quoted() -> None:
    """The user's own error, in one line, with the arguments it was called with."""
    with pytest.raises(
        DatasetError, match=r"fails: calling it with {'root': 3} raised ValueError: no folder for \['root'\]"
    ):
        from_factory(f"{__name__}:fails", {"root": 3})
    with pytest.raises(
        DatasetError, match=r"make: calling it with {'nom': 1} raised TypeError: .*unexpected keyword argument"
    ):
        from_factory(f"{__name__}:make", {"nom": 1})


def test_an_error_of_this_tool_passes_through() -> None:
    """A callable may raise this tool's errors itself; they are not wrapped."""
    with pytest.raises(ConfigError, match=r"^set options.root$"):
        from_factory(f"{__name__}:refuses", {})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:build", "no_such_module:build: there is no module 'no_such_module'"),
        ("math:no_such_name", r"math:no_such_name: the module math \(.*\) has no 'no_such_name'"),
        ("math:pi", "math:pi: found float 3.14.*, expected a function or a class"),
        ("math:", "'math:' names no code"),
    ],
)
def test_a_reference_that_leads_nowhere_is_a_dataset_error(reference: str, message: str) -> None:
    """The dataset cannot be read: that is what the exit code says."""
    with pytest.raises(DatasetError, match=message):
        open_dataset(reference, {})


def test_sequences_say_how_many_positions_they_have() -> None:
    """Law: an integer is that number, of samples [3, positions] with their labels within; else it is the user's."""
    sequences = [np.stack([np.arange(5), np.arange(5), np.arange(1, 6)]) for _ in range(3)]
    MADE["whole"] = Listed(sequences, positions=5, tokenizer_sha256="a" * 64, targets=[1, 1, 0])
    dataset = open_dataset(f"{__name__}:make", {"name": "whole"}, classes=6)
    assert (dataset.positions, dataset.tokenizer_sha256, dataset.labels) == (5, "a" * 64, None)
    MADE["other"] = Listed(sequences, positions=[1, 2, 3], tokenizer=object(), targets=[1, 1, 0])
    dataset = open_dataset(f"{__name__}:make", {"name": "other"}, classes=6)
    assert (dataset.positions, dataset.tokenizer_sha256, dataset.labels.tolist()) == (None, None, [1, 1, 0])
    MADE["odd"] = Listed(sequences, positions=4)
    with pytest.raises(
        DatasetError, match=r"found positions = 4 and samples of shape \[3, 5\], expected \[3, positions\]"
    ):
        open_dataset(f"{__name__}:make", {"name": "odd"}, classes=6)
