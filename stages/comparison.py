"""Students, their baselines and the teacher side by side: what `train` ends with."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.runs import Metrics
from pipeline.store.documents import Seal
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import human
from pipeline.training import WEAK_KEPT
from pipeline.twins import in_words, verdicts
from stages.columns import COLUMNS, percent
from stages.report import Report, duration, table

Results = Sequence[Metrics]


def compare(results: Mapping[str, Sequence[Metrics]], cache: LabelCache | None, tested: int, runs: Path) -> Report:
    """A table of the runs of each student and, from the seal of its cache, of the teacher.

    Args:
        results: the metrics of each student's runs.
        cache: what they were trained from, if anything.
        tested: how many held-out samples there are.
        runs: where the run folders are.

    """
    columns = [column for column in COLUMNS if column.always or any(map(column.known, results.values()))]
    rows = [[name, *(column.student(each) for column in columns)] for name, each in results.items()]
    facts: dict[str, Any] = {"students": dict(results), "runs": str(runs)}
    lines = [
        f"On {tested:,} held-out samples, mean ± standard deviation over seeds; ECE: calibration; time of one run."
    ]
    titles = {column.title for column in columns}
    if "MACs" in titles:
        lines.append("MACs: multiply-adds of one input. More figures, and plots: `softlabels report` on the runs.")
    if "agreement" in titles:
        lines.append(
            "Agreement: the same likeliest class as the teacher's; accepted: of a draft's tokens, by the teacher."
        )
    if "NMI" in titles:
        lines.append(
            "NMI: normalised mutual information of true classes and a student's likeliest clusters, which are none."
        )
    if cache is not None and cache.seal is not None:
        seal, path = cache.seal, _name_of(cache)
        rows.append(["teacher", *(column.teacher(seal.about) for column in columns)])
        lines.append(
            f"Label cache: {path}, {human(seal.bytes)} for {seal.rows:,} samples ({seal.bytes / seal.rows:.1f} bytes "
            f"each{_a_token(cache)}), asked of the teacher once in {duration(seal.made.seconds)}."
        )
        if worth := _worth(seal, results):
            facts["break_even"], line = worth
            lines.append(line)
        facts["cache"] = {"path": path, "cache_id": seal.cache_id, "bytes": seal.bytes, "about": seal.about}
    lines += [line for name, each in results.items() for line in _sure_enough(name, each)]
    if judged := verdicts(results, "adversarial"):
        facts["adversarial"] = judged
        lines += in_words(judged, "adversarial")
    header = ["", *(column.title for column in columns)]
    return Report(facts, "\n".join([table(header, rows), "", *lines, f"Runs: {runs}"]))


def _sure_enough(name: str, results: Results) -> list[str]:
    """Of each `weak` term of a student, how often its teacher was sure enough."""
    runs = [metrics[WEAK_KEPT] for metrics in results if WEAK_KEPT in metrics]
    return [
        f"{name}, weak: {percent([each['share'] for each in terms])} of rows are at or above the confidence of "
        f"{terms[0]['threshold']:g}, in its last epoch."
        for terms in zip(*runs, strict=True)
    ]


def _a_token(cache: LabelCache) -> str:
    """Bytes of one position, where a sample has several."""
    positions = cache.job.labels.get("positions")
    if cache.seal is None or not isinstance(positions, int):
        return ""
    return f", {cache.seal.bytes / cache.seal.rows / positions:.1f} a position"


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
