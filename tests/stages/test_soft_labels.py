"""Stage one on the command line: `plan` and `generate`."""

import gzip
import json
import re
import shutil
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stage_cases import ECHO, ROWS, SHARD_ROWS, TOPK, decided, images, must, run, snapshot, write_idx

from pipeline.models import build
from pipeline.store import files
from pipeline.store.documents import FORMAT
from pipeline.store.mapped import LabelCache
from pipeline.weights import save_state

ENCODINGS = [
    ("labels.dtype=float32",),
    ("labels.dtype=float16",),
    (*TOPK, "labels.dtype=float16"),
    ("labels.encoding=topk", "labels.k=3", "labels.dtype=float32", "labels.temperatures=[1, 3.5]"),
]


def stored_bytes(cache: Path) -> int:
    """The size of all shard files."""
    return sum(file.stat().st_size for file in cache.glob("labels.zarr/*/c/**/*") if file.is_file())


def forget(cache: Path, *shards: int) -> None:
    """Leave a cache as a run does that was killed before it proved these shards."""
    (cache / "seal.json").unlink()
    for number in shards:
        (cache / f"receipts/{number:09d}.json").unlink()


@pytest.mark.parametrize("settings", ENCODINGS)
@pytest.mark.parametrize("chunk_rows", [None, 8])
def test_the_bytes_of_a_plan_are_the_bytes_on_disk(
    settings: tuple[str, ...], chunk_rows: int | None, fitted: Path
) -> None:
    """Law: for every encoding, with a last shard that is not full, plan.bytes == the size of all shard files."""
    settings = (*settings, *([f"cache.chunk_rows={chunk_rows}"] if chunk_rows else []))
    before = snapshot(fitted)
    plan = must("plan", *settings, flags=("--json",)).facts
    assert snapshot(fitted) == before
    made = must("generate", *settings, flags=("--json",)).facts
    assert ROWS % SHARD_ROWS
    assert plan["bytes"] == made["bytes"] == stored_bytes(fitted / "cache") <= plan["disk_bytes_missing"]
    assert (plan["rows"], plan["shards"], plan["shards_missing"]) == (ROWS, 4, 4)
    assert made["made"] == made["rows"] == ROWS


@pytest.mark.parametrize("shard_rows", [1, 3, 64])
@pytest.mark.parametrize("settings", [(), TOPK])
def test_a_disk_is_asked_for_whole_blocks(settings: tuple[str, ...], shard_rows: int, fitted: Path) -> None:
    """Law: what is asked of the disk is at least what shard files and receipts take of it, however small they are."""
    settings = (*settings, f"cache.shard_rows={shard_rows}")
    plan = must("plan", *settings, flags=("--json",)).facts
    must("generate", *settings)
    cache = fitted / "cache"
    files = [*cache.glob("labels.zarr/*/c/**/*"), *cache.glob("receipts/*.json")]
    taken = [file.stat().st_blocks * 512 for file in files if file.is_file()]
    arrays = len(list(cache.glob("labels.zarr/*/zarr.json")))
    assert len(taken) == plan["shards"] * (arrays + 1)
    assert plan["disk_bytes_missing"] >= max(sum(taken), 4096 * len(taken))
    assert must("plan", *settings, flags=("--json",)).facts["disk_bytes_missing"] == 0


def test_a_plan_says_what_is_missing_and_which_losses_will_be_served(filled: Path) -> None:
    """Law: a plan counts the shards without a receipt, and lists each loss with the temperatures it can have."""
    forget(filled / "cache", 1, 3)
    facts = must("plan", flags=("--json",)).facts
    assert facts["shards_missing"] == 2
    assert facts["losses"].items() >= {"hard": "always", "kd": "any temperature, standardised too"}.items()
    text = must("plan", *TOPK, "labels.temperatures=[1, 2.5]", "cache.path=other").out
    assert "50 in 4 shards, 4 still to make" in text
    assert re.search("kd +temperature 1, 2.5\n", text)
    assert re.search("dist +not from these labels: it needs dense\n", text)


def test_the_cache_holds_what_the_teacher_says(fitted: Path) -> None:
    """Law: a row's logits are the teacher's on the normalised sample, rounded to the stored dtype, under its id."""
    must("generate", *ECHO, "views.mean=100", "views.std=10", "teacher.options={scale = 0.5}")
    cache = LabelCache.open(fitted / "cache")
    record = cache.gather(0, np.arange(ROWS))
    pixels = np.frombuffer((fitted / "images").read_bytes()[16:], np.uint8).reshape(ROWS, 16)
    expected = (pixels[:, 1:4].astype(np.float32) - 100) / 10
    assert np.array_equal(record["logits"], expected.astype(np.float16))
    assert np.array_equal(record["sample_id"], np.arange(ROWS))
    assert np.array_equal(record["label"], np.arange(ROWS) % 3)


@pytest.mark.promise("P5")
def test_a_complete_cache_is_left_alone_and_the_teacher_is_not_loaded(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: the same command again loads no teacher and changes no byte and no time of any file."""
    before = snapshot(filled)
    monkeypatch.delattr("stages.soft_labels.load_teacher")
    outcome = must("generate")
    assert outcome.out == "cache is already complete: 50 rows. Nothing to do.\n"
    assert must("generate", flags=("--json",)).facts == {"cache": "cache", "made": 0}
    assert snapshot(filled) == before


@pytest.mark.promise("P5")
def test_only_what_has_no_receipt_is_made(filled: Path) -> None:
    """Law: resumed, only the missing shards are written, and the cache is the one of a run never stopped."""
    whole, before = decided(filled / "cache"), snapshot(filled)
    forget(filled / "cache", 1, 3)
    made = must("generate", flags=("--json",)).facts
    assert made["made"] == SHARD_ROWS + ROWS % SHARD_ROWS
    assert decided(filled / "cache") == whole
    changed = {Path(name) for name, kept in snapshot(filled / "cache").items() if before[f"cache/{name}"] != kept}
    assert {path.name for path in changed if path.parts[0] == "receipts"} == {"000000001.json", "000000003.json"}
    assert {path.parts[4] for path in changed if path.parts[0] == "labels.zarr"} == {"1", "3"}


def other_teacher(folder: Path) -> None:
    """Train the teacher further, as it were."""
    torch.manual_seed(7)
    save_state(folder / "teacher.safetensors", build("mlp", {"hidden": [8]}, (1, 4, 4), 3).state_dict())


def other_images(folder: Path) -> None:
    """Change one pixel."""
    data = bytearray((folder / "images").read_bytes())
    data[-1] ^= 1
    (folder / "images").write_bytes(data)


def nothing(_: Path) -> None:
    """Change no file."""


@pytest.mark.promise("P6")
@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (other_teacher, (), "teacher.checkpoint_sha256 was "),
        (other_images, (), 'dataset.content was "sha256 '),
        (nothing, ("dataset.version=v2",), 'and is now "version v2"'),
        (nothing, ("labels.dtype=float32",), 'labels.dtype was "float16" and is now "float32"'),
        (nothing, TOPK, 'labels.encoding was "dense" and is now "topk"'),
        (nothing, ("views.mean=127",), "views.mean was 128.0 and is now 127.0"),
        (nothing, ("views.std=63",), "views.std was 64.0 and is now 63.0"),
        (nothing, ("views.seed=1",), "views.seed was 0 and is now 1"),
        (nothing, ('dataset.class_names=["a", "b", "c"]',), "dataset.class_names"),
        (nothing, ("dataset.classes=4",), "labels.classes was 3 and is now 4"),
        (nothing, ("teacher.options={hidden = [9]}",), "teacher.options.hidden"),
        (nothing, ("teacher.precision=bfloat16",), 'teacher.precision was "float32" and is now "bfloat16"'),
        (nothing, ("cache.shard_rows=8",), "shard_rows was 16 and is now 8"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "generate"])
def test_a_cache_of_another_job_is_refused_field_by_field(
    verb: str, change: object, settings: tuple[str, ...], said: str, filled: Path
) -> None:
    """Law: whatever decides the labels, changed, is named with what it was and what it is now; nothing is written."""
    change(filled)
    before = snapshot(filled)
    run(verb, *settings).refuses(
        5, "cache was made by another job: ", said, "Nothing was written.", "set another cache path"
    )
    assert snapshot(filled) == before


@pytest.mark.promise("P6")
def test_a_dataset_of_other_ids_alone_is_refused(fitted: Path) -> None:
    """Law: the same content under other ids is another dataset."""
    for name, array in (("inputs", images(ROWS)[:, None]), ("labels", np.arange(ROWS) % 3), ("ids", np.arange(ROWS))):
        np.save(fitted / f"{name}.npy", array)
    npy = ("dataset.kind=npy", "dataset.inputs=inputs.npy", "dataset.labels=labels.npy", "dataset.ids=ids.npy")
    must("generate", *npy)
    for ids, said in (
        (np.arange(ROWS) + 1, "dataset.ids_sha256 was "),
        (np.arange(ROWS)[::-1], "dataset.content was "),
    ):
        np.save(fitted / "ids.npy", ids)
        before = snapshot(fitted)
        run("generate", *npy).refuses(5, said, "Nothing was written.")
        assert snapshot(fitted) == before


def test_a_dataset_in_another_order_is_the_same_dataset(fitted: Path) -> None:
    """Law: samples are known by their ids; nothing is made again, and no other order of inputs is taken for it."""
    order, npy = (
        np.arange(ROWS),
        ("dataset.kind=npy", *(f"dataset.{name}={name}.npy" for name in ("inputs", "labels", "ids"))),
    )
    for rows in (order, order[::-1]):
        for name, array in (("inputs", images(ROWS)[:, None]), ("labels", order % 3), ("ids", order)):
            np.save(fitted / f"{name}.npy", array[rows])
        made = must("generate", *npy, flags=("--json",)).facts["made"]
        assert made == (ROWS if rows is order else 0)
    must("train", *npy)


@pytest.mark.promise("P6")
def test_a_cache_of_another_format_version_is_refused(filled: Path) -> None:
    """Law: older or newer, the version is named, and nothing is written."""
    path = filled / "cache/job.json"
    path.write_bytes(path.read_bytes().replace(FORMAT.encode(), b"softlabels/1"))
    before = snapshot(filled)
    run("generate").refuses(5, "is of the format 'softlabels/1'", "make a new cache in another place")
    assert snapshot(filled) == before


@pytest.mark.promise("P6")
@pytest.mark.parametrize("setting", ["labels.temperatures=[1, 3]", "labels.k=1"])
def test_a_sparse_cache_of_another_grid_is_refused(setting: str, fitted: Path) -> None:
    """Law: temperatures and the number of kept classes decide the labels too."""
    must("generate", *TOPK)
    before = snapshot(fitted / "cache")
    run("generate", *TOPK, setting).refuses(5, setting.split("=", maxsplit=1)[0] + " was ", "Nothing was written.")
    assert snapshot(fitted / "cache") == before


@pytest.mark.parametrize(
    "setting",
    ["teacher.batch_size=3", "teacher.device=cpu", "students.third={model = 'mlp'}", "test.version=v2"],
)
@pytest.mark.usefixtures("filled")
def test_what_does_not_decide_the_labels_changes_no_job(setting: str) -> None:
    """Law: batch sizes, devices, students and the test set are no part of a job."""
    assert "already complete" in must("generate", setting).out


def write_pickle(folder: Path) -> None:
    """A checkpoint that would write a file if it were unpickled."""

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (folder / "executed",))

    torch.save({"weight": Bomb()}, folder / "teacher.pt")


def write_shapes(folder: Path) -> None:
    """A checkpoint of a wider network."""
    torch.save(build("mlp", {"hidden": [9]}, (1, 4, 4), 3).state_dict(), folder / "teacher.pt")


def write_keys(folder: Path) -> None:
    """A checkpoint of another architecture."""
    save_file({"conv.weight": torch.zeros(2)}, folder / "other.safetensors")


def write_noise(folder: Path) -> None:
    """A checkpoint that is none."""
    (folder / "other.safetensors").write_bytes(b"no tensors here")


@pytest.mark.parametrize(
    ("change", "checkpoint", "said"),
    [
        (nothing, "none.safetensors", ("none.safetensors: there is no such checkpoint", "`softlabels fit-teacher`")),
        (
            write_noise,
            "other.safetensors",
            ("other.safetensors: this checkpoint cannot be read", "Expected a safetensors"),
        ),
        (write_keys, "other.safetensors", ("1.weight is missing", "does not fit Sequential", "(and 2 more)")),
        (
            write_shapes,
            "teacher.pt",
            ("1.weight has shape [9, 16], the model wants [8, 16]", "Name the model and its options"),
        ),
        (write_pickle, "teacher.pt", ("not a plain state of tensors", "could run code", "safetensors")),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "generate"])
def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_is_written(
    verb: str, change: object, checkpoint: str, said: tuple[str, ...], fitted: Path
) -> None:
    """Law: a checkpoint is tensors that fit the model, or it is exit code 1 with no file written and no code run."""
    change(fitted)
    before = snapshot(fitted)
    run(verb, f"teacher.checkpoint={checkpoint}").refuses(1, *said)
    assert snapshot(fitted) == before
    assert not (fitted / "cache").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("sick = [30]", ("not finite", "ids 30", 'precision = "float32"')),
        ("sick = [20]", ("not finite", "ids 20")),
    ],
)
def test_logits_that_cannot_be_stored_end_the_run(options: str, said: tuple[str, ...], fitted: Path) -> None:
    """Law: a sick batch in the middle ends the run; its sample ids are named, and no shard with a bad row is proven."""
    run("generate", *ECHO, f"teacher.options={{{options}}}").refuses(1, *said)
    assert not (fitted / "cache/seal.json").exists()
    assert {file.name for file in (fitted / "cache/receipts").iterdir()} <= {"000000000.json"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("sick = [7, 30]", ("not finite", "ids 7", 'precision = "float32"')),
        ("outputs = 4", ("The teacher gives logits of shape [8, 4]", "the dataset has 3 classes", "3 outputs")),
    ],
)
def test_a_teacher_that_fails_its_first_batch_leaves_nothing_behind(
    options: str, said: tuple[str, ...], fitted: Path
) -> None:
    """Law: NaN or the wrong number of classes in the first batch writes nothing, so that the mended teacher can run."""
    before = snapshot(fitted)
    run("generate", *ECHO, f"teacher.options={{{options}}}").refuses(1, *said)
    assert snapshot(fitted) == before
    assert not (fitted / "cache").exists()
    must("generate", *ECHO)


@pytest.mark.usefixtures("fitted")
def test_every_sick_sample_of_a_batch_is_named() -> None:
    """Law: the count and the first ids of the bad rows of the first batch that has any are said."""
    sick = ", ".join(str(number) for number in range(1, 8))
    run("generate", *ECHO, f"teacher.options={{sick = [{sick}]}}").refuses(
        1, "7 of 8 samples (ids 1, 2, 3, 4, 5 and 2 more)"
    )


def test_logits_beyond_float16_are_refused_and_float32_takes_them(fitted: Path) -> None:
    """Law: a logit above 65504 is refused in float16, naming its samples and the remedy, and the remedy works."""
    torch.save({"scale": torch.tensor(1000.0)}, fitted / "loud.pt")
    loud = (*ECHO, "teacher.checkpoint=loud.pt")
    run("generate", *loud).refuses(1, "beyond float16's largest number 65504", "(ids ", 'labels.dtype = "float32"')
    must("generate", *loud, "labels.dtype=float32", "cache.path=wide")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("teacher.model=own_networks:no_network", ("gave a str, where a torch.nn.Module was expected",)),
        ("teacher.model=own_networks:Ecco", ("own_networks:Ecco", "has no 'Ecco'", "Echo")),
        ("teacher.model=no_such_module:Net", ("there is no module 'no_such_module'",)),
        ("teacher.model=mpl", ("There is no model 'mpl'. Did you mean 'mlp'?",)),
        ("teacher.options={colour = 1}", ("cannot be built with colour = 1", "Mend the options of this model")),
    ],
)
def test_a_teacher_that_cannot_be_built_is_refused(setting: str, said: tuple[str, ...], fitted: Path) -> None:
    """Law: what names no network is a mistake in the experiment: exit code 2, nothing written."""
    run("generate", *ECHO, setting).refuses(2, *said)
    assert not (fitted / "cache").exists()


def test_a_teacher_that_fails_is_said_to(fitted: Path) -> None:
    """Law: an error inside the user's own network is told as the teacher's, with the shape of the batch."""
    save_file({}, fitted / "empty.safetensors")
    run(
        "generate", "teacher.model=own_networks:Broken", "teacher.options={}", "teacher.checkpoint=empty.safetensors"
    ).refuses(
        1, "The teacher own_networks:Broken failed on a batch of shape [8, 1, 4, 4]: ValueError: out of order at 4 axes"
    )
    assert not (fitted / "cache").exists()
    must("generate")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("labels.encoding=topk", "labels.k=4"), ("labels.k = 4 classes of 3 cannot be kept", "1 to 3")),
        (("labels.encoding=topk",), ("needs labels.k",)),
        (("labels.encoding=tokp",), ("There is no encoding 'tokp'. Did you mean 'topk'?",)),
        (("labels.k=2",), ("Leave labels.k out",)),
        ((*TOPK, "labels.temperatures=[2, 1]"), ("labels.temperatures = [2.0, 1.0] is no grid",)),
        (("cache.path=",), ("cache.path: an empty path names nothing; leave the key out, or name a place",)),
        (("cache.chunk_rows=5",), ("shard_rows = 16 is not a multiple of chunk_rows = 5",)),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "generate"])
def test_labels_that_cannot_be_made_are_refused(
    verb: str, settings: tuple[str, ...], said: tuple[str, ...], fitted: Path
) -> None:
    """Law: settings that contradict the classes, the encoding or each other end with exit code 2, nothing written."""
    before = snapshot(fitted)
    run(verb, *settings).refuses(2, *said)
    assert snapshot(fitted) == before
    assert not (fitted / "cache").exists()


@pytest.mark.parametrize("verb", ["plan", "generate"])
def test_a_cache_path_that_is_something_else_is_refused_and_left_alone(verb: str, fitted: Path) -> None:
    """Law: a file, or a directory that holds other things, is no place for a cache: exit code 7, nothing changed."""
    (fitted / "taken").write_text("mine")
    (fitted / "full").mkdir()
    (fitted / "full/notes.txt").write_text("mine")
    before = snapshot(fitted)
    run(verb, "cache.path=taken").refuses(7, "taken is a file", "Set another cache path")
    run(verb, "cache.path=full").refuses(7, "holds notes.txt", "Set another cache path")
    assert snapshot(fitted) == before


def test_a_place_that_may_not_be_written_to_is_refused(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: no permission is exit code 7, with the path and the reason."""

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files.os, "mkdir", refuse)
    run("generate").refuses(
        7, "cache: could not make this directory: Permission denied (EACCES)", "change the permissions"
    )
    assert not (fitted / "cache").exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: less free space than the missing shards need is exit code 7, both numbers said; nothing is written."""
    usage = namedtuple("usage", ["total", "used", "free"])  # noqa: PYI024 - as shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 100))
    before = snapshot(fitted)
    run("generate").refuses(7, "cache needs ", "100 bytes left", "Free some space")
    assert snapshot(fitted) == before
    assert "NOT ENOUGH" in must("plan").out


def test_an_unlabelled_dataset_has_soft_labels(fitted: Path) -> None:
    """Law: without true labels `classes` must be said, and the cache is the same but for them."""
    text = (fitted / "e.toml").read_text().replace('labels = "labels"\n', "", 1)
    (fitted / "e.toml").write_text(text)
    run("generate").refuses(2, "does not say how many classes", "Set classes.")
    must("generate", "dataset.classes=3")
    record = LabelCache.open(fitted / "cache").gather(0, np.arange(ROWS))
    assert set(record["label"].tolist()) == {-1}
    assert np.isfinite(record["logits"]).all()


def test_a_test_set_of_another_shape_is_refused_before_the_teacher_is_asked(fitted: Path) -> None:
    """Law: the test set is opened first, so that a mistake in it costs nothing."""
    write_idx(fitted / "test-images", np.zeros((12, 5, 5), np.uint8))
    run("generate").refuses(1, "[test] has inputs of shape [1, 5, 5], and [dataset] of [1, 4, 4]", "one dataset")
    assert not (fitted / "cache").exists()


def test_a_test_set_that_cannot_be_read_keeps_no_labels_from_being_sealed(fitted: Path) -> None:
    """Law: the teacher's accuracy is a figure beside the labels: without it, the seal says null."""
    outcome = must("generate", 'test={kind = "own_datasets:Crumbling"}')
    assert "50 rows in 4 shards" in outcome.out
    about = json.loads((fitted / "cache/seal.json").read_bytes())["about"]
    assert about["teacher_test_accuracy"] is None
    assert about["teacher_parameters"] == 163


def not_a_number(folder: Path) -> None:
    """Metrics whose time is none."""
    path = folder / "teacher/metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": float("nan")}))


@pytest.mark.parametrize("change", [not_a_number, other_teacher])
def test_a_time_that_is_not_the_teachers_is_not_sealed(change: object, fitted: Path) -> None:
    """Law: metrics that no run wrote, or of other weights, say nothing of this teacher: the seal says null."""
    change(fitted)
    must("generate")
    assert json.loads((fitted / "cache/seal.json").read_bytes())["about"]["teacher_fit_seconds"] is None


@pytest.mark.usefixtures("fitted")
def test_a_receipt_names_what_a_last_bit_may_depend_on() -> None:
    """Law: device, batch size and threads are no part of the job, and stand in the receipts with the versions."""
    must("generate", "teacher.batch_size=7")
    for path in Path("cache/receipts").iterdir():
        versions = json.loads(path.read_bytes())["made"]["versions"]
        found = {name: versions[name] for name in ("device", "batch_size", "threads", "torch")}
        threads = str(torch.get_num_threads())
        assert found == {"device": "cpu", "batch_size": "7", "threads": threads, "torch": version("torch")}


@pytest.mark.parametrize("length", [None, 0, -1])
@pytest.mark.parametrize("array", ["logits", "sample_id", "label", "input_crc32c"])
def test_a_sealed_cache_that_lost_a_file_is_not_complete(array: str, length: int | None, filled: Path) -> None:
    """Law: a shard that is gone or cut short is exit code 3 with its name, never "already complete"."""
    shard = max(file for file in (filled / f"cache/labels.zarr/{array}/c").rglob("*") if file.is_file())
    if length is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:length])
    before = snapshot(filled)
    run("generate").refuses(3, str(shard.relative_to(filled)), "is gone or cut short, and", "bytes were written.")
    assert snapshot(filled) == before


def test_the_seal_keeps_figures_of_the_teacher(filled: Path) -> None:
    """Law: stage two shows the teacher's accuracy and size from the seal, since it never loads the teacher."""
    about = json.loads((filled / "cache/seal.json").read_bytes())["about"]
    fitted = json.loads((filled / "teacher/metrics.json").read_bytes())
    assert about["teacher_test_accuracy"] == fitted["test_accuracy"]
    assert about["teacher_test_ece"] == fitted["test_ece"]
    assert about["teacher_parameters"] == fitted["parameters"] == 16 * 8 + 8 + 8 * 3 + 3
    assert about["teacher_fit_seconds"] == fitted["seconds"]


def test_gzip_and_plain_files_make_the_same_cache(fitted: Path) -> None:
    """Law: a job is made of a dataset's content, not of its files."""
    must("generate")
    for name in ("images", "labels"):
        (fitted / f"{name}.gz").write_bytes(gzip.compress((fitted / name).read_bytes()))
    outcome = must("generate", "dataset.inputs=images.gz", "dataset.labels=labels.gz")
    assert "already complete" in outcome.out
