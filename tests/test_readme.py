"""The README is true: its code runs as it stands."""

import re
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import load

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def named(title: str) -> str:
    """The code block that begins with `# title`."""
    (found,) = [text for _, text in BLOCKS if text.startswith(f"# {title}\n")]
    return found


def run(folder: Path, *words: str) -> str:
    """A command in a folder, which has to succeed; what it printed."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which someone has typed what the README says about bringing one's own."""
    folder = tmp_path_factory.mktemp("newcomer")
    for title in ("my_data.py", "my_teacher.py", "my_experiment.toml"):
        (folder / title).write_text(named(title))
    for verb in ("fit-teacher", "generate"):
        run(folder, "-m", "stages", verb, "my_experiment.toml")
    return folder


def test_the_readmes_own_dataset_teacher_and_experiment_train_a_student(newcomer: Path) -> None:
    """Law: bringing your own takes the three files of the README, and no more."""
    table = run(newcomer, "-m", "stages", "train", "my_experiment.toml")
    assert "small" in table
    assert "teacher" in table


def test_the_readmes_own_loop_hears_the_teacher(newcomer: Path) -> None:
    """Law: the snippet runs as it stands, over the cache of the experiment above it."""
    check = "\nprint(float(loss) > 0, len(batch.rows), batch.soft.logits_NK.shape[1])"
    (newcomer / "my_loop.py").write_text(named("my_loop.py") + check)
    assert run(newcomer, "my_loop.py") == "True 64 2\n"


def test_no_figure_is_in_the_readme_that_no_benchmark_wrote() -> None:
    """Law: the lines of its figures are those that the kept results make."""
    figures = (ROOT / "README.md").read_text().split("## Figures")[1].split("## Development")[0]
    names = sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json"))
    script = f"from benchmarks.results import kept, line; [print(line(row)) for name in {names} for row in kept(name)]"
    made = run(ROOT, "-c", script).splitlines()
    quoted = [text for text in figures.splitlines() if text.startswith("| ") and text.count("|") == 5][1:]
    assert quoted
    assert [text for text in quoted if text not in made] == []


def test_the_readmes_table_of_methods_is_that_of_its_benchmark() -> None:
    """Law: it is made of what the benchmark kept, and so is the pair that it names."""
    script = "from benchmarks.results import kept\nfrom benchmarks.methods_table import best, table\n"
    made = run(ROOT, "-c", f"{script}print(*table(kept('methods')), best(kept('methods')), sep='\\n')").splitlines()
    text = (ROOT / "README.md").read_text()
    assert "\n".join(made[:-1]) in text
    assert [name for pair in literal_eval(made[-1]).values() for name in pair if f"`{name}`" not in text] == []


def test_the_readmes_snippet_reads_a_dense_cache_with_zarr_alone(newcomer: Path) -> None:
    """Law: the cache is plain Zarr: without softlabels its logits become probabilities that sum to one."""
    (snippet,) = [text for kind, text in BLOCKS if kind == "python" and "zarr.open_group" in text]
    assert "pipeline" not in snippet
    dense = ["--set", "labels.encoding=dense", "--set", "cache.path=caches/digits"]
    sparse_keys = named("my_experiment.toml").replace("k = 2\n", "")
    (newcomer / "dense.toml").write_text(sparse_keys)
    run(newcomer, "-m", "stages", "generate", "dense.toml", *dense)
    check = "\nassert p.shape == (512, 2) and np.allclose(p.sum(axis=1), 1)"
    assert run(newcomer, "-c", snippet + check).startswith("[0 1 2]")


def test_the_readme_is_finished() -> None:
    """Law: no place is left to be filled in."""
    assert "@@" not in (ROOT / "README.md").read_text()


def test_the_readme_names_every_command_and_exit_code() -> None:
    """Law: what `--help` lists stands in the README."""
    text = (ROOT / "README.md").read_text()
    helped = run(ROOT, "-m", "stages", "--help")
    commands = re.findall(r"^  ([a-z-]+) {2,}\S", helped.split("Commands:")[1], re.MULTILINE)
    assert len(commands) >= 6
    assert all(f"softlabels {command} " in text for command in commands)
    assert all(code in text for code in np.char.add(["75", "130"], " "))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_experiment_we_ship_is_valid(path: Path) -> None:
    """Law: an experiment in `configs/` loads, keeps its cache under its own name, and compares with a baseline."""
    experiment = load(path)
    assert experiment.cache.path == Path("caches") / path.stem
    assert any(student.baseline for student in experiment.students.values())
