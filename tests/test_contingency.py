"""How partitions go together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY
from sklearn.metrics import normalized_mutual_info_score

from pipeline.contingency import Contingency

PAIRS = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 6)), min_size=1, max_size=60)


def counted(pairs: list[tuple[int, int]], at_once: int = 7) -> Contingency:
    """Pairs of a true class and a cluster, counted in batches."""
    found, table = Contingency(), np.array(pairs).reshape(-1, 2)
    for start in range(0, len(table), at_once):
        found.update(*table[start : start + at_once].T)
    return found


@STEADY
@given(PAIRS)
def test_it_is_the_information_of_scikit_learn_over_rows_whose_truth_is_known(pairs: list[tuple[int, int]]) -> None:
    """Law: by the arithmetic mean of both entropies, whatever the batches; None where no truth is known."""
    found, known = counted(pairs), [pair for pair in pairs if pair[0] >= 0]
    assert found.rows == len(known)
    if not known:
        assert found.nmi is None
        return
    true, clusters = zip(*known, strict=True)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(true, clusters), abs=1e-9)


@STEADY
@given(PAIRS, st.permutations(range(7)))
def test_the_names_of_clusters_mean_nothing(pairs: list[tuple[int, int]], names: list[int]) -> None:
    """Law: other numbers for the same clusters, and nothing changes."""
    again = counted([(true, names[cluster]) for true, cluster in pairs])
    assert again.nmi == pytest.approx(counted(pairs).nmi, abs=1e-12)


@pytest.mark.parametrize(
    ("pairs", "nmi"),
    [([(0, 3), (1, 0), (2, 5)] * 4, 1.0), ([(0, 0), (0, 1), (1, 0), (1, 1)] * 3, 0.0), ([(2, 2)] * 3, 1.0)],
)
def test_the_same_partition_is_one_and_an_independent_one_nothing(pairs: list[tuple[int, int]], nmi: float) -> None:
    """Law: the ends of its range."""
    assert counted(pairs).nmi == pytest.approx(nmi, abs=1e-12)
