"""`package.module:callable`: what it finds, and what each mistake is told."""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.references import resolve


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that is not importable yet; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_reference_finds_functions_classes_and_what_they_hold() -> None:
    """The name after the colon may have dots."""
    assert resolve("os.path:join")("a", "b") == "a/b"
    assert resolve("collections:OrderedDict.fromkeys")("ab") == OrderedDict(a=None, b=None)


def test_the_working_directory_can_be_imported_from(here: Path) -> None:
    """As with `python -m`, and it stays so: a spawned worker unpickles by the same path."""
    (here / "own_code.py").write_text("def build():\n    return 'built'\n")
    assert resolve("own_code:build")() == "built"
    assert sys.path.count(str(here)) == 1
    resolve("own_code:build")
    assert sys.path.count(str(here)) == 1


@pytest.mark.parametrize("reference", ["", "math", "math:", ":sqrt"])
def test_a_reference_has_a_module_and_a_name(reference: str) -> None:
    """Anything else is shown the form."""
    with pytest.raises(ConfigError, match=f"'{reference}' names no code: expected package.module:callable"):
        resolve(reference)


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        ("", "absent_code:build", "there is no module 'absent_code', neither installed nor in /.*run from the folder"),
        ("", "absent_code.deep:build", "there is no module 'absent_code', neither"),
        ("", "bad_code.deep:build", "there is no module 'bad_code.deep', neither"),
        ("import not_installed", "bad_code:build", "the module bad_code needs 'not_installed', which is not installed"),
        ("1 / 0", "bad_code:build", "importing the module bad_code raised ZeroDivisionError: division by zero"),
        (
            "def build(:",
            "bad_code:build",
            "importing the module bad_code raised SyntaxError: .*python -c 'import bad_code'",
        ),
        ("def make(): ...", "bad_code:build", r"the module bad_code \(/.*bad_code.py\) has no 'build'. It has: make\."),
        ("shown = 1", "bad_code:build", "the module bad_code .* has no 'build'. It has: nothing to call"),
        ("", "math:mean", "the module math .* has no 'mean'. It has: acos, .*, …. Correct the name after the colon"),
        ("build = 3", "bad_code:build", "found int 3, expected a function or a class to call"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(here: Path, source: str, reference: str, message: str) -> None:
    """The error says which step failed: the module, what it imports, its own code, or the name."""
    (here / "bad_code.py").write_text(source)
    with pytest.raises(ConfigError, match=f"^{reference}: {message}"):
        resolve(reference)
