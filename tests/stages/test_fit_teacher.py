"""The teacher on the command line: `fit-teacher`."""

from pathlib import Path

import pytest
from stage_cases import must, run, snapshot


def test_a_teacher_that_is_trained_is_not_trained_again(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same command again trains nothing and changes no file."""
    before = snapshot(fitted)
    monkeypatch.delattr("stages.fit_teacher.train")
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
    (fitted / "e.toml").write_text(text.replace('[teacher.fit]\nepochs = 1\nbatch_size = 16\ndevice = "cpu"\n', ""))
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
    run("fit-teacher", "teacher.checkpoint=new.safetensors").refuses(1, "no true labels to train on")


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_turn(fitted: Path) -> None:
    """Law: training that diverges ends with exit code 1, the step and the epoch; no weights are written."""
    run(
        "fit-teacher", "teacher.checkpoint=new.safetensors", "teacher.fit.learning_rate=1e30", "teacher.fit.epochs=3"
    ).refuses(1, "Training diverged: the loss of step", "epoch", "Lower learning_rate")
    assert not (fitted / "new.safetensors").exists()
