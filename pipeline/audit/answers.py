"""A finished cache examined: whether its labels are what the teacher says.

Shape legend
    N  rows (samples)
    C  classes
    K  kept classes of a row
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import encodings
from pipeline.encodings.sampled import rounding
from pipeline.errors import ConfigError
from pipeline.labeller import explained
from pipeline.labels import DenseLabels, LabelSpec, MixedLabels, SampledLabels, SoftLabels
from pipeline.reader import Reader
from pipeline.seeds import generator
from pipeline.teachers import Teacher

Rows = NDArray[np.int64]
DRIFT = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2}
"""How far a teacher asked twice may be from itself, in units of a row's spread: another batch, device or number of
threads sums in another order. About ten units in the last place of half precision; of float32, one of the TF32 that a
GPU may use in its stead.
"""

ALL_DRAWN = (
    "These labels are classes as they were drawn, of which none has its probability: they cannot be held against the "
    'teacher. Those of other encodings can, as labels.encoding = "sampled" with a larger labels.k.'
)

NO_TARGET = "None of these samples has a target, so there is nothing to ask about. Ask about more, with --rows."


@dataclass(frozen=True)
class Answers:
    """What the teacher says now of N samples, against what is stored of them."""

    rows: int  # samples, in their views
    known: int  # rows, or targets of these, of which a class has its probability, and was not drawn
    agreeing: int  # of these, rows whose largest logit is the same class's
    difference: float  # the largest |log p| of a stored class, against the teacher's now
    stated: float  # the largest difference that the encoding states for these rows
    allowed: float  # the same, with what the teacher's own arithmetic may add
    strangers: tuple[int, ...]  # the ids of samples that differ by more than the encoding and the arithmetic explain


def ask_again(
    reader: Reader, teacher: Teacher, count: int, seed: int, progress: Callable[[int], object] = lambda _: None
) -> Answers:
    """Ask the teacher again about random rows of a cache.

    Args:
        reader: of a cache and the dataset it was made from; every input is held against the crc32c of the one that the
            teacher saw.
        teacher: who to ask.
        count: how many rows; all, if there are fewer.
        seed: which.
        progress: told the number of rows done.

    Raises:
        MismatchError: an input is not the one that the teacher saw.
        TeacherError: the teacher fails, or answers with other shapes or with what is not finite.
        ConfigError: of all these rows, all that is stored was drawn.

    """
    cached = reader.cached
    chosen = np.sort(generator("ask again", seed).choice(cached, min(count, cached), replace=False))
    found = []
    for rows in np.array_split(chosen, -(-chosen.size // teacher.settings.batch_size)):
        found.append(_compared(reader, teacher, rows))
        progress(rows.size)
    parts = (np.concatenate(part) for part in zip(*found, strict=True))
    ids, known, agreeing, differences, stated, allowed, strange = parts
    if not known.size:
        raise ConfigError(NO_TARGET)
    if not known.any():
        raise ConfigError(ALL_DRAWN)
    return Answers(
        rows=chosen.size,
        known=int(known.sum()),
        agreeing=int(agreeing.sum()),
        difference=float(differences.max()),
        stated=float(stated.max()),
        allowed=float(allowed.max()),
        strangers=tuple(dict.fromkeys(ids[strange].tolist())),
    )


def _compared(reader: Reader, teacher: Teacher, rows: Rows) -> Iterator[NDArray[np.generic]]:
    """Of each row: whose, any known, the same top class, by how much log p differs, both bounds, is it too much.

    A sample with positions has a row for each of its targets.
    """
    batch, ids = reader.__getitems__(rows), reader.dataset.ids[rows % len(reader)]
    assert batch.soft is not None and not isinstance(batch.soft, MixedLabels), "a reader of one cache"  # noqa: PT018
    with explained(ids):
        logits_NC = teacher.logits(batch.inputs_NX.numpy()).cpu()
    if reader.spec.positions is not None:
        logits_NC = logits_NC[..., : reader.spec.classes]
    encodings.refuse_other_classes(reader.spec, logits_NC, ids)
    encodings.refuse_non_finite(logits_NC, ids)
    logits_NC, ids = batch.answers(logits_NC), ids[batch.owners]
    temperature = (encodings.temperatures(reader.spec) or (1.0,))[0]
    log_p_NK, classes_NK = stored_log_p(batch.soft, temperature)
    now_NK = torch.log_softmax(logits_NC / temperature, dim=1).gather(1, classes_NK)
    top_N = classes_NK.gather(1, log_p_NK.nan_to_num(-torch.inf).argmax(dim=1, keepdim=True))[:, 0]
    difference_NK = (log_p_NK - now_NK).abs().nan_to_num(0.0)
    if isinstance(batch.soft, SampledLabels):
        stated_NK = rounding(reader.spec, batch.soft.weights_NK).masked_fill(log_p_NK.isnan(), 0.0)
    else:
        stated_NK = encodings.bound(reader.spec, logits_NC, temperature)[:, None]
    spread_N1 = logits_NC.amax(dim=1, keepdim=True) - logits_NC.amin(dim=1, keepdim=True)
    allowed_NK = stated_NK + DRIFT[teacher.settings.precision] * spread_N1 / temperature
    known_N = ~log_p_NK.isnan().all(dim=1)
    same_N = (top_N == logits_NC.argmax(dim=1)) & known_N
    strange_N = (difference_NK > allowed_NK).any(dim=1)
    largest = (each.amax(dim=1) for each in (difference_NK, stated_NK, allowed_NK))
    return iter((ids, *map(Tensor.numpy, (known_N, same_N, *largest, strange_N))))


def answered(reader: Reader, teacher: Teacher, spec: LabelSpec, rows: Rows) -> tuple[Tensor, Tensor]:
    """The teacher's logits of some samples, float32 on the CPU, and their true classes, [N, C] and [N].

    Of samples with positions there is a row for each target.

    Raises:
        TeacherError: the teacher fails, or answers with other shapes or with what is not finite.

    """
    logits, labels, owners = [], [], []
    for part in np.array_split(rows, -(-rows.size // teacher.settings.batch_size)):
        batch, ids = reader.__getitems__(part), reader.dataset.ids[part]
        with explained(ids):
            answer = teacher.logits(batch.inputs_NX.numpy()).cpu()
        if spec.positions is not None:
            answer = answer[..., : spec.classes]
            encodings.refuse_other_classes(spec, answer, ids)
        logits.append(batch.answers(answer))
        labels.append(batch.labels_N)
        owners.append(ids[batch.owners])
    logits_NC, ids_N = torch.cat(logits), np.concatenate(owners)
    if not ids_N.size:
        raise ConfigError(NO_TARGET)
    encodings.refuse_other_classes(replace(spec, positions=None), logits_NC, ids_N)
    encodings.refuse_non_finite(logits_NC, ids_N)
    return logits_NC, torch.cat(labels)


def stored_log_p(labels: SoftLabels, temperature: float) -> tuple[Tensor, Tensor]:
    """The log probabilities of the classes that are stored, and which those are: `[N, K]` each.

    Of sparse labels the temperature is the first of their grid. Of what was drawn nothing is known: NaN.

    Raises:
        ConfigError: all that is stored was drawn.

    """
    if isinstance(labels, SampledLabels):
        if labels.exact_N is None:
            raise ConfigError(ALL_DRAWN)
        drawn_NK = torch.arange(labels.ids_NK.shape[1]) >= labels.exact_N[:, None]
        return labels.weights_NK.log().masked_fill(drawn_NK, torch.nan), labels.ids_NK
    if isinstance(labels, DenseLabels):
        log_p_NC = torch.log_softmax(labels.logits_NC / temperature, dim=1)
        return log_p_NC, torch.arange(log_p_NC.shape[1]).expand_as(log_p_NC)
    return labels.logits_NK / temperature - labels.logsumexp_NG[:, :1], labels.ids_NK
