"""What a cache's labels say as a whole, on the command line: `inspect --stats`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from river_cases import DENSE, job_for, samples, write_cache
from stage_cases import CLASSES, KINDS, ROWS, TOPK, must, snapshot, softlabels

from pipeline.audit.statistics import statistics
from pipeline.datasets.arrays import ArrayDataset
from pipeline.labels import LabelSpec
from pipeline.store.mapped import LabelCache


def test_statistics_come_after_what_the_cache_is(filled: Path) -> None:
    """Law: the text of `inspect`, then the figures overall, a line for each class and the pairs; nothing changes."""
    before = snapshot(filled)
    plain, outcome = softlabels("inspect", "cache"), softlabels("inspect", "cache", "--stats")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(plain.out.rstrip())
    found = statistics(LabelCache.open(filled / "cache"))
    assert f"{ROWS} rows in 4 shards at T = 1, {ROWS} of them with a true label\n" in outcome.out
    assert re.search(rf"\nentropy +{found.overall.entropy_low:.3f} nats, 1\.099 would be ignorance\n", outcome.out)
    assert re.search(rf"\nconfidence +{100 * found.overall.confidence:.2f} % in the likeliest class\n", outcome.out)
    assert re.search(rf"\nECE +{100 * found.calibration.ece:.2f} % in 15 bins", outcome.out)
    assert re.search(r"\ntail +none\n", outcome.out)
    for place in range(CLASSES):
        agreement = f"{100 * found.by_class.agreement[place]:.2f} %"
        assert re.search(rf"\n{place} +{int(found.by_class.rows[place])} .* {agreement}\n", outcome.out)
    first = found.confused[0]
    assert re.search(rf"\n{first.true} for {first.taken_for} +{100 * first.p:.2g} %\n", outcome.out)
    assert snapshot(filled) == before


def test_statistics_as_json_are_those_of_the_library(filled: Path) -> None:
    """Law: everything is under one key, beside what `inspect` says without it; at the temperature asked for."""
    facts = softlabels("inspect", "cache", "--stats", "--temperature", "4", "--json").facts
    expected = statistics(LabelCache.open(filled / "cache"), 4.0).facts()
    assert facts.pop("statistics") == json.loads(json.dumps(expected, allow_nan=False))
    assert facts == softlabels("inspect", "cache", "--json").facts


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind_are_looked_at(kind: str, fitted: Path) -> None:
    """Law: what they do not tell is shown as a question mark, and which of it is exact is said; a plot is drawn."""
    must("generate", *KINDS[kind])
    outcome = softlabels("inspect", "cache", "--stats", "--plot", "deep/here.png")
    assert (outcome.code, outcome.err) == (0, "")
    known = statistics(LabelCache.open(fitted / "cache")).known
    assert known in outcome.out
    drawn = "only p is known" in known
    assert (re.search(r"\nentropy +\? nats", outcome.out) is not None) == drawn
    assert (re.search(r"\ntail +\?\n", outcome.out) is not None) == drawn
    assert outcome.out.endswith("Drawn in deep/here.png.\n")
    assert (fitted / "deep/here.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.usefixtures("fitted")
def test_what_is_left_open_is_said_with_its_ends() -> None:
    """Law: of top-k labels entropy is a range, unless one class alone is left out; the tail has its quantiles."""
    for k, said in ((1, r"\nentropy +\d\.\d{3} to \d\.\d{3} nats"), (2, r"\nentropy +\d\.\d{3} nats")):
        labels = ("labels.encoding=topk", f"labels.k={k}")
        must("generate", *labels, f"cache.path=of{k}")
        text = softlabels("inspect", f"of{k}", "--stats").out
        assert re.search(said, text)
        assert re.search(r"\ntail .* is outside the kept classes; 50% of rows at most .*, all at most ", text)


def test_a_cache_on_its_way_is_looked_at_as_far_as_it_is(filled: Path) -> None:
    """Law: without a seal the exit code is 4, and the figures are those of the shards that are done."""
    (filled / "cache/seal.json").unlink()
    (filled / "cache/receipts/000000002.json").unlink()
    outcome = softlabels("inspect", "cache", "--stats")
    assert outcome.code == 4
    assert "34 rows in 3 shards" in outcome.out
    for receipt in (filled / "cache/receipts").iterdir():
        receipt.unlink()
    softlabels("inspect", "cache", "--stats").refuses(4, "none of its 4 shards is done")


def wide(path: Path, classes: int, labels_N: np.ndarray) -> None:
    """A cache of many classes."""
    inputs = np.arange(len(labels_N), dtype=np.float32)[:, None]
    data = ArrayDataset(inputs, np.arange(len(labels_N)), labels_N, classes)
    spec = LabelSpec("dense", classes, "float32")
    names = {"class_names": [f"kind {place}\n\x1b[2J" for place in range(classes)]}
    write_cache(path, data, spec, job_for(data, spec).model_copy(update={"dataset": names}))


def test_of_many_classes_the_ends_are_listed(tmp_path: Path) -> None:
    """Law: ten of the least confident, ten of the most, by name, in rising order; no name drives the terminal."""
    wide(tmp_path / "cache", 30, np.arange(60) % 30)
    outcome = softlabels("inspect", str(tmp_path / "cache"), "--stats")
    assert "\x1b" not in outcome.out
    lines = outcome.out.partition("agreement\n")[2].partition("\n\n")[0].splitlines()
    listed = [int(name) for name in re.findall(r"^kind (\d+) ", "\n".join(lines), re.MULTILINE)]
    sure = statistics(LabelCache.open(tmp_path / "cache")).by_class.confidence
    order = np.argsort(sure, kind="stable").tolist()
    assert listed == order[:10] + order[-10:]
    assert lines[10].strip() == "…"


def test_a_cache_without_true_labels_has_no_line_about_them(tmp_path: Path) -> None:
    """Law: neither of classes nor of calibration, where a plot says that it is not known."""
    wide(tmp_path / "cache", 5, np.full(9, -1))
    outcome = softlabels("inspect", str(tmp_path / "cache"), "--stats", "--plot", str(tmp_path / "plot.png"))
    assert outcome.code == 0, outcome.err
    assert "9 rows in 2 shards at T = 1, 0 of them with a true label\nentropy " in outcome.out
    assert not re.search("^(true class|ECE|most confused)", outcome.out, re.MULTILINE)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--stats", "--temperature", "3"), "know are those at 1, 2, 4, 8. Look at one of these"),
        (("--stats", "--temperature", "nan", "--plot", "new/p.png"), "temperature nan: the probabilities"),
        (("--temperature", "1"), "are about what --stats finds. Add --stats"),
        (("--plot", "p.png"), "are about what --stats finds. Add --stats"),
        (("--stats", "--temperature", "warm"), "'warm' is not a valid float"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(flags: tuple[str, ...], said: str, fitted: Path) -> None:
    """Law: exit code 2, and nothing is written."""
    must("generate", *TOPK)
    before = snapshot(fitted)
    outcome = softlabels("inspect", "cache", *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert snapshot(fitted) == before


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: exit code 7; no shard is read."""
    before = snapshot(filled)
    monkeypatch.setattr("stages.look_into_cache.statistics", lambda *_: pytest.fail("it was looked at"))
    softlabels("inspect", "cache", "--stats", "--plot", "e.toml/p.png").refuses(7, "e.toml is a file")
    assert snapshot(filled) == before


def test_labels_that_this_version_does_not_know_are_not_looked_at(tmp_path: Path) -> None:
    """Law: exit code 3, though `inspect` alone shows what they are."""
    labels = {"encoding": "wavelet", "classes": 3, "dtype": "float16"}
    job = job_for(samples(), DENSE).model_copy(update={"labels": labels})
    write_cache(tmp_path / "foreign", samples(), job=job)
    softlabels("inspect", str(tmp_path / "foreign"), "--stats").refuses(3, "its job describes labels that cannot be")


def test_a_damaged_shard_is_named(filled: Path) -> None:
    """Law: exit code 3, and what to do."""
    (shard,) = (filled / "cache/labels.zarr/logits/c/0/2").iterdir()
    data = bytearray(shard.read_bytes())
    data[3] ^= 0x10
    shard.write_bytes(data)
    softlabels("inspect", "cache", "--stats").refuses(3, "logits/c/0/2/0")


def test_inspect_alone_does_not_wait_for_dask(filled: Path) -> None:
    """Law: nor for torch: what is not asked for is not imported."""
    script = (
        "import sys; sys.argv = ['softlabels', 'inspect', 'cache']\n"
        "from stages.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, *({'dask', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{script}"],
        cwd=filled,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0"
