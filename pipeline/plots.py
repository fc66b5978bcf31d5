"""Plots, as the bytes of a PNG. The one door to matplotlib, which is slow to import: each plot does it when drawn."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = 10  # of matplotlib's lines, before they come again
Points = Sequence[tuple[float, float]]


def curve(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss and test accuracy of a run by epoch."""
    figure = _figure(6, 4)
    epochs = [line["epoch"] for line in history]
    axes = figure.subplots()
    axes.plot(epochs, [line["loss"] for line in history], color="tab:blue", marker=".")
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.yaxis.label.set_color("tab:blue")
    if "test_accuracy" in history[0]:
        right = axes.twinx()
        right.plot(epochs, [100 * line["test_accuracy"] for line in history], color="tab:orange", marker=".")
        right.set_ylabel("test accuracy (%)", color="tab:orange")
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


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415  # slow to import

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
