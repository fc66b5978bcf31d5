"""Durable writes: what is called, in which order, and what an error of the disk becomes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import pytest
from faulty_os import Calls
from store_cases import tree

from pipeline.errors import CorruptError, StorageError
from pipeline.store import files

WRITES = {
    "write_durably": lambda path: files.write_durably(path, [b"ab", memoryview(b"cd")]),
    "create_exclusively": lambda path: files.create_exclusively(path, b"abcd"),
}


class Fault:
    """Fails the n-th call with an errno; later calls go through."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number, self.failed = at, number, None

    def __call__(self, count: int, name: str, args: tuple[Any, ...]) -> None:
        """Raise at the n-th call."""
        if count == self.at:
            self.failed = name
            raise OSError(self.number, os.strerror(self.number), str(args[0]))


def refusal_of(write: Callable[[Path], object], path: Path) -> str:
    """The text of the StorageError that a write ends with; empty if it ends well."""
    try:
        write(path)
    except StorageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_file_is_synced_before_it_has_its_name_and_its_directory_after(
    write: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: content, then name, then directory: in that order a power loss at any point leaves no lie."""
    seen = []
    monkeypatch.setattr(files, "os", Calls(lambda _, name, args: seen.append((name, args))))
    write(tmp_path / "a")
    names = [name for name, _ in seen]
    naming = next(place for place, name in enumerate(names) if name in ("replace", "link"))
    synced = [place for place, name in enumerate(names) if name == "fsync"]
    directory = next(place for place, (name, args) in enumerate(seen) if name == "open" and args[0] == tmp_path)
    assert (
        max(place for place, name in enumerate(names) if name == "writev") < synced[0] < naming < directory < synced[1]
    )
    assert tree(tmp_path) == {"a": b"abcd"}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_any_failing_call_is_a_storage_error_and_leaves_nothing_unfinished(
    write: Callable[[Path], object], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: for every n, if the n-th call fails, the error says so, no temporary stays, and writing again works."""
    for at in range(1, 100):
        fault = Fault(at, number)
        monkeypatch.setattr(files, "os", Calls(fault))
        path = tmp_path / str(at)
        said = refusal_of(write, path)
        if fault.failed is None:
            break
        for text in (str(path), errno.errorcode[number], os.strerror(number)):
            assert text in said
        assert fault.failed == "unlink" or not [name for name in tree(tmp_path) if files.is_leftover(name)]
        write(path)
        assert path.read_bytes() == b"abcd"
        files.remove_leftovers(tmp_path)
    assert at > 8


def test_a_sync_that_failed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: after a failed fsync the file gets no name and no second fsync: the kernel would report success."""
    synced = []

    def fail(_: object, name: str, args: tuple[Any, ...]) -> None:
        if name == "fsync":
            synced.append(args)
            raise OSError(errno.EIO, "lost page")

    monkeypatch.setattr(files, "os", Calls(fail))
    with pytest.raises(StorageError, match="do not trust this disk"):
        files.write_durably(tmp_path / "a", [b"x"])
    assert len(synced) == 1
    assert tree(tmp_path) == {}


def test_a_name_whose_directory_could_not_be_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: a file that create_exclusively could not make last is no proof, so it must not stay."""
    linked = []

    def fail(_: object, name: str, __: object) -> None:
        if name == "fsync" and linked:
            raise OSError(errno.EIO, "lost page")
        if name == "link":
            linked.append(name)

    monkeypatch.setattr(files, "os", Calls(fail))
    with pytest.raises(StorageError, match="could not create this file"):
        files.create_exclusively(tmp_path / "a", b"x")
    assert tree(tmp_path) == {}


def test_a_file_system_that_cannot_sync_directories_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case: some network file systems answer EINVAL, and need no such sync."""
    directories = []

    def fail(_: object, name: str, args: tuple[Any, ...]) -> None:
        if name == "open" and args[1] & os.O_DIRECTORY:
            directories.append(args[0])
        if name == "fsync" and directories:
            raise OSError(errno.EINVAL, "invalid")

    monkeypatch.setattr(files, "os", Calls(fail))
    files.write_durably(tmp_path / "a", [b"x"])
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_write_replaces_and_a_creation_does_not(tmp_path: Path) -> None:
    """Law: create_exclusively tells whether it wrote, and never touches what is there."""
    assert files.create_exclusively(tmp_path / "a", b"first")
    assert not files.create_exclusively(tmp_path / "a", b"second")
    assert tree(tmp_path) == {"a": b"first"}
    files.write_durably(tmp_path / "a", [b"third"])
    assert tree(tmp_path) == {"a": b"third"}


def test_a_leftover_that_is_a_second_name_of_a_finished_file_is_not_truncated(tmp_path: Path) -> None:
    """Law: a creation killed before it dropped its temporary name leaves two names of one file; both may not go."""
    files.create_exclusively(tmp_path / "a", b"proof")
    os.link(tmp_path / "a", tmp_path / f"{files.PREFIX}{os.getpid()}-a{files.SUFFIX}")
    assert not files.create_exclusively(tmp_path / "a", b"other")
    assert tree(tmp_path) == {"a": b"proof"}


def test_a_write_that_the_kernel_cuts_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case: a write may take fewer bytes than it was given."""

    class Short(Calls):
        def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def cut(descriptor: int, pieces: list[memoryview]) -> int:
                return real(descriptor, [b"".join(pieces)[:3]])

            return cut if name == "writev" else super()._watched(name, real)

    monkeypatch.setattr(files, "os", Short())
    files.write_durably(tmp_path / "a", [b"0123456789", b"", b"ab"])
    assert (tmp_path / "a").read_bytes() == b"0123456789ab"


def test_a_file_of_more_pieces_than_one_call_takes_is_whole(tmp_path: Path) -> None:
    """Case: one more than the system allows in a call."""
    pieces = [number.to_bytes(2, "little") for number in range(files.MOST_PIECES + 1)]
    files.write_durably(tmp_path / "a", pieces)
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)


def test_leftovers_are_removed_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    """Law: only names of ours go."""
    names = ["a", ".hidden", "b/c", f"{files.PREFIX}1-a{files.SUFFIX}", f"b/{files.PREFIX}22-c{files.SUFFIX}"]
    (tmp_path / "b").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"")
    files.remove_leftovers(tmp_path)
    assert sorted(tree(tmp_path)) == [".hidden", "a", "b/c"]


def test_a_directory_is_made_with_its_parents_and_each_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: for each directory made, the one above it is synced after; making it again is no error."""
    opened = []
    monkeypatch.setattr(files, "os", Calls(lambda _, name, args: name == "open" and opened.append(args[0])))
    for _ in range(2):
        files.make_directory(tmp_path / "a" / "b")
    assert opened == [tmp_path, tmp_path / "a", tmp_path / "a"]
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_a_file_where_a_directory_is_needed_is_a_storage_error(place: str, tmp_path: Path) -> None:
    """Each refusal says that a file is in the way."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file"):
        files.make_directory(tmp_path / place)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A link may lead anywhere, a pipe may wait forever, a directory has no bytes; what is not there is None."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    assert files.read(tmp_path / "a") == b"x"
    assert files.read(tmp_path / "b") is None
    with pytest.raises(CorruptError, match="link is a symbolic link; expected the file itself"):
        files.read(tmp_path / "link")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(CorruptError, match="is not a regular file"):
            files.read(path)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "change the permissions"),
        (errno.EROFS, "can only be read"),
        (errno.EIO, "look into the system's log"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EPERM, "without hard links"),
        (errno.EXDEV, "what the system says about this disk"),
    ],
)
def test_an_error_of_the_disk_says_what_to_do(number: int, advice: str) -> Never:
    """One paragraph: the path, what was attempted, the system's words, advice."""
    with pytest.raises(StorageError) as refusal, files.explained("write this file", Path("/a/b")):
        raise OSError(number, "whatever")
    message = str(refusal.value)
    assert message.startswith(f"/a/b: could not write this file: {os.strerror(number)} ({errno.errorcode[number]}).")
    assert advice in message
    assert "\n" not in message
