"""The figures of students and their teacher as the columns of a table."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from pydantic import JsonValue

from pipeline.runs import Metrics
from pipeline.store.writer import human
from stages.report import duration

NONE = "-"
Results = Sequence[Metrics]


@dataclass(frozen=True)
class Column:
    """A column of the table: one figure of each student and of the teacher."""

    title: str
    key: str  # in the metrics of a run
    shown: Callable[[Sequence[float]], str]
    asked: str | None = None  # in the figures of a seal: the teacher's
    always: bool = True  # or only where some run has it

    def known(self, results: Results) -> bool:
        """Whether some run has the figure."""
        return any(_number(metrics.get(self.key)) is not None for metrics in results)

    def student(self, results: Results) -> str:
        """Of a student's runs."""
        return self._cell([_number(metrics.get(self.key)) for metrics in results])

    def teacher(self, about: Mapping[str, JsonValue]) -> str:
        """Of the teacher, as the seal of its cache has it."""
        return self._cell([_number(about.get(self.asked))] if self.asked else [])

    def _cell(self, values: Sequence[float | None]) -> str:
        there = [value for value in values if value is not None]
        return self.shown(there) if there else NONE


def _spread(values: Sequence[float], unit: str = "") -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}{unit}" if len(values) > 1 else f"{values[0]:.2f}{unit}"


def percent(shares: Sequence[float]) -> str:
    """Shares, with their spread over runs."""
    return _spread([100 * share for share in shares], " %")


def _count(values: Sequence[float]) -> str:
    return f"{values[0]:,.0f}"


def _scaled(values: Sequence[float], unit: str = "") -> str:
    """Three digits, in thousands of thousands.

    >>> _scaled([308_074]), _scaled([4.1e9]), _scaled([75])
    ('308 K', '4.1 G', '75')
    """
    value, prefixes = values[0], ["", "K", "M", "G", "T", "P"]
    while value >= 999.5 and len(prefixes) > 1:  # noqa: PLR2004  # what three digits show
        value, prefixes = value / 1000, prefixes[1:]
    return f"{value:.3g} {prefixes[0]}{unit}".rstrip()


def _bytes(values: Sequence[float]) -> str:
    return human(round(values[0]))


def _milliseconds(values: Sequence[float]) -> str:
    return _spread([1000 * value for value in values], " ms")


def _time(values: Sequence[float]) -> str:
    return duration(mean(values))


COLUMNS = (
    Column("test accuracy", "test_accuracy", percent, "teacher_test_accuracy"),
    Column("perplexity", "test_perplexity", _spread, "teacher_test_perplexity", always=False),
    Column("ECE", "test_ece", percent, "teacher_test_ece"),
    Column("NMI", "test_nmi", percent, always=False),
    Column("agreement", "test_agreement", percent, always=False),
    Column("accepted", "test_accepted", percent, always=False),
    Column("parameters", "parameters", _count, "teacher_parameters"),
    Column("MACs", "multiply_adds", _scaled, "teacher_multiply_adds", always=False),
    Column("time", "seconds", _time, "teacher_fit_seconds"),
    Column("true labels", "true_labels", _count),
    Column("soft labels", "soft_labels", _count),
)


PAGE_ONLY = (
    Column("top-5", "test_top5", percent, "teacher_test_top5"),
    Column("macro F1", "test_macro_f1", percent, "teacher_test_macro_f1"),
    Column("AUROC", "test_auroc", percent, "teacher_test_auroc"),
    Column("negative log-likelihood", "test_cross_entropy", _spread, "teacher_test_cross_entropy"),
    Column("size", "weights_bytes", _bytes, "teacher_weights_bytes"),
    Column("latency, one", "latency_seconds", _milliseconds, "teacher_latency_seconds"),
    Column("latency, batch", "batch_latency_seconds", _milliseconds, "teacher_batch_latency_seconds"),
    Column("of rows", "batch_latency_rows", _count, "teacher_batch_latency_rows"),
)
"""What a page has room for beside them."""


def _number(value: object) -> float | None:
    """A figure that someone has put into a seal or the metrics of a run, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
