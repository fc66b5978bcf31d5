"""Students that hear several teachers: the labels of several caches, row by row."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from river_cases import CLASSES, job_for, part_of, samples, told
from sequence_cases import Packed

from pipeline import encodings
from pipeline.config import Experiment, Student
from pipeline.datasets.arrays import ArrayDataset
from pipeline.errors import ConfigError, MismatchError
from pipeline.hearing import Hearing, clustered, hears, identity, listening, mixed, refuse_unheard
from pipeline.labels import DenseLabels, LabelSpec, MixedLabels
from pipeline.losses import kl, soft_cross_entropy
from pipeline.objective import Objective
from pipeline.reader import Reader
from pipeline.store.mapped import LabelCache
from pipeline.store.mirror import DEFAULT
from pipeline.store.writer import CacheWriter
from pipeline.terms import KD, Hard, Soft
from pipeline.views import Viewed, fingerprints

DENSE = LabelSpec("dense", CLASSES, "float32")
TOPK = LabelSpec("topk", CLASSES, "float32", k=2, temperatures=(1.0, 4.0))
SAMPLED = LabelSpec("sampled", CLASSES, "float32", k=2, temperatures=(4.0,))


def cached(path: Path, dataset: ArrayDataset, spec: LabelSpec = DENSE, teacher: int = 0) -> LabelCache:
    """A cache of what one of several teachers says."""
    with CacheWriter.open(path, job_for(dataset, spec), {}) as writer:
        for shard in writer.missing():
            rows = np.arange(shard.start, shard.stop)
            ids, labels = dataset.ids[rows], dataset.labels[rows]
            record = encodings.encode(spec, told(ids + 1000 * teacher), torch.from_numpy(labels), ids)
            writer.commit(
                shard,
                {name: tensor.numpy() for name, tensor in record.items()}
                | {
                    "sample_id": ids,
                    "label": labels.astype(np.int32),
                    "input_crc32c": fingerprints(dataset.inputs(rows)),
                },
                0.0,
            )
        writer.seal({})
    return LabelCache.open(path)


def student(**keys: object) -> Student:
    """One that hears others."""
    return Student(**{"model": "mlp", "also": ({"cache": "b", "weight": 3.0},), **keys})


ROWS = np.array([5, 0, 23, 7])


def test_each_row_is_of_the_same_sample_in_every_cache(tmp_path: Path) -> None:
    """Law: by id, in whatever order either cache is; weights are scaled to a sum of one."""
    dataset = samples()
    mine = cached(tmp_path / "a", dataset)
    other = cached(tmp_path / "b", dataset, teacher=1)
    soft = Hearing(dataset, mine, [(other, 3.0)], "probabilities").__getitems__(ROWS).soft
    assert isinstance(soft, MixedLabels)
    assert soft.weights == (0.25, 0.75)
    for number, part in enumerate(soft.parts):
        torch.testing.assert_close(part.logits_NC, told(dataset.ids[ROWS] + 1000 * number))
    assert torch.equal(soft.to("cpu").parts[1].logits_NC, soft.parts[1].logits_NC)
    assert torch.equal(soft.select(slice(1, 3)).parts[1].logits_NC, soft.parts[1].logits_NC[1:3])


def test_batches_are_read_as_one_if_no_voice_may_have_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: for a server, as for the cache of the student's own."""
    mine, other = (cached(tmp_path / name, samples()) for name in "ab")
    hearing = Hearing(samples(), mine, [(other, 1.0)], "probabilities")
    assert hearing.divides
    monkeypatch.setattr(LabelCache, "may_fetch", property(lambda cache: cache is other))
    assert not hearing.divides


def test_a_mean_of_probabilities_has_the_gradient_of_their_mean() -> None:
    """Law: of kd and soft, at any temperature; true labels count as before."""
    teachers = [torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    soft, labels = (
        mixed([DenseLabels(z) for z in teachers], (0.25, 0.75), "probabilities"),
        torch.tensor([0, 1, -1, 2, 0]),
    )
    mean = DenseLabels(4 * (0.25 * (teachers[0] / 4).softmax(1) + 0.75 * (teachers[1] / 4).softmax(1)).log())
    gradients = []
    for term in (KD(name="kd", temperature=4.0), Soft(name="soft", temperature=4.0)):
        for heard in (soft, mean):
            logits = torch.ones(5, CLASSES, requires_grad=True)
            Objective((term, Hard(name="hard", weight=0.5)))(logits, labels, heard).sum().backward()
            gradients.append(logits.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-5, rtol=0)


def test_a_mean_of_logits_is_dense_and_a_vote_is_a_class_each() -> None:
    """Law: the first serves any loss; the second is the cross-entropy with the shares of the votes."""
    teachers = [torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    labels = [DenseLabels(z) for z in teachers]
    found = mixed(labels, (0.25, 0.75), "logits")
    torch.testing.assert_close(found.logits_NC, 0.25 * teachers[0] + 0.75 * teachers[1])
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(2))
    vote = Objective((Soft(name="soft", temperature=2.0),))(
        logits, torch.zeros(6).long(), mixed(labels, (0.25, 0.75), "vote")
    )
    log_q = (logits / 2).log_softmax(1)
    said = [log_q.gather(1, z.argmax(1)[:, None])[:, 0] for z in teachers]
    torch.testing.assert_close(vote, -4 * (0.25 * said[0] + 0.75 * said[1]))


def test_encodings_may_differ(tmp_path: Path) -> None:
    """Law: the loss is the mean of those by each, whatever each keeps."""
    dataset = samples()
    reader = Hearing(
        dataset,
        cached(tmp_path / "a", dataset, TOPK),
        [(cached(tmp_path / "b", dataset, SAMPLED, 1), 1.0)],
        "probabilities",
    )
    batch = reader.__getitems__(ROWS)
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0))
    found = Objective((KD(name="kd", temperature=4.0),))(logits, batch.labels_N, batch.soft)
    torch.testing.assert_close(found, 16 * sum(kl(logits, part, 4.0) for part in batch.soft.parts) / 2)
    assert found.shape == soft_cross_entropy(logits, batch.soft.parts[0], 4.0).shape


def test_a_cache_of_other_samples_is_refused(tmp_path: Path) -> None:
    """Law: what its job says of samples and views has to be the same, before a row is read."""
    dataset = samples()
    mine, other = cached(tmp_path / "a", dataset), cached(tmp_path / "b", part_of(dataset, np.arange(20)))
    with pytest.raises(MismatchError, match=r"b was not made of the samples and views of .*a: they differ in rows"):
        Hearing(dataset, mine, [(other, 1.0)], "probabilities")


@pytest.mark.parametrize(
    ("settings", "specs", "said"),
    [
        (
            {"mixture": "logits"},
            (DENSE, TOPK),
            r'students\.s\.mixture = "logits" needs every logit, and .* dense, topk',
        ),
        ({"mixture": "vote"}, (TOPK, SAMPLED), r'"vote" needs the likeliest class of every row, .*\(topk, sampled\)'),
        ({"loss": "reverse_kl"}, (DENSE, DENSE), r'the loss "reverse_kl" by a mixture of probabilities is no mean of'),
        ({"temperature": 2.0}, (DENSE, TOPK), r'these "topk" labels cannot serve temperature 2'),
    ],
)
def test_a_loss_that_a_mixture_cannot_serve_is_refused(
    settings: dict[str, object], specs: tuple[LabelSpec, LabelSpec], said: str, tmp_path: Path
) -> None:
    """Law: before the first step, with the key and a way out."""
    dataset = samples()
    mine, other = (cached(tmp_path / name, dataset, spec) for name, spec in zip("ab", specs, strict=True))
    who = student(**{"temperature": 4.0, **settings})
    reader = Hearing(dataset, mine, [(other, 3.0)], who.mixture)
    with pytest.raises(ConfigError, match=said):
        refuse_unheard("students.s", who, reader)


def test_who_hears_others_is_another_student(tmp_path: Path) -> None:
    """Law: which caches, their weights and the mixture are part of a run; who hears one teacher is who they were."""
    dataset = samples()
    mine, other = cached(tmp_path / "a", dataset), cached(tmp_path / "b", dataset, teacher=1)
    alone = student(also=())
    assert hears(alone) is None
    plain = Reader(dataset, mine)
    assert listening(alone, plain, DEFAULT) is plain
    assert identity(plain) == {}
    who = student(also=({"cache": str(tmp_path / "b"), "weight": 3.0},))
    reader = listening(who, plain, DEFAULT)
    assert identity(reader) == {"also": [[other.cache_id, 0.75]], "mixture": "probabilities"}
    assert len({hears(who), hears(student()), hears(student(mixture="vote"))}) == 3


def test_one_that_asks_no_teacher_hears_no_other() -> None:
    """Law: the file is refused."""
    with pytest.raises(ValueError, match="also names caches of teachers, and its loss asks none"):
        student(loss="hard")
    assert replace(DENSE).positions is None


def test_who_hears_clusters_hears_no_true_label_and_is_another_student() -> None:
    """Law: alpha is one unless it is said; its own cache stands in place of the experiment's."""
    who = student(also=(), cache="c")
    assert [(term.name, term.weight) for term in who.terms if term.weight] == [("kd", 1.0)]
    assert (who.needs_cache, student(also=()).needs_cache) == (False, True)
    assert hears(who) not in {None, hears(student(also=(), cache="d"))}
    seen = Viewed(samples())
    other = seen.in_classes(7)
    assert (other.classes, other.labels, seen.classes) == (7, None, CLASSES)
    assert np.array_equal(other.inputs(ROWS), seen.inputs(ROWS))


def test_positions_have_no_clusters() -> None:
    """Law: samples with an answer at each position are refused before any cache is opened."""
    experiment = Experiment.model_validate(
        {
            "dataset": {"kind": "digits"},
            "teacher": {"model": "mlp", "checkpoint": Path("x")},
            "cache": {"path": Path("x")},
        }
    )
    with pytest.raises(ConfigError, match=r"students\.s\.cache: each of 6 positions of a sample has an answer"):
        clustered("students.s", student(also=(), cache="nowhere"), experiment, Viewed(Packed()))
