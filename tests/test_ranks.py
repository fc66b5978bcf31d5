"""Processes that train together, as torchrun starts them, are one process that has more hands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_cases import go
from safetensors.torch import load_file

from pipeline.ranks import ALONE, joined

TESTS = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def started(world: int, *words: str, cwd: Path = TESTS) -> subprocess.CompletedProcess[str]:
    """A script or a module under torchrun, to its end."""
    paths = f"{TESTS}:{TESTS.parent}:{TESTS / 'stages'}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(
        [*TORCHRUN, str(world), *words], check=False, capture_output=True, text=True, timeout=120, cwd=cwd, env=env
    )


def together(world: int, folder: Path, steps: str = "inf", asked: int = 0) -> None:
    """The course of `rank_cases` among so many ranks."""
    done = started(world, str(TESTS / "rank_cases.py"), str(folder), steps, str(asked))
    assert done.returncode == 0, done.stderr


def lines(folder: Path) -> list[dict[str, float]]:
    """A line an epoch, the times left out."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_learn_what_one_process_learns(tmp_path: Path, world: int) -> None:
    """Law: the same weights and the same loss, but for the order of sums, also where shares differ by a row."""
    go(tmp_path / "one", ALONE, float("inf"), 0)
    together(world, tmp_path / "many")
    one, many = (load_file(tmp_path / name / "plain" / "w.safetensors") for name in ("one", "many"))
    for name, weights in one.items():
        torch.testing.assert_close(many[name], weights, rtol=1e-4, atol=1e-5)
    for alone, shared in zip(lines(tmp_path / "one" / "plain"), lines(tmp_path / "many" / "plain"), strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)


@pytest.mark.promise("P13")
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_stopped_at_a_step_go_on_from_it(tmp_path: Path, world: int) -> None:
    """Law: one rank that is asked stops all at one step; twice in a row, and the weights are the same to the byte."""
    together(world, tmp_path / "straight")
    for steps, asked in (("2", 1), ("3", 0), ("inf", 0)):
        together(world, tmp_path / "stopped", steps, asked)
        assert (tmp_path / "stopped" / "dropout" / "metrics.json").exists() == (steps == "inf")
    for name in ("plain", "dropout"):
        found, expected = (tmp_path / which / name for which in ("stopped", "straight"))
        assert (found / "w.safetensors").read_bytes() == (expected / "w.safetensors").read_bytes()
        assert lines(found) == lines(expected)


def test_a_process_by_itself_joins_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun, or with one process of it, nothing is shared and nothing is waited for."""
    with joined() as ranks:
        assert ranks == ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert (ranks.leads, ranks.any(flag=True), ranks.any(flag=False)) == (True, True, False)
        assert ranks.total(1.0, 2.5) == [1.0, 2.5]


def test_a_rank_that_ends_tells_why_and_the_others_point_to_it(tmp_path: Path) -> None:
    """Law: no traceback and no false advice: whoever lost the others says so; torchrun ends with an error."""
    done = started(2, str(TESTS / "rank_cases.py"), str(tmp_path), "broken", "1")
    assert done.returncode == 1
    assert "the loss of step 2 of epoch 1 is nan" in done.stderr
    assert "Mend the model or its options; if memory ran out" not in done.stderr
