"""How rows lie to each other."""

import pytest
import torch
from hint_cases import BY_BATCH, features
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hints import cka_distance, rkd_angle, rkd_distance, similarity_preserving

SHIFT = torch.arange(6, dtype=torch.float64)


def rotation() -> Tensor:
    """An orthogonal map of six dimensions."""
    return torch.linalg.qr(features(6, seed=20))[0]


def moves() -> dict[str, Tensor]:
    """A batch, moved in ways that leave some relations as they are."""
    student = features(7, seed=21)
    return {
        "rotated": student @ rotation(),
        "scaled": 0.3 * student,
        "mirrored": student * torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=torch.float64),
        "shifted": student + SHIFT,
        "all of these": 5 * student @ rotation() - SHIFT,
        "with an empty feature": torch.cat([student, torch.zeros(7, 1, dtype=torch.float64)], dim=1),
    }


@pytest.mark.parametrize("move", moves())
@pytest.mark.parametrize("name", BY_BATCH)
def test_relations_do_not_see_an_isometry_and_a_scale(name: str, move: str) -> None:
    """Law: distances, angles and CKA none of these; similarity any without a shift."""
    student, teacher, moved = features(7, seed=21), features(7, seed=22), moves()[move]
    same = torch.allclose(BY_BATCH[name](moved, teacher), BY_BATCH[name](student, teacher))
    assert same == (name != "similarity" or move not in ("shifted", "all of these"))


@pytest.mark.parametrize("name", BY_BATCH)
def test_relations_see_a_map_that_is_no_isometry(name: str) -> None:
    """Law: stretching one feature is one."""
    student, teacher = features(7, seed=21), features(7, seed=22)
    stretched = student * torch.tensor([4.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert not torch.allclose(BY_BATCH[name](stretched, teacher), BY_BATCH[name](student, teacher), rtol=1e-2)


@pytest.mark.parametrize("name", BY_BATCH)
@pytest.mark.parametrize("move", ["rotated", "scaled", "mirrored", "with an empty feature"])
def test_a_teacher_moved_so_is_the_teacher(name: str, move: str) -> None:
    """Law: zero where relations are equal, whatever the features."""
    moved = moves()[move]
    torch.testing.assert_close(BY_BATCH[name](moved, features(7, seed=21)), torch.zeros(7, dtype=torch.float64))


@pytest.mark.parametrize("name", BY_BATCH)
def test_a_batch_of_one_row_loses_nothing(name: str) -> None:
    """Law: it has no relations."""
    student = features(1, seed=1).requires_grad_()
    loss = BY_BATCH[name](student, features(1, seed=2))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0])
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle, cka_distance])
def test_two_rows_have_one_distance_no_angle_and_a_cka_of_one(loss: object) -> None:
    """Law: nothing to lose for any student whose two rows differ."""
    torch.testing.assert_close(loss(features(2, seed=1), features(2, seed=2)), torch.zeros(2, dtype=torch.float64))


EQUAL, ORDINARY = features(1, seed=1).expand(4, 6), features(4, seed=2)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(EQUAL, ORDINARY), (ORDINARY, EQUAL), (EQUAL, EQUAL)],
    ids=["student", "teacher", "both"],
)
def test_equal_rows_have_a_cka_of_zero(student: Tensor, teacher: Tensor) -> None:
    """Law: the rows lose 1 in the mean; also where float32 does not know the mean of equal numbers."""
    for shift in (0.0, 0.1):
        found = cka_distance((student + shift).float(), (teacher + shift).float())
        assert found.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle, cka_distance])
def test_a_student_whose_rows_are_all_equal_is_not_told_apart(loss: object) -> None:
    """Law: it loses something and has no gradient: it needs another term."""
    student = EQUAL.clone().requires_grad_()
    found = loss(student, ORDINARY)
    found.sum().backward()
    assert found.min() > 0
    assert student.grad.abs().max() == 0


def test_a_row_of_zeros_has_no_similarity() -> None:
    """Law: 1 / N from any other in its own row, 0 from another such."""
    zeros = ORDINARY * torch.tensor([[0.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    assert similarity_preserving(zeros, ORDINARY)[0].item() == pytest.approx(1 / 4)
    assert similarity_preserving(zeros, zeros).tolist() == [0, 0, 0, 0]


def test_a_shift_far_from_zero_leaves_the_relations_of_near_rows() -> None:
    """Law: float32 rows a thousand spreads away are compared by what they differ by, not by what they share."""
    student, teacher = 4096 + features(6, seed=1).float(), features(6, seed=2).float()
    for loss in (rkd_distance, rkd_angle, cka_distance):
        torch.testing.assert_close(loss(student, teacher), loss(student.double(), teacher.double()).float())


def test_the_angle_between_two_near_rows_is_known_beside_a_far_one() -> None:
    """Law: ways are differences of the rows themselves, not of what is left of them after a shift."""
    far = torch.tensor([[3.0, 1.0], [1e-7, 0.0], [0.0, 0.0], [0.0, 1e-7]])
    student = features(4, seed=1, width=2).float()
    torch.testing.assert_close(rkd_angle(student, far), rkd_angle(student.double(), far.double()).float())


@pytest.mark.parametrize("name", BY_BATCH)
def test_another_number_of_rows_is_refused(name: str) -> None:
    """Law: rows are matched one to one."""
    with pytest.raises(ConfigError, match=f'"{name}" compares the rows.*found 3 from the student and 1 from the teach'):
        BY_BATCH[name](features(3, seed=1), features(1, seed=2))
