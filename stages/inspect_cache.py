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
SERVES_NOTHING = "nothing that this version knows"
UNTRUE = "not from these labels: it asks for true ones, and clusters are no classes"


def inspect(path: Path | str) -> Report:
    """The facts of a cache; exit code 4 while it has no seal.

    Raises:
        IncompleteError: there is no cache at the path.
        CorruptError: one of its documents is not what was written.

    """
    return told(path, read_state(path))


def told(path: Path | str, state: State) -> Report:
    """The same of documents that were read. Raises CorruptError as `inspect`."""
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


def described(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a cache is, how far, and who made it, in words."""
    state = f"sealed, cache id {facts['cache_id']}" if facts["sealed"] else _unsealed(facts)
    hosts = _listed(facts["hosts"]) or "no host"
    made = f"{duration(facts['seconds'])} in {counted(facts['attempts'], 'attempt')} on {hosts}"
    return {
        "cache": facts["cache"],
        "state": state,
        "rows": f"{facts['rows']:,} in {counted(facts['views'], 'view')}",
        "shards": f"{facts['shards_done']:,} of {facts['shards']:,} done, {human(facts['bytes'])}",
        "made": made,
    }


def _text(facts: dict[str, Any]) -> str:
    listed = {**facts["asked"], "arrays": facts["arrays"], "about": facts["about"]}
    lines = described(facts) | {name: _listed(value) for name, value in listed.items()}
    serves = "".join(f"\n  {name:<10} {words}" for name, words in facts["serves"].items())
    text = "\n".join(f"{name:<9} {words}" for name, words in lines.items())
    return f"{text}\nserves{serves or f'    {SERVES_NOTHING}'}"


def _unsealed(facts: Mapping[str, Any]) -> str:
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
