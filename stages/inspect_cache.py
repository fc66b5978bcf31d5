"""Say what a label cache is, who made it and how far it is, from its documents alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from pipeline.labels import CLUSTERED, LabelSpec
from pipeline.store.state import State, read_sealed, read_state
from pipeline.store.writer import human
from pipeline.terms import TERMS, served
from stages.report import Report, counted, duration

INCOMPLETE = 4
UNTRUE = "not from these labels: it asks for true ones, and clusters are no classes"


def inspect(path: Path | str) -> Report:
    """The facts of a cache; exit code 4 while it has no seal.

    Raises:
        IncompleteError: there is no cache at the path.
        CorruptError: one of its documents is not what was written.

    """
    state = read_state(path)
    was, seal = read_sealed(path, state.job)
    facts = _facts(path, state) | {"grows_from": was.extent if seal and not state.seal else None}
    return Report(facts, _text(facts), 0 if state.seal else INCOMPLETE)


def _facts(path: Path | str, state: State) -> dict[str, Any]:
    job, receipts, seal = state.job, list(state.receipts.values()), state.seal
    return {
        "cache": str(path),
        "sealed": seal is not None,
        "cache_id": seal.cache_id if seal else None,
        "job": job.fingerprint,
        "rows": job.rows,
        "views": job.view_count,
        "shards": job.layout.shards,
        "shards_done": len(receipts),
        "bytes": sum(proof.bytes for receipt in receipts for proof in receipt.arrays.values()),
        "seconds": sum(receipt.made.seconds for receipt in receipts),
        "hosts": sorted({receipt.made.host for receipt in receipts}),
        "attempts": max((receipt.made.attempt for receipt in receipts), default=0),
        "versions": seal.made.versions if seal else {},
        "asked": {"dataset": job.dataset, "views": job.views, "teacher": job.teacher, "labels": job.labels},
        "arrays": {spec.name: f"{spec.dtype} {list(spec.row_shape)}" for spec in job.arrays},
        "serves": _serves(job.labels, clustered=CLUSTERED in job.teacher),
        "about": seal.about if seal else {},
    }


def _text(facts: dict[str, Any]) -> str:
    state = f"sealed, cache id {facts['cache_id']}" if facts["sealed"] else _unsealed(facts)
    hosts = _listed(facts["hosts"]) or "no host"
    made = f"{duration(facts['seconds'])} in {counted(facts['attempts'], 'attempt')} on {hosts}"
    serves = "".join(f"\n  {name:<10} {words}" for name, words in facts["serves"].items())
    asked = "\n".join(f"{section:<9} {_listed(facts['asked'][section])}" for section in facts["asked"])
    return (
        f"cache     {facts['cache']}\n"
        f"state     {state}\n"
        f"rows      {facts['rows']:,} in {counted(facts['views'], 'view')}\n"
        f"shards    {facts['shards_done']:,} of {facts['shards']:,} done, {human(facts['bytes'])}\n"
        f"made      {made}\n"
        f"{asked}\n"
        f"arrays    {_listed(facts['arrays'])}\n"
        f"about     {_listed(facts['about'])}\n"
        f"serves{serves or '    nothing that this version knows'}"
    )


def _unsealed(facts: dict[str, Any]) -> str:
    if (extent := facts["grows_from"]) is None:
        return "NOT SEALED: run `softlabels generate` again"
    return f"GROWING from {extent}, which can be read: run `softlabels extend CONFIG --views {facts['views']}` again"


def _serves(labels: Mapping[str, JsonValue], *, clustered: bool) -> dict[str, str]:
    """Which losses, at which temperatures; none, if the job's labels are not any that this version knows."""
    try:
        spec = TypeAdapter(LabelSpec).validate_python(labels)
    except ValidationError:
        return {}
    if not any(spec.encoding in kind.serves for kind in TERMS.values()):
        return {}
    words = served(spec.encoding, spec.temperatures, standardised=spec.standardised)
    return {name: UNTRUE if clustered and TERMS[name].truth else each for name, each in words.items()}


def _listed(value: dict[str, Any] | list[str]) -> str:
    """On one line."""
    items = (f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else iter(value)
    return ", ".join(" ".join(item.splitlines()) for item in items)
