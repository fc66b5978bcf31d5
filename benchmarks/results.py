"""How a benchmark says what it found: a Markdown table on stdout and `benchmarks/results/NAME.json`."""

import json
import os
import platform
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

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


def shown(value: float) -> str:
    """A number for people.

    >>> shown(3_155_123.4), shown(0.0010234), shown(60000)
    ('3,155,123', '0.001023', '60,000')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004 - from where on digits are grouped


def line(row: Row) -> str:
    """A row of the table, as the README quotes it."""
    baseline = "" if row.baseline is None else f"{shown(row.baseline)} {row.unit}"
    spread = "" if row.spread is None else f" ({row.spread[0]:.4g} to {row.spread[1]:.4g})"
    ratio = "" if row.ratio is None else f"{row.ratio:.4g}{spread}"
    return f"| {row.name} | {shown(row.value)} {row.unit} | {baseline} | {ratio} |"


def publish(benchmark: str, rows: list[Row], *, keep: bool) -> None:
    """Print the table and, but for a quick try, keep the rows."""
    print("\n".join(["| what | value | baseline | ratio (min to max) |", "|---|---|---|---|", *map(line, rows)]))
    if keep:
        write(benchmark, rows)


def write(benchmark: str, rows: list[Row], extra: tuple[str, ...] = ()) -> None:
    """Keep the rows as JSON, with the versions of what they depend on, `extra` packages too."""
    packages = ("torch", "numpy", "zarr", *extra)
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    machine = (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {platform.machine()}, {platform.system()}"
    )
    found = [asdict(row) | {"versions": versions, "machine": machine} for row in rows]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{benchmark}.json").write_text(json.dumps(found, indent=2) + "\n")


def kept(benchmark: str) -> list[Row]:
    """The rows that a benchmark wrote."""
    found = json.loads((FOLDER / f"{benchmark}.json").read_text())
    return [Row(**{field.name: each[field.name] for field in fields(Row)}) for each in found]
