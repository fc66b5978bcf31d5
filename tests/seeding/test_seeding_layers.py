"""Which layers make which, by names alone."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.errors import ConfigError
from pipeline.seeding.layers import Shape, chosen, evenly, origins, partition

counts = st.integers(1, 60).flatmap(lambda layers: st.tuples(st.just(layers), st.integers(1, layers)))


@STEADY
@given(counts)
def test_groups_hold_each_layer_once_and_in_order(count: tuple[int, int]) -> None:
    """Law: contiguous, none empty, all layers; and each holds the one that is evenly spaced."""
    layers, groups = count
    cut = partition(layers, groups)
    assert list(chain(*cut)) == list(range(layers))
    assert len(cut) == groups
    assert all(pick in group for pick, group in zip(evenly(layers, groups), cut, strict=True))


@STEADY
@given(counts)
def test_layers_evenly_spaced_go_from_the_first_to_the_last(count: tuple[int, int]) -> None:
    """Law: no two distances differ by more than one; as many layers as there are, are all of them."""
    layers, groups = count
    even = evenly(layers, groups)
    distances = [b - a for a, b in pairwise(even)]
    assert even[0] == 0
    assert groups == 1 or even[-1] == layers - 1
    assert not distances or max(distances) - min(distances) <= 1
    assert evenly(layers, layers) == list(range(layers))


@STEADY
@given(counts, st.sampled_from(["even", "first", "last", "mean"]))
def test_every_rule_takes_from_each_group(count: tuple[int, int], rule: str) -> None:
    """Law: what makes a layer is of its group: its first, its last, one, or all."""
    groups = partition(*count)
    for picked, group in zip(chosen(*count, rule), groups, strict=True):
        assert set(picked) <= set(group)
        assert {"first": picked == (group[0],), "last": picked == (group[-1],), "mean": picked == tuple(group)}.get(
            rule, len(picked) == 1
        )


def test_twelve_layers_become_six_as_those_of_distilbert() -> None:
    """By its script: 0, 2, 4, 7, 9, 11."""
    assert evenly(12, 6) == [0, 2, 4, 7, 9, 11]
    assert [len(group) for group in partition(12, 6)] == [2] * 6


def stack(prefix: str, depth: int, shape: Shape = (4, 4)) -> dict[str, Shape]:
    """A list of blocks of two layers."""
    return {f"{prefix}.{at}.{part}.weight": shape for at in range(depth) for part in ("one", "two")}


def test_lists_within_lists_are_stacks_of_their_own() -> None:
    """Law: stages of blocks go together one by one, and within each its blocks are partitioned."""
    teacher = {name: shape for at in (0, 1) for name, shape in stack(f"layers.{at}.blocks", 4).items()}
    student = {
        name: shape for at, depth in ((0, 1), (1, 2)) for name, shape in stack(f"layers.{at}.blocks", depth).items()
    }
    found = origins(student, teacher, "last")
    assert found["layers.0.blocks.0.one.weight"].names == ("layers.0.blocks.3.one.weight",)
    assert found["layers.1.blocks.0.two.weight"].names == ("layers.1.blocks.1.two.weight",)
    assert (found["layers.0.blocks.0.one.weight"].among, found["layers.1.blocks.0.two.weight"].among) == (4, 2)


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (stack("blocks", 3), stack("blocks", 2), "blocks has 3 layers where the teacher's has 2"),
        ({"a.weight": (1,)}, {"b.weight": (1,)}, "the teacher has no a.weight; the student has no b.weight"),
        ({"a": (1,)}, {"a.weight": (1,)}, "a is a tensor in one and a module in the other"),
        (
            {"1.weight": (4, 2), "3.weight": (2, 4)},
            {"1.weight": (4, 2), "3.weight": (4, 4), "5.weight": (2, 4)},
            "the network is a list of 2 layers in the student and of 3 layers in the teacher",
        ),
        (
            {**stack("blocks", 1), "blocks.0.bias": (4,)},
            stack("blocks", 2),
            "blocks is a list of 1 block in the student and of 2 blocks in the teacher",
        ),
        (
            {f"{letter}.weight": (1,) for letter in "abcde"},
            {f"{letter}.weight": (1,) for letter in "abcde"} | {f"{letter}.bias": (1,) for letter in "abcde"},
            "the student has no c.bias (and 2 more)",
        ),
    ],
)
def test_what_has_no_like_is_named(student: dict[str, Shape], teacher: dict[str, Shape], said: str) -> None:
    """Law: nothing is guessed and nothing passed over: the first that do not go together are in the error."""
    with pytest.raises(ConfigError) as caught:
        origins(student, teacher, "even")
    assert said in str(caught.value)
    assert str(caught.value).startswith("The student cannot be made of its teacher's layers: ")
