"""A run that was stopped, killed or damaged ends as one that was not, or says why it cannot."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from river_cases import CLASSES, samples
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline import course, runs
from pipeline.config import Experiment, ViewSettings, dump, load
from pipeline.course import Watch, teach
from pipeline.errors import CorruptError, MismatchError, TrainingError
from pipeline.labels import SoftLabels
from pipeline.lesson import Lesson
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.runs import Metrics, Run, finished, fit_seconds
from pipeline.training import Loss, rate_factor

EPOCHS = 3
ROWS, STEPS = 24, 5  # of an epoch
SETTINGS = Training(epochs=EPOCHS, batch_size=5, learning_rate=0.01, device="cpu")
EXPERIMENT = Experiment.model_validate(
    {
        "dataset": {"kind": "digits"},
        "teacher": {"model": "mlp", "checkpoint": "teacher.safetensors"},
        "cache": {"path": "cache"},
        "students": {"pupil": {"model": "mlp", "options": {"hidden": [4]}, "true_labels": 50}},
    }
)


def metrics_with(**changed: object) -> bytes:
    """The metrics of a run, but for some keys; None takes a key out."""
    whole = {
        "test_accuracy": 0.5,
        "parameters": 3,
        "seconds": 1.0,
        "weights_sha256": "",
        "true_labels": 3,
        "soft_labels": 0,
        "identity": {},
    }
    return json.dumps({key: value for key, value in (whole | changed).items() if value is not None}).encode()


class Killed(BaseException):
    """What a process that is killed does not survive."""


def run_in(folder: Path, settings: Training = SETTINGS, **identity: object) -> Run:
    """A run of these settings."""
    known = {"cache_id": "abc", "learning_rate": 0.01, **identity}
    config, facts = dump(EXPERIMENT), {"note": "kept"}
    return Run(folder, folder / "student.safetensors", known, config, settings, ViewSettings(), 7, facts)


def network(width: int = 8) -> nn.Module:
    """With all that a checkpoint has to keep: weights, running statistics, and dropout's chance."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, CLASSES)
    )


def loss(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: SoftLabels | None) -> torch.Tensor:
    """What a student without a teacher is told."""
    return F.cross_entropy(logits_NC, labels_N, reduction="none")


def steep(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: SoftLabels | None) -> torch.Tensor:
    """A loss whose first gradients float16 cannot hold, so that its scale is halved a few times."""
    return 100 * loss(logits_NC, labels_N, _)


def lesson(build: Callable[[], nn.Module] = network, *, tested: bool = True, loss: Loss = loss) -> Lesson:
    """The same for all runs here."""
    return Lesson(build, loss, soft=False, test=samples(12, seed=1) if tested else None)


def go(run: Run, epochs: float = math.inf, given: Lesson | None = None) -> Metrics | None:
    """What the command line does with a run; asked to stop after some epochs of this call."""
    shown: list[int] = []
    watch = Watch(lambda: sum(shown) >= epochs * ROWS, shown.append)
    return finished(run) or teach([(run, given or lesson())], Reader(samples()), watch)[0]


def outcome(run: Run) -> dict[str, object]:
    """All that a finished run leaves, the times left out."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((run.folder / "metrics.json").read_text())
    for document in (*lines, metrics):
        assert document.pop("seconds") >= 0
    assert min(metrics.pop("latency_seconds"), metrics.pop("batch_latency_seconds")) > 0
    files = sorted(path.name for path in run.folder.iterdir())
    return {"weights": run.weights.read_bytes(), "lines": lines, "metrics": metrics, "files": files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The outcome of a run that nothing interrupted."""
    run = run_in(tmp_path_factory.mktemp("whole"))
    go(run)
    return outcome(run)


@pytest.fixture
def half(tmp_path: Path) -> Run:
    """A run stopped after its second epoch of three."""
    run = run_in(tmp_path / "half")
    assert go(run, 2) is None
    return run


@pytest.mark.parametrize("stops", [[0], [1], [2], [3], [1, 1], [0, 2, 0]])
def test_a_run_resumed_ends_as_one_that_was_not_stopped(
    tmp_path: Path, whole: dict[str, object], stops: list[int]
) -> None:
    """Law: wherever it was stopped, however often: the same weights to the byte and the same figures."""
    run = run_in(tmp_path / "run")
    for epochs in stops:
        go(run, epochs)
    torch.rand(5)
    assert go(run) is not None
    assert outcome(run) == whole


@pytest.mark.parametrize("again", [1, 2, 4])
def test_a_run_stopped_at_any_step_goes_on_from_it(tmp_path: Path, whole: dict[str, object], again: int) -> None:
    """Law: at whichever step it is told to stop, and stopped again soon after: no step is lost, and none done twice."""
    for at in range(EPOCHS * STEPS + 1):
        run, shown = run_in(tmp_path / str(at)), []
        for more in (at, again):
            stop = len(shown) + more
            watch = Watch(lambda stop=stop, shown=shown: len(shown) >= stop, shown.append)
            if finished(run) is None:
                teach([(run, lesson())], Reader(samples()), watch)
        watch = Watch(lambda: False, shown.append)
        if finished(run) is None:
            teach([(run, lesson())], Reader(samples()), watch)
        assert len(shown) == EPOCHS * STEPS
        assert outcome(run) == whole


def test_what_a_kill_costs_is_bounded_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, object]
) -> None:
    """Law: an epoch may take days; every few minutes of it are kept, also from a process that could not say goodbye."""
    monkeypatch.setattr(course, "SAVE_SECONDS", 0.0)
    run, shown = run_in(tmp_path / "run"), []

    def killed() -> bool:
        if len(shown) == STEPS + 3:
            raise Killed
        return False

    with pytest.raises(Killed):
        teach([(run, lesson())], Reader(samples()), Watch(killed, shown.append))
    teach([(run, lesson())], Reader(samples()), Watch(lambda: False, shown.append))
    assert len(shown) == EPOCHS * STEPS
    assert outcome(run) == whole


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_resumes_in_every_precision_and_with_every_optimizer(
    tmp_path: Path, optimizer: str, precision: str
) -> None:
    """Law: moments, momentum and the scale of float16 are part of the state."""
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "precision": precision, "learning_rate": 1e-3})
    stopped, straight = (run_in(tmp_path / name, settings) for name in ("stopped", "straight"))
    go(stopped, 2, lesson(loss=steep))
    go(stopped, given=lesson(loss=steep))
    go(straight, given=lesson(loss=steep))
    assert outcome(stopped) == outcome(straight)


def killing(call: Callable[..., object], dead: Callable[[], bool]) -> Callable[..., object]:
    """The same function for a process that may be dead by the time it calls it."""

    def called(*args: object) -> object:
        if dead():
            raise Killed
        return call(*args)

    return called


def test_a_run_killed_before_any_of_its_writes_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, object]
) -> None:
    """Law: for every n, killed at its n-th write, the same call completes it: weights, figures, files."""
    for at in itertools.count(1):
        run, calls = run_in(tmp_path / str(at)), itertools.count(1)
        dead = partial(lambda calls, at: next(calls) >= at, calls, at)
        with monkeypatch.context() as patch:
            for name in ("write_durably", "save_state", "remove"):
                patch.setattr(runs, name, killing(getattr(runs, name), dead))
            try:
                go(run)
                break
            except Killed:
                pass
        go(run)
        found = outcome(run)
        if found["files"] != whole["files"]:  # killed when all but the removal of its checkpoint was done
            (run.folder / "checkpoint.pt").unlink()
            found = outcome(run)
        assert found == whole
    assert at == 1 + 1 + 2 * EPOCHS + 5


def test_a_run_folder_holds_what_is_needed_to_believe_it(tmp_path: Path) -> None:
    """The experiment, a line an epoch, the result, the weights, a picture; and no checkpoint any more."""
    run = run_in(tmp_path / "run")
    shown: list[int] = []
    (metrics,) = teach([(run, lesson())], Reader(samples()), Watch(lambda: False, shown.append))
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"config.toml", "metrics.jsonl", "metrics.json", "student.safetensors", "curve.png", "test.json"}
    assert load(run.folder / "config.toml") == EXPERIMENT
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert shown == [5, 5, 5, 5, 4] * EPOCHS
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(
        set(line) == {"epoch", "loss", "test_accuracy", "test_ece", "test_cross_entropy", "learning_rate", "seconds"}
        for line in lines
    )
    assert json.loads((run.folder / "metrics.json").read_text()) == metrics == finished(run)
    few, many = metrics.pop("latency_seconds"), metrics.pop("batch_latency_seconds")
    assert min(few, many) > 0
    assert 0 <= min(metrics.pop("test_macro_f1"), metrics.pop("test_auroc")) <= 1
    assert metrics == {
        "test_accuracy": lines[-1]["test_accuracy"],
        "test_ece": lines[-1]["test_ece"],
        "test_cross_entropy": lines[-1]["test_cross_entropy"],
        "parameters": 16 * 8 + 8 + 2 * 8 + 8 * CLASSES + CLASSES,
        "weights_bytes": run.weights.stat().st_size,
        "multiply_adds": 16 * 8 + 8 * CLASSES,
        "latency_device": "cpu",
        "batch_latency_rows": 12,
        "seconds": sum(line["seconds"] for line in lines),
        "true_labels": 24,
        "soft_labels": 0,
        "note": "kept",
        "weights_sha256": hashlib.sha256(run.weights.read_bytes()).hexdigest(),
        "identity": dict(run.identity),
    }
    network().load_state_dict(load_file(run.weights))
    assert (run.folder / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_accuracy_of_a_run_is_that_of_the_weights_it_leaves(tmp_path: Path) -> None:
    """Law: the last line's figure can be had again from the saved weights alone."""
    run, test = run_in(tmp_path / "run"), samples(12, seed=1)
    metrics = go(run)
    saved = network().eval()
    saved.load_state_dict(load_file(run.weights))
    right = saved(torch.from_numpy(test.array)).argmax(1).numpy() == test.labels
    assert metrics["test_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


def test_a_run_without_a_test_set_has_no_accuracy(tmp_path: Path) -> None:
    """And is drawn without it."""
    run = run_in(tmp_path / "run")
    assert go(run, given=lesson(tested=False))["test_accuracy"] is None
    assert "test_accuracy" not in (run.folder / "metrics.jsonl").read_text()
    assert (run.folder / "curve.png").exists()


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """Its metrics are read; nothing is touched."""
    run = run_in(tmp_path / "run")
    first, written = go(run), run.weights.stat().st_mtime_ns
    assert go(run) == first
    assert run.weights.stat().st_mtime_ns == written


def test_a_finished_run_whose_weights_are_gone_is_run_again(tmp_path: Path, whole: dict[str, object]) -> None:
    """A result without the network that had it is no result."""
    run = run_in(tmp_path / "run")
    go(run)
    run.weights.unlink()
    assert finished(run) is None
    go(run)
    assert outcome(run) == whole


@pytest.mark.parametrize("epochs", [1, math.inf])
@pytest.mark.parametrize(
    ("identity", "difference"),
    [
        ({"cache_id": "def"}, "cache_id was 'abc' and is now 'def'"),
        ({"cache_id": None}, "cache_id was 'abc' and is now None"),
        ({"true_labels": 9}, "true_labels was None and is now 9"),
        ({"cache_id": "x", "learning_rate": 0.5}, "cache_id was 'abc' .*; learning_rate was 0.01 and is now 0.5"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(
    tmp_path: Path, identity: dict[str, Any], difference: str, epochs: float
) -> None:
    """Half done or whole: exit code 5, naming what differs."""
    folder = tmp_path / "run"
    go(run_in(folder), epochs)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MismatchError, match=rf"^{folder} holds another run: {difference}\. Nothing was") as error:
        go(run_in(folder, **identity))
    assert error.value.exit_code == 5
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"other weights"])
def test_weights_that_were_replaced_since_their_run_are_refused(tmp_path: Path, content: bytes) -> None:
    """Law: figures are never shown for a network that did not reach them; what to do is said, nothing is changed."""
    run = run_in(tmp_path / "run")
    go(run)
    run.weights.write_bytes(content)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(
        MismatchError,
        match=rf"^{run.weights} is not what the run in {run.folder} wrote\. .*that folder.*--restart",
    ):
        go(run)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize("missing", ["learner", "history", "epoch", "identity"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(half: Run, missing: str) -> None:
    """Whole as a file, and still not what a run wrote: one paragraph, and the file is left as it is."""
    path = half.folder / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state[missing]
    torch.save(state, path)
    content = path.read_bytes()
    with pytest.raises(CorruptError, match=rf"^{path} is damaged \(KeyError: '{missing}'\)\. Delete it and run"):
        go(half)
    assert path.read_bytes() == content


def test_a_run_half_done_is_refused_before_it_is_trained(half: Run) -> None:
    """Law: asking whether a run is done tells of another one in its folder, also of one that was stopped."""
    assert finished(half) is None
    with pytest.raises(MismatchError, match=r"holds another run: cache_id was 'abc' and is now 'def'"):
        finished(run_in(half.folder, cache_id="def"))


def test_a_checkpoint_of_code_that_has_changed_is_refused(half: Run) -> None:
    """The settings say nothing of what the user's own factory does; its weights do."""
    with pytest.raises(
        MismatchError, match=r"checkpoint.pt is of another network than is built now \(.*1\.weight.*--restart"
    ):
        go(half, given=lesson(partial(network, 9)))


def test_a_checkpoint_that_is_cut_short_is_refused(half: Run, whole: dict[str, object]) -> None:
    """At any length. Deleted, as the error says, the run starts over and ends the same."""
    path = half.folder / "checkpoint.pt"
    content = path.read_bytes()
    for length in (0, 1, 100, *range(0, len(content), len(content) // 10), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CorruptError, match=rf"^{path} is damaged \(.*Delete it and run the same command again"):
            go(half)
    path.unlink()
    go(half)
    assert outcome(half) == whole


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_does_no_harm(half: Run, whole: dict[str, object]) -> None:
    """Law: wherever the bit is; a run never goes on from numbers that were not its own."""
    path = half.folder / "checkpoint.pt"
    content, refused = path.read_bytes(), 0
    before = {each: each.read_bytes() for each in half.folder.iterdir()}
    for place in range(0, len(content), len(content) // 97):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            go(half)
        except CorruptError:
            refused += 1
        else:
            assert outcome(half) == whole
            for name in half.folder.iterdir():
                name.unlink()
            for each, data in before.items():
                each.write_bytes(data)
    assert refused > 40


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"1", b"{}", b'{"seconds": 1}', b'{"seconds": "x", "identity": {}}', b"\xff\xfe{"),
        *(
            metrics_with(**{key: None})
            for key in ("parameters", "seconds", "true_labels", "weights_sha256", "identity")
        ),
        *(metrics_with(seconds=seconds) for seconds in (math.nan, math.inf, "1")),
        metrics_with(test_accuracy="high"),
    ],
)
def test_metrics_that_no_run_wrote_are_refused(tmp_path: Path, whole: dict[str, object], content: bytes) -> None:
    """Deleted, as the error says, the run is done again and ends the same."""
    run = run_in(tmp_path / "run")
    go(run)
    path = run.folder / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(
        CorruptError, match=rf"^{path} is not what a run wrote \(.*Delete it and {run.weights}, and run"
    ):
        go(run)
    path.unlink()
    run.weights.unlink()
    go(run)
    assert outcome(run) == whole


def test_a_network_that_does_not_answer_with_a_logit_a_class_is_refused(tmp_path: Path) -> None:
    """The user's own factory is not told the shapes; what it makes is asked once, before the first step."""
    flat = nn.Sequential(nn.Flatten(), nn.PReLU())
    with pytest.raises(
        TrainingError, match=r"Found: an answer of shape \[1, 16\]\. Expected: logits of shape \[1, 3\]"
    ):
        go(run_in(tmp_path / "run"), given=lesson(lambda: flat))
    assert not run_in(tmp_path / "run").begun


@pytest.mark.parametrize("epochs", [1, math.inf])
def test_a_run_started_over_forgets_all_it_wrote(tmp_path: Path, epochs: float) -> None:
    """Half done or whole; then another run may take its place."""
    run = run_in(tmp_path / "run")
    go(run, epochs)
    run.clear()
    assert list(run.folder.iterdir()) == []
    assert go(run_in(run.folder, cache_id="def"))["identity"]["cache_id"] == "def"


def test_starting_over_leaves_alone_what_no_run_made(tmp_path: Path) -> None:
    """The user's own weights, and a folder that happens to have their name, as `weights.safetensors` and `weights`."""
    run = replace(run_in(tmp_path / "own"), weights=tmp_path / "own.safetensors")
    run.weights.write_bytes(b"the user's")
    run.clear()
    run.folder.mkdir()
    (run.folder / "config.toml").write_bytes(b"the user's")
    assert not run.begun
    run.clear()
    assert run.weights.read_bytes() == (run.folder / "config.toml").read_bytes() == b"the user's"
    go(run, 1)
    assert run.begun
    (run.folder / "other.safetensors").write_bytes(b"the user's")
    run.clear()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["other.safetensors"]


def test_a_line_has_the_rate_of_the_epochs_first_step(tmp_path: Path) -> None:
    """Law: 15 steps, the first 3 warm up: epoch n's line has the rate at step 5 (n - 1)."""
    settings = SETTINGS.model_copy(update={"warmup": 0.2})
    run = run_in(tmp_path / "run", settings)
    go(run)
    rates = [json.loads(line)["learning_rate"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.01 * rate_factor(settings, step, 15) for step in (0, 5, 10)])


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows(tmp_path: Path) -> None:
    """Law: rows of the short last batch count as much as others: a loss that is the batch's size has mean Σn²/Σn."""

    def batch_size(logits_NC: torch.Tensor, *_: object) -> torch.Tensor:
        return logits_NC.sum(1) * 0 + len(logits_NC)

    run = run_in(tmp_path / "run")
    go(run, given=lesson(loss=batch_size))
    losses = [json.loads(line)["loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx([(4 * 5**2 + 4**2) / 24] * EPOCHS)


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path: Path) -> None:
    """Law: a last loss that is finite proves nothing of the weights after it; a network of NaN is no result."""
    steps = itertools.count(1)

    def cliff(logits_NC: torch.Tensor, *_: object) -> torch.Tensor:
        slope = math.nan if next(steps) == EPOCHS * 5 else 0.0
        tilted = logits_NC.sum(1) * 0
        tilted.register_hook(lambda gradient: gradient + slope)
        return tilted

    run = run_in(tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"^Training diverged in its last step: 1\.weight is not finite\. Lower learning_rate, or"
    ):
        go(run, given=lesson(loss=cliff, tested=False))
    assert not run.weights.exists()
    assert not (run.folder / "metrics.json").exists()


def test_how_long_weights_took_is_known_of_those_trained_here(tmp_path: Path) -> None:
    """And of no others, whatever lies beside them."""
    run = replace(run_in(tmp_path / "teacher"), weights=tmp_path / "teacher.safetensors")
    assert fit_seconds(run.weights) is None
    run.folder.mkdir()
    (run.folder / "metrics.json").write_text('{"accuracy": 1}')
    assert fit_seconds(run.weights) is None
    (run.folder / "metrics.json").unlink()
    seconds = go(run)["seconds"]
    assert fit_seconds(run.weights) == seconds
    whole = json.loads((run.folder / "metrics.json").read_text())
    (run.folder / "metrics.json").write_text(json.dumps({**whole, "seconds": math.nan}))
    assert fit_seconds(run.weights) is None
    (run.folder / "metrics.json").write_text(json.dumps(whole))
    assert fit_seconds(run.weights) == seconds
    run.weights.write_bytes(b"others")
    assert fit_seconds(run.weights) is None
