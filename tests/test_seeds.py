"""Different names give different seeds, and one name gives one seed for ever."""

from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY

from pipeline.seeds import generator, seed_of

Names = st.tuples(st.text(max_size=4), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))


@STEADY
@given(Names, Names)
def test_two_names_share_a_seed_only_if_they_are_one_name(
    one: tuple[str, list[int]], other: tuple[str, list[int]]
) -> None:
    """Law: purpose and fields, their number and their order all count."""
    assert (seed_of(one[0], *one[1]) == seed_of(other[0], *other[1])) == (one == other)


def test_sums_and_digits_of_fields_do_not_collide() -> None:
    """The sum of seed, epoch and index takes few values, and so do their digits written side by side; seeds do not."""
    names = [(seed, epoch, index) for seed in range(20) for epoch in range(20) for index in range(100)]
    assert len({sum(name) for name in names}) == 138
    assert len({"".join(map(str, name)) for name in names}) < len(names)
    assert len({seed_of("order", *name) for name in names}) == len(names)


def test_fields_of_fixed_width_do_not_run_into_each_other() -> None:
    """A zero more, a purpose that ends in a field, and fields that are swapped are other names."""
    names = [
        ("a",),
        ("a", 0),
        ("a", 0, 0),
        ("a", 1),
        ("a", 0, 1),
        ("a", 1, 0),
        ("a1",),
        ("a\x00",),
        ("", 97),
        ("a", -1),
    ]
    assert len({seed_of(*name) for name in names}) == len(names)


@STEADY
@given(Names)
def test_a_seed_is_one_that_every_generator_takes(name: tuple[str, list[int]]) -> None:
    """Law: 0 <= seed < 2**63, and the same again when asked again."""
    seed = seed_of(name[0], *name[1])
    assert 0 <= seed < 2**63
    assert seed == seed_of(name[0], *name[1])


def test_seeds_stay_what_they_are() -> None:
    """The digits' split, a run's order of samples and the labels a student sees hang on these very numbers."""
    assert seed_of("digits split") == 6_783_270_600_027_406_700
    assert seed_of("order", 1, 2) == 5_098_653_025_787_200_236
    assert generator("order", 1, 2).integers(2**32) == 537_903_562
