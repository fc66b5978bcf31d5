"""Experiments on texts, from files to a table: a language model, and a classifier of documents."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stage_cases import Outcome, decided, softlabels

from pipeline.config import load
from pipeline.job import content_of
from pipeline.reader import Reader
from pipeline.sources import open_views
from pipeline.store.mapped import LabelCache

LANGUAGE = """
[dataset]
kind = "tokens"
path = "texts"
length = 16

[test]
kind = "tokens"
path = "texts-test"
length = 16

[teacher]
model = "gpt"
options = { width = 16, depth = 1, heads = 2 }
checkpoint = "teacher.safetensors"
batch_size = 8

[teacher.fit]
epochs = 1
batch_size = 8

[labels]
encoding = "topk"
k = 4
temperatures = [1.0]

[cache]
path = "cache"
test = "cache-test"
shard_rows = 16

[students.alone]
model = "gpt"
options = { width = 8, depth = 1, heads = 2 }
loss = "hard"
epochs = 1
batch_size = 8

[students.distilled]
model = "gpt"
options = { width = 8, depth = 1, heads = 2 }
loss = [{ name = "kd", temperature = 1.0 }]
epochs = 2
batch_size = 8
baseline = "alone"
"""

CLASSIFIER = """
[dataset]
kind = "tokens"
path = "reviews"
length = 24
layout = "documents"

[test]
kind = "tokens"
path = "reviews-test"
length = 24
layout = "documents"

[teacher]
model = "text_classifier"
options = { vocabulary = 257, width = 16, depth = 1, heads = 2 }
checkpoint = "teacher.safetensors"

[teacher.fit]
epochs = 12
batch_size = 8
learning_rate = 1e-2

[cache]
path = "cache"

[students.distilled]
model = "text_classifier"
options = { vocabulary = 257, width = 8, depth = 1, heads = 2 }
loss = "kd"
epochs = 12
batch_size = 8
learning_rate = 1e-2
"""


def ask(*words: str) -> Outcome:
    """A command that has to go well."""
    outcome = softlabels(*words)
    assert outcome.code == 0, outcome.out + outcome.err
    return outcome


@pytest.fixture(scope="module")
def language_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model's experiment, done once."""
    folder = tmp_path_factory.mktemp("language")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("in").mkdir()
        for number in range(30):
            Path(f"in/{number:02}.txt").write_text(f"this is text {number} of thirty. " * (1 + number % 3))
        Path("e.toml").write_text(LANGUAGE)
        ask("tokenize", "in", "--tokenizer", "bytes", "--out", "texts", "--held-out", "0.2")
        ask("fit-teacher", "e.toml")
        ask("generate", "e.toml")
        ask("train", "e.toml")
    return folder


@pytest.fixture
def language(language_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of that experiment, which a test leaves as it is."""
    monkeypatch.chdir(language_once)
    return language_once


@pytest.mark.usefixtures("language")
def test_a_language_model_is_distilled_from_files_to_a_table() -> None:
    """Law: perplexity, agreement and accepted tokens stand beside accuracy; labels are counted by targets."""
    said = ask("train", "e.toml")
    header = said.out.splitlines()[0].split()
    assert header[:6] == ["test", "accuracy", "perplexity", "ECE", "agreement", "accepted"]
    facts = json.loads(ask("train", "e.toml", "--json").out)
    targets = open_views(load(Path("e.toml"))).targets
    (distilled,), (alone,) = facts["students"]["distilled"], facts["students"]["alone"]
    assert (alone["true_labels"], alone["soft_labels"]) == (targets, 0)
    assert (distilled["true_labels"], distilled["soft_labels"]) == (targets, targets)
    assert distilled["test_perplexity"] == pytest.approx(np.exp(distilled["test_cross_entropy"]))
    assert 1 < distilled["test_perplexity"] < 300
    assert 0 < distilled["test_accepted"] <= 1
    assert 0 <= distilled["test_agreement"] <= 1
    about = LabelCache.open("cache").seal.about
    assert about["teacher_test_perplexity"] == pytest.approx(np.exp(about["teacher_test_cross_entropy"]))


@pytest.mark.usefixtures("language")
def test_its_cache_says_what_the_teacher_says() -> None:
    """Law: `verify` asks about every target; `inspect` and `plan` serve it as any cache."""
    assert "the same best class in 100.00%" in ask("verify", "cache", "--teacher", "e.toml", "--rows", "8").out
    assert ask("inspect", "cache", "--stats").code == 0
    assert "kd         temperature 1" in ask("plan", "e.toml").out
    assert ask("verify", "cache-test").code == 0


@pytest.mark.parametrize(
    "labels", ['"sampled"\nk = 4', '"head+sampled"\nk = 2\ntail = 2', '"dense"', '"multinomial"\nk = 9']
)
def test_every_encoding_serves_a_language_model(labels: str, language: Path, tmp_path: Path) -> None:
    """Law: from the same experiment, with other labels in its file; what is stored is of one size a sequence."""
    text = LANGUAGE.replace('"topk"\nk = 4', labels).replace('"cache', f'"{tmp_path}/cache')
    (tmp_path / "e.toml").write_text(text)
    ask("generate", str(tmp_path / "e.toml"))
    ask("train", str(tmp_path / "e.toml"), "--runs", str(tmp_path / "runs"), "--student", "distilled")
    cache, dataset = LabelCache.open(tmp_path / "cache"), open_views(load(language / "e.toml"))
    batch = Reader(dataset, cache).__getitems__(np.arange(len(dataset)))
    assert batch.taught == dataset.targets == len(batch.owners)
    assert batch.soft is not None


@pytest.mark.slow
def test_labels_made_by_workers_are_those_made_here(language: Path, tmp_path: Path) -> None:
    """Law: of sequences too, whatever a process is given."""
    words = ("--set", f'cache.path="{tmp_path}/cache"', "--set", f'cache.test="{tmp_path}/test"')
    ask("generate", "e.toml", *words, "--workers", "1")
    receipts = [
        decided(folder)["receipts/000000000.json"]["arrays"] for folder in (language / "cache", tmp_path / "cache")
    ]
    assert receipts[0] == receipts[1]


@pytest.mark.usefixtures("language")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("train", "e.toml", "--set", "students.alone.true_labels=5"),
            1,
            "only 0 labelled samples. Ask",
        ),
        (("train", "e.toml", "--set", "views.mix=mixup"), 2, 'mix = "mixup" blends inputs, and ids of tokens cannot'),
        (("train", "e.toml", "--set", "teacher.model=mlp"), 5, 'teacher.model was "gpt" and is now "mlp"'),
        (
            (
                "generate",
                "e.toml",
                "--set",
                "students.alone.model=mlp",
                "--set",
                "dataset.length=8",
                "--set",
                "test.length=8",
            ),
            5,
            "input_shape",
        ),
        (("train", "e.toml", "--restart", "--set", "students.alone.model=resnet"), 2, "takes images"),
        (("train", "e.toml", "--set", 'cache.test="none"'), 4, "holds no label cache"),
        (("train", "e.toml", "--student", "alone", "--set", 'cache.test="none"'), 4, "holds no label cache"),
    ],
)
def test_what_does_not_fit_a_language_model_is_refused(words: tuple[str, ...], code: int, said: str) -> None:
    """Law: with the way out, and what is there stays."""
    options = ("--set", "students.alone.options={}") if "mlp" in str(words) or "resnet" in str(words) else ()
    outcome = softlabels(*words, *options)
    assert (outcome.code, said in " ".join(outcome.err.split())) == (code, True), outcome.err


@pytest.mark.usefixtures("language")
@pytest.mark.parametrize(
    ("sets", "code", "said"),
    [
        (("test.length=8",), 1, "[test] has 8 positions and the tokenizer"),
        (("test.path=other-test",), 1, "Tokenise both with one tokenizer, and give them one length and layout"),
        (("views.mean=3.0",), 2, "mean, std and preprocessing are for numbers, and tokens stay as they are"),
        (("views.input=numbers",), 2, "a network would be given their targets too. Set views.input"),
        (("cache.path=fresh", "cache.test=fresh"), 2, "cache.test and cache.path are one place: name two"),
    ],
)
def test_what_would_compare_other_tokens_is_refused(sets: tuple[str, ...], code: int, said: str) -> None:
    """Law: by every command, before anything is asked or trained."""
    if not Path("other").exists():
        for place in ("other", "other-test"):
            shutil.copytree("texts-test", place)
            about = json.loads(Path(place, "tokens.json").read_text())
            Path(place, "tokens.json").write_text(json.dumps(about | {"tokenizer_sha256": "f" * 64}))
    for verb, more in (("generate", ("cache.path=fresh",)), ("train", ())):
        outcome = softlabels(verb, "e.toml", *(word for each in (*more, *sets) for word in ("--set", each)))
        assert (outcome.code, said in " ".join(outcome.err.split())) == (code, True), outcome.err


@pytest.mark.usefixtures("language")
def test_a_version_does_not_stand_for_how_tokens_are_told_apart() -> None:
    """Law: another end, or another mask, of the same array is another content."""
    own = ("dataset.path=texts/tokens.npy", "dataset.vocabulary=257", 'dataset.version="1"')
    contents = set()
    for end in (256, 32):
        words = [word for each in (*own, f"dataset.end={end}") for word in ("--set", each)]
        experiment = load(Path("e.toml"), words[1::2])
        contents.add(content_of(experiment.dataset, open_views(experiment)))
    assert contents == {"version 1 end 256 vocabulary 257", "version 1 end 32 vocabulary 257"}


def test_a_run_that_was_tested_against_another_teacher_is_another(language: Path, tmp_path: Path) -> None:
    """Law: its figures of agreement are of that teacher."""
    words = ("--set", f'cache.test="{tmp_path}/test"', "--set", f'cache.path="{tmp_path}/cache"', "--set", "labels.k=5")
    ask("generate", "e.toml", *words)
    outcome = softlabels("train", "e.toml", *words, "--runs", str(language / "runs/e"))
    assert outcome.code == 5
    assert "test_cache_id" in outcome.err


def test_a_cache_of_test_labels_needs_a_test(language: Path, tmp_path: Path) -> None:
    """Law: the file is refused."""
    start, stop = LANGUAGE.index("[test]"), LANGUAGE.index("[teacher]")
    (tmp_path / "e.toml").write_text(LANGUAGE[:start] + LANGUAGE[stop:])
    outcome = softlabels("generate", str(tmp_path / "e.toml"))
    assert outcome.code == 2
    assert "cache.test is where labels of [test] go, and there is no [test]" in outcome.err
    assert (language / "cache/seal.json").exists()


def test_documents_are_classified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a classifier of texts is taught and distilled as one of images, and learns what tells its classes apart."""
    monkeypatch.chdir(tmp_path)
    with Path("reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "tag"])
        writer.writerows([f"a {'good' if n % 2 else 'bad'} film, {n}", "pos" if n % 2 else "neg"] for n in range(80))
    Path("e.toml").write_text(CLASSIFIER)
    ask(
        "tokenize", "reviews.csv", "--label-key", "tag", "--tokenizer", "bytes", "--out", "reviews", "--held-out", "0.2"
    )
    ask("fit-teacher", "e.toml")
    ask("generate", "e.toml")
    (student,) = json.loads(ask("train", "e.toml", "--json").out)["students"]["distilled"]
    assert student["test_accuracy"] > 0.9
    assert "test_perplexity" not in student
