"""`softlabels tokenize`: a folder of tokens of texts."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_cases import snapshot, softlabels

from pipeline import tokenized
from pipeline.corpus import Bytes, Document
from pipeline.datasets import open_dataset
from pipeline.datasets.token_folder import read_description
from pipeline.errors import StorageError
from pipeline.tokenized import Classes, Growing, Parting, TokenWriter
from stages import tokenize_texts as stage

END = 256


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with some texts."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one two\n")
    Path("b.txt").write_text("drei — é")
    Path("empty.txt").write_text(" \n")
    return tmp_path


def rows(name: str, *values: dict[str, object]) -> str:
    """A file of these rows."""
    Path(name).write_text("".join(json.dumps(each) + "\n" for each in values))
    return name


def tokenize(*words: str, out: str = "out") -> dict[str, Any]:
    """The facts of a command that has to succeed."""
    facts = json.loads(softlabels("tokenize", *words, "--out", out, "--tokenizer", "bytes", "--json").out)
    assert "error" not in facts, facts
    return dict(facts)


def documents(folder: str) -> list[list[int]]:
    """The tokens of each document."""
    starts = np.load(f"{folder}/starts.npy")
    assert starts.dtype == np.int64
    return [each.tolist() for each in np.split(np.load(f"{folder}/tokens.npy"), starts[1:])]


def texts(folder: str) -> list[str]:
    """The text of each document, of which each has its end."""
    found = documents(folder)
    assert all(ids[-1] == END and END not in ids[:-1] for ids in found)
    return [Bytes().decode(np.array(ids)) for ids in found]


@pytest.mark.usefixtures("here")
def test_texts_become_tokens_one_document_after_the_other() -> None:
    """Law: what is written gives back every text that is not empty, in order; the description says all of it."""
    facts = tokenize("b.txt", "empty.txt", "a.txt")
    assert texts("out") == ["drei — é", "one two\n"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["starts.npy", "tokens.json", "tokens.npy"]
    assert np.load("out/tokens.npy").dtype == np.uint16
    said = read_description(Path("out"))
    assert (said.documents, said.tokens, said.vocabulary, said.end, said.left_out) == (2, 21, 257, END, 1)
    assert (said.tokenizer, said.tokenizer_sha256, said.class_names) == ("bytes", Bytes().digest, None)
    expected = {"documents": 2, "tokens": 21, "tokens_per_document": 10.5, "vocabulary": 257, "left_out": 1}
    assert {key: facts[key] for key in expected} == expected
    assert facts["bytes"] == sum(path.stat().st_size for path in Path("out").iterdir())
    dataset = open_dataset("tokens", {"path": "out", "length": 8})
    assert (len(dataset), dataset.classes) == (3, 257)


@pytest.mark.usefixtures("here")
def test_the_report_says_what_was_made() -> None:
    """Law: documents, tokens, bytes, tokens a document, the vocabulary, what ends a document, what was left out."""
    outcome = softlabels("tokenize", "a.txt", "empty.txt", "--out", "out", "--tokenizer", "bytes")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0].startswith("out: 1 document, 9 tokens (")
    assert outcome.out.splitlines()[0].endswith("), 9.0 a document.")
    assert outcome.out.splitlines()[1:] == [
        "A vocabulary of 257; what ends a document is the token after all bytes (256). 1 empty document left out."
    ]


@pytest.mark.usefixtures("here")
def test_only_completions_are_learnt() -> None:
    """Law: the mask is 0 on a prompt and 1 on a completion and its end, and on all of a text without a prompt."""
    pair = {"prompt": "ab", "completion": "c"}
    tokenize(rows("x.jsonl", {"text": "xyz"}, pair, {"prompt": "p", "completion": ""}, {"text": "q"}))
    assert texts("out") == ["xyz", "abc", "q"]
    mask = np.load("out/mask.npy")
    assert (mask.dtype, mask.tolist()) == (np.uint8, [1, 1, 1, 1, 0, 0, 1, 1, 1, 1])
    assert open_dataset("tokens", {"path": "out", "length": 64}).target_count == 6


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (["b", "a", None, "b"], [1, 0, -1, 1], ("a", "b")),
        ([3, 0, -1, None], [3, 0, -1, -1], None),
        (["3", 0, "", 1], [3, 0, -1, 1], None),
        (["3", "x", 3, "-"], [1, 2, 1, 0], ("-", "3", "x")),
        (["--3", "0", "0", "0"], [0, 1, 1, 1], ("--3", "0")),
    ],
)
@pytest.mark.usefixtures("here")
def test_labels_are_numbers_or_names(labels: list[object], expected: list[int], names: tuple[str, ...] | None) -> None:
    """Law: where all are integers they are the classes; else these are the names in their order. -1 is not known."""
    tokenize(rows("x.jsonl", *({"text": "a", "y": label} for label in labels)), "--label-key", "y")
    assert np.load("out/labels.npy").tolist() == expected
    assert read_description(Path("out")).class_names == names
    dataset = open_dataset("tokens", {"path": "out", "length": 8, "layout": "documents"})
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.class_names) == (expected, names)


@pytest.mark.usefixtures("here")
def test_documents_are_held_out_by_their_numbers() -> None:
    """Law: each document is in one of two folders, in order; which one is told by its number and nothing else."""
    Path("x.txt").write_text("".join(f"{number}\n" for number in range(1000)))
    facts = tokenize("x.txt", "--per-line", "--held-out", "0.1")
    train, test = texts("out"), texts("out-test")
    assert sorted(train + test, key=int) == [str(number) for number in range(1000)]
    assert (train, test) == (sorted(train, key=int), sorted(test, key=int))
    assert 60 < len(test) < 140
    assert (facts["documents"], facts["test"]["documents"]) == (len(train), len(test))
    Path("y.txt").write_text("".join(f"{number}, longer\n" for number in range(1000)))
    tokenize("y.txt", "--per-line", "--held-out", "0.1", out="again")
    assert [text.partition(",")[0] for text in texts("again-test")] == test
    tokenize("x.txt", "--per-line", "--held-out", "0.2", out="more")
    assert set(test) < set(texts("more-test"))


@pytest.mark.usefixtures("here")
def test_both_parts_have_the_same_classes() -> None:
    """Law: a class that one of the folders lacks has its place in both."""
    name = rows("x.jsonl", *({"text": "a", "y": "cba"[number // 30]} for number in range(90)))
    tokenize(name, "--label-key", "y", "--held-out", "0.05")
    for folder in ("out", "out-test"):
        assert read_description(Path(folder)).class_names == ("a", "b", "c")
        assert (np.diff(np.load(f"{folder}/labels.npy")) <= 0).all()


@given(
    written=st.lists(
        st.tuples(st.none() | st.text("ab", max_size=5), st.text("cd", min_size=1, max_size=9)), min_size=1, max_size=20
    ),
    most=st.integers(1, 30),
    block=st.integers(1, 8),
)
@settings(deadline=None, max_examples=15)
def test_blocks_decide_nothing(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[str | None, str]], most: int, block: int
) -> None:
    """Law: however many texts are encoded at once, and however large blocks are, the folder is the same."""
    folder = tmp_path_factory.mktemp("blocks")
    rows(str(folder / "x.jsonl"), *({"text": b} if a is None else {"prompt": a, "completion": b} for a, b in written))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tokenize("x.jsonl")
        patch.setattr(stage, "MOST_CHARACTERS", most)
        patch.setattr(tokenized, "BLOCK", block)
        tokenize("x.jsonl", out="again")
        again, before = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("again", "out"))
        assert again == before


@pytest.mark.usefixtures("here")
def test_a_vocabulary_above_65536_takes_four_bytes(tmp_path: Path) -> None:
    """Law: two bytes hold 0 to 65,535, and one token more needs four."""
    for vocabulary, dtype in {2**16: np.uint16, 2**16 + 1: np.uint32}.items():
        with TokenWriter(tmp_path / str(vocabulary), Bytes(vocabulary=vocabulary)) as writer:
            writer.add(np.array([vocabulary - 1, END]), prompt=None, label=-1)
            writer.finish(Classes(), 0, {})
        found = np.load(tmp_path / str(vocabulary) / "tokens.npy")
        assert (found.dtype, found.tolist()) == (dtype, [vocabulary - 1, END])


def test_an_array_that_grows_is_what_numpy_saves(tmp_path: Path) -> None:
    """Law: byte for byte, at any length."""
    for count in (0, 1, 10, 12345):
        values = np.arange(count)
        file = Growing(tmp_path / f"{count}.npy", np.int64)
        for part in np.array_split(values, 3):
            file.append(part)
        file.close()
        np.save(tmp_path / "expected.npy", values)
        assert (tmp_path / f"{count}.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


# Twice, and what is in the way.


def test_the_same_command_again_has_nothing_to_do(here: Path) -> None:
    """Law: nothing is read or written, and the report is the same."""
    words = ("a.txt", "b.txt", "--held-out", "0.5", "--per-line")
    Path("a.txt").write_text("\n".join("abcdefgh"))
    first = tokenize(*words)
    before = snapshot(here)
    assert tokenize(*words) == {**first, "already": True}
    assert snapshot(here) == before
    assert "Already there: nothing done." in softlabels("tokenize", *words, "--out", "out", "--tokenizer", "bytes").out


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("b.txt", "--out", "out"), "out"),
        (("a.txt", "--out", "out", "--per-line"), "out"),
        (("a.txt", "--out", "out", "--held-out", "0.5"), "out"),
        (("a.txt", "--out", "a.txt"), r"a\.txt"),
        (("a.txt", "--out", "full"), "full"),
        (("a.txt", "--out", "link"), "link"),
        (("a.txt", "--out", "half", "--held-out", "0.5"), "half-test"),
    ],
)
def test_what_is_there_is_not_touched(here: Path, words: tuple[str, ...], place: str) -> None:
    """Law: other tokens, other files, links: refused, and left as they are. An empty folder is nothing."""
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    for folder in ("full", "half-test"):
        Path(folder).mkdir()
        Path(folder, "x").touch()
    tokenize("a.txt")
    before = snapshot(here)
    outcome = softlabels("tokenize", *words, "--tokenizer", "bytes")
    outcome.refuses(1, f"{place.replace(chr(92), '')}: something else is there already, or tokens of other texts")
    assert snapshot(here) == before
    tokenize("a.txt", out="empty")


# What is refused.


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("gone.txt",), 2, "gone.txt: there is no such file or folder"),
        (("a.txt", "--end", "x"), 2, "--end x: the tokenizer 'bytes' has an end of its own"),
        (("a.txt", "--held-out", "1"), 2, "--held-out"),
        (("empty.txt",), 1, "out: found no document for this folder, of 0 that have a text and 1 empty ones"),
        (("a.txt", "--held-out", "0.001"), 1, "out-test: found no document for this folder, of 1 that have a text"),
        (("a.txt", "--label-key", "y"), 1, "--label-key y: found no document with a label at this key, expected some"),
        (("a.txt", "latin.txt"), 1, "latin.txt: this file is no text in UTF-8"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    here: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    """Law: a folder is there whole or not at all."""
    Path("latin.txt").write_bytes(b"\xe9")
    before = snapshot(here)
    outcome = softlabels("tokenize", *words, "--out", "out", "--tokenizer", "bytes")
    assert outcome.code == code
    assert message in outcome.err
    assert snapshot(here) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """Law: the same command makes all of it again."""
    take = Parting.take

    def interrupted(self: Parting, documents: list[Document]) -> None:
        take(self, documents)
        signal.raise_signal(number)

    before = snapshot(here)
    with monkeypatch.context() as patch:
        patch.setattr(Parting, "take", interrupted)
        outcome = softlabels("tokenize", "a.txt", "--out", "out", "--tokenizer", "bytes")
    assert outcome.code == code
    assert "Nothing is kept: tokens are written whole or not at all. Run the same command again" in outcome.err
    assert snapshot(here) == before
    assert tokenize("a.txt")["already"] is False


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what failed, why, and what to do; nothing is left."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with TokenWriter(tmp_path / "out", Bytes()) as writer:
        monkeypatch.setattr(Growing, "append", full)
        with pytest.raises(StorageError, match=r"out: this folder could not be written: No space .* free some space"):
            writer.add(np.array([1]), prompt=None, label=-1)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    """Law: of the same folder alone, and not while its writer lives."""
    for name in (".softlabels-1-out.unfinished", ".softlabels-1-other-out.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.npy").touch()
    with TokenWriter(tmp_path / "out", Bytes()):
        (left,) = [path for path in tmp_path.iterdir() if path.name != ".softlabels-1-other-out.unfinished"]
        left.rename(tmp_path / ".softlabels-2-out.unfinished")
        with TokenWriter(tmp_path / "out", Bytes()):
            assert (tmp_path / ".softlabels-2-out.unfinished").is_dir()
    with TokenWriter(tmp_path / "out", Bytes()):
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == [".softlabels-1-other-out.unfinished"]
