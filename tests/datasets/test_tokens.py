"""Tokens of texts: windows of a stream, documents one by one, and what is none or does not go together."""

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import dump, load
from pipeline.datasets import Dataset, content_digest, open_dataset, streams, texts, tokens
from pipeline.datasets.checks import CheckedDataset
from pipeline.datasets.subset import leave_out
from pipeline.errors import ConfigError, DatasetError
from pipeline.sequences import IDS, NONE, POSITIONS, TARGETS
from pipeline.sources import open_source

END, VOCABULARY = 9, 10
DIGEST = "0" * 64
DOCUMENTS = [[1, 2, 3, END], [4, END], [END], [5, 6, 7, 8, 1, 2, END], [3, 3]]

lengths = st.integers(2, 7)
corpora = st.lists(st.lists(st.integers(0, END - 1), max_size=12).map(lambda ids: [*ids, END]), min_size=1, max_size=9)


def folder_of(
    folder: Path,
    documents: list[list[int]],
    *,
    mask: list[int] | None = None,
    labels: list[int] | None = None,
    **said: object,
) -> Path:
    """A folder as `softlabels tokenize` writes it."""
    folder.mkdir(exist_ok=True)
    flat = np.array([*chain(*documents)], np.uint16)
    np.save(folder / "tokens.npy", flat)
    np.save(folder / "starts.npy", np.cumsum([0, *map(len, documents[:-1])]))
    for name, values in {"mask": mask, "labels": labels}.items():
        (folder / f"{name}.npy").unlink(missing_ok=True)
        if values is not None:
            np.save(folder / f"{name}.npy", np.array(values, np.uint8 if name == "mask" else np.int64))
    described = {
        "format": "softlabels-tokens/1",
        "vocabulary": VOCABULARY,
        "end": END,
        "tokenizer": "toy.json",
        "tokenizer_sha256": DIGEST,
        "documents": len(documents),
        "tokens": len(flat),
        "class_names": None,
    }
    (folder / "tokens.json").write_text(json.dumps({**described, **said}))
    return folder


def opened(path: Path | str, length: int = 4, **arguments: object) -> CheckedDataset:
    """The dataset of kind "tokens" at a path."""
    dataset = open_dataset("tokens", {"path": path, "length": length, **arguments})
    assert isinstance(dataset, CheckedDataset)
    return dataset


def whole(dataset: Dataset) -> np.ndarray:
    """All samples."""
    return dataset.inputs(np.arange(len(dataset)))


def foretold(documents: list[list[int]], length: int, mask: list[int]) -> np.ndarray:
    """All windows, token by token, as the documentation says them."""
    stream = [
        (token, number, place) for number, document in enumerate(documents) for place, token in enumerate(document)
    ]
    windows = np.full((-(-len(stream) // length), 3, length), NONE)
    windows[:, IDS] = 0
    for at, (token, number, place) in enumerate(stream):
        window, column = divmod(at, length)
        windows[window, IDS, column] = token
        windows[window, POSITIONS, column] = min(place, column)
        following = stream[at + 1] if at + 1 < len(stream) else None
        if following and following[1] == number and column + 1 < length and mask[at + 1]:
            windows[window, TARGETS, column] = following[0]
    return windows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place that every example writes anew."""
    return tmp_path_factory.mktemp("tokens")


# Windows.


@given(documents=corpora, length=lengths, data=st.data())
@settings(deadline=None, max_examples=60)
def test_windows_are_what_is_said_of_them(
    place: Path, documents: list[list[int]], length: int, data: st.DataObject
) -> None:
    """Law: positions count from a document's start and a window's; a target is the next token of both, if marked.

    In any order of rows, and whether the beginnings of documents are stored or told by what ends them.
    """
    count = sum(map(len, documents))
    mask = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=count, max_size=count).filter(any))
    expected = foretold(documents, length, mask or [1] * count)
    folder = folder_of(place / "folder", documents, mask=mask)
    own = {"vocabulary": VOCABULARY, "end": END, "mask": None if mask is None else folder / "mask.npy"}
    rows = np.array(data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=8)), np.int64)
    for dataset in (opened(folder, length), opened(folder / "tokens.npy", length, **own)):
        found = dataset.inputs(rows)
        np.testing.assert_array_equal(found, expected[rows])
        assert (found.dtype, found.flags.c_contiguous) == (np.int32, True)
        assert dataset.target_count == (expected[:, TARGETS] != NONE).sum()
        assert len(dataset) == len(expected)


@given(documents=corpora, length=lengths)
@settings(deadline=None, max_examples=30)
def test_windows_give_back_the_stream(place: Path, documents: list[list[int]], length: int) -> None:
    """Law: every token is in exactly one window, at its place; what fills up the last one has no position."""
    windows = whole(opened(folder_of(place / "back", documents), length))
    there = windows[:, POSITIONS] != NONE
    assert windows[:, IDS][there].tolist() == [*chain(*documents)]
    assert there[:-1].all()
    assert (windows[:, IDS][~there] == 0).all()
    assert (windows[:, TARGETS][~there] == NONE).all()


def test_windows_say_what_they_are(tmp_path: Path) -> None:
    """Law: the vocabulary is the classes; there are no labels, also where documents have some."""
    dataset = opened(folder_of(tmp_path / "x", DOCUMENTS, labels=[0, 1, 0, 1, -1], class_names=["a", "b"]))
    assert (dataset.classes, dataset.class_names, dataset.labels) == (VOCABULARY, None, None)
    assert (dataset.positions, dataset.tokenizer_sha256, dataset.input_shape) == (4, DIGEST, (3, 4))
    assert dataset.ids.tolist() == [0, 1, 2, 3]


def test_without_an_end_the_whole_is_one_document(tmp_path: Path) -> None:
    """Law: then only windows part it, and a tokenizer is not known."""
    np.save(tmp_path / "x.npy", np.array([3, 9, 1, 4, 5]))
    dataset = opened(tmp_path / "x.npy", 3, vocabulary=10)
    assert whole(dataset).tolist() == [[[3, 9, 1], [0, 1, 2], [9, 1, -1]], [[4, 5, 0], [0, 1, -1], [5, -1, -1]]]
    assert (dataset.target_count, dataset.tokenizer_sha256) == (3, None)


# Documents.


@given(documents=corpora, length=lengths, data=st.data())
@settings(deadline=None, max_examples=40)
def test_documents_are_samples(place: Path, documents: list[list[int]], length: int, data: st.DataObject) -> None:
    """Law: sample d is the first tokens of document d, counted from 0, filled up with zeros that have no position."""
    dataset = opened(folder_of(place / "documents", documents), length, layout="documents")
    assert len(dataset) == len(documents)
    rows = data.draw(st.lists(st.integers(0, len(documents) - 1), max_size=8))
    for found, row in zip(dataset.inputs(np.array(rows, np.int64)), rows, strict=True):
        kept = documents[row][:length]
        rest = length - len(kept)
        assert found.tolist() == [kept + [0] * rest, [*range(len(kept))] + [NONE] * rest]


def test_documents_have_labels(tmp_path: Path) -> None:
    """Law: their classes are the labels' own; a sample has one answer, and no positions of its own."""
    folder = folder_of(tmp_path / "x", DOCUMENTS, labels=[0, 1, 0, 1, -1], class_names=["a", "b", "c"])
    dataset = opened(folder, layout="documents")
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.classes, dataset.class_names) == ([0, 1, 0, 1, -1], 3, ("a", "b", "c"))
    assert (dataset.positions, dataset.target_count, dataset.input_shape) == (None, 0, (2, 4))
    assert len(leave_out(dataset, [1])) == 3
    assert leave_out(dataset, [1]).tokenizer_sha256 == DIGEST
    assert opened(folder_of(tmp_path / "x", DOCUMENTS), layout="documents").labels is None


def test_what_ends_documents_of_an_own_array_parts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the beginnings are those that a folder stores, in blocks of any size; what follows the last end is one."""
    folder = folder_of(tmp_path / "x", DOCUMENTS)
    expected = whole(opened(folder, layout="documents"))
    for block in (1, 2, 3, 100):
        monkeypatch.setattr(streams.blocks, "__defaults__", (block,))
        monkeypatch.setattr(texts, "BLOCK", block)
        monkeypatch.setattr(tokens, "BLOCK", block)
        own = opened(folder / "tokens.npy", layout="documents", vocabulary=VOCABULARY, end=END)
        np.testing.assert_array_equal(whole(own), expected)
        assert (
            opened(folder, 3).target_count
            == opened(folder / "tokens.npy", 3, vocabulary=VOCABULARY, end=END).target_count
            == 7
        )


# Where they lie.


def test_one_stream_is_one_dataset_wherever_it_lies(tmp_path: Path) -> None:
    """Law: .npy, raw, HDF5 and Zarr, of any integers and byte order, give the same samples, and so do their masks."""
    flat, mask = np.array([*chain(*DOCUMENTS)]), np.arange(16) % 3 > 0
    np.save(tmp_path / "x.npy", flat.astype(">u4"))
    np.save(tmp_path / "mask.npy", mask)
    flat.astype("<i4").tofile(tmp_path / "x.bin")
    mask.astype(np.uint8).tofile(tmp_path / "mask.bin")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("deep/ids", data=flat.astype(np.int64), chunks=(3,), compression="gzip")
        file["mask"] = mask
    zarr.create_array(str(tmp_path / "x.zarr"), data=flat.astype(np.uint16), chunks=(5,))
    zarr.create_array(str(tmp_path / "mask.zarr"), data=mask, chunks=(4,))
    places = {
        "x.npy": "mask.npy",
        "x.bin": "mask.bin",
        "x.h5:deep/ids": "x.h5:mask",
        "x.zarr": "mask.zarr",
    }
    expected = foretold(DOCUMENTS, 5, mask.astype(int).tolist())
    for path, beside in places.items():
        dtype = "int32" if path == "x.bin" else None
        dataset = opened(tmp_path / path, 5, vocabulary=VOCABULARY, end=END, dtype=dtype, mask=str(tmp_path / beside))
        np.testing.assert_array_equal(whole(dataset), expected)
        np.testing.assert_array_equal(dataset.inputs(np.array([3, 0, 0, 2])), expected[[3, 0, 0, 2]])
        assert dataset.target_count == (expected[:, TARGETS] != NONE).sum()


def test_threads_read_what_one_alone_reads(tmp_path: Path) -> None:
    """Law: inputs() may be called by any number of threads at once, and after a pickle, which holds no tokens."""
    chance = np.random.default_rng(5)
    documents = [[*chance.integers(0, END, chance.integers(0, 90)).tolist(), END] for _ in range(300)]
    dataset = opened(folder_of(tmp_path / "x", documents), 16)
    alone, pickled = whole(dataset), pickle.dumps(dataset.source)
    again = pickle.loads(pickled)  # noqa: S301  # pickled on the line before
    assert len(pickled) < len(dataset) * 8 + 3000
    batches = [np.random.default_rng(seed).integers(0, len(dataset), 32) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for found, rows in zip(pool.map(again.inputs, batches), batches, strict=True):
            np.testing.assert_array_equal(found, alone[rows], strict=True)


def test_a_folder_that_is_moved_is_the_same_dataset(tmp_path: Path) -> None:
    """Law: the content is what is in the folder, and not where it is."""
    folder = folder_of(tmp_path / "x", DOCUMENTS)
    before = content_digest(opened(folder))
    assert content_digest(opened(folder.rename(tmp_path / "y"))) == before


def test_the_longest_document_that_is_taken_is_as_long_as_a_sample(tmp_path: Path) -> None:
    """Law: with long = "refuse" nothing is cut out of a document by its length alone."""
    folder = folder_of(tmp_path / "x", DOCUMENTS)
    for layout in ("packed", "documents"):
        assert len(opened(folder, 7, layout=layout, long="refuse"))
        with pytest.raises(
            DatasetError, match=r"x: document 3 has 7 tokens, expected at most length = 6, .*long = .cut"
        ):
            opened(folder, 6, layout=layout, long="refuse")
    own = {"vocabulary": VOCABULARY, "long": "refuse"}
    with pytest.raises(DatasetError, match=r"tokens\.npy: document 0 has 16 tokens, expected at most length = 7"):
        opened(folder / "tokens.npy", 7, **own)
    assert opened(folder / "tokens.npy", 7, end=END, **own).target_count == opened(folder, 7).target_count


# What is refused.


def _json(**said: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "tokens.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **said}))

    return change


def _saved(name: str, values: object) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / name, np.array(values))


def _cut(folder: Path) -> None:
    path = folder / "tokens.npy"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "tokens.json").unlink(),
            r"x: this is no array of a known kind; expected tokens as X\.npy, X\.bi",
        ),
        (
            lambda f: (f / "tokens.json").write_text("{"),
            r"x/tokens\.json: this is no description in the format softlab",
        ),
        (
            _json(format="softlabels-tokens/2"),
            r"tokens\.json: this is no description in .*tokens/1: format: Input should",
        ),
        (_json(tokenizer_sha256="?"), r"tokenizer_sha256: String should match .* `softlabels tokenize` wrote, or make"),
        (_json(end=10), r"tokens\.json: .*: found end = 10, expected less than vocabulary = 10\. Point at a folder"),
        (_json(more=1), r"tokens\.json: .*: more: Extra inputs are not permitted"),
        (_json(tokens=17), r"x/tokens\.npy: found 16 tokens, expected 17, as the description beside it says"),
        (_cut, r"x/tokens\.npy: this cannot be read as a \.npy file: .* cut short"),
        (lambda f: (f / "tokens.npy").unlink(), r"x/tokens\.npy: there is no such file"),
        (
            _saved("tokens.npy", np.zeros(16)),
            r"x/tokens\.npy: found float64 of shape \[16\], expected a vector of integer",
        ),
        (_saved("tokens.npy", [[1] * 16]), r"x/tokens\.npy: found int64 of shape \[1, 16\], expected a vector"),
        (
            _saved("starts.npy", [0, 4]),
            r"x/starts\.npy: found int64 of shape \[2\], expected 5 integers, the beginning",
        ),
        (
            _saved("starts.npy", [0, 4, 4, 7, 14]),
            r"x/starts\.npy: document 1 begins at 4, expected beginnings that rise",
        ),
        (_saved("starts.npy", [1, 4, 6, 7, 14]), r"x/starts\.npy: document 0 begins at 1, expected .* rise from 0"),
        (_saved("starts.npy", [0, 4, 6, 7, 16]), r"x/starts\.npy: document 4 begins at 16, .* before the end at 16"),
        (_saved("mask.npy", [1] * 15), r"x/mask\.npy: found a mask of 15 marks, expected 16, one for each token"),
        (
            _saved("mask.npy", [0] * 16),
            r"x/mask\.npy: found an empty mask, which has no 1, and leaves no token to learn",
        ),
        (_saved("labels.npy", [0, 1]), r"x/labels\.npy: found 2 labels for 5 documents, expected one a document"),
    ],
)
def test_a_folder_that_does_not_go_together_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    """Law: the error names the file, what was found, what was expected and what to do."""
    damage(folder_of(tmp_path / "x", DOCUMENTS))
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path / "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "gone"}, r"gone: there is no such file or folder; expected tokens as X\.npy, .*Correct the path"),
        ({"path": "gone.npy"}, r"gone\.npy: there is no such file; expected a \.npy file"),
        ({"path": "gone.bin", "dtype": "uint16"}, r"gone\.bin: this file cannot be read: No such file"),
        ({"path": "x.bin"}, r"x\.bin: found dtype = None, expected one of uint16, uint32, int32, int64: .*which"),
        ({"path": "x.bin", "dtype": "uint32"}, r"x\.bin: found 6 bytes, expected a multiple of 4, .*cut short"),
        ({"path": "x.npy", "dtype": "uint16"}, r"x\.npy: found dtype = 'uint16', which is of \.bin files"),
        ({"path": "x.h5:no"}, r"x\.h5: the key 'no' does not exist; the datasets of this file are: ids"),
        ({"path": "x.npy", "vocabulary": None}, r"x\.npy: found vocabulary = None, expected how many tokens there are"),
        ({"path": "x.npy", "vocabulary": 1}, r"x\.npy: found vocabulary = 1, expected"),
        ({"path": "x.npy", "end": 10}, r"x\.npy: found end = 10, expected a token, 0 to 9\. Correct `end`"),
        ({"path": "empty.npy"}, r"empty\.npy: found no token, expected enough for one sample"),
        ({"path": "empty.bin", "dtype": "uint16"}, r"empty\.bin: found no token"),
        ({"path": "x.npy", "length": 1}, r"x\.npy: found length = 1, expected 2 or more tokens a sample"),
        ({"path": "x.npy", "layout": "loose"}, r"found layout = 'loose' and long = 'cut', expected one of packed, doc"),
        ({"path": "x.npy", "long": "split"}, r"found layout = 'packed' and long = 'split', .* one of cut, refuse"),
        ({"path": "x.npy", "layout": "documents"}, r'found layout = "documents" and no `end`, expected the token that'),
        (
            {"path": "x.npy", "mask": "empty.npy"},
            r"empty\.npy: found a mask of 0 marks, expected 3, one for each token",
        ),
        ({"path": "folder", "vocabulary": 10}, r"folder: found vocabulary, which this folder says itself.*Leave them"),
        ({"path": "folder", "mask": "x.npy", "vocabulary": None}, r"folder: found mask, which this folder says itself"),
    ],
)
def test_an_array_that_is_none_of_tokens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], message: str
) -> None:
    """Law: before anything is read of it."""
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "folder", DOCUMENTS)
    np.save("x.npy", np.array([1, 2, 3]))
    np.save("empty.npy", np.zeros(0, np.uint8))
    np.zeros(3, np.uint16).tofile("x.bin")
    Path("empty.bin").touch()
    with h5py.File("x.h5", "w") as file:
        file["ids"] = np.arange(3)
    with pytest.raises(DatasetError, match=message):
        opened(**{"length": 4, "vocabulary": 10, **arguments})


@pytest.mark.parametrize(("wrong", "row"), [(10, 1), (-1, 1), (70000, 2)])
def test_a_token_outside_the_vocabulary_is_refused_where_it_is_read(tmp_path: Path, wrong: int, row: int) -> None:
    """Law: the error names its place in the stream; windows without it are read."""
    flat = np.arange(10)
    flat[4 * row + 1] = wrong
    np.save(tmp_path / "x.npy", flat)
    dataset = opened(tmp_path / "x.npy", 4, vocabulary=10)
    assert dataset.inputs(np.array([0, 3 - row])).shape == (2, 3, 4)
    message = rf"x\.npy: the token at place {4 * row + 1} is {wrong}, expected 0 to 9\. Correct `vocabulary`"
    for rows in ([0, row], [0, 1, 2], [row, row]):
        with pytest.raises(DatasetError, match=message):
            dataset.inputs(np.array(rows))


def test_a_mask_holds_ones_and_zeros_alone(tmp_path: Path) -> None:
    """Law: a weight is no mark; it is refused where it is read."""
    folder = folder_of(tmp_path / "x", DOCUMENTS, mask=[1] * 15 + [2])
    assert len(opened(folder).inputs(np.array([0])))
    with pytest.raises(DatasetError, match=r"x: its mask holds 2, expected 1 where a token is to be learnt, and 0"):
        opened(folder).inputs(np.array([3]))


def test_classes_are_not_left_out_of_windows(tmp_path: Path) -> None:
    """Law: a window has an answer for each position, and not a class."""
    folder = folder_of(tmp_path / "x", DOCUMENTS)
    message = (
        r"without = \[1\] leaves out samples by their labels, and here each of 4 positions of a sample has an answe"
    )
    with pytest.raises(DatasetError, match=message):
        open_dataset("tokens", {"path": folder, "length": 4}, without=(1,))


# Of an experiment.

EXPERIMENT = """
[dataset]
kind = "tokens"
path = "x"
length = 4
{more}
[teacher]
model = "mlp"
checkpoint = "t.safetensors"

[cache]
path = "cache"
"""


def test_an_experiment_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the keys of the kind are those of its table, and come back as they were."""
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "x", DOCUMENTS)
    Path("e.toml").write_text(EXPERIMENT.format(more='layout = "documents"'))
    experiment = load(Path("e.toml"))
    assert open_source(experiment.dataset).input_shape == (2, 4)
    Path("again.toml").write_text(dump(experiment))
    assert load(Path("again.toml")) == experiment


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("layuot = 1", r"unknown key dataset\.layuot: did you mean layout\?"),
        ('layout = "loose"', r"dataset\.layout: found 'loose'"),
        ('dtype = "int8"', r"dataset\.dtype: found 'int8'"),
        ("vocabulary = 1", r"dataset\.vocabulary: found 1"),
    ],
)
def test_what_its_keys_do_not_take_is_refused(tmp_path: Path, more: str, message: str) -> None:
    """Law: while the experiment is read."""
    (tmp_path / "e.toml").write_text(EXPERIMENT.format(more=more))
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "e.toml")
