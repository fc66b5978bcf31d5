"""The vocabulary of soft labels costs nothing to import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["pipeline.labels", "pipeline.config", "stages.inspect_cache", "stages.__main__"])
def test_looking_at_a_cache_needs_no_torch(module: str) -> None:
    """`inspect` and `--help` answer at once: what they import never imports torch, in a process of its own."""
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
