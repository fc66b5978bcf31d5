"""Texts from wherever they lie, and what makes tokens of them."""

import csv
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import Bytes, Document, Keys, texts_of, tokenizer_of
from pipeline.datasets import huggingface
from pipeline.errors import ConfigError, DatasetError

texts = st.text(st.characters(exclude_categories=["Cs"]))


def found(source: Path | str, **keys: Any) -> list[Document]:  # noqa: ANN401
    """All documents of a source."""
    return list(texts_of(str(source), Keys(**keys)))


# Texts.


@given(text=texts)
def test_a_file_is_a_document(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Law: to the last character, ends of lines included; a mark of UTF-8's byte order is none of it."""
    path = tmp_path_factory.getbasetemp() / "file.md"
    path.write_bytes(text.encode())
    assert found(path) == [Document(text.removeprefix("\ufeff"))]
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert found(path) == [Document(text)]


def test_a_line_is_a_document_where_that_is_asked_for(tmp_path: Path) -> None:
    """Law: without its end; no other character ends a line."""
    (tmp_path / "x.txt").write_bytes("one\r\n\ntwo\u2028three\rfour\nlast".encode())
    assert found(tmp_path / "x.txt", per_line=True) == [
        Document(text) for text in ("one", "", "two\u2028three\rfour", "last")
    ]


def test_rows_have_keys(tmp_path: Path) -> None:
    """Law: the text, or a prompt and its completion, and a label if one is asked for; blank lines are passed over."""
    rows = [{"text": "a\nb", "kind": 3}, {"prompt": "p", "completion": "c", "kind": "x"}, {"text": "", "kind": None}]
    (tmp_path / "x.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert found(tmp_path / "x.jsonl") == [Document("a\nb"), Document("c", "p"), Document("")]
    labelled = [Document("a\nb", label="3"), Document("c", "p", "x"), Document("")]
    assert found(tmp_path / "x.jsonl", label="kind") == labelled
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["body", "y"], ['one,\n"two"', "pos"], ["é" * 200_000, ""]])
    assert found(tmp_path / "x.csv", text="body", label="y") == [
        Document('one,\n"two"', label="pos"),
        Document("é" * 200_000),
    ]


def test_a_folder_is_its_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """Law: at any depth; what begins with a dot is passed over."""
    for name, text in {"b.txt": "3", "a/z.md": "2", "a/b/c.rst": "1", ".x/y.txt": "no", "a/.z": "no"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "c.jsonl").write_text('{"text": "4"}\n{"text": "5"}')
    assert [each.text for each in found(tmp_path)] == ["1", "2", "3", "4", "5"]


def test_texts_are_read_one_by_one(tmp_path: Path) -> None:
    """Law: what is damaged further on is no error before it is reached."""
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"te')
    documents = texts_of(str(tmp_path / "x.jsonl"), Keys())
    assert (next(documents), next(documents)) == (Document("a"), Document("b"))
    with pytest.raises(DatasetError, match=r"x\.jsonl, line 3: this is no JSON"):
        next(documents)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An installed module that holds texts."""
    module = ModuleType("own_texts")
    monkeypatch.setitem(sys.modules, "own_texts", module)
    return module


def test_installed_python_holds_texts(own: ModuleType) -> None:
    """Law: a text, texts, a mapping in the order of its keys, rows with keys, or a function that gives one of these."""
    own.value = None
    for value, expected in [
        ("one", ["one"]),
        (["one", {"text": "two"}], ["one", "two"]),
        ({"b": "two", "a": "one"}, ["one", "two"]),
        (lambda: iter(["one"]), ["one"]),
        (SimpleNamespace(deep=("one",)), None),
    ]:
        own.value = value
        if expected:
            assert [each.text for each in found("own_texts:value")] == expected
    assert [each.text for each in found("own_texts:value.deep")] == ["one"]
    assert len(found("pydoc_data.topics:topics")) > 50


def _raises() -> Iterator[str]:
    yield "one"
    raise KeyError("two")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"own_texts:value: found int, expected a text, texts, a mapping of texts, or a function"),
        ([3], r"own_texts:value, text 0: found int, expected an object with the key 'text'"),
        (_raises, r"own_texts:value: this raised KeyError: 'two'\. Mend it"),
    ],
)
def test_installed_python_that_holds_none_is_refused(own: ModuleType, value: object, message: str) -> None:
    """Law: in a paragraph, whatever it does."""
    own.value = value
    with pytest.raises(DatasetError, match=message):
        found("own_texts:value")


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        ("x.txt", b"ab\xff", {}, r"x\.txt: this file is no text in UTF-8 \(invalid start byte at byte 2"),
        ("x.txt", b"ab\xff", {"per_line": True}, r"x\.txt: this file is no text in UTF-8"),
        ("x.jsonl", b'{"text": "\xff"}', {}, r"x\.jsonl: this file is no text in UTF-8"),
        ("x.csv", b"text\n\xff", {}, r"x\.csv: this file is no text in UTF-8"),
        (
            "x.jsonl",
            b'{"text": "\\ud800"}',
            {},
            r"x\.jsonl, line 1: the text at the key 'text' is no UTF-8: surrogates",
        ),
        ("x.jsonl", b"[1]", {}, r"x\.jsonl, line 1: found list, expected an object with the key 'text'"),
        ("x.jsonl", b"\n{]", {}, r"x\.jsonl, line 2: this is no JSON: "),
        (
            "x.jsonl",
            b'{"a": 1, "b": 2}',
            {},
            r"line 1: found the keys a, b, expected 'text', or 'prompt' and 'completi",
        ),
        ("x.jsonl", b'{"text": 1}', {}, r"line 1: found int at the key 'text', expected a text\. Mend the row"),
        (
            "x.jsonl",
            b'{"text": "a", "y": 1.5}',
            {"label": "y"},
            r"found float as the label, expected the number or the n",
        ),
        ("x.csv", b"body\none", {}, r"x\.csv, line 2: found the keys body, expected 'text', .*: --text-key"),
        ("x.csv", b'text\n"one', {}, r"x\.csv, line 2: this is no CSV: "),
    ],
)
def test_a_file_that_holds_no_texts_is_refused(
    tmp_path: Path, name: str, content: bytes, keys: dict[str, Any], message: str
) -> None:
    """Law: the error names the file, and the line where there are lines."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        found(tmp_path / name, **keys)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "gone.txt",
            r"^gone\.txt: there is no such file or folder; expected texts as one, as hf:NAME:SPLIT, or as modul",
        ),
        ("no_module:texts", r"^no_module:texts: there is no module 'no_module'"),
        ("pydoc_data.topics:no", r"^pydoc_data\.topics:no: the module pydoc_data\.topics .* has no 'no'"),
        ("hf:", r"^hf:: expected hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT"),
        ("hf:a:b:c:d", r"^hf:a:b:c:d: expected hf:NAME"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, message: str) -> None:
    """Law: what is asked for is not there."""
    with pytest.raises(ConfigError, match=message):
        found(source)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hf:wiki", ("wiki", None, "train")),
        ("hf:a/wiki:test", ("a/wiki", None, "test")),
        ("hf:a/wiki:small:test", ("a/wiki", "small", "test")),
    ],
)
def test_a_published_dataset_is_streamed(
    monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple[str, str | None, str]
) -> None:
    """Law: its name, its configuration and its split are what the library is asked for; rows have keys as in files."""

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Iterator[dict[str, object]]:
        assert ((name, config, split), streaming) == (asked, True)
        yield {"text": "one", "y": 1}
        yield {"body": "two"}

    monkeypatch.setattr(huggingface, "_library", lambda _: SimpleNamespace(load_dataset=load_dataset))
    documents = texts_of(source, Keys(label="y"))
    assert next(documents) == Document("one", label="1")
    with pytest.raises(DatasetError, match=rf"^{source}, row 1: found the keys body, expected 'text'"):
        next(documents)


def test_a_dataset_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: of a network, a hub or a library that is not there, in a paragraph."""

    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no way")

    monkeypatch.setattr(huggingface, "_library", lambda _: SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(DatasetError, match=r"^hf:wiki: the split 'train' cannot be read: ConnectionError: no way"):
        found("hf:wiki")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"^hf:wiki needs the library `datasets`, which cannot be imported here: "):
        found("hf:wiki")


def test_a_saved_dataset_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what `save_to_disk` wrote, one table or several."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pytest.importorskip("datasets.arrow_dataset")  # the folder of other tests is imported as `datasets` as well
    library = importlib.import_module("datasets")
    library.disable_progress_bars()
    table = library.Dataset.from_dict({"text": ["one", "two"], "y": [0, 1]})
    library.DatasetDict({"test": table}).save_to_disk(str(tmp_path / "several"))
    table.save_to_disk(str(tmp_path / "one"))
    expected = [Document("one", label="0"), Document("two", label="1")]
    assert found(f"hf:{tmp_path / 'several'}:test", label="y") == found(f"hf:{tmp_path / 'one'}", label="y") == expected
    with pytest.raises(DatasetError, match=r"found the splits test, expected `split` to be one of these, not 'train'"):
        found(f"hf:{tmp_path / 'several'}")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text('{"text": "three"}\n')
    assert found(f"hf:{tmp_path / 'files'}") == [Document("three")]


# Tokenizers.


@given(several=st.lists(texts, max_size=4))
def test_bytes_give_back_every_text(several: list[str]) -> None:
    """Law: decode(encode(text)) == text, with an end or without; a token is a byte, and no more."""
    tokenizer = tokenizer_of("bytes")
    for text, ids in zip(several, tokenizer.encode(several), strict=True):
        assert ids.tolist() == list(text.encode())
        assert tokenizer.decode(ids) == tokenizer.decode(np.append(ids, tokenizer.end)) == text


def test_bytes_are_what_they_are_for_ever() -> None:
    """Law: the digest, the end and the vocabulary are frozen here: tokens were written with them."""
    tokenizer = tokenizer_of("bytes")
    assert (tokenizer.name, tokenizer.vocabulary, tokenizer.end) == ("bytes", 257, 256)
    assert tokenizer.digest == "b7a525d583deef8daea1ec1ef40b1aa329c2026699df6274a6737332ae2a2667"
    assert tokenizer == Bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a small tokenizer of the library, with these special tokens, cut and filled up to 4 tokens by itself."""
    library = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tokenizers")

    def train(*special: str) -> Path:
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        alphabet = library.pre_tokenizers.ByteLevel.alphabet()
        trainer = library.trainers.BpeTrainer(
            vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(["the cat and the hat and the rat"] * 9, trainer)
        if special:
            pair = (special[0], tokenizer.token_to_id(special[0]))
            tokenizer.post_processor = library.processors.TemplateProcessing(
                single=f"{special[0]} $A", special_tokens=[pair]
            )
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=4)
        path = folder / f"{len(special)}.json"
        tokenizer.save(str(path))
        return path

    return train


def test_a_file_of_the_library_gives_back_texts(trained: Callable[..., Path]) -> None:
    """Law: no special token is added, nothing cut off and nothing filled up, whatever the file says for batches."""
    path = trained("<pad>", "</s>", "<eos>")
    tokenizer = tokenizer_of(str(path))
    several = ["the cat and the hat, the rat, and é\n the end", "x"]
    encoded = tokenizer.encode(several)
    assert [tokenizer.decode(np.append(ids, tokenizer.end)) for ids in encoded] == several
    assert len(encoded[0]) > 4
    assert len(encoded[1]) == 1
    assert max(ids.max() for ids in encoded) < tokenizer.vocabulary
    assert (tokenizer.name, tokenizer.digest) == ("3.json", hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_ends_a_document_is_the_usual_token_or_the_one_that_is_named(trained: Callable[..., Path]) -> None:
    """Law: of the usual ones the first that there is; a tokenizer without any asks which."""
    path = str(trained("<pad>", "</s>", "<eos>"))
    assert (tokenizer_of(path).end, tokenizer_of(path).end_name) == (1, "</s>")
    assert tokenizer_of(path, "<eos>").end == 2
    with pytest.raises(ConfigError, match=r"3\.json: found no token '<x>' in this tokenizer, expected --end to be one"):
        tokenizer_of(path, "<x>")
    with pytest.raises(
        ConfigError, match=r"0\.json: found none of <\|endoftext\|>, </s>, .*Say which one: --end TOKEN"
    ):
        tokenizer_of(str(trained()))


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: no such file, no such format, no library, an end of bytes."""
    with pytest.raises(
        ConfigError, match=r"^gpt2: this tokenizer cannot be read: No such file .* expected 'bytes', or"
    ):
        tokenizer_of("gpt2")
    with pytest.raises(ConfigError, match=r"^--end x: the tokenizer 'bytes' has an end of its own\. Leave --end out"):
        tokenizer_of("bytes", "x")
    (tmp_path / "x.json").write_text("{}")
    pytest.importorskip("tokenizers")
    with pytest.raises(ConfigError, match=r"x\.json: the library `tokenizers` cannot read this: .*point at one"):
        tokenizer_of(str(tmp_path / "x.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ConfigError, match=r"x\.json: this needs the library `tokenizers`, .*; or say --tokenizer bytes"
    ):
        tokenizer_of(str(tmp_path / "x.json"))
