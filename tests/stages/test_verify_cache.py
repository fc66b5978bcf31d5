"""Every byte of a cache against its receipts: `verify`."""

import json
from pathlib import Path

import pytest
import torch
from stage_cases import TOPK, must, run, snapshot, softlabels

from pipeline.models import build
from pipeline.weights import save_state


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


@pytest.mark.promise("P4")
def test_what_verify_says_to_do_mends_the_cache(filled: Path) -> None:
    """Law: after the advice is followed, the same generate makes the damaged shard anew, and all is well."""
    shard = shards(filled)[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert softlabels("verify", "cache").code == 3
    (filled / "cache/seal.json").unlink()
    (filled / "cache/receipts/000000000.json").unlink()
    assert run("generate", flags=("--json",)).facts["made"] == 16
    assert softlabels("verify", "cache").code == 0


def write_config(folder: Path, *replacements: tuple[str, str]) -> Path:
    """The experiment of a folder with some of its text replaced."""
    text = (folder / "e.toml").read_text()
    for old, new in replacements:
        assert text.count(old) >= 1
        text = text.replace(old, new)
    (folder / "again.toml").write_text(text)
    return folder / "again.toml"


@pytest.mark.promise("P15")
@pytest.mark.parametrize("settings", [(), TOPK], ids=["dense", "topk"])
def test_the_teacher_asked_again_says_what_is_stored(settings: tuple[str, ...], fitted: Path) -> None:
    """Law: of random rows, the same best class in all, and no difference beyond the encoding's stated error."""
    must("generate", *settings)
    config = fitted / "e.toml"
    if settings:
        config = write_config(fitted, ("[cache]", '[labels]\nencoding = "topk"\nk = 2\n\n[cache]'))
    outcome = softlabels("verify", "cache", "--teacher", str(config), "--rows", "20")
    assert outcome.code == 0, outcome.err
    assert "asked again about 20 rows: the same best class in 100.00%" in outcome.out
    facts = softlabels("verify", "cache", "--teacher", str(config), "--json").facts["teacher"]
    assert (facts["rows"], facts["agreement"], facts["strangers"]) == (50, 1.0, [])
    assert facts["difference"] <= facts["stated"]


@pytest.mark.promise("P15")
@pytest.mark.usefixtures("filled")
def test_labels_that_are_not_the_teachers_are_found_though_every_byte_is_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law: if the code of a model changed under the same checkpoint, the teacher asked again gives it away: exit 5."""
    real = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: 1.5 * real(self, x))
    outcome = softlabels("verify", "cache", "--teacher", "e.toml", "--rows", "8", "--seed", "3")
    assert outcome.code == 5
    assert "That is more than encoding and arithmetic explain for 8 samples (ids " in outcome.out
    assert "Has the code of its model changed?" in outcome.out


@pytest.mark.promise("P15")
def test_another_teacher_is_refused_before_it_is_asked(filled: Path) -> None:
    """Law: the fingerprint is looked at first; another checkpoint is named, and a config that is not there is said."""
    save_state(filled / "teacher.safetensors", build("mlp", {"hidden": [8]}, (1, 4, 4), 3).state_dict())
    softlabels("verify", "cache", "--teacher", "e.toml").refuses(5, "teacher.checkpoint_sha256 was ")
    softlabels("verify", "cache", "--teacher", "none.toml").refuses(2, "none.toml")


@pytest.mark.promise("P15")
def test_a_damaged_cache_is_named_and_its_teacher_not_asked(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what is not whole is not compared."""
    shards(filled)[0].write_bytes(b"")
    monkeypatch.setattr("stages.ask_again.teacher_of", lambda *_: pytest.fail("the teacher was loaded"))
    assert softlabels("verify", "cache", "--teacher", "e.toml").code == 3
