"""The format is open and stays readable."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import encodings
from pipeline.audit import stored_log_p
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
    views = [found.gather(view, np.arange(found.layout.rows)) for view in range(found.layout.views)]
    sys.path.insert(0, str(GOLDEN))
    from read_elsewhere import digest  # noqa: PLC0415 - the script's own, which runs without us

    spec = label_spec(found)
    stored = {array.name: torch.from_numpy(views[1][array.name]) for array in encodings.arrays(spec)}
    assert torch.isfinite(stored_log_p(encodings.decode(spec, stored), 1.0)[0]).all()
    assert {key: digest(np.stack([view[key] for view in views])) for key in views[0]} == CACHES[name]["arrays"]


@pytest.mark.promise("P14")
@pytest.mark.parametrize("reader", ["zarr", "zarrs", "tensorstore"])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", CACHES)
def test_other_implementations_read_what_was_written(name: str, environment: str, reader: str) -> None:
    """Law: every value of every array, by zarr-python, by zarrs and by TensorStore, without a line of ours."""
    if not ENVIRONMENTS[environment].exists():
        pytest.skip("`make readers` makes the environment of the newest versions; it needs Python 3.12 or newer")
    command = [str(ENVIRONMENTS[environment]), str(GOLDEN / "read_elsewhere.py"), reader, str(GOLDEN / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == CACHES[name]["arrays"]
