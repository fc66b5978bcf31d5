"""One experiment, one TOML file, parsed once into frozen models: the only untyped moment.

`load` reads the file, applies `--set` overrides and refuses what it does not know, naming the file, the key, what was
found, what was expected and the nearest known key. Nothing here imports torch: `inspect` stays quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tomli_w
from pydantic import (
    AfterValidator,
    ByteSize,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.complaints import explained
from pipeline.errors import ConfigError
from pipeline.features import FeatureSettings, Hint, names_apart
from pipeline.gradients import StudentGradients, TeacherGradients
from pipeline.kinds import AnySource
from pipeline.regimen import Device, Finetune, Precision, Seed, Training
from pipeline.schedules import Temperature
from pipeline.seeding.settings import Seeding
from pipeline.settings import FilePath, Fraction, Location, Options, PerChannel, Settings
from pipeline.store.mirror import DEFAULT, MirrorSettings
from pipeline.tables import apply, read_table
from pipeline.terms import Loss, Term, one_term, refuse_beside_clusters

Mixture: TypeAlias = Literal["probabilities", "logits", "vote"]
TOKENS, ENSEMBLE = "tokens", "ensemble"


def _positive(value: float | tuple[float, ...]) -> float | tuple[float, ...]:
    if any(each <= 0 for each in (value if isinstance(value, tuple) else (value,))):
        raise PydanticCustomError("greater_than", "Input should be greater than 0")
    return value


class ViewSettings(Settings):
    """How a sample becomes an input. Inputs are normalised on the device as (x - mean) / std."""

    count: Annotated[int, Field(ge=1, le=2**20)] = 1
    """How many views of each sample the teacher is asked about."""
    seed: Seed = 0
    """Of all that is drawn for them, together with the sample's id and the number of the view."""
    input: Literal["numbers", "tokens"] = "numbers"
    """What a network is given: numbers, normalised in float32; or ids of tokens as they are. A dataset of kind "tokens"
    is of these."""
    mean: PerChannel = 0.0
    """A number for all, or one for each channel."""
    std: Annotated[PerChannel, AfterValidator(_positive)] = 1.0
    preprocessing: Literal["teacher"] | None = None
    """Take mean and std from what the teacher's library says of it (`pipeline.hubs.preprocessing`), and the size, crop
    and interpolation of a dataset of images where it leaves them out."""
    transform: str | None = None
    """A transform by name ("crop_flip", "resized_crop"), or package.module:callable. Left out, a view is the sample."""
    options: Options = Field(default_factory=dict)
    """What the transform is called with."""
    mix: Literal["mixup", "cutmix"] | None = None
    """Mix each view with that of another sample. Mixed views have no true label."""
    alpha: PositiveFloat = 1.0
    """The share of a view in a mixture is drawn from Beta(alpha, alpha)."""

    @model_validator(mode="after")
    def _views_differ(self) -> "ViewSettings":
        if self.count > 1 and not self.transform and not self.mix:
            raise ValueError(f"count = {self.count} views of a sample would all be the same: name a transform or a mix")
        return self

    @model_validator(mode="after")
    def _tokens_stay(self) -> "ViewSettings":
        if self.input == "tokens" and self.mix:
            raise ValueError(f'mix = "{self.mix}" blends inputs, and ids of tokens cannot be blended: leave it out')
        if self.input == "tokens" and (self.preprocessing or (self.mean, self.std) != (0.0, 1.0)):
            raise ValueError("mean, std and preprocessing are for numbers, and tokens stay as they are: leave them out")
        return self

    @model_validator(mode="after")
    def _normalised_once(self) -> "ViewSettings":
        given = sorted({"mean", "std"} & self.model_fields_set)
        if self.preprocessing is not None and given:
            raise ValueError(
                f'preprocessing = "{self.preprocessing}" says what {" and ".join(given)} would say too: leave one of '
                "them out"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without mean and std where `preprocessing` stands for them: what is written can be read again."""
        table: dict[str, Any] = handler(self)
        left_out = ("mean", "std") if self.preprocessing is not None else ()
        return {name: value for name, value in table.items() if name not in left_out}


_UNSAID: tuple[object, ...] = ({}, 1.0, None)  # what a dumped table of a teacher with members says of its own


class Member(Settings):
    """A network with its weights. A table `fit` trains it when its checkpoint does not exist."""

    model: str
    options: Options = Field(default_factory=dict)
    checkpoint: FilePath
    weight: PositiveFloat = 1.0
    """What it counts for among the members of a teacher."""
    fit: Training | None = None


class TeacherSettings(Member):
    """The frozen network that answers, or the mixture of several: then `members` stand for model and checkpoint."""

    batch_size: PositiveInt = 256
    device: Device = "auto"
    precision: Precision = "float32"
    channels_last: bool = False
    members: Annotated[tuple[Member, ...], Field(strict=False)] = ()
    mixture: Literal["probabilities", "logits"] = "probabilities"
    """Of the members: the mean of their probabilities at temperature 1, or of their logits."""
    features: Annotated[tuple[FeatureSettings, ...], Field(strict=False), AfterValidator(names_apart)] = ()
    """Modules inside it whose outputs are kept too. Those of a mixture are named `members.0.MODULE` and so on."""
    gradients: TeacherGradients | None = None
    """How its logits change with the input is kept too."""

    @property
    def asked(self) -> tuple[Member, ...]:
        """The networks that answer."""
        return self.members or (self,)

    @model_validator(mode="before")
    @classmethod
    def _members_stand_for_it(cls, value: object) -> object:
        table = value if isinstance(value, dict) else {}
        members = table.get("members")
        if not isinstance(members, list | tuple) or not members:
            return value
        first = members[0].get("checkpoint") if isinstance(members[0], dict) else None
        strange = sorted({"options", "weight", "fit"} & {key for key, each in table.items() if each not in _UNSAID})
        strange += [key for key, own in (("checkpoint", first), ("model", ENSEMBLE)) if table.get(key, own) != own]
        if strange:
            raise ValueError(f"members have {', '.join(strange)} of their own: write it in each of them, not here")
        if len(members) == 1:
            raise ValueError("one member is no mixture: write its keys in [teacher] itself")
        return {**table, "model": ENSEMBLE, "checkpoint": first if isinstance(first, str) else ENSEMBLE}

    @model_validator(mode="after")
    def _mixes_members(self) -> "TeacherSettings":
        if not self.members and (self.mixture, self.weight) != ("probabilities", 1.0):
            raise ValueError("mixture and weight are of several members, and this is one: leave them out")
        return self


class LabelSettings(Settings):
    """What is kept of the teacher's logits."""

    encoding: str = "dense"
    dtype: Literal["float16", "float32", "int8"] = "float16"
    k: PositiveInt | None = None
    """Of `topk` how many of the largest logits are kept; of `sampled` how many ids, of `multinomial` how many draws."""
    tail: PositiveInt | None = None
    """How many classes `head+sampled` draws besides its k largest."""
    seed: Seed = 0
    """Of what is drawn."""
    temperatures: Annotated[tuple[PositiveFloat, ...], Field(strict=False)] = (1.0, 2.0, 4.0, 8.0)
    standardised: bool = False
    """Whether "topk" keeps the sums of standardised logits too; "dense" needs none."""


class CacheSettings(Settings):
    """Where the labels go, and how they are cut. Left out, a shard is about 16 MiB and a chunk 256 KiB."""

    path: Location
    """A directory, or an address such as s3://bucket/prefix."""
    test: Location | None = None
    """Where the teacher's labels of `[test]` go: students are then held against it on these samples as well, by how
    often they agree and, as drafts of a language model, by how many tokens it would accept."""
    shard_rows: PositiveInt | None = None
    chunk_rows: PositiveInt | None = None
    mirror: FilePath | None = None
    """Of an address: where `train` keeps copies of its shards. Left out, softlabels in ~/.cache."""
    mirror_bytes: ByteSize = ByteSize(DEFAULT.most_bytes)
    """How much of that disk the copies of all caches may take, such as "200GiB"."""

    @property
    def copies(self) -> MirrorSettings:
        """Where the copies of a cache at an address go, and how large they may be."""
        return MirrorSettings(self.mirror or DEFAULT.path, self.mirror_bytes)


class LoadingSettings(Settings):
    """How samples are read ahead of the network. It decides no label and no weight, only how long they take."""

    workers: PositiveInt | None = None
    """Threads that read batches. Left out, as many as there are cores, up to 8; but one for a dataset of your own: its
    code may not bear to be called by several at once."""


class Voice(Settings):
    """The label cache of another teacher."""

    cache: Location
    weight: PositiveFloat = 1.0


class Student(Training):
    """A network to train from the cache, `repeats` times, from the seeds `seed`, `seed + 1` and so on."""

    model: str
    options: Options = Field(default_factory=dict)
    loss: Loss = "kd"
    """A term by its name, beside the true labels: (1 - alpha) hard + alpha NAME; or a list of terms with weights."""
    temperature: Temperature = 4.0
    alpha: Fraction = 0.9
    true_labels: PositiveInt | None = None
    """How many true labels this student may see, the same number of each class; left out, all there are."""
    window: PositiveInt | None = None
    """Shuffle within windows of so many shards of the cache, which come in an order of chance; left out, over all rows.
    For a cache in a bucket, of which only a few shards have room here: see docs/buckets.md."""
    views: PositiveInt | None = None
    """How many views of each sample it sees, one an epoch. Left out, all that are cached, if it asks the teacher; else
    a new one in every epoch."""
    view_order: Literal["cycle", "shuffle"] = "cycle"
    """In epoch e view e mod views of all samples; or of each sample its own order, drawn by its name."""
    views_at_once: PositiveInt = 1
    """So many views of a sample stand side by side in a batch, and share its reading and decoding. As many rows as ever
    make an epoch, so in so many epochs each sample comes once."""
    cache: Location | None = None
    """A cache of clusters, which it hears in place of the experiment's: its network has a logit for each of them."""
    also: Annotated[tuple[Voice, ...], Field(strict=False)] = ()
    """Caches of other teachers of the same samples, which it hears besides the experiment's own, whose weight is 1."""
    mixture: Mixture = "probabilities"
    """What it hears of several teachers: the mean of their probabilities or logits, or the likeliest class of each."""
    hints: Annotated[tuple[Hint, ...], Field(strict=False)] = ()
    """Modules of its own that are held against features of the teacher, beside the loss."""
    gradients: StudentGradients | None = None
    """How its logits change with the input is held against what the cache has of the teacher's, beside the loss."""
    repeats: PositiveInt = 1
    seeded: Seeding | None = None
    """Begin from weights made of the teacher's, which `softlabels seed-student` writes."""
    baseline: str | None = None
    """The student to train as well and to stand beside this one in the table."""
    finetune: Finetune | None = None
    """What it learns once it is distilled; it stands in the table as a line of its own."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of its loss; `temperature` and `alpha` count where the loss is a name."""
        return one_term(self.loss, self.temperature, self.alpha) if isinstance(self.loss, str) else self.loss

    @model_validator(mode="after")
    def _batches_hold_samples(self) -> "Student":
        if self.batch_size % self.views_at_once:
            raise ValueError(
                f"batch_size = {self.batch_size} rows cannot be samples in views_at_once = {self.views_at_once} views "
                "each: make one a multiple of the other"
            )
        return self

    @property
    def soft(self) -> bool:
        """Whether it asks the teacher."""
        told = self.hints or self.gradients is not None
        return bool(told) or any(term.serves for term in self.terms)

    @model_validator(mode="before")
    @classmethod
    def _no_clusters_are_true(cls, value: object) -> object:
        clustered = isinstance(value, dict) and value.get("cache") is not None
        return {"alpha": 1.0, **value} if clustered and isinstance(value, dict) else value

    @model_validator(mode="after")
    def _hears_clusters_alone(self) -> "Student":
        if self.cache is not None:
            beside = ("true_labels", "also", "hints", "gradients", "seeded", "finetune")
            refuse_beside_clusters(self.terms, [key for key in beside if getattr(self, key)])
        return self

    @model_validator(mode="after")
    def _hears_someone(self) -> "Student":
        if self.also and not self.soft:
            raise ValueError("also names caches of teachers, and its loss asks none: leave it out")
        if not self.also and self.mixture != "probabilities":
            raise ValueError(f'mixture = "{self.mixture}" is of several teachers: name the caches of others in also')
        return self

    @property
    def finetuned(self) -> "Student":
        """Who it is in its second course: a student of true labels alone, of the keys that `finetune` says."""
        assert self.finetune is not None, "it has a second course"
        said = {
            key: getattr(self.finetune, key) for key in Training.model_fields.keys() & self.finetune.model_fields_set
        }
        said |= {"loss": self.finetune.terms(self.terms), "finetune": None}
        said |= {"true_labels": None} if self.finetune.dataset else {}
        plain = {"window", "views", "view_order", "views_at_once", "also", "mixture", "baseline", "hints", "seeded"}
        plain |= {"gradients"}
        return self.model_copy(update={**said, **{key: Student.model_fields[key].default for key in plain}})

    @property
    def needs_cache(self) -> bool:
        """Whether it asks the teacher by the experiment's cache, or for which rows share a shard of it."""
        return self.cache is None and (self.soft or self.window is not None)


class Experiment(Settings):
    """One experiment: a dataset, a teacher, a label cache and any number of students."""

    dataset: AnySource
    test: AnySource | None = None
    views: ViewSettings = ViewSettings()
    teacher: TeacherSettings
    labels: LabelSettings = LabelSettings()
    cache: CacheSettings
    loading: LoadingSettings = LoadingSettings()
    students: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], Student] = Field(default_factory=dict)

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Raise ConfigError if there is no student of one of these names."""
        for name in names:
            if name not in self.students:
                known = ", ".join(self.students) or "none"
                raise ConfigError(f"--student {name}: there is no such student. This experiment has {known}.")

    def with_baselines(self, names: Sequence[str]) -> list[str]:
        """The students of these names, or all, each after its baseline; ConfigError if there is none of a name."""
        self.refuse_unknown(names)
        known = self.students
        wanted = names or tuple(known)
        if not wanted:
            raise ConfigError(
                "This experiment has no students. Add a table [students.NAME] with model, loss and epochs."
            )
        return list(dict.fromkeys([*filter(None, (known[name].baseline for name in wanted)), *wanted]))

    @model_validator(mode="before")
    @classmethod
    def _tokens_are_given_as_they_are(cls, value: object) -> object:
        table = value if isinstance(value, dict) else {}
        dataset, views = table.get("dataset"), table.get("views", {})
        if isinstance(dataset, dict) and dataset.get("kind") == TOKENS and isinstance(views, dict):
            return {**table, "views": {"input": TOKENS, **views}}
        return value

    @model_validator(mode="after")
    def _labels_of_something(self) -> "Experiment":
        if self.cache.test is not None and self.test is None:
            raise ValueError("cache.test is where labels of [test] go, and there is no [test]: add it, or leave it out")
        if self.cache.test is not None and str(self.cache.test) == str(self.cache.path):
            raise ValueError("cache.test and cache.path are one place: name two")
        return self

    @model_validator(mode="after")
    def _baselines_exist(self) -> "Experiment":
        for name, student in self.students.items():
            if student.baseline is not None and student.baseline not in self.students:
                message = f"students.{name}.baseline names {student.baseline!r}, which is no student of this experiment"
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _seeds_beside_teachers(self) -> "Experiment":
        for name, student in self.students.items():
            if student.seeded and student.seeded.checkpoint in {each.checkpoint for each in self.teacher.asked}:
                raise ValueError(f"students.{name}.seeded.checkpoint is the teacher's own: name another file")
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `key.path=value` overrides (values in TOML; a bare word is a string).

    Raises:
        ConfigError: naming the file, the key path, what was found and what was expected.

    """
    table = read_table(path)
    for override in overrides:
        apply(table, override)
    try:
        return Experiment.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {explained(Experiment, detail)}" for detail in error.errors())) from None


def dump(experiment: Experiment) -> str:
    """The experiment as TOML that `load` reads to an equal one."""
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True))
