"""Which layers of a teacher make each layer of a student, by the names of their tensors alone.

A list of modules shows in a name as a number: `blocks.3.norm.weight`. Blocks of a list that are alike, one after the
other, are layers of one stack; a stack is partitioned into as many groups as the student has layers in its place. Not
for networks of two makes: where names differ, nothing is guessed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from pipeline.errors import ConfigError
from pipeline.seeding.settings import LayerRule
from pipeline.weights import State

NAMED = 3

Shape: TypeAlias = tuple[int, ...]
Tree: TypeAlias = dict[str, "Tree | Shape"]


@dataclass(frozen=True)
class Origin:
    """What makes one of a student's tensors: the teacher's, several where their mean does, in a group of so many."""

    names: tuple[str, ...]
    among: int = 1


def shapes_of(state: State) -> dict[str, Shape]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def evenly(layers: int, groups: int) -> list[int]:
    """So many layers of all, from the first to the last, as far apart as can be; of one group the first.

    The nearest to i (layers - 1) / (groups - 1), as DistilBERT was begun (Sanh et al. 2019, arXiv 1910.01108, section
    3, and its script's choice for 12 and 6):

    >>> evenly(12, 6)
    [0, 2, 4, 7, 9, 11]
    """
    steps = max(groups - 1, 1)
    return [(2 * i * (layers - 1) + steps) // (2 * steps) for i in range(groups)]


def partition(layers: int, groups: int) -> list[range]:
    """All layers in contiguous groups, as alike in size as can be while each holds the layer `evenly` takes for it.

    >>> partition(5, 2), partition(4, 3)
    ([range(0, 2), range(2, 5)], [range(0, 1), range(1, 3), range(3, 4)])
    """
    even = evenly(layers, groups)
    inner = [
        min(max((i + 1) * layers // groups, even[i] + 1), even[i + 1])  # between the two layers taken
        for i in range(groups - 1)
    ]
    cuts = [0, *inner, layers]
    return [range(*pair) for pair in pairwise(cuts)]


def chosen(layers: int, groups: int, rule: LayerRule) -> list[tuple[int, ...]]:
    """Of each group the layers that make the student's: one, or all of it where the rule is their mean.

    >>> [chosen(6, 3, rule) for rule in ("first", "last", "even", "mean")][::3]
    [[(0,), (2,), (4,)], [(0, 1), (2, 3), (4, 5)]]
    """
    cut = partition(layers, groups)
    if rule == "mean":
        return [tuple(group) for group in cut]
    if rule == "even":
        return [(layer,) for layer in evenly(layers, groups)]
    return [(group[0 if rule == "first" else -1],) for group in cut]


def origins(student: Mapping[str, Shape], teacher: Mapping[str, Shape], rule: LayerRule) -> dict[str, Origin]:
    """For each tensor of a student, the teacher's that make it.

    Raises:
        ConfigError: the student has more layers than the teacher, or tensors that the teacher has not, or the other way
            round; the first of them are named.

    """
    found: dict[str, Origin] = {}
    strange: list[str] = []
    _pair(_tree(student), _tree(teacher), ("", ""), rule, (found, strange))
    if strange:
        more = f" (and {len(strange) - NAMED} more)" if len(strange) > NAMED else ""
        raise ConfigError(
            f"The student cannot be made of its teacher's layers: {'; '.join(strange[:NAMED])}{more}. Give it the "
            "teacher's model, with fewer layers or narrower ones, or take [students.NAME.seeded] out."
        )
    return found


def _tree(shapes: Mapping[str, Shape]) -> Tree:
    root: Tree = {}
    for name, shape in shapes.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            below = node.setdefault(part, {})
            assert isinstance(below, dict), name  # torch lets no module and no tensor have one name
            node = below
        node[last] = shape
    return root


Found: TypeAlias = tuple[dict[str, Origin], list[str]]


def _pair(student: Tree, teacher: Tree, at: tuple[str, str], rule: LayerRule, found: Found) -> None:
    """Note what makes each tensor below two places, and what has no like there."""
    here, there = at
    pairs = [(key, key) for key in student if key in teacher]
    if _is_list(student) and _is_list(teacher):
        runs = _aligned(student, teacher)
        if runs is not None:
            for run in runs:
                _stack(student, run, at, rule, found)
            return
        if len(student) != len(teacher):
            found[1].append(_unlike(student, teacher, here))
            return
        pairs = list(zip(_numbered(student), _numbered(teacher), strict=True))
    found[1].extend(f"the teacher has no {name}" for name in _without(student, {key for key, _ in pairs}, here))
    found[1].extend(f"the student has no {name}" for name in _without(teacher, {key for _, key in pairs}, there))
    for ours, theirs in pairs:
        mine, its, places = student[ours], teacher[theirs], (_join(here, ours), _join(there, theirs))
        if isinstance(mine, dict) and isinstance(its, dict):
            _pair(mine, its, places, rule, found)
        elif isinstance(mine, tuple) and isinstance(its, tuple):
            found[0][places[0]] = Origin((places[1],))
        else:
            found[1].append(f"{places[0]} is a tensor in one and a module in the other")


def _stack(
    student: Tree, runs: tuple[list[str], list[str]], at: tuple[str, str], rule: LayerRule, found: Found
) -> None:
    """Note what makes the layers of one stack."""
    (ours, theirs), (here, there) = runs, at
    if len(ours) > len(theirs):
        found[1].append(
            f"{here or 'the network'} has {len(ours)} layers where the teacher's has {len(theirs)}, and each is made "
            "of one or more"
        )
        return
    counts = len(theirs), len(ours)
    for mine, picked, group in zip(ours, chosen(*counts, rule), partition(*counts), strict=True):
        for rest in _names(student[mine]):
            made = tuple(_join(there, theirs[each], rest) for each in picked)
            found[0][_join(here, mine, rest)] = Origin(made, len(group))


def _is_list(node: Tree) -> bool:
    return all(key.isdigit() and isinstance(below, dict) for key, below in node.items())


def _numbered(node: Tree) -> list[str]:
    return sorted(node, key=int)


def _aligned(student: Tree, teacher: Tree) -> list[tuple[list[str], list[str]]] | None:
    """The runs of both lists that go together, in their order; None if they do not.

    A run that the student lacks is left out where the block before has all that its blocks have and more besides: so
    does the block that begins a stage of a residual network, which brings its shapes about, and those after it do not.
    """
    ours, theirs = _runs(student), _runs(teacher)
    pairs: list[tuple[list[str], list[str]]] = []
    before: frozenset[str] = frozenset()
    for run in theirs:
        kind = _kind(teacher[run[0]])
        if len(pairs) < len(ours) and _kind(student[ours[len(pairs)][0]]) == kind:
            pairs.append((ours[len(pairs)], run))
        elif _is_layer(teacher[run[0]]) or not kind < before:
            return None
        before = kind
    return pairs if len(pairs) == len(ours) else None


def _runs(node: Tree) -> list[list[str]]:
    """Blocks alike in names and shapes, one after the other.

    A single layer, such as a Linear, is no block: what it passes on are not the units it is given, so none can be left
    out.
    """
    runs: list[list[str]] = []
    for key in _numbered(node):
        if runs and not _is_layer(node[key]) and node[key] == node[runs[-1][0]]:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs


def _is_layer(node: "Tree | Shape") -> bool:
    return isinstance(node, tuple) or all(isinstance(below, tuple) for below in node.values())


def _kind(node: "Tree | Shape") -> frozenset[str]:
    return frozenset(_names(node))


def _names(node: "Tree | Shape") -> Iterator[str]:
    """The names of all tensors below a place, without its own."""
    if isinstance(node, tuple):
        yield ""
        return
    for key, below in node.items():
        yield from (_join(key, rest) for rest in _names(below))


def _without(node: Tree, paired: set[str], at: str) -> Iterator[str]:
    return (_join(at, key, rest) for key in node if key not in paired for rest in _names(node[key]))


def _unlike(student: Tree, teacher: Tree, at: str) -> str:
    return (
        f"{at or 'the network'} is a list of {_said(student)} in the student and of {_said(teacher)} in the teacher, "
        "which do not go together: only blocks that are alike can be left out, and no single layers"
    )


def _said(node: Tree) -> str:
    blocks = sum(not _is_layer(below) for below in node.values())
    counts: Iterable[tuple[int, str]] = ((blocks, "block"), (len(node) - blocks, "layer"))
    return " and ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count)


def _join(*parts: str) -> str:
    return ".".join(filter(None, parts))
