"""Students that are told of their teacher's inside: every loss, stopped and resumed, and refused where it cannot be."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from stage_cases import assert_two_ranks_make, must, run, words

from pipeline.errors import ConfigError
from pipeline.features import Hint
from pipeline.tutor import refuse_untold

VECTOR = '{module = "2", name = "hidden", dtype = "float32"}'
MAPS = '{module = "0", name = "hidden", reduction = "none"}'
CNN = ("teacher.model=cnn", "teacher.options={width = 8, depth = 1}", "teacher.checkpoint=cnn.safetensors")
LOSSES = ["feature_mse", "feature_cosine", "feature_sphere", "rkd_distance", "rkd_angle", "similarity", "cka"]
LOSSES += ["infonce", "crd"]


def asked(*features: str) -> str:
    """The setting that has features cached."""
    return f"teacher.features=[{', '.join(features)}]"


def told(loss: str, module: str = "2", **options: object) -> str:
    """The setting that gives the student a hint."""
    more = "".join(f", {name} = {json.dumps(value)}" for name, value in options.items())
    return f'students.distilled.hints=[{{loss = "{loss}", feature = "hidden", module = "{module}"{more}}}]'


def weights(runs: str) -> bytes:
    """What has become of the student."""
    return Path(runs, "distilled/seed-0/student.safetensors").read_bytes()


@pytest.fixture
def cached(fitted: Path) -> Path:
    """The working directory: an experiment whose cache holds the teacher's hidden layer."""
    must("generate", asked(VECTOR))
    return fitted


@pytest.mark.usefixtures("cached")
def test_a_student_learns_by_every_hint_and_its_regressor_is_thrown_away() -> None:
    """Law: each hint changes what it becomes, none leaves a tensor behind, and one of no weight changes nothing."""
    must("train", asked(VECTOR), flags=("--student", "distilled", "--runs", "plain"))
    names = set(load_file("plain/distilled/seed-0/student.safetensors"))
    seen = {weights("plain")}
    for loss in LOSSES:
        must("train", asked(VECTOR), told(loss, negatives=20), flags=("--student", "distilled", "--runs", loss))
        assert set(load_file(f"{loss}/distilled/seed-0/student.safetensors")) == names
        seen.add(weights(loss))
    assert len(seen) == len(LOSSES) + 1
    must("train", asked(VECTOR), told("feature_mse", weight=0.0), flags=("--student", "distilled", "--runs", "zero"))
    assert weights("zero") == weights("plain")


@pytest.mark.usefixtures("cached")
def test_a_hinted_student_comes_nearer_to_its_teacher_inside() -> None:
    """Law: with a hint alone, what is left of its loss falls, epoch by epoch."""
    alone = (
        'students.distilled.loss=[{name = "hard", weight = 0.0}]',
        "students.distilled.epochs=8",
        "students.distilled.learning_rate=1e-2",
    )
    must("train", asked(VECTOR), told("feature_mse"), *alone, flags=("--student", "distilled", "--runs", "r"))
    lines = [json.loads(line) for line in Path("r/distilled/seed-0/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("loss", ["attention", "feature_mse", "feature_cosine", "rkd_distance", "infonce"])
def test_maps_are_compared_with_maps_of_another_size_and_width(loss: str) -> None:
    """Law: a convolution and pooling bring a student's to the teacher's; attention and relations need no regressor."""
    small = ("students.distilled.model=cnn", "students.distilled.options={width = 4, depth = 2}")
    must("fit-teacher", *CNN)
    must("generate", *CNN, asked(MAPS))
    must("train", *CNN, *small, asked(MAPS), flags=("--student", "distilled", "--runs", "plain"))
    must(
        "train",
        *CNN,
        *small,
        asked(MAPS),
        told(loss, "4", negatives=8),
        flags=("--student", "distilled", "--runs", "h"),
    )
    assert weights("h") != weights("plain")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("loss", ["feature_mse", "infonce"])
def test_a_hinted_run_that_is_stopped_goes_on_to_the_same_weights(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the regressor and its momentum are part of what is kept; others are drawn as they would have been."""
    settings = (asked(VECTOR), told(loss, negatives=20), "students.distilled.epochs=3")
    must("train", *settings, flags=("--student", "distilled", "--runs", "straight"))
    for steps in (2, 5):
        with monkeypatch.context() as patch:
            left = iter(range(steps))
            patch.setattr("stages.signals.Stop.__call__", lambda _, left=left: next(left, None) is None)
            assert run("train", *settings, flags=("--student", "distilled", "--runs", "stopped")).code != 0
    must("train", *settings, flags=("--student", "distilled", "--runs", "stopped"))
    assert weights("stopped") == weights("straight")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("hint", "code", "said"),
    [
        (told("feature_mse", "3x"), 2, ("students.distilled.hints[0].module = '3x'", "has no module of this name")),
        (told("attention"), 2, ("attention compares maps", 'reduction = "none"')),
        (told("feature_mse", regressor=False), 2, ("the student's feature is [4] and the teacher's [8]", "regressor")),
        (told("feature_msq"), 2, ("students.distilled.hints",)),
        (told("feature_mse").replace('"hidden"', '"hiden"'), 2, ("has no feature 'hiden'", "Did you mean 'hidden'")),
    ],
)
def test_a_hint_that_cannot_be_given_is_refused(hint: str, code: int, said: tuple[str, ...]) -> None:
    """Law: before the first step, with what there is and what to do."""
    run("train", asked(VECTOR), hint, flags=("--student", "distilled")).refuses(code, *said)


@pytest.mark.usefixtures("cached")
def test_a_module_of_a_student_that_never_runs_is_refused() -> None:
    """Law: named, before the first step."""
    own = ("students.distilled.model=own_insides:Idle", "students.distilled.options={}")
    run("train", asked(VECTOR), told("feature_mse", "idle"), *own, flags=("--student", "distilled")).refuses(
        2, "students.distilled.hints[0].module = 'idle': it never ran"
    )


@pytest.mark.usefixtures("fitted")
def test_a_cache_without_features_gives_no_hints() -> None:
    """Law: exit code 2 says what the cache has."""
    must("generate")
    run("train", told("feature_mse"), flags=("--student", "distilled")).refuses(
        2, "has no feature 'hidden'", "It has none"
    )


@pytest.mark.usefixtures("cached")
def test_ranks_share_the_tutor() -> None:
    """Law: two processes train the student and its regressor to what one does, but for the order of sums."""
    must("train", asked(VECTOR), told("feature_mse"), flags=("--student", "distilled", "--runs", "one"))
    command = words("train", (asked(VECTOR), told("feature_mse")), ("--student", "distilled", "--runs", "two"))
    assert_two_ranks_make(command, Path("one"), Path("two"))


@pytest.mark.usefixtures("cached")
def test_ranks_refuse_what_compares_the_samples_of_a_batch() -> None:
    """Law: none of them sees them all."""
    with pytest.raises(ConfigError, match='"cka" compares the samples of a batch, and 2 processes share each'):
        refuse_untold("students.a", [Hint(loss="cka", feature="f", module="m")], 2)


@pytest.mark.usefixtures("cached")
def test_a_batch_that_leaves_too_few_others_is_refused() -> None:
    """Law: before the first step, naming what is too large."""
    large = "students.distilled.batch_size=64"
    run("train", asked(VECTOR), told("infonce", negatives=20), large, flags=("--student", "distilled")).refuses(
        2, "students.distilled.hints[0]: a batch of 64 leaves 0 of 50 samples", "infonce is to tell it from 20 others"
    )
