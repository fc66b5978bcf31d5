"""Stage two on the command line: `train`."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_cases import ROWS, TOPK, must, run, snapshot, write_idx

from pipeline.config import load
from pipeline.datasets.checks import CheckedDataset
from pipeline.errors import StoppedError
from pipeline.models import build
from pipeline.weights import save_state
from stages.signals import Stop

RESULTS = {"config.toml", "metrics.jsonl", "metrics.json", "student.safetensors", "curve.png", "test.json"}


def first_shard(folder: Path, array: str = "logits") -> Path:
    """A shard file of the cache."""
    return next(file for file in sorted((folder / f"cache/labels.zarr/{array}/c").rglob("*")) if file.is_file())


def unlabel(folder: Path) -> None:
    """Take the labels of the training set out of the experiment."""
    text = (folder / "e.toml").read_text().replace('labels = "labels"\n', "classes = 3\n", 1)
    (folder / "e.toml").write_text(text)


def test_a_table_ends_the_training_of_a_student_and_its_baseline(filled: Path) -> None:
    """Law: the named student, its baseline and the teacher each have a row; every number is also in the JSON."""
    outcome = must("train", flags=("--student", "distilled"))
    rows = [line.split()[0] for line in outcome.out.splitlines()[1:4]]
    assert rows == ["alone", "distilled", "teacher"]
    assert "On 12 held-out samples" in outcome.out
    facts = must("train", flags=("--student", "distilled", "--json")).facts
    assert set(facts["students"]) == {"alone", "distilled"}
    seal = json.loads((filled / "cache/seal.json").read_bytes())
    assert seal["cache_id"] in facts["cache"].values()
    assert facts["students"]["distilled"][0]["cache_id"] == seal["cache_id"]
    assert facts["students"]["alone"][0]["soft_labels"] == 0
    assert facts["students"]["distilled"][0]["soft_labels"] == ROWS


def test_a_run_folder_holds_all_that_is_needed_to_believe_it(trained: Path) -> None:
    """Law: a run that is done leaves its results and no checkpoint; its config alone is an experiment of that run."""
    folder = trained / "runs/e/distilled/seed-0"
    assert {file.name for file in folder.iterdir()} == RESULTS
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    alone = load(folder / "config.toml")
    assert list(alone.students) == ["distilled"]
    assert (alone.students["distilled"].seed, alone.students["distilled"].repeats) == (0, 1)


def test_the_config_of_a_run_trains_the_same_network(trained: Path) -> None:
    """Law: trained again from the config in its folder, a run gives the same weights, bit for bit."""
    source = trained / "runs/e/distilled/seed-0"
    shutil.copy(source / "config.toml", trained / "e.toml")
    must("train", flags=("--runs", "again"))
    again = trained / "again/distilled/seed-0/student.safetensors"
    assert again.read_bytes() == (source / "student.safetensors").read_bytes()


def test_a_run_that_is_done_is_not_done_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same command again trains nothing, changes no file and prints the same table."""
    before = snapshot(trained)
    monkeypatch.delattr("stages.train_student.teach")
    first, second = must("train").out, must("train").out
    assert first == second
    assert "distilled" in first
    assert snapshot(trained) == before


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("students.distilled.model=mlpp", 2, "There is no model 'mlpp'"),
        ("students.distilled.options={widht = 4}", 2, "cannot be built with widht = 4"),
        ("students.distilled.model=own_networks:Echo", 1, "Expected: logits of shape [1, 3]"),
    ],
)
def test_restart_throws_nothing_away_for_a_network_that_cannot_be_trained(
    setting: str, code: int, said: str, trained: Path
) -> None:
    """Law: all networks are built and tried first, so a slip costs no run, of this student or of another."""
    before = snapshot(trained)
    more = ("students.distilled.options={outputs = 2}",) if "Echo" in setting else ()
    run("train", setting, *more, flags=("--restart",)).refuses(code, said)
    assert snapshot(trained) == before


def test_restart_trains_again_to_the_same_weights(trained: Path) -> None:
    """Law: with --restart each run of the named students is made anew, and a seed decides its weights."""
    before = snapshot(trained / "runs")
    must("train", flags=("--restart",))
    after = snapshot(trained / "runs")
    weights = [name for name in before if name.endswith(".safetensors")]
    assert len(weights) == 2
    assert all(after[name][0] == before[name][0] and after[name][1] > before[name][1] for name in weights)


def test_repeats_are_runs_of_their_own_seeds(filled: Path) -> None:
    """Law: `repeats` runs have the seeds from `seed` on, a folder each, and other weights each."""
    outcome = must("train", "students.alone.repeats=2", "students.alone.seed=5", flags=("--student", "alone"))
    folders = sorted((filled / "runs/e/alone").iterdir())
    assert [folder.name for folder in folders] == ["seed-5", "seed-6"]
    first, second = (load_file(folder / "student.safetensors") for folder in folders)
    assert not all(bool((first[name] == second[name]).all()) for name in first)
    assert " ± " in outcome.out.splitlines()[1]


def test_a_student_on_true_labels_alone_needs_no_cache(fitted: Path) -> None:
    """Law: cross entropy trains without a label cache; a loss on soft labels does not."""
    must("train", flags=("--student", "alone"))
    before = snapshot(fitted)
    run("train").refuses(4, "cache holds no label cache", "`softlabels generate`")
    assert snapshot(fitted) == before


def test_stage_two_needs_no_teacher(filled: Path) -> None:
    """Law: with the cache made, students train though the teacher's checkpoint is gone."""
    (filled / "teacher.safetensors").unlink()
    must("train")


@pytest.mark.usefixtures("filled")
def test_few_true_labels_are_as_many_as_asked_for() -> None:
    """Law: a student that may see 6 true labels sees 6, and soft labels of all; more than there are is refused."""
    facts = must("train", "students.distilled.true_labels=6", flags=("--json",)).facts
    assert facts["students"]["distilled"][0]["true_labels"] == 6
    assert facts["students"]["alone"][0]["true_labels"] == ROWS
    run("train", "students.alone.true_labels=51", flags=("--runs", "more")).refuses(
        1, "true_labels = 51: the dataset has only 50 labelled samples", "Ask for fewer."
    )


def test_an_unlabelled_dataset_teaches_by_soft_labels_only(fitted: Path) -> None:
    """Law: without true labels kd trains on what the teacher said, and cross entropy refuses."""
    unlabel(fitted)
    must("generate")
    facts = must("train", "students.distilled.baseline=distilled", flags=("--student", "distilled", "--json")).facts
    metrics = facts["students"]["distilled"][0]
    assert (metrics["true_labels"], metrics["soft_labels"]) == (0, ROWS)
    run("train", flags=("--student", "alone")).refuses(1, "nothing to learn from", "no true labels")


def test_without_any_label_students_are_held_against_the_teacher(fitted: Path) -> None:
    """Law: soft and weak students learn and are tested by the teacher alone; accuracy is not told of, agreement is."""
    unlabel(fitted)
    text = (fitted / "e.toml").read_text().replace('labels = "test-labels"\n', "")
    (fitted / "e.toml").write_text(text)
    run("generate").refuses(1, "[test] has no true labels", "have the teacher's: cache.test is where they go")
    (fitted / "e.toml").write_text(
        text.replace("[cache]\n", '[cache]\ntest = "test-cache"\n').replace('"hard"', '"weak"')
    )
    must("generate", "students.alone.alpha=1.0")
    outcome = must("train", "students.alone.alpha=1.0", flags=("--json",))
    for name in ("alone", "distilled"):
        (metrics,) = outcome.facts["students"][name]
        assert (metrics["true_labels"], metrics["soft_labels"], metrics["test_accuracy"]) == (0, ROWS, None)
        assert 0 <= metrics["test_agreement"] <= 1
    assert "agreement" in must("train", "students.alone.alpha=1.0").out
    assert (fitted / "runs/e/alone/seed-0/curve.png").stat().st_size > 1000


def test_one_cache_serves_every_temperature_of_its_grid_and_no_other(fitted: Path) -> None:
    """Law: a temperature off the grid is exit code 2 that lists the grid; each one on it trains; nothing is written."""
    grid = (*TOPK, "labels.temperatures=[1, 2.5]")
    must("generate", *grid)
    before = snapshot(fitted)
    run("train", *grid, "students.distilled.temperature=3").refuses(2, "temperature", "3", "1", "2.5")
    assert snapshot(fitted) == before
    for temperature in (1, 2.5):
        must("train", *grid, f"students.distilled.temperature={temperature}", flags=("--runs", f"runs-{temperature}"))


@pytest.mark.parametrize(
    ("settings", "flags", "said"),
    [
        ((), ("--student", "distiled"), ("--student distiled: there is no such student", "alone, distilled")),
        (
            ("students.alone.loss=crossentropy",),
            (),
            ("students.alone.loss: found 'crossentropy'", "expected one of hard, kd"),
        ),
        (("students={}",), (), ("This experiment has no students", "[students.NAME]")),
        (("students.alone.model=mpl",), (), ("There is no model 'mpl'. Did you mean 'mlp'?",)),
    ],
)
@pytest.mark.usefixtures("filled")
def test_a_student_that_cannot_be_trained_is_refused(
    settings: tuple[str, ...], flags: tuple[str, ...], said: tuple[str, ...]
) -> None:
    """Law: an unknown student, loss or model is exit code 2 that lists what there is."""
    run("train", *settings, flags=flags).refuses(2, *said)


@pytest.mark.usefixtures("filled")
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a device that this machine lacks is exit code 2, and those it has are listed."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    run("train", "students.alone.device=mps").refuses(2, 'device = "mps": this machine does not have it', "cpu")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("labels.dtype=float32",), 'labels.dtype was "float16" and is now "float32"'),
        (TOPK, 'labels.encoding was "dense" and is now "topk"'),
        (("views.mean=1",), "views.mean was 128.0 and is now 1.0"),
        (("teacher.model=resnet",), 'teacher.model was "mlp" and is now "resnet"'),
        (("dataset.classes=4",), "labels.classes was 3 and is now 4"),
        (("dataset.version=v2",), 'and is now "version v2"'),
        (('dataset.class_names=["a", "b", "c"]',), "dataset.class_names was null and is now "),
    ],
)
def test_a_cache_that_this_experiment_did_not_ask_for_is_refused(
    settings: tuple[str, ...], said: str, filled: Path
) -> None:
    """Law: as far as can be told without the teacher, stage two refuses another job's cache, and writes nothing."""
    before = snapshot(filled)
    run("train", *settings).refuses(5, said, "Nothing was written.")
    assert snapshot(filled) == before


def test_an_unsealed_cache_is_refused(filled: Path) -> None:
    """Law: a cache without its seal trains no one: exit code 4, how far it is, how to finish it; nothing is written."""
    (filled / "cache/seal.json").unlink()
    (filled / "cache/receipts/000000001.json").unlink()
    before = snapshot(filled)
    run("train").refuses(4, "cache has no seal: 3 of its 4 shards are done", "`softlabels generate`")
    assert snapshot(filled) == before


def test_a_flipped_byte_is_refused_by_the_file_it_is_in(filled: Path) -> None:
    """Law: labels that fail their checksum train no one: exit code 3, and the file is named."""
    shard = first_shard(filled)
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    run("train").refuses(3, str(shard), "checksum")


@pytest.mark.parametrize("array", ["logits", "sample_id", "input_crc32c"])
def test_a_shard_that_is_gone_is_refused(array: str, filled: Path) -> None:
    """Law: a missing shard of any array that is read is exit code 3, and the file is named."""
    shard = first_shard(filled, array)
    shard.unlink()
    run("train").refuses(3, str(shard), "is gone")


@pytest.mark.promise("P7")
def test_a_dataset_that_changed_under_the_same_ids_is_refused_by_its_inputs(fitted: Path) -> None:
    """Law: a declared version is believed for the job, and still the first batch shows that the inputs are others."""
    version = "dataset.version=v1"
    must("generate", version)
    images = bytearray((fitted / "images").read_bytes())
    images[16 + 16 * 20 + 3] ^= 1
    (fitted / "images").write_bytes(images)
    assert "already complete" in must("generate", version).out
    run("train", version).refuses(5, "not the ones the teacher saw", "sample ids 20)", "crc32c", "Restore the dataset")


def test_a_dataset_that_changed_is_refused_before_anything_is_trained(filled: Path) -> None:
    """Law: without a declared version one changed pixel is exit code 5 that names the field; nothing is written."""
    images = bytearray((filled / "images").read_bytes())
    images[-1] ^= 1
    (filled / "images").write_bytes(images)
    before = snapshot(filled)
    run("train").refuses(5, 'cache was made by another job: dataset.content was "sha256 ', "Nothing was written.")
    assert snapshot(filled) == before


def test_true_labels_that_changed_under_the_same_version_are_refused(fitted: Path) -> None:
    """Law: shuffled labels are no worse student but exit code 5, even where a version is declared and believed."""
    version = "dataset.version=v1"
    must("generate", version)
    write_idx(fitted / "labels", ((np.arange(ROWS) + 1) % 3).astype(np.uint8))
    before = snapshot(fitted / "cache")
    run("train", version).refuses(
        5, "of this batch have another true label than when the cache was made", "Restore the dataset's labels"
    )
    assert snapshot(fitted / "cache") == before
    assert not (fitted / "runs/e/distilled/seed-0/student.safetensors").exists()


def test_labels_that_are_hidden_now_are_no_other_labels(fitted: Path) -> None:
    """Law: under a declared version a dataset may drop its true labels, and the soft ones still serve."""
    must("generate", "dataset.version=v1")
    unlabel(fitted)
    must("train", "dataset.version=v1", "students.distilled.baseline=distilled", flags=("--student", "distilled"))


@pytest.mark.parametrize("unlabelled", [False, True])
def test_labels_that_are_not_there_are_refused_before_the_first_student_trains(
    unlabelled: bool,
    fitted: Path,
) -> None:
    """Law: what only the second student asks for in vain is told before the first one trains: no run folder is made."""
    if unlabelled:
        unlabel(fitted)
    must("generate")
    before, found = snapshot(fitted), 0 if unlabelled else ROWS
    first = ("students.alone.loss=kd",) if unlabelled else ()
    run("train", *first, "students.distilled.true_labels=51").refuses(
        1, f"true_labels = 51: the dataset has only {found} labelled samples", "Ask for fewer."
    )
    assert snapshot(fitted) == before
    assert not (fitted / "runs").exists()


@pytest.mark.parametrize("half", [False, True])
def test_another_run_of_a_later_student_is_refused_before_the_first_one_trains(
    half: bool,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law: whole or half done, a folder of another run is told before any student trains, and nothing is written."""
    if half:

        def stopped(*_: object) -> None:
            raise StoppedError("Stopped.", 75)

        with monkeypatch.context() as patch:
            patch.setattr("pipeline.course.finish", stopped)
            again = ("--restart", "--student", "distilled")
            assert run("train", "students.distilled.baseline=distilled", flags=again).code == 75
        assert (trained / "runs/e/distilled/seed-0/checkpoint.pt").exists()
    shutil.rmtree(trained / "runs/e/alone")
    before = snapshot(trained)
    run("train", "students.distilled.learning_rate=0.5").refuses(
        5, "runs/e/distilled/seed-0 holds another run: learning_rate was 0.001 and is now 0.5", "Nothing was changed."
    )
    assert snapshot(trained) == before
    assert not (trained / "runs/e/alone").exists()


def test_weights_replaced_since_their_run_have_no_row_in_the_table(trained: Path) -> None:
    """Law: figures stand for the weights that reached them: exit code 5, both ways out; nothing is changed."""
    folder = Path("runs/e/alone/seed-0")
    shutil.copy("runs/e/distilled/seed-0/student.safetensors", folder / "student.safetensors")
    before = snapshot(trained)
    run("train").refuses(
        5, f"{folder}/student.safetensors is not what the run in {folder} wrote.", "delete that folder", "--restart"
    )
    assert snapshot(trained) == before
    must("train", flags=("--restart", "--student", "alone"))


@pytest.mark.parametrize("key", ["parameters", "seconds", "identity", "weights_sha256", "test_accuracy"])
def test_metrics_without_a_key_are_refused(key: str, trained: Path) -> None:
    """Law: a table is made of whole metrics, or is exit code 3 that names the file and the key."""
    path = Path("runs/e/alone/seed-0/metrics.json")
    metrics = json.loads(path.read_text())
    del metrics[key]
    path.write_text(json.dumps(metrics))
    before = snapshot(trained)
    run("train").refuses(3, f"{path} is not what a run wrote ({key}: Field required)", "Delete it and")
    assert snapshot(trained) == before


@pytest.mark.promise("P6")
def test_samples_that_the_teacher_never_saw_are_refused(filled: Path) -> None:
    """Law: a dataset that has grown since is another one: exit code 5, before anything is trained."""
    for name, header in (("images", 16), ("labels", 8)):
        data = bytearray((filled / name).read_bytes())
        data[4:8] = np.uint32(ROWS + 2).byteswap().tobytes()
        (filled / name).write_bytes(data + data[header : header + 2 * (16 if header == 16 else 1)])
    before = snapshot(filled)
    run("train").refuses(5, "made with 1 view of 50 samples", "now 1 view of 52 samples", "Nothing was written.")
    assert snapshot(filled) == before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("students.alone.learning_rate=0.5", "learning_rate was 0.001 and is now 0.5"),
        ("students.alone.epochs=3", "epochs was 1 and is now 3"),
        ("students.alone.options={hidden = [5]}", "options was {'hidden': [4]} and is now {'hidden': [5]}"),
    ],
)
def test_a_folder_that_holds_another_run_is_refused_until_it_is_restarted(
    setting: str, said: str, trained: Path
) -> None:
    """Law: what decides a run, changed, is exit code 5, told field by field; nothing changes without --restart."""
    before = snapshot(trained)
    run("train", setting).refuses(
        5, "runs/e/alone/seed-0 holds another run: ", said, "Nothing was changed.", "--restart"
    )
    assert snapshot(trained) == before
    must("train", setting, flags=("--student", "alone", "--restart"))


@pytest.mark.promise("P6")
def test_a_students_checkpoint_knows_its_cache_and_no_other(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a run stopped on one cache does not go on from another of the same experiment: its id is named."""
    monkeypatch.setattr("stages.train_student.stop_on_signals", after_some_steps)
    assert run("train", flags=("--student", "distilled")).code == 75
    monkeypatch.undo()
    monkeypatch.chdir(filled)
    shutil.rmtree(filled / "cache")
    torch.manual_seed(7)
    save_state(filled / "teacher.safetensors", build("mlp", {"hidden": [8]}, (1, 4, 4), 3).state_dict())
    must("generate")
    before = snapshot(filled / "runs")
    run("train", flags=("--student", "distilled")).refuses(5, "cache_id was ", "Nothing was changed.")
    assert snapshot(filled / "runs") == before


WINDOWS = ("students.alone.window=1", "students.distilled.window=1")


def weights(runs: Path, student: str) -> bytes:
    """What a student ended with."""
    return (runs / student / "seed-0/student.safetensors").read_bytes()


def test_a_window_decides_the_weights_and_counts_as_another_run(trained: Path) -> None:
    """Law: it makes another run with other weights, of students on true labels too; and so do the rows of a shard."""
    before = snapshot(trained)
    for name in ("alone", "distilled"):
        run("train", *WINDOWS, flags=("--student", name)).refuses(
            5, "shard_rows was None and is now 16; window was None and is now 1.", "Nothing was changed."
        )
    assert snapshot(trained) == before
    must("train", *WINDOWS, flags=("--runs", "windowed"))
    for name in ("alone", "distilled"):
        assert weights(trained / "windowed", name) != weights(trained / "runs/e", name)
    assert "window = 1\n" in (trained / "windowed/alone/seed-0/config.toml").read_text()


def test_runs_made_before_there_were_windows_stay_finished(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: without a window, a run's identity is what it was: none of its metrics has to know the word."""
    for path in (trained / "runs").rglob("metrics.json"):
        metrics = json.loads(path.read_text())
        identity = {key: value for key, value in metrics["identity"].items() if key not in ("window", "shard_rows")}
        assert {key for key, value in metrics["identity"].items() if value is not None} <= identity.keys()
        path.write_text(json.dumps({**metrics, "identity": identity}))
    before = snapshot(trained)
    monkeypatch.delattr("stages.train_student.teach")
    must("train")
    assert snapshot(trained) == before


def test_a_student_of_a_window_is_the_same_alone_or_beside_others(filled: Path) -> None:
    """Law: on true labels alone, it is cut by the shards of the cache whoever else is named."""
    must("train", *WINDOWS, flags=("--runs", "beside"))
    must("train", *WINDOWS, flags=("--runs", "apart", "--student", "alone"))
    assert weights(filled / "beside", "alone") == weights(filled / "apart", "alone")


def test_a_window_needs_the_cache_whose_shards_it_is_of(fitted: Path) -> None:
    """Law: without one, a student of a window is refused as one that asks the teacher is, and nothing is written."""
    before = snapshot(fitted)
    run("train", *WINDOWS, flags=("--student", "alone")).refuses(
        4, "cache holds no label cache", "`softlabels generate`"
    )
    assert snapshot(fitted) == before


@contextmanager
def after_some_steps() -> Iterator[Stop]:
    """A request to stop that comes after a few steps."""

    @dataclass
    class Soon(Stop):
        steps: int = 6

        def __call__(self) -> bool:
            self.steps -= 1
            return self.steps < 0

    yield Soon()


@pytest.mark.usefixtures("filled")
def test_class_costs_that_changed_make_another_run() -> None:
    """Their file is named in the experiment; what it holds decides the weights."""
    flags = ("--student", "alone")
    setting = 'students.alone.loss=[{name = "wkd", cost = "costs.npy"}]'
    np.save("costs.npy", 1 - np.eye(3))
    must("train", setting, flags=flags)
    np.save("costs.npy", 2 - 2 * np.eye(3))
    run("train", setting, flags=flags).refuses(5, "class_costs was")


def test_students_share_one_cache(trained: Path) -> None:
    """Law: training students changes no byte of the cache."""
    before = snapshot(trained / "cache")
    must("train", "students.third={model = 'mlp', epochs = 1, temperature = 7.5}", flags=("--student", "third"))
    assert snapshot(trained / "cache") == before


def test_students_named_together_share_one_walk(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: three students cost the reading of the longest; each ends as it does by itself, seed by seed."""
    others = ("students.twin={model = 'mlp', options = {hidden = [4]}, epochs = 2, batch_size = 16, repeats = 2}",)
    names = ("--student", "distilled", "--student", "twin", "--student", "alone")
    asked: list[int] = []
    read = CheckedDataset.inputs
    monkeypatch.setattr(CheckedDataset, "inputs", lambda self, rows: (asked.append(len(rows)), read(self, rows))[1])
    must("train", *others, flags=(*names, "--runs", "together"))
    held_out, content = 12, ROWS
    walked = [rows for rows in asked if rows not in (1, held_out, content)]
    assert sum(walked) == 2 * ROWS + 2 * ROWS  # one walk of two epochs for each of the seeds 0 and 1
    for name in ("distilled", "twin", "alone"):
        must("train", *others, "students.distilled.baseline=distilled", flags=("--student", name, "--runs", "apart"))
        for folder in (filled / "together" / name).iterdir():
            weights = (folder / "student.safetensors").read_bytes()
            assert weights == (filled / "apart" / name / folder.name / "student.safetensors").read_bytes()


def test_the_table_says_how_many_students_pay_for_the_cache(trained: Path) -> None:
    """Law: a pass of the teacher costs what the cache cost, so one student of E epochs is worth 1 / E of it."""
    seal = json.loads((trained / "cache/seal.json").read_text())
    facts = must("train", flags=("--json",)).facts["break_even"]
    assert facts["students"] == pytest.approx(0.5)
    assert facts["in_the_loop_seconds_a_student"] == pytest.approx(2 * seal["made"]["seconds"])
    assert facts["saved_seconds"] == pytest.approx(seal["made"]["seconds"])
    assert (
        "Break-even: 0.5 students. In the loop, the teacher would take about as long in every epoch, "
        in must("train").out
    )
    alone = must("train", flags=("--student", "alone", "--json")).facts
    assert "break_even" not in alone
