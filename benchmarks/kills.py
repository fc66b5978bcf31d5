"""Kill stage one with SIGKILL at random moments, run the same command again, and compare with a run never stopped.

Real processes on the digits, with shards of 16 rows. Compared are every shard file, the receipts apart from time, host
and attempt, and the cache id. A moment is drawn uniformly from the time between the job's first file and its seal.

    python -m benchmarks.kills [--rounds 50] [--seed 0]
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from time import monotonic, sleep

import click

from benchmarks.results import Row, publish
from pipeline.store.state import GROUP, read_state

Content = tuple[dict[str, bytes], list[object], str | None]
QUICK_ROUNDS = 5


def command(folder: Path, cache: Path) -> list[str]:
    """Stage one in small shards."""
    settings = [
        f'cache.path="{cache}"',
        f'teacher.checkpoint="{folder / "teacher.safetensors"}"',
        "cache.shard_rows=16",
        "cache.chunk_rows=8",
        "teacher.batch_size=8",
        "teacher.fit.epochs=1",
    ]
    return ["configs/digits.toml", *(word for setting in settings for word in ("--set", setting))]


def softlabels(verb: str, arguments: list[str]) -> "subprocess.Popen[bytes]":
    """The command line, started."""
    return subprocess.Popen([sys.executable, "-m", "stages", verb, *arguments], stdout=subprocess.DEVNULL)


def finish(verb: str, arguments: list[str]) -> None:
    """The command line, run to its end."""
    if code := softlabels(verb, arguments).wait():
        raise SystemExit(f"softlabels {verb} ended with exit code {code}")


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    """Return once a file is there, or the process has ended."""
    while not path.exists() and process.poll() is None:
        sleep(0.001)


def content(cache: Path) -> Content:
    """All that has to be the same."""
    state = read_state(cache)
    shards = {str(file.relative_to(cache)): file.read_bytes() for file in (cache / GROUP).rglob("*") if file.is_file()}
    receipts: list[object] = [receipt.fixed_part() for receipt in state.receipts.values()]
    return shards, receipts, state.seal.cache_id if state.seal else None


@click.command(help=__doc__)
@click.option("--rounds", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--quick", is_flag=True, help=f"{QUICK_ROUNDS} rounds.")
def main(rounds: int, seed: int, *, quick: bool) -> None:
    """Measure, print and keep."""
    rounds = QUICK_ROUNDS if quick else rounds
    dice = Random(seed)  # noqa: S311 - moments, not secrets
    same, cut, done_at_kill = 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = folder / "whole"
        finish("fit-teacher", command(folder, whole))
        process = softlabels("generate", command(folder, whole))
        wait_for(whole / "job.json", process)
        begun = monotonic()
        wait_for(whole / "seal.json", process)
        span, code = monotonic() - begun, process.wait()
        if code:
            raise SystemExit(f"softlabels generate ended with exit code {code}")
        expected = content(whole)
        for turn in range(rounds):
            cache = folder / f"killed-{turn}"
            process = softlabels("generate", command(folder, cache))
            wait_for(cache / "job.json", process)
            sleep(dice.uniform(0, span))
            process.send_signal(signal.SIGKILL)
            process.wait()
            cut += not (cache / "seal.json").exists()
            done_at_kill.append(len(list((cache / "receipts").glob("*.json"))))
            finish("generate", command(folder, cache))
            same += content(cache) == expected
            print(f"{turn + 1} of {rounds}: killed after {done_at_kill[-1]} receipts; {same} the same", file=sys.stderr)
    publish(
        "kills",
        [
            Row("rounds: SIGKILL at a random moment, then the same command again", rounds, "runs"),
            Row("killed before the seal", cut, "runs"),
            Row("receipts at the kill, fewest", min(done_at_kill), "receipts"),
            Row("receipts at the kill, most", max(done_at_kill), "receipts"),
            Row("ended byte-identical to a run never stopped", same, "runs"),
        ],
        keep=not quick,
    )
    if same < rounds:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
