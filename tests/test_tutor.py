"""Hints for samples with positions: a target counts by what stands there, or by its sample, and nothing else does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sequence_cases import LENGTH, WORDS, Packed
from torch import Tensor, nn

from pipeline.config import ViewSettings
from pipeline.errors import ConfigError
from pipeline.features import Hint
from pipeline.labels import FeatureSpec, Inside, LabelSpec
from pipeline.losses import cross_entropy
from pipeline.models import build
from pipeline.reader import Batch, Reader
from pipeline.reductions import reduced
from pipeline.regimen import Training
from pipeline.schedules import BEGIN
from pipeline.sequences import NONE, POSITIONS, TARGETS, shown, there
from pipeline.taps import tapped
from pipeline.training import Epoch, start
from pipeline.tutor import Tutor
from pipeline.views import Viewed

NORM, WIDTH, SMALL, OTHERS = "decoder.norm", 8, 4, range(9, 12)
EACH = FeatureSpec("each", NORM, "none", "float32", (LENGTH, WIDTH), (LENGTH, WIDTH))
WHOLE = FeatureSpec("whole", NORM, "mean", "float32", (LENGTH, WIDTH), (WIDTH,))
SPEC = LabelSpec("dense", WORDS, "float32", positions=LENGTH, features=(EACH, WHOLE))
BY_PLACE = ("feature_mse", "feature_cosine", "feature_sphere")
BY_SAMPLE = ("rkd_distance", "rkd_angle", "similarity", "cka")
CONTRASTS = ("infonce", "crd")
ALL = [(loss, "each") for loss in BY_PLACE] + [(loss, "whole") for loss in (*BY_PLACE, *BY_SAMPLE, *CONTRASTS)]


def network(seed: int = 0, width: int = WIDTH) -> nn.Module:
    """A small language model, its weights far enough from 0 for one token to matter to another."""
    torch.manual_seed(seed)
    model = build("gpt", {"width": width, "depth": 1, "heads": 2}, (3, LENGTH), WORDS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    return model


def tutor(loss: str, feature: str, width: int = WIDTH, *, regressor: bool = False, spec: LabelSpec = SPEC) -> Tutor:
    """One of a single hint, under seed 0."""
    hint = Hint(loss=loss, feature=feature, module=NORM, regressor=regressor, negatives=len(OTHERS))
    torch.manual_seed(0)
    return Tutor("students.a", [hint], spec, {NORM: (LENGTH, width)})


def made(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What stands at each position of a model."""
    with tapped(model, [NORM]) as seen:
        model(shown(batch.inputs_NX))
    return seen  # type: ignore[return-value]


def read(rows: Sequence[int] = range(9), dataset: Packed | Viewed | None = None) -> Batch:
    """A batch with what a teacher makes of it, and of three other samples."""
    batch, others = (Reader(dataset or Packed(20)).__getitems__(list(each)) for each in (rows, OTHERS))
    asked = network()
    with torch.no_grad():
        told, beside = (features(made(asked, each)[NORM], each) for each in (batch, others))
    return replace(batch, inside=Inside(told, beside, 20))


def features(made_NLD: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What stage one keeps of that."""
    return {each.name: reduced(each, made_NLD, there(batch.inputs_NX)) for each in (EACH, WHOLE)}


def heard(of: Tutor, seen: Mapping[str, object], batch: Batch) -> Tensor:
    """The hints of a batch, [R]."""
    return of(seen, batch, BEGIN)


@pytest.mark.parametrize(("loss", "feature"), [case for case in ALL if case[0] not in CONTRASTS])
def test_a_student_that_is_its_teacher_has_no_more_to_learn(loss: str, feature: str) -> None:
    """Law: each target's value is 0, be it of a position or of a sample."""
    batch = read()
    found = heard(tutor(loss, feature), made(network(), batch), batch)
    assert found.shape == (batch.taught,)
    assert found.abs().max() < 1e-6
    assert heard(tutor(loss, feature), made(network(seed=1), batch), batch).max() > 1e-3


@pytest.mark.parametrize("feature", ["each", "whole"])
def test_each_target_has_the_value_of_what_is_kept(feature: str) -> None:
    """Law: by hand: the regressor's answer beside the teacher's there, or that to the mean over what is no padding."""
    batch, of = read(range(12, 20)), tutor("feature_mse", feature, SMALL, regressor=True)
    student_NLD = made(network(seed=1, width=SMALL), batch)[NORM]
    found, layer, expected = heard(of, {NORM: student_NLD}, batch), of.regressors[0], []
    for n, sample in enumerate(batch.inputs_NX):
        theirs = batch.inside.features[feature][n]
        mean_D = layer(student_NLD[n, sample[POSITIONS] >= 0].mean(dim=0))
        for place in np.flatnonzero(sample[TARGETS] != NONE):
            ours_D, theirs_D = (layer(student_NLD[n, place]), theirs[place]) if theirs.ndim == 2 else (mean_D, theirs)
            expected.append((ours_D - theirs_D).square().mean())
    assert (batch.inputs_NX[:, POSITIONS] < 0).any()
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(("loss", "feature"), ALL)
def test_what_stands_where_nothing_is_told_changes_nothing(loss: str, feature: str) -> None:
    """Law: to the bit, value and gradient: of a position without a target, or of padding where a sample is told of."""
    batch, of = read(range(12, 20)), tutor(loss, feature, SMALL, regressor=loss not in BY_SAMPLE)
    told_NL = batch.inputs_NX[:, TARGETS] != NONE if feature == "each" else batch.inputs_NX[:, POSITIONS] >= 0
    student_NLD, outcomes = made(network(seed=1, width=SMALL), batch)[NORM].detach(), []
    kept = batch.inside.features
    for noise in (0.0, 100.0):
        ours = (student_NLD + noise * ~told_NL[:, :, None]).requires_grad_()
        theirs = {**kept, "each": kept["each"] - noise * ~told_NL[:, :, None]}
        found = heard(of, {NORM: ours}, replace(batch, inside=replace(batch.inside, features=theirs)))
        wanted = [ours, *of.parameters()]
        outcomes.append([found.detach(), *torch.autograd.grad(found.mean(), wanted)])
    assert not told_NL.all()
    for plain, noisy in zip(*outcomes, strict=True):
        assert torch.equal(plain, noisy)
    slopes_NLD = outcomes[0][1]
    assert not slopes_NLD[~told_NL].any()
    assert slopes_NLD[told_NL].any()


@pytest.mark.parametrize("loss", CONTRASTS)
def test_a_text_is_not_told_from_others_by_their_padding(loss: str) -> None:
    """Law: of texts with one answer too, contrasts are of a feature of the whole."""
    hint, spec = Hint(loss=loss, feature="each", module=NORM), replace(SPEC, positions=None)
    message = (
        rf"^students\.a\.hints\[0\]: {loss} tells a text from others, and the feature 'each' is \[6, 8\], with all"
    )
    with pytest.raises(ConfigError, match=message):
        Tutor("students.a", [hint], spec, {NORM: (LENGTH, WIDTH)}, tokens=True)
    Tutor("students.a", [hint.model_copy(update={"feature": "whole"})], spec, {NORM: (LENGTH, WIDTH)}, tokens=True)


@pytest.mark.parametrize(
    ("loss", "feature"),
    [
        *((loss, "each") for loss in (*BY_PLACE, *BY_SAMPLE)),
        *((loss, "whole") for loss in (*BY_PLACE, *BY_SAMPLE, *CONTRASTS)),
    ],
)
def test_padding_of_a_text_with_one_answer_tells_nothing(loss: str, feature: str) -> None:
    """Law: to the bit, value and gradient: what teacher and student make of padding changes neither."""
    texts = Packed(20)
    texts.positions, texts.labels = None, np.zeros(20, np.int64)
    batch = read(range(12, 20), Viewed(texts, ViewSettings(input="tokens")))
    of = tutor(loss, feature, SMALL, regressor=loss not in BY_SAMPLE, spec=replace(SPEC, positions=None))
    padding_NL = batch.inputs_NX[:, POSITIONS] < 0
    student_NLD, outcomes = made(network(seed=1, width=SMALL), batch)[NORM].detach(), []
    kept = batch.inside.features
    for noise in (0.0, 100.0):
        ours = (student_NLD + noise * padding_NL[:, :, None]).requires_grad_()
        theirs = {**kept, "each": kept["each"] - noise * padding_NL[:, :, None]}
        found_N = heard(of, {NORM: ours}, replace(batch, inside=replace(batch.inside, features=theirs)))
        outcomes.append([found_N.detach(), *torch.autograd.grad(found_N.mean(), [ours, *of.parameters()])])
    assert padding_NL.any()
    assert len(outcomes[0][0]) == len(batch.rows)
    for plain, noisy in zip(*outcomes, strict=True):
        assert torch.equal(plain, noisy)
    assert outcomes[0][1][~padding_NL].any()


def test_a_module_of_other_positions_is_averaged_whole() -> None:
    """Law: where a student's sequence is not as long as the text, nothing in it is known to be padding."""
    texts = Packed(20)
    texts.positions, texts.labels = None, np.zeros(20, np.int64)
    batch = read(range(12, 20), Viewed(texts, ViewSettings(input="tokens")))
    hint = Hint(loss="feature_mse", feature="whole", module=NORM, regressor=False)
    of = Tutor("students.a", [hint], replace(SPEC, positions=None), {NORM: (2, WIDTH)})
    student_NLD = torch.randn(8, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    expected_N = (student_NLD.mean(dim=1) - batch.inside.features["whole"]).square().mean(dim=1)
    torch.testing.assert_close(heard(of, {NORM: student_NLD}, batch), expected_N)


@pytest.mark.parametrize(("loss", "feature"), [case for case in ALL if case[0] in BY_PLACE])
def test_a_batch_in_parts_is_the_whole(loss: str, feature: str) -> None:
    """Law: so is its gradient, for the network and the regressor, also with a part that has no target."""
    dataset = Packed(20)
    dataset.array[6:8, TARGETS] = NONE
    student, of = network(seed=1, width=SMALL), tutor(loss, feature, SMALL, regressor=True)
    outcomes = []
    for parts in ([range(9)], [range(4), range(4, 6), range(6, 8), range(8, 9)]):
        student.zero_grad()
        of.zero_grad()
        batches = [read(rows, dataset) for rows in parts]
        targets = sum(batch.taught for batch in batches)
        values = [heard(of, made(student, batch), batch) for batch in batches]
        for value in values:
            (value.sum() / targets).backward()
        slopes = [each.grad.clone() for each in (*student.parameters(), *of.parameters())]
        outcomes.append([torch.cat(values).detach(), *slopes])
    for whole, cut in zip(*outcomes, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_target_teaches_no_regressor_either() -> None:
    """Law: no weight moves, be it by momentum or decay."""
    empty = Packed(20)
    empty.array[:, TARGETS] = NONE
    settings = Training(epochs=1, batch_size=4, learning_rate=0.1, schedule="constant", warmup=0.0)
    of, ends = tutor("feature_mse", "each", SMALL, regressor=True), []
    way = Epoch(start(network(width=SMALL), settings, ViewSettings(input="tokens"), 3, tutor=of), told, 0, 0)
    for dataset in (None, empty):
        way.learn(read(range(4), dataset))
        ends.append([weight.detach().clone() for weight in way.learner.weights])
    assert all(map(torch.equal, *ends))
    way.learn(read(range(4)))
    assert not any(map(torch.equal, ends[0], way.learner.weights))


def told(logits_NC: Tensor, labels_N: Tensor, _: object) -> Tensor:
    """What the student is told beside the hint."""
    return cross_entropy(logits_NC, labels_N)


@pytest.mark.parametrize(
    ("loss", "kept", "ours", "said"),
    [
        *(
            (
                loss,
                (LENGTH, WIDTH),
                (LENGTH, WIDTH),
                rf"{loss} compares samples, .* is \[6, 8\]\. Keep it with reduction",
            )
            for loss in (*BY_SAMPLE, *CONTRASTS)
        ),
        ("attention", (2, LENGTH, LENGTH), (2, LENGTH, LENGTH), "attention compares maps. Use feature_mse"),
        ("attention", (WIDTH,), (LENGTH, WIDTH), "attention compares maps. Use feature_mse"),
        ("feature_mse", (2, LENGTH, LENGTH), (LENGTH, WIDTH), r"teacher's \[2, 6, 6\]; expected \[D\] of a sample, or"),
        ("feature_mse", (WIDTH,), (5, WIDTH), r"student's feature is \[5, 8\] and .* or \[6, D\]\. Name modules"),
        ("feature_mse", (LENGTH, WIDTH), (WIDTH,), r"a vector \[D\] onto positions \[L, D\]"),
    ],
)
def test_what_cannot_be_told_of_samples_with_positions_is_refused(
    loss: str, kept: tuple[int, ...], ours: tuple[int, ...], said: str
) -> None:
    """Law: with what to keep, or which loss to use, instead."""
    spec = replace(SPEC, features=(replace(EACH, module_shape=kept, row_shape=kept),))
    with pytest.raises(ConfigError, match=rf"students\.a\.hints\[0\]: .*{said}"):
        Tutor("students.a", [Hint(loss=loss, feature="each", module=NORM)], spec, {NORM: ours})
