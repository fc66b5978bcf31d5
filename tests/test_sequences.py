"""Samples with positions from the teacher to the student: each target counts, and nothing else does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY, job_for
from sequence_cases import LENGTH, WORDS, Packed, Speaker

from pipeline import encodings
from pipeline.audit import ask_again
from pipeline.config import TeacherSettings, ViewSettings
from pipeline.errors import DatasetError, MismatchError, TeacherError, TrainingError
from pipeline.evaluation import evaluate
from pipeline.labeller import Labeller
from pipeline.labels import LabelSpec
from pipeline.losses import cross_entropy
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.sequences import NONE, attention_mask, documents, shown, targets
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher
from pipeline.training import Epoch, Learner, predictor, run_epoch, start, try_out

TOKENS = ViewSettings(input="tokens")
GRID = (1.0, 2.0)
SPECS = [
    LabelSpec("dense", WORDS, "float32", positions=LENGTH),
    LabelSpec("dense", WORDS, "int8", positions=LENGTH),
    LabelSpec("topk", WORDS, "float32", k=3, temperatures=GRID, positions=LENGTH),
    LabelSpec("topk", WORDS, "float16", k=WORDS, temperatures=GRID, standardised=True, positions=LENGTH),
    LabelSpec("head+sampled", WORDS, "float32", k=2, tail=3, temperatures=GRID, positions=LENGTH),
    LabelSpec("multinomial", WORDS, "float32", k=9, temperatures=(1.0,), positions=LENGTH),
    LabelSpec("sampled", WORDS, "float32", k=4, temperatures=(1.0,), positions=LENGTH),
]
BY_POSITION = [spec for spec in SPECS if spec.encoding != "sampled"]


def named(spec: LabelSpec) -> str:
    """How a test names a spec."""
    return f"{spec.encoding} {spec.dtype}"


def teacher(network: torch.nn.Module | None = None) -> Teacher:
    """One that speaks."""
    settings = TeacherSettings(model="own", checkpoint="none", batch_size=4)
    return Teacher((network or Speaker()).eval(), torch.device("cpu"), settings, TOKENS)


def cached(path: Path, dataset: Packed, spec: LabelSpec, asked: Teacher) -> LabelCache:
    """A cache of what it says, as stage one makes it."""
    labeller = Labeller(dataset, asked, spec)
    with CacheWriter.open(path, job_for(dataset, spec), {}) as writer:
        for shard in writer.missing():
            writer.commit(shard, labeller.label(labeller.load(shard.start, shard.stop)), 0.0)
        writer.seal({})
    return LabelCache.open(path)


def learner(network: torch.nn.Module) -> Learner:
    """A student at its first step."""
    settings = Training(epochs=1, batch_size=4, learning_rate=0.1, optimizer="sgd", momentum=0.0, schedule="constant")
    return start(network, settings.model_copy(update={"warmup": 0.0, "weight_decay": 0.0}), TOKENS, 1)


@STEADY
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_token_sees_its_own_document_up_to_itself(lengths: list[list[int]]) -> None:
    """Law: i sees j if j <= i and both are of one document; padding sees itself alone, and nothing sees it."""
    width = max(map(sum, lengths)) + 1
    places = np.full((len(lengths), width), NONE)
    for row, each in enumerate(lengths):
        places[row, : sum(each)] = np.concatenate([np.arange(length) for length in each])
    mask, of = attention_mask(torch.from_numpy(places)), documents(torch.from_numpy(places))
    for row in range(len(lengths)):
        for i in range(width):
            for j in range(width):
                there = j <= i and of[row, i] == of[row, j] > 0
                assert mask[row, i, j] == (there or i == j)
    assert of.max(dim=1).values.tolist() == [len(each) for each in lengths]


def test_a_network_is_never_shown_the_targets() -> None:
    """Law: two rows of three, as int64; what is of another form is the user's own, and whole."""
    inputs = torch.from_numpy(Packed().array)
    assert torch.equal(shown(inputs), inputs[:, :2].long())
    assert torch.equal(shown(inputs[:, 0]), inputs[:, 0].long())


@pytest.mark.parametrize("spec", BY_POSITION, ids=named)
def test_a_position_is_stored_as_any_row(spec: LabelSpec) -> None:
    """Law: what is kept of a record is what would be kept of its rows; every array has the positions first."""
    logits, ids = torch.randn(3, LENGTH, WORDS, generator=torch.Generator().manual_seed(0)), np.array([4, 2, 9])
    labels = torch.randint(-1, WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    record = encodings.encode(spec, logits, labels, ids)
    assert {name: tuple(rows.shape[1:]) for name, rows in record.items()} == {
        array.name: array.row_shape for array in encodings.arrays(spec)
    }
    alone = replace(spec, positions=None)
    names = (ids[:, None] * LENGTH + np.arange(LENGTH)).ravel()
    rows = encodings.encode(alone, logits.flatten(0, 1), labels.flatten(), names)
    for name, each in record.items():
        torch.testing.assert_close(each.flatten(0, 1), rows[name], rtol=0, atol=0, equal_nan=True)
    one, other = encodings.decode(spec, record), encodings.decode(alone, rows)
    for name, value in vars(one).items():
        assert torch.equal(value.nan_to_num(), vars(other)[name].nan_to_num()) if isinstance(value, torch.Tensor) else 1


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_labels_are_of_the_very_positions_that_have_a_target(spec: LabelSpec, tmp_path: Path) -> None:
    """Law: in any order of samples, soft labels, true labels and the student's logits are of the same rows."""
    dataset, asked = Packed(), teacher()
    reader = Reader(dataset, cached(tmp_path / "cache", dataset, spec, asked))
    rows = np.array([7, 0, 8, 3])
    batch = reader.__getitems__(rows)
    flat = dataset.array[rows, 2].ravel()
    assert batch.labels_N.tolist() == flat[flat != NONE].tolist()
    assert batch.taught == len(batch.owners)
    assert (dataset.array[rows][batch.owners, 2].max(axis=1) != NONE).all()
    found = batch.answers(asked.logits(dataset.inputs(rows)))
    assert found.shape == (batch.taught, WORDS)
    p = found.softmax(dim=1)
    if spec.encoding == "dense":
        torch.testing.assert_close(batch.soft.logits_NC.softmax(dim=1), p, atol=0.02, rtol=0)
    elif spec.encoding in ("topk", "head+sampled"):
        torch.testing.assert_close(
            (batch.soft.logits_NK - batch.soft.logsumexp_NG[:, :1]).exp(),
            p.gather(1, batch.soft.ids_NK),
            atol=1e-3,
            rtol=0,
        )
        log_p = found.log_softmax(dim=1).gather(1, batch.labels_N[:, None])[:, 0]
        torch.testing.assert_close(batch.soft.target_N - batch.soft.logsumexp_NG[:, 0], log_p, atol=1e-3, rtol=0)
    else:
        assert len(batch.soft.ids_NK) == batch.taught
    if spec.encoding == "sampled":
        exact = torch.arange(batch.soft.ids_NK.shape[1]) < batch.soft.exact_N[:, None]
        torch.testing.assert_close(
            batch.soft.weights_NK[exact], p.gather(1, batch.soft.ids_NK)[exact], atol=1e-5, rtol=0
        )
        assert exact.any()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.encoding != "multinomial"], ids=named)
def test_the_teacher_asked_again_says_what_is_stored(spec: LabelSpec, tmp_path: Path) -> None:
    """Law: of every target; another teacher is found, and its samples are named once each."""
    dataset, asked = Packed(), teacher(Speaker(pad=5))
    reader = Reader(dataset, cached(tmp_path / "cache", dataset, spec, asked))
    answers = ask_again(reader, asked, 100, 0)
    assert (answers.rows, answers.strangers) == (9, ())
    assert 0 < answers.known <= dataset.target_count
    assert answers.agreeing == answers.known or spec.dtype == "int8"  # which may not tell two near the top apart
    others = ask_again(reader, teacher(Speaker(seed=1)), 100, 0).strangers
    assert len(set(others)) == len(others) > 4


def test_a_position_that_is_not_finite_is_named(tmp_path: Path) -> None:
    """Law: with the sample and the position."""
    broken = Speaker()
    with torch.no_grad():
        broken.places[3] = torch.nan
    dataset = Packed()
    reached = dataset.array[:8, 1] == 3
    broken_N, first = reached.any(axis=1), int(reached[reached.any(axis=1)][0].argmax())
    named = rf"for {broken_N.sum()} of 8 samples \(ids {dataset.ids[:8][broken_N][0]}, .*, first at position {first};"
    with pytest.raises(TeacherError, match=named):
        cached(tmp_path / "cache", dataset, SPECS[2], teacher(broken))


def test_a_loss_is_a_mean_over_targets() -> None:
    """Law: never over positions or samples: the gradient is that of the mean over all targets of the batch."""
    dataset, student = Packed(), Speaker(seed=3, pad=4)
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    batch = Reader(dataset).__getitems__(np.arange(9))
    (loss,) = run_epoch(learner(student), [batch], lambda z, y, _: cross_entropy(z, y), 0, 0)
    again = Speaker(seed=3, pad=4)
    places, wanted = targets(dataset.array)
    rows = again(shown(torch.from_numpy(dataset.array))).flatten(0, 1)[places, :WORDS]
    expected = torch.nn.functional.cross_entropy(rows, torch.from_numpy(wanted))
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, weight in again.named_parameters():
        moved = before[name] - student.state_dict()[name]
        torch.testing.assert_close(moved, 0.1 * weight.grad, atol=1e-6, rtol=0)
    assert wanted.size == dataset.target_count


def test_a_batch_without_a_target_teaches_nothing() -> None:
    """Law: no weight moves, be it by momentum or decay, and it counts for nothing in the loss of an epoch."""
    dataset, empty, losses = Packed(), Packed(), []
    empty.array[:, 2] = NONE
    settings = Training(epochs=1, batch_size=4, learning_rate=0.1, schedule="constant", warmup=0.0)
    batches = [Reader(dataset).__getitems__(np.arange(9)), Reader(empty).__getitems__([0, 1])]
    for data in (batches, batches[:1]):
        student = Speaker()
        way = Epoch(start(student, settings, TOKENS, 2), lambda z, y, _: cross_entropy(z, y), 0, 0)
        for batch in data:
            way.learn(batch)
        way.settle()
        losses.append((way.total / way.rows, way.rows, student.words.detach().clone()))
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][1] == dataset.target_count
    assert torch.equal(losses[0][2], losses[1][2])


def test_figures_are_means_over_targets(tmp_path: Path) -> None:
    """Law: cross-entropy is -log q of the next token, perplexity its exponential; a teacher agrees with itself."""
    dataset, asked = Packed(rows=20), teacher()
    cache = cached(tmp_path / "cache", dataset, SPECS[0], asked)
    found = evaluate(predictor(learner(Speaker(seed=3, pad=2))), dataset, 7, cache)
    places, wanted = targets(dataset.array)
    logits = Speaker(seed=3, pad=2)(shown(torch.from_numpy(dataset.array))).flatten(0, 1)[places, :WORDS].detach()
    wanted_R = torch.from_numpy(wanted)
    assert found.cross_entropy == pytest.approx(torch.nn.functional.cross_entropy(logits, wanted_R).item(), abs=1e-5)
    assert found.perplexity == pytest.approx(np.exp(found.cross_entropy))
    assert found.accuracy == pytest.approx((logits.argmax(dim=1) == wanted_R).float().mean().item())
    q, p = logits.softmax(dim=1), asked.logits(dataset.array).flatten(0, 1)[places].softmax(dim=1)
    assert found.accepted == pytest.approx(torch.minimum(p, q).sum(dim=1).mean().item(), abs=1e-5)
    assert found.agreement == pytest.approx((p.argmax(dim=1) == q.argmax(dim=1)).float().mean().item())
    itself = evaluate(asked.logits, dataset, 7, cache)
    assert (itself.agreement, itself.accepted) == (1.0, pytest.approx(1.0, abs=1e-5))
    assert evaluate(asked.logits, dataset, 7).figures.keys() == {"accuracy", "ece", "cross_entropy"}


def test_a_network_that_answers_once_a_sample_is_refused() -> None:
    """Law: before the first step, with the shapes."""
    with pytest.raises(TrainingError, match=rf"Expected: logits of shape \[1, {LENGTH}, {WORDS}\]"):
        try_out(learner(torch.nn.Sequential(Speaker(), torch.nn.Flatten(1))), Packed())
    try_out(learner(Speaker(pad=3)), Packed())


def test_another_tokenizer_is_refused() -> None:
    """Law: by teachers and students alike, where both are known."""
    dataset, network = Packed(), Speaker()
    dataset.tokenizer_sha256, network.tokenizer_sha256 = "a" * 64, "b" * 64
    for use in (lambda: Labeller(dataset, teacher(network), SPECS[0]), lambda: try_out(learner(network), dataset)):
        with pytest.raises(
            MismatchError, match=r"has the tokenizer bbbbbbbbbbbb, .* made with aaaaaaaaaaaa: the same ids"
        ):
            use()
    network.tokenizer_sha256 = None
    try_out(learner(network), dataset)


def test_test_batches_without_a_target_are_passed_over() -> None:
    """Law: figures are those of the others; of none at all, an error says so."""
    dataset, some = Packed(), Packed()
    some.array[3:, 2] = NONE
    asked = teacher()
    kept = evaluate(asked.logits, some, 1)
    few = Packed()
    few.array, few.ids = few.array[:3], few.ids[:3]
    assert kept == evaluate(asked.logits, few, 1)
    dataset.array[:, 2] = NONE
    with pytest.raises(DatasetError, match=r"\[test\] has no targets, so nothing can be measured"):
        evaluate(asked.logits, dataset, 4)


def test_agreement_is_told_only_where_every_target_is(tmp_path: Path) -> None:
    """Law: samples tell the likeliest token of sharp positions only, which are the easy ones."""
    dataset, asked = Packed(), teacher()
    for spec in (SPECS[2], SPECS[-1]):
        cache = cached(tmp_path / spec.encoding, dataset, spec, asked)
        found = evaluate(asked.logits, dataset, 4, cache)
        assert (found.agreement is None, found.accepted is None) == ((spec.encoding == "sampled",) * 2)


def test_a_target_that_is_no_class_is_refused(tmp_path: Path) -> None:
    """Law: before the teacher is asked, with the sample."""
    dataset = Packed()
    dataset.array[5, 2, 1] = WORDS
    with pytest.raises(
        DatasetError, match=rf"ids {dataset.ids[5]}.* are not classes: found \[{WORDS}\], expected 0 to"
    ):
        cached(tmp_path / "cache", dataset, SPECS[2], teacher())
