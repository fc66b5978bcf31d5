"""More views for a cache that is whole, without a change to any shard or receipt of it.

Its job says from then on what it was before and how many views it is to have; a writer finds the new ones missing.
Until the new seal is there, readers find the cache as it was.
"""

from pipeline.errors import ConfigError, IncompleteError
from pipeline.store.addresses import Where, place_of
from pipeline.store.documents import Job
from pipeline.store.places import Place
from pipeline.store.state import JOB, State, read_job, read_sealed, read_state


def extend(where: Where, views: int) -> Job:
    """Have a sealed cache grow to so many views.

    A growth of which no shard is done may be given another number, or be taken back by the number that there was. Not
    for two at a time in a store that has no lock: the last one's number counts.

    Returns:
        Its job; that of a cache that is growing to just that already is left as it is.

    Raises:
        IncompleteError: it has no seal, or shards of another growth.
        ConfigError: it has as many views, or more.
        LockedError: a writer is at work on it.

    """
    place = place_of(where)
    read_job(place)  # refuses what is no cache, before a lock is made there
    place.prepare()
    lock, whole = place.lock(), False
    try:
        state = read_state(place)
        job = _grown(place, state, views)
        if job != state.job:
            place.write(JOB, [job.to_bytes()])
        whole = job.view_count != views or state.seal is not None
    finally:
        lock.release(remove=whole)
    return job


def _grown(place: Place, state: State, views: int) -> Job:
    was, seal = read_sealed(place, state.job)
    if not seal:
        raise IncompleteError(
            f"{place} has no seal: {len(state.receipts)} of its {state.job.layout.shards} shards are done. Finish it "
            "with the command that began it; a cache that is whole can be extended."
        )
    growing = was.view_count < state.job.view_count
    if growing and views == state.job.view_count:
        return state.job
    if growing and len(state.receipts) > was.layout.shards:
        raise IncompleteError(
            f"{place} is growing from {was.view_count} to {state.job.view_count} views, and some shards of that are "
            f"done. Finish it first: `softlabels extend CONFIG --views {state.job.view_count}`."
        )
    if growing and views == was.view_count:
        return was
    if views <= was.view_count:
        raise ConfigError(f"{place} has {was.view_count} views, and {views} are no more. Ask for more.")
    return was.extended(views, seal.cache_id)
