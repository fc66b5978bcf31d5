"""The teacher on the command line: `fit-teacher`."""

import shutil
from pathlib import Path

import pytest
from stage_cases import must, run, snapshot

FIT = '[teacher.fit]\nepochs = 1\nbatch_size = 16\ndevice = "cpu"\n'


def test_restart_throws_no_teacher_away_for_one_that_cannot_be_built(fitted: Path) -> None:
    """Law: a slip in the model's name costs no checkpoint."""
    before = (fitted / "teacher.safetensors").read_bytes()
    run("fit-teacher", "teacher.model=mlpp", flags=("--restart",)).refuses(2, "There is no model 'mlpp'")
    assert (fitted / "teacher.safetensors").read_bytes() == before


def test_a_teacher_that_is_trained_is_not_trained_again(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same command again trains nothing and changes no file."""
    before = snapshot(fitted)
    monkeypatch.delattr("stages.fit_teacher.teach")
    assert must("fit-teacher").out.startswith("The teacher is trained already: teacher.safetensors (163 parameters, ")
    assert snapshot(fitted) == before


def test_restart_trains_the_same_teacher_again(fitted: Path) -> None:
    """Law: --restart trains anew, and the seed decides the weights."""
    before = snapshot(fitted)["teacher.safetensors"]
    assert must("fit-teacher", flags=("--restart",)).out.startswith("The teacher is trained: ")
    after = snapshot(fitted)["teacher.safetensors"]
    assert after[0] == before[0]
    assert after[1] > before[1]


def test_other_weights_under_the_name_of_a_teacher_are_left_alone(fitted: Path) -> None:
    """Law: a checkpoint that no run made here is the teacher as it is: never trained over, not even with --restart."""
    (fitted / "mine.safetensors").write_bytes((fitted / "echo.safetensors").read_bytes())
    before = snapshot(fitted)
    for flags in ((), ("--restart",)):
        outcome = must("fit-teacher", "teacher.checkpoint=mine.safetensors", flags=flags)
        assert outcome.out == "The teacher is there: mine.safetensors.\n"
    assert snapshot(fitted) == before


@pytest.mark.parametrize("flags", [(), ("--restart",)])
def test_a_folder_of_its_name_makes_no_checkpoint_ours(flags: tuple[str, ...], fitted: Path) -> None:
    """Law: weights are a run's only if a run's own files say so, not because a folder of their stem is there."""
    (fitted / "mine.safetensors").write_bytes((fitted / "echo.safetensors").read_bytes())
    (fitted / "mine").mkdir()
    for name in ("notes.txt", "config.toml", "metrics.jsonl", "curve.png"):
        (fitted / "mine" / name).write_text("mine")
    before = snapshot(fitted)
    outcome = must("fit-teacher", "teacher.checkpoint=mine.safetensors", flags=flags)
    assert outcome.out == "The teacher is there: mine.safetensors.\n"
    assert snapshot(fitted) == before


def test_a_run_of_ours_that_was_stopped_is_gone_on_with(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with a run's checkpoint in the folder, the weights beside it are its own, and it ends as one undisturbed."""
    whole = (fitted / "teacher.safetensors").read_bytes()
    shutil.rmtree(fitted / "teacher")
    (fitted / "teacher.safetensors").unlink()

    class Killed(Exception):  # noqa: N818 - not an error
        """Between the weights and the metrics."""

    def killed(_: object) -> bytes:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runs.curve", killed)
        with pytest.raises(Killed):
            run("fit-teacher")
    assert (fitted / "teacher.safetensors").exists()
    assert must("fit-teacher").out.startswith("The teacher is trained: ")
    assert (fitted / "teacher.safetensors").read_bytes() == whole


def test_a_teacher_replaced_since_its_training_is_refused(fitted: Path) -> None:
    """Law: other weights where a run's were are exit code 5 with both ways out, and the first one works."""
    (fitted / "teacher.safetensors").write_bytes((fitted / "echo.safetensors").read_bytes())
    before = snapshot(fitted)
    run("fit-teacher").refuses(
        5, "teacher.safetensors is not what the run in teacher wrote.", "delete that folder", "use --restart"
    )
    assert snapshot(fitted) == before
    shutil.rmtree(fitted / "teacher")
    assert must("fit-teacher").out == "The teacher is there: teacher.safetensors.\n"
    assert snapshot(fitted)["teacher.safetensors"] == before["teacher.safetensors"]


def test_a_directory_is_no_checkpoint(fitted: Path) -> None:
    """Law: a directory of the checkpoint's name is never said to be the teacher, and stays as it is."""
    text = (fitted / "e.toml").read_text()
    (fitted / "taken.safetensors").mkdir()
    (fitted / "taken.safetensors/notes.txt").write_text("mine")
    outcome = run("fit-teacher", "teacher.checkpoint=taken.safetensors")
    assert (outcome.code, "The teacher is there" in outcome.out) == (7, False)
    assert "taken.safetensors" in outcome.err
    (fitted / "e.toml").write_text(text.replace(FIT, ""))
    run("fit-teacher", "teacher.checkpoint=taken.safetensors").refuses(
        1, "taken.safetensors: there is no such checkpoint", "Put the checkpoint there"
    )
    assert (fitted / "taken.safetensors/notes.txt").read_text() == "mine"


def test_restart_removes_no_file_of_anyone_else(fitted: Path) -> None:
    """Law: a folder that happens to have the checkpoint's name keeps what no run wrote."""
    (fitted / "notes").mkdir()
    (fitted / "notes/diary.txt").write_text("mine")
    must("fit-teacher", "teacher.checkpoint=notes.safetensors", flags=("--restart",))
    assert (fitted / "notes/diary.txt").read_text() == "mine"


def test_other_settings_than_the_teacher_was_trained_with_are_refused(fitted: Path) -> None:
    """Law: what decides a teacher, changed, is exit code 5 with what it was and is now; nothing changes."""
    before = snapshot(fitted)
    run("fit-teacher", "teacher.fit.epochs=2").refuses(
        5, "teacher holds another run: epochs was 1 and is now 2", "Nothing was changed.", "--restart"
    )
    assert snapshot(fitted) == before


def test_without_a_recipe_the_checkpoint_must_be_there(fitted: Path) -> None:
    """Law: no [teacher.fit] means the checkpoint is the user's: there, or exit code 1 that says what to do."""
    text = (fitted / "e.toml").read_text()
    (fitted / "e.toml").write_text(text.replace(FIT, ""))
    assert must("fit-teacher").out == "The teacher is there: teacher.safetensors.\n"
    run("fit-teacher", "teacher.checkpoint=none.safetensors").refuses(
        1, "none.safetensors: there is no such checkpoint", "no [teacher.fit]", "Put the checkpoint there"
    )


@pytest.mark.parametrize("checkpoint", ["teacher.pt", "checkpoints/teacher"])
def test_a_teacher_is_trained_into_safetensors_only(checkpoint: str, fitted: Path) -> None:
    """Law: a name that does not say safetensors is refused before training: exit code 2, nothing written."""
    before = snapshot(fitted)
    run("fit-teacher", f"teacher.checkpoint={checkpoint}").refuses(
        2, f"teacher.checkpoint: found '{checkpoint}'", "ends in .safetensors", "Rename it"
    )
    assert snapshot(fitted) == before


def test_a_teacher_cannot_be_trained_without_true_labels(fitted: Path) -> None:
    """Law: [teacher.fit] on an unlabelled dataset is exit code 1 that says what is missing."""
    text = (fitted / "e.toml").read_text().replace('labels = "labels"\n', "classes = 3\n", 1)
    (fitted / "e.toml").write_text(text)
    run("fit-teacher", "teacher.checkpoint=new.safetensors").refuses(1, "nothing to learn from", "no true labels")


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_turn(fitted: Path) -> None:
    """Law: training that diverges ends with exit code 1, the step and the epoch; no weights are written."""
    run(
        "fit-teacher", "teacher.checkpoint=new.safetensors", "teacher.fit.learning_rate=1e30", "teacher.fit.epochs=3"
    ).refuses(1, "Training diverged: the loss of step", "epoch", "Lower learning_rate")
    assert not (fitted / "new.safetensors").exists()
