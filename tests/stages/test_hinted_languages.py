"""Language models that are told what their teacher makes of each token, from files to a student."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from stage_cases import assert_two_ranks_make, must, run, softlabels, words

EXPERIMENT = """
[dataset]
kind = "tokens"
path = "texts"
length = 12

[teacher]
model = "gpt"
options = { width = 16, depth = 1, heads = 2 }
checkpoint = "teacher.safetensors"

[[teacher.features]]
module = "decoder.norm"
name = "each"
reduction = "none"

[[teacher.features]]
module = "decoder.blocks.0"
name = "signs"
reduction = "projection"
dimensions = 6
dtype = "int8"

[[teacher.features]]
module = "decoder.norm"
name = "whole"

[teacher.fit]
epochs = 1
batch_size = 8

[cache]
path = "cache"
shard_rows = 16

[students.distilled]
model = "gpt"
options = { width = 8, depth = 1, heads = 2, dropout = 0.1 }
loss = "kd"
epochs = 2
batch_size = 8
learning_rate = 1e-2
"""


def hinted(loss: str, feature: str, **options: object) -> str:
    """A hint to the student."""
    more = "".join(f", {name} = {json.dumps(value)}" for name, value in options.items())
    return f'{{loss = "{loss}", feature = "{feature}", module = "decoder.norm"{more}}}'


def told(loss: str, feature: str, **options: object) -> str:
    """The setting that gives the student that hint alone."""
    return f"students.distilled.hints=[{hinted(loss, feature, **options)}]"


def weights(runs: str) -> bytes:
    """What has become of the student."""
    return Path(runs, "distilled/seed-0/student.safetensors").read_bytes()


@pytest.fixture(scope="module")
def cached_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose cache holds what the teacher makes of tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = [f"this is text {number} of twenty, {'and more ' * (number % 3)}" for number in range(20)]
        Path("lines.txt").write_text("\n".join(lines))
        Path("e.toml").write_text(EXPERIMENT)
        done = softlabels("tokenize", "lines.txt", "--per-line", "--tokenizer", "bytes", "--out", "texts")
        assert done.code == 0, done.err
        must("fit-teacher")
        must("generate")
    return folder


@pytest.fixture
def cached(cached_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of it."""
    shutil.copytree(cached_once, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.usefixtures("cached")
def test_a_language_model_learns_by_hints_of_each_token_and_of_whole_sequences() -> None:
    """Law: each changes what it becomes, none leaves a tensor behind, and one of no weight changes nothing."""
    must("train", flags=("--runs", "plain"))
    names, seen = set(load_file("plain/distilled/seed-0/student.safetensors")), {weights("plain")}
    cases = [("feature_mse", "each"), ("feature_cosine", "signs"), ("feature_sphere", "whole"), ("cka", "whole")]
    for loss, feature in [*cases, ("infonce", "whole")]:
        must("train", told(loss, feature, negatives=9), flags=("--runs", loss))
        assert set(load_file(f"{loss}/distilled/seed-0/student.safetensors")) == names
        seen.add(weights(loss))
    assert len(seen) == len(cases) + 2
    must("train", told("feature_mse", "each", weight=0.0), flags=("--runs", "zero"))
    assert weights("zero") == weights("plain")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(("loss", "feature"), [("feature_mse", "each"), ("feature_cosine", "signs")])
def test_it_comes_nearer_to_its_teacher_at_each_token(loss: str, feature: str) -> None:
    """Law: with a hint alone, what is left of its loss falls, epoch by epoch."""
    alone = ('students.distilled.loss=[{name = "hard", weight = 0.0}]', "students.distilled.epochs=8")
    must("train", told(loss, feature), *alone, flags=("--runs", "r"))
    lines = [json.loads(line) for line in Path("r/distilled/seed-0/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(("loss", "feature"), [("feature_mse", "each"), ("infonce", "whole")])
def test_such_a_run_that_is_stopped_goes_on_to_the_same_weights(
    loss: str, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: to the bit, stopped within an epoch or in the next."""
    hint = told(loss, feature, negatives=9)
    must("train", hint, flags=("--runs", "straight"))
    for steps in (2, 8):
        with monkeypatch.context() as patch:
            left = iter(range(steps))
            patch.setattr("stages.signals.Stop.__call__", lambda _, left=left: next(left, None) is None)
            assert run("train", hint, flags=("--runs", "stopped")).code != 0
    must("train", hint, flags=("--runs", "stopped"))
    assert weights("stopped") == weights("straight")


@pytest.mark.usefixtures("cached")
def test_ranks_share_the_targets_of_hints() -> None:
    """Law: two processes make what one does, though their sequences have unlike numbers of targets."""
    both = [hinted("feature_mse", "each"), hinted("feature_cosine", "whole")]
    settings = (f"students.distilled.hints=[{', '.join(both)}]", "students.distilled.options.dropout=0.0")
    must("train", *settings, flags=("--runs", "one"))
    assert_two_ranks_make(words("train", settings, ("--runs", "two")), Path("one"), Path("two"))


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (told("infonce", "each", negatives=9), ("infonce compares samples", "[12, 16]", 'reduction = "mean"')),
        (told("attention", "each"), ("attention compares maps",)),
        (told("feature_mse", "each", regressor=False), ("[12, 8] and the teacher's [12, 16]", "regressor = false")),
    ],
)
def test_a_hint_that_no_token_can_be_told_is_refused(hint: str, said: tuple[str, ...]) -> None:
    """Law: before the first step, with what there is and what to do."""
    run("train", hint).refuses(2, "students.distilled.hints[0]", *said)
