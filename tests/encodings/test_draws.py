"""Drawing in whole numbers: unbiased to the last unit, none twice, the same on any device and in any batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encodings.draws import RANDOM_BITS, UNIT_BITS, below, random_bits, seeds_of, threshold_sample, units

UNITS = st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any)


def bits_for(start: torch.Tensor, bound: int) -> torch.Tensor:
    """The least bits that give each whole number below a bound."""
    return torch.tensor([-(-(int(s) << RANDOM_BITS) // bound) for s in start])


def every_start(row: list[int], budget: int, exact: int) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Of one row, and all starts there are: the exact units and how often each class was drawn, the rest, the count."""
    once = threshold_sample([lambda: torch.tensor([row])], budget, exact, torch.zeros(1, dtype=torch.int64))
    rest, count = int(once.rest_N), int(once.count_N)
    head = torch.zeros(len(row), dtype=torch.int64).scatter_add(0, once.head_NH[0], once.units_NH[0])
    times = torch.zeros(len(row), dtype=torch.int64)
    if rest:
        starts = torch.arange(rest)
        many = torch.tensor([row]).expand(rest, -1).clone()
        sample = threshold_sample([lambda: many], budget, exact, bits_for(starts, rest))
        for places, drawn in zip(sample.tail_NB, sample.drawn_NB, strict=True):
            assert len(set(places[drawn].tolist())) == count, "none twice"
            times.scatter_add_(0, places[drawn], torch.ones(count, dtype=torch.int64))
    return head, times, rest, count


@settings(deadline=None, max_examples=150)
@given(UNITS, st.integers(1, 9), st.integers(0, 8))
def test_over_all_starts_a_class_is_drawn_exactly_as_often_as_its_probability_says(
    row: list[int], budget: int, exact: int
) -> None:
    """Law: E[w] = p, in whole numbers: a class of u units is drawn u count times in `rest` starts, at rest / count."""
    head, times, rest, count = every_start(row, budget, min(exact, budget - 1))
    truth = torch.tensor(row)
    assert torch.equal(torch.where(head > 0, head, truth), truth)
    assert torch.equal(times, torch.where(head > 0, 0, truth) * count)
    assert int(head.sum()) + rest == sum(row)


@settings(deadline=None)
@given(UNITS, st.integers(1, 9), st.integers(0, 8))
def test_a_record_never_holds_more_ids_than_its_budget(row: list[int], budget: int, exact: int) -> None:
    """Law: exact ones and drawn ones together, and no exact one is drawn besides."""
    exact = min(exact, budget - 1)
    sample = threshold_sample([lambda: torch.tensor([row])], budget, exact, torch.tensor([12345]))
    head = sample.head_NH[sample.units_NH > 0].tolist()
    drawn = sample.tail_NB[sample.drawn_NB].tolist()
    assert len(head) <= exact
    assert len(head) + len(drawn) <= budget
    assert not set(head) & set(drawn)
    assert all(row[place] for place in head + drawn), "what cannot be is not drawn"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_row_with_room_for_all_its_classes_is_exact(row: list[int]) -> None:
    """Law: with as many ids as classes nothing is left to chance."""
    _, times, rest, count = every_start(row, len(row) + 1, len(row))
    assert all(int(time) in (0, rest) for time in times) or count == 0


@given(UNITS, st.integers(2, 9))
def test_what_is_not_exact_is_no_likelier_than_the_threshold(row: list[int], budget: int) -> None:
    """Law: p >= tau is exact, the others have p <= tau = rest / count: a probability of drawing is at most 1."""
    sample = threshold_sample([lambda: torch.tensor([row])], budget, budget - 1, torch.tensor([0]))
    others = torch.tensor(row).scatter(0, sample.head_NH[0][sample.units_NH[0] > 0], 0)
    assert int(others.max()) * int(sample.count_N) <= int(sample.rest_N)
    kept = sample.units_NH[sample.units_NH > 0]
    assert all(int(each) * int(sample.count_N) >= int(sample.rest_N) for each in kept)


@given(st.integers(1, 2**61), st.integers(0, 2**RANDOM_BITS - 1))
def test_a_number_below_a_bound_is_the_share_of_it_that_the_bits_are(bound: int, bits: int) -> None:
    """floor(bound * bits / 2^62), in numbers of 63 bits."""
    assert int(below(torch.tensor([bits]), torch.tensor([bound]))) == bound * bits >> RANDOM_BITS


def test_random_bits_are_those_of_splitmix64() -> None:
    """The reference's first numbers from the seed 1234567, without their last two bits."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_bits(torch.tensor([1234567]), 4)[0].tolist() == [number >> 2 for number in reference]


def test_a_seed_is_a_name() -> None:
    """It depends on the purpose, the seed and the sample's id, and on nothing else."""
    ids, cpu = np.array([3, 5, 3]), torch.device("cpu")
    first = seeds_of("a", 0, ids, cpu)
    assert first[0] == first[2]
    assert torch.equal(first[1:2], seeds_of("a", 0, ids[1:2], cpu))
    assert (
        len({int(first[0]), int(first[1]), *(int(seeds_of(p, s, ids, cpu)[0]) for p, s in (("b", 0), ("a", 1)))}) == 4
    )


@settings(deadline=None)
@given(st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=12), st.sampled_from([0.5, 1.0, 4.0]))
def test_units_are_the_softmax_and_are_themselves_float32(row: list[float], temperature: float) -> None:
    """To 2^-45 and a float32's own error; so ordering them in float32 orders them as they are."""
    logits = torch.tensor([row])
    found = units(logits, temperature)
    truth = torch.softmax(logits.double() / temperature, dim=1)
    torch.testing.assert_close(found.double() / 2**UNIT_BITS, truth, rtol=1e-5, atol=2**-44)
    assert torch.equal(found.float().long(), found)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_units(value: float) -> None:
    """Nothing is drawn of it, and nothing fails."""
    found = units(torch.tensor([[1.0, value, 2.0], [0.0, 0.0, 0.0]]), 1.0)
    assert found[0].tolist() == [0, 0, 0]
    assert found[1].sum() > 0
