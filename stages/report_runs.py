"""Show runs on one page: a table of all figures, and of each student what it takes for what, and how sure it may be."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.counts import Counts, added
from pipeline.errors import IncompleteError
from pipeline.pages import grid, heading, page, paragraph, picture
from pipeline.plots import confusion, reliability
from pipeline.runs import METRICS, Metrics, read_counts, read_metrics
from pipeline.store.files import make_directory, write_durably
from pipeline.store.state import JOB
from stages.columns import COLUMNS, PAGE_ONLY
from stages.report import Report, counted

MOST_DRAWN = 30  # classes of a matrix that can be read
MOST_CONFUSED = 20  # pairs of more
Runs = Mapping[str, Mapping[Path, Metrics]]

LEGEND = (
    "On held-out samples, mean ± standard deviation over seeds. ECE: expected calibration error, of 15 bins. Macro F1: "
    "the mean over classes that occur. AUROC: each class against the rest, the mean over classes that occur. NMI: "
    "normalised mutual information of true classes and a student's likeliest clusters, which are none. MACs: "
    "multiply-adds of one input in matrix products, convolutions and attention. Latency: the median on the device that "
    "the network ran on, the way of its inputs there included; not to be compared between machines."
)


def report_runs(runs: Path, out: Path | None) -> Report:
    """Write the page of a folder of runs, of one student's runs or of one run, from what they keep: no network is run.

    Raises:
        IncompleteError: no run there is done.
        CorruptError: what a run kept is not what it wrote.
        StorageError: the page cannot be written.

    """
    found = _found(runs)
    if not found:
        raise IncompleteError(
            f"{runs} holds no run that is done: no {METRICS} in it, nor in the folders of its students and seeds; and "
            f"no label cache: no {JOB} in it. Name the folder that `softlabels train` ends with, or run train to its "
            "end; or name a cache that `softlabels generate` has begun."
        )
    place = out or runs / "report.html"
    parts = [paragraph(LEGEND), _table(found)]
    for name, folders in found.items():
        parts += _student(name, list(folders))
    make_directory(place.parent)
    write_durably(place, [page(str(runs), parts).encode()])
    total = sum(map(len, found.values()))
    students = {name: list(each.values()) for name, each in found.items()}
    text = f"{place}: {counted(total, 'run')} of {counted(len(found), 'student')}."
    return Report({"page": str(place), "students": students}, text)


def _found(runs: Path) -> Runs:
    """The metrics of all runs that are done, by student and folder."""
    found: dict[str, dict[Path, Metrics]] = {}
    for pattern in (METRICS, f"*/{METRICS}", f"*/*/{METRICS}"):
        for path in sorted(runs.glob(pattern)):
            folder = path.parent
            named = folder.resolve()
            name = named.parent.name if named.name.startswith("seed-") else named.name
            if metrics := read_metrics(folder, folder / "student.safetensors"):
                found.setdefault(name, {})[folder] = metrics
    return found


def _table(found: Runs) -> str:
    """A row for each student, and for each teacher that is known to one of them."""
    results = {name: list(each.values()) for name, each in found.items()}
    everyone = [metrics for each in results.values() for metrics in each]
    teachers = {
        str(each.get("cache_id")): each["teacher"] for each in everyone if isinstance(each.get("teacher"), dict)
    }
    columns = [column for column in (*COLUMNS, *PAGE_ONLY) if column.known(everyone)]
    rows = [[name, *(column.student(each) for column in columns)] for name, each in results.items()]
    for cache_id, about in teachers.items():
        name = "teacher" if len(teachers) == 1 else f"teacher of cache {cache_id[:16]}"
        rows.append([name, *(column.teacher(about) for column in columns)])
    return grid(["", *(column.title for column in columns)], rows)


def _student(name: str, folders: Sequence[Path]) -> Iterator[str]:
    """The plots of a student, of all its seeds together; nothing, if nothing was kept that can be drawn."""
    kept = [counts for folder in folders if (counts := read_counts(folder))]
    counts = added(kept)
    if counts is None:
        return
    yield heading(name)
    yield paragraph(f"{counts.rows:,} answers of {counted(len(kept), 'run')}, counted together.")
    yield picture(_reliability(counts), f"reliability of {name}: calibration error {counts.ece:.2%}")
    if counts.confusion is None:
        yield paragraph(f"Of {counts.classes:,} classes, pairs were not counted.")
    elif counts.classes <= MOST_DRAWN:
        names = [counts.name(place) for place in range(counts.classes)]
        yield picture(confusion(counts.matrix().tolist(), names), f"confusion of {name}, rows by class")
    else:
        pairs = counts.confused(MOST_CONFUSED)
        rows = [[counts.name(true), counts.name(taken), f"{many:,}"] for true, taken, many in pairs]
        yield grid(["true class", "most often taken for", "rows"], rows)


def _reliability(counts: Counts) -> bytes:
    nothing = float("nan")
    bins = [(sure / rows, right / rows) if rows else (nothing, nothing) for rows, sure, right in counts.bins]
    return reliability(bins, counts.ece, [rows for rows, _, _ in counts.bins])
