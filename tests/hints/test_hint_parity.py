"""The losses of features agree with `hint_reference`, which was written from the papers' formulas alone."""

import hint_reference as reference
import numpy as np
import pytest
import torch
from hint_cases import ALL, OTHERS, as_maps, batches, features
from hypothesis import given, settings
from torch import Tensor

from pipeline import hints

EXPECTED = {
    "feature_mse": reference.feature_mse,
    "feature_cosine": reference.cosine_distance,
    "feature_sphere": reference.hypersphere_distance,
    "attention": lambda s, t: reference.attention_transfer(
        *(as_maps(torch.from_numpy(each)).numpy() for each in (s, t))
    ),
    "infonce": lambda s, t: reference.infonce(s, t, OTHERS.numpy()),
    "crd": lambda s, t: reference.crd(s, t, OTHERS.numpy(), 100),
    "gradient": reference.gradient_matching,
    "gradient_norm": lambda s, _: reference.gradient_penalty(s, 0.5),
    "rkd_distance": reference.rkd_distance,
    "rkd_angle": reference.rkd_angle,
    "similarity": reference.similarity_preserving,
}


def agree(name: str, student: Tensor, teacher: Tensor) -> None:
    """To 1e-5, in float32 as in training."""
    found = ALL[name](student.float(), teacher.float())
    expected = EXPECTED[name](student.float().double().numpy(), teacher.float().double().numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_every_loss_of_the_table_has_a_reference() -> None:
    """Law: CKA's is of the batch, below."""
    assert sorted(EXPECTED) == sorted(set(hints.HINTS) - {"cka"})


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
@pytest.mark.parametrize("name", EXPECTED)
def test_random_features(name: str, rows: int, scale: float) -> None:
    """Law: at any scale of the student's."""
    agree(name, scale * features(rows, seed=rows), features(rows, seed=rows + 1))


@pytest.mark.parametrize("name", EXPECTED)
@settings(deadline=None, max_examples=40)
@given(batches())
def test_drawn_features(name: str, pair: tuple[Tensor, Tensor]) -> None:
    """Law: also with rows of zeros and equal rows, where it is the convention that agrees."""
    agree(name, *pair)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "similarity"])
def test_relations_between_features_of_another_width(name: str) -> None:
    """Law: a student's rows may be shorter than the teacher's."""
    agree(name, features(6, seed=1, width=3), features(6, seed=2, width=8))


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize("rows", [3, 8, 20])
def test_the_mean_of_the_rows_is_one_less_cka(rows: int, width: int) -> None:
    """Law: the split among rows adds up to the paper's measure, whether there are more rows or more features."""
    student, teacher = 5 + features(rows, seed=rows, width=width), features(rows, seed=rows + 1)
    found = hints.cka_distance(student.float(), teacher.float()).mean()
    assert found.item() == pytest.approx(1 - reference.cka(student.numpy(), teacher.numpy()), abs=1e-5)


def test_one_less_cka_by_the_products_of_features_is_the_same() -> None:
    """Law: ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred features, the other form of the paper."""
    student, teacher = (each - each.mean(dim=0) for each in (features(7, seed=1), features(7, seed=2)))
    norm = torch.linalg.matrix_norm
    cka = norm(teacher.T @ student) ** 2 / (norm(student.T @ student) * norm(teacher.T @ teacher))
    torch.testing.assert_close(hints.cka_distance(student, teacher).mean(), 1 - cka)


@pytest.mark.parametrize(
    "sizes", [((4, 4), (4, 4)), ((8, 8), (4, 4)), ((3, 5), (7, 5)), ((7, 2), (3, 4)), ((1, 1), (5, 3))]
)
def test_attention_of_maps_of_other_sizes(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Law: each axis is pooled where it is the longer, with cells that may overlap; channels differ as they like."""
    random = np.random.default_rng(0)
    student, teacher = (
        random.standard_normal((4, channels, *size)) for channels, size in zip((3, 5), sizes, strict=True)
    )
    height, width = (min(*each) for each in zip(*sizes, strict=True))
    expected = reference.attention_transfer(
        *(reference.adaptive_average(each, height, width) for each in (student, teacher))
    )
    found = hints.attention_transfer(*(torch.from_numpy(each).float() for each in (student, teacher)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("negatives", [1, 3, 50])
@pytest.mark.parametrize("own", [False, True])
def test_contrast_with_any_number_of_negatives(negatives: int, temperature: float, own: bool) -> None:
    """Law: shared by the batch or each row its own."""
    student, teacher = features(4, seed=1), features(4, seed=2)
    drawn = features(4 * negatives, seed=3).reshape(4, negatives, -1)
    others = drawn if own else drawn[0]
    arrays = [each.float().double().numpy() for each in (student, teacher, others)]
    tensors = [each.float() for each in (student, teacher, others)]
    found = hints.infonce(*tensors, temperature=temperature)
    np.testing.assert_allclose(found, reference.infonce(*arrays, temperature), rtol=1e-5, atol=1e-5)
    for size in (60, 10**6):
        found = hints.crd(*tensors, dataset_size=size, temperature=temperature)
        np.testing.assert_allclose(found, reference.crd(*arrays, size, temperature), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_degenerate_features(name: str) -> None:
    """Law: rows of zeros and equal rows on one side, on the other, and on both."""
    ordinary, zeros = features(5, seed=1), torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]])
    equal = ordinary[[0, 1, 1, 2, 2]]
    for student, teacher in ((equal, ordinary), (ordinary, equal), (zeros * ordinary, equal), (equal, zeros * equal)):
        agree(name, student, teacher)
