"""Runs on one page: `report`."""

import json
import re
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
from stage_cases import must, run, shown, softlabels

from pipeline.counts import BINS, Counts

Pairs = tuple[tuple[int, int, int], ...]


def write_counts(folder: Path, classes: int, names: tuple[str, ...] | None, pairs: Pairs) -> None:
    """As if a run had been tested on these classes."""
    bins = ((1, 0.05, 1), *((0, 0.0, 0),) * (BINS - 1))
    counts = Counts(classes=classes, class_names=names, bins=bins, confusion=pairs)
    (folder / "test.json").write_text(counts.model_dump_json())


def test_a_page_shows_all_figures_and_both_plots_of_each_student(trained: Path) -> None:
    """Law: a row for each student and the teacher, and pictures inside the page; no network or dataset is needed."""
    for gone in (*trained.glob("*images"), *trained.glob("*labels"), *trained.rglob("*.safetensors")):
        gone.unlink()
    shutil.rmtree(trained / "cache")
    facts = softlabels("report", "runs/e", "--json").facts
    assert facts["page"] == "runs/e/report.html"
    assert set(facts["students"]) == {"alone", "distilled"}
    page = trained / "runs/e/report.html"
    words = shown(page)
    for title in (
        "test accuracy",
        "macro F1",
        "AUROC",
        "negative log-likelihood",
        "ECE",
        "MACs",
        "size",
        "latency, one",
    ):
        assert f" | {title} | " in words
    assert "top-5" not in words  # of three classes
    assert " | teacher | " in words
    for name in ("alone", "distilled"):
        assert f"reliability of {name}: calibration error" in words
        assert f"confusion of {name}, rows by class" in words
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', page.read_text())
    assert len(pictures) == 4
    assert all(b64decode(each).startswith(b"\x89PNG") for each in pictures)
    assert not re.search(r"<script|https?:|src=\"(?!data:)|href", page.read_text())


def test_figures_of_student_and_teacher_are_kept_where_no_teacher_is_loaded(trained: Path) -> None:
    """Law: a run knows its own, and those in the seal of the cache it learned from."""
    metrics = json.loads((trained / "runs/e/distilled/seed-0/metrics.json").read_text())
    seal = json.loads((trained / "cache/seal.json").read_text())
    assert metrics["teacher"] == seal["about"]
    assert (metrics["multiply_adds"], metrics["teacher"]["teacher_multiply_adds"]) == (16 * 4 + 4 * 3, 16 * 8 + 8 * 3)
    assert metrics["weights_bytes"] == (trained / "runs/e/distilled/seed-0/student.safetensors").stat().st_size
    assert metrics["teacher"]["teacher_weights_bytes"] == (trained / "teacher.safetensors").stat().st_size
    fitted = json.loads((trained / "teacher/metrics.json").read_text())
    for name in ("test_macro_f1", "test_auroc", "test_cross_entropy", "multiply_adds"):
        assert metrics["teacher"][f"teacher_{name}"] == pytest.approx(fitted[name])
    assert "MACs" in must("train").out.splitlines()[0]
    assert max(map(len, must("train").out.splitlines()[:4])) <= 100


def test_seeds_of_a_student_are_counted_together(filled: Path) -> None:
    """Law: one section for a student, of the answers of all its runs."""
    must("train", "students.alone.repeats=2", flags=("--student", "alone"))
    assert softlabels("report", "runs/e", "--out", "there/p.html").out == "there/p.html: 2 runs of 1 student.\n"
    words = shown(filled / "there/p.html")
    assert "24 answers of 2 runs" in words
    assert words.count("confusion of alone") == 1


@pytest.mark.parametrize("place", ["runs/e/distilled", "runs/e/distilled/seed-0"])
def test_a_student_or_a_run_has_a_page_of_its_own(place: str, trained: Path) -> None:
    """Law: any folder of those; it is named as in the page of all."""
    assert list(softlabels("report", place, "--json").facts["students"]) == ["distilled"]
    assert "confusion of distilled" in shown(trained / place / "report.html")


def test_of_many_classes_the_most_confused_are_listed(trained: Path) -> None:
    """Law: above thirty, a table by how often; above a thousand, pairs are not counted."""
    pairs = ((0, 0, 50), (0, 30, 7), (4, 3, 9))
    write_counts(trained / "runs/e/alone/seed-0", 31, None, pairs)
    bins = ((1, 0.05, 1), *((0, 0.0, 0),) * (BINS - 1))
    many = Counts(classes=1001, class_names=None, bins=bins, confusion=None)
    (trained / "runs/e/distilled/seed-0/test.json").write_text(many.model_dump_json())
    softlabels("report", "runs/e")
    words = shown(trained / "runs/e/report.html")
    assert "most often taken for | rows | 4 | 3 | 9 | 0 | 30 | 7" in words
    assert "Of 1,001 classes, pairs were not counted." in words
    assert "confusion of" not in words


@pytest.mark.promise("P12")
@pytest.mark.parametrize("classes", [3, 31])
def test_names_in_runs_are_shown_and_not_obeyed_by_a_page(classes: int, trained: Path) -> None:
    """Law: tags, quotes and signs that turn text around stay text, whoever named a student, a class or a cache."""
    evil = '"><script>alert(1)</script>$\u202e\u4e2d'
    folder = trained / "runs/e" / evil.replace("/", "") / "seed-0"
    shutil.copytree(trained / "runs/e/distilled/seed-0", folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = metrics["teacher"] | {"teacher_parameters": evil}
    (folder / "metrics.json").write_text(
        json.dumps(metrics | {"cache_id": evil, "teacher": figures, "test_auroc": evil})
    )
    write_counts(folder, classes, (evil,) * classes, ((0, 1, 3),))
    softlabels("report", "runs/e")
    page = (trained / "runs/e/report.html").read_text()
    assert not re.search(r"<script|\u202e", page)
    assert "&lt;script&gt;" in page


def test_where_no_run_is_done_there_is_nothing_to_show(filled: Path) -> None:
    """Law: exit code 4, and what to name: runs or a cache."""
    softlabels("report", "runs").refuses(
        4, "runs holds no run that is done", "no label cache: no job.json", "Name the folder that `softlabels train`"
    )
    assert not (filled / "runs").exists()


def test_runs_that_no_run_wrote_are_refused(trained: Path) -> None:
    """Law: exit code 3, by the name of the file; an older run without counts is shown without plots."""
    kept = trained / "runs/e/alone/seed-0/test.json"
    kept.unlink()
    softlabels("report", "runs/e")
    assert "reliability of alone" not in shown(trained / "runs/e/report.html")
    kept.write_text("{}")
    softlabels("report", "runs/e").refuses(3, "runs/e/alone/seed-0/test.json is not what a run wrote")
    (trained / "runs/e/alone/seed-0/metrics.json").write_text("{}")
    softlabels("report", "runs/e").refuses(3, "runs/e/alone/seed-0/metrics.json is not what a run wrote")


def test_a_run_started_over_forgets_what_was_drawn_of_it(trained: Path) -> None:
    """Law: without a test set there is nothing to draw, and nothing of before is left."""
    text = (trained / "e.toml").read_text()
    (trained / "e.toml").write_text(re.sub(r"\[test\].*?(?=\[views\])", "", text, flags=re.DOTALL))
    must("train", flags=("--restart",))
    assert list((trained / "runs").rglob("test.json")) == []
    assert run("train").code == 0
