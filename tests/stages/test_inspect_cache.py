"""What a cache is, told from its documents: `inspect`."""

import json
import re
from pathlib import Path

import pytest
from pydantic import JsonValue
from river_cases import DENSE, job_for, samples, write_cache
from stage_cases import ROWS, snapshot, softlabels

from pipeline.terms import served


def test_a_sealed_cache_says_what_it_is(filled: Path) -> None:
    """Law: `inspect` tells the seal's cache id, the rows, the shards, the bytes and the job, and changes nothing."""
    before = snapshot(filled)
    outcome = softlabels("inspect", "cache", "--json")
    seal = json.loads((filled / "cache/seal.json").read_bytes())
    facts = outcome.facts
    assert (outcome.code, facts["sealed"], facts["cache_id"]) == (0, True, seal["cache_id"])
    assert (facts["rows"], facts["shards"], facts["shards_done"], facts["bytes"]) == (ROWS, 4, 4, seal["bytes"])
    assert facts["asked"]["labels"]["encoding"] == "dense"
    assert facts["arrays"]["logits"] == "float16 [3]"
    text = softlabels("inspect", "cache").out
    assert f"sealed, cache id {seal['cache_id']}" in text
    assert "4 of 4 done" in text
    assert re.search(r"serves\n  hard +always\n  kd +any temperature, standardised too\n", text)
    assert facts["serves"] == served("dense", (), standardised=False)
    assert snapshot(filled) == before


def test_a_cache_on_its_way_says_how_far_it_is(filled: Path) -> None:
    """Law: without a seal the exit code is 4, and the report is still there."""
    (filled / "cache/seal.json").unlink()
    (filled / "cache/receipts/000000002.json").unlink()
    outcome = softlabels("inspect", "cache")
    assert outcome.code == 4
    assert "NOT SEALED: run `softlabels generate` again" in outcome.out
    assert "3 of 4 done" in outcome.out
    assert softlabels("inspect", "cache", "--json").facts["shards_done"] == 3


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"encoding": "wavelet", "classes": 3, "dtype": "float16"},
        {"encoding": "dense", "classes": 3, "dtype": "bits"},
        {"encoding": "dense", "classes": 3, "dtype": "float16", "rotated": True},
        {"encoding": "topk", "classes": 3, "dtype": "float16", "k": 2, "temperatures": ["warm"]},
        {"encoding": ["\x1b[2J"], "scale": {"deep": [1, None]}},
    ],
)
def test_labels_that_this_version_does_not_know_are_shown_and_said_to_serve_nothing(
    labels: dict[str, JsonValue], tmp_path: Path
) -> None:
    """Law: a cache of another program is inspected all the same, to its seal; no loss is promised."""
    job = job_for(samples(), DENSE).model_copy(update={"labels": labels})
    write_cache(tmp_path / "foreign", samples(), job=job)
    facts = softlabels("inspect", str(tmp_path / "foreign"), "--json").facts
    assert (facts["sealed"], facts["asked"]["labels"], facts["serves"]) == (True, labels, {})
    outcome = softlabels("inspect", str(tmp_path / "foreign"))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("serves    nothing that this version knows\n")
    assert "\x1b" not in outcome.out


@pytest.mark.parametrize("name", ["job.json", "receipts/000000001.json", "seal.json"])
def test_documents_that_were_changed_are_refused(name: str, filled: Path) -> None:
    """Law: one byte more in a document is exit code 3, and the document is named."""
    document = filled / "cache" / name
    document.write_bytes(document.read_bytes().replace(b": ", b":  ", 1))
    softlabels("inspect", "cache").refuses(3, name, "is not the ", "that was written")


@pytest.mark.parametrize("verb", ["inspect", "verify"])
@pytest.mark.parametrize(
    ("place", "code", "said"),
    [("nowhere", 4, "holds no label cache"), (".", 4, "holds no label cache"), ("e.toml", 7, "e.toml is a file")],
)
def test_a_place_without_a_cache_is_refused(verb: str, place: str, code: int, said: str, filled: Path) -> None:
    """Law: what is no cache is told so, and nothing is written."""
    before = snapshot(filled)
    softlabels(verb, place).refuses(code, said, "Give the path of a label cache")
    assert snapshot(filled) == before
