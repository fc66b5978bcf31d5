"""The examples run as they stand, and keep what they promise of other people's loops."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pipeline.config import dump, load
from stages.fit_teacher import fit_teacher
from stages.soft_labels import generate

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CHANCE = 0.1
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

Variant = Callable[..., Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a cache of the digits is, by a teacher of a few seconds."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="session")
def variant(folder: Path) -> Variant:
    """Writes the digits' experiment with some of its keys set otherwise; its cache is made."""
    made = (
        "teacher.options={width = 8, blocks = [1]}",
        "teacher.fit.epochs=3",
        f'teacher.checkpoint="{folder / "teacher.safetensors"}"',
        f'cache.path="{folder / "cache"}"',
    )

    def write(path: Path, *settings: str) -> Path:
        path.write_text(dump(load(ROOT / "configs/digits.toml", (*made, *settings))))
        return path

    experiment = load(write(folder / "made.toml"))
    fit_teacher(experiment, restart=False)
    generate(experiment)
    return write


def ran(*words: object) -> "subprocess.CompletedProcess[str]":
    """A Python program, on one thread. Whatever becomes of it, nothing that it started is left behind."""
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def accuracy(done: "subprocess.CompletedProcess[str]") -> float:
    """What the last line says; the program has succeeded."""
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"accuracy on 359 held-out samples: (\d\.\d{4})", done.stdout.splitlines()[-1])
    assert said, done.stdout
    return float(said[1])


@pytest.mark.parametrize(
    ("example", "library"), [("dataloader", "torch"), ("hf_trainer", "transformers"), ("lightning_module", "lightning")]
)
def test_an_example_learns(variant: Variant, tmp_path: Path, example: str, library: str) -> None:
    """Law: the file runs as it stands on an experiment with a cache, and what it trains is no guess."""
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    config = variant(tmp_path / "e.toml", "students.distilled.epochs=2")
    assert accuracy(ran(EXAMPLES / f"{example}.py", config)) > 4 * CHANCE


def shared(variant: Variant, folder: Path, ranks: int, lives: int) -> "tuple[float, dict[str, torch.Tensor]]":
    """Train a network in some processes, which die so often on the way; its accuracy and its weights."""
    folder.mkdir()
    config = variant(
        folder / "e.toml",
        "students.distilled.model=mortal_networks:mlp",
        f'students.distilled.options={{diary = "{folder / "diary"}", lives = {lives}, steps = 30}}',
        "students.distilled.optimizer=sgd",
        "students.distilled.learning_rate=0.2",
        "students.distilled.epochs=3",
    )
    checkpoint = folder / "checkpoint.pt"
    command = (*TORCHRUN, ranks, EXAMPLES / "ddp.py", config, checkpoint)
    for _ in range(lives):
        assert ran(*command).returncode != 0
        assert torch.load(checkpoint, weights_only=True)["step"] == 20
    found = accuracy(ran(*command))
    assert (folder / "diary").exists() == (lives > 0)
    state = torch.load(checkpoint, weights_only=True)
    assert (state["epoch"], state["step"]) == (3, 0)
    return found, state["learner"]["network"]


@pytest.fixture(scope="session")
def alone(variant: Variant, folder: Path) -> "tuple[float, dict[str, torch.Tensor]]":
    """What one process comes to."""
    return shared(variant, folder / "alone", 1, 0)


@pytest.mark.parametrize(
    ("ranks", "lives"),
    [
        pytest.param(2, 0, id="2 ranks"),
        pytest.param(4, 0, id="4 ranks", marks=pytest.mark.slow),
        pytest.param(2, 2, id="2 ranks that die twice", marks=pytest.mark.slow),
    ],
)
def test_many_processes_learn_what_one_does(
    variant: Variant, alone: "tuple[float, dict[str, torch.Tensor]]", tmp_path: Path, ranks: int, lives: int
) -> None:
    """Law: a step of all ranks is the step of one process, also where shares differ and after a rank was killed.

    In batches of 64 the 1438 samples end with two of 47, which ranks cannot share alike. A rank dies at the 30th step
    of its life: first in the second epoch, then in the third, some steps after the last checkpoint.
    """
    found, weights = shared(variant, tmp_path / "shared", ranks, lives)
    assert found == pytest.approx(alone[0], abs=2 / 359)
    assert found > 4 * CHANCE
    for name, tensor in alone[1].items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
