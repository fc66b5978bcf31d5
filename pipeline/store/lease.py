"""One writer at a time where a store can do no better: a lease that its holder renews.

Two that come in the same second may both believe that they hold it: no store without conditional writes can keep them
apart for certain. Both then write whole objects of the same job, and `verify` tells whether they agree.
"""

import json
import platform
import time
from contextlib import suppress
from os import getpid
from threading import Event, Thread
from typing import Self
from uuid import uuid4

from pipeline.errors import LockedError, StorageError
from pipeline.store.places import LOCK, Place

LASTS_SECONDS, RENEWED_SECONDS, SETTLES_SECONDS = 120.0, 20.0, 1.0


class Lease:
    """The object `lock`, which says who writes here and when they last said so. Held until `release`.

    Args:
        place: where.

    Raises:
        LockedError: someone else said so, less than two minutes ago.
        StorageError: the server refuses.

    """

    def __init__(self, place: Place) -> None:
        self._place, self._token, self._lost = place, uuid4().hex, False
        refuse_leased(place)
        self._renew()
        time.sleep(SETTLES_SECONDS)
        refuse_leased(place, but=self._token)
        self._over = Event()
        self._thread = Thread(target=self._keep, daemon=True)
        self._thread.start()

    def release(self, *, remove: bool) -> None:  # noqa: ARG002 - what has no lock of a kernel is removed always
        """Give the lease back, if it is still this one."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        if self._is_ours():
            self._place.remove(LOCK)

    def refuse_lost(self) -> None:
        """Raise LockedError if it was not renewed in time, or another writer has taken it."""
        if self._lost:
            raise LockedError(
                f"{self._place} may be written by another process now: this one could not say that it lives for too "
                "long. What is done is kept. Run the same command again once the other one has ended."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release(remove=True)

    def _keep(self) -> None:
        said = time.monotonic()
        while not self._over.wait(RENEWED_SECONDS) and not self._lost:
            with suppress(StorageError):  # a server that is down for a moment: until others may think we are gone
                if self._is_ours():
                    self._renew()
                    said = time.monotonic()
                else:
                    self._lost = True
            self._lost |= time.monotonic() - said > LASTS_SECONDS - RENEWED_SECONDS

    def _is_ours(self) -> bool:
        return self._token.encode() in (self._place.read(LOCK) or b"")

    def _renew(self) -> None:
        said = {"token": self._token, "who": f"process {getpid()} on {platform.node()}", "when": time.time()}
        self._place.write(LOCK, [json.dumps(said).encode()])


def refuse_leased(place: Place, but: str | None = None) -> None:
    """Raise LockedError if someone holds a lease, other than whoever has this token."""
    try:
        said = json.loads(place.read(LOCK) or b"null")
        token, who, age = said["token"], str(said["who"]), time.time() - float(said["when"])
    except (ValueError, TypeError, KeyError):
        return  # no lease, or nothing that says so
    if token != but and age < LASTS_SECONDS:
        raise LockedError(
            f"{place} is being written by {who}, who said so {age:.0f} seconds ago; this store has no conditional "
            "writes, so a cache there has one writer at a time. Wait for it to end, or stop it and wait two minutes, "
            "then run this command again: what it has done is kept."
        )
