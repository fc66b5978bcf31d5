"""`docs/promises.md` says of each promise which tests attack it, and how often: neither more nor less than they do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import PROMISES, promises

ROOT = Path(__file__).parents[1]


def marks(node: ast.FunctionDef) -> Iterator[tuple[str, dict[str, object]]]:
    """The promises that a test is marked with, and the numbers of its tries."""
    for each in node.decorator_list:
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.promise":
            yield ast.literal_eval(each.args[0]), {word.arg: ast.literal_eval(word.value) for word in each.keywords}


def attacks(promise: str) -> list[str]:
    """The lines of a promise's table, as the tests have them."""
    found = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            for name, numbers in marks(node) if isinstance(node, ast.FunctionDef) else ():
                if name == promise:
                    short, long = (numbers.get(key) for key in ("tries", "torture"))
                    where = file.relative_to(ROOT / "tests")
                    words = node.name.removeprefix("test_").replace("_", " ")
                    found.append(f"| `{where}`: {words} | {short or 'each case'} | {long or 'each case'} |")
    return found


@pytest.mark.parametrize("promise", [f"P{number}" for number in range(1, 17)])
def test_a_promise_is_documented_with_the_attacks_on_it(promise: str) -> None:
    """Law: its section has a line for every test that is marked with it, with the same numbers, and no other line."""
    (section,) = [part for part in PROMISES.read_text().split("\n## ") if part.startswith(f"{promise}. ")]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    assert sorted(lines) == sorted(attacks(promise))
    assert lines


def test_all_promises_are_kept_in_one_document() -> None:
    """Law: sixteen of them, in order."""
    assert [name for name, _ in promises()] == [f"P{number}" for number in range(1, 17)]
