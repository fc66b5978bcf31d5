"""Datasets of the library `datasets`, where it is installed; and what is said where it is not."""

import importlib
import io
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import dump, load
from pipeline.datasets import open_dataset
from pipeline.datasets.huggingface import Column
from pipeline.errors import DatasetError
from pipeline.sources import open_source


def picture(shade: int) -> bytes:
    """A grey picture of 6 x 4 pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 4, 3), shade, np.uint8)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - it may not be installed
    """The library, which keeps what it remembers in a folder of this test."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pytest.importorskip("datasets.arrow_dataset")  # the folder of these tests is imported as `datasets` as well
    found = importlib.import_module("datasets")
    found.disable_progress_bars()
    return found


def saved(library: Any, folder: Path, columns: dict[str, list[object]], features: dict[str, object]) -> Path:  # noqa: ANN401
    """A dataset of these columns, as the library saves it."""
    library.Dataset.from_dict(columns, features=library.Features(features)).save_to_disk(str(folder))
    return folder


@pytest.fixture
def shelf(library: Any, tmp_path: Path) -> Path:  # noqa: ANN401
    """Pictures and numbers in columns of every type that is taken, and of some that are not."""
    value, sequence = library.Value, library.Sequence
    columns: dict[str, tuple[list[object], object]] = {
        "picture": ([{"bytes": picture(place), "path": None} for place in range(4)], library.Image()),
        "damaged": (
            [{"bytes": picture(9)[: -30 * (place % 2)] if place % 2 else picture(9)} for place in range(4)],
            library.Image(),
        ),
        "hole": ([None, *({"bytes": picture(1)} for _ in range(3))], library.Image()),
        "number": ([0.5, 1.5, 2.5, 3.5], value("float64")),
        "vector": ([[place, 1, 2] for place in range(4)], sequence(value("int16"), length=3)),
        "grid": ([[[place, 2], [3, 4]] for place in range(4)], library.Array2D((2, 2), "uint8")),
        "nested": ([[[place], [7]] for place in range(4)], sequence(sequence(value("float32")))),
        "ragged": ([[1], [2], [3, 4], [5]], sequence(value("int64"))),
        "other": ([[1], [2, 3], [4, 5], [6]], sequence(value("int64"))),
        "nothing": ([1, None, 3, 4], value("int64")),
        "word": (["a", "b", "c", "d"], value("string")),
        "class": ([0, 2, -1, 1], library.ClassLabel(names=["cat", "dog", "cow"])),
        "index": ([1, 0, None, 1], value("int8")),
    }
    values = {name: column for name, (column, _) in columns.items()}
    return saved(library, tmp_path / "saved", values, {name: feature for name, (_, feature) in columns.items()})


def test_pictures_are_decoded_and_named_by_their_rows(shelf: Path) -> None:
    """Law: the id is the row's number; a ClassLabel names the classes, and -1 is no class."""
    dataset = open_dataset("huggingface", {"path": shelf, "input": "picture", "label": "class", "size": 3})
    assert dataset.ids.tolist() == [0, 1, 2, 3]
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.class_names) == ([0, 2, -1, 1], ("cat", "dog", "cow"))
    found = dataset.inputs(np.array([3, 0, 3]))
    assert (found.dtype, found.shape) == (np.uint8, (3, 3, 3, 3))
    assert found[:, 0, 0, 0].tolist() == [3, 0, 3]


@pytest.mark.parametrize(
    ("column", "dtype", "first"),
    [
        ("number", "float64", 0.5),
        ("vector", "int16", [0, 1, 2]),
        ("grid", "uint8", [[0, 2], [3, 4]]),
        ("nested", "float32", [[0], [7]]),
    ],
)
def test_numbers_of_one_shape_are_arrays(shelf: Path, column: str, dtype: str, first: object) -> None:
    """Law: they have the dtype of the column and the shape of the first row."""
    dataset = open_dataset("huggingface", {"path": str(shelf), "input": column, "label": "index"})
    assert (dataset.input_dtype, dataset.input_shape) == (np.dtype(dtype), np.shape(first))
    np.testing.assert_array_equal(dataset.inputs(np.array([2, 0]))[1], np.array(first, dtype))
    assert dataset.inputs(np.arange(0)).shape == (0, *np.shape(first))
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.classes, dataset.class_names) == ([1, 0, -1, 1], 2, None)


@pytest.mark.parametrize("column", ["picture", "grid"])
def test_a_dataset_survives_a_pickle(shelf: Path, column: str) -> None:
    """Law: a worker that is sent the dataset reads the same."""
    size = {"size": 4} if column == "picture" else {}
    dataset = open_dataset("huggingface", {"path": shelf, "input": column, **size})
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # pickled on this very line
    np.testing.assert_array_equal(again.inputs(np.arange(4)), dataset.inputs(np.arange(4)), strict=True)


def test_a_split_is_chosen_by_its_name(library: Any, shelf: Path, tmp_path: Path) -> None:  # noqa: ANN401
    """Law: of several splits one is named; where there are none, none need be."""
    table = library.load_from_disk(str(shelf))
    both = library.DatasetDict({"train": table, "test": table.select(range(2))})
    both.save_to_disk(str(tmp_path / "both"))
    arguments = {"path": tmp_path / "both", "input": "vector"}
    assert len(open_dataset("huggingface", {**arguments, "split": "test"})) == 2
    for split in (None, "valid"):
        message = (
            rf"^{tmp_path}/both: found the splits train, test, expected `split` to be one of these, not {split!r}\."
        )
        with pytest.raises(DatasetError, match=message):
            open_dataset("huggingface", {**arguments, "split": split})
    alone = tmp_path / "both" / "test"
    message = rf"^{alone}: found one table, of the split None, expected test\. Correct `split`, or leave it out\.$"
    with pytest.raises(DatasetError, match=message):
        open_dataset("huggingface", {"path": alone, "input": "vector", "split": "test"})
    assert len(open_dataset("huggingface", {"path": alone, "input": "vector"})) == 2


@pytest.mark.usefixtures("library")
def test_a_name_is_what_the_library_loads(tmp_path: Path) -> None:
    """Law: what `load_dataset` makes of name, configuration and split is what is read."""
    (tmp_path / "csvs").mkdir()
    (tmp_path / "csvs" / "train.csv").write_text("x,y\n1,0\n2,1\n")
    arguments = {"name": str(tmp_path / "csvs"), "config": "default", "input": "x", "label": "y", "split": "train"}
    dataset = open_dataset("huggingface", arguments)
    assert (dataset.inputs(np.arange(2)).tolist(), dataset.input_shape, dataset.classes) == ([1, 2], (), 2)
    with pytest.raises(DatasetError, match=r"^\S+csvs: this dataset cannot be opened: .*Expected the name of a publ"):
        open_dataset("huggingface", {**arguments, "split": "valid"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "x"}, r"saved: there is no column 'x', expected one of picture, .*, index\. Name one of those\."),
        ({"input": "vector", "label": "y"}, r"saved: there is no column 'y', expected one of picture"),
        ({"input": "picture"}, r"saved: the column 'picture' holds pictures, which need a size\. Say `size = 224`"),
        (
            {"input": "vector", "size": 3},
            r"saved: `size` is of pictures, and the column 'vector' holds none\. Leave it",
        ),
        ({"input": "word"}, r"saved: word: found inputs of dtype object, expected booleans, integers or"),
        ({"input": "vector", "label": "word"}, r"saved: word: found dtype <U1, expected integers"),
        ({"input": "vector", "label": "number"}, r"saved: number: found dtype float64, expected integers"),
        (
            {"input": "vector", "label": "grid"},
            r"saved: grid: found an array of shape \[4, 2, 2\], expected one integer",
        ),
        (
            {"input": "ragged"},
            r"saved: rows of 'ragged' are not numbers of one shape: .* Expected every row like the first",
        ),
        ({"input": "nothing"}, r"saved: rows of 'nothing' are not numbers of one shape: int\(\) argument must"),
        (
            {"input": "hole", "size": 3},
            r"saved: row 0 of 'hole' cannot be read: KeyError: 'path'\. Expected a picture in",
        ),
        ({"input": "hole", "size": 3, "damaged": "skip"}, r"saved: row 0 of 'hole' cannot be read"),
        ({"input": "damaged", "size": 3}, r"saved: row 1 of 'damaged': this picture cannot be decoded: .* Restore or"),
        ({"input": "picture", "size": 3, "crop": 2.0}, r"^found size = 3 and crop = 2\.0, expected"),
        ({"input": "vector", "name": "x"}, r"found both `path` and `name`, or none of the two, expected one\."),
    ],
)
def test_columns_that_do_not_fit_are_refused(shelf: Path, arguments: dict[str, object], message: str) -> None:
    """Law: the dataset, the column and the row, what was found, and what to do."""
    with pytest.raises(DatasetError, match=message):
        open_dataset("huggingface", {"path": shelf, **arguments}).inputs(np.arange(4))


def test_a_row_of_another_shape_is_refused(shelf: Path) -> None:
    """Law: also where a batch has one shape, but not the first row's."""
    dataset = open_dataset("huggingface", {"path": shelf, "input": "other"})
    with pytest.raises(DatasetError, match=r"rows of 'other' are not numbers of one shape: \[2\] and \[1\]\. Expected"):
        dataset.inputs(np.array([1, 2]))


def test_damaged_pictures_are_left_out_if_asked(shelf: Path) -> None:
    """Law: the others keep their rows' numbers."""
    arguments = {"path": shelf, "input": "damaged", "label": "class", "size": 3, "damaged": "skip"}
    dataset = open_dataset("huggingface", arguments)
    assert dataset.ids.tolist() == [0, 2]
    assert dataset.skipped == (f"{shelf}: row 1 of 'damaged'", f"{shelf}: row 3 of 'damaged'")


def test_a_picture_may_be_a_file_beside(tmp_path: Path) -> None:
    """Law: a cell without bytes names a file; one that is gone is an error that names the row."""
    (tmp_path / "x.png").write_bytes(picture(5))
    cells = [{"x": {"bytes": None, "path": str(tmp_path / name)}} for name in ("x.png", "gone.png")]
    column = Column(cells, "x", "toy")
    assert (len(column), column.content(0)) == (2, picture(5))
    with pytest.raises(
        DatasetError, match=r"^toy: row 1 of 'x' cannot be read: FileNotFoundError: .*gone\.png'\. Expect"
    ):
        column.content(1)


@pytest.mark.usefixtures("library")
def test_a_folder_that_holds_no_dataset_is_refused(tmp_path: Path) -> None:
    """Law: what the library says is quoted."""
    message = rf"^{tmp_path}: this dataset cannot be opened: FileNotFoundError: .* Expected a folder that save_to_disk"
    with pytest.raises(DatasetError, match=message):
        open_dataset("huggingface", {"path": tmp_path, "input": "x"})


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "import of datasets halted"),
        (ModuleType("datasets"), "what is found by that name is a folder, and no library"),
    ],
    ids=["nothing", "a folder"],
)
def test_without_the_library_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, found: ModuleType | None, reason: str
) -> None:
    """Law: only who asks for this kind needs the library, told how to get it, beside a folder `datasets`, too."""
    monkeypatch.setitem(sys.modules, "datasets", found)
    message = rf'^kind = "huggingface" needs the library .*: {reason}.*\. Install it: pip install datasets$'
    with pytest.raises(DatasetError, match=message):
        open_dataset("huggingface", {"path": "x", "input": "x"})


# The experiment file.

EXPERIMENT = """
[dataset]
kind = "huggingface"
path = "saved"
input = "picture"
label = "class"
size = 3
interpolation = "bicubic"

[teacher]
model = "mlp"
checkpoint = "t.safetensors"

[cache]
path = "c"
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """An experiment on what is saved beside it."""
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT.replace("saved", str(tmp_path / "saved")))
    return path


def test_an_experiment_names_a_dataset(written: Path, tmp_path: Path) -> None:
    """Law: the copy that a run keeps is an equal experiment, be the dataset from a folder or by name."""
    named = "dataset={kind = 'huggingface', name = 'mnist', config = 'c', split = 'train', input = 'image', size = 28}"
    for each in (load(written), load(written, [named])):
        (tmp_path / "copy.toml").write_text(dump(each))
        assert load(tmp_path / "copy.toml") == each


@pytest.mark.usefixtures("shelf")
def test_what_an_experiment_names_is_opened(written: Path) -> None:
    """Law: with the columns, the size and the classes that it says."""
    dataset = open_source(load(written).dataset)
    assert (dataset.input_shape, dataset.class_names) == ((3, 3, 3), ("cat", "dog", "cow"))
