"""Every byte of a cache against its receipts: `verify`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stage_cases import ECHO, KINDS, TOPK, Outcome, must, run, snapshot, softlabels

from pipeline.encodings import decode
from pipeline.models import build
from pipeline.reader import label_spec
from pipeline.store.mapped import LabelCache
from pipeline.teachers import Teacher
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


def ask_again(*words: str, settings: tuple[str, ...] = ()) -> Outcome:
    """The teacher, asked again."""
    sets = [word for setting in settings for word in ("--set", setting)]
    return softlabels("verify", "cache", "--teacher", "e.toml", *sets, *words)


@pytest.mark.promise("P15")
@pytest.mark.parametrize(
    "settings",
    [
        (),
        TOPK,
        ("labels.dtype=float32",),
        ("teacher.precision=bfloat16",),
        *(KINDS[kind] for kind in sorted(KINDS.keys() - {"multinomial"})),
    ],
)
@pytest.mark.usefixtures("fitted")
def test_the_teacher_asked_again_says_what_is_stored(settings: tuple[str, ...]) -> None:
    """Law: of random rows, the same best class in all, and no difference beyond the encoding's stated error."""
    must("generate", *settings)
    outcome = ask_again("--rows", "20", settings=settings)
    assert outcome.code == 0, outcome.err
    assert "asked again about 20 rows: the same best class in 100.00%" in outcome.out
    facts = ask_again("--json", settings=settings).facts["teacher"]
    assert (facts["rows"], facts["agreement"], facts["strangers"]) == (50, 1.0, [])
    assert facts["difference"] <= facts["stated"] <= facts["allowed"]


@pytest.mark.promise("P15")
@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    "change", [lambda logits: 1.05 * logits, lambda logits: logits.roll(1, dims=1)], ids=["scaled", "permuted"]
)
def test_labels_that_are_not_the_teachers_are_found_though_every_byte_is_proven(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Law: if the code of a model changed under the same checkpoint, the teacher asked again gives it away: exit 5."""
    answers_otherwise(monkeypatch, change)
    outcome = ask_again("--rows", "8", "--seed", "3")
    assert outcome.code == 5
    assert "That is more than encoding and arithmetic explain for 8 samples (ids " in outcome.out
    assert "Has the code of its model changed?" in outcome.out
    assert len(ask_again("--rows", "8", "--json").facts["teacher"]["strangers"]) == 8


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("kind", ["sampled", "head+sampled"])
@pytest.mark.parametrize("change", [lambda logits: 1.5 * logits, lambda logits: logits.roll(1, dims=1)])
def test_labels_of_another_teacher_are_found_by_what_is_exact_of_a_sample(
    monkeypatch: pytest.MonkeyPatch, kind: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Law: the classes that were drawn say nothing of one row, and the others give it away: exit 5."""
    must("generate", *KINDS[kind])
    answers_otherwise(monkeypatch, change)
    outcome = ask_again("--json", settings=KINDS[kind])
    assert outcome.code == 5
    assert len(outcome.facts["teacher"]["strangers"]) > 40


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("settings", [KINDS["multinomial"], (*KINDS["sampled"], "labels.k=1")])
def test_what_was_drawn_is_not_held_against_the_teacher(settings: tuple[str, ...]) -> None:
    """Law: of counts, and of a sample of one, no row can be judged: exit 2, with what can; all bytes can be proven."""
    must("generate", *settings)
    ask_again(settings=settings).refuses(
        2, "classes as they were drawn, of which none has its", "with a larger labels.k"
    )
    assert softlabels("verify", "cache").code == 0


@pytest.mark.usefixtures("fitted")
def test_a_row_of_which_all_was_drawn_disagrees_with_no_one() -> None:
    """Law: where the teacher is torn none is kept for certain, so none is said to be another than its best."""
    few = (*ECHO, "views.std=50", *KINDS["sampled"], "labels.k=2")
    must("generate", *few)
    cache = LabelCache.open(Path("cache"))
    stored = {name: torch.from_numpy(part) for name, part in cache.gather(0, np.arange(50)).items()}
    labels = decode(label_spec(cache), stored)
    assert 0 < (labels.exact_N == 0).sum() < 50
    assert ask_again("--json", settings=few).facts["teacher"]["agreement"] == 1.0


def answers_otherwise(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what the teacher says under the same checkpoint, as a change of its code does."""
    real = Teacher.answer
    monkeypatch.setattr(Teacher, "answer", lambda self, inputs: change(real(self, inputs)))


@pytest.mark.promise("P15")
@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda logits: logits[:, :2], "gives logits of shape [50, 2], but the dataset has 3 classes"),
        (lambda logits: torch.cat([logits, logits], 1), "gives logits of shape [50, 6], but"),
        (lambda logits: logits / 0, "logits are not finite"),
    ],
)
def test_an_answer_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    """Law: what cannot be compared is said of the teacher, not of the cache."""
    answers_otherwise(monkeypatch, change)
    ask_again("--rows", "50", settings=("teacher.batch_size=50",)).refuses(1, said)


@pytest.mark.promise("P15")
@pytest.mark.usefixtures("fitted")
def test_a_partial_cache_is_not_asked_about() -> None:
    """Law: the teacher is asked again about what is sealed; a wrong teacher is refused before a byte is verified."""
    must("generate")
    Path("cache/seal.json").unlink()
    ask_again().refuses(4, "has no seal")
    assert ask_again("--seed", str(2**63)).code == 2


@pytest.mark.promise("P15")
def test_another_teacher_is_refused_before_it_is_asked(filled: Path) -> None:
    """Law: the fingerprint is looked at first; another checkpoint is named, and a config that is not there is said."""
    save_state(filled / "teacher.safetensors", build("mlp", {"hidden": [8]}, (1, 4, 4), 3).state_dict())
    ask_again().refuses(5, "teacher.checkpoint_sha256 was ")
    softlabels("verify", "cache", "--teacher", "none.toml").refuses(2, "none.toml")


@pytest.mark.promise("P15")
def test_a_damaged_cache_is_named_and_its_teacher_not_asked(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what is not whole is not compared."""
    shards(filled)[0].write_bytes(b"")
    monkeypatch.setattr("stages.ask_again.teacher_of", lambda *_: pytest.fail("the teacher was loaded"))
    assert ask_again().code == 3
