"""Experiments at three stages of their life, each made once and copied for every test that changes it."""

import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from stage_cases import must, write_experiment

Copy = Callable[[Path], Path]


@pytest.fixture(scope="session")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose teacher is trained."""
    folder = tmp_path_factory.mktemp("fitted")
    write_experiment(folder)
    with chdir(folder):
        must("fit-teacher")
    return folder


@pytest.fixture(scope="session")
def filled_once(fitted_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose cache is sealed."""
    folder = tmp_path_factory.mktemp("filled") / "here"
    shutil.copytree(fitted_once, folder)
    with chdir(folder):
        must("generate")
    return folder


@pytest.fixture(scope="session")
def trained_once(filled_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose students are trained."""
    folder = tmp_path_factory.mktemp("trained") / "here"
    shutil.copytree(filled_once, folder)
    with chdir(folder):
        must("train")
    return folder


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    """Copies an experiment and goes to the copy: paths in an experiment count from the working directory."""

    def move(source: Path) -> Path:
        folder = tmp_path / "here"
        shutil.copytree(source, folder)
        monkeypatch.chdir(folder)
        return folder

    return move


@pytest.fixture
def fitted(fitted_once: Path, moved: Copy) -> Path:
    """The working directory: an experiment whose teacher is trained."""
    return moved(fitted_once)


@pytest.fixture
def filled(filled_once: Path, moved: Copy) -> Path:
    """The working directory: an experiment whose cache is sealed."""
    return moved(filled_once)


@pytest.fixture
def trained(trained_once: Path, moved: Copy) -> Path:
    """The working directory: an experiment whose students are trained."""
    return moved(trained_once)
