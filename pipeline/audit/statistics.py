"""What the labels of a cache say as a whole, of any size: how sure they are, how right, and where they are in doubt.

Every figure is made of sums over shards, so that it takes one walk over the cache, and memory for a few shards.

Shape legend
    C  classes
    F  figures: rows, and those of `SUMMED`
    M  bins
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pipeline import encodings
from pipeline.audit.lazy import Rows
from pipeline.audit.rows import KNOWN
from pipeline.audit.sums import SUMMED, TAIL_EDGES, Column, parts
from pipeline.errors import ConfigError
from pipeline.labels import LabelSpec
from pipeline.reader import label_spec
from pipeline.store.mapped import LabelCache

MOST_CONFUSED = 1000  # classes of which all pairs are counted: 8 MB a shard
PAIRS = 10
QUANTILES = (0.5, 0.9, 0.99)
OF_LABELLED = ("p_true", "agreement")
FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Means:
    """Means over rows: a number each, or one a class, `[C]`. NaN where the labels do not tell, or there is no row."""

    rows: Column
    entropy_low: Column  # nats: the least it may be
    entropy_high: Column  # the most; where it is known, the same
    confidence: Column  # the probability of the likeliest class
    p_true: Column  # that of the true class, of labelled rows
    agreement: Column  # the share of labelled rows whose likeliest class is the true one
    tail: Column  # the probability outside the classes that are kept


@dataclass(frozen=True)
class Calibration:
    """Labelled rows in bins of confidence of equal width, `[M]`: Guo et al. (2017), arXiv 1706.04599, section 2."""

    rows: Column
    confidence: Column  # its mean; NaN in an empty bin
    accuracy: Column  # the share whose likeliest class is the true one; NaN in an empty bin
    ece: float  # equation 3: the mean over rows of |accuracy - confidence| of their bin; NaN if there are none


@dataclass(frozen=True)
class Tail:
    """How the probability outside the kept classes is distributed over rows; NaN if it is not known."""

    quantiles: Mapping[str, float]  # not exact: the end of a bin, which is at most 7.5 % or 1e-9 above
    largest: float  # exact


@dataclass(frozen=True)
class Confused:
    """What the rows of one class give to another, in the mean."""

    true: int
    taken_for: int
    p: float


@dataclass(frozen=True)
class Statistics:
    """The figures of the rows of all views; of a partial cache, of the shards that are done."""

    encoding: str
    temperature: float
    known: str  # which figures are exact, in words
    shards: int
    rows: int
    labelled: int
    class_names: tuple[str, ...]  # empty, if there are none
    overall: Means
    by_class: Means  # over the rows of each true class
    likeliest: Column  # of how many rows each class is the likeliest, `[C]`; what does not tell is nowhere
    calibration: Calibration
    entropy_rows: Column  # rows in bins from 0 to log C, `[M]`; of what leaves it open, at the middle
    tail: Tail
    confusion: NDArray[np.float64] | None  # [C, C]: the mean p of the rows of each true class; None above 1000 classes
    confused: tuple[Confused, ...]  # the largest of it between different classes

    def facts(self) -> dict[str, JsonValue]:
        """The same as JSON has it: lists, and null where nothing is known."""
        return {name: _plain(part) for name, part in vars(self).items()}


def statistics(
    cache: LabelCache, temperature: float | None = None, progress: Callable[[int], object] = lambda _: None
) -> Statistics:
    """Look at every row that is done.

    Args:
        cache: sealed or partial.
        temperature: of the softmax; left out, 1, or the first of the grid if 1 is not in it.
        progress: told the number of shards done.

    Raises:
        ConfigError: a temperature at which the labels know no probabilities.
        IncompleteError: no shard is done.
        CorruptError: the labels cannot be read, or a shard is damaged.

    """
    spec = label_spec(cache)
    asked = known_temperature(spec, temperature)
    rows = Rows(cache, spec, asked, confusion=spec.classes <= MOST_CONFUSED)
    sums = rows.added(parts(spec.classes), progress)
    overall, by_class = _overall(sums["by_class"]), _by_class(sums["by_class"])
    confusion = sums["confusion"] / _some(by_class.rows)[:, None] if "confusion" in sums else None
    return Statistics(
        encoding=spec.encoding,
        temperature=asked,
        known=KNOWN[spec.encoding],
        shards=rows.shards,
        rows=int(overall.rows),
        labelled=int(by_class.rows.sum()),
        class_names=_class_names(cache, spec),
        overall=overall,
        by_class=by_class,
        likeliest=sums["likeliest"],
        calibration=_calibration(sums["calibration"]),
        entropy_rows=sums["entropy"],
        tail=Tail(_quantiles(sums["tail"], float(sums["largest_tail"])), float(sums["largest_tail"])),
        confusion=confusion,
        confused=() if confusion is None else _largest(confusion),
    )


def known_temperature(spec: LabelSpec, asked: float | None) -> float:
    """The temperature to look at.

    Raises:
        ConfigError: the labels know no probabilities at it.

    """
    grid = encodings.temperatures(spec)
    if asked is None:
        return 1.0 if grid is None or 1.0 in grid else grid[0]
    if grid is None and not FLOAT32.tiny <= asked <= FLOAT32.max:
        raise ConfigError(f"temperature {asked:g}: expected a positive number that float32 can hold, such as 1 or 4.")
    if grid is not None and asked not in grid:
        raise ConfigError(
            f'temperature {asked:g}: the probabilities that these "{spec.encoding}" labels know are those at '
            f"{', '.join(f'{each:g}' for each in grid)}. Look at one of these, or generate labels with this one in "
            "labels.temperatures."
        )
    return asked


def _some(count: Column) -> Column:
    """A number of rows to divide by: of none there is no mean, but NaN."""
    return np.where(count > 0, count, np.nan)


def _by_class(sums_FC: Column) -> Means:
    labelled_FC = sums_FC[:, :-1]
    return Means(labelled_FC[0], *(labelled_FC[1:] / _some(labelled_FC[0])))


def _overall(sums_FC: Column) -> Means:
    all_F, labelled_F = sums_FC.sum(axis=1), sums_FC[:, :-1].sum(axis=1)
    counted = [labelled_F if name in OF_LABELLED else all_F for name in SUMMED]
    return Means(all_F[0], *(sum_F[place] / _some(sum_F[0]) for place, sum_F in enumerate(counted, 1)))


def _calibration(sums_3M: Column) -> Calibration:
    rows_M, confidence_M, right_M = sums_3M
    gaps = np.abs(right_M - confidence_M).sum()
    return Calibration(rows_M, confidence_M / _some(rows_M), right_M / _some(rows_M), float(gaps / _some(rows_M.sum())))


def _quantiles(rows_M: Column, largest: float) -> dict[str, float]:
    """For each quantile the end of the bin in which that share of the rows is reached; NaN, if the largest is."""
    reached_M = np.cumsum(rows_M)
    ends = TAIL_EDGES[np.searchsorted(reached_M, np.multiply(QUANTILES, reached_M[-1]))]
    return dict(zip(map(str, QUANTILES), np.minimum(ends, largest).tolist(), strict=True))


def _largest(confusion_CC: NDArray[np.float64]) -> tuple[Confused, ...]:
    others_CC = np.nan_to_num(confusion_CC)  # a copy
    np.fill_diagonal(others_CC, 0.0)
    order = np.argsort(-others_CC, axis=None, kind="stable")[:PAIRS]
    pairs = ((int(place) // len(others_CC), int(place) % len(others_CC)) for place in order)
    return tuple(Confused(*pair, float(others_CC[pair])) for pair in pairs if others_CC[pair] > 0)


def _class_names(cache: LabelCache, spec: LabelSpec) -> tuple[str, ...]:
    names = cache.job.dataset.get("class_names")
    if not isinstance(names, list) or len(names) != spec.classes:
        return ()
    return tuple(map(str, names))


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever is in a record, to whatever JSON has for it
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.floating):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
