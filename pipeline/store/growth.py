"""More views or more samples for a cache that is whole, without a change to any shard or receipt of it.

Its job says from then on what it was before and how much it is to hold; a writer finds the new shards missing. Until
the new seal is there, readers find the cache as it was.
"""

from pipeline.errors import ConfigError, IncompleteError
from pipeline.store.addresses import Where, place_of
from pipeline.store.documents import Job, Seal
from pipeline.store.places import Place
from pipeline.store.state import JOB, State, read_job, read_sealed, read_state


def extend(where: Where, wanted: Job) -> Job:
    """Have a sealed cache grow to the views and samples of a job that is its own in all else.

    A growth of which no shard is done may be given another extent, or be taken back by the one that there was. Not for
    two at a time in a store that has no lock: the last one's counts.

    Returns:
        Its job; that of a cache that is growing to just that already is left as it is.

    Raises:
        IncompleteError: it has no seal, or shards of another growth.
        ConfigError: it has as many views and samples, or more.
        LockedError: a writer is at work on it.

    """
    place = place_of(where)
    read_job(place)  # refuses what is no cache, before a lock is made there
    place.prepare()
    lock, whole = place.lock(), False
    try:
        state = read_state(place)
        job = _grown(place, state, wanted)
        if job != state.job:
            place.write(JOB, [job.to_bytes()])
        whole = not job.differences(read_sealed(place, job)[0])
    finally:
        lock.release(remove=whole)
    return job


def sealed_job(where: Where) -> tuple[Job, Seal]:
    """What a cache holds, and its seal; while it grows, what it held before.

    Raises:
        IncompleteError: it has no seal.

    All else as `read_state`.
    """
    place = place_of(where)
    job = read_job(place)
    was, seal = read_sealed(place, job)
    if not seal:
        done = len(read_state(place).receipts)
        raise IncompleteError(
            f"{place} has no seal: {done} of its {job.layout.shards} shards are done. Finish it with the command that "
            "began it; a cache that is whole can be extended."
        )
    return was, seal


def _grown(place: Place, state: State, wanted: Job) -> Job:
    was, seal = sealed_job(place)
    growing = was != state.job
    if growing and not state.job.differences(wanted):
        return state.job
    if growing and len(state.receipts) > was.layout.shards:
        raise IncompleteError(
            f"{place} is growing from {was.extent} to {state.job.extent}, and some shards of that are done. Finish it "
            f"first: `softlabels extend CONFIG --views {state.job.view_count}`, with the dataset of then."
        )
    if growing and not was.differences(wanted):
        return was
    if not was.smaller_than(wanted):
        raise ConfigError(f"{place} has {was.extent}, and {wanted.extent} are no more. Ask for more.")
    return was.extended(wanted, seal.cache_id)
