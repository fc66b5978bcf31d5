"""The proof of the idea: a student trained from the cache is the one that was trained with the teacher in the loop.

Shape legend: N rows, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from river_cases import job_for, part_of

from pipeline import encodings
from pipeline.config import TeacherSettings, ViewSettings
from pipeline.datasets import open_dataset
from pipeline.datasets.arrays import ArrayDataset
from pipeline.datasets.digits import from_digits
from pipeline.executors.inline import run_inline
from pipeline.judges import judges_of
from pipeline.labeller import Block, Labeller
from pipeline.labels import DenseLabels, LabelSpec, SoftLabels
from pipeline.losses import LOSSES, cross_entropy, kd, kl
from pipeline.models import build
from pipeline.objective import Objective, objective
from pipeline.order import ONE_VIEW, EpochSampler, ViewOrder
from pipeline.reader import Batch, Reader
from pipeline.regimen import Training
from pipeline.schedules import PositiveRamp, Ramp
from pipeline.store.layout import Shard
from pipeline.store.mapped import LabelCache
from pipeline.store.verify import verify
from pipeline.store.writer import CacheWriter
from pipeline.teachers import Teacher, load_teacher
from pipeline.terms import BESIDE, KD, TERMS, Adversarial, Entropy, Term, one_term
from pipeline.training import Loss, predictor, run_epoch, start
from pipeline.views import Viewed, viewed
from pipeline.weights import save_state

CLASSES, TEMPERATURE, ALPHA, EPOCHS = 10, 4.0, 0.9, 3
VIEWS = ViewSettings(mean=4.9, std=6.0)
FLOAT32 = 1e-5  # the rounding of a loss that is computed in float32
GRID = (1.0, TEMPERATURE)
SPECS = {
    "dense float32": LabelSpec("dense", CLASSES, "float32"),
    "dense float16": LabelSpec("dense", CLASSES, "float16"),
    "topk float32": LabelSpec("topk", CLASSES, "float32", k=CLASSES, temperatures=GRID),
    "topk float16": LabelSpec("topk", CLASSES, "float16", k=CLASSES, temperatures=GRID),
}
SETTINGS = Training(batch_size=32, learning_rate=0.05, optimizer="sgd", epochs=EPOCHS, device="cpu")
TOLD = {
    **{name: one_term(name, TEMPERATURE, ALPHA) for name, kind in TERMS.items() if kind.serves and name not in BESIDE},
    "kd, standardised": (KD(name="kd", standardise=True),),
    "kd, ever less sure": (KD(name="kd"), Entropy(name="entropy", weight=Ramp(start=0.5, end=-0.5))),
    "kd, ever sharper": (KD(name="kd", temperature=PositiveRamp(start=8, end=1, by="epoch")),),
    "kd, and judged": (KD(name="kd"), Adversarial(name="adversarial", hidden=8)),
}
"""What a student may be told: every loss that asks the teacher beside the true labels, and sums with more."""
FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class School:
    """Samples, those held out, and how large networks are."""

    dataset: ArrayDataset
    held_out: NDArray[np.generic]
    views: ViewSettings
    width: int
    epochs: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input."""
        return self.dataset.input_shape


@pytest.fixture(scope="module")
def dataset() -> ArrayDataset:
    """Two hundred digits, in no order."""
    return part_of(from_digits(), np.random.default_rng(0).permutation(1000)[:200])


@pytest.fixture(scope="module")
def school(dataset: ArrayDataset) -> School:
    """The digits."""
    return School(dataset, from_digits("test").array, VIEWS, width=8, epochs=EPOCHS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, school: School) -> Teacher:
    """A small residual network that has learned the digits from their true labels."""
    return educated(school, tmp_path_factory.mktemp("teacher") / "teacher.safetensors", epochs=5)


def educated(school: School, checkpoint: Path, epochs: int) -> Teacher:
    """A teacher of a school, trained there, in batches of 48."""
    dataset, options = school.dataset, {"width": school.width, "blocks": [1, 1]}
    torch.manual_seed(0)
    settings = SETTINGS.model_copy(update={"optimizer": "adamw", "learning_rate": 0.02})
    steps = epochs * -(-len(dataset) // 32)
    learner = start(build("resnet", options, school.shape, CLASSES), settings, school.views, steps)
    order = EpochSampler(len(dataset), 32)
    for epoch in range(epochs):
        order.set_epoch(epoch)
        read = map(Reader(dataset).__getitems__, order)
        run_epoch(learner, read, lambda logits_NC, labels_N, _: cross_entropy(logits_NC, labels_N), 0, epoch)
    save_state(checkpoint, learner.network.state_dict())
    asked = TeacherSettings(model="resnet", options=options, checkpoint=checkpoint, batch_size=48, device="cpu")
    return load_teacher(asked, school.views, school.shape, CLASSES)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, dataset: ArrayDataset, teacher: Teacher) -> dict[str, LabelCache]:
    """One of each kind of labels, made as stage one makes it, in shards of 64 rows and batches of 48."""
    folder = tmp_path_factory.mktemp("caches")
    return {name: cached(folder / name, dataset, teacher, spec) for name, spec in SPECS.items()}


def cached(path: Path, dataset: ArrayDataset | Viewed, teacher: Teacher, spec: LabelSpec) -> LabelCache:
    """What a teacher says of all views of a dataset, sealed."""
    count = viewed(dataset).settings.count
    job = job_for(dataset, spec, shard_rows=64, chunk_rows=16).model_copy(update={"view_count": count})
    with CacheWriter.open(path, job, {}) as writer:
        generate(writer.missing(), Labeller(dataset, teacher, spec), writer.commit)
        writer.seal({})
    return LabelCache.open(path)


def generate(plan: list[Shard], labeller: Labeller, commit: Callable[..., object], batches: float = np.inf) -> bool:
    """A plan through the executor, asked to stop after some batches."""
    asked = count()
    return run_inline(plan, labeller, commit, stopped=lambda: next(asked) >= batches, progress=lambda _: None)


@dataclass(frozen=True)
class Told:
    """A dataset whose every batch comes with what someone says of its inputs at that moment."""

    reader: Reader
    say: Callable[[np.ndarray], torch.Tensor]

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def dataset(self) -> Viewed:
        """The samples."""
        return self.reader.dataset

    def __getitems__(self, rows: np.ndarray) -> Batch:
        """The batch of some rows."""
        batch = self.reader.__getitems__(rows)
        return replace(batch, soft=DenseLabels(self.say(batch.inputs_NX.numpy()).clone()))


def told(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: SoftLabels | None) -> torch.Tensor:
    """What the student is told."""
    return kd(logits_NC, soft, labels_N, TEMPERATURE, ALPHA)


def student(
    school: School, reader: Reader | Told, loss: Loss = told, views: ViewOrder = ONE_VIEW
) -> tuple[list[float], torch.Tensor]:
    """Trained from what a reader gives: the loss of every step, and the logits of held-out samples at the end."""
    torch.manual_seed(1)
    steps = school.epochs * -(-len(reader) // SETTINGS.batch_size)
    network = build("cnn", {"width": school.width}, school.shape, CLASSES)
    learner = start(network, SETTINGS, school.views, steps)
    if isinstance(loss, Objective):
        learner = replace(learner, judges=judges_of(loss.terms, CLASSES, 3, learner.device))
    curve: list[float] = []
    order = EpochSampler(len(reader), SETTINGS.batch_size, seed=3, views=views)
    for epoch in range(school.epochs):
        order.set_epoch(epoch)
        curve += run_epoch(learner, map(reader.__getitems__, order), loss, 3, epoch)
    with torch.inference_mode():
        return curve, predictor(learner)(school.held_out)


@pytest.fixture(scope="module")
def online(school: School, teacher: Teacher) -> tuple[list[float], torch.Tensor]:
    """The student of a teacher in the loop."""
    return student(school, Told(Reader(school.dataset), teacher.logits))


def log_error(name: str, logits_NC: torch.Tensor) -> torch.Tensor:
    """The most by which log p at the temperature errs, [N]: `encodings.error` in numbers, twice for top-k.

    Twice, because the loss takes out of top-k's probabilities what they sum to too much, which errs as much again.
    """
    extent_N = (logits_NC.amax(1) - logits_NC.amin(1)) / TEMPERATURE
    bounds = {
        "dense float32": 0 * extent_N,
        "dense float16": 2**-10 * logits_NC.abs().amax(1) / TEMPERATURE,
        "topk float32": 2 * (2**-23 * extent_N + 1e-6),
        "topk float16": 2 * (2**-11 * extent_N + 1e-6),
    }
    return bounds[name]


def loss_error(name: str, teacher_NC: torch.Tensor, student_NC: torch.Tensor) -> torch.Tensor:
    """The most by which a row's loss errs, [N], for labels p' whose log p' errs by at most e; besides float32 sums.

    KL(p'||q) - KL(p||q) = sum (p' - p)(log p - log q - c) + KL(p'||p) for any c, here the mean under p. And
    |p' - p| <= p (exp(e) - 1), so KL(p'||p) <= sum (p' - p)(log p' - log p) <= (exp(e) - 1) e.
    """
    error_N = log_error(name, teacher_NC)
    p_NC, q_NC = (torch.log_softmax(logits / TEMPERATURE, dim=1) for logits in (teacher_NC, student_NC))
    mean_N1 = (p_NC.exp() * (p_NC - q_NC)).sum(1, keepdim=True)
    apart_N = (p_NC.exp() * (p_NC - q_NC - mean_N1).abs()).sum(1)
    return ALPHA * TEMPERATURE**2 * error_N.expm1() * (apart_N + error_N)


def test_the_teacher_of_these_tests_has_something_to_say(
    dataset: ArrayDataset, teacher: Teacher, online: tuple[list[float], torch.Tensor]
) -> None:
    """Its answers differ from sample to sample and are not flat, and its student learns: else all below were empty."""
    logits = teacher.logits(dataset.array)
    assert logits.std(0).mean() > 1
    assert kl(torch.zeros_like(logits), DenseLabels(logits), TEMPERATURE).mean() > 0.05
    assert np.mean(online[0][-5:]) < 0.8 * np.mean(online[0][:5])


def test_what_students_are_told_here_is_every_loss_there_is() -> None:
    """Else the proof were not of all."""
    assert {term.name for terms in TOLD.values() for term in terms} == set(LOSSES)


def check_same_student(school: School, cache: LabelCache, teacher: Teacher, terms: Sequence[Term]) -> None:
    """The curves from the cache and from the teacher in the loop agree to 1e-5, and so do all answers at the end.

    Class costs are estimated on either side from what it is told. The labels of each sample's neighbour in the batch
    lead a thousand times as far away: it matters who is heard.
    """
    teachers = {
        "cached": Reader(school.dataset, cache),
        "online": Told(Reader(school.dataset), teacher.logits),
        "neighbours": Told(Reader(school.dataset), lambda inputs: teacher.logits(inputs).roll(1, 0)),
    }
    found = {name: student(school, reader, objective(terms, reader)) for name, reader in teachers.items()}
    curve, answers = found["cached"]
    assert len(curve) == school.epochs * -(-len(school.dataset) // SETTINGS.batch_size)
    np.testing.assert_allclose(curve, found["online"][0], rtol=0, atol=1e-5)
    assert torch.equal(answers.argmax(1), found["online"][1].argmax(1))
    assert np.abs(np.subtract(curve, found["neighbours"][0])).max() > 1e-3


@pytest.mark.parametrize("terms", TOLD.values(), ids=TOLD)
def test_a_student_of_the_cache_is_the_student_of_the_teacher(
    school: School, teacher: Teacher, caches: dict[str, LabelCache], terms: Sequence[Term]
) -> None:
    """Law: whatever it is told, with exact labels, the same loss at every step and the same answer for every sample."""
    check_same_student(school, caches["dense float32"], teacher, terms)


SHIFTED = VIEWS.model_copy(
    update={"count": 9, "transform": "crop_flip", "options": {"pixels": 1, "flip": False, "every": True}}
)


def check_same_student_of_views(school: School, teacher: Teacher, path: Path, rows: int) -> None:
    """As `check_same_student`, over all views, in an order of each sample's own; held against view 0 alone."""
    views = Viewed(part_of(school.dataset, np.arange(rows)), school.views)
    order = ViewOrder(school.views.count, shuffled=True)
    reader = Reader(views, cached(path, views, teacher, SPECS["dense float32"]))
    asked = Told(Reader(views), teacher.logits)
    curve, answers = student(school, reader, views=order)
    online, answers_online = student(school, asked, views=order)
    np.testing.assert_allclose(curve, online, rtol=0, atol=1e-5)
    assert torch.equal(answers.argmax(1), answers_online.argmax(1))
    assert np.abs(np.subtract(curve, student(school, reader)[0])).max() > 1e-3


def test_a_student_of_all_views_there_are_is_the_student_of_the_teacher(
    school: School, teacher: Teacher, tmp_path: Path
) -> None:
    """Law: where every outcome of an augmentation is cached, it is as if the teacher were asked as each comes."""
    check_same_student_of_views(replace(school, views=SHIFTED), teacher, tmp_path / "cache", 200)


@pytest.fixture(scope="module")
def fashion() -> School:
    """2,560 images of Fashion-MNIST, and 1,000 held out."""
    named = {
        part: {kind: FASHION / f"{part}-{kind}-idx{rank}-ubyte.gz" for kind, rank in (("images", 3), ("labels", 1))}
        for part in ("train", "t10k")
    }
    train, held_out = (
        open_dataset("idx", {"inputs": files["images"], "labels": files["labels"]}) for files in named.values()
    )
    rows = np.random.default_rng(0).permutation(len(train))[:2560]
    dataset = ArrayDataset(train.inputs(rows), train.ids[rows], train.labels[rows], CLASSES)
    views = ViewSettings(mean=72.9, std=90.0)
    return School(dataset, held_out.inputs(np.arange(1000)), views, width=8, epochs=2)


@pytest.fixture(scope="module")
def fashionable(fashion: School, tmp_path_factory: pytest.TempPathFactory) -> tuple[Teacher, LabelCache]:
    """A teacher of these images and what it says of them."""
    folder = tmp_path_factory.mktemp("fashion")
    teacher = educated(fashion, folder / "teacher.safetensors", epochs=2)
    return teacher, cached(folder / "cache", fashion.dataset, teacher, SPECS["dense float32"])


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("terms", TOLD.values(), ids=TOLD)
def test_a_student_of_the_cache_is_the_student_of_the_teacher_on_fashion_mnist(
    fashion: School, fashionable: tuple[Teacher, LabelCache], terms: Sequence[Term]
) -> None:
    """Law: the same at the length of two epochs of 80 steps on real images."""
    check_same_student(fashion, fashionable[1], fashionable[0], terms)


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_a_student_of_all_fifty_views_is_the_student_of_the_teacher_on_fashion_mnist(
    fashion: School, fashionable: tuple[Teacher, LabelCache], tmp_path: Path
) -> None:
    """Law: moves by up to two pixels and flips are 50 views; the same at the length of six epochs on real images."""
    update = {"count": 50, "transform": "crop_flip", "options": {"pixels": 2, "every": True}}
    school = replace(fashion, views=fashion.views.model_copy(update=update), epochs=6)
    check_same_student_of_views(school, fashionable[0], tmp_path / "cache", 1000)


@pytest.mark.parametrize("name", SPECS)
def test_labels_from_the_cache_tell_any_student_the_same_within_their_stated_error(
    dataset: ArrayDataset, teacher: Teacher, caches: dict[str, LabelCache], name: str
) -> None:
    """Law: row by row, for students near the teacher and far from it, as far as `encodings.error` says."""
    rows = np.arange(len(dataset))
    reader, exact_NC = Reader(dataset, caches[name]), teacher.logits(dataset.array)
    batch = reader.__getitems__(rows)
    noise_NC = torch.randn(exact_NC.shape, generator=torch.Generator().manual_seed(0))
    for student_NC in (exact_NC, exact_NC + noise_NC, torch.zeros_like(exact_NC), 30 * noise_NC):
        cached_N = told(student_NC, batch.labels_N, batch.soft)
        online_N = told(student_NC, batch.labels_N, DenseLabels(exact_NC))
        bound_N = loss_error(name, exact_NC, student_NC) + FLOAT32 * (1 + online_N)
        assert ((cached_N - online_N).abs() <= bound_N).all()


@pytest.mark.parametrize("name", SPECS)
def test_a_student_of_rounded_labels_keeps_to_the_course(
    school: School,
    teacher: Teacher,
    caches: dict[str, LabelCache],
    online: tuple[list[float], torch.Tensor],
    name: str,
) -> None:
    """Every step's loss within twice what its labels may err by: once for the labels, once for the drift so far.

    The labels of each sample's neighbour in the batch lead far outside: the bound tells right from wrong.
    """
    bounds: list[float] = []

    def watched(logits_NC: torch.Tensor, labels_N: torch.Tensor, soft: DenseLabels) -> torch.Tensor:
        bounds.append(loss_error(name, soft.logits_NC, logits_NC.detach()).mean().item())
        return told(logits_NC, labels_N, soft)

    dataset = school.dataset
    assert student(school, Told(Reader(dataset), teacher.logits), watched)[0] == online[0]
    allowed = 2 * np.array(bounds) + FLOAT32
    curve, answers = student(school, Reader(dataset, caches[name]))
    assert (np.abs(np.subtract(curve, online[0])) <= allowed).all()
    assert (answers.argmax(1) == online[1].argmax(1)).float().mean() > 0.99
    neighbours, _ = student(school, Told(Reader(dataset), lambda inputs: teacher.logits(inputs).roll(1, 0)))
    assert np.abs(np.subtract(neighbours, online[0])).max() > 5 * allowed.max()


@pytest.mark.parametrize("name", ["dense float16", "topk float32"])
def test_the_labels_of_a_shard_do_not_depend_on_how_the_run_was_cut(
    dataset: ArrayDataset, teacher: Teacher, name: str
) -> None:
    """Law: stopped before any batch and resumed, bit for bit the arrays of a run that was not."""
    labeller = Labeller(dataset, teacher, SPECS[name])
    plan = list(job_for(dataset, SPECS[name], shard_rows=64).layout.all_shards())

    def made(cut: float) -> dict[int, Block]:
        blocks: dict[int, Block] = {}
        keep = lambda shard, block, _: blocks.update({shard.number: block})  # noqa: E731 - the shape of a commit
        generate(plan, labeller, keep, cut)
        assert generate([shard for shard in plan if shard.number not in blocks], labeller, keep)
        return blocks

    straight = made(np.inf)
    for cut in range(8):
        resumed = made(cut)
        assert resumed.keys() == straight.keys()
        for number, block in resumed.items():
            assert {each: array.tobytes() for each, array in block.items()} == {
                each: array.tobytes() for each, array in straight[number].items()
            }


def test_a_cache_made_in_two_runs_is_the_cache_made_in_one(
    tmp_path: Path, dataset: ArrayDataset, teacher: Teacher, caches: dict[str, LabelCache]
) -> None:
    """Law: wherever the first was stopped, the same cache id and whole to the byte."""
    spec = SPECS["dense float32"]
    job, labeller = caches["dense float32"].job, Labeller(dataset, teacher, spec)
    assert job.labels == {**asdict(spec), "temperatures": [], "features": []}
    for cut in (1, 3, 6):
        with CacheWriter.open(tmp_path / str(cut), job, {}) as writer:
            assert not generate(writer.missing(), labeller, writer.commit, cut)
        with CacheWriter.open(tmp_path / str(cut), job, {}) as writer:
            assert generate(writer.missing(), labeller, writer.commit)
            assert writer.seal({}).cache_id == caches["dense float32"].cache_id
        assert verify(tmp_path / str(cut)).problems == ()


def test_the_bounds_of_these_tests_are_those_the_encodings_state() -> None:
    """Should an encoding's statement change, `log_error` has to change with it."""
    assert "none" in encodings.error(SPECS["dense float32"])
    assert "|log p error| <= 2^-10 max|z| / T" in encodings.error(SPECS["dense float16"])
    assert "|log p error| <= 2^-23 gap / T" in encodings.error(SPECS["topk float32"])
    assert "|log p error| <= 2^-11 gap / T" in encodings.error(SPECS["topk float16"])
    assert "besides 1e-6" in encodings.error(SPECS["topk float16"])
