"""Say what a label cache is, and what its labels say as a whole."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.audit.statistics import Means, Statistics, known_temperature, statistics
from pipeline.audit.sums import Column
from pipeline.plots import certainty
from pipeline.reader import label_spec
from pipeline.store.files import make_directory, write_durably
from pipeline.store.mapped import LabelCache
from stages.bars import bar
from stages.inspect_cache import inspect
from stages.report import Report, counted, table

MOST_LISTED = 20  # classes
UNKNOWN = "?"
EACH_END = 10  # of more: the least and the most confident
CONFUSED = ["most confused", "mean p"]
HEADER = ["true class", "rows", "entropy", "confidence", "p of it", "agreement"]


def look_into(path: Path | str, temperature: float | None, plot: Path | None) -> Report:
    """`inspect`, and the statistics of all rows that are done; drawn too, if there is a file to draw into.

    Raises:
        ConfigError: the labels know no probabilities at the temperature.
        IncompleteError: there is no cache at the path, or none of its shards is done.
        CorruptError: a document or a shard is not what was written, or the labels are of another version.
        StorageError: the plot cannot be written.

    """
    report = inspect(path)
    cache = LabelCache.open(path, allow_partial=True)
    asked = known_temperature(label_spec(cache), temperature)
    if plot:
        make_directory(plot.parent)  # refused before the work, not after it
    with bar("statistics", report.facts["shards_done"], unit=" shards") as progress:
        found = statistics(cache, asked, progress.update)
    text = f"{report.text}\n\n{_text(found)}"
    if plot:
        write_durably(plot, [drawn(found)])
        text += f"\n\nDrawn in {plot}."
    return replace(report, facts=report.facts | {"statistics": found.facts()}, text=text)


def drawn(found: Statistics) -> bytes:
    """The plot of calibration and entropy."""
    kept = found.calibration
    bins = list(zip(kept.confidence.tolist(), kept.accuracy.tolist(), strict=True))
    return certainty(bins, kept.ece, found.entropy_rows.tolist(), math.log(found.by_class.rows.size))


def _text(found: Statistics) -> str:
    lines = "\n".join(f"{name:<11} {words}" for name, words in overall(found).items())
    parts = [lines, found.known]
    if found.labelled:
        parts.append(table(HEADER, list(classes(found))))
    if found.confused:
        parts.append(table(CONFUSED, list(confused(found))))
    return "\n\n".join(parts)


def overall(found: Statistics) -> dict[str, str]:
    """The figures of all rows, in words."""
    means, most = found.overall, math.log(found.by_class.rows.size)
    lines = {
        "looked at": (
            f"{counted(found.rows, 'row')} in {counted(found.shards, 'shard')} at T = {found.temperature:g}, "
            f"{found.labelled:,} of them with a true label"
        ),
        "entropy": f"{_entropy(means)} nats, {most:.3f} would be ignorance",
        "confidence": f"{_share(means.confidence)} in the likeliest class",
        "true class": f"has p {_share(means.p_true)}, is the likeliest in {_share(means.agreement)}",
        "ECE": f"{_share(found.calibration.ece)} in {found.calibration.rows.size} bins of confidence",
        "tail": _outside(found),
    }
    if not found.labelled:
        del lines["true class"], lines["ECE"]
    return lines


def _outside(found: Statistics) -> str:
    if not found.tail.largest > 0:
        return "none" if found.tail.largest == 0 else UNKNOWN
    quantiles = ", ".join(
        f"{float(share):.0%} of rows at most {value:.2g}" for share, value in found.tail.quantiles.items()
    )
    return f"{found.overall.tail:.2g} is outside the kept classes; {quantiles}, all at most {found.tail.largest:.2g}"


def classes(found: Statistics) -> Iterator[Sequence[str]]:
    """A line a class; of many the least and the most confident, or certain of what is true where that is not known."""
    by_class = found.by_class
    there = np.flatnonzero(by_class.rows)
    if there.size <= MOST_LISTED:
        yield from (_line(found, place) for place in there.tolist())
        return
    sure = by_class.p_true if np.isnan(by_class.confidence[there]).any() else by_class.confidence
    rising = there[np.argsort(sure[there], kind="stable")].tolist()
    yield from (_line(found, place) for place in rising[:EACH_END])
    yield ["…"] + [""] * (len(HEADER) - 1)
    yield from (_line(found, place) for place in rising[-EACH_END:])


def _line(found: Statistics, place: int) -> Sequence[str]:
    of_class = Means(*(column[place] for column in vars(found.by_class).values()))
    shares = (of_class.confidence, of_class.p_true, of_class.agreement)
    return [_name(found, place), f"{int(of_class.rows):,}", _entropy(of_class), *map(_share, shares)]


def confused(found: Statistics) -> Iterator[Sequence[str]]:
    """A line for each pair of classes of which one is most often taken for the other."""
    for pair in found.confused:
        yield [f"{_name(found, pair.true)} for {_name(found, pair.taken_for)}", f"{100 * pair.p:.2g} %"]


def _name(found: Statistics, place: int) -> str:
    return " ".join(found.class_names[place].splitlines()) if found.class_names else str(place)


def _entropy(means: Means) -> str:
    if np.isnan(means.entropy_low):
        return UNKNOWN
    low, high = f"{means.entropy_low:.3f}", f"{means.entropy_high:.3f}"
    return low if low == high else f"{low} to {high}"


def _share(value: float | Column) -> str:
    return UNKNOWN if np.isnan(value) else f"{100 * value:.2f} %"
