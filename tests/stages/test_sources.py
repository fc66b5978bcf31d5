"""What a dataset can be wrong about, told on the command line."""

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from stage_cases import ECHO, images, must, run, snapshot, write_idx

from pipeline.weights import load_state

Change = Callable[[Path], object]


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Change:
    """A change of one file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def with_hdf5(**arrays: np.ndarray) -> Change:
    """A change that writes an HDF5 file."""

    def write(folder: Path) -> None:
        with h5py.File(folder / "d.h5", "w") as file:
            for name, values in arrays.items():
                file[name] = values

    return write


def hdf5(*keys: str) -> tuple[str, ...]:
    """The settings that read it."""
    table = ", ".join(['kind = "hdf5"', 'path = "d.h5"', *keys])
    return (f"dataset={{{table}}}",)


FOUR = images(4)
NAMES = ('inputs = "x"', 'labels = "y"')
CASES: list[tuple[Change, tuple[str, ...], tuple[str, ...]]] = [
    (lambda folder: (folder / "images").unlink(), (), ("images: there is no such file", "Correct the path")),
    (
        rewritten("images", lambda data: gzip.compress(data)[:-20]),
        (),
        ("images: this gzip file is cut short", "Fetch it"),
    ),
    (
        rewritten("images", lambda data: b"\x89PNG" + data[4:]),
        (),
        ("images: this is no IDX file", "89 50 4e 47", "00 00"),
    ),
    (rewritten("images", lambda data: data[:-1]), (), ("shorter than its header says: 799 bytes", "expected 800")),
    (
        lambda folder: write_idx(folder / "labels", np.arange(49, dtype=np.uint8)),
        (),
        ("found 49 labels for 50 inputs",),
    ),
    (lambda folder: write_idx(folder / "images", np.zeros((0, 4, 4), np.uint8)), (), ("dataset is empty",)),
    (lambda _: None, ("dataset.classes=2",), ("sample 2 has the label 2", "[0, 2)", "Correct the labels or `classes`")),
    (lambda _: None, ('dataset.class_names=["a"]', "dataset.classes=3"), ("found 1 class names for 3 classes",)),
    (with_hdf5(x=FOUR, y=np.zeros(4, int)), hdf5('inputs = "z"'), ("the key 'z' does not exist", "x, y")),
    (
        with_hdf5(x=FOUR, y=np.zeros(4, int), i=np.array([1, 1, 2, 3])),
        hdf5(*NAMES, 'ids = "i"'),
        ("1 ids name more", "(1)"),
    ),
    (with_hdf5(x=FOUR, y=np.zeros(4)), hdf5(*NAMES), ("d.h5: y: found dtype float64, expected integers",)),
    (lambda _: None, hdf5(*NAMES), ("d.h5: there is no such file", "Correct the path")),
    (rewritten("images", lambda data: data), ('dataset={kind = "hdf5", path = "images", inputs = "x"}',), ("HDF5",)),
    (lambda _: None, ('dataset={kind = "zarr", inputs = "nowhere"}',), ("nowhere",)),
    (lambda _: None, ('dataset={kind = "no_module:Net"}',), ("there is no module 'no_module'",)),
    (
        lambda _: None,
        ('dataset={kind = "own_datasets:Endless"}',),
        ("own_datasets:Endless: its __len__ raised OSError: no index file.",),
    ),
    (
        lambda folder: write_idx(folder / "labels", np.zeros(50, np.uint8)),
        (),
        ("images, labels=labels): found 1 classes, expected 2 to 2147483647",),
    ),
]


@pytest.mark.parametrize(("change", "settings", "said"), CASES)
@pytest.mark.parametrize("verb", ["plan", "generate", "train"])
def test_a_dataset_that_is_not_what_it_says_is_refused(
    verb: str, change: Change, settings: tuple[str, ...], said: tuple[str, ...], fitted: Path
) -> None:
    """Law: a dataset that is missing, damaged or contradicts itself is exit code 1; nothing is written."""
    change(fitted)
    before = snapshot(fitted)
    run(verb, *settings).refuses(1, *said)
    assert snapshot(fitted) == before
    assert not (fitted / "cache").exists()


def test_the_test_set_has_the_classes_of_the_training_set(fitted: Path) -> None:
    """Law: held-out labels that are no class of the training set are refused, whatever their number."""
    write_idx(fitted / "test-labels", np.full(12, 3, np.uint8))
    run("generate").refuses(1, "has the label 3, expected a class in [0, 3)")
    assert not (fitted / "cache").exists()
    write_idx(fitted / "test-labels", np.zeros(12, np.uint8))
    must("generate")


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("[3]", "images, labels=labels): without names the class 3, expected classes in [0, 3). Correct `without`."),
        ("[0, 1, 2]", "leaves no sample, expected at least one. Leave out fewer classes."),
    ],
)
def test_classes_that_cannot_be_left_out_are_refused(without: str, said: str, fitted: Path) -> None:
    """Law: exit code 1, and nothing is written."""
    run("generate", f"dataset.without={without}").refuses(1, said)
    assert not (fitted / "cache").exists()


def test_a_student_may_hear_of_a_class_that_it_never_sees(filled: Path) -> None:
    """Law: a cache without a class is another cache, made by the same teacher, and students train from it as ever."""
    run("train", "dataset.without=[1]").refuses(5, "dataset")
    made = must("generate", "dataset.without=[1]", "cache.path=other", flags=("--json",)).facts
    assert made["rows"] == 33
    must("train", "dataset.without=[1]", "cache.path=other")
    assert load_state(filled / "runs/e/distilled/seed-0/student.safetensors")["4.bias"].shape == (3,)


@pytest.mark.parametrize("version", [(), ("dataset.version=v1",)])
@pytest.mark.parametrize("verb", ["plan", "generate", "fit-teacher"])
def test_what_a_datasets_inputs_raise_is_quoted(verb: str, version: tuple[str, ...], fitted: Path) -> None:
    """Law: the user's own error is exit code 1 in one line, be it met when hashing or later; no label is written."""
    settings = ('dataset={kind = "own_datasets:Whole"}', *version, "teacher.checkpoint=echo.safetensors", *ECHO[:2])
    if verb == "fit-teacher":
        settings = (*settings[:-3], "teacher.checkpoint=new.safetensors")
    run(verb, *settings).refuses(1, "own_datasets:Whole", "inputs() raised OSError: no file for")
    assert not (fitted / "cache").exists()
    assert not (fitted / "new.safetensors").exists()


@pytest.mark.parametrize("verb", ["generate", "train", "fit-teacher"])
def test_a_test_set_of_another_number_of_classes_is_refused(verb: str, fitted: Path) -> None:
    """Law: held-out samples are told apart by the same classes; else exit code 1, and nothing is written."""
    before = snapshot(fitted)
    settings = ("test.classes=4", "teacher.checkpoint=teacher.safetensors")
    flags = ("--student", "alone") if verb == "train" else ()
    if verb == "fit-teacher":
        settings = ("test.classes=4", "teacher.checkpoint=new.safetensors")
    run(verb, *settings, flags=flags).refuses(1, "[test] has 4 classes, and [dataset] 3.", "Point both at")
    assert snapshot(fitted) == before
    assert not (fitted / "cache").exists()
