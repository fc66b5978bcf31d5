"""The table and the plot of `benchmarks.methods`, from the rows that it keeps."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.results import Row
from pipeline.plots import Spot, spots

ACCURACY, GAIN, ECE, NMI, BYTES, TIME, CHOSEN, BEST, SEEDS = (
    "test accuracy",
    "test accuracy less that of kd",
    "expected calibration error",
    "normalised mutual information with the true classes",
    "bytes a row",
    "time of a run against kd's",
    "chosen",
    "among the best two",
    "seeds",
)
DEVIATION = "standard deviation of its "
CLUSTERED = "clusters alone"
"""What has no classes, and so no accuracy."""
Figures = Mapping[str, float]


def table(rows: Iterable[Row]) -> list[str]:
    """Its lines: a method each, the figures of all datasets beside each other."""
    figures = _figures(rows)
    datasets, methods = _names(figures)
    titles = [title for name in datasets for title in (f"{name}, %", "against kd, %")]
    header = ["method", "chosen", *titles, "ECE, %", "bytes a row", "time ÷ kd's"]
    lines = [f"| {' | '.join(header)} |", f"|---|{'--:|' * (len(header) - 1)}"]
    for method in methods:
        keys = [f"{name}, {method}: " for name in datasets]
        cells = [_both(figures.get(key + CHOSEN) for key in keys)]
        for key in keys:
            cells.append(_spread(figures, key, ACCURACY, ".2f"))
            cells.append("" if method == "kd" else _spread(figures, key, GAIN, "+.2f"))
        for what, form in ((ECE, ".1f"), (BYTES, ",.0f"), (TIME, ".2f")):
            cells.append(_both((figures.get(key + what) for key in keys), form))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    keys = [f"{name}, {CLUSTERED}: " for name in datasets]
    if all(key + NMI in figures for key in keys):
        told = [cell for key in keys for cell in (f"{_spread(figures, key, NMI, '.2f')} (NMI)", "")]
        cells = [
            _both(figures[key + CHOSEN] for key in keys),
            *told,
            "",
            _both(figures[key + BYTES] for key in keys),
            "",
        ]
        lines.append(f"| {CLUSTERED} | {' | '.join(cells)} |")
    return lines


def best(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Which two were taken together on each dataset."""
    found: dict[str, list[str]] = {}
    for row in rows:
        about, _, what = row.name.rpartition(": ")
        if what == BEST:
            dataset, _, method = about.partition(", ")
            found.setdefault(dataset, []).append(method)
    return found


def plot(rows: Iterable[Row]) -> bytes:
    """Accuracy against bytes, a panel for each dataset."""
    figures = _figures(rows)
    datasets, methods = _names(figures)
    panels: dict[str, Sequence[Spot]] = {
        name: [
            Spot(method, *(figures[f"{name}, {method}: {what}"] for what in (BYTES, ACCURACY, DEVIATION + ACCURACY)))
            for method in methods
        ]
        for name in datasets
    }
    return spots(panels, "bytes a row", "test accuracy (%)")


def _figures(rows: Iterable[Row]) -> Figures:
    return {row.name: row.value for row in rows}


def _names(figures: Figures) -> tuple[list[str], list[str]]:
    """The datasets, and the methods in their order."""
    found = [name.removesuffix(f": {ACCURACY}").split(", ", 1) for name in figures if name.endswith(f": {ACCURACY}")]
    return list(dict.fromkeys(each[0] for each in found)), list(dict.fromkeys(each[1] for each in found))


def _both(values: Iterable[float | None], form: str = "g") -> str:
    """One where all are the same."""
    told = ["" if value is None else f"{value:{form}}" for value in values]
    return told[0] if len(set(told)) == 1 else " / ".join(told)


def _spread(figures: Figures, key: str, what: str, form: str) -> str:
    return f"{figures[key + what]:{form}} ± {figures[key + DEVIATION + what]:.2f}"
