"""Plots, as the bytes of a PNG. The one door to matplotlib, which is slow to import: each plot does it when drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 20  # letters of a name
NEAR = 6  # columns of less than so many times another's have names that may meet
MOST_LABELLED = 1e4  # times the least, of what has labels between powers of ten
UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}
COLOURS = 10  # of matplotlib's lines, before they come again
TESTED = {
    "test_accuracy": "test accuracy",
    "test_agreement": "agreement with the teacher",
    "test_nmi": "mutual information of clusters and classes",
}
Points = Sequence[tuple[float, float]]


def curve(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss of a run by epoch, and test accuracy or, where the truth is not known, agreement with the teacher."""
    figure = _figure(6, 4)
    epochs = [line["epoch"] for line in history]
    axes = figure.subplots()
    axes.plot(epochs, [line["loss"] for line in history], color="tab:blue", marker=".")
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.yaxis.label.set_color("tab:blue")
    if key := next((each for each in TESTED if each in history[0]), None):
        right = axes.twinx()
        right.plot(epochs, [100 * line[key] for line in history], color="tab:orange", marker=".")
        right.set_ylabel(f"{TESTED[key]} (%)", color="tab:orange")
    return _png(figure)


def families(panels: Mapping[str, Mapping[str, Points]], across: str, up: str) -> bytes:
    """A panel for each title, side by side, with a line for each family; both axes are logarithmic."""
    figure = _figure(6 * len(panels), 4.5)
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, (name, points) in enumerate(lines.items()):
            dashes = "-" if place < COLOURS else "--"
            axes.plot(*zip(*sorted(points), strict=True), dashes, marker="o", markersize=4, label=name)
        axes.set(title=title, xlabel=across, ylabel=up, xscale="log", yscale="log")
        axes.grid(visible=True, which="major", alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return _png(figure)


@dataclass(frozen=True)
class Spot:
    """A point with a name, and how far it may be off upwards and downwards."""

    name: str
    across: float
    up: float
    spread: float = 0.0


def spots(panels: Mapping[str, Sequence[Spot]], across: str, up: str) -> bytes:
    """A panel for each title, side by side: a point for each name, written beside it where it finds room.

    Across is logarithmic from 10 on, so that what costs nothing has a place.
    """
    figure = _figure(8 * len(panels), 9)
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        colours = {spot: f"C{place % COLOURS}" for place, spot in enumerate(found)}
        for spot, colour in colours.items():
            axes.errorbar(spot.across, spot.up, spot.spread, fmt="o", markersize=4, color=colour, alpha=0.8)
        axes.set(title=title, xlabel=across, ylabel=up)
        axes.set_xscale("symlog", linthresh=10, linscale=0.4)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.margins(x=0.2)
        axes.set_xlim(left=-5)
        bottom, top = axes.get_ylim()
        for spot, height in _apart(found, (top - bottom) / 60):
            name, beside = spot.name.replace("$", r"\$"), ("offset points", "data")
            axes.annotate(
                name,
                (spot.across, spot.up),
                (12, height),
                textcoords=beside,
                fontsize=7,
                va="center",
                color=colours[spot],
            )
    return _png(figure)


def _apart(found: Sequence[Spot], gap: float) -> list[tuple[Spot, float]]:
    """Where to write each name: as low as it may be beside or above its point, a gap from all names of near columns."""
    written: list[tuple[Spot, float]] = []
    for spot in sorted(found, key=lambda spot: (spot.across, spot.up)):
        height = spot.up
        for taken in sorted(each for other, each in written if other.across * NEAR >= spot.across):
            if abs(taken - height) < gap:
                height = taken + gap
        written.append((spot, height))
    return written


def certainty(bins: Sequence[tuple[float, float]], ece: float, rows: Sequence[float], most: float) -> bytes:
    """How often the likeliest class is right against how likely it is, and how many rows have which entropy.

    Args:
        bins: mean confidence and accuracy of each bin of confidence, of equal width; NaN in an empty one.
        ece: the expected calibration error; NaN if it is not known.
        rows: how many there are in each bin of entropy, of equal width.
        most: where the last one ends.

    """
    figure = _figure(10, 4)
    left, right = figure.subplots(1, 2)
    _diagram(left, bins, ece)
    width = most / len(rows)
    right.bar([(place + 0.5) * width for place in range(len(rows))], rows, width, color="tab:orange")
    right.set(title="entropy" if any(rows) else "entropy is not known", xlabel="nats", ylabel="rows")
    return _png(figure)


def reliability(bins: Sequence[tuple[float, float]], ece: float, rows: Sequence[int]) -> bytes:
    """How often the likeliest class is right against how likely it is, above how many rows are that sure.

    Args:
        bins: as of `certainty`.
        ece: the expected calibration error.
        rows: how many there are in each bin.

    """
    figure = _figure(5, 5)
    above, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    _diagram(above, bins, ece)
    below.bar(_centres(len(rows)), rows, 1 / len(rows), color="tab:orange")
    above.set_xlabel("")
    below.set(xlabel="confidence", ylabel="rows")
    return _png(figure)


def confusion(rows: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """How many rows of each true class, from above, are taken for which, from the left; shaded by the class's share.

    Not for more classes than can be read, some thirty.
    """
    inches = max(4.0, 1.5 + 0.34 * len(names))
    figure = _figure(inches, inches)
    axes = figure.subplots()
    axes.imshow([[many / max(1, sum(row)) for many in row] for row in rows], cmap="Blues", vmin=0, vmax=1)
    for down, row in enumerate(rows):
        for along, many in enumerate(row):
            colour = "white" if 2 * many > sum(row) else "black"
            axes.text(along, down, str(many or ""), ha="center", va="center", fontsize=7, color=colour)
    told = list(map(_told, names))
    axes.set_xticks(range(len(names)), told, rotation=90)
    axes.set_yticks(range(len(names)), told)
    axes.set(xlabel="taken for", ylabel="true class")
    return _png(figure)


def pace(hosts: Mapping[str, Points]) -> bytes:
    """How fast each shard was made, by when it was done; of ten hosts with a colour of their own, of others in grey.

    Args:
        hosts: of each, seconds since the first shard was done, and rows a second, above 0.

    """
    from matplotlib.ticker import LogLocator  # noqa: PLC0415  # slow to import

    figure = _figure(10, 4)
    axes = figure.subplots()
    last = max((seconds for points in hosts.values() for seconds, _ in points), default=0.0)
    unit, length = next(each for each in UNITS.items() if last >= 2 * each[1] or each[1] == 1)
    for place, (name, points) in enumerate(hosts.items()):
        own = place < COLOURS
        colour, label = (f"C{place}", f" {_told(name)}") if own else ("lightgrey", None)  # "_a" would not be listed
        across, up = [seconds / length for seconds, _ in points], [rate for _, rate in points]
        axes.plot(across, up, ".", color=colour, label=label, zorder=3 if own else 2)
    axes.set(xlabel=f"{unit} since the first shard was done", ylabel="rows a second", yscale="log")
    rates = [rate for points in hosts.values() for _, rate in points] or [1.0]
    near = max(rates) < MOST_LABELLED * min(rates)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.minorticks_off()
    axes.grid(visible=True, which="major", alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return _png(figure)


def sizes(rows: Sequence[float]) -> bytes:
    """How many rows each cluster has, the largest first, beside how many if all had as many."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  # slow to import

    figure = _figure(10, 4)
    axes = figure.subplots()
    axes.stairs(sorted(rows, reverse=True), fill=True, color="tab:blue", alpha=0.6)
    axes.axhline(sum(rows) / len(rows), linestyle="--", color="grey", label="if all had as many")
    axes.set(xlabel="clusters, the largest first", ylabel="rows", xlim=(0, len(rows)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    return _png(figure)


def _told(name: str) -> str:
    """Someone else's name: short, on one line, and no dollar sign of theirs begins a formula."""
    name = "".join(each if each.isprintable() else "?" for each in name)
    return (name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…").replace("$", r"\$")


def _diagram(axes: "Axes", bins: Sequence[tuple[float, float]], ece: float) -> None:
    axes.bar(_centres(len(bins)), [accuracy for _, accuracy in bins], 1 / len(bins), color="tab:blue", alpha=0.4)
    axes.plot(*zip(*bins, strict=True), "o", color="tab:blue", clip_on=False)
    axes.plot([0, 1], [0, 1], "--", color="grey")
    known = f"calibration error {ece:.2%}" if isfinite(ece) else "calibration is not known"
    axes.set(title=known, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))


def _centres(count: int) -> list[float]:
    """Of bins of equal width from 0 to 1."""
    return [(place + 0.5) / count for place in range(count)]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415  # slow to import

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # someone's names may be in letters that the font has not
        figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
