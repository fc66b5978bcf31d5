"""A student made of its teacher on the command line: `seed-student`, and `train` after it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_cases import must, run, snapshot

from pipeline.seeding.files import NOTE
from pipeline.weights import notes_of

SEEDED = 'students.distilled.seeded={checkpoint = "first/seed.safetensors"}'
MADE = Path("first/seed.safetensors")
LIKE_ITS_TEACHER = (SEEDED, "students.distilled.options={hidden = [8]}")


@pytest.mark.usefixtures("fitted")
def test_a_mapping_is_printed_and_kept_in_the_file() -> None:
    """Law: a line for each tensor; the same in the JSON and in the file's metadata, with the units that stay."""
    lines = must("seed-student", SEEDED).out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["student's", "tensor", "of", "the", "teacher's", "layers", "kept", "by", "norm"],
        ["1.weight", "1.weight", "same", "4", "of", "8", "(1)"],
    ]
    assert lines[-1] == "The first weights of distilled are made of its teacher's: first/seed.safetensors (83 numbers)."
    facts = must("seed-student", SEEDED, flags=("--json", "--student", "distilled")).facts["students"]["distilled"]
    kept = json.loads(notes_of(MADE)[NOTE])
    assert {name: facts[name] for name in kept if name != "teacher_sha256"} == {
        name: value for name, value in kept.items() if name != "teacher_sha256"
    }
    teacher, student = load_file("teacher.safetensors"), load_file(MADE)
    units = facts["kept"]["1"]["units"]
    assert student["1.weight"].equal(teacher["1.weight"][units])
    assert student["4.weight"].equal(teacher["4.weight"][:, units])


def test_the_same_command_again_finds_the_file_there(fitted: Path) -> None:
    """Law: it says so, and no file changes; with --restart neither, since what it would write is there."""
    must("seed-student", SEEDED)
    before = snapshot(fitted)
    for flags in ((), ("--restart",)):
        assert "are there already, made of its teacher's" in must("seed-student", SEEDED, flags=flags).out
    assert snapshot(fitted) == before


@pytest.mark.usefixtures("filled")
def test_a_student_begins_from_the_file() -> None:
    """Law: of its teacher's shape and taught next to nothing, it ends with its teacher's weights."""
    must("seed-student", *LIKE_ITS_TEACHER)
    still = ("students.distilled.learning_rate=1e-30", "students.distilled.weight_decay=0")
    must("train", *LIKE_ITS_TEACHER, *still, flags=("--student", "distilled"))
    student = load_file("runs/e/distilled/seed-0/student.safetensors")
    teacher = load_file("teacher.safetensors")
    assert {name: tensor.equal(teacher[name]) for name, tensor in student.items()} == dict.fromkeys(teacher, True)
    alone = load_file("runs/e/alone/seed-0/student.safetensors")
    assert alone["1.weight"].shape[0] == 4


@pytest.mark.usefixtures("filled")
def test_a_student_without_its_first_weights_is_told_how_to_make_them() -> None:
    """Law: nothing is drawn in their place."""
    outcome = run("train", SEEDED, flags=("--student", "distilled"))
    outcome.refuses(1, str(MADE), "`softlabels seed-student CONFIG --student distilled`")


@pytest.mark.usefixtures("filled")
def test_other_first_weights_are_another_run() -> None:
    """Law: their digest is part of what a run is, so a run goes on from no others; where the file lies is not."""
    must("seed-student", SEEDED)
    must("train", SEEDED)
    moved = MADE.rename("elsewhere.safetensors")
    must("train", SEEDED.replace(str(MADE), str(moved)))
    notes, state = notes_of(moved), load_file(moved)
    save_file({name: tensor + 1 for name, tensor in state.items()}, MADE, notes)
    run("train", SEEDED).refuses(5, "seeded_sha256 was")
    run("train").refuses(5, "seeded_sha256 was", "and is now None")


@pytest.mark.usefixtures("filled")
def test_first_weights_made_another_way_are_not_begun_from() -> None:
    """Law: what the experiment says of them is what the file says."""
    must("seed-student", SEEDED)
    other = SEEDED.replace("}", ', layers = "mean"}')
    run("train", other).refuses(5, "layers was 'even' and is now 'mean'", "--restart")
    run("seed-student", other).refuses(5, "made of another teacher, or another way", "--restart")
    must("seed-student", other, flags=("--restart",))
    must("train", other)


def test_no_file_but_a_seed_is_written_over(fitted: Path) -> None:
    """Law: with --restart neither: weights that no seeding wrote may be someone's only ones."""
    MADE.parent.mkdir()
    save_file({"a": torch.zeros(1)}, MADE)
    before = snapshot(fitted)
    for flags in ((), ("--restart",)):
        run("seed-student", SEEDED, flags=flags).refuses(5, "holds what no seeding wrote", "Nothing was changed")
    assert snapshot(fitted) == before


@pytest.mark.usefixtures("fitted")
def test_all_students_are_made_before_one_is_written() -> None:
    """Law: where one cannot be, nothing is written."""
    too_wide = (
        'students.alone.seeded={checkpoint = "first/alone.safetensors"}',
        "students.alone.options={hidden = [9]}",
    )
    run("seed-student", SEEDED, *too_wide).refuses(2, "1.weight is [8, 16] in the teacher and [9, 16] in the student")
    assert not MADE.parent.exists()
    assert set(must("seed-student", SEEDED, too_wide[0], flags=("--json",)).facts["students"]) == {"alone", "distilled"}


@pytest.mark.parametrize(
    ("settings", "student", "code", "said"),
    [
        ((SEEDED,), "nobody", 2, "--student nobody: there is no such student."),
        ((SEEDED,), "alone", 2, "[students.alone.seeded] is not there to say where first weights"),
        ((), None, 2, "[students.NAME.seeded] is not there"),
        ((SEEDED, "teacher.checkpoint=none.safetensors"), None, 1, "none.safetensors: there is no such checkpoint"),
        ((SEEDED.replace("first/seed", "teacher"),), None, 2, "seeded.checkpoint is the teacher's own"),
        ((SEEDED.replace("safetensors", "pt"),), None, 2, "a name that ends in .safetensors was expected"),
        ((SEEDED.replace("}", ", layer = 1}"),), None, 2, "did you mean layers?"),
        ((SEEDED, "students.distilled.model=cnn"), None, 2, "The model 'cnn' cannot be built"),
    ],
)
def test_what_cannot_be_is_refused(
    fitted: Path, settings: tuple[str, ...], student: str | None, code: int, said: str
) -> None:
    """Law: named, with its exit code, and nothing is written."""
    before = snapshot(fitted)
    run("seed-student", *settings, flags=("--student", student) if student else ()).refuses(code, said)
    assert snapshot(fitted) == before


def test_a_mixture_makes_no_student(fitted: Path) -> None:
    """Law: a student is made of one network."""
    member = '{model = "mlp", options = {hidden = [8]}, checkpoint = "NAME.safetensors"}'
    text = (fitted / "e.toml").read_text()
    a, b = text.index("[teacher]"), text.index("[cache]")
    members = ", ".join(member.replace("NAME", name) for name in ("one", "two"))
    (fitted / "e.toml").write_text(f"{text[:a]}[teacher]\nmembers = [{members}]\n\n{text[b:]}")
    run("seed-student", SEEDED).refuses(2, "The teacher is a mixture of 2 networks")
