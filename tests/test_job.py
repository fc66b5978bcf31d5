"""What decides the labels is in the job, each under its name; what does not is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river_cases import samples

from pipeline.config import Experiment, LabelSettings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import ConfigError, MismatchError, TeacherError
from pipeline.job import check_made_for, content_of, job_of, spec_of
from pipeline.kinds import Digits, Images
from pipeline.store.documents import Job

TOPK = {"encoding": "topk", "k": 2, "temperatures": [1.0, 4.0]}


@pytest.fixture
def table(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """An experiment file's tables."""
    (tmp_path / "teacher.safetensors").write_bytes(b"weights")
    return {
        "dataset": {"kind": "digits"},
        "views": {"mean": 1.0},
        "teacher": {"model": "mlp", "checkpoint": str(tmp_path / "teacher.safetensors")},
        "labels": dict(TOPK),
        "cache": {"path": str(tmp_path / "cache"), "shard_rows": 8, "chunk_rows": 4},
        "students": {},
    }


def job(table: dict[str, dict[str, Any]], dataset: ArrayDataset | None = None) -> Job:
    """The job of an experiment over `samples()`, or another dataset."""
    experiment, dataset = Experiment.model_validate(table), dataset or samples()
    return job_of(experiment, dataset, spec_of(experiment.labels, dataset))


def changed(table: dict[str, dict[str, Any]], key: str, value: object) -> dict[str, dict[str, Any]]:
    """The experiment with one key set."""
    name, _, field = key.partition(".")
    return {**table, name: {**table[name], field: value}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("students.late", {"model": "mlp", "loss": "kd"}),
        ("teacher.device", "cpu"),
        ("teacher.batch_size", 3),
        ("teacher.fit", {"epochs": 3}),
        ("cache.path", "elsewhere"),
    ],
)
def test_what_does_not_decide_the_labels_never_changes_the_job(
    table: dict[str, dict[str, Any]], key: str, value: object
) -> None:
    """Adding a student, another device or batch size: the cache still serves."""
    assert job(changed(table, key, value)).fingerprint == job(table).fingerprint


def test_the_name_of_a_checkpoint_does_not_matter_and_its_bytes_do(table: dict[str, dict[str, Any]]) -> None:
    """A teacher is its weights."""
    before, path = job(table), Path(table["teacher"]["checkpoint"])
    moved = path.rename(path.with_name("moved.safetensors"))
    table = changed(table, "teacher.checkpoint", str(moved))
    assert job(table).fingerprint == before.fingerprint
    moved.write_bytes(b"weightz")
    assert [found.field for found in before.differences(job(table))] == ["teacher.checkpoint_sha256"]


@pytest.mark.parametrize(
    ("key", "value", "fields"),
    [
        ("views.mean", 2.0, {"views.mean"}),
        ("views.std", 2.0, {"views.std"}),
        ("views.seed", 2, {"views.seed"}),
        ("teacher.model", "cnn", {"teacher.model"}),
        ("teacher.options", {"hidden": [4]}, {"teacher.options", "teacher.options.hidden"}),
        ("teacher.precision", "bfloat16", {"teacher.precision"}),
        ("teacher.channels_last", True, {"teacher.channels_last"}),
        ("labels.dtype", "float32", {"labels.dtype"}),
        ("labels.k", 3, {"labels.k"}),
        ("labels.temperatures", [1.0, 8.0], {"labels.temperatures"}),
        ("cache.shard_rows", 12, {"shard_rows"}),
        ("cache.chunk_rows", 2, {"chunk_rows"}),
        ("dataset.version", "v2", {"dataset.content"}),
    ],
)
def test_each_setting_that_decides_the_labels_changes_the_job_and_is_named(
    table: dict[str, dict[str, Any]], key: str, value: object, fields: set[str]
) -> None:
    """Law: another fingerprint, and exactly the fields that follow from that setting differ."""
    before, after = job(table), job(changed(table, key, value))
    assert before.fingerprint != after.fingerprint
    assert {found.field for found in before.differences(after)} == fields


def test_another_encoding_changes_the_job_and_is_named(table: dict[str, dict[str, Any]]) -> None:
    """And all that one encoding is told and the other is not."""
    found = job(table).differences(job({**table, "labels": {"encoding": "dense"}}))
    assert ("labels.encoding", '"topk"', '"dense"') in [(each.field, each.was, each.now) for each in found]
    assert {each.field for each in found} == {"labels.encoding", "labels.k", "labels.temperatures"}


def flipped(dataset: ArrayDataset) -> ArrayDataset:
    """One bit of one input."""
    array = dataset.array.copy()
    array.reshape(-1).view(np.uint8)[77] ^= 1
    return ArrayDataset(array, dataset.ids, dataset.labels, dataset.classes)


def relabelled(dataset: ArrayDataset) -> ArrayDataset:
    """One label."""
    labels = dataset.labels.copy()
    labels[3] = (labels[3] + 1) % dataset.classes
    return ArrayDataset(dataset.array, dataset.ids, labels, dataset.classes)


def renumbered(dataset: ArrayDataset) -> ArrayDataset:
    """Two ids change places."""
    ids = dataset.ids.copy()
    ids[[0, 1]] = ids[[1, 0]]
    return ArrayDataset(dataset.array, ids, dataset.labels, dataset.classes)


def named(dataset: ArrayDataset) -> ArrayDataset:
    """Its classes have names."""
    return ArrayDataset(dataset.array, dataset.ids, dataset.labels, dataset.classes, ("a", "b", "c"))


def with_more_classes(dataset: ArrayDataset) -> ArrayDataset:
    """One more class, of which there is no sample."""
    return ArrayDataset(dataset.array, dataset.ids, dataset.labels, dataset.classes + 1)


def flattened(dataset: ArrayDataset) -> ArrayDataset:
    """The same bytes in another shape."""
    return ArrayDataset(dataset.array.reshape(24, 16), dataset.ids, dataset.labels, dataset.classes)


def reinterpreted(dataset: ArrayDataset) -> ArrayDataset:
    """The same bytes in another dtype."""
    return ArrayDataset(dataset.array.view(np.int32), dataset.ids, dataset.labels, dataset.classes)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (flipped, {"dataset.content"}),
        (relabelled, {"dataset.content"}),
        (renumbered, {"dataset.ids_sha256"}),
        (named, {"dataset.class_names", *(f"dataset.class_names[{place}]" for place in range(3))}),
        (with_more_classes, {"labels.classes"}),
        (flattened, {"dataset.content", "dataset.input_shape"}),
        (reinterpreted, {"dataset.content", "dataset.input_dtype"}),
    ],
)
def test_each_part_of_a_dataset_changes_the_job_and_is_named(
    table: dict[str, dict[str, Any]], change: Callable[[ArrayDataset], ArrayDataset], fields: set[str]
) -> None:
    """Law: not a bit of it can change unnoticed."""
    before, after = job(table), job(table, change(samples()))
    assert before.fingerprint != after.fingerprint
    assert {found.field for found in before.differences(after)} == fields


def test_a_declared_version_stands_for_the_content(table: dict[str, dict[str, Any]]) -> None:
    """It is then not read through; its ids still count."""
    declared = changed(table, "dataset.version", "v1")
    assert job(declared).dataset["content"] == "version v1"
    assert job(declared).fingerprint == job(declared, flipped(samples())).fingerprint
    assert job(declared).fingerprint != job(declared, renumbered(samples())).fingerprint


def test_a_teacher_that_is_not_there_is_refused(table: dict[str, dict[str, Any]]) -> None:
    """A job without its weights would be anyone's."""
    with pytest.raises(TeacherError, match=r"^nowhere\.safetensors: there is no such checkpoint\."):
        job(changed(table, "teacher.checkpoint", "nowhere.safetensors"))


@pytest.mark.parametrize(
    ("shard_rows", "chunk_rows", "message"),
    [(8, 3, "shard_rows = 8 is not a multiple of chunk_rows = 3"), (2**40, 2**40, "a shard file of [0-9]+ bytes, of")],
)
def test_a_cache_that_cannot_be_cut_as_asked_is_refused(
    table: dict[str, dict[str, Any]], shard_rows: int, chunk_rows: int, message: str
) -> None:
    """Before anything is written or asked of the teacher."""
    asked = changed(changed(table, "cache.shard_rows", shard_rows), "cache.chunk_rows", chunk_rows)
    with pytest.raises(ConfigError, match=rf"^\[cache\] asks for what cannot be: {message}"):
        job(asked)


def test_labels_of_an_unknown_number_of_classes_are_refused() -> None:
    """Nothing says how wide a row is."""
    dataset = ArrayDataset(np.zeros((2, 2)), np.arange(2))
    with pytest.raises(ConfigError, match=r"\[dataset\] does not say how many classes there are.*Set classes"):
        spec_of(LabelSettings(), dataset)


SAMPLED = {"encoding": "sampled", "k": 2, "temperatures": [1.0]}
HEAD = {**TOPK, "encoding": "head+sampled", "tail": 1}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, {"encoding": "dense", "classes": 3, "dtype": "float16", "k": None, "temperatures": []}),
        (TOPK, {**TOPK, "classes": 3, "dtype": "float16"}),
        (SAMPLED, {**SAMPLED, "classes": 3, "dtype": "float16"}),
        (HEAD, {**HEAD, "classes": 3, "dtype": "float16"}),
        (
            {**HEAD, "seed": 5, "standardised": True},
            {**HEAD, "classes": 3, "dtype": "float16", "seed": 5, "standardised": True},
        ),
    ],
)
def test_a_job_says_of_its_labels_what_is_not_the_default(
    table: dict[str, dict[str, Any]], labels: dict[str, object], expected: dict[str, object]
) -> None:
    """Law: a setting that came later is in no job that does without it, so the caches made before it still serve."""
    assert job({**table, "labels": labels}).labels == expected


@pytest.mark.parametrize(
    ("labels", "key", "value"),
    [
        (HEAD, "tail", 2),
        (HEAD, "seed", 1),
        (HEAD, "standardised", True),
        (TOPK, "standardised", True),
        (SAMPLED, "seed", 1),
        ({**SAMPLED, "encoding": "multinomial"}, "seed", 1),
    ],
)
def test_what_is_drawn_or_kept_besides_changes_the_job_and_is_named(
    table: dict[str, dict[str, Any]], labels: dict[str, object], key: str, value: object
) -> None:
    """Law: another fingerprint, by that field alone."""
    before, after = (job({**table, "labels": each}) for each in (labels, {**labels, key: value}))
    assert before.fingerprint != after.fingerprint
    assert [found.field for found in before.differences(after)] == [f"labels.{key}"]


@pytest.mark.parametrize(
    ("labels", "key", "value"),
    [
        ({}, "seed", 1),
        ({}, "standardised", True),
        (TOPK, "seed", 1),
        (SAMPLED, "standardised", True),
        ({**SAMPLED, "encoding": "multinomial"}, "standardised", True),
    ],
)
def test_what_an_encoding_does_not_read_never_changes_the_job(
    table: dict[str, dict[str, Any]], labels: dict[str, object], key: str, value: object
) -> None:
    """Law: no seed where nothing is drawn, no standardised sums where there are no sums."""
    assert job({**table, "labels": {**labels, key: value}}).fingerprint == job({**table, "labels": labels}).fingerprint


def test_temperatures_are_no_part_of_dense_labels() -> None:
    """Which serve any: so the grid, which is a default, makes no difference."""
    dense = [spec_of(LabelSettings(temperatures=grid), samples()) for grid in ((1.0,), (2.0, 4.0))]
    assert dense[0] == dense[1]


def check(made: Job, table: dict[str, dict[str, Any]]) -> None:
    """What stage two asks before it trains."""
    check_made_for(made, Experiment.model_validate(table), samples())


def test_stage_two_needs_no_teacher_to_tell_whose_cache_it_is(table: dict[str, dict[str, Any]]) -> None:
    """Its checkpoint may be gone, and its cache be cut as it likes."""
    made = job(changed(table, "cache.shard_rows", 12))
    Path(table["teacher"]["checkpoint"]).unlink()
    check(made, table)


@pytest.mark.parametrize(
    ("key", "value", "difference"),
    [
        ("views.mean", 2.0, "views.mean was 1.0 and is now 2.0"),
        ("teacher.model", "cnn", 'teacher.model was "mlp" and is now "cnn"'),
        ("dataset.version", "v2", r'dataset.content was "sha256 [0-9a-f]+" and is now "version v2"'),
        ("labels.k", 1, "labels.k was 2 and is now 1"),
        ("labels.temperatures", [1.0, 2.0], r"labels.temperatures was \[1.0, 4.0\] and is now \[1.0, 2.0\]"),
    ],
)
def test_a_cache_of_another_experiment_is_refused_naming_the_field(
    table: dict[str, dict[str, Any]], key: str, value: object, difference: str
) -> None:
    """Stage two does not train on labels that were asked for otherwise."""
    with pytest.raises(MismatchError, match=rf"was made by another job: {difference}\. Nothing was written"):
        check(job(table), changed(table, key, value))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (flipped, "dataset.content"),
        (relabelled, "dataset.content"),
        (renumbered, "dataset.ids_sha256"),
        (named, "dataset.class_names"),
        (flattened, "dataset.input_shape"),
    ],
)
def test_a_cache_of_another_dataset_is_refused_naming_the_field(
    table: dict[str, dict[str, Any]], change: Callable[[ArrayDataset], ArrayDataset], field: str
) -> None:
    """Law: stage two holds the dataset against the job's, as stage one does."""
    with pytest.raises(MismatchError, match=rf"was made by another job: .*{field} was .* and is now .*Nothing was"):
        check_made_for(job(table), Experiment.model_validate(table), change(samples()))


def test_a_declared_version_stands_for_the_samples_that_are_left() -> None:
    """Of another `without` it is another content; in another order, or without one, it is not."""
    dataset = samples()
    contents = {
        content_of(Digits(kind="digits", version="1", without=without), dataset) for without in ((), (1, 2), (2, 1))
    }
    assert contents == {"version 1", "version 1 without [1, 2]"}
    part = Digits(kind="digits", version="1", rows=(0, 2), without=(1,))
    assert content_of(part, dataset) == "version 1 rows [0, 2] without [1]"


def test_how_pictures_are_decoded_stands_beside_a_declared_version() -> None:
    """Law: other pixels of the same files are another content; what is the default is not said."""
    contents = [
        content_of(Images(kind="images", path="x", size=4, version="1", **how), samples())
        for how in ({}, {"crop": 0.875}, {"interpolation": "bicubic"})
    ]
    assert contents[0] == "version 1"
    assert len(set(contents)) == len(contents)
    assert contents[2] == "version 1 interpolation bicubic"


def test_the_config_of_a_transformers_teacher_is_in_the_job_and_stage_two_does_without_it(
    table: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Law: another config.json is another teacher; who only trains need not have it."""
    (tmp_path / "config.json").write_text("{}")
    table["teacher"]["model"] = f"transformers:{tmp_path}"
    one = job(table)
    (tmp_path / "config.json").write_text('{"rope_theta": 3}')
    changed = {difference.field for difference in one.differences(job(table))}
    assert changed == {"teacher.config_sha256"}
    (tmp_path / "config.json").unlink()
    check_made_for(one, Experiment.model_validate(table), samples())
