"""What is said of a cache as a whole is what its rows say: each figure against its definition, in NumPy and float64.

Shape legend: V views, N rows, C classes, K stored classes of a row.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river_cases import STEADY, job_for
from torchmetrics.classification import MulticlassCalibrationError

from pipeline import encodings
from pipeline.audit.statistics import Means, Statistics, statistics
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import ConfigError, CorruptError, IncompleteError
from pipeline.labels import LabelSpec
from pipeline.seeds import generator
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter

CLASSES, ROWS, VIEWS, SHARD_ROWS, T = 12, 43, 2, 8, 2.0
GRID = (1.0, T, 4.0)
DENSE = LabelSpec("dense", CLASSES, "float32")
TOPK = LabelSpec("topk", CLASSES, "float32", 4, GRID)
SPECS = {
    "dense float32": DENSE,
    "dense float16": replace(DENSE, dtype="float16"),
    "dense int8": replace(DENSE, dtype="int8"),
    "topk float32": TOPK,
    "topk float16": replace(TOPK, dtype="float16"),
    "topk int8": replace(TOPK, dtype="int8"),
    "topk, all": replace(TOPK, k=CLASSES),
    "head+sampled": LabelSpec("head+sampled", CLASSES, "float32", 2, GRID, tail=3),
    "sampled": LabelSpec("sampled", CLASSES, "float32", 5, (T,)),
    "multinomial": LabelSpec("multinomial", CLASSES, "float16", 15, (T,)),
}
Array = NDArray[Any]


def logits(rows: int = VIEWS * ROWS, classes: int = CLASSES, seed: int = 0) -> Array:
    """Of teachers that are sure of some rows and not of others, `[N, C]`."""
    random = generator("logits", seed)
    return (random.normal(size=(rows, classes)) * random.uniform(0.1, 6, (rows, 1))).astype(np.float32)


LABELS = np.arange(ROWS) % (CLASSES - 1) - 1
"""True classes: none of the last one, and -1 among them."""


def write(
    path: Path,
    spec: LabelSpec,
    logits_VNC: Array,
    labels_N: Array,
    done: Sequence[int] | None = None,
    *,
    change: Callable[[dict[str, Array]], object] = lambda _: None,
    **job: object,
) -> LabelCache:
    """A cache of these logits; of some shards alone, it has no seal."""
    rows = logits_VNC.shape[1]
    data = ArrayDataset(np.zeros((rows, 1), np.float32), np.arange(rows)[::-1] * 3, labels_N, spec.classes)
    asked = {"view_count": len(logits_VNC), **job}
    with CacheWriter.open(path, job_for(data, spec, shard_rows=SHARD_ROWS).model_copy(update=asked), {}) as writer:
        for shard in writer.missing():
            if done is None or shard.number in done:
                block = record(data, spec, logits_VNC, shard)
                change(block)
                writer.commit(shard, block, 0.0)
        if done is None:
            writer.seal({})
    return LabelCache.open(path, allow_partial=done is not None)


def record(data: ArrayDataset, spec: LabelSpec, logits_VNC: Array, shard: Shard) -> dict[str, Array]:
    """A shard's rows as they are stored."""
    rows = slice(shard.start, shard.stop)
    assert data.labels is not None
    ids, labels = data.ids[rows], data.labels[rows]
    encoded = encodings.encode(spec, torch.from_numpy(logits_VNC[shard.view, rows]), torch.from_numpy(labels), ids)
    own = {"sample_id": ids, "label": labels.astype(np.int32), "input_crc32c": np.zeros(len(ids), np.uint32)}
    return {name: tensor.numpy() for name, tensor in encoded.items()} | own


def defined(spec: LabelSpec, record_N: Mapping[str, Array], temperature: float) -> dict[str, Array]:
    """Figures of rows, written from their definitions over whole arrays; NaN where they are not known."""
    labels = encodings.decode(spec, {name: torch.from_numpy(array) for name, array in record_N.items()})
    stored = {name: part.double().numpy() for name, part in vars(labels).items() if isinstance(part, torch.Tensor)}
    rows = np.arange(len(record_N["label"]))
    p_NC = np.zeros((len(rows), spec.classes))
    unknown = np.full(len(rows), np.nan)
    true = record_N["label"]
    found = dict.fromkeys(("low", "high", "confidence", "top", "tail"), unknown)
    if spec.encoding == "dense":
        e_NC = np.exp(stored["logits_NC"] / temperature)
        p_NC = e_NC / e_NC.sum(axis=1, keepdims=True)
        entropy = -(p_NC * np.log(p_NC)).sum(axis=1)
        found |= {"low": entropy, "high": entropy, "confidence": p_NC.max(axis=1), "top": p_NC.argmax(axis=1)}
        found |= {"tail": np.zeros(len(rows)), "true": p_NC[rows, true]}
    elif spec.encoding in ("topk", "head+sampled"):
        sums_N1 = stored["logsumexp_NG"][:, [spec.temperatures.index(temperature)]]
        p_NK = np.exp(stored["logits_NK"] / temperature - sums_N1)
        ids_NK = stored["ids_NK"].astype(int)
        np.put_along_axis(p_NC, ids_NK, p_NK, axis=1)
        others, entropy = spec.classes - p_NK.shape[1], -(p_NK * np.log(p_NK)).sum(axis=1)
        tail = np.maximum(1 - p_NK.sum(axis=1), 0) if others else np.zeros(len(rows))
        low, high = np.array([ends(*row, others) for row in zip(tail, p_NK[:, -1], strict=True)]).T
        if spec.encoding == "head+sampled":
            p_NM = np.exp(stored["tail_logits_NM"] / temperature - sums_N1)
            low = high = -(p_NM * np.log(p_NM) / stored["tail_inclusion_NM"]).sum(axis=1)
            for row in rows:
                weights = p_NM[row] / stored["tail_inclusion_NM"][row]
                np.add.at(p_NC[row], stored["tail_ids_NM"][row].astype(int), weights)
        p_true = np.exp(stored["target_N"] / temperature - sums_N1[:, 0])
        p_NC[rows[true >= 0], true[true >= 0]] = p_true[true >= 0]
        found |= {"low": entropy + low, "high": entropy + high, "confidence": p_NK[:, 0], "top": ids_NK[:, 0]}
        found |= {"tail": tail, "true": p_true}
    else:
        for row in rows:
            np.add.at(p_NC[row], stored["ids_NK"][row].astype(int), stored["weights_NK"][row])
        found |= {"true": p_NC[rows, true]}
    right = np.where(np.isnan(found["top"]), np.nan, found["top"] == true)
    return found | {"p": p_NC, "right": right, "label": true}


def ends(mass: float, most: float, others: int) -> tuple[float, float]:
    """The entropy of a mass on as few classes as can hold it, none above the most likely, and evenly on all."""
    left, low = mass, 0.0
    for _ in range(others):
        held = min(left, most)
        low, left = low - (held * math.log(held) if held > 0 else 0), left - held
    return low, -mass * math.log(mass / others) if mass > 0 else 0.0


def means(figures: Mapping[str, Array], chosen: Array) -> list[float]:
    """Of the rows that a mask chooses, as `Means` has them."""
    labelled = chosen & (figures["label"] >= 0)

    def mean(name: str, rows: Array) -> float:
        return float(figures[name][rows].mean()) if rows.any() else math.nan

    return [
        float(chosen.sum()),
        *(mean(name, chosen) for name in ("low", "high", "confidence")),
        mean("true", labelled),
        mean("right", labelled),
        mean("tail", chosen),
    ]


def figures_of(found: Means, place: int | tuple[()] = ()) -> list[float]:
    """Those of one class, or of all."""
    return [float(column[place]) for column in vars(found).values()]


def everything(
    cache: LabelCache, spec: LabelSpec, temperature: float, done: Sequence[int] | None = None
) -> dict[str, Array]:
    """What is `defined` of all rows that are done, read shard by shard."""
    shards = [cache.layout.shard(number) for number in (range(cache.layout.shards) if done is None else done)]
    parts = [cache.gather(shard.view, np.arange(shard.start, shard.stop)) for shard in shards]
    return defined(spec, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, temperature)


def agrees(found: Statistics, figures: Mapping[str, Array], classes: int) -> None:
    """Law: means over all rows and by class, calibration, confusion and tail are those of the definitions."""
    label, everyone = figures["label"], np.ones(len(figures["label"]), bool)
    assert (found.rows, found.labelled) == (len(label), (label >= 0).sum())
    assert figures_of(found.overall) == pytest.approx(means(figures, everyone), abs=1e-9, nan_ok=True)
    for place in range(classes):
        expected = means(figures, label == place)
        assert figures_of(found.by_class, place) == pytest.approx(expected, abs=1e-9, nan_ok=True)
        if expected[0]:
            mean_p = figures["p"][label == place].mean(axis=0)
            assert found.confusion is not None
            np.testing.assert_allclose(found.confusion[place], mean_p, atol=1e-9)
    assert found.calibration.ece == pytest.approx(calibration_error(figures), abs=1e-9, nan_ok=True)
    if not np.isnan(figures["confidence"]).any():
        assert found.likeliest.sum() == found.rows
    else:
        assert not found.likeliest.any()
    assert found.tail.largest == pytest.approx(figures["tail"].max(), abs=1e-9, nan_ok=True)


def calibration_error(figures: Mapping[str, Array]) -> float:
    """Guo et al. (2017), equation 3: the sum over bins ((m - 1) / 15, m / 15] of |B| / n |acc(B) - conf(B)|."""
    known = (figures["label"] >= 0) & ~np.isnan(figures["confidence"])
    confidence, right = figures["confidence"][known], figures["right"][known]
    if not known.any():
        return math.nan
    total = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("name", SPECS)
def test_every_figure_is_the_one_of_its_definition(name: str, tmp_path: Path) -> None:
    """Law: for each encoding, over all views; shards do not show, nor that the last of a view is shorter."""
    spec = SPECS[name]
    cache = write(tmp_path / "cache", spec, logits().reshape(VIEWS, ROWS, CLASSES), LABELS)
    found = statistics(cache, T)
    agrees(found, everything(cache, spec, T), CLASSES)
    assert (found.encoding, found.temperature, found.shards) == (spec.encoding, T, 12)


@pytest.mark.parametrize("name", ["dense int8", "head+sampled", "sampled"])
def test_the_figures_of_a_shard_do_not_depend_on_how_it_is_cut(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: worked on a row or a few at a time, each row is examined, once."""
    cache = write(tmp_path / "cache", SPECS[name], logits().reshape(VIEWS, ROWS, CLASSES), LABELS)
    for piece in (1, 3 * CLASSES):
        monkeypatch.setattr("pipeline.audit.rows.PIECE", piece)
        agrees(statistics(cache, T), everything(cache, SPECS[name], T), CLASSES)


@pytest.mark.parametrize("name", ["dense float32", "topk int8", "sampled"])
def test_a_partial_cache_has_the_figures_of_its_shards_that_are_done(name: str, tmp_path: Path) -> None:
    """Law: and of no other row, in whatever order they were done."""
    done = [1, 5, 6, 10]
    cache = write(tmp_path / "cache", SPECS[name], logits().reshape(VIEWS, ROWS, CLASSES), LABELS, done)
    counted: list[int] = []
    found = statistics(cache, T, counted.append)
    agrees(found, everything(cache, SPECS[name], T, done), CLASSES)
    assert (found.shards, found.rows, counted) == (4, 3 * SHARD_ROWS + 3, [1] * 4)


@pytest.mark.parametrize("name", ["sampled", "multinomial"])
def test_what_was_drawn_is_not_said_to_be_known(name: str, tmp_path: Path) -> None:
    """Law: entropy, confidence, agreement, calibration and tail are none at all, in JSON null; p is known."""
    facts = statistics(write(tmp_path / "cache", SPECS[name], logits()[None], LABELS.repeat(2))).facts()
    text = json.dumps(facts, allow_nan=False)
    unknown = ("entropy_low", "entropy_high", "confidence", "agreement", "tail")
    overall, calibration = facts["overall"], facts["calibration"]
    assert isinstance(overall, dict)
    assert isinstance(calibration, dict)
    assert [overall[name] for name in unknown] == [None] * 5
    assert (calibration["ece"], facts["tail"]) == (
        None,
        {"quantiles": dict.fromkeys(("0.5", "0.9", "0.99")), "largest": None},
    )
    assert overall["p_true"] is not None
    assert "Entropy, confidence, likeliest class, calibration and tail are not known." in text


@settings(STEADY, max_examples=20)
@given(seed=st.integers(0, 2**32), temperature=st.sampled_from(GRID))
def test_the_entropy_of_a_row_is_between_its_bounds(
    seed: int, temperature: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Law: of top-k labels of any logits, by the entropy of the whole row."""
    logits_NC = logits(16, seed=seed)
    folder = tmp_path_factory.mktemp("bounds")
    whole, kept = (
        statistics(write(folder / spec.encoding, spec, logits_NC[None], np.arange(16) % CLASSES), temperature).by_class
        for spec in (DENSE, TOPK)
    )
    assert (kept.entropy_low <= whole.entropy_low + 1e-6)[whole.rows > 0].all()
    assert (whole.entropy_low <= kept.entropy_high + 1e-6)[whole.rows > 0].all()


def test_a_sampled_tail_gives_the_entropy_without_bias(tmp_path: Path) -> None:
    """Law: over a thousand draws of one row, within five deviations of the mean."""
    row_C = logits(1, seed=3) / 3
    spec, labels = replace(SPECS["head+sampled"], k=1, tail=2), np.zeros(1000, np.int64)
    cache = write(tmp_path / "cache", spec, row_C.repeat(1000, axis=0)[None], labels)
    estimates_N = everything(cache, spec, T)["low"]
    whole = statistics(write(tmp_path / "whole", DENSE, row_C[None], labels[:1]), T).overall.entropy_low
    deviation = estimates_N.std() / math.sqrt(1000)
    assert deviation > 1e-3
    assert abs(statistics(cache, T).overall.entropy_low - whole) < 5 * deviation


@pytest.mark.parametrize("name", ["dense float32", "dense int8", "topk float32", "topk int8"])
def test_a_teacher_that_knows_nothing_says_so(name: str, tmp_path: Path) -> None:
    """Law: of equal logits the entropy is log C, and no less; the confidence is 1 / C."""
    found = statistics(write(tmp_path / "cache", SPECS[name], np.full((1, ROWS, CLASSES), 7, np.float32), LABELS), 4.0)
    overall = found.overall
    certain = (overall.entropy_low, overall.entropy_high, overall.confidence, overall.p_true)
    assert certain == pytest.approx((math.log(CLASSES), math.log(CLASSES), 1 / CLASSES, 1 / CLASSES), abs=1e-6)
    assert found.entropy_rows[-1] == found.rows
    assert overall.agreement == (LABELS[LABELS >= 0] == 0).mean()


@pytest.mark.parametrize("name", ["dense float32", "dense float16", "topk float32", "head+sampled"])
def test_a_teacher_that_is_certain_and_right_leaves_nothing_open(name: str, tmp_path: Path) -> None:
    """Law: no entropy, no tail, no error of calibration, and no pair of classes that are confused."""
    labels = np.arange(ROWS) % CLASSES
    found = statistics(
        write(tmp_path / "cache", SPECS[name], 1e3 * np.eye(CLASSES, dtype=np.float32)[labels][None], labels)
    )
    overall = found.overall
    assert (overall.entropy_low, overall.entropy_high, overall.tail, found.tail.largest) == (0, 0, 0, 0)
    assert (overall.confidence, overall.p_true, overall.agreement, found.calibration.ece) == (1, 1, 1, 0)
    assert found.confused == ()
    assert found.calibration.rows[-1] == ROWS


@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_of_a_cache_is_the_one_of_torchmetrics(seed: int, tmp_path: Path) -> None:
    """Law: over the labelled rows, to 1e-6, as that of `pipeline.evaluation.evaluate`."""
    logits_NC = logits(300, seed=seed)
    labels = generator("labels", seed).integers(-1, CLASSES, 300)
    found = statistics(write(tmp_path / "cache", DENSE, logits_NC[None], labels))
    known = labels >= 0
    theirs = MulticlassCalibrationError(CLASSES, n_bins=15, norm="l1")
    p_NC = torch.from_numpy(logits_NC[known]).softmax(dim=1)
    assert found.calibration.ece == pytest.approx(theirs(p_NC, torch.from_numpy(labels[known])).item(), abs=1e-6)
    assert found.calibration.rows.sum() == known.sum()


def test_quantiles_of_the_tail_are_the_ends_of_narrow_bins(tmp_path: Path) -> None:
    """Law: each is no less than the quantile of the rows, and at most 7.5 % more; the largest is exact."""
    cache = write(tmp_path / "cache", TOPK, logits(400)[None], np.zeros(400, np.int64))
    tails_N = everything(cache, TOPK, T)["tail"]
    found = statistics(cache, T).tail
    for share, value in found.quantiles.items():
        exact = np.quantile(tails_N, float(share), method="inverted_cdf")
        assert exact <= value <= 1.075 * exact + 1e-9
    assert found.largest == pytest.approx(tails_N.max(), abs=1e-12)


def test_the_most_confused_classes_come_first(tmp_path: Path) -> None:
    """Law: by the mean p that rows of one class give to another one; rows without a label count for nothing."""
    p_NC = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.0, 0.5, 0.5], [0.9, 0.1, 0.0]])
    spec = LabelSpec("dense", 3, "float32")
    log_p_NC = np.log(p_NC + 1e-30).astype(np.float32)
    found = statistics(write(tmp_path / "cache", spec, log_p_NC[None], np.array([0, 1, 1, -1])))
    pairs = [(pair.true, pair.taken_for, round(pair.p, 4)) for pair in found.confused]
    assert pairs == [(1, 2, 0.4), (0, 1, 0.3), (0, 2, 0.1), (1, 0, 0.1)]
    assert found.confusion is not None
    np.testing.assert_allclose(found.confusion[:2], [[0.6, 0.3, 0.1], [0.1, 0.5, 0.4]], atol=1e-6)
    assert np.isnan(found.confusion[2]).all()


def test_of_many_classes_pairs_are_left_out(tmp_path: Path) -> None:
    """Law: above a thousand classes nothing is made that has a number for each pair; the rest is there."""
    spec = LabelSpec("topk", 1001, "float32", 4, (1.0,))
    found = statistics(write(tmp_path / "cache", spec, logits(9, 1001)[None], np.arange(9)))
    assert (found.confusion, found.confused) == (None, ())
    assert found.by_class.rows.tolist() == [1.0] * 9 + [0.0] * 992
    assert found.facts()["confusion"] is None


def test_a_dataset_without_labels_has_what_needs_none(tmp_path: Path) -> None:
    """Law: entropy, confidence and tail are known; agreement and calibration are not, and no class has rows."""
    found = statistics(write(tmp_path / "cache", TOPK, logits(ROWS)[None], np.full(ROWS, -1)))
    assert found.labelled == found.by_class.rows.sum() == 0
    overall = found.overall
    assert not np.isnan([overall.entropy_low, overall.entropy_high, overall.confidence, overall.tail]).any()
    assert np.isnan([overall.p_true, overall.agreement, found.calibration.ece]).all()
    assert found.confused == ()


def test_positions_of_a_record_are_rows_without_a_true_class(tmp_path: Path) -> None:
    """Law: a record's label is not that of its positions."""
    spec = LabelSpec("sampled", CLASSES, "float16", 5, (T,), positions=3)
    cache = write(tmp_path / "cache", spec, logits(3 * ROWS).reshape(1, ROWS, 3, CLASSES), LABELS)
    found = statistics(cache)
    assert (found.rows, found.labelled, found.temperature) == (3 * ROWS, 0, T)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a", "b", "c"], ("a", "b", "c")), (None, ()), (["a"], ()), ("abc", ()), ([1, None, "c"], ("1", "None", "c"))],
)
def test_classes_have_the_names_of_the_dataset(names: object, expected: tuple[str, ...], tmp_path: Path) -> None:
    """Law: one for each class, or none at all; what another program put there is no error."""
    spec = LabelSpec("dense", 3, "float32")
    dataset = {"class_names": names}
    found = statistics(write(tmp_path / "cache", spec, logits(4, 3)[None], np.zeros(4, np.int64), dataset=dataset))
    assert found.class_names == expected


@pytest.mark.parametrize(
    ("name", "grid", "expected"),
    [
        ("dense float32", (), 1.0),
        ("topk float32", GRID, 1.0),
        ("topk float32", (2.0, 4.0), 2.0),
        ("sampled", (4.0,), 4.0),
    ],
)
def test_the_temperature_is_one_or_the_first_that_there_is(
    name: str, grid: tuple[float, ...], expected: float, tmp_path: Path
) -> None:
    """Law: unless another is asked for."""
    spec = replace(SPECS[name], temperatures=grid)
    cache = write(tmp_path / "cache", spec, logits(4)[None], np.zeros(4, np.int64))
    assert statistics(cache).temperature == expected
    assert statistics(cache, (grid or (3.0,))[-1]).temperature == (grid or (3.0,))[-1]


@pytest.mark.parametrize(
    ("name", "temperature", "said"),
    [
        ("topk float32", 3.0, '"topk" labels know are those at 1, 2, 4. Look at one of these'),
        ("sampled", 1.0, '"sampled" labels know are those at 2. Look at one of these'),
        ("topk float32", math.nan, "temperature nan: the probabilities"),
        ("dense float32", 0.0, "temperature 0: expected a positive number"),
        ("dense float32", -1.0, "temperature -1: expected a positive number"),
        ("dense float32", math.inf, "temperature inf: expected a positive number"),
        ("dense float32", math.nan, "temperature nan: expected a positive number"),
    ],
)
def test_a_temperature_that_is_not_known_is_refused(name: str, temperature: float, said: str, tmp_path: Path) -> None:
    """Law: with those that are; nothing is read."""
    cache = write(tmp_path / "cache", SPECS[name], logits(4)[None], np.zeros(4, np.int64))
    with pytest.raises(ConfigError) as refusal:
        statistics(cache, temperature, lambda _: pytest.fail("a shard was read"))
    assert said in str(refusal.value)


def test_a_cache_without_a_shard_has_nothing_to_look_at(tmp_path: Path) -> None:
    """Law: it is said, with what to do."""
    cache = write(tmp_path / "cache", DENSE, logits(9)[None], np.zeros(9, np.int64), done=[])
    with pytest.raises(IncompleteError, match=r"none of its 2 shards is done.*Run the `softlabels generate`"):
        statistics(cache)


@pytest.mark.parametrize(
    ("name", "array", "value", "said"),
    [
        ("dense float32", "label", 12, "names class 12; expected 0 to 11"),
        ("dense float32", "label", -2, "names class -2; expected 0 to 11"),
        ("topk float32", "ids", 200, "names class 200; expected 0 to 11"),
        ("head+sampled", "tail_ids", 77, "names class 77; expected 0 to 11"),
        ("multinomial", "ids", 12, "names class 12; expected 0 to 11"),
    ],
)
def test_a_class_that_is_none_is_refused(name: str, array: str, value: int, said: str, tmp_path: Path) -> None:
    """Law: of a cache that was made wrong, whatever its checksums say; nothing is read or written out of bounds."""

    def spoil(block: dict[str, Array]) -> None:
        block[array] = block[array].copy()
        block[array].flat[0] = value

    cache = write(tmp_path / "cache", SPECS[name], logits(9)[None], np.zeros(9, np.int64), change=spoil)
    with pytest.raises(CorruptError) as refusal:
        statistics(cache)
    assert f"shard 0 {said}" in str(refusal.value) or f"shard 1 {said}" in str(refusal.value)


def test_facts_are_all_there_is_as_json_has_it(tmp_path: Path) -> None:
    """Law: the names of the records and their columns, as lists, without NaN."""
    found = statistics(write(tmp_path / "cache", TOPK, logits(ROWS)[None], LABELS))
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    assert set(facts) == set(vars(found))
    assert facts["by_class"]["rows"] == found.by_class.rows.tolist()
    assert facts["by_class"]["confidence"][-1] is None
    assert facts["confused"] == [asdict(pair) for pair in found.confused]
    assert facts["overall"]["tail"] == found.overall.tail
