"""A student made of its teacher: what it answers, whichever make both are of."""

import random
from dataclasses import replace

import pytest
import torch
from seeding_cases import MAKES, MEANS, UNCENTRED, in_order, units_of, without
from torch import nn

from pipeline.seeding.making import Anatomy, seed

RULES = ("even", "first", "last", "mean")


def shuffled(count: int, salt: str) -> list[int]:
    """All numbers below, in an order of chance."""
    return random.Random(salt).sample(range(count), count)  # noqa: S311 - no secret


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MAKES)
def test_a_student_like_its_teacher_is_its_teacher(name: str, rule: str) -> None:
    """Law: alike in shape and depth, all weights are the teacher's to the bit, and so are the answers."""
    make = MAKES[name]
    teacher, student = make.network(make.large), make.network(make.large, seed=1)
    made = seed(Anatomy.of(teacher), Anatomy.of(student), rule)
    assert made.kept == {}
    assert {each.rule for each in made.made} == {"same"}
    student.load_state_dict(made.state)
    assert make.asked(student).equal(make.asked(teacher))


@pytest.mark.parametrize("name", [name for name in MAKES if name not in UNCENTRED])
def test_units_that_are_zero_are_not_missed(name: str) -> None:
    """Law: where all that a narrower student has no room for is zero, it answers as its teacher.

    Of those that subtract the mean over the stream, where that is zero too: else it is over more units.
    """
    make = MAKES[name]
    teacher, student = make.network(make.large), make.network(make.narrow, seed=1)
    anatomy, room = Anatomy.of(teacher), units_of(Anatomy.of(student))
    dead = {axis: shuffled(count, axis)[room[axis] :] for axis, count in units_of(anatomy).items()}
    assert all(dead.values())
    hollow = without(anatomy, dead, centred=name in MEANS)
    teacher.load_state_dict(hollow.state)
    made = seed(hollow, Anatomy.of(student), "even")
    student.load_state_dict(made.state)
    assert {axis: set(kept.units).isdisjoint(dead[axis]) for axis, kept in made.kept.items()} == dict.fromkeys(
        dead, True
    )
    answer = make.asked(teacher)
    torch.testing.assert_close(make.asked(student), answer, rtol=1e-3, atol=1e-3 * float(answer.abs().max()))


@pytest.mark.parametrize("name", MAKES)
def test_the_order_of_a_teachers_units_does_not_matter(name: str) -> None:
    """Law: with its units in another order a teacher answers alike, and makes the same student, to the bit."""
    make = MAKES[name]
    teacher, student = make.network(make.large), Anatomy.of(make.network(make.narrow, seed=1))
    anatomy = Anatomy.of(teacher)
    other = in_order(anatomy, {axis: shuffled(count, axis) for axis, count in units_of(anatomy).items()})
    answer = make.asked(teacher)
    teacher.load_state_dict(other.state)
    torch.testing.assert_close(make.asked(teacher), answer, rtol=1e-3, atol=1e-3 * float(answer.abs().max()))
    one, two = (seed(each, student, "even").state for each in (anatomy, other))
    assert [tensor_name for tensor_name in one if not one[tensor_name].equal(two[tensor_name])] == []


def test_those_units_stay_whose_weights_are_largest() -> None:
    """By hand: of four hidden units with norms 5, 1, 13 and 0, the third and the first; a bias counts like a weight."""
    large, small = (nn.Sequential(nn.Linear(1, hidden), nn.Linear(hidden, 1)) for hidden in (4, 2))
    with torch.no_grad():
        for tensor, values in zip(
            large.parameters(), ([[3.0], [1], [0], [0]], [0.0, 0, 5, 0], [[4.0, 0, 12, 0]], [7.0]), strict=True
        ):
            tensor.copy_(torch.tensor(values))
    made = seed(Anatomy.of(large), Anatomy.of(small), "even")
    assert made.kept["0"].units == (2, 0)
    assert made.kept["0"].of == 4
    found = {name: tensor.flatten().tolist() for name, tensor in made.state.items()}
    assert found == {"0.weight": [0, 3], "0.bias": [5, 0], "1.weight": [12, 4], "1.bias": [7]}


@pytest.mark.parametrize(("rule", "layers"), [("even", (0, 5)), ("first", (0, 3)), ("last", (2, 5))])
def test_layers_are_taken_whole(rule: str, layers: tuple[int, int]) -> None:
    """Law: each layer of a student is one of its teacher's, in all of its tensors; the rest is the teacher's."""
    make = MAKES["gpt"]
    teacher, student = (
        Anatomy.of(make.network({"width": 16, "heads": 2, "depth": depth}, seed=depth)) for depth in (6, 2)
    )
    made = seed(teacher, student, rule)
    for each in made.made:
        name = each.tensor
        for mine, its in zip((0, 1), layers, strict=True):
            name = name.replace(f"blocks.{mine}.", f"blocks.<{its}>.")
        name = name.replace("<", "").replace(">", "")
        assert each.of == (name,)
        assert made.state[each.tensor].equal(teacher.state[name])


def test_a_mean_is_over_a_group_of_layers() -> None:
    """Law: the mean of each number over the layers of a group; of layers that are one, that one to the bit."""
    make = MAKES["gpt"]
    teacher, student = (
        Anatomy.of(make.network({"width": 16, "heads": 2, "depth": depth}, seed=depth)) for depth in (6, 2)
    )
    made = seed(teacher, student, "mean").state
    found = [teacher.state[f"decoder.blocks.{layer}.wide.weight"] for layer in (3, 4, 5)]
    torch.testing.assert_close(made["decoder.blocks.1.wide.weight"], (found[0] + found[1] + found[2]) / 3)
    alike = {name: teacher.state[name.replace(f"blocks.{name[15:16]}", "blocks.0")] for name in teacher.state}
    made = seed(replace(teacher, state=alike), student, "mean").state
    assert made["decoder.blocks.1.wide.weight"].equal(alike["decoder.blocks.0.wide.weight"])


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_network_keeps_the_blocks_that_begin_its_stages(rule: str) -> None:
    """Law: a block that brings other shapes about is made of the one that does so there; others may be left out."""
    make = MAKES["resnet"]
    student = make.network({"width": 4, "blocks": [1, 2, 1]}, seed=1)
    made = seed(Anatomy.of(make.network({"width": 8, "blocks": [2, 4, 3]})), Anatomy.of(student), rule)
    of = {each.tensor.split(".")[0]: {name.split(".")[0] for name in each.of} for each in made.made}
    chosen = {
        "even": {"3": {"3"}, "5": {"6"}},
        "first": {"3": {"3"}, "5": {"6"}},
        "last": {"3": {"4"}, "5": {"8"}},
        "mean": {"3": {"3", "4"}, "5": {"6", "7", "8"}},
    }
    assert of == {"0": {"0"}, "1": {"1"}, "4": {"5"}, "6": {"9"}, "9": {"14"}, **chosen[rule]}
    student.load_state_dict(made.state)
    assert make.asked(student).isfinite().all()
