"""Several networks as one teacher: what is cached is their mixture, and the job names each of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from river_cases import STEADY
from stage_cases import must, run, softlabels

from pipeline.config import dump, load
from pipeline.errors import ConfigError
from pipeline.sources import open_views
from pipeline.store.mapped import LabelCache
from pipeline.teachers import load_teacher
from pipeline.teachers.ensemble import Ensemble, mean_of_logits, mean_of_probabilities

MEMBERS = """
[teacher]
batch_size = 8
device = "cpu"
mixture = "MIXTURE"

[[teacher.members]]
model = "mlp"
options = { hidden = [8] }
checkpoint = "one.safetensors"
fit = { epochs = 1, batch_size = 16 }

[[teacher.members]]
model = "mlp"
options = { hidden = [5] }
checkpoint = "two.safetensors"
weight = 3.0
fit = { epochs = 1, batch_size = 16, seed = 4 }
"""


class Says(torch.nn.Module):
    """The same logits, whatever it is asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """As given."""
        return self.logits


@STEADY
@given(
    st.integers(0, 10**6), st.lists(st.floats(0.1, 9.0), min_size=2, max_size=4), st.sampled_from([(5, 7), (2, 3, 7)])
)
def test_a_mixture_is_the_mean_that_it_is_named_for(seed: int, weights: list[float], shape: tuple[int, ...]) -> None:
    """Law: the softmax is the weighted mean of probabilities, or the normalised geometric mean; of one, that one."""
    logits = 3 * torch.randn(len(weights), *shape, generator=torch.Generator().manual_seed(seed))
    share = torch.tensor(weights) / sum(weights)
    mean = torch.tensordot(share, logits.softmax(dim=-1), dims=1)
    torch.testing.assert_close(mean_of_probabilities(logits, share).softmax(dim=-1), mean)
    geometric = torch.tensordot(share, logits.log_softmax(dim=-1), dims=1).softmax(dim=-1)
    torch.testing.assert_close(mean_of_logits(logits, share).softmax(dim=-1), geometric)
    for mix in (mean_of_probabilities, mean_of_logits):
        same = mix(logits[:1].expand(len(weights), *logits.shape[1:]), share)
        torch.testing.assert_close(same.softmax(dim=-1), logits[0].softmax(dim=-1))


def test_members_may_pad_their_vocabularies_each_in_its_own_way() -> None:
    """Law: what is beyond the classes is left out before the softmax."""
    logits = torch.randn(2, 4, 3)
    padded = [torch.cat([each, torch.full((4, pad), 50.0)], dim=1) for each, pad in zip(logits, (1, 5), strict=True)]
    found = Ensemble([Says(each) for each in padded], [1, 1], "probabilities", 3)(torch.zeros(4))
    torch.testing.assert_close(found.softmax(1), logits.softmax(2).mean(0))


def test_members_of_other_tokenizers_are_refused() -> None:
    """Law: their ids mean other words; one that does not say counts as any."""
    one, other = Says(torch.zeros(1, 2)), Says(torch.zeros(1, 2))
    one.tokenizer_sha256 = "a" * 64
    assert Ensemble([one, other], [1, 1], "logits", 2).tokenizer_sha256 == "a" * 64
    other.tokenizer_sha256 = "b" * 64
    with pytest.raises(ConfigError, match=r"teacher\.members have different tokenizers \(a{12}, b{12}\)"):
        Ensemble([one, other], [1, 1], "logits", 2)


def several(folder: Path, mixture: str = "probabilities") -> None:
    """Give an experiment several teachers."""
    text = (folder / "e.toml").read_text()
    start, stop = text.index("[teacher]"), text.index("[cache]")
    (folder / "e.toml").write_text(text[:start] + MEMBERS.replace("MIXTURE", mixture) + text[stop:])


@pytest.mark.parametrize("mixture", ["probabilities", "logits"])
def test_the_mixture_alone_is_cached(mixture: str, fitted: Path) -> None:
    """Law: each member is fitted to its own checkpoint, and what is stored is their mean; students learn from it."""
    several(fitted, mixture)
    facts = json.loads(softlabels("fit-teacher", "e.toml", "--json").out)
    assert [Path(each["checkpoint"]).name for each in facts["members"]] == ["one.safetensors", "two.safetensors"]
    must("generate", "labels.dtype=float32")
    experiment = load(fitted / "e.toml")
    dataset, cache = open_views(experiment), LabelCache.open("cache")
    inputs = dataset.inputs(np.arange(len(dataset)))
    one, two = (
        load_teacher(
            experiment.teacher.model_copy(update={**dict(each), "members": ()}),
            experiment.views,
            dataset.input_shape,
            dataset.classes,
        ).logits(inputs)
        for each in experiment.teacher.members
    )
    p = (
        one.softmax(1) / 4 + 3 * two.softmax(1) / 4
        if mixture == "probabilities"
        else (one / 4 + 3 * two / 4).softmax(1)
    )
    stored = torch.from_numpy(cache.gather(0, np.arange(len(dataset)))["logits"])
    torch.testing.assert_close(stored.softmax(1), p, atol=1e-5, rtol=0)
    must("train", "labels.dtype=float32")
    assert cache.seal.about["teacher_fit_seconds"] > 0
    verified = softlabels("verify", "cache", "--teacher", "e.toml", "--set", "labels.dtype=float32")
    assert verified.code == 0, verified.err


def test_the_job_names_every_member(fitted: Path) -> None:
    """Law: another weight, mixture or checkpoint is another job; the old one is refused."""
    several(fitted)
    must("fit-teacher")
    must("generate")
    asked = LabelCache.open("cache").job.teacher
    assert [each["weight"] for each in asked["members"]] == [1.0, 3.0]
    assert len(set(asked["checkpoint_sha256"])) == 2
    run("generate", "teacher.mixture=logits").refuses(5, 'teacher.mixture was "probabilities" and is now "logits"')
    (fitted / "two.safetensors").write_bytes((fitted / "one.safetensors").read_bytes())
    run("generate").refuses(5, "checkpoint_sha256")


def test_an_experiment_of_several_is_read_again_as_it_was(fitted: Path) -> None:
    """Law: a run keeps an equal experiment."""
    several(fitted)
    experiment = load(fitted / "e.toml")
    (fitted / "again.toml").write_text(dump(experiment))
    assert load(fitted / "again.toml") == experiment


def test_workers_are_told_of_every_member(fitted: Path) -> None:
    """Law: their paths are absolute, wherever a worker runs."""
    from pipeline.executors.desk import rooted  # noqa: PLC0415 - loads dask

    several(fitted)
    members = rooted(load(fitted / "e.toml")).teacher.members
    assert [each.checkpoint for each in members] == [fitted / "one.safetensors", fitted / "two.safetensors"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("batch_size = 8", 'batch_size = 8\nmodel = "mlp"'), "members have model of their own: write it in each"),
        (("batch_size = 8", "batch_size = 8\nfit = { epochs = 1 }"), "members have fit of their own"),
        (("batch_size = 8", 'batch_size = 8\ncheckpoint = "mine"'), "members have checkpoint of their own"),
        (('checkpoint = "one.safetensors"\n', ""), "the key teacher.members.0.checkpoint is missing; it is needed."),
        (("weight = 3.0", "weight = 0.0"), "teacher.members.1.weight: found 0.0 (float), expected greater than 0."),
        (("weight = 3.0", "wieght = 3.0"), "unknown key teacher.members.1.wieght: did you mean weight?"),
        (('"probabilities"', '"votes"'), "teacher.mixture: found 'votes' (str), expected 'probabilities' or 'logits'."),
    ],
)
def test_members_that_do_not_fit_are_refused(change: tuple[str, str], said: str, fitted: Path) -> None:
    """Law: with the key and what to write."""
    several(fitted)
    text = (fitted / "e.toml").read_text()
    (fitted / "e.toml").write_text(text.replace(*change))
    run("generate").refuses(2, said)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('teacher.members=["a", "b"]', "members have fit, options, checkpoint, model of their own: write it in each"),
        ("teacher.members=3", "teacher.members: found 3 (int), expected a list."),
        ("teacher.mixture=logits", "mixture and weight are of several members, and this is one: leave them out"),
        ("teacher.weight=2.0", "mixture and weight are of several members"),
        (
            "students.distilled.mixture=vote",
            'mixture = "vote" is of several teachers: name the caches of others in also',
        ),
    ],
)
@pytest.mark.usefixtures("fitted")
def test_what_is_said_of_several_and_is_of_one_is_refused(setting: str, said: str) -> None:
    """Law: nothing that is written is passed over."""
    run("generate", setting).refuses(2, said)


def test_members_that_are_no_tables_are_refused(fitted: Path) -> None:
    """Law: with the first that is none."""
    several(fitted)
    run("generate", 'teacher.members=["a", "b"]').refuses(2, "teacher.members.0: found 'a' (str), expected a table.")


def test_one_member_is_no_mixture(fitted: Path) -> None:
    """Law: it is a teacher."""
    several(fitted)
    text = (fitted / "e.toml").read_text()
    first, second = (place for place in range(len(text)) if text.startswith("[[teacher.members]]", place))
    (fitted / "e.toml").write_text(text[:second] + text[text.index("[cache]") :])
    assert first < second
    run("generate").refuses(2, "one member is no mixture: write its keys in [teacher] itself")


def test_a_student_hears_the_caches_of_several_teachers(fitted: Path) -> None:
    """Law: each teacher is asked by itself; who hears both is another student, and is trained once."""
    must("generate")
    other = ("teacher.checkpoint=second.safetensors", "cache.path=other")
    must("fit-teacher", *other, "teacher.fit.seed=7")
    must("generate", *other)
    must("train")
    before = (fitted / "runs/e/alone/seed-0/metrics.json").stat().st_mtime_ns
    run("train", 'students.distilled.also=[{cache="other", weight=3.0}]').refuses(5, "also was None and is now")
    both = ('students.distilled.also=[{cache="other", weight=3.0}]', "students.distilled.mixture=vote")
    must("train", *both, flags=("--restart", "--student", "distilled"))
    assert (fitted / "runs/e/alone/seed-0/metrics.json").stat().st_mtime_ns != before
    kept = json.loads((fitted / "runs/e/distilled/seed-0/metrics.json").read_text())
    assert kept["identity"]["also"] == [[LabelCache.open("other").cache_id, 0.75]]
    assert kept["identity"]["mixture"] == "vote"
    again = must("train", *both, flags=("--json",)).facts["students"]["distilled"]
    assert again[0]["weights_sha256"] == kept["weights_sha256"]
    run("train", 'students.distilled.also=[{cache="none"}]').refuses(4, "none holds no label cache")
    run("train", 'students.distilled.also=[{path="x"}]').refuses(2, "students.distilled.also.0.path")
