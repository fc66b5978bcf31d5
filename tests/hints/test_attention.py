"""Where a network looks."""

import pytest
import torch
from hint_cases import features
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.hints import attention_channel, attention_transfer


def maps(channels: int, height: int, width: int, seed: int) -> Tensor:
    """Four rows."""
    return features(4, seed, channels * height * width).reshape(4, channels, height, width)


STUDENT, TEACHER = maps(3, 4, 5, seed=1), maps(6, 4, 5, seed=2)


def test_the_channels_may_be_rotated_and_each_row_scaled() -> None:
    """Law: attention sees neither; signs and the order of channels are among the rotations."""
    turn = torch.linalg.qr(features(3, seed=3, width=3))[0]
    scale = torch.tensor([0.01, 1.0, 2.0, 300.0], dtype=torch.float64)[:, None, None, None]
    moved = scale * torch.einsum("dc,nchw->ndhw", turn, STUDENT)
    torch.testing.assert_close(attention_transfer(moved, TEACHER), attention_transfer(STUDENT, TEACHER))


def test_the_places_may_not_be_moved() -> None:
    """Law: where it looks is what is compared."""
    assert (attention_transfer(TEACHER.flip(3), TEACHER) > 1e-3).all()


def test_it_is_two_at_most_where_two_look_elsewhere() -> None:
    """Law: attention is not negative, so no two maps are farther than a right angle."""
    student, teacher = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    student[..., 0], teacher[..., 1] = 3.0, -5.0
    assert attention_transfer(student, teacher).item() == pytest.approx(2)


def test_it_is_the_papers_norm_squared_and_the_authors_mean_times_the_places() -> None:
    """Law: the paper has the norm; the published code the mean of squares over rows and places."""
    loss = attention_transfer(STUDENT, TEACHER)
    at = [torch.nn.functional.normalize(each.pow(2).mean(1).flatten(1)) for each in (STUDENT, TEACHER)]
    torch.testing.assert_close(loss.sqrt(), torch.linalg.vector_norm(at[0] - at[1], dim=1))
    torch.testing.assert_close(loss.mean() / 20, (at[0] - at[1]).pow(2).mean())


def test_one_channel_of_attention_stands_for_all() -> None:
    """Law: what is cached of a teacher may be its root of summed squares, where the student's map is no smaller."""
    channel = attention_channel(TEACHER)
    assert channel.shape == (4, 1, 4, 5)
    torch.testing.assert_close(attention_transfer(STUDENT, channel), attention_transfer(STUDENT, TEACHER))
    larger = maps(3, 8, 10, seed=4)
    torch.testing.assert_close(attention_transfer(larger, channel), attention_transfer(larger, TEACHER))


def test_a_map_of_zeros_looks_nowhere() -> None:
    """Law: 1 from any other, 0 from another such, and a finite gradient."""
    zeros = torch.zeros_like(STUDENT).requires_grad_()
    loss = attention_transfer(zeros, TEACHER)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.ones(4, dtype=torch.float64))
    assert zeros.grad.abs().max() == 0
    assert attention_transfer(zeros, 0 * TEACHER).tolist() == [0, 0, 0, 0]


def test_maps_of_one_place_are_all_alike() -> None:
    """Law: nothing to lose for any student, which the docstring warns of."""
    loss = attention_transfer(maps(3, 1, 1, seed=5), maps(2, 7, 7, seed=6))
    torch.testing.assert_close(loss, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [(4, 5, 8, 3), (8, 8, 3, 3), (2, 3, 5, 4)])
def test_the_gradient_through_the_pooling_is_that_of_finite_differences(sizes: tuple[int, ...]) -> None:
    """Law: whichever side is pooled."""
    student = maps(2, *sizes[:2], seed=7)[:2].clone().requires_grad_()
    teacher = maps(3, *sizes[2:], seed=8)[:2]
    assert torch.autograd.gradcheck(lambda x: attention_transfer(x, teacher), student)


def test_what_has_no_places_is_refused() -> None:
    """Law: it says from whom and what it found."""
    with pytest.raises(ConfigError, match=r"compares maps \[N, C, H, W\], and found \[4, 6\] from the teacher"):
        attention_transfer(STUDENT, torch.zeros(4, 6))


def test_another_number_of_maps_is_refused() -> None:
    """Law: not broadcast."""
    with pytest.raises(ConfigError, match="found 4 rows from the student and 1 from the teacher"):
        attention_transfer(STUDENT, TEACHER[:1])
