"""Check every byte of a label cache against its receipts."""

from pathlib import Path

from pipeline.store.verify import Report as Verified
from pipeline.store.verify import verify as verify_store
from pipeline.store.writer import human
from stages.bars import bar
from stages.report import Report, counted

CORRUPT, INCOMPLETE = 3, 4


def verify(path: Path | str) -> Report:
    """Every problem of a cache, by file; exit code 0 if there is none, 3 if there is, 4 while it has no seal.

    Raises:
        IncompleteError: there is no cache at the path.

    """
    with bar("verify", 0, unit="B") as progress:
        found = verify_store(path, progress.update)
    problems = [{"path": str(problem.path), "what": problem.what} for problem in found.problems]
    facts = {
        "cache": str(path),
        "sealed": found.sealed,
        "shards": found.shards,
        "bytes": found.bytes,
        "problems": problems,
    }
    return Report(facts, _text(path, found), CORRUPT if problems else 0 if found.sealed else INCOMPLETE)


def _text(path: Path | str, found: Verified) -> str:
    checked = f"{path}: {counted(found.shards, 'shard')}, {human(found.bytes)} verified"
    if found.problems:
        named = [f"  {' '.join(problem.what.splitlines())}" for problem in found.problems]
        return "\n".join([f"{checked}; {counted(len(found.problems), 'problem')}:", *named])
    if found.grows_to:
        return (
            f"{checked}, all as written; but it is growing to {found.grows_to}. Run the `softlabels extend` that began "
            "that again; until it is done readers find the cache as it was."
        )
    if not found.sealed:
        return (
            f"{checked}, all as written; but the cache has no seal yet. Run `softlabels generate` again to finish it."
        )
    return f"{checked}: every byte is as it was written."
