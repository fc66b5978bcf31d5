"""Show a label cache on one page: what it is, what a row holds, how fast it was made, what its labels say.

What is not a cache is taken for runs: `stages.report_runs`.
"""

from dataclasses import replace
from pathlib import Path

from pipeline.audit.statistics import Statistics, statistics
from pipeline.errors import ConfigError, IncompleteError
from pipeline.labels import CLUSTERED
from pipeline.pace import steps
from pipeline.pages import page
from pipeline.reader import label_spec
from pipeline.store.addresses import place_of
from pipeline.store.directories import Directory
from pipeline.store.files import make_directory, write_durably
from pipeline.store.mapped import LabelCache
from pipeline.store.state import JOB, State, read_state
from stages.bars import bar
from stages.cache_sections import asked, kept, losses, made, overview, teacher
from stages.inspect_cache import described, told
from stages.label_sections import clusters, said
from stages.report import Report, counted
from stages.report_runs import report_runs

TRIES = 10  # to see a cache that is being made at one moment


def report(where: Path | str, out: Path | str | None) -> Report:
    """Write the page of a cache, which a place with its job is; of any other folder, that of runs.

    Raises:
        IncompleteError: neither is there.
        ConfigError: the page has no place, or one at an address or inside the cache.
        CorruptError: a document or a shard is not what was written, or the labels are of another version.
        StorageError: something cannot be read, or the page cannot be written.

    """
    if isinstance(out, str):
        raise ConfigError(f"{out} is an address, and a page is a file of this machine. Name a path: --out FILE.html.")
    place = place_of(where)
    place.refuse_taken("Give the path of a label cache or of a folder of runs.")
    if place.read(JOB) is not None:
        return report_cache(where, out)
    if isinstance(where, str):
        raise IncompleteError(
            f"{place} holds no label cache: it has no {JOB}. Give the address of one; or, of runs, the path of their "
            "folder on this machine."
        )
    return report_runs(where, out)


def report_cache(where: Path | str, out: Path | None) -> Report:
    """Write the page of a cache, as far as it is: exit code 4 while it has no seal. Raises as `report`."""
    file = _file(where, out)
    state, cache = _moment(where)
    found = told(where, state)
    spec = label_spec(cache)
    make_directory(file.parent)  # refused before the work, not after it
    about = _looked_at(cache, len(state.receipts)) if state.receipts else None
    parts = [*overview(found.facts), *kept(state, spec), *made(steps(state.receipts.values()))]
    if about:
        parts += clusters(about) if CLUSTERED in state.job.teacher else said(about)
    parts += [*teacher(found.facts["about"]), *losses(found.facts), *asked(found.facts)]
    write_durably(file, [page(str(where), parts).encode()])
    facts = {"page": str(file), **found.facts, "statistics": about.facts() if about else None}
    text = f"{file}: {_text(state)} {described(found.facts)['state']}."
    return replace(found, facts=facts, text=text)


def _moment(where: Path | str) -> tuple[State, LabelCache]:
    """What a cache says and holds, of one moment if one can be had: its writer may be at work."""
    state = read_state(where)
    for _ in range(TRIES):
        cache, before = LabelCache.open(where, allow_partial=True), state
        state = read_state(where)
        if state == before:
            break
    return before, cache


def _text(state: State) -> str:
    rows, views = counted(state.job.rows, "row"), counted(state.job.view_count, "view")
    return f"{rows} in {views}, {len(state.receipts):,} of {counted(state.job.layout.shards, 'shard')} done:"


def _looked_at(cache: LabelCache, shards: int) -> Statistics:
    with bar("statistics", shards, unit=" shards") as progress:
        return statistics(cache, progress=progress.update)


def _file(where: Path | str, out: Path | None) -> Path:
    """Where the page goes: beside the cache, if nothing else is said, and never into it."""
    if out is None:
        if isinstance(where, str) or not (named := _named(where)).name:
            raise ConfigError(
                f"{where} has no place beside it for a page on this machine. Say where it goes: --out FILE.html."
            )
        return named.with_name(f"{named.name}.html")
    place = place_of(where)
    if isinstance(place, Directory) and out.resolve().is_relative_to(place.root.resolve()):
        raise ConfigError(
            f"{out} is inside the cache {where}, which holds what its writer wrote and nothing else. Name a file "
            "elsewhere: --out FILE.html."
        )
    return out


def _named(path: Path) -> Path:
    """The path by a name: "." and ".." have none."""
    return path.resolve() if path.name in {"", ".."} else path
