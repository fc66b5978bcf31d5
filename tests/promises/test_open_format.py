"""The format is open and stays readable."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline.reader import label_spec
from pipeline.store.mapped import LabelCache
from pipeline.store.state import read_state
from pipeline.store.verify import verify

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FORMATS = sorted(GOLDEN.glob("*/expected.json"))
CACHES = {
    f"{file.parent.name}/{name}": known for file in FORMATS for name, known in json.loads(file.read_text()).items()
}
ENVIRONMENTS = {"this one": Path(sys.executable), "the newest": ROOT / ".venv-readers" / "bin" / "python"}


@pytest.mark.promise("P14")
@pytest.mark.parametrize("name", CACHES)
def test_a_golden_cache_opens_for_ever(name: str) -> None:
    """Law: a cache that any version of its format wrote has its id, every byte and the values that were written."""
    path = GOLDEN / name
    assert read_state(path).seal.cache_id == CACHES[name]["cache_id"]
    assert verify(path).problems == ()
    found = LabelCache.open(path)
    label_spec(found)
    views = [found.gather(view, np.arange(found.layout.rows)) for view in range(found.layout.views)]
    sys.path.insert(0, str(GOLDEN))
    from read_elsewhere import digest  # noqa: PLC0415 - the script's own, which runs without us

    assert {key: digest(np.stack([view[key] for view in views])) for key in views[0]} == CACHES[name]["arrays"]


@cache
def read_by(python: Path, path: Path) -> dict[str, dict[str, str]]:
    """What the implementations of Zarr in an environment read of a cache."""
    command = [str(python), str(GOLDEN / "read_elsewhere.py"), str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONPATH": ""})
    return json.loads(done.stdout)


@pytest.mark.promise("P14")
@pytest.mark.parametrize("reader", ["zarr", "zarrs", "tensorstore"])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", CACHES)
def test_other_implementations_read_what_was_written(name: str, environment: str, reader: str) -> None:
    """Law: every value of every array, by zarr-python, by zarrs and by TensorStore, without a line of ours."""
    if not ENVIRONMENTS[environment].exists():
        pytest.skip("`make readers` makes the environment of the newest versions; it needs Python 3.12 or newer")
    assert read_by(ENVIRONMENTS[environment], GOLDEN / name)[reader] == CACHES[name]["arrays"]
