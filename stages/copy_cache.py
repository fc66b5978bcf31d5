"""Copy a label cache to another place, such as a bucket, or from one."""

from pathlib import Path

from pipeline.store.copies import Copied, copy
from pipeline.store.writer import human
from stages.bars import bar
from stages.report import Report, counted
from stages.signals import stop_on_signals

INCOMPLETE = 4


def copy_cache(source: Path | str, dest: Path | str) -> Report:
    """Copy what of a cache is not at its destination yet; exit code 4 while it has no seal.

    Raises:
        IncompleteError: there is no cache at the source.
        CorruptError: a file of it is gone or damaged.
        MismatchError: another cache is at the destination.
        StorageError: a disk or a server refuses.
        StoppedError: asked to stop; what is copied is kept.

    """
    with stop_on_signals() as stop, bar("copy", 0, unit="B") as progress:

        def told(done: int, total: int) -> None:
            progress.total = total
            progress.update(done)

        copied = copy(source, dest, told, stop)
    if copied is None:
        raise stop.error(f"What was copied to {dest} is kept.")
    facts = {
        "source": str(source),
        "dest": str(dest),
        "cache_id": copied.state.seal.cache_id if copied.state.seal else None,
        "shards": len(copied.state.receipts),
        "copied": copied.shards,
        "bytes": copied.bytes,
    }
    return Report(facts, _text(source, dest, copied), 0 if copied.state.seal else INCOMPLETE)


def _text(source: Path | str, dest: Path | str, copied: Copied) -> str:
    there = counted(len(copied.state.receipts), "shard")
    now = f"{copied.shards:,} copied now ({human(copied.bytes)}), each as its receipt says"
    if copied.state.seal:
        return f"{dest}: {there}, {now}. Cache id {copied.state.seal.cache_id[:16]}, as at {source}."
    return f"{dest}: {there}, {now}. {source} has no seal yet: finish it, and run the same command again."
