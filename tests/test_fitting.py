"""What a basis is fitted on: the first samples, and of sequences the positions that are there."""

import numpy as np
import torch
from sequence_cases import LENGTH, WORDS, Packed, Speaker
from torch import nn

from pipeline.bases import Moments
from pipeline.config import TeacherSettings, ViewSettings
from pipeline.fitting import moments_of
from pipeline.labels import FeatureSpec
from pipeline.teachers import Teacher
from pipeline.views import Viewed

VIEWS = ViewSettings(input="tokens")
SPEC = FeatureSpec("f", "inside", "pca", "float32", (LENGTH, WORDS), (LENGTH, 2))


class Within(nn.Module):
    """A network whose module `inside` answers with a vector for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = Speaker()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[N, 2, L] to [N, L, V]."""
        logits: torch.Tensor = self.inside(tokens)
        return logits


def found(rows: int, batch_size: int) -> Moments:
    """Of the first sequences, asked so many at once."""
    settings = TeacherSettings(model="own", checkpoint="none.safetensors", batch_size=batch_size)
    teacher = Teacher(Within().eval(), torch.device("cpu"), settings, VIEWS)
    done: list[int] = []
    asked = {"workers": 2, "progress": done.append, "stopped": lambda: False}
    moments = moments_of(teacher, Viewed(Packed(), VIEWS), {SPEC: rows}, **asked)  # type: ignore[arg-type]
    assert moments is not None
    assert sum(done) == rows
    return moments["f"]


def test_padding_is_no_row_of_a_basis() -> None:
    """Law: of sequences each position counts that is no padding, as one row, in whatever batches."""
    inputs = torch.from_numpy(Packed().inputs(np.arange(9))).long()
    with torch.no_grad():
        vectors = Speaker()(inputs[:, :2])[inputs[:, 1] >= 0].double()
    assert len(vectors) == 9 * LENGTH - 2
    for batch_size in (2, 9):
        moments = found(9, batch_size)
        assert moments.rows == len(vectors)
        torch.testing.assert_close(moments.mean_F, vectors.mean(dim=0), rtol=0, atol=1e-10)
        scatter = (vectors - vectors.mean(dim=0)).T @ (vectors - vectors.mean(dim=0))
        torch.testing.assert_close(moments.scatter_FF, scatter, rtol=0, atol=1e-10)


def test_no_more_samples_are_asked_than_count() -> None:
    """Law: the first five sequences, in batches of two."""
    assert found(5, 2).rows == 5 * LENGTH
