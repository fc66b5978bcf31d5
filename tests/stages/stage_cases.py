"""A tiny experiment in a folder of its own, and the command line over it, in this process or in another."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from own_networks import Echo, Patient
from safetensors.torch import load_file

from pipeline.seeds import generator
from pipeline.weights import save_state
from stages.__main__ import main

ROWS, CLASSES, SHARD_ROWS = 50, 3, 16

EXPERIMENT = """
[dataset]
kind = "idx"
inputs = "images"
labels = "labels"

[test]
kind = "idx"
inputs = "test-images"
labels = "test-labels"

[views]
mean = 128.0
std = 64.0

[teacher]
model = "mlp"
options = { hidden = [8] }
checkpoint = "teacher.safetensors"
batch_size = 8
device = "cpu"

[teacher.fit]
epochs = 1
batch_size = 16
device = "cpu"

[cache]
path = "cache"
shard_rows = 16

[students.alone]
model = "mlp"
options = { hidden = [4] }
loss = "hard"
epochs = 1
batch_size = 16
device = "cpu"

[students.distilled]
model = "mlp"
options = { hidden = [4] }
loss = "kd"
epochs = 2
batch_size = 16
device = "cpu"
baseline = "alone"
"""

TOPK = ("labels.encoding=topk", "labels.k=2")
KINDS = {
    "dense int8": ("labels.dtype=int8",),
    "topk int8": (*TOPK, "labels.dtype=int8"),
    "sampled": ("labels.encoding=sampled", "labels.k=4", "labels.temperatures=[4]"),
    "multinomial": ("labels.encoding=multinomial", "labels.k=9", "labels.temperatures=[4]"),
    "head+sampled": ("labels.encoding=head+sampled", "labels.k=1", "labels.tail=1", "labels.temperatures=[1, 4]"),
}
"""Labels that serve "kd" at temperature 4, besides dense and topk in floats."""
ECHO = (
    "teacher.model=own_networks:Echo",
    "teacher.options={}",
    "teacher.checkpoint=echo.safetensors",
    "views.mean=0",
    "views.std=1",
)
"""A teacher whose logits are pixels."""
PATIENT = (
    'teacher.options={seconds = 0.01, after = "cache/receipts/000000002.json"}',
    "teacher.model=own_networks:Patient",
    "teacher.checkpoint=patient.safetensors",
    "teacher.batch_size=2",
    "cache.shard_rows=4",
    "cache.chunk_rows=2",
)
"""A teacher that takes its time, on shards of four rows: 13 of them, the last of two rows."""

Snapshot = dict[str, tuple[bytes, int]]


def write_idx(path: Path, values: np.ndarray) -> None:
    """Bytes as the IDX format says, independently of the reader."""
    path.write_bytes(bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes())


def images(rows: int, seed: int = 0) -> np.ndarray:
    """`[rows, 4, 4]`: noise, but for the first pixel, which is the sample's id."""
    pixels = generator("images", seed).integers(0, 256, (rows, 4, 4)).astype(np.uint8)
    pixels[:, 0, 0] = np.arange(rows)
    return pixels


def write_experiment(folder: Path) -> None:
    """The experiment, its datasets and the weights of the own networks; its teacher is still to be trained."""
    (folder / "e.toml").write_text(EXPERIMENT)
    for prefix, rows, seed in (("", ROWS, 0), ("test-", 12, 1)):
        write_idx(folder / f"{prefix}images", images(rows, seed))
        write_idx(folder / f"{prefix}labels", (np.arange(rows) % CLASSES).astype(np.uint8))
    torch.manual_seed(0)
    save_state(folder / "echo.safetensors", Echo().state_dict())
    save_state(folder / "patient.safetensors", Patient().state_dict())


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1
        facts = json.loads(self.out)
        assert isinstance(facts, dict)
        return facts

    def refuses(self, code: int, *texts: str) -> None:
        """Law: a refusal is an exit code and a paragraph on stderr that says each of the texts; stdout stays empty."""
        assert (self.code, self.out) == (code, ""), self.err
        assert self.err.startswith("softlabels: ")
        assert self.err.rstrip()[-1] in ".?"
        assert [text for text in texts if text not in self.err] == [], self.err


def words(verb: str, settings: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> list[str]:
    """The words of a command on the experiment."""
    return [verb, "e.toml", *flags, *(word for setting in settings for word in ("--set", setting))]


def softlabels(*arguments: str) -> Outcome:
    """The command line in this process, exactly as the console script runs it; no exception leaves it."""
    out, err, code = StringIO(), StringIO(), 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with patch.object(sys, "argv", ["softlabels", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    assert "Traceback" not in err.getvalue()
    return Outcome(code, out.getvalue(), err.getvalue())


def run(verb: str, *settings: str, flags: tuple[str, ...] = ()) -> Outcome:
    """A command on the experiment of the working directory, some of its keys set otherwise."""
    return softlabels(*words(verb, settings, flags))


def must(verb: str, *settings: str, flags: tuple[str, ...] = ()) -> Outcome:
    """`run`, and it succeeds."""
    outcome = run(verb, *settings, flags=flags)
    assert outcome.code == 0, outcome.err
    return outcome


@contextmanager
def started(folder: Path, verb: str, *settings: str, flags: tuple[str, ...] = ()) -> "Iterator[subprocess.Popen[str]]":
    """A command on the experiment of a folder, in a process of its own, which does not outlive the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "stages", *words(verb, settings, flags)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def snapshot(folder: Path) -> Snapshot:
    """Every file below a folder: its bytes and when it last changed."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def assert_two_ranks_make(command: list[str], one: Path, two: Path) -> None:
    """Law: a command under torchrun makes in its runs the student that one process made, but for the order of sums."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stages"]
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = (load_file(runs / "distilled/seed-0/student.safetensors") for runs in (one, two))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def shown(page: Path) -> str:
    """What a page says, its pictures by what they show."""
    words: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            words.extend(value or "" for name, value in attributes if (tag, name) == ("img", "alt"))

        def handle_data(self, data: str) -> None:
            words.append(data)

    Reader().feed(page.read_text())
    return " | ".join(word for word in words if word.strip())


def untimed(figures: dict[str, object]) -> dict[str, object]:
    """Figures without those of the clock: how long an answer takes, on one day."""
    return {name: value for name, value in figures.items() if not name.endswith("latency_seconds")}


def decided(cache: Path) -> dict[str, object]:
    """What a cache holds but for how it came about: the same for every run that ends, however often it was stopped."""
    content: dict[str, object] = {}
    for file in sorted(cache.rglob("*")):
        if file.suffix == ".json" and file.name != "zarr.json":
            document = json.loads(file.read_bytes())
            content[str(file.relative_to(cache))] = {
                key: untimed(value) if key == "about" else value
                for key, value in document.items()
                if key not in {"made", "sha256", "receipts_sha256"}
            }
        elif file.is_file():
            content[str(file.relative_to(cache))] = file.read_bytes()
    return content
