"""A prefix of an object store as the place of a cache: S3, and whatever else fsspec reaches.

A server has no rename and needs none: an object is whole or not there. What it must have is a conditional create, of
which the first wins; a store that has none is found out (`prepare`) and limited to one writer.

A request may be carried out and its answer lost. So whoever is told that an object is there already reads it: if it is
what was to be written, that is what happened.

Address, keys and region of a store are its library's to find: for S3 in AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the
like, or in ~/.aws. None of them is kept in an experiment file.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any
from uuid import uuid4

import fsspec

from pipeline.errors import ConfigError, CorruptError, StorageError
from pipeline.store.files import MOST_DOCUMENT_BYTES, Piece
from pipeline.store.lease import Lease, refuse_leased
from pipeline.store.lock import Lock, NoLock
from pipeline.store.places import LOCK, Place

CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""Whose create is one request, in fsspec. Others ask first and write then, and two may ask at the same time."""

FRESH: dict[str, Any] = {"use_listings_cache": False}
PATIENT: dict[str, Any] = {
    # Ten tries: a server that is down for a moment must not cost a run.
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 30, "retries": {"mode": "standard", "max_attempts": 10}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(CONDITIONAL - {"memory"}, FRESH),
    **dict.fromkeys(("s3", "s3a"), FRESH | PATIENT),
}
TOGETHER = 500  # small objects asked for at once
NOT_SATISFIABLE, PRECONDITION_FAILED, CONFLICT = 416, 412, 409
PROBE = f"{LOCK}.probe-"


class Bucket(Place):
    """A prefix of an object store.

    Args:
        url: its address, such as s3://bucket/prefix.

    Raises:
        ConfigError: nothing here knows such addresses, or its library is not installed.

    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.protocol = url.partition("://")[0]
        self.shared = self.protocol in CONDITIONAL
        _ = self._store

    def __reduce__(self) -> tuple[type["Bucket"], tuple[str]]:
        return type(self), (self.url,)

    def __str__(self) -> str:
        return self.url

    def where(self, name: str) -> str:
        """The address of an object."""
        return f"{self.url}/{name}"

    def refuse_taken(self, advice: str) -> None:
        """Nothing: objects may lie beside any others."""

    def refuse_links(self, folder: str) -> None:
        """Nothing: there are no links."""

    def entries(self) -> list[str]:
        """The names of objects and of what is like a folder, right at the top."""
        store, root = self._store
        with self._explained("list what is here", ""):
            try:
                found = store.ls(root, detail=False)
            except FileNotFoundError:
                return []
        names = [path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != root]
        return [name for name in names if not name.startswith(PROBE)]

    def names(self, under: str) -> Iterator[str]:
        """The names of all objects below a prefix that ends like a folder."""
        yield from self.sizes(under)

    def sizes(self, under: str) -> dict[str, int]:
        """The size of each object below a prefix that ends like a folder."""
        store, root = self._store
        with self._explained("list what is here", under):
            found = store.find(f"{root}/{under}".rstrip("/"), detail=True)
        return {path[len(root) + 1 :]: int(about["size"]) for path, about in found.items() if path.startswith(root)}

    def read(self, name: str, most: int = MOST_DOCUMENT_BYTES) -> bytes | None:
        """The content of an object; None if there is none."""
        data = self._beginning(name, most + 1)
        return None if data is None else self._held(name, data, most)

    def _beginning(self, name: str, size: int) -> bytes | None:
        """So many bytes of an object, if it has as many; None if there is none."""
        store, root = self._store
        with self._explained("read this object", name):
            try:
                # With a range it is one request; without, the library asks for the size first.
                data: bytes = store.cat_file(f"{root}/{name}", start=0, end=size)
            except FileNotFoundError:
                return None
            except OSError as error:
                if _status(error) != NOT_SATISFIABLE:
                    raise
                return b""  # nothing can be a range of an empty object
        return data

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Each name and its content, in order, many requested at a time."""
        store, root = self._store
        left, most = iter(names), MOST_DOCUMENT_BYTES
        while some := list(islice(left, TOGETHER)):
            paths = [f"{root}/{name}" for name in some]
            with self._explained("read objects", some[0]):
                found = store.cat_ranges(paths, [0] * len(some), [most + 1] * len(some), on_error="return")
            for name, data in zip(some, found, strict=True):
                yield name, self._held(name, data, most) if isinstance(data, bytes) else self.read(name)

    def write(self, name: str, pieces: Iterable[Piece]) -> None:
        """Write an object whole; replace one that is there."""
        store, root = self._store
        with self._explained("write this object", name):
            store.pipe_file(f"{root}/{name}", b"".join(pieces))

    def create(self, name: str, data: Piece) -> bool:
        """Write an object if there is none; return False, with nothing changed, if there is another one."""
        return self._created(name, bytes(data)) or self._beginning(name, len(data) + 1) == data

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        store, root = self._store
        with self._explained("remove this object", name):
            try:
                store.rm_file(f"{root}/{name}")
            except FileNotFoundError:
                return

    def prepare(self) -> None:
        """Find out whether the first of two that create an object wins here."""
        name = f"{PROBE}{uuid4().hex}"
        try:
            self.shared = self.create(name, b"1") and not self._created(name, b"2") and self.protocol in CONDITIONAL
        finally:
            self.remove(name)

    def tidy(self) -> None:
        """Remove what a writer that was killed while it looked has left; what is not whole is not there."""
        store, root = self._store
        with self._explained("list what is here", ""):
            found = store.glob(f"{root}/{PROBE}*")
        for path in found:
            self.remove(path[len(root) + 1 :])

    def settle(self, folder: str) -> None:
        """Nothing: what a server has said it holds lasts."""

    def lock(self) -> Lock:
        """Nothing to wait for where the first create wins: then every writer keeps what the others have done."""
        return NoLock() if self.shared else Lease(self)

    def refuse_locked(self) -> None:
        """Raise LockedError if a writer holds a lease here."""
        refuse_leased(self)

    def alone(self, name: str) -> AbstractContextManager[object]:  # noqa: ARG002 - of a directory
        """Nothing: whoever comes second finds out."""
        return nullcontext()

    @property
    def _store(self) -> tuple[Any, str]:
        """The library's object and the path it knows this prefix by; fsspec keeps one a process and thread of it."""
        try:
            store, path = fsspec.core.url_to_fs(self.url, **OPTIONS.get(self.protocol, {}))
        except ImportError as error:
            raise ConfigError(
                f"{self.url}: {error}. Install what reaches such a store (for s3: pip install 'softlabels[s3]'), or "
                "set another cache path."
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"{self.url} is no address that is known here: {error}. Expected a path, or an address such as "
                "s3://bucket/prefix."
            ) from None
        return store, path.rstrip("/")

    def _created(self, name: str, data: bytes) -> bool:
        """Whether an object was created now, as far as the server's answer tells."""
        store, root = self._store
        with self._explained("create this object", name):
            try:
                store.pipe_file(f"{root}/{name}", data, mode="create")
            except OSError as error:
                if isinstance(error, FileExistsError) or _status(error) in (PRECONDITION_FAILED, CONFLICT):
                    return False
                raise
        return True

    def _held(self, name: str, data: bytes, most: int) -> bytes:
        if len(data) > most:
            raise CorruptError(
                f"{self.where(name)} has more than the {most} bytes that were written at most. Restore it from a copy "
                "of the cache."
            )
        return data

    @contextmanager
    def _explained(self, attempt: str, name: str) -> Iterator[None]:
        """Whatever the library raises as a StorageError that says what was attempted and what to do."""
        try:
            yield
        except (StorageError, CorruptError):
            raise
        except Exception as error:
            said = " ".join(str(error).split()) or "no more is known"
            raise StorageError(
                f"{self.where(name)}: could not {attempt}: {type(error).__name__}: {said}. {_advice(error)} Then run "
                "the same command again: what is already done is kept."
            ) from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error began with, if it did."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = error.__cause__
    return None


def _advice(error: Exception) -> str:
    if isinstance(error, PermissionError) or "credentials" in str(error):
        return "Check its keys (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws), and what they may do."
    if isinstance(error, FileNotFoundError):
        return "Make the bucket first, or set another cache path."
    return "Check the address (for S3 also AWS_ENDPOINT_URL), the network and the server."
