"""What a byte buys, on the command line: `fidelity`."""

import json
from pathlib import Path

import pytest
from stage_cases import ECHO, must, run, snapshot

from pipeline.fidelity import Fidelity
from stages.fidelity import kept, sizes

TEN = (*ECHO, "views.std=20", "teacher.options={outputs = 10}", "dataset.classes=10")
"""A teacher of ten classes: enough for every method."""
FEW = ("--rows", "20", "--draws", "3")
METHODS = 3 + 8 * 2  # dense in three dtypes; of each K topk twice, three that draw, three rules


def strict(path: Path) -> dict[str, list[dict[str, object]]]:
    """A JSON file as the standard has it, without NaN and infinities."""
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(document, dict)
    return document


def test_fidelity_prints_a_table_and_keeps_it_with_a_plot(fitted: Path) -> None:
    """Law: a line for each method and temperature, the same in the JSON file; no cache is made."""
    outcome = must("fidelity", *TEN, flags=(*FEW, "--temperature", "2", "--temperature", "1", "--temperature", "2"))
    header, *lines = outcome.out.partition("\n\n")[0].splitlines()
    assert header.split()[:5] == ["T", "bytes", "ids", "KL", "TV"]
    facts = strict(fitted / "runs/e/fidelity/fidelity.json")
    rows = facts["methods"]
    assert len(lines) == len(rows) == 2 * METHODS
    assert [row["temperature"] for row in rows] == [1.0] * METHODS + [2.0] * METHODS
    assert all(line.startswith(str(row["method"])) for line, row in zip(lines, rows, strict=True))
    assert {key: facts[key] for key in ("rows", "draws")} == {"rows": 20, "draws": 3}
    assert "20 rows of the teacher" in outcome.out
    assert (fitted / "runs/e/fidelity/fidelity.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert not (fitted / "cache").exists()


def test_fidelity_as_json_says_what_its_file_says(fitted: Path) -> None:
    """Law: one object on stdout; by one seed of the same rows, whatever `labels` asks for; by another of others."""
    flags = ("--rows", "10", "--draws", "2", "--temperature", "3")
    facts = must("fidelity", *TEN, flags=(*flags, "--into", "deep/here", "--json")).facts
    assert facts.pop("folder") == "deep/here"
    assert facts == strict(fitted / "deep/here/fidelity.json")
    topk = ("labels.encoding=topk", "labels.k=2")
    assert must("fidelity", *TEN, *topk, flags=(*flags, "--json")).facts["methods"] == facts["methods"]
    assert must("fidelity", *TEN, flags=(*flags, "--seed", "1", "--json")).facts["methods"] != facts["methods"]


def test_a_dataset_without_labels_or_of_few_classes_has_a_report(fitted: Path) -> None:
    """Law: without true labels the teacher is as well calibrated as it thinks; three classes leave no K to compare."""
    text = (fitted / "e.toml").read_text().replace('labels = "labels"\n', "classes = 3\n", 1)
    (fitted / "e.toml").write_text(text)
    facts = must("fidelity", flags=(*FEW, "--json")).facts
    assert sizes(3) == ()
    assert [(row["method"], row["temperature"]) for row in facts["methods"]] == [
        (f"dense {dtype}", temperature) for temperature in (1.0, 4.0) for dtype in ("float32", "float16", "int8")
    ]
    assert all(row["ece"] < 1e-3 for row in facts["methods"])


def test_a_figure_that_is_none_is_null(tmp_path: Path) -> None:
    """Law: in the file; in the table it is a dash."""
    nothing = float("nan")
    each = Fidelity("none", 1.0, 4.0, 2.0, 0.5, 0.5, nothing, 0.5, nothing, nothing, nothing, 0.5, 0.5, 0.0)
    report = kept([each], 1, 2, tmp_path)
    (row,) = strict(tmp_path / "fidelity.json")["methods"]
    assert [key for key, value in row.items() if value is None] == ["tail", "angle", "norm", "batch_angle"]
    assert " ".join(report.text.splitlines()[1].split()) == "none 1 4 2.0 0.5000 0.5000 - 0.5000 - - - 0.5000 0.5000"
    assert (tmp_path / "fidelity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--rows", "0"), "'--rows': 0 is not in the range"),
        (("--draws", "1"), "'--draws': 1 is not in the range"),
        (("--temperature", "0"), "'--temperature': 0.0 is not in the range x>0"),
        (("--temperature", "1", "--temperature", "nan"), "--temperature 1.0 nan: expected finite numbers above 0."),
        (("--temperature", "inf"), "--temperature inf: expected finite numbers above 0."),
        (("--temperature", "1e-40"), "is no grid: expected at least one temperature, all finite and positive"),
        (("--seed", "-1"), "'--seed': -1 is not in the range"),
    ],
)
def test_options_that_cannot_be_are_refused(flags: tuple[str, ...], said: str, fitted: Path) -> None:
    """Law: exit code 2, before the teacher is asked; nothing is written."""
    before = snapshot(fitted)
    outcome = run("fidelity", *TEN, "teacher.checkpoint=none.safetensors", flags=flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert snapshot(fitted) == before


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("labels.k=2", 2, "Leave labels.k out"),
        ("teacher.checkpoint=none.safetensors", 1, "none.safetensors: there is no such checkpoint"),
        ("dataset.classes=9", 1, "gives logits of shape [50, 10], but the dataset has 9 classes"),
        ("teacher.options={outputs = 10, sick = [0, 1]}", 1, "logits are not finite (NaN or infinite) for 2 of"),
    ],
)
def test_a_teacher_that_cannot_be_compared_is_refused(setting: str, code: int, said: str, fitted: Path) -> None:
    """Law: as by `generate`, and nothing is written."""
    before = snapshot(fitted)
    run("fidelity", *TEN, setting).refuses(code, said)
    assert snapshot(fitted) == before


def test_a_place_that_is_no_folder_is_refused(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: exit code 7, before anything is compared."""
    before = snapshot(fitted)
    monkeypatch.setattr("stages.fidelity.compare", lambda *_: pytest.fail("it was compared"))
    run("fidelity", *TEN, flags=("--into", "e.toml")).refuses(7, "e.toml is a file, and a directory is needed")
    assert snapshot(fitted) == before
