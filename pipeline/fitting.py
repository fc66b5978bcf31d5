"""What a teacher's modules make of the first samples of a dataset, as the moments that a basis is found from.

The samples stream through, each in its first view; none of their features is kept. Not for stage two, which has no
teacher: `pipeline.bases` finds, writes and reads.

Shape legend
    N  samples of a batch
    L  positions of a sequence
    X  the shape of what a module answers to a sample
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.ahead import ahead
from pipeline.bases import Moments, width
from pipeline.encodings.refusals import samples
from pipeline.errors import TeacherError
from pipeline.labeller import explained
from pipeline.labels import FeatureSpec
from pipeline.reductions import rows_of
from pipeline.sequences import there as positions_there
from pipeline.teachers import Teacher
from pipeline.views import Viewed

Ids = NDArray[np.int64]
Batch = tuple[Ids, Tensor]


def moments_of(
    teacher: Teacher,
    dataset: Viewed,
    wanted: Mapping[FeatureSpec, int],
    *,
    workers: int,
    progress: Callable[[int], object],
    stopped: Callable[[], bool],
) -> dict[str, Moments] | None:
    """Ask the teacher about samples.

    Args:
        teacher: whom.
        dataset: of which samples.
        wanted: the features, each with how many of the first samples count; no more than there are.
        workers: threads that read.
        progress: told the number of samples done after each batch.
        stopped: asked before each batch.

    Returns:
        By the name of each feature its moments, of rows or, of sequences, of positions that are no padding; None if
        asked to stop.

    Raises:
        TeacherError: a feature is NaN or infinite, naming its samples; or the teacher fails.

    """
    found = {spec.name: Moments(width(spec)) for spec in wanted}
    most, size = max(wanted.values()), teacher.settings.batch_size
    cuts = [np.arange(start, min(start + size, most)) for start in range(0, most, size)]
    done = 0
    for ids, inputs_NX in ahead(cuts, partial(_load, dataset), workers):
        if stopped():
            return None
        with explained(ids):
            there_NL, seen = _asked(teacher, inputs_NX, wanted)
            for spec, count in wanted.items():
                left = slice(0, max(0, count - done))
                there = None if there_NL is None else there_NL[left]
                found[spec.name].add(_rows(spec, seen[spec.module][left], there, ids[left]))
        done += len(ids)
        progress(len(ids))
    return found


def _load(dataset: Viewed, rows: Ids) -> Batch:
    return dataset.ids[rows], torch.from_numpy(dataset.inputs(rows))


def _asked(
    teacher: Teacher, inputs_NX: Tensor, wanted: Mapping[FeatureSpec, int]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Which positions are no padding, and what each module answers."""
    inputs_NX = inputs_NX.to(teacher.device)
    _, seen = teacher.answer_inside(inputs_NX, sorted({spec.module for spec in wanted}))
    return positions_there(inputs_NX) if teacher.views.input == "tokens" else None, seen


def _rows(spec: FeatureSpec, feature_NX: Tensor, there_NL: Tensor | None, ids_N: Ids) -> Tensor:
    """What counts of a batch, [R, F]."""
    rows_NF = rows_of(spec, feature_NX, there_NL)
    broken_N = ~rows_NF.flatten(1).isfinite().all(dim=1)
    if broken_N.any():
        raise TeacherError(
            f"{spec.what} is NaN or infinite, and no basis can be fitted on such rows: look at these inputs, or run "
            f'the teacher with precision = "float32". It is so for {samples(broken_N, ids_N)}.'
        )
    return rows_NF if rows_NF.ndim == 2 or there_NL is None else rows_NF[there_NL]  # noqa: PLR2004 - [N, F]
