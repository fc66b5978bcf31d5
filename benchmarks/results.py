"""How a benchmark says what it found: a Markdown table on stdout and `benchmarks/results/NAME.json`."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure, measured beside its baseline in the same run."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None


def compared(name: str, values: list[float], baselines: list[float], unit: str = "s") -> Row:
    """A figure against its baseline: medians, and the ratio pair by pair with its smallest and largest."""
    ratios = [value / baseline for value, baseline in zip(values, baselines, strict=True)]
    return Row(name, median(values), unit, median(baselines), median(ratios), (min(ratios), max(ratios)))


def publish(benchmark: str, rows: list[Row], *, keep: bool) -> None:
    """Print the table and, but for a quick try, keep the rows."""
    print("| what | value | baseline | ratio (min to max) |\n|---|---|---|---|")
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:.4g} {row.unit}"
        spread = "" if row.spread is None else f" ({row.spread[0]:.3f} to {row.spread[1]:.3f})"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}{spread}"
        print(f"| {row.name} | {row.value:.4g} {row.unit} | {baseline} | {ratio} |")
    if not keep:
        return
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "zarr")}}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    kept = [asdict(row) | {"versions": versions, "machine": machine} for row in rows]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{benchmark}.json").write_text(json.dumps(kept, indent=2) + "\n")
