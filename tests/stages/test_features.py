"""Features of a teacher beside its labels: under the same receipts, whole, and refused where they cannot be kept."""

import json
from pathlib import Path

import numpy as np
import own_insides
import pytest
import torch
import zarr
from safetensors.torch import save_file
from stage_cases import PATIENT, ROWS, images, must, run, snapshot, softlabels

from pipeline.config import load
from pipeline.models import build
from pipeline.weights import load_state, save_state

HIDDEN = '{module = "2", name = "hidden"}'
PROJECTED = '{module = "2", name = "few", reduction = "projection", dimensions = 3, dtype = "float32"}'
COMPONENTS = '{module = "2", name = "b", reduction = "pca", dimensions = 2, basis = "b.safetensors"}'
CODED = '{module = "1", name = "coded", reduction = "none", dtype = "int8"}'


def features(*tables: str) -> str:
    """The setting that asks for them."""
    return f"teacher.features=[{', '.join(tables)}]"


def answers(module: int) -> np.ndarray:
    """What the modules of the fitted teacher up to this one make of all samples, computed by itself."""
    experiment = load(Path("e.toml"), [])
    network = build("mlp", {"hidden": [8]}, (1, 4, 4), 3)
    network.load_state_dict(load_state(experiment.teacher.checkpoint))
    pixels = torch.from_numpy(images(ROWS)[:, None].astype(np.float32))
    with torch.no_grad():
        return network[: module + 1]((pixels - 128) / 64).numpy()  # type: ignore[index]


def stored(name: str) -> np.ndarray:
    """An array of the cache, read by zarr alone."""
    return np.asarray(zarr.open_group("cache/labels.zarr", mode="r")[name][0])


@pytest.mark.usefixtures("fitted")
def test_features_are_cached_beside_the_labels() -> None:
    """Law: they are what the module answers, within what their dtype says; labels are those without them."""
    must("generate", "cache.path=alone", "labels.dtype=float32")
    facts = must("generate", features(HIDDEN, PROJECTED, CODED), "labels.dtype=float32", flags=("--json",)).facts
    hidden = answers(2)
    np.testing.assert_allclose(stored("feature_hidden"), hidden, rtol=2**-10, atol=2**-24)
    scale = stored("feature_coded_scale")
    np.testing.assert_allclose(stored("feature_coded") * scale[:, None], answers(1), atol=scale.max() * 0.51)
    assert stored("feature_few").shape == (ROWS, 3)
    alone = np.asarray(zarr.open_group("alone/labels.zarr", mode="r")["logits"][0])
    np.testing.assert_allclose(stored("logits"), alone, atol=1e-5)
    assert softlabels("verify", "cache").code == 0
    receipt = json.loads(Path("cache/receipts/000000000.json").read_text())
    assert "feature_few" in json.dumps(receipt)
    assert facts["rows"] == ROWS


@pytest.mark.usefixtures("fitted")
def test_a_cache_with_features_serves_a_student_of_labels_alone() -> None:
    """Law: a student that asks for none trains as from a cache without them."""
    must("generate", "cache.path=alone")
    must("generate", features(HIDDEN))
    must("train", features(HIDDEN), flags=("--student", "distilled", "--runs", "a"))
    must("train", "cache.path=alone", flags=("--student", "distilled", "--runs", "b"))
    one, other = (Path(each, "distilled/seed-0/student.safetensors").read_bytes() for each in "ab")
    assert one == other


@pytest.mark.usefixtures("fitted")
def test_a_run_that_was_stopped_goes_on_with_features_here_and_on_workers() -> None:
    """Law: the same bytes by one process and by two, and nothing is made twice."""
    save_file({"mean": torch.ones(3), "components": torch.eye(3)[:, :2].contiguous()}, "b.safetensors")
    inside = '{module = "linear", name = "inside", dtype = "float32"}'
    few = (*PATIENT, features(inside, COMPONENTS.replace('"2"', '"linear"')))
    must("generate", *few, "cache.path=alone")
    must("generate", *few, flags=("--workers", "2"))
    one, two = (json.loads(Path(name, "seal.json").read_text())["cache_id"] for name in ("alone", "cache"))
    assert one == two
    assert "already complete" in must("generate", *few).out


@pytest.mark.usefixtures("fitted")
def test_other_features_are_another_job() -> None:
    """Law: exit code 5, and the cache stays as it is."""
    must("generate", features(HIDDEN))
    before = snapshot(Path("cache"))
    run("generate", features(PROJECTED)).refuses(5, "labels.features")
    run("generate").refuses(5, "labels.features")
    assert snapshot(Path("cache")) == before


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("table", "code", "said"),
    [
        ('{module = "lin", name = "x"}', 2, ("teacher.features[0].module = 'lin'", "has no module of this name", "0")),
        ('{module = "2", name = "X y"}', 2, ("teacher.features.0.name",)),
        ('{module = "2", name = "x", reduction = "projection"}', 2, ("needs dimensions",)),
        ('{module = "2", name = "x", dimensions = 3}', 2, ("needs dimensions, the numbers to keep",)),
        ('{module = "2", name = "x_scale"}', 2, ("ends as arrays of scales do",)),
        ('{module = "2", name = "x"}, {module = "1", name = "x"}', 2, ("two features are called 'x'",)),
    ],
)
def test_features_that_cannot_be_are_refused(table: str, code: int, said: tuple[str, ...]) -> None:
    """Law: what is wrong, and the nearest names; nothing is written."""
    run("generate", features(table)).refuses(code, *said)
    assert not Path("cache").exists()


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("model", "table", "said"),
    [
        ("Idle", '{module = "idle", name = "x"}', "it never ran"),
        ("Idle", '{module = "counts", name = "x"}', "in torch.int64 to 1 inputs"),
        ("Fickle", '{module = "inside", name = "x", reduction = "none"}', "to a sample of this batch"),
        ("Huge", '{module = "inside", name = "x", reduction = "none"}', 'beyond float16: set its dtype = "float32"'),
    ],
)
def test_a_module_that_gives_no_feature_is_named(model: str, table: str, said: str) -> None:
    """Law: one that never runs, gives no numbers, another shape, or what its dtype does not hold: exit code 1."""
    save_state(Path("nothing.safetensors"), getattr(own_insides, model)().state_dict())
    own = (f"teacher.model=own_insides:{model}", "teacher.options={}", "teacher.checkpoint=nothing.safetensors")
    run("generate", *own, features(table)).refuses(1, said)


@pytest.mark.usefixtures("fitted")
def test_what_is_written_over_later_is_kept_as_it_was() -> None:
    """Law: a feature is what its module answered, also where the next layer works in place."""
    torch.manual_seed(3)
    save_state(Path("hasty.safetensors"), own_insides.Hasty().state_dict())
    own = ("teacher.model=own_insides:Hasty", "teacher.options={}", "teacher.checkpoint=hasty.safetensors")
    must("generate", *own, features('{module = "inside", name = "x"}'))
    assert stored("feature_x").min() < 0
    np.testing.assert_allclose(stored("logits"), stored("feature_x").clip(min=0), atol=1e-3)


@pytest.mark.usefixtures("fitted")
def test_a_teacher_asked_again_is_not_said_to_be_asked_about_its_features() -> None:
    """Law: what was not looked at is named."""
    must("generate", features(HIDDEN))
    Path("e.toml").write_text(Path("e.toml").read_text().replace("[teacher]", f"[teacher]\n{features(HIDDEN)[8:]}"))
    said = softlabels("verify", "cache", "--teacher", "e.toml")
    assert said.code == 0
    assert "Of its features and gradients, which this cache has too, it was not asked again" in said.out
