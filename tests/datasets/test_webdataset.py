"""Tar files of pictures: which samples they hold, and every way in which they hold none."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import dump, load
from pipeline.datasets import encoded, open_dataset
from pipeline.datasets.webdataset import braces
from pipeline.errors import DatasetError
from pipeline.sources import open_source


def picture(shade: int, kind: str = "png", size: int = 4) -> bytes:
    """A grey picture as a file of this kind holds it."""
    stream = io.BytesIO()
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(np.full((size, size, 3), shade, np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


def packed(path: Path, members: list[tuple[str, bytes]], **options: object) -> Path:
    """A tar file of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def id_of(text: str) -> int:
    """An id as the documentation of the kind says it is made."""
    return struct.unpack("<Q", hashlib.sha256(text.encode()).digest()[:8])[0] >> 1


TWO = [
    ("a/1.png", picture(1)),
    ("a/1.cls", b"3\n"),
    ("a/1.json", b"{}"),
    ("a/2.seg.png", b"?"),
    ("a/2.JPG", picture(2)),
]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tar files; with classes, without, with what is no picture, and with long names in every form of header."""
    with tarfile.open(packed(tmp_path / "t-08.tar", TWO), "a") as tar:
        folder = tarfile.TarInfo("a/folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo(".hidden"))
    packed(tmp_path / "t-09.tar", [(f"./{'long' * 60}é.webp", picture(3, "webp"))], format=tarfile.GNU_FORMAT)
    packed(
        tmp_path / "t-10.tar", [("x.cls", b"0"), (f"{'long' * 60}é.jpeg", picture(4, "jpeg")), ("x.jpeg", picture(5))]
    )
    return tmp_path


def test_a_sample_is_what_shares_a_name_up_to_the_first_dot(shards: Path) -> None:
    """Law: in the order of the files and of what is in them; an id is the hash of the file's name and the sample's."""
    dataset = open_dataset("webdataset", {"shards": shards / "t-{08..10}.tar", "size": 4})
    keys = ["t-08.tar/a/1", "t-08.tar/a/2", f"t-09.tar/{'long' * 60}é", "t-10.tar/x", f"t-10.tar/{'long' * 60}é"]
    assert dataset.ids.tolist() == list(map(id_of, keys))
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.classes, dataset.class_names) == ([3, -1, -1, 0, -1], 4, None)
    found = dataset.inputs(np.array([4, 3, 2, 1, 0, 3]))
    assert (found.dtype, found.shape) == (np.uint8, (6, 3, 4, 4))
    assert found[:, 0, 0, 0].tolist() == [4, 5, 3, 2, 1, 5]


def test_without_a_class_there_are_no_labels(shards: Path) -> None:
    """Law: pictures alone are a dataset, too."""
    dataset = open_dataset("webdataset", {"shards": [str(shards / "t-09.tar")], "size": 4})
    assert (dataset.labels, dataset.classes) == (None, None)


@pytest.mark.parametrize("patterns", ["t-*.tar", "t-{08,09,10}.tar", "t-[01]?.tar", ["t-08.tar", "t-{09..10}.tar"]])
def test_a_pattern_stands_for_files(shards: Path, monkeypatch: pytest.MonkeyPatch, patterns: str | list[str]) -> None:
    """Law: braces, wildcards and lists name the same files; it does not matter from where."""
    monkeypatch.chdir(shards)
    expected = open_dataset("webdataset", {"shards": str(shards / "t-*.tar"), "size": 4})
    found = open_dataset("webdataset", {"shards": patterns, "size": 4})
    assert found.ids.tolist() == expected.ids.tolist()


def test_a_file_may_be_named_as_a_pattern_is(shards: Path) -> None:
    """Law: what exists is meant by its name, whatever is in that."""
    (shards / "t-08.tar").rename(shards / "t[0].tar")
    assert len(open_dataset("webdataset", {"shards": shards / "t[0].tar", "size": 4})) == 2


@given(first=st.integers(0, 120), count=st.integers(1, 20), width=st.integers(1, 5))
def test_a_range_in_braces_counts_with_its_zeros(first: int, count: int, width: int) -> None:
    """Law: every number from the first to the last, as wide as the first is written."""
    start = f"{first:0{width}}"
    expected = [f"x/{number:0{len(start)}}.tar" for number in range(first, first + count)]
    assert braces(f"x/{{{start}..{first + count - 1}}}.tar") == expected


@pytest.mark.parametrize("pattern", ["plain.tar", "{}", "{a}", "{1..}", "{a..c}", "}{", "{3..2"])
def test_braces_that_list_nothing_are_letters(pattern: str) -> None:
    """Law: only ranges of numbers and lists with a comma are more than themselves."""
    assert braces(pattern) == [pattern]


def test_threads_read_what_one_alone_reads(tmp_path: Path) -> None:
    """Law: any number of threads at once, after a pickle, and no file is left open."""
    members = [(f"{place}.png", picture(place)) for place in range(40)]
    dataset = open_dataset("webdataset", {"shards": packed(tmp_path / "x.tar", members), "size": 4})
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # pickled on this very line
    batches = [np.random.default_rng(seed).integers(0, 40, 8) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for found, rows in zip(pool.map(again.inputs, batches), batches, strict=True):
            assert found[:, 1, 2, 3].tolist() == rows.tolist()


# What is refused.


def _cut(at: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(packed(path, TWO).read_bytes()[:at])


def _flipped(path: Path) -> None:
    content = bytearray(packed(path, TWO).read_bytes())
    content[1024] ^= 1
    path.write_bytes(content)


def _joined(path: Path) -> None:
    whole = packed(path, TWO).read_bytes()
    path.write_bytes(whole + whole)


def _holes(path: Path) -> None:
    member = tarfile.TarInfo("x.png")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    head = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"00000000000\0" * 2
    head[483:495] = b"00000001000\0"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    path.write_bytes(bytes(head) + bytes(512 * 21))


COMPRESSIONS = {
    "gz": r": this tar file is compressed \(gzip\), .* `gunzip`",
    "bz2": r": this tar file is compressed \(bzip2\), .* `bunzip2`",
    "xz": r": this tar file is compressed \(xz\), .* `unxz`",
}
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, r": this tar file cannot be read: No such file or directory\. Correct `shards`"),
    "a folder": (lambda path: path.mkdir(), r": this tar file cannot be read: Is a directory\."),
    "nothing": (lambda path: path.write_bytes(b""), r": this is no whole tar file: empty file\. Fetch it again\."),
    "a text": (lambda path: path.write_bytes(b"no tar " * 200), r": this is no whole tar file: invalid header\."),
    "zstd": (
        lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 99),
        r": this tar file is compressed \(zstd\)",
    ),
    "cut in a header": (
        _cut(1024 + 100),
        r": this tar file is cut short, expected a block of zeros at its end\. Fetch",
    ),
    "cut in a member": (_cut(512 + 20), ": this is no whole tar file: unexpected end of data"),
    "cut between members": (_cut(1024), r": this tar file is cut short, expected a block of zeros at its end"),
    "a damaged header": (_flipped, r": this tar file is damaged: there is no member at byte 1024\. Fetch it again\."),
    "joined": (_joined, r": more follows the end of this tar file, at byte \d+\. Several were joined: name each by"),
    "holes": (_holes, r"/x\.png: this member is stored with holes\. Write the tar file anew"),
    "twice": (
        lambda path: packed(path, [("1.png", picture(1)), ("./1.png", picture(2))]),
        r"/\./1\.png: this member is there twice\. Write the tar file anew\.",
    ),
    "two pictures": (
        lambda path: packed(path, [("1.png", picture(1)), ("1.jpg", picture(1))]),
        r"/1: found jpg and png, expected one of jpg, jpeg, png, webp a sample",
    ),
    "no picture": (lambda path: packed(path, [("1.cls", b"1")]), r"/1: found a class and no picture, expected one of"),
    "no class": (
        lambda path: packed(path, [("1.png", picture(1)), ("1.cls", b"cat")]),
        r"/1\.cls: found b'cat', expected a class in digits\.",
    ),
    "half a class": (
        lambda path: packed(path, [("1.png", picture(1)), ("1.cls", b"1.5")]),
        r"/1\.cls: found b'1\.5', expected a class in digits",
    ),
    "other things": (lambda path: packed(path, [("1.txt", b"x")]), r".*this dataset is empty"),
    **{name: (lambda path, name=name: _compressed(path, name), words) for name, words in COMPRESSIONS.items()},
}


def _compressed(path: Path, how: str) -> None:
    with tarfile.open(path, f"w:{how}") as tar:
        tar.addfile(tarfile.TarInfo("x"))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_tar_file_that_is_broken_is_refused(tmp_path: Path, kind: str) -> None:
    """Law: nothing is lost without a word: the error names the file, the member, what is wrong and what to do."""
    breaking, message = BROKEN[kind]
    breaking(tmp_path / "x.tar")
    with pytest.raises(DatasetError, match=rf"{tmp_path}/x\.tar.*{message.removeprefix('.*')}"):
        open_dataset("webdataset", {"shards": tmp_path / "x.tar", "size": 4})


def test_a_tar_file_in_gzip_is_to_be_unpacked(tmp_path: Path) -> None:
    """Law: under whatever name it comes, it is told what it is and what unpacks it."""
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(packed(path, TWO).read_bytes()))
    message = rf"^{path}: this tar file is compressed \(gzip\), expected a plain one: .* Unpack it, with `gunzip`, and"
    with pytest.raises(DatasetError, match=message):
        open_dataset("webdataset", {"shards": path, "size": 4})


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    """Law: no files are no empty dataset."""
    with pytest.raises(DatasetError, match=rf"^{tmp_path}/\*\.tar: no file matches this pattern, expected tar files\."):
        open_dataset("webdataset", {"shards": tmp_path / "*.tar", "size": 4})


def test_a_file_that_is_named_twice_is_refused(shards: Path) -> None:
    """Law: be it by two patterns or by two paths."""
    with pytest.raises(DatasetError, match=rf"^{shards}/t-08\.tar: this tar file is named twice, expected each once\."):
        open_dataset(
            "webdataset", {"shards": [shards / "t-*.tar", shards / ".." / shards.name / "t-08.tar"], "size": 4}
        )


def test_files_of_one_name_and_one_key_are_both_named(tmp_path: Path) -> None:
    """Law: an id counts the file's name and not its folder, so that files may be moved; two of one are an error."""
    paths = [packed(tmp_path / folder / "x.tar", TWO) for folder in "ab"]
    message = rf"^{paths[0]}/a/[12]\.\w+ and {paths[1]}/a/[12]\.\w+: both have the id \d+, .* Rename one of the two"
    with pytest.raises(DatasetError, match=message):
        open_dataset("webdataset", {"shards": paths, "size": 4})


def test_two_samples_of_one_hash_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a collision, however unlikely, is an error."""
    monkeypatch.setattr(encoded, "_id_of", len)
    path = packed(tmp_path / "x.tar", TWO)
    with pytest.raises(
        DatasetError, match=rf"^{path}/a/1\.png and {path}/a/2\.jpg: both have the id 9, expected an id"
    ):
        open_dataset("webdataset", {"shards": path, "size": 4})


DAMAGED = [("1.png", picture(1)), ("2.png", picture(2)[:-30]), ("2.cls", b"1"), ("3.jpg", b""), ("4.png", picture(4))]


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    """Law: the file, the member, why, and what to do."""
    path = packed(tmp_path / "x.tar", DAMAGED)
    dataset = open_dataset("webdataset", {"shards": path, "size": 4})
    message = rf"^{path}/2\.png: this picture cannot be decoded: .*\. Restore or remove it, or say damaged = \"skip\""
    with pytest.raises(DatasetError, match=message):
        dataset.inputs(np.array([0, 1]))


def test_damaged_pictures_are_left_out_if_asked(tmp_path: Path) -> None:
    """Law: the others keep their ids; the names of what is left out are known."""
    path = packed(tmp_path / "x.tar", DAMAGED)
    dataset = open_dataset("webdataset", {"shards": path, "size": 4, "damaged": "skip"}, classes=2)
    assert dataset.ids.tolist() == [id_of("x.tar/1"), id_of("x.tar/4")]
    assert dataset.skipped == (f"{path}/2.png", f"{path}/3.jpg")
    assert dataset.inputs(np.arange(2))[:, 0, 0, 0].tolist() == [1, 4]


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_a_file_that_shrinks_is_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str) -> None:
    """Law: what was there when it was opened has to stay."""
    path = packed(tmp_path / "x.tar", TWO)
    whole, opened = path.read_bytes(), encoded.from_shelf
    monkeypatch.setattr(
        "pipeline.datasets.webdataset.from_shelf", lambda *rest: path.write_bytes(whole[:520]) and opened(*rest)
    )
    with pytest.raises(
        DatasetError, match=rf"^{path}: this tar file ends at byte 520, expected \d+ bytes from 512 on: "
    ):
        open_dataset("webdataset", {"shards": path, "size": 4, "damaged": damaged}).inputs(np.arange(1))


def test_a_file_that_goes_is_named(tmp_path: Path) -> None:
    """Law: an error of the system in one line."""
    path = packed(tmp_path / "x.tar", TWO)
    dataset = open_dataset("webdataset", {"shards": path, "size": 4})
    path.unlink()
    with pytest.raises(DatasetError, match=rf"^{path}: this tar file cannot be read: No such file or directory\."):
        dataset.inputs(np.arange(1))


# The experiment file.

EXPERIMENT = """
[dataset]
kind = "webdataset"
shards = "{folder}/t-{08..10}.tar"
size = 4

[teacher]
model = "mlp"
checkpoint = "t.safetensors"

[cache]
path = "c"
"""


@pytest.fixture
def written(shards: Path) -> Path:
    """An experiment on the files."""
    path = shards / "experiment.toml"
    path.write_text(EXPERIMENT.replace("{folder}", str(shards)))
    return path


def test_an_experiment_names_tar_files(written: Path, shards: Path) -> None:
    """Law: one pattern or a list of them; the copy that a run keeps is an equal experiment."""
    experiment = load(written)
    listed = load(written, [f'dataset.shards=["{shards}/t-0*.tar", "{shards}/t-10.tar"]'])
    assert len(open_source(experiment.dataset)) == len(open_source(listed.dataset)) == 5
    for each in (experiment, listed):
        (shards / "copy.toml").write_text(dump(each))
        assert load(shards / "copy.toml") == each
