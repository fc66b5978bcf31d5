"""What decides the labels, as one value: from an experiment and its open dataset to the job of a cache.

Students, devices and batch sizes are no part of it, so adding a student never touches the cache.
"""

import json
import platform
from dataclasses import asdict, fields

from pydantic import JsonValue, TypeAdapter, ValidationError

from pipeline import encodings, features
from pipeline.bases import basis_digest
from pipeline.config import Experiment, LabelSettings, Student, TeacherSettings, ViewSettings
from pipeline.datasets import Dataset, content_digest, ids_digest
from pipeline.errors import ConfigError, MismatchError
from pipeline.hubs import config_digest
from pipeline.kinds import Source, decoding
from pipeline.labels import CLUSTERED, FeatureSpec, GradientSpec, LabelSpec
from pipeline.store.documents import ROW_ARRAYS, Job
from pipeline.store.layout import choose, row_bytes
from pipeline.store.state import refuse_other_job
from pipeline.views import viewed
from pipeline.weights import file_digest

DRAWN = ("sampled", "multinomial", "head+sampled")
WITH_SUMS = ("topk", "head+sampled")
ALWAYS = ("encoding", "classes", "dtype", "k", "temperatures")
VIEWS = {"views", "view_order", "views_at_once"}  # of a student
ASKED, MEMBER = {"model", "options", "precision", "channels_last"}, {"model", "options", "weight"}  # of a teacher
ALWAYS_VIEWS = ("seed", "mean", "std")
_DEFAULTS: dict[str, object] = {item.name: [] if item.default == () else item.default for item in fields(LabelSpec)}


def spec_of(
    labels: LabelSettings,
    dataset: Dataset,
    features: tuple[FeatureSpec, ...] = (),
    gradient: GradientSpec | None = None,
) -> LabelSpec:
    """The labels asked for, checked against the dataset's classes; what their encoding does not read is left out.

    Args:
        labels: the settings.
        dataset: of what.
        features: what is kept besides of the teacher's modules.
        gradient: what is kept of how its logits change with the input.

    Raises:
        ConfigError: an unknown encoding, or one that these settings do not fit.

    """
    if dataset.classes is None:
        raise ConfigError("[dataset] does not say how many classes there are, and has no labels to count. Set classes.")
    spec = LabelSpec(
        encoding=labels.encoding,
        classes=dataset.classes,
        dtype=labels.dtype,
        k=labels.k,
        temperatures=() if labels.encoding == "dense" else labels.temperatures,
        tail=labels.tail,
        positions=viewed(dataset).positions,
        seed=labels.seed if labels.encoding in DRAWN else 0,
        standardised=labels.standardised and labels.encoding in WITH_SUMS,
        features=features,
        gradient=gradient,
    )
    encodings.check(spec)
    return spec


def known_spec(experiment: Experiment, dataset: Dataset, job: Job) -> LabelSpec:
    """The labels asked for, where what is kept besides has the shapes that it has in a job; of none, if not there."""
    teacher = experiment.teacher
    return spec_of(experiment.labels, dataset, _known_features(teacher, job), _known_gradient(teacher, job))


def _known_gradient(teacher: TeacherSettings, job: Job) -> GradientSpec | None:
    there = TypeAdapter(GradientSpec | None).validate_python(job.labels.get("gradient"))
    shape = () if there is None else there.row_shape if there.projections is None else there.row_shape[1:]
    return None if teacher.gradients is None else teacher.gradients.spec(shape)


def _known_features(teacher: TeacherSettings, job: Job) -> tuple[FeatureSpec, ...]:
    there = TypeAdapter(tuple[FeatureSpec, ...]).validate_python(job.labels.get("features", ()))
    shapes = {each.name: (each.module_shape, each.row_shape) for each in there}
    return tuple(each.spec(*shapes.get(each.name, ((), ()))) for each in teacher.features)


def content_of(source: Source, dataset: Dataset) -> str:
    """What stands for a dataset's content: the version it declares, or else a digest of all inputs and labels.

    A version is of the pictures as they lie there; how they are decoded stands beside it.
    """
    if not source.version:
        return f"sha256 {content_digest(viewed(dataset).dataset)}"
    left_out = f" rows {list(source.rows)}" if source.rows else ""
    left_out += f" without {sorted(source.without)}" if source.without else ""
    decoded = "".join(f" {key} {value}" for key, value in decoding(source).items())
    return f"version {source.version}{left_out}{decoded}"


def job_of(experiment: Experiment, dataset: Dataset, spec: LabelSpec) -> Job:
    """The job of a cache. Hashes the dataset's content (unless it declares a version) and the teacher's files.

    Raises:
        ConfigError: no cache can be cut or stored as asked for.
        TeacherError: the checkpoint, or the basis of a feature, is not there.

    """
    arrays = (*ROW_ARRAYS, *encodings.arrays(spec), *features.arrays(spec.kept))
    widest = max(map(row_bytes, arrays))
    cache = experiment.cache
    shard_rows, chunk_rows = choose(widest, len(dataset), cache.shard_rows, cache.chunk_rows)
    try:
        return Job(
            format="softlabels/2",
            dataset=_dataset_section(content_of(experiment.dataset, dataset), dataset),
            views=_views_section(experiment.views),
            teacher={**_teacher_section(experiment), **_teacher_files(experiment)},
            labels=labels_section(spec),
            rows=len(dataset),
            view_count=experiment.views.count,
            shard_rows=shard_rows,
            chunk_rows=chunk_rows,
            arrays=arrays,
        )
    except ValidationError as error:
        found = error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigError(f"[cache] asks for what cannot be: {found}.") from None


def as_cut(job: Job, there: Job, experiment: Experiment) -> Job:
    """The job with shards and chunks as a cache has them, where the experiment leaves that open."""
    free = [name for name in ("shard_rows", "chunk_rows") if getattr(experiment.cache, name) is None]
    return job.model_copy(update={name: getattr(there, name) for name in free})


def check_made_for(job: Job, experiment: Experiment, dataset: Dataset) -> None:
    """Refuse a cache that another experiment asked for, as far as can be told without the teacher.

    Raises:
        MismatchError: naming each field, what it was and what it is now; or a cache of clusters.

    """
    if CLUSTERED in job.teacher:
        raise MismatchError(
            f"{experiment.cache.path} holds clusters of a teacher's features, and not its answers: its "
            f"{job.labels.get('classes')} are no classes of the dataset. Name it as the `cache` of a student, "
            "[students.NAME], and have cache.path be the one with the teacher's labels."
        )
    asked = {
        "dataset": _dataset_section(content_of(experiment.dataset, dataset), dataset),
        "views": _views_section(experiment.views),
        "teacher": {**job.teacher, **_teacher_section(experiment)},
        "labels": labels_section(known_spec(experiment, dataset, job)),
        "rows": len(dataset),
    }
    refuse_other_job(experiment.cache.path, job, job.model_copy(update=asked))


def check_same_samples(where: object, job: Job, experiment: Experiment, dataset: Dataset) -> None:
    """Refuse a cache of clusters that were made of other samples or views than an experiment's.

    Raises:
        MismatchError: naming each field, what it was and what it is now; or a cache of something else than clusters.

    """
    if CLUSTERED not in job.teacher:
        raise MismatchError(
            f"{where} holds the answers of a teacher, and a student's own `cache` is one of clusters: what "
            "`softlabels cluster` writes. Name it in cache.path, or, beside that one, in the student's `also`."
        )
    section = _dataset_section(content_of(experiment.dataset, dataset), dataset)
    named = {"class_names": job.dataset.get("class_names")}
    asked = {"dataset": {**section, **named}, "views": _views_section(experiment.views), "rows": len(dataset)}
    if other := job.differences(job.model_copy(update=asked)):
        listed = "; ".join(f"{item.field} was {item.was} and is now {item.now}" for item in other)
        raise MismatchError(
            f"{where} holds clusters of other samples or views than this experiment's: {listed}. Run `softlabels "
            "cluster` on a cache of this very dataset in these views, or go back to those settings."
        )


def check_begins_with(job: Job, experiment: Experiment, dataset: Dataset) -> None:
    """Refuse to add samples to a cache unless those it holds are the first of the dataset.

    Their ids are held against the job; and their inputs and labels, which are read for it, unless a version stands for
    them.

    Raises:
        MismatchError: the first samples are others.
        ConfigError: the views are mixtures.

    """
    if experiment.views.mix:
        raise ConfigError(
            f'views.mix = "{experiment.views.mix}": the partners of views are drawn among all samples, so with more of '
            "them the old views would be others. Set another cache path to make a new cache."
        )
    content = str(job.dataset["content"])
    if not experiment.dataset.version:
        content = f"sha256 {content_digest(viewed(dataset).dataset, job.rows)}"
    first = _dataset_section(content, dataset) | {"ids_sha256": ids_digest(dataset.ids[: job.rows])}
    if other := job.differences(job.model_copy(update={"dataset": first})):
        raise MismatchError(
            f"{experiment.cache.path} holds {job.rows:,} samples, and the first {job.rows:,} of the dataset's "
            f"{len(dataset):,} are others: {', '.join(item.field for item in other)} differs. A cache grows by samples "
            "that come after those it holds. Append them, or set another cache path to make a new one."
        )


def check_at_hand(job: Job, experiment: Experiment, dataset: Dataset) -> None:
    """Refuse to work at a job with other files than it was made of, as far as can be told without reading them through.

    The whole checkpoint is, but of the dataset only the ids: its content was hashed by whoever made the job.

    Raises:
        MismatchError: naming this machine and each field.
        TeacherError: the checkpoint is not there.

    """
    found = {
        "dataset": _dataset_section(str(job.dataset["content"]), dataset),
        "teacher": {**job.teacher, **_teacher_files(experiment)},
    }
    if other := job.differences(job.model_copy(update=found)):
        listed = "; ".join(f"{item.field} is {item.now} there, and {item.was} in the job" for item in other)
        raise MismatchError(
            f"{platform.node()} has other files than the job was made of: {listed}. Every machine at work on a cache "
            "has to see the same dataset and checkpoint, by the same paths. Mend this, and run the same command again."
        )


def _dataset_section(content: str, dataset: Dataset) -> dict[str, JsonValue]:
    tokenizer = viewed(dataset).tokenizer_sha256
    return {
        "content": content,
        "ids_sha256": ids_digest(dataset.ids),
        "class_names": list(dataset.class_names) if dataset.class_names else None,
        "input_shape": list(viewed(dataset).dataset.input_shape),
        "input_dtype": str(viewed(dataset).dataset.input_dtype),
        **({"tokenizer_sha256": tokenizer} if tokenizer else {}),
    }


def _views_section(views: ViewSettings) -> dict[str, JsonValue]:
    """All that decides what is seen, but how many views. What is left out has its default, as in `labels_section`."""
    section: dict[str, JsonValue] = views.model_dump(mode="json", exclude={"count"})
    defaults = ViewSettings().model_dump(mode="json")
    return {name: value for name, value in section.items() if name in ALWAYS_VIEWS or value != defaults[name]}


def _teacher_section(experiment: Experiment) -> dict[str, JsonValue]:
    teacher = experiment.teacher
    section: dict[str, JsonValue] = teacher.model_dump(mode="json", include=ASKED)
    if teacher.members:
        section["mixture"] = teacher.mixture
        section["members"] = [each.model_dump(mode="json", include=MEMBER) for each in teacher.members]
    return section


def _teacher_files(experiment: Experiment) -> dict[str, JsonValue]:
    """The digests of the files that make a teacher, which stage two need not have; of members, one each.

    Those of its features' bases by the names of these; of a teacher without, no word.
    """
    asked = experiment.teacher.asked
    found: dict[str, list[JsonValue]] = {"checkpoint_sha256": [file_digest(each.checkpoint) for each in asked]}
    configs: list[JsonValue] = [config_digest(each.model) for each in asked]
    if any(configs):
        found["config_sha256"] = configs
    files: dict[str, JsonValue] = {
        name: digests if experiment.teacher.members else digests[0] for name, digests in found.items()
    }
    bases: dict[str, JsonValue] = {
        each.name: basis_digest(each.basis) for each in experiment.teacher.features if each.basis is not None
    }
    return {**files, **({"bases_sha256": bases} if bases else {})}


def labels_section(spec: LabelSpec) -> dict[str, JsonValue]:
    """What is left out has its default: so a new setting changes no job that does without it."""
    section: dict[str, JsonValue] = json.loads(json.dumps(asdict(spec)))
    return {name: value for name, value in section.items() if name in ALWAYS or value != _DEFAULTS[name]}


def seen(views: ViewSettings, student: Student | None = None) -> dict[str, JsonValue]:
    """What decides which inputs a network is trained on, in the identity of its run."""
    section = _views_section(views)
    if not (views.transform or views.mix):
        return {name: section[name] for name in ("mean", "std", "input") if name in section}
    return section | (student.model_dump(mode="json", include=VIEWS) if student else {})
