"""Every byte of a cache against its receipts: `verify`."""

import json
from pathlib import Path

import pytest
from stage_cases import must, run, snapshot, softlabels


def shards(folder: Path) -> list[Path]:
    """All shard files of the cache."""
    return sorted(file for file in (folder / "cache/labels.zarr").glob("*/c/**/*") if file.is_file())


def test_a_whole_cache_is_verified(filled: Path) -> None:
    """Law: a cache as it was written is exit code 0, its shards and all its bytes counted; nothing changes."""
    before = snapshot(filled)
    facts = softlabels("verify", "cache", "--json").facts
    seal = json.loads((filled / "cache/seal.json").read_bytes())
    assert (facts["sealed"], facts["shards"], facts["bytes"], facts["problems"]) == (True, 4, seal["bytes"], [])
    outcome = softlabels("verify", "cache")
    assert (outcome.code, "every byte is as it was written" in outcome.out) == (0, True)
    assert snapshot(filled) == before


@pytest.mark.parametrize("place", [0, -1, "middle"])
def test_a_flipped_byte_anywhere_is_found_and_its_file_named(place: int | str, filled: Path) -> None:
    """Law: in every shard file, a byte flipped in the first chunk, in between or in the index is exit code 3."""
    for shard in shards(filled):
        whole = shard.read_bytes()
        data, at = bytearray(whole), len(whole) // 2 if isinstance(place, str) else place
        data[at] ^= 0x10
        shard.write_bytes(data)
        outcome = softlabels("verify", "cache", "--json")
        assert (outcome.code, [problem["path"] for problem in outcome.facts["problems"]]) == (
            3,
            [str(shard)],
        )
        shard.write_bytes(whole)
    assert softlabels("verify", "cache").code == 0


def test_a_missing_shard_is_found_and_named(filled: Path) -> None:
    """Law: each file that is gone is one problem, in the text too."""
    first, *_, last = shards(filled)
    first.unlink()
    last.unlink()
    outcome = softlabels("verify", "cache")
    assert (outcome.code, outcome.err) == (3, "")
    assert "2 problems:" in outcome.out
    assert str(first.relative_to(filled)) in outcome.out
    assert str(last.relative_to(filled)) in outcome.out


def test_a_cache_without_its_seal_is_incomplete(filled: Path) -> None:
    """Law: with every proven byte right and no seal the exit code is 4, and generate finishes it."""
    (filled / "cache/seal.json").unlink()
    outcome = softlabels("verify", "cache")
    assert outcome.code == 4
    assert "no seal yet. Run `softlabels generate` again" in outcome.out
    must("generate")
    assert softlabels("verify", "cache").code == 0


def test_what_verify_says_to_do_mends_the_cache(filled: Path) -> None:
    """Law: after the advice is followed, the same generate makes the damaged shard anew, and all is well."""
    shard = shards(filled)[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert softlabels("verify", "cache").code == 3
    (filled / "cache/seal.json").unlink()
    (filled / "cache/receipts/000000000.json").unlink()
    assert run("generate", flags=("--json",)).facts["made"] == 16
    assert softlabels("verify", "cache").code == 0
