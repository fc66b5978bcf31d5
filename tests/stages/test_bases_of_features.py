"""Features kept by their principal components: fitted once, named in the job by their file's digest."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import own_insides
import pytest
import torch
import zarr
from safetensors.torch import load_file, save_file
from stage_cases import ROWS, images, must, run, snapshot

from pipeline.labeller import Block
from pipeline.models import build
from pipeline.store.layout import Shard
from pipeline.store.writer import CacheWriter
from pipeline.weights import load_state, save_state

FILE = "bases/hidden.safetensors"
HIDDEN = f'{{module = "2", name = "hidden", reduction = "pca", dimensions = 3, basis = "{FILE}", dtype = "float32"}}'


def features(*tables: str) -> str:
    """The setting that asks for them."""
    return f"teacher.features=[{', '.join(tables)}]"


def answers() -> np.ndarray:
    """What the module 2 of the fitted teacher makes of all samples, computed by itself."""
    network = build("mlp", {"hidden": [8]}, (1, 4, 4), 3)
    network.load_state_dict(load_state(Path("teacher.safetensors")))
    pixels = torch.from_numpy(images(ROWS)[:, None].astype(np.float32))
    with torch.no_grad():
        return network[:3]((pixels - 128) / 64).double().numpy()  # type: ignore[index]


def components(rows: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray, float]:
    """By NumPy's singular values: mean, components, and the share of variance that these keep."""
    around = rows - rows.mean(axis=0)
    _, values, axes = np.linalg.svd(around, full_matrices=False)
    kept = axes[:dimensions].T
    signs = np.sign(kept[abs(kept).argmax(axis=0), np.arange(dimensions)])
    return rows.mean(axis=0), kept * signs, float((values[:dimensions] ** 2).sum() / (values**2).sum())


def stored(cache: str = "cache") -> np.ndarray:
    """The feature in a cache, read by zarr alone."""
    return np.asarray(zarr.open_group(f"{cache}/labels.zarr", mode="r")["feature_hidden"][0])


@pytest.mark.usefixtures("fitted")
def test_a_feature_is_kept_in_the_components_of_its_sample() -> None:
    """Law: fitted on all samples, rows are (x - mean) W, as NumPy finds these; and the share kept is said."""
    done = must("fit-teacher", features(HIDDEN))
    mean, kept, share = components(answers(), 3)
    assert (
        f"The basis of 'hidden' is fitted: {FILE}: 3 numbers keep {100 * share:.2f} % of the variance of 50 rows."
        in done.out
    )
    must("generate", features(HIDDEN))
    np.testing.assert_allclose(stored(), (answers() - mean) @ kept, rtol=1e-3, atol=1e-4)
    found = must("fit-teacher", features(HIDDEN), flags=("--json",)).facts["bases"]["hidden"]
    assert found == {"basis": FILE, "fitted": False, "variance_kept": pytest.approx(share), "rows": ROWS}


@pytest.mark.usefixtures("fitted")
def test_a_basis_is_fitted_on_the_first_samples_alone_and_whatever_the_batch() -> None:
    """Law: `sample` says how many; two features have each its own; the teacher's batches change nothing that counts."""
    few = HIDDEN.replace("dimensions", "sample = 21, dimensions")
    other = HIDDEN.replace("hidden", "other")
    must("fit-teacher", features(few, other))
    for file, rows in ((FILE, 21), (FILE.replace("hidden", "other"), ROWS)):
        mean, kept, _ = components(answers()[:rows], 3)
        found = load_file(file)
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["components"], kept, rtol=1e-3, atol=1e-4)
    before = load_file(FILE)
    Path(FILE).unlink()
    must("fit-teacher", features(few, other), "teacher.batch_size=50")
    for name, tensor in load_file(FILE).items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("verb", ["plan", "generate"])
def test_without_its_basis_nothing_is_made_and_it_is_said_how_to_have_it(verb: str) -> None:
    """Law: as without a teacher's checkpoint: exit code 1, and no cache."""
    run(verb, features(HIDDEN)).refuses(1, f"{FILE}: there is no such basis", "fitted with `softlabels fit-teacher`")
    assert not Path("cache").exists()


@pytest.mark.usefixtures("fitted")
def test_a_basis_that_was_lost_is_fitted_again_and_its_cache_goes_on() -> None:
    """Law: refused while it is not there; the same command makes the same file, to the byte."""
    must("fit-teacher", features(HIDDEN))
    must("generate", features(HIDDEN))
    before = Path(FILE).read_bytes()
    Path(FILE).unlink()
    run("generate", features(HIDDEN)).refuses(1, "there is no such basis")
    must("fit-teacher", features(HIDDEN))
    assert Path(FILE).read_bytes() == before
    assert "already complete" in must("generate", features(HIDDEN)).out


@pytest.mark.usefixtures("fitted")
def test_another_basis_is_another_cache() -> None:
    """Law: exit code 5, naming the basis, and nothing is written; students need no basis at all."""
    must("fit-teacher", features(HIDDEN))
    must("generate", features(HIDDEN))
    before = snapshot(Path("cache"))
    state = load_file(FILE)
    save_file({**state, "components": -state["components"]}, FILE)
    run("generate", features(HIDDEN)).refuses(5, "teacher.bases_sha256")
    assert snapshot(Path("cache")) == before
    Path(FILE).unlink()
    hints = 'students.distilled.hints=[{loss = "feature_mse", feature = "hidden", module = "2"}]'
    must("train", features(HIDDEN), hints, flags=("--student", "distilled"))


@pytest.mark.usefixtures("fitted")
def test_a_cache_without_components_knows_nothing_of_bases() -> None:
    """Law: a job of other reductions has no word of them, so it is the job it was before there were any."""
    must("generate", features('{module = "2", name = "few", reduction = "projection", dimensions = 3}'))
    job = json.loads(Path("cache/job.json").read_text())
    assert set(job["teacher"]) == {"model", "options", "precision", "channels_last", "checkpoint_sha256"}
    assert set(job["labels"]["features"][0]) == {
        *("name", "module", "reduction", "dtype", "module_shape", "row_shape", "seed")
    }


@pytest.mark.usefixtures("fitted")
def test_a_run_that_was_stopped_goes_on_with_its_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: stopped after two shards and gone on with, a cache is the one of a run that nothing stopped."""
    must("fit-teacher", features(HIDDEN))
    must("generate", features(HIDDEN), "teacher.batch_size=1", "cache.path=alone")
    commit, made = CacheWriter.commit, []

    def stopping(writer: CacheWriter, shard: Shard, arrays: Block, seconds: float) -> None:
        commit(writer, shard, arrays, seconds)
        made.append(shard.number)
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "commit", stopping)
        run("generate", features(HIDDEN), "teacher.batch_size=1").refuses(75, "shards are done and kept")
    left = must("generate", features(HIDDEN), "teacher.batch_size=1", flags=("--json",)).facts["made"]
    assert 0 < left < ROWS
    assert np.array_equal(stored("alone"), stored())


def _without_fit() -> None:
    """Have the experiment take its teacher as it is."""
    text = Path("e.toml").read_text()
    begin, end = text.index("[teacher.fit]"), text.index("[cache]")
    Path("e.toml").write_text(text[:begin] + text[end:])


@pytest.mark.usefixtures("fitted")
def test_a_basis_of_another_teacher_or_sample_is_not_taken_for_this_ones() -> None:
    """Law: exit code 5, naming what differs, and the file stays; --restart fits anew what a fitting wrote."""
    must("fit-teacher", features(HIDDEN))
    before = Path(FILE).read_bytes()
    run("fit-teacher", features(HIDDEN.replace("dimensions", "sample = 20, dimensions"))).refuses(
        5, f"{FILE} was fitted on something else", "sample differs"
    )
    _without_fit()
    torch.manual_seed(9)
    save_state(Path("teacher.safetensors"), build("mlp", {"hidden": [8]}, (1, 4, 4), 3).state_dict())
    run("fit-teacher", features(HIDDEN)).refuses(5, "teacher differs", "delete this one")
    assert Path(FILE).read_bytes() == before
    must("fit-teacher", features(HIDDEN), flags=("--restart",))
    assert Path(FILE).read_bytes() != before


@pytest.mark.usefixtures("fitted")
def test_a_basis_of_the_users_own_is_used_as_it_is() -> None:
    """Law: what no fitting wrote is never written over, not even with --restart; and its directions are kept."""
    Path("bases").mkdir()
    save_file({"mean": torch.zeros(8), "components": torch.eye(8)[:, :3].contiguous()}, FILE)
    before = Path(FILE).read_bytes()
    for flags in ((), ("--restart",)):
        assert must("fit-teacher", features(HIDDEN), flags=flags).out.endswith(
            f"The basis of 'hidden' is there: {FILE}.\n"
        )
    assert Path(FILE).read_bytes() == before
    must("generate", features(HIDDEN))
    np.testing.assert_allclose(stored(), answers()[:, :3], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("dimensions = 3", "dimensions = 9"), "teacher.features[0].dimensions = 9: the module '2' answers [8]"),
        (("dimensions = 3", "dimensions = 3, sample = 3"), "its basis is fitted on 3 rows"),
        ((f'basis = "{FILE}", ', ""), 'reduction = "pca" needs basis'),
        ((f'"{FILE}"', '"b.pt"'), "does not end in .safetensors"),
        (("dimensions = 3, ", ""), 'reduction = "projection" or "pca" needs dimensions'),
        (('reduction = "pca"', 'reduction = "projection"'), "others take none"),
    ],
)
def test_components_that_cannot_be_are_refused(change: tuple[str, str], said: str) -> None:
    """Law: exit code 2, before the teacher is asked."""
    run("fit-teacher", features(HIDDEN.replace(*change))).refuses(2, said)
    assert not Path(FILE).exists()


@pytest.mark.usefixtures("fitted")
def test_two_features_do_not_share_a_file() -> None:
    """Law: each has a basis of its own."""
    run("fit-teacher", features(HIDDEN, HIDDEN.replace('"hidden"', '"other"'))).refuses(
        2, "two features have one basis"
    )


@pytest.mark.usefixtures("fitted")
def test_a_damaged_basis_is_refused_before_anything_is_written() -> None:
    """Law: exit code 1 by whoever reads it, and no cache."""
    must("fit-teacher", features(HIDDEN))
    Path(FILE).write_bytes(Path(FILE).read_bytes()[:-4])
    for verb in ("fit-teacher", "generate"):
        run(verb, features(HIDDEN)).refuses(1, "this is no basis that can be read")
    assert not Path("cache").exists()


@pytest.mark.usefixtures("fitted")
def test_features_that_are_no_numbers_are_refused_by_their_samples() -> None:
    """Law: exit code 1, naming module and samples, and no file."""
    _without_fit()
    save_state(Path("sick.safetensors"), own_insides.Sick().state_dict())
    own = (
        "teacher.model=own_insides:Sick",
        "teacher.options={}",
        "teacher.checkpoint=sick.safetensors",
        "views.mean=0",
    )
    table = HIDDEN.replace('"2"', '"inside"')
    run("fit-teacher", *own, features(table)).refuses(
        1, "'hidden' (of the module 'inside') is NaN or infinite", "ids 7"
    )
    assert not Path(FILE).exists()


@pytest.mark.usefixtures("fitted")
def test_a_fitting_that_is_stopped_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: exit code 75, and the same command again fits it."""

    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("stages.fit_bases.moments_of", stopped)
        run("fit-teacher", features(HIDDEN)).refuses(75, "Stopped by SIGTERM. No basis was fitted.")
    assert not Path(FILE).exists()
    must("fit-teacher", features(HIDDEN))
