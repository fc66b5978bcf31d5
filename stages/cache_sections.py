"""What a cache's documents say, as sections of its page: what it is, what a row holds, how fast it was made."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from pipeline import features, plots
from pipeline.labels import FeatureSpec, LabelSpec
from pipeline.pace import Pace, Step, course, paces, slow
from pipeline.pages import cut, glossary, grid, heading, paragraph, picture
from pipeline.store.layout import row_bytes
from pipeline.store.state import State
from stages.columns import COLUMNS, NONE, PAGE_ONLY
from stages.inspect_cache import SERVES_NOTHING, described
from stages.report import counted, duration

MOST_LISTED = 20  # hosts, and shards
OF_EVERY_ROW = {"sample_id": "which sample", "label": "its true label", "input_crc32c": "checksum of its input"}


def overview(facts: Mapping[str, Any]) -> Iterator[str]:
    """What it is, how far, who made it, and with what."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = {name: cut(words) for name, words in described(facts).items()}
    yield glossary(lines | ({"with": cut(versions)} if versions else {}))


def kept(state: State, spec: LabelSpec) -> Iterator[str]:
    """The arrays of a row, and what each takes of the cache."""
    job, total = state.job, sum(row_bytes(array) for array in state.job.arrays)
    files = dict.fromkeys((array.name for array in job.arrays), 0)
    for receipt in state.receipts.values():
        for name, proof in receipt.arrays.items():
            files[name] += proof.bytes
    everything, meanings = sum(files.values()), _meanings(spec)
    rows = [
        [
            array.name,
            cut(meanings.get(array.name, f"{spec.encoding} labels")),
            array.dtype,
            str(list(array.row_shape)),
            f"{row_bytes(array):,}",
            f"{files[array.name] / everything:.1%}" if everything else NONE,
        ]
        for array in job.arrays
    ]
    yield heading("What is stored of a row")
    share = "100.0%" if everything else NONE
    yield grid(
        ["array", "what it is", "dtype", "shape", "bytes a row", "of the cache"],
        [*rows, ["all", "", "", "", f"{total:,}", share]],
    )


def _meanings(spec: LabelSpec) -> dict[str, str]:
    """What the arrays are that no encoding makes."""
    found = dict(OF_EVERY_ROW)
    for each in spec.kept:
        if isinstance(each, FeatureSpec):
            words = f"feature of the module {each.module!r}, reduction {each.reduction!r} of {list(each.module_shape)}"
        else:
            words = f"gradient of {each.of!r} by the input"
        found |= {array.name: words for array in features.arrays([each])}
    return found


def made(done: Sequence[Step]) -> Iterator[str]:
    """How fast each host was, and the shards that took long."""
    yield heading("How fast it was made")
    if not done:
        yield paragraph("No shard is done.")
        return
    if points := course(done):
        yield picture(
            plots.pace(points), f"rows a second of {counted(sum(map(len, points.values())), 'shard')} by host"
        )
    hosts, late = paces(done), slow(done)
    yield grid(["host", "shards", "rows", "time", "rows/s", "slowest shard", "its rows/s"], list(_hosts(hosts)))
    if len(hosts) > MOST_LISTED:
        yield paragraph(f"The slowest of {len(hosts):,} hosts.")
    yield paragraph(f"{counted(len(late), 'shard')} of {len(done):,} took more than twice the median time a row.")
    if late:
        rows = [
            [f"{each.shard:,}", f"{each.view:,}", cut(each.host), _rate(each), duration(each.seconds)]
            for each in late[:MOST_LISTED]
        ]
        yield grid(["slow shard", "view", "host", "rows/s", "time"], rows)


def _hosts(hosts: Sequence[Pace]) -> Iterator[Sequence[str]]:
    for each in hosts[:MOST_LISTED]:
        amount = [f"{each.shards:,}", f"{each.rows:,}", duration(each.seconds), _rate(each)]
        yield [cut(each.host), *amount, f"{each.slowest.shard:,}", _rate(each.slowest)]


def teacher(about: Mapping[str, JsonValue]) -> Iterator[str]:
    """The figures in the seal: those of the teacher by their titles, others as they stand there."""
    columns = {column.asked: column for column in (*COLUMNS, *PAGE_ONLY) if column.asked}
    named = {column.title: column.teacher(about) for column in columns.values()}
    shown = {title: words for title, words in named.items() if words != NONE}
    others = {cut(name): _shown(value) for name, value in about.items() if name not in columns and value is not None}
    if shown:
        yield heading("Its teacher")
        yield grid(list(shown), [list(shown.values())])
    if others:
        yield heading("What else its seal says")
        yield glossary(others)


def losses(facts: Mapping[str, Any]) -> Iterator[str]:
    """Those that it serves."""
    yield heading("Which losses it serves")
    yield glossary(facts["serves"]) if facts["serves"] else paragraph(SERVES_NOTHING)


def asked(facts: Mapping[str, Any]) -> Iterator[str]:
    """What decided its labels."""
    yield heading("What was asked")
    sections = facts["asked"].items()
    found = {f"{section}.{name}": value for section, values in sections for name, value in values.items()}
    yield glossary({cut(name): _shown(value) for name, value in found.items() if value is not None})


def _rate(of: Step | Pace) -> str:
    return NONE if of.rate is None else f"{of.rate:,.4g}"


def _shown(value: JsonValue) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
