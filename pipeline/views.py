"""View v of sample i: the very input that a network sees, the same whoever asks, and its fingerprint.

A view is named by (seed, sample id, view number), and all that is drawn for it comes from a hash of that name: no
batch, order, process or world size changes it. Its fingerprint is taken before the normalisation, which runs on the
device.

Shape legend: N rows, X the shape of one input.
"""

from collections.abc import Mapping
from copy import copy
from functools import cached_property

import numpy as np
import torch
from crc32c import crc32c
from numpy.typing import NDArray

from pipeline.ahead import loaders
from pipeline.config import ViewSettings
from pipeline.datasets import Dataset
from pipeline.errors import ConfigError, DatasetError, MismatchError
from pipeline.seeds import generator, seed_of
from pipeline.sequences import shown, targets
from pipeline.transforms import Name, open_transform
from pipeline.transforms.mixes import MIXES
from pipeline.transforms.own import version_of

Rows = NDArray[np.int64]
Array = NDArray[np.generic]
NAMED = 5
TRIED = 4
COUNTED = 256  # samples at a time
CHANGED = (
    "The dataset has changed since the cache was made, so its labels do not belong to it. Restore the dataset, or make "
    "a new cache."
)
IMAGE_AXES = 4  # [N, C, H, W]: what channels-last is defined for


class Viewed:
    """A dataset whose samples are seen in views: a dataset itself, with the views' shape, and that of one view more.

    Args:
        dataset: the samples.
        settings: how a sample becomes a view; left out, its one view is the sample itself.
        workers: processes, for a transform that cannot be run in threads; None: as many as threads that read.

    Raises:
        ConfigError: no such transform, or one that these samples do not fit, or fewer views than are asked for.
        DatasetError: the transform fails, or gives what no tensor can hold.

    """

    def __init__(self, dataset: Dataset, settings: ViewSettings | None = None, workers: int | None = None) -> None:
        self.dataset, self.settings = dataset, settings or ViewSettings()
        self.ids, self.classes, self.class_names = dataset.ids, dataset.classes, dataset.class_names
        self.positions: int | None = getattr(dataset, "positions", None)  # of a sample that has more than one answer
        self.tokenizer_sha256: str | None = getattr(dataset, "tokenizer_sha256", None)
        self.labels = None if self.settings.mix else dataset.labels  # a mixed view has no true label
        self.input_shape, self.input_dtype = dataset.input_shape, dataset.input_dtype
        self._transform, self._first = None, True
        if self.settings.transform is not None:
            self._transform = open_transform(self.settings.transform, self.settings.options, loaders(workers))
            self._refuse_fewer()
        if self.changes:
            first = self.inputs(np.zeros(1, np.int64))
            _refuse_odd(first, self.settings)
            self.input_shape, self.input_dtype, self._first = first.shape[1:], first.dtype, False

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def changes(self) -> bool:
        """Whether a view is anything else than the sample."""
        return self._transform is not None or self.settings.mix is not None

    def in_classes(self, classes: int) -> "Viewed":
        """The same inputs, of which other classes are asked and none is known: no true label is seen."""
        other = copy(self)
        other.classes, other.class_names, other.labels = classes, None, None
        return other

    @cached_property
    def targets(self) -> int:
        """How many of all positions have a target, read through if need be; 0 of samples that have one answer."""
        if self.positions is None:
            return 0
        known = getattr(self.dataset, "target_count", None)
        blocks = np.array_split(np.arange(len(self)), -(-len(self) // COUNTED))
        return sum(len(targets(self.dataset.inputs(block))[0]) for block in blocks) if known is None else int(known)

    @cached_property
    def tools(self) -> Mapping[str, str]:
        """The version of the library that makes the views, if they are not our own."""
        return version_of(self._transform.library if self._transform else None)

    def inputs(self, rows: Rows, views: int | Rows = 0) -> Array:
        """`[N, *input_shape]`: a view of each of the samples at these positions.

        Args:
            rows: positions, in any order.
            views: which view, or which of each row.

        Raises:
            DatasetError: a sample cannot be read, or not be transformed.
            IndexError: a view below 0, or any but the first where a view is the sample.

        """
        if np.any(np.less(views, 0)) or (not self.changes and np.any(views)):
            raise IndexError(f"views {np.min(views)} to {np.max(views)} of samples that have none but the first")
        if not self.changes:
            return self.dataset.inputs(rows)
        views_N = np.broadcast_to(np.asarray(views, np.int64), rows.shape)
        inputs_NX = self._transformed(rows, views_N)
        if self.settings.mix is None or not rows.size:
            return inputs_NX
        named = list(zip(self.ids[rows].tolist(), views_N.tolist(), strict=True))
        partners_NX = self._transformed(self._partners(named), views_N)
        return np.stack(
            [
                self._mixed(one_X, other_X, sample, view)
                for one_X, other_X, (sample, view) in zip(inputs_NX, partners_NX, named, strict=True)
            ]
        )

    def prove(self) -> None:
        """Make a few views twice, in other company.

        Raises:
            DatasetError: they differ, so no one could make them again.

        """
        if not self.changes:
            return
        rows = np.unique(np.linspace(0, len(self) - 1, TRIED).astype(np.int64))
        for view in {0, self.settings.count - 1}:
            once, again = self.inputs(rows, view), self.inputs(rows[::-1].copy(), view)[::-1]
            if changed := self.ids[rows][fingerprints(once) != fingerprints(again)].tolist():
                raise DatasetError(
                    f"{self._what} is not deterministic under its seed: view {view} of sample {changed[0]}, made "
                    "twice, has other bytes the second time. It must draw all that is random from the generator that "
                    "it is given, or else from those of Python, NumPy and torch, and remember nothing."
                )

    @property
    def _what(self) -> str:
        made = ", ".join(f"{name} {number}" for name, number in self.tools.items())
        return f"views.transform {self.settings.transform}{f' ({made})' if made else ''}"

    def _transformed(self, rows: Rows, views_N: Rows) -> Array:
        distinct, places = np.unique(rows, return_inverse=True)
        shared = distinct.size < rows.size  # several views of a sample: it is read and decoded once
        inputs_NX = self.dataset.inputs(distinct)[places] if shared else self.dataset.inputs(rows)
        if self._transform is None:
            return inputs_NX
        seed, named = self.settings.seed, zip(self.ids[rows].tolist(), views_N.tolist(), strict=True)
        views_NX = self._transform(inputs_NX, [Name(seed_of("view", seed, *name), name[1]) for name in named])
        if not self._first and (views_NX.shape[1:], views_NX.dtype) != (self.input_shape, self.input_dtype):
            raise DatasetError(
                f"{self._what} gave views of {views_NX.dtype} and shape {list(views_NX.shape[1:])}, where the first "
                f"was {self.input_dtype} of {list(self.input_shape)}. Have it bring all to one."
            )
        return views_NX

    def _partners(self, named: list[tuple[int, int]]) -> Rows:
        """For each view the position of the sample that it is mixed with."""
        return np.array([seed_of("partner", self.settings.seed, *name) % len(self) for name in named])

    def _mixed(self, one_X: Array, other_X: Array, sample: int, view: int) -> Array:
        assert self.settings.mix is not None
        draws = generator("mix", self.settings.seed, sample, view)
        share = float(draws.beta(self.settings.alpha, self.settings.alpha))
        return MIXES[self.settings.mix](one_X, other_X, share, draws)

    def _refuse_fewer(self) -> None:
        most = self._transform.outcomes if self._transform else None
        if most is not None and self.settings.count > most:
            raise ConfigError(
                f"views.count = {self.settings.count}, and {self.settings.transform} has {most} outcomes with these "
                f"options: more views would repeat them. Set count = {most}, or less."
            )


def viewed(dataset: Dataset) -> Viewed:
    """A dataset as one with views, if it is not one already."""
    return dataset if isinstance(dataset, Viewed) else Viewed(dataset)


def _refuse_odd(views_NX: Array, settings: ViewSettings) -> None:
    if views_NX.dtype.kind not in "biuf" or not views_NX.dtype.isnative or views_NX.dtype.itemsize > 8:  # noqa: PLR2004
        raise DatasetError(
            f"views.transform {settings.transform} gave views of dtype {views_NX.dtype}, expected numbers of at most "
            "64 bits. Convert them in the transform."
        )


def fingerprints(inputs_NX: NDArray[np.generic]) -> NDArray[np.uint32]:
    """The crc32c of each row's bytes: `[N]`."""
    # A row of one dimension more: it is an array, and no scalar, which would mend the bytes of a damaged boolean.
    rows_NX = np.ascontiguousarray(inputs_NX)[:, None]
    return np.fromiter((crc32c(row) for row in rows_NX), np.uint32, len(inputs_NX))


def check_fingerprints(
    inputs_NX: NDArray[np.generic], stored_N: NDArray[np.generic], ids_N: NDArray[np.int64], cause: str = CHANGED
) -> None:
    """Refuse inputs that are not those which the teacher saw; `cause` says what may have come between.

    Raises:
        MismatchError: naming the first samples whose crc32c differs.

    """
    strangers = ids_N[fingerprints(inputs_NX) != stored_N]
    if strangers.size:
        named = ", ".join(map(str, strangers[:NAMED])) + (", …" if strangers.size > NAMED else "")
        raise MismatchError(
            f"{strangers.size} of the {ids_N.size} inputs of this batch are not the ones the teacher saw (sample ids "
            f"{named}): their crc32c is not the cached one. {cause}"
        )


def network_input(inputs_NX: torch.Tensor, views: ViewSettings, *, channels_last: bool) -> torch.Tensor:
    """(x - mean) / std in float32 on the tensor's own device, or ids of tokens: what a network is given."""
    if views.input == "tokens":
        return shown(inputs_NX)
    if views.preprocessing is not None:
        raise ConfigError(
            f'views.preprocessing = "{views.preprocessing}" has not been looked up yet, so mean and std are not known. '
            "Give what `pipeline.hubs.preprocessing.resolved` makes of the experiment."
        )
    mean, std = (_by_channel(value, inputs_NX) for value in (views.mean, views.std))
    inputs = (inputs_NX.to(torch.float32) - mean) / std
    if channels_last and inputs.ndim == IMAGE_AXES:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def _by_channel(value: float | tuple[float, ...], inputs_NX: torch.Tensor) -> float | torch.Tensor:
    """A number for all, or a number for each channel of `[N, C, ...]`."""
    if not isinstance(value, tuple):
        return value
    return torch.tensor(value, device=inputs_NX.device).view(-1, *(1,) * (inputs_NX.ndim - 2))
