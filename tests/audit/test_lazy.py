"""The rows of a cache as a dask array: a block a shard, read when asked for, once, and a few at a time."""

import gc
import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from river_cases import CLASSES, DENSE, samples, write_cache

import pipeline.audit.lazy
from pipeline.audit.lazy import Rows
from pipeline.audit.rows import ROW
from pipeline.audit.statistics import statistics
from pipeline.audit.sums import parts
from pipeline.labels import LabelSpec
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache

ROWS = 37


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LabelCache:
    """Five shards, the last of five rows."""
    return write_cache(tmp_path_factory.mktemp("lazy") / "cache", samples(ROWS))


def test_a_block_is_a_shard(cache: LabelCache) -> None:
    """Law: as many blocks as shards, as many rows in each, in their order."""
    rows = Rows(cache, DENSE, 1.0).examined
    assert (rows.chunks, rows.shape, rows.dtype) == (((8, 8, 8, 8, 5),), (ROWS,), ROW)
    table = rows.compute()
    np.testing.assert_array_equal(table["sample_id"], cache.gather(0, np.arange(ROWS))["sample_id"])


def test_a_row_can_be_looked_at_by_whoever_knows_dask(cache: LabelCache) -> None:
    """Law: figures of rows are arrays of their own: reduced, compared and cut like any."""
    rows = Rows(cache, DENSE, 1.0).examined
    wrong = rows["sample_id"][(rows["top"] != rows["label"]).compute()].compute()
    found = statistics(cache)
    assert wrong.size == round(ROWS * (1 - float(found.overall.agreement)))
    assert rows["entropy_low"].mean().compute() == pytest.approx(float(found.overall.entropy_low))
    assert rows[8:16].compute().size == 8


def test_nothing_is_read_before_it_is_asked_for_and_then_once(
    cache: LabelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: however many figures are made of a shard, it is read once."""
    read: list[int] = []
    real = LabelCache.gather

    def gather(self: LabelCache, view: int, rows: np.ndarray, *others: object) -> dict[str, np.ndarray]:
        read.append(int(rows[0]))
        return real(self, view, rows, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(LabelCache, "gather", gather)
    rows = Rows(cache, DENSE, 1.0, confusion=True)
    assert read == []
    rows.added(parts(CLASSES))
    assert sorted(read) == [0, 8, 16, 24, 32]


def test_few_shards_are_in_memory_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: blocks that are alive at once do not grow in number with the shards, and what is made has one size."""
    most, sizes = [], []
    for shards in (8, 64):
        many = write_cache(tmp_path / str(shards), samples(8 * shards))
        alive: set[int] = set()
        seen: list[int] = []
        lock = threading.Lock()

        def examined(
            cache: LabelCache,
            spec: LabelSpec,
            temperature: float,
            shard: Shard,
            *,
            confusion: bool,
            alive: set[int] = alive,
            seen: list[int] = seen,
            lock: threading.Lock = lock,
            real: object = pipeline.audit.rows.examined,
        ) -> object:
            rows, sums = real(cache, spec, temperature, shard, confusion=confusion)  # type: ignore[operator]
            with lock:
                alive.add(shard.number)
                seen.append(len(alive))
            weakref.finalize(rows, alive.discard, shard.number)
            return rows, sums

        monkeypatch.setattr(pipeline.audit.lazy, "examined", examined)
        gc.collect()
        found = Rows(many, DENSE, 1.0, confusion=True).added(parts(CLASSES))
        assert len(seen) == shards
        most.append(max(seen))
        sizes.append({name: array.shape for name, array in found.items()})
    assert most[1] <= most[0] + 2 <= 12
    assert sizes[0] == sizes[1]


def test_rows_are_looked_at_by_other_processes_too(cache: LabelCache) -> None:
    """Law: what a block is read by may be pickled: a cluster's workers open the cache for themselves."""
    rows = Rows(cache, DENSE, 1.0)
    again = pickle.loads(pickle.dumps(rows))  # noqa: S301 - our own
    np.testing.assert_array_equal(again.examined.compute(), rows.examined.compute())
