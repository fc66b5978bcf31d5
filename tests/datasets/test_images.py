"""Folders of pictures, and what every kind that decodes does with one."""

import hashlib
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import pictures
from pipeline.config import dump, load
from pipeline.datasets import content_digest, encoded, open_dataset
from pipeline.errors import ConfigError, DatasetError
from pipeline.pictures import FILTERS, UPRIGHT, DamagedError, decoded
from pipeline.sources import open_source

CHANCE = np.random.default_rng(7)
COLOURS = CHANCE.integers(0, 256, (6, 8, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(0, 256, 8)[:, None], np.arange(0, 256, 8), 128), -1).astype(np.uint8)


def bytes_of(picture: Image.Image | np.ndarray, kind: str = "png", **options: object) -> bytes:
    """A picture as a file of this kind holds it."""
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(stream, kind, **options)
    return stream.getvalue()


def laid_out(root: Path, files: dict[str, bytes]) -> Path:
    """A folder of these files."""
    for inside, content in files.items():
        path = root / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def id_of(text: str) -> int:
    """An id as the documentation of the kind says it is made."""
    return struct.unpack("<Q", hashlib.sha256(text.encode()).digest()[:8])[0] >> 1


def plain(shade: int) -> bytes:
    """A grey picture of 4 x 4 pixels."""
    return bytes_of(np.full((4, 4, 3), shade, np.uint8))


# The classes, the ids, the order.


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two classes with pictures, one without, and what is none."""
    files = {"dog/2.png": plain(2), "dog/deep/1.PNG": plain(1), "cat/é.png": plain(3), "cat-like/0.txt": b"?"}
    return laid_out(tmp_path / "zoo", {**files, "cat/.hidden.png": b"", ".cache/x.png": b"", "notes.txt": b""})


def test_the_classes_are_the_folders_in_the_order_of_their_names(zoo: Path) -> None:
    """Law: rows are in the order of the paths, labels are places of folders, and an empty class is one, too."""
    dataset = open_dataset("images", {"path": zoo, "size": 4})
    assert dataset.class_names == ("cat", "cat-like", "dog")
    assert dataset.classes == 3
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 2, 2]
    assert dataset.ids.tolist() == [id_of("cat/é.png"), id_of("dog/2.png"), id_of("dog/deep/1.PNG")]
    assert dataset.inputs(np.array([2, 0, 1]))[:, 0, 0, 0].tolist() == [1, 3, 2]
    assert (dataset.input_shape, dataset.input_dtype) == ((3, 4, 4), np.uint8)


def test_without_labels_any_folder_of_pictures_is_a_dataset(tmp_path: Path) -> None:
    """Law: pictures at any depth, the first included; no labels, no classes."""
    root = laid_out(tmp_path, {"b.jpg": bytes_of(COLOURS, "jpeg"), "a/x/y.webp": bytes_of(COLOURS, "webp")})
    dataset = open_dataset("images", {"path": root, "size": 3, "labelled": False})
    assert (dataset.labels, dataset.classes, dataset.class_names) == (None, None, None)
    assert dataset.ids.tolist() == [id_of("a/x/y.webp"), id_of("b.jpg")]


def test_a_folder_that_is_moved_is_the_same_dataset(zoo: Path, tmp_path: Path) -> None:
    """Law: ids and content depend on what is in the folder, and not on where it is."""
    before = open_dataset("images", {"path": zoo, "size": 4})
    digest = content_digest(before)
    after = open_dataset("images", {"path": str(zoo.rename(tmp_path / "elsewhere")), "size": 4})
    assert (after.ids.tolist(), content_digest(after)) == (before.ids.tolist(), digest)


def test_a_link_to_a_folder_is_followed(zoo: Path, tmp_path: Path) -> None:
    """Law: a class may be a link, as subsets of large datasets are made."""
    (tmp_path / "few").mkdir()
    for name in ("dog", "cat"):
        (tmp_path / "few" / name).symlink_to(zoo / name)
    dataset = open_dataset("images", {"path": tmp_path / "few", "size": 4})
    assert dataset.ids.tolist() == [id_of("cat/é.png"), id_of("dog/2.png"), id_of("dog/deep/1.PNG")]


def test_threads_read_what_one_alone_reads(tmp_path: Path) -> None:
    """Law: inputs() may be called by any number of threads at once, and after a pickle."""
    shades = CHANCE.integers(0, 256, (40, 12, 9, 3), dtype=np.uint8)
    files = {f"{place:02}.png": bytes_of(shade) for place, shade in enumerate(shades)}
    dataset = open_dataset("images", {"path": laid_out(tmp_path, files), "size": 6, "labelled": False})
    alone = dataset.inputs(np.arange(40))
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # pickled on this very line
    batches = [np.random.default_rng(seed).integers(0, 40, 8) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for found, rows in zip(pool.map(again.inputs, batches), batches, strict=True):
            np.testing.assert_array_equal(found, alone[rows], strict=True)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a/x.txt": b"", "b/y": b""}, {}, r"^{root}: this folder holds no picture, expected files that end in one of"),
        ({"x.txt": b""}, {}, r"^{root}: this folder holds no folder, expected a folder a class\. Point at the folder"),
        ({"x.txt": b""}, {"labelled": False}, r"^{root}: this folder holds no picture, .*\.webp\. Point at a folder"),
        (
            {"a/x.png": plain(0), "y.png": plain(1), "z.jpg": b""},
            {},
            r"^{root}/y\.png: this picture is in no class \(2 are in all\), .* or say labelled = false for pictures",
        ),
        ({"a/x.png": plain(0)}, {}, r"found 1 classes, expected 2 to"),
        ({"a/x.png": plain(0)}, {"size": 0}, r"^found size = 0 and crop = 1\.0, expected a size of 1 or more, and a"),
        ({"a/x.png": plain(0)}, {"crop": 0.0}, r"^found size = 4 and crop = 0\.0, expected .* above 0 and at most 1"),
        ({"a/x.png": plain(0)}, {"crop": 1.5}, r"^found size = 4 and crop = 1\.5"),
        (
            {"a/x.png": plain(0)},
            {"interpolation": "magic"},
            r"^found interpolation = 'magic', expected one of bilinear, bicubic, lanczos, box, nearest\.$",
        ),
        ({"a/x.png": plain(0)}, {"damaged": "mend"}, r"^found damaged = 'mend', expected 'refuse' or 'skip'\.$"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused(
    tmp_path: Path, files: dict[str, bytes], options: dict[str, object], message: str
) -> None:
    """Law: the error names the place, what was found, what was expected and what to do."""
    with pytest.raises(DatasetError, match=message.replace("{root}", str(tmp_path))):
        open_dataset("images", {"path": laid_out(tmp_path, files), "size": 4, **options})


@pytest.mark.parametrize(("name", "reason"), [("gone", "No such file or directory"), ("file", "Not a directory")])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    """Law: a path that is none is no empty dataset."""
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=rf"^{tmp_path}/{name}: this folder cannot be listed: {reason}\. Expected a"):
        open_dataset("images", {"path": tmp_path / name, "size": 4, "labelled": False})


def test_a_link_without_end_is_refused(zoo: Path) -> None:
    """Law: nothing is read twice because a link leads back."""
    (zoo / "dog" / "again").symlink_to(zoo)
    with pytest.raises(DatasetError, match=r"zoo/dog/again: this link leads back to a folder that it is in, .* Remove"):
        open_dataset("images", {"path": zoo, "size": 4})


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Law: an id is made of UTF-8."""
    (tmp_path / "\udcff.png").write_bytes(plain(0))
    with pytest.raises(DatasetError, match=r"^'\\udcff\.png': this name is no UTF-8, expected one that is\. Rename it"):
        open_dataset("images", {"path": tmp_path, "size": 4, "labelled": False})


def test_two_pictures_of_one_id_are_both_named(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a collision of hashes, however unlikely, is an error that says what to rename."""
    monkeypatch.setattr(encoded, "_id_of", len)
    message = rf"^{zoo}/cat/é\.png and {zoo}/dog/2\.png: both have the id 9, .* Rename one of the two"
    with pytest.raises(DatasetError, match=message):
        open_dataset("images", {"path": zoo, "size": 4})


# One picture: what is made of it.


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 24),
    crop=st.floats(0.3, 1),
    interpolation=st.sampled_from(encoded.INTERPOLATIONS),
)
@settings(deadline=None, max_examples=60)
def test_the_middle_is_cut_out_of_the_resized_picture(
    height: int, width: int, size: int, crop: float, interpolation: str
) -> None:
    """Law: the shorter side becomes size / crop, rounded down, the ratio stays, and equal margins go."""
    pixels = np.random.default_rng(height * 64 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = int(size / crop + 1e-6)
    long = short * max(height, width) // min(height, width)
    shape = (short, long) if width <= height else (long, short)
    whole = np.asarray(Image.fromarray(pixels).resize(shape, FILTERS[interpolation]))
    top, left = round((shape[1] - size) / 2), round((shape[0] - size) / 2)
    expected = whole[top : top + size, left : left + size].transpose(2, 0, 1)
    found = decoded(bytes_of(pixels), size, crop, interpolation)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_a_picture_of_its_size_is_itself() -> None:
    """Law: nothing is resampled that need not be."""
    np.testing.assert_array_equal(decoded(bytes_of(COLOURS[:, :6]), 6), COLOURS[:, :6].transpose(2, 0, 1), strict=True)


def test_a_crop_is_held_to_what_was_meant() -> None:
    """Law: 224 / 0.56 is 400, whatever floating point makes of it: a picture of 400 is not resampled."""
    pixels = CHANCE.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(bytes_of(pixels), 224, 0.56), pixels[88:312, 88:312].transpose(2, 0, 1))


def square(array: np.ndarray) -> np.ndarray:
    """What is to come of a picture of 6 x 8 pixels that are known: the 6 x 6 in its middle."""
    return array[:, 1:7].transpose(2, 0, 1)


def _alpha() -> tuple[bytes, np.ndarray]:
    alpha = np.repeat(np.array([[0, 255]], np.uint8), 4, axis=1).repeat(6, axis=0)
    over_white = np.where(alpha[..., None] == 0, 255, COLOURS)
    return bytes_of(np.dstack([COLOURS, alpha])), over_white.astype(np.uint8)


def _half_alpha() -> tuple[bytes, np.ndarray]:
    black = np.zeros((6, 8, 4), np.uint8)
    black[..., 3] = 51  # a fifth
    return bytes_of(black), np.full((6, 8, 3), 204, np.uint8)


def _grey_alpha() -> tuple[bytes, np.ndarray]:
    return bytes_of(Image.new("LA", (8, 6), (10, 0))), np.full((6, 8, 3), 255, np.uint8)


def _transparent_colour() -> tuple[bytes, np.ndarray]:
    red = np.zeros((6, 8, 3), np.uint8)
    red[:, ::2, 0] = 255
    return bytes_of(red, transparency=(255, 0, 0)), np.where(red[..., :1] == 255, 255, 0).repeat(3, 2).astype(np.uint8)


def _palette() -> tuple[bytes, np.ndarray]:
    picture = Image.fromarray(COLOURS).quantize(16)
    return bytes_of(picture), np.asarray(picture.convert("RGB"))


def _palette_transparent() -> tuple[bytes, np.ndarray]:
    picture = Image.fromarray(COLOURS).quantize(16)
    expected = np.where(np.asarray(picture)[..., None] == 3, 255, np.asarray(picture.convert("RGB")))
    return bytes_of(picture, transparency=3), expected.astype(np.uint8)


def _grey() -> tuple[bytes, np.ndarray]:
    return bytes_of(COLOURS[..., 0]), COLOURS[..., :1].repeat(3, axis=2)


def _bilevel() -> tuple[bytes, np.ndarray]:
    picture = Image.fromarray(COLOURS[..., 0] > 127)
    return bytes_of(picture), np.where(COLOURS[..., :1] > 127, 255, 0).repeat(3, 2).astype(np.uint8)


def _wide(kind: str) -> tuple[bytes, np.ndarray]:
    values = CHANCE.integers(0, 2**16, (6, 8), dtype=np.uint16)
    return bytes_of(values, kind), (values >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)


def _cmyk(kind: str) -> tuple[bytes, np.ndarray]:
    colour = (200, 40, 90)
    picture = Image.new("RGB", (8, 6), colour).convert("CMYK")
    return bytes_of(picture, kind, **({"quality": 100} if kind == "jpeg" else {})), np.full((6, 8, 3), colour, np.uint8)


PICTURES: dict[str, Callable[[], tuple[bytes, np.ndarray]]] = {
    "alpha": _alpha,
    "half alpha": _half_alpha,
    "grey with alpha": _grey_alpha,
    "a transparent colour": _transparent_colour,
    "palette": _palette,
    "palette with a transparent colour": _palette_transparent,
    "grey": _grey,
    "bilevel": _bilevel,
    "16 bit PNG": lambda: _wide("png"),
    "16 bit TIFF": lambda: _wide("tiff"),
    "16 bit PGM": lambda: _wide("ppm"),
    "CMYK JPEG": lambda: _cmyk("jpeg"),
    "CMYK TIFF": lambda: _cmyk("tiff"),
    "BMP": lambda: (bytes_of(COLOURS, "bmp"), COLOURS),
    "lossless WebP": lambda: (bytes_of(COLOURS, "webp", lossless=True), COLOURS),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_whatever_a_picture_was_it_becomes_rgb(kind: str) -> None:
    """Law: grey in all channels, indexed colours looked up, 16 bits by their upper 8, alpha over white."""
    content, expected = PICTURES[kind]()
    found = decoded(content, 6)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), square(expected), atol=1 if "CMYK" in kind else 0)


def test_a_jpeg_is_what_pillow_reads(tmp_path: Path) -> None:
    """Law: a photograph goes through with the pixels of its decoder."""
    content = bytes_of(SMOOTH, "jpeg", quality=90)
    dataset = open_dataset("images", {"path": laid_out(tmp_path, {"x.jpg": content}), "size": 32, "labelled": False})
    expected = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
    np.testing.assert_array_equal(dataset.inputs(np.array([0]))[0], expected, strict=True)


def test_of_an_animation_the_first_picture_counts() -> None:
    """Law: one sample is one picture."""
    frames = [Image.fromarray(np.full((4, 4), shade, np.uint8)) for shade in (10, 200)]
    assert (decoded(bytes_of(frames[0], "gif", save_all=True, append_images=frames[1:]), 4) == 10).all()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
def test_a_picture_is_turned_as_its_camera_says(kind: str, orientation: int) -> None:
    """Law: what is stored turned is decoded upright, in all eight orientations and in every format that has them."""
    upright = Image.fromarray(SMOOTH[:, :20])
    undone = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    how = undone.get(orientation, UPRIGHT.get(orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    stored = bytes_of(upright if how is None else upright.transpose(how), kind, exif=exif, **options)
    np.testing.assert_allclose(decoded(stored, 20).astype(int), decoded(bytes_of(upright), 20), atol=4)


@pytest.mark.parametrize("notes", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_notes_of_a_camera_that_cannot_be_read_leave_the_picture(notes: bytes) -> None:
    """Law: pixels that are whole are used, whatever is written beside them."""
    np.testing.assert_array_equal(
        decoded(bytes_of(SMOOTH, "jpeg", exif=notes), 32), decoded(bytes_of(SMOOTH, "jpeg"), 32)
    )


# What does not decode.


def _bomb() -> bytes:
    """A PNG of a few bytes that says it has four thousand million pixels."""
    head = struct.pack(">IIBBBBB", 2**16, 2**16, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", r"it is no picture of a known format \(BMP, .*, WEBP\)"),
    "a text": (b"not a picture at all", "it is no picture of a known format"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "it is no picture of a known format"),
    "a JPEG cut short": (bytes_of(SMOOTH, "jpeg")[:-60], r"image file is truncated"),
    "a PNG cut short": (bytes_of(COLOURS)[:-40], "broken|truncated|unrecognized"),
    "a WebP cut short": (bytes_of(COLOURS, "webp", lossless=True)[:-30], "."),
    "a bomb": (_bomb(), r"Image size \(4294967296 pixels\) exceeds limit"),
    "floating point": (
        bytes_of(np.zeros((4, 4), np.float32), "tiff"),
        "its pixels are floating-point numbers, expected integers of 8 or 16 bits",
    ),
    "32 bits": (
        bytes_of(np.full((4, 4), 2**16, np.int32), "tiff"),
        r"its pixels are 65536\.\.65536, expected integers",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_picture_that_does_not_decode_is_named(tmp_path: Path, kind: str) -> None:
    """Law: never a part of a picture, never a traceback: the file, why, and what to do."""
    content, reason = DAMAGED[kind]
    root = laid_out(tmp_path, {"a.png": plain(1), "b.jpg": content})
    dataset = open_dataset("images", {"path": root, "size": 4, "labelled": False})
    assert dataset.inputs(np.array([0])).max() == 1
    message = (
        rf"(?s)^{root}/b\.jpg: this picture cannot be decoded: .*{reason}.*\. Restore .* damaged = \"skip\" to leave"
    )
    with pytest.raises(DatasetError, match=message):
        dataset.inputs(np.array([0, 1]))


@pytest.mark.parametrize("size", [1, 3])
def test_a_line_is_no_bomb_of_its_own(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Law: what resizing would blow up is refused by its size afterwards, before any memory is taken for it."""
    monkeypatch.setattr(pictures, "MOST_PIXELS", 900)
    line = bytes_of(np.zeros((1, 400, 3), np.uint8))
    if size == 1:
        assert decoded(line, size).shape == (3, 1, 1)
        return
    with pytest.raises(
        DamagedError, match=r"^it is 400 x 1 pixels, and would be 1200 x 3 once its shorter side is 3, "
    ):
        decoded(line, size)


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what a larger machine would decode is not left out."""

    def starved(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "_in_rgb", starved)
    with pytest.raises(MemoryError):
        decoded(plain(0), 4)


def test_damaged_pictures_are_left_out_if_asked(tmp_path: Path) -> None:
    """Law: the others keep their ids, their labels and their classes; the names of what is left out are known."""
    broken = {f"{'ab'[place % 2]}/{place}.png": content for place, (content, _) in enumerate(DAMAGED.values())}
    whole = {"a/x.png": plain(1), "b/y.png": plain(2), "c/z.png": b"", "b/x.jpg": plain(3)}
    arguments = {"path": laid_out(tmp_path, broken | whole), "size": 4}
    dataset = open_dataset("images", {**arguments, "damaged": "skip"})
    assert dataset.ids.tolist() == [id_of(each) for each in ("a/x.png", "b/x.jpg", "b/y.png")]
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.class_names) == ([0, 1, 1], ("a", "b", "c"))
    assert dataset.inputs(np.array([2, 1, 0]))[:, 0, 0, 0].tolist() == [2, 3, 1]
    assert dataset.skipped == tuple(str(tmp_path / each) for each in sorted([*broken, "c/z.png"]))
    assert open_dataset("images", {**arguments, "damaged": "skip"}, without=(1,)).skipped == dataset.skipped
    assert (len(open_dataset("images", arguments)), open_dataset("images", arguments).skipped) == (len(broken) + 4, ())


def test_leaving_out_all_is_refused(tmp_path: Path) -> None:
    """Law: a dataset of nothing is an error that says why."""
    root = laid_out(tmp_path, {"x.png": b"", "y.png": b"no"})
    message = rf"^{root}/x\.png: this picture cannot be decoded: .*; nor can any other of 2, .* Point at pictures"
    with pytest.raises(DatasetError, match=message):
        open_dataset("images", {"path": root, "size": 4, "labelled": False, "damaged": "skip"})


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_a_file_that_cannot_be_read_is_never_left_out(tmp_path: Path, damaged: str) -> None:
    """Law: a disk that fails for a moment does not decide what is in a dataset."""
    root = laid_out(tmp_path, {"a.png": plain(1)})
    (root / "b.png").symlink_to("gone.png")
    message = rf"^{root}/b\.png: this file cannot be read: No such file or directory\. .* make it readable"
    arguments = {"path": root, "size": 4, "labelled": False, "damaged": damaged}
    with pytest.raises(DatasetError, match=message):
        open_dataset("images", arguments).inputs(np.arange(2))


# The experiment file.

EXPERIMENT = """
[dataset]
kind = "images"
path = "{path}"
size = 4
crop = 1
interpolation = "lanczos"
damaged = "skip"

[teacher]
model = "mlp"
checkpoint = "t.safetensors"

[cache]
path = "c"
"""


@pytest.fixture
def written(zoo: Path, tmp_path: Path) -> Path:
    """An experiment on the two classes."""
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT.replace("{path}", str(zoo)))
    return path


def test_an_experiment_names_a_folder(written: Path, tmp_path: Path) -> None:
    """Law: what the file says is what is opened, also from the copy that a run keeps."""
    experiment = load(written)
    assert open_source(experiment.dataset).class_names == ("cat", "cat-like", "dog")
    (tmp_path / "copy.toml").write_text(dump(experiment))
    assert load(tmp_path / "copy.toml") == experiment


@pytest.mark.parametrize(
    "table", ['{kind = "images", path = "."}', '{kind = "webdataset", shards = "x.tar"}'], ids=["images", "webdataset"]
)
def test_pictures_without_a_size_are_refused_when_they_are_opened(table: str, tmp_path: Path) -> None:
    """Law: not before, for the teacher's library may say it; with both ways out."""
    path = tmp_path / "e.toml"
    path.write_text(f'dataset = {table}\nteacher = {{model = "mlp", checkpoint = "t"}}\ncache.path = "c"')
    with pytest.raises(
        ConfigError, match=r"says no size. Set the size .* size = 224; or .* preprocessing = \"teacher\""
    ):
        open_source(load(path).dataset)
