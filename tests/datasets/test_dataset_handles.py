"""A handle belongs to the process that opened it."""

import multiprocessing
import os
import pickle

import pytest

from pipeline.datasets.handles import PerProcess


class Token:
    """A handle that knows its process."""

    def __init__(self) -> None:
        self.process = os.getpid()


def test_a_process_opens_its_handle_once() -> None:
    """get() is get(): one open file, however many batches."""
    handle = PerProcess(Token)
    assert handle.get() is handle.get()


# From Python 3.12 on a fork beside other libraries' threads warns; the forked code here touches none of them.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own() -> None:
    """The handle a child reads by was opened by the child."""
    handle = PerProcess(Token)
    assert handle.get().process == os.getpid()
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=lambda: answers.put((handle.get().process, os.getpid())))
    child.start()
    opened_by, child_is = answers.get()
    child.join(60)
    assert opened_by == child_is != os.getpid()


def test_a_pickle_leaves_the_handle_behind() -> None:
    """What comes out of a pickle opens anew."""
    handle = PerProcess(Token)
    first = handle.get()
    again: PerProcess[Token] = pickle.loads(pickle.dumps(handle))  # noqa: S301  # pickled on this very line
    assert again.get() is not first
