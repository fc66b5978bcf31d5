"""Students, their baselines and the teacher side by side: what `train` ends with."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pydantic import JsonValue

from pipeline.runs import Metrics
from pipeline.store.documents import Seal
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import human
from stages.report import Report, duration, table

HEADER = ["", "test accuracy", "ECE", "parameters", "time", "true labels", "soft labels"]
NONE = "-"


def compare(results: Mapping[str, Sequence[Metrics]], cache: LabelCache | None, tested: int, runs: Path) -> Report:
    """A table of the runs of each student and, from the seal of its cache, of the teacher.

    Args:
        results: the metrics of each student's runs.
        cache: what they were trained from, if anything.
        tested: how many held-out samples there are.
        runs: where the run folders are.

    """
    rows = [_student(name, each) for name, each in results.items()]
    facts: dict[str, Any] = {"students": dict(results), "runs": str(runs)}
    lines = [
        f"On {tested:,} held-out samples, mean ± standard deviation over seeds; ECE: calibration; time of one run."
    ]
    if cache is not None and cache.seal is not None:
        seal, path = cache.seal, _name_of(cache)
        rows.append(_teacher(seal.about))
        lines.append(
            f"Label cache: {path}, {human(seal.bytes)} for {seal.rows:,} samples "
            f"({seal.bytes / seal.rows:.1f} bytes each), asked of the teacher once in {duration(seal.made.seconds)}."
        )
        if worth := _worth(seal, results):
            facts["break_even"], line = worth
            lines.append(line)
        facts["cache"] = {"path": path, "cache_id": seal.cache_id, "bytes": seal.bytes, "about": seal.about}
    return Report(facts, "\n".join([table(HEADER, rows), "", *lines, f"Runs: {runs}"]))


def _name_of(cache: LabelCache) -> str:
    """The path of a cache from here, or its address."""
    return os.path.relpath(cache.root) if not cache.room else str(cache.place)


def _worth(seal: Seal, results: Mapping[str, Sequence[Metrics]]) -> tuple[dict[str, float], str] | None:
    """How many students pay for the cache, against a teacher that is asked anew in every epoch of each of them.

    What a pass of the teacher takes in the loop is not known here; it is taken to be what a view of the cache took.
    """
    epochs = [int(m["identity"]["epochs"]) for each in results.values() for m in each if m["soft_labels"]]
    if not epochs:
        return None
    once, a_pass = seal.made.seconds, seal.made.seconds / seal.views
    in_the_loop = mean(epochs) * a_pass
    students, saved = once / in_the_loop if in_the_loop else 1.0, sum(epochs) * a_pass - once
    facts = {"students": students, "in_the_loop_seconds_a_student": in_the_loop, "saved_seconds": saved}
    runs = "this run" if len(epochs) == 1 else f"these {len(epochs):,} runs"
    return facts, (
        f"Break-even: {students:.2g} students. In the loop, the teacher would take about as long in every epoch, "
        f"{duration(in_the_loop)} a student; {runs} saved {duration(max(0.0, saved))}."
    )


def _student(name: str, results: Sequence[Metrics]) -> list[str]:
    first = results[0]
    return [
        name,
        _percent([metrics["test_accuracy"] for metrics in results]),
        _percent([metrics["test_ece"] for metrics in results]),
        f"{first['parameters']:,}",
        duration(mean(metrics["seconds"] for metrics in results)),
        f"{first['true_labels']:,}",
        f"{first['soft_labels']:,}",
    ]


def _teacher(about: Mapping[str, JsonValue]) -> list[str]:
    accuracy, ece, parameters, seconds = (
        _number(about.get(f"teacher_{key}")) for key in ("test_accuracy", "test_ece", "parameters", "fit_seconds")
    )
    return [
        "teacher",
        _percent([accuracy]),
        _percent([ece]),
        NONE if parameters is None else f"{parameters:,.0f}",
        NONE if seconds is None else duration(seconds),
        NONE,
        NONE,
    ]


def _number(value: JsonValue) -> float | None:
    """A figure that someone has put into a seal, if it is one."""
    return float(value) if isinstance(value, int | float) else None


def _percent(accuracies: Sequence[float | None]) -> str:
    known = [100 * value for value in accuracies if value is not None]
    if not known:
        return NONE
    return f"{mean(known):.2f} ± {stdev(known):.2f} %" if len(known) > 1 else f"{known[0]:.2f} %"
