"""Logits to what a row of the cache holds, and back: a table of encodings and the front door to it.

An encoding is a module of pure functions of tensors, batched, on any device. A new one is a new file and a line in
`ENCODINGS`.

A sample may have several positions, as a sequence has tokens, each with logits of its own: they are rows of one record.
"sampled" spends one budget on all of them; every other encoding keeps each as it keeps any row.

Shape legend
    N  rows (samples)
    L  positions of a sample
    C  classes
    R  rows of all positions, N L
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.encodings import dense, head_sampled, multinomial, sampled, topk
from pipeline.encodings.blocks import Deferred, Logits, joined, made, part, steps
from pipeline.encodings.refusals import samples
from pipeline.errors import ConfigError, DatasetError, TeacherError
from pipeline.labels import ArraySpec, LabelSpec, SoftLabels


class Encoding(Protocol):
    """What a module must define to be an encoding."""

    def check(self, spec: LabelSpec) -> None:
        """Raise ConfigError if the encoding cannot do what the spec asks."""

    def arrays(self, spec: LabelSpec) -> tuple[ArraySpec, ...]:
        """The arrays of a row."""

    def encode(
        self, spec: LabelSpec, logits_NC: Tensor, labels_N: Tensor, ids_N: NDArray[np.int64]
    ) -> dict[str, Tensor]:
        """Logits of any floating dtype to one tensor for each array; waits for nothing on the device.

        What is drawn is drawn by the spec's seed and the sample's id: the same in any batch, and again. A row that
        cannot be stored must hold a number that is not finite, in another array than `target`; if there are none but
        integers, its `counts` must be 0.
        """

    def refuse(self, spec: LabelSpec, logits_NC: Tensor, ids_N: NDArray[np.int64]) -> NoReturn:
        """Raise TeacherError about finite float32 logits of which `encode` made a row that cannot be stored."""

    def decode(self, spec: LabelSpec, record: Mapping[str, Tensor]) -> SoftLabels:
        """What `encode` returned, read again, to soft labels on the device of the record."""

    def temperatures(self, spec: LabelSpec) -> tuple[float, ...] | None:
        """The temperatures whose probabilities are exact; None if that is all of them."""

    def error(self, spec: LabelSpec) -> str:
        """How far a decoded row is from the teacher's, in words."""

    def bound(self, spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:
        """The same in numbers: how far log p at a temperature may be off for a stored class of each row, [N]."""


ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {"dense": dense, "topk": topk, "sampled": sampled, "multinomial": multinomial, "head+sampled": head_sampled}
)


def check(spec: LabelSpec) -> None:
    """Raise ConfigError if no encoding has that name, or if it cannot do what the spec asks."""
    if spec.encoding not in ENCODINGS:
        near = difflib.get_close_matches(spec.encoding, ENCODINGS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = ", ".join(ENCODINGS)
        raise ConfigError(f"There is no encoding {spec.encoding!r}. {hint}Set labels.encoding to one of: {known}.")
    if spec.tail is not None and spec.encoding != "head+sampled":
        raise ConfigError(
            f'The encoding "{spec.encoding}" samples no tail, but labels.tail = {spec.tail} was set. Leave labels.tail '
            'out, or set labels.encoding = "head+sampled".'
        )
    ENCODINGS[spec.encoding].check(spec)


def arrays(spec: LabelSpec) -> tuple[ArraySpec, ...]:
    """The arrays that a row of the cache is spread over."""
    each = ENCODINGS[spec.encoding].arrays(spec)
    if not _by_position(spec):
        return each
    return tuple(replace(array, row_shape=(spec.positions or 1, *array.row_shape)) for array in each)


def encode(spec: LabelSpec, logits_NC: Tensor, labels_N: Tensor, ids_N: NDArray[np.int64]) -> dict[str, Tensor]:
    """The rows to store for a batch of the teacher's logits of any floating dtype.

    `labels_N` are the true classes, -1 where there is none, of a sample with positions [N, L]; `ids_N` are the samples'
    ids, for the messages.

    Raises:
        TeacherError: the logits are not [N, C], or of positions [N, L, C]; are not finite, or do not fit the stored
            dtype.
        DatasetError: a label is not a class.

    """
    refuse_strange_labels(spec, labels_N.numpy(force=True), ids_N)
    record = launch(spec, logits_NC, labels_N, ids_N)
    if not storable(record):
        refuse(spec, logits_NC, ids_N)
    return record


def launch(spec: LabelSpec, logits_NC: Logits, labels_N: Tensor, ids_N: NDArray[np.int64]) -> dict[str, Tensor]:
    """As `encode`, but nothing is waited for on the device: ask `storable` of the record before it is stored.

    Logits that are yet to be made, of samples with positions, are made a block at a time.

    The labels must have passed `refuse_strange_labels`: a gather by what is no class would end a CUDA process.

    Raises:
        TeacherError: the logits are not [N, C], or of positions [N, L, C].

    """
    refuse_other_classes(spec, logits_NC, ids_N)
    if isinstance(logits_NC, Tensor):
        logits_NC = logits_NC.detach()
    labels_N, encode = labels_N.to(logits_NC.device), ENCODINGS[spec.encoding].encode
    if spec.encoding == "sampled":
        return sampled.encode(spec, logits_NC, labels_N, ids_N)
    if spec.positions is None:
        return encode(spec, made(logits_NC), labels_N, ids_N)
    names_NL = _names(spec, ids_N)

    def encoded(rows: slice, at: slice) -> dict[str, Tensor]:
        labels, names = labels_N[rows, at], names_NL[rows, at]
        record = encode(spec, made(part(logits_NC, rows, at)).flatten(0, 1), labels.flatten(), names.ravel())
        return {name: array.view(*names.shape, *array.shape[1:]) for name, array in record.items()}

    return joined([joined([encoded(rows, at) for at in cuts], axis=1) for rows, cuts in steps(logits_NC)])


def _by_position(spec: LabelSpec) -> bool:
    """Whether each position of a sample is kept as a row of its own."""
    return spec.positions is not None and spec.encoding != "sampled"


def _names(spec: LabelSpec, ids_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """A name for each position of each sample, by which it draws, [N, L]."""
    positions = spec.positions or 1
    return ids_N[:, None] * positions + np.arange(positions)


def refuse_other_classes(spec: LabelSpec, logits_NC: Logits, ids_N: NDArray[np.int64]) -> None:
    """Raise TeacherError unless the logits are [N, C], or [N, L, C] of records of L positions."""
    row_shape = (spec.classes,) if spec.positions is None else (spec.positions, spec.classes)
    if logits_NC.shape[1:] != row_shape:
        raise TeacherError(
            f"The teacher gives logits of shape {list(logits_NC.shape)}, but the dataset has {spec.classes} classes: "
            f"{[len(ids_N), *row_shape]} was expected. Use a teacher with {spec.classes} outputs, or mend the "
            "number of classes of the dataset."
        )


def storable(record: Mapping[str, Tensor]) -> Tensor:
    """Whether every row of a record can be stored: one boolean on its device. If not, `refuse` says why."""
    floats = [array for name, array in record.items() if array.is_floating_point() and name != "target"]
    if not floats:
        return record["counts"].to(torch.int64).any(dim=-1).all()
    return torch.stack([array.isfinite().all() for array in floats]).all()


def refuse(spec: LabelSpec, logits_NC: Logits, ids_N: NDArray[np.int64]) -> NoReturn:
    """Raise TeacherError about a batch whose record is not `storable`, naming samples and what to do.

    Logits that are yet to be made are made a sample at a time, and the first that cannot be stored is named.
    """
    if isinstance(logits_NC, Deferred):
        alone = [slice(at, at + 1) for at in range(len(ids_N))]
        first = next((at for at in alone if not _sound(spec, logits_NC.of(at), ids_N[at])), alone[0])
        logits_NC, ids_N = logits_NC.of(first).made(), ids_N[first]
    wide_NC = logits_NC.detach().to(torch.float32)
    refuse_non_finite(wide_NC, ids_N)
    if _sound(spec, wide_NC, ids_N):
        raise TeacherError(
            f"The teacher's logits of {len(ids_N)} samples (the first with id {ids_N[0]}) could not be stored, and "
            "changed since: its network answers in the same memory each time. Have it return a new tensor (`.clone()`)."
        )
    if _by_position(spec):
        wide_NC, ids_N = wide_NC.flatten(0, 1), np.repeat(ids_N, spec.positions or 1)
    ENCODINGS[spec.encoding].refuse(spec, wide_NC, ids_N)


def _sound(spec: LabelSpec, logits_NC: Logits, ids_N: NDArray[np.int64]) -> bool:
    """Whether a batch can be stored."""
    unlabelled = torch.full(logits_NC.shape[:-1], -1, device=logits_NC.device)
    return bool(storable(launch(spec, logits_NC, unlabelled, ids_N)))


def refuse_strange_labels(spec: LabelSpec, labels_N: NDArray[np.int64], ids_N: NDArray[np.int64]) -> None:
    """Raise DatasetError about labels that are neither a class nor -1."""
    strange_N = (labels_N < -1) | (labels_N >= spec.classes)
    if strange_N.any():
        ids_N = np.broadcast_to(ids_N.reshape(-1, *(1,) * (labels_N.ndim - 1)), labels_N.shape)
        labels_N, strange_N, ids_N = labels_N.ravel(), strange_N.ravel(), ids_N.ravel()
        raise DatasetError(
            f"The labels of {samples(torch.from_numpy(strange_N), ids_N)} are not classes: found "
            f"{labels_N[strange_N][:5].tolist()}, expected 0 to {spec.classes - 1}, or -1 for a sample without a "
            "label. Mend the dataset's labels or its number of classes."
        )


def decode(spec: LabelSpec, record: Mapping[str, Tensor]) -> SoftLabels:
    """The soft labels of a batch of stored rows, on the device of the record; of positions a row for each, [R]."""
    if _by_position(spec):
        record = {name: array.flatten(0, 1) for name, array in record.items()}
    return ENCODINGS[spec.encoding].decode(spec, record)


def temperatures(spec: LabelSpec) -> tuple[float, ...] | None:
    """The temperatures at which these labels give exact probabilities; None: any temperature."""
    return ENCODINGS[spec.encoding].temperatures(spec)


def error(spec: LabelSpec) -> str:
    """How far a decoded row is from the teacher's, in words."""
    return ENCODINGS[spec.encoding].error(spec)


def bound(spec: LabelSpec, logits_NC: Tensor, temperature: float) -> Tensor:
    """By how much log p of a stored class may differ from that of the teacher's logits at a temperature, a row, [N]."""
    return ENCODINGS[spec.encoding].bound(spec, logits_NC, temperature)


def refuse_non_finite(logits_NC: Tensor, ids_N: NDArray[np.int64]) -> None:
    """Raise TeacherError about logits that are NaN or infinite, [N, C] or of positions [N, L, C]."""
    broken_N = ~logits_NC.flatten(1).isfinite().all(dim=1)
    if broken_N.any():
        where = ""
        if logits_NC.ndim > 2:  # noqa: PLR2004 - [N, C]
            first = logits_NC[broken_N][0].isfinite().all(dim=-1).int().argmin()
            where = f", first at position {int(first)}"
        raise TeacherError(
            f"The teacher's logits are not finite (NaN or infinite) for {samples(broken_N, ids_N)}{where}; finite ones "
            'were expected. Look at these inputs, or run the teacher with precision = "float32".'
        )
