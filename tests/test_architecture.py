"""The three laws of the house, each outside library's one door, and its habits as measured facts."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages")
STAGE_TWO = (
    "pipeline.reader",
    "pipeline.losses",
    "pipeline.hints",
    "pipeline.training",
    "pipeline.runs",
    "stages.train_student",
)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def absolute(module: str, node: ast.ImportFrom) -> str:
    """What follows `from`, with dots in front resolved."""
    if not node.level:
        return node.module or ""
    here = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*here[: len(here) - node.level + 1], *([node.module] if node.module else [])])


def imported(module: str) -> Iterator[str]:
    """Every module that a module imports anywhere, also in a function or for types alone: the deepest name known."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            within = [f"{source}.{alias.name}" for alias in node.names]
            yield from (each if each in FILES else source for each in within)


IMPORTS = {module: set(imported(module)) for module in FILES}


def with_parents(module: str) -> set[str]:
    """A module and the packages it is in, which Python runs first."""
    parts = module.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts) + 1)}


def reached(start: str) -> set[str]:
    """All modules of ours that importing one may run, now or in a call."""
    seen: set[str] = set()
    ahead = with_parents(start)
    while ahead:
        module = ahead.pop()
        seen.add(module)
        ahead |= {each for found in IMPORTS.get(module, ()) for each in with_parents(found) if each in FILES} - seen
    return seen


def test_the_graph_of_imports_sees_what_python_sees() -> None:
    """The laws below stand on it: lazy imports, submodules named after `from`, and packages count."""
    assert "pipeline.encodings.topk" in IMPORTS["pipeline.encodings"]
    assert "stages.soft_labels" in IMPORTS["stages.__main__"]
    assert "matplotlib.figure" in IMPORTS["pipeline.plots"]
    assert {"pipeline.teachers", "pipeline.store.group", "pipeline"} <= reached("stages.soft_labels")
    assert len(FILES) > 40


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("pipeline")])
def test_nothing_in_the_library_imports_a_program(module: str) -> None:
    """Law 1: `pipeline` never imports `stages`."""
    assert not {found for found in IMPORTS[module] if found.split(".")[0] == "stages"}


@pytest.mark.parametrize("module", STAGE_TWO)
def test_stage_two_never_reaches_a_teacher(module: str) -> None:
    """Law 2: over every import there is, also those made in a call."""
    assert not {found for found in reached(module) if found.startswith("pipeline.teachers")}


def test_stage_two_never_loads_a_teacher() -> None:
    """Law 2, seen by Python: a process that has imported all of stage two has no teacher in it."""
    script = f"import sys, {', '.join(STAGE_TWO)}; print(*(m for m in sys.modules if m.startswith('pipeline')))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = done.stdout.split()
    assert "pipeline.reader" in loaded
    assert not [module for module in loaded if module.startswith("pipeline.teachers")]


@pytest.mark.parametrize(
    "library",
    [
        "zarr",
        "h5py",
        "fsspec",
        "dask",
        "distributed",
        "click",
        "tqdm",
        "sklearn.datasets",
        "sklearn.cluster",
        "matplotlib",
        "PIL",
        "torchmetrics",
        "tomli_w",
        "safetensors",
    ],
)
def test_an_outside_library_has_one_door(library: str) -> None:
    """Law 3: one module imports it at most, so one module changes when it does."""
    doors = [module for module in FILES if any(f"{found}.".startswith(f"{library}.") for found in IMPORTS[module])]
    assert len(doors) <= 1


def test_of_scikit_learn_nothing_else_is_used() -> None:
    """Law 3: it is many libraries in one, whose data and algorithms change apart: each part has a door of its own."""
    parts = {found for module in FILES for found in IMPORTS[module] if found.split(".")[0] == "sklearn"}
    assert parts <= {"sklearn.datasets", "sklearn.cluster"}


def test_no_module_imports_itself_by_a_detour() -> None:
    """The modules of both packages stand in an order in which each imports only earlier ones."""
    graph = {module: {found for found in IMPORTS[module] if found in FILES} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def lines(module: str) -> int:
    """The length of a module's file."""
    return len(FILES[module].read_text(encoding="utf-8").splitlines())


def test_modules_are_short() -> None:
    """Median at most 150 lines; none above 400."""
    lengths = {module: lines(module) for module in FILES}
    assert median(lengths.values()) <= 150
    assert {module: length for module, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("stages.") and name != "stages.__main__"])
def test_a_stage_is_at_most_150_lines_of_composition(module: str) -> None:
    """It composes and reports, nothing more; `__main__` is no stage but the door of the command line."""
    assert lines(module) <= 150


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    """Every function and method, with its place."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{module}:{node.lineno} {node.name}", node


def body_lines(function: Function) -> int:
    """How many lines its body takes, the docstring left out."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    """Median at most 8 lines of body; none above 50."""
    lengths = {place: body_lines(function) for place, function in functions()}
    assert len(lengths) > 200
    assert median(lengths.values()) <= 8
    assert {place: length for place, length in lengths.items() if length > 50} == {}


def parameters(function: Function) -> list[ast.arg]:
    """All that a function takes, but for the object or class it is a method of."""
    taken = function.args
    named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *filter(None, (taken.vararg, taken.kwarg))]
    return [each for each in named if each.arg not in ("self", "cls")]


def test_every_parameter_and_result_is_annotated() -> None:
    """A reader never has to guess what goes in and what comes out."""
    bare = [place for place, function in functions() if any(each.annotation is None for each in parameters(function))]
    silent = [place for place, function in functions() if function.returns is None and function.name != "__init__"]
    assert bare == silent == []


def comments(path: Path) -> list[str]:
    """Every comment of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_left_for_later_and_no_code_is_commented_out(module: str) -> None:
    """What is not done is not there; what was done before is in git."""
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", FILES[module].read_text(encoding="utf-8"))
    code = r"#\s*(def |class |import |from \w+ import |return\b|if .*:$|for .*:$|\w+ = \w+$|\w+\(.*\)$)"
    assert not [comment for comment in comments(FILES[module]) if re.match(code, comment)]


@pytest.mark.parametrize("module", FILES)
def test_a_module_is_named_for_what_it_holds(module: str) -> None:
    """Not a drawer for the rest."""
    assert not {"utils", "util", "helpers", "helper", "common", "manager", "misc"} & set(module.split("."))


@pytest.mark.parametrize("module", FILES)
def test_a_module_and_all_it_offers_say_what_they_are(module: str) -> None:
    """Every module, public class and public function has a docstring."""
    tree = TREES[module]
    offered = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and node.name[0] != "_"]
    assert [getattr(node, "name", module) for node in (tree, *offered) if ast.get_docstring(node) is None] == []


def test_the_layout_of_a_store_is_integers_only() -> None:
    """`store/layout.py` touches no disk: it imports nothing that could, and calls nothing that does."""
    assert IMPORTS["pipeline.store.layout"] <= {
        "math",
        "bisect",
        "functools",
        "itertools",
        "numpy.typing",
        "collections.abc",
        "dataclasses",
        "numpy",
        "pipeline.errors",
        "pipeline.labels",
    }
    called = {node.attr for node in ast.walk(TREES["pipeline.store.layout"]) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(TREES["pipeline.store.layout"]) if isinstance(node, ast.Name)}
    assert not {"open", "load", "save", "fromfile", "tofile", "memmap", "read", "write"} & (called | names)
