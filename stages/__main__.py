"""The door of the command line: `python -m stages`, and the console script `softlabels`.

Commands import what they run when they run, so that `--help` answers at once.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stages import options
from stages.ends import STOPS, finish, refuse, run_to_its_end, say_json

if TYPE_CHECKING:
    from pipeline.config import Experiment

WHAT = """Ask the teacher once, train students ever after.

An experiment is one TOML file. `generate` asks its teacher for soft labels and writes them to a label cache;
`train` trains its students from the cache and never loads the teacher. Every command can be stopped at any
moment and run again: it goes on where it was.
"""
EPILOG = """Exit codes: 0 done · 1 error · 2 usage or config · 3 corrupt · 4 incomplete · 5 fingerprint mismatch ·
6 locked by another writer · 7 no space or I/O · 75 stopped by SIGTERM, resumable · 130 Ctrl-C."""


def _refuse_two_clusters(workers: int | None, scheduler: str | None) -> None:
    if workers and scheduler:
        raise options.UsageError("--workers starts a cluster here, --scheduler joins one that runs: give one of them.")


def _load(config: Path, overrides: tuple[str, ...]) -> "Experiment":
    from pipeline.config import load

    experiment = load(config, overrides)
    if experiment.views.preprocessing is None:
        return experiment
    from pipeline.hubs.preprocessing import resolved

    return resolved(experiment)


cli = options.door(WHAT, EPILOG)


@cli.command()
@options.experiment
def plan(config: Path, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Say what generate would do: rows, bytes, time, free disk.

    Rows, shards and bytes are exact. The time is estimated from a few real batches. Nothing is written.
    """
    from stages.plan import plan

    finish(plan(_load(config, overrides)), as_json=as_json)


@cli.command("fit-teacher")
@options.experiment
@options.restart("Throw away the teacher trained before, and train it again.")
def fit_teacher(config: Path, overrides: tuple[str, ...], *, as_json: bool, restart: bool) -> None:
    """Train the teacher by [teacher.fit], if its checkpoint does not exist.

    Then fit the basis of each of its features of reduction = "pca", if that file does not exist.
    """
    from stages.fit_teacher import fit_teacher

    finish(fit_teacher(_load(config, overrides), restart=restart), as_json=as_json)


@cli.command("seed-student")
@options.experiment
@options.students("A student to make; may be repeated. Default: all that have a table `seeded`.")
@options.restart("Make first weights anew where others are.")
def seed_student(
    config: Path, overrides: tuple[str, ...], students: tuple[str, ...], *, as_json: bool, restart: bool
) -> None:
    """Make students' first weights of their teacher's.

    The teacher's layers are put into as many groups as the student has, and of units that the student lacks those stay
    whose weights are largest: [students.NAME.seeded] says how, and where the file goes that `train` begins from. The
    mapping is printed, and kept in the file. The same command again finds it there.
    """
    from stages.seed_student import seed_students

    finish(seed_students(_load(config, overrides), students, restart=restart), as_json=as_json)


@cli.command()
@options.experiment
@options.workers
def generate(
    config: Path, overrides: tuple[str, ...], workers: int | None, scheduler: str | None, *, as_json: bool
) -> None:
    """Stage one: ask the teacher once, write the label cache.

    The same command again resumes a run that was cut short, and does nothing when the cache is complete. A cache that
    another teacher, dataset or encoding made is refused, and left as it is.

    On a cluster (docs/clusters.md) a shard that fails three times is set aside and the rest is made: exit code 4 then,
    with the causes.
    """
    _refuse_two_clusters(workers, scheduler)
    from stages.soft_labels import generate

    finish(generate(_load(config, overrides), workers, scheduler), as_json=as_json)


@cli.command()
@options.experiment
@options.views
@options.workers
def extend(
    config: Path,
    overrides: tuple[str, ...],
    views: int | None,
    workers: int | None,
    scheduler: str | None,
    *,
    as_json: bool,
) -> None:
    """Add views to a cache that is whole, and samples, if the dataset has more by now: after those it had.

    Its shards stay as they are and new ones join them, under a new seal and a new cache id; until that is there,
    readers find it as it was. The same command again goes on where one was cut short.
    """
    _refuse_two_clusters(workers, scheduler)
    from stages.extend_cache import extend_cache

    finish(extend_cache(_load(config, overrides), views, workers, scheduler), as_json=as_json)


@cli.command()
@options.clustered
def cluster(
    cache: Path | str,
    feature: str | None,
    out: Path | str | None,
    *,
    clusters: int,
    temperature: float,
    seed: int,
    passes: int,
    as_json: bool,
) -> None:
    """Cluster a feature of a cache, for students without labels.

    K-means reads the cache in batches, so it may be of any size. Each row's soft assignment to the K clusters goes to a
    label cache of its own, of the same samples and views, which a student names as its `cache` (docs/features.md). The
    same command again resumes, or finds nothing to do.
    """
    from pipeline.assignments import Clustering
    from stages.cluster_cache import cluster

    finish(cluster(cache, feature, Clustering(clusters, seed, passes, temperature), out), as_json=as_json)


@cli.command()
@options.tokenized
def tokenize(
    sources: tuple[str, ...],
    out: Path,
    *,
    tokenizer: str,
    end: str | None,
    text_key: str,
    label_key: str | None,
    held_out: float | None,
    per_line: bool,
    as_json: bool,
) -> None:
    """Make a folder of tokens of texts, for kind = "tokens".

    SOURCES are text files (a document each, or a line each), .jsonl and .csv files (a row each), folders of such,
    hf:NAME:SPLIT, or module:attribute of installed Python. With --held-out some documents go to a folder OUT-test
    instead. The same command again finds nothing to do (docs/language_models.md).
    """
    from pipeline.corpus import Keys
    from stages.tokenize_texts import tokenize_texts

    keys = Keys(text_key, label_key, per_line)
    report = tokenize_texts(sources, out, tokenizer=tokenizer, end=end, keys=keys, held_out=held_out)
    finish(report, as_json=as_json)


@cli.command()
@options.experiment
@options.students("A student to train; may be repeated. Default: all.")
@options.runs
@options.restart("Throw away these students' earlier runs, and train them again.")
def train(
    config: Path,
    overrides: tuple[str, ...],
    students: tuple[str, ...],
    runs: Path | None,
    *,
    as_json: bool,
    restart: bool,
) -> None:
    """Stage two: train students from the label cache, without the teacher.

    Students that see the same rows (seed, batch size) share one walk over the dataset. Ends with a table of them, their
    baselines and the teacher. A run that is done is not done again. For several devices:
    torchrun --nproc-per-node N -m stages train CONFIG, where batch_size counts the rows of all.
    """
    from stages.train_student import train_students

    folder = runs or Path("runs") / config.stem
    finish(train_students(_load(config, overrides), students, folder, restart=restart), as_json=as_json)


@cli.command()
@options.cache
@options.looked_into
def inspect(cache: Path | str, *, stats: bool, temperature: float | None, plot: Path | None, as_json: bool) -> None:
    """Say what a label cache is, who made it and how far it is.

    With --stats also what its labels say: entropy, confidence and agreement with the true labels by class, calibration,
    what is taken for what, and the mass outside the kept classes. A cache on its way is looked at as far as it is.
    """
    if stats:
        from stages.look_into_cache import look_into

        finish(look_into(cache, temperature, plot), as_json=as_json)
    if temperature is not None or plot:
        raise options.UsageError(
            "--temperature and --plot are about what --stats finds. Add --stats, or leave them out."
        )
    from stages.inspect_cache import inspect

    finish(inspect(cache), as_json=as_json)


def _copy_command(name: str, text: str) -> None:
    @cli.command(name, help=text)
    @options.copied
    def copy(source: Path | str, dest: Path | str, *, as_json: bool) -> None:
        from stages.copy_cache import copy_cache

        finish(copy_cache(source, dest), as_json=as_json)


_COPIED = """Every shard is held against its receipt on the way, and the seal comes last. The same command again goes on
where it was cut short. Exit code 4: SOURCE has no seal yet, and what there is was copied."""

_copy_command("pull", f"Copy a label cache from a bucket to this machine.\n\n{_COPIED}")
_copy_command("push", f"Copy a label cache from this machine to a bucket.\n\n{_COPIED}")


@cli.command()
@options.cache
@options.teacher
@options.rows(256)
@options.seed
@options.overrides
def verify(
    cache: Path | str, config: Path | None, rows: int, seed: int, overrides: tuple[str, ...], *, as_json: bool
) -> None:
    """Check every byte of a label cache against its receipts.

    With --teacher also ask the teacher again, and compare what it says with what is stored: the share of rows with the
    same best class, and the largest difference against the error that the encoding states.

    Exit code 0: all is as it was written. 3: something is not, and the files are named. 4: no seal yet. 5: the labels
    are not what this teacher says of these inputs.
    """
    if config:
        from stages.ask_again import ask_teacher_again

        finish(ask_teacher_again(cache, _load(config, overrides), rows, seed), as_json=as_json)
    from stages.verify_cache import verify

    finish(verify(cache), as_json=as_json)


@cli.command()
@options.experiment
@options.rows(2000)
@options.compared
@options.seed
@options.into
def fidelity(
    config: Path,
    overrides: tuple[str, ...],
    *,
    rows: int,
    temperatures: tuple[float, ...],
    draws: int,
    seed: int,
    into: Path | None,
    as_json: bool,
) -> None:
    """Say how near to the teacher each encoding stays, and what it costs.

    Asks the teacher about random rows, keeps them in every encoding at several sizes, and by the rules that other
    caches use, and compares what a student would be given with the whole softmax. Prints a table; keeps it as
    fidelity.json, and fidelity.png, a plot against bytes. No cache is needed, and none is made.
    """
    from stages.fidelity import fidelity

    folder = into or Path("runs") / config.stem / "fidelity"
    experiment = _load(config, overrides)
    report = fidelity(experiment, folder, rows=rows, temperatures=temperatures, draws=draws, seed=seed)
    finish(report, as_json=as_json)


@cli.command()
@options.reported
def report(what: Path | str, out: Path | str | None, *, as_json: bool) -> None:
    """Show a label cache, or runs, on one page of HTML.

    Of CACHE: what it is, what is stored of a row, how fast each host was, how sure and how right its labels are, and
    which losses it serves. All of it is read. One on its way is shown as far as it is, with exit code 4.

    RUNS is the folder that train ends with, or any in it: all figures, and plots of each student. No network, cache or
    dataset is needed: runs keep what is drawn, which is confusion (of more than 30 classes, a table of what is most
    often taken for what) and reliability.
    """
    from stages.report_cache import report

    finish(report(what, out), as_json=as_json)


def main() -> None:
    """Run the command line; what a user can cause ends in one paragraph and an exit code."""
    run_to_its_end(lambda: cli(standalone_mode=False), _misused)


def _misused(error: BaseException) -> None:
    """End with how a command is used, if it was not used so."""
    match error:
        case options.UsageError():
            say_json(error.format_message(), error.exit_code)
            error.show()
            sys.exit(error.exit_code)
        case options.Abort():  # Ctrl-C, as click has it
            refuse(*STOPS[signal.SIGINT])


if __name__ == "__main__":
    main()
