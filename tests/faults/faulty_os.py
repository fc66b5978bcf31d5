"""The module `os` as the store sees it, with every call that changes a disk under a test's control."""

import os
from collections.abc import Callable
from typing import Any


class Calls:
    """The module `os` as `files` sees it, with every call that changes a disk counted, and `before` told of each."""

    NAMES = ("open", "writev", "fsync", "close", "replace", "link", "unlink", "mkdir")

    def __init__(
        self,
        before: Callable[[int, str, tuple[Any, ...]], object] = lambda *_: None,
        *,
        sync: bool = False,
    ) -> None:
        self.count, self._before, self._sync = 0, before, sync

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever `os` has
        """A function of `os`, watched if it is one of `NAMES`."""
        real = getattr(os, name)
        return self._watched(name, real) if name in self.NAMES else real

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - stands for any function of `os`
            self.count += 1
            self._before(self.count, name, args)
            if name == "fsync" and not self._sync:  # what tests kill is this process, not the power
                return None
            return real(*args, **kwargs)

        return call


class Killed(BaseException):
    """What a process that is killed does not survive: no `except` and no `finally` of it can touch the disk again."""


def killed_at(at: int, dead: list[int]) -> Calls:
    """A process that dies at the call of that number: none after it is made. Says so in `dead`."""

    def kill(count: int, _name: str, _args: object) -> None:
        if count >= at:
            dead.append(count)
            raise Killed

    return Calls(kill)


def failing_at(at: int, number: int, failed: list[str]) -> Calls:
    """A disk that fails the call of that number with an errno. Says which it was in `failed`."""

    def fail(count: int, name: str, args: tuple[Any, ...]) -> None:
        if count == at:
            failed.append(name)
            raise OSError(number, os.strerror(number), str(args[0]))

    return Calls(fail)
