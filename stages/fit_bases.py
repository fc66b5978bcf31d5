"""Find the principal components of a teacher's features, once: what `reduction = "pca"` keeps a row by."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bases import load_basis, notes_in, principal, refuse_few, write_basis
from pipeline.config import Experiment
from pipeline.datasets import content_digest
from pipeline.errors import MismatchError
from pipeline.features import FeatureSettings
from pipeline.fitting import moments_of
from pipeline.job import content_of, seen
from pipeline.labels import FeatureSpec
from pipeline.ranks import joined
from pipeline.sources import open_views, readers
from pipeline.teachers import kept_of
from pipeline.views import Viewed
from pipeline.weights import file_digest
from stages.bars import bar
from stages.report import Report
from stages.signals import stop_on_signals
from stages.soft_labels import teacher_of

Notes = Mapping[str, Any]


def fit_bases(experiment: Experiment, *, restart: bool) -> Report | None:
    """Fit the basis of each feature that has one, unless its file exists; None if no feature has any.

    A file that no fitting of ours wrote is used as it is, if it fits: as a checkpoint of the user's own is.

    Raises:
        ConfigError: more dimensions than a module, or the sample, has; or a module that is too wide.
        TeacherError: a feature is NaN or infinite, or the same for all; or the teacher fails; or a file does not fit.
        MismatchError: a file that was fitted on another teacher, module, sample or dataset; not with `restart`.
        StoppedError: asked to stop; nothing is kept.

    """
    asked = {each.name: each for each in experiment.teacher.features if each.basis is not None}
    if not asked:
        return None
    dataset = open_views(experiment)
    specs = [spec for spec in kept_of(experiment.teacher, dataset)[0] if spec.name in asked]
    with joined() as ranks:
        missing = [spec for spec in specs if _missing(experiment, spec, asked[spec.name], dataset, restart=restart)]
        ranks.wait()  # all have looked before one writes
        if missing and ranks.leads:
            _fit(experiment, missing, asked, dataset, restart=restart)
        ranks.wait()
    return _report(specs, asked, {spec.name for spec in missing})


def _missing(
    experiment: Experiment, spec: FeatureSpec, feature: FeatureSettings, dataset: Viewed, *, restart: bool
) -> bool:
    """Whether a basis is to be fitted; MismatchError if another one of ours is there."""
    assert feature.basis is not None, "only those that have one"
    found = notes_in(feature.basis)
    if not feature.basis.exists() or (restart and found):
        return True
    said = (found or {}).get("samples")
    counted = said if isinstance(said, int) and 0 < said <= len(dataset) else _samples(feature, dataset)
    wanted = _decides(experiment, feature, dataset, counted) if found else {}
    if found and (other := [key for key in wanted if found.get(key) != wanted[key]]):
        raise MismatchError(
            f"{feature.basis} was fitted on something else than teacher.features asks for: {', '.join(other)} differs. "
            "Nothing was changed. Name another file in the feature's basis; or delete this one, and run `softlabels "
            "fit-teacher` again to have it fitted anew."
        )
    load_basis(spec, feature.basis)
    return False


def _decides(experiment: Experiment, feature: FeatureSettings, dataset: Viewed, samples: int) -> dict[str, Any]:
    """What decides a basis, as JSON has it. A dataset may have grown since: the samples that counted are the same."""
    source, members = experiment.dataset, experiment.teacher.asked
    content = content_of(source, dataset) if source.version else content_digest(dataset.dataset, samples)
    decides = {
        "teacher": [[each.model, each.options, file_digest(each.checkpoint)] for each in members],
        "module": feature.module,
        "dimensions": feature.dimensions,
        "sample": feature.sample,
        "views": seen(experiment.views),
        "content": content,
    }
    found: dict[str, Any] = json.loads(json.dumps(decides))
    return found


def _samples(feature: FeatureSettings, dataset: Viewed) -> int:
    return min(feature.sample, len(dataset))


def _fit(
    experiment: Experiment,
    specs: Sequence[FeatureSpec],
    asked: Mapping[str, FeatureSettings],
    dataset: Viewed,
    *,
    restart: bool,
) -> None:
    wanted = {spec: _samples(asked[spec.name], dataset) for spec in specs}
    for spec, samples in wanted.items():
        refuse_few(spec, samples * (1 if len(spec.row_shape) == 1 else spec.row_shape[0]))
    teacher = teacher_of(experiment, dataset)
    with stop_on_signals() as stop, bar("bases", max(wanted.values())) as progress:
        found = moments_of(
            teacher, dataset, wanted, workers=readers(experiment), progress=progress.update, stopped=stop
        )
    if found is None:
        raise stop.error("No basis was fitted.", restart=restart)
    for spec, samples in wanted.items():
        moments, feature = found.pop(spec.name), asked[spec.name]
        refuse_few(spec, moments.rows)
        assert feature.basis is not None, "only those that have one"
        said = {**_decides(experiment, feature, dataset, samples), "samples": samples}
        write_basis(spec, feature.basis, principal(moments, spec.row_shape[-1]), said)


def _report(specs: Sequence[FeatureSpec], asked: Mapping[str, FeatureSettings], fitted: set[str]) -> Report:
    facts, lines = {}, []
    for spec in specs:
        path, kept = asked[spec.name].basis, spec.row_shape[-1]
        notes: Notes = notes_in(path) or {} if path else {}
        share, rows = notes.get("variance_kept"), notes.get("rows")
        facts[spec.name] = {"basis": str(path), "fitted": spec.name in fitted, "variance_kept": share, "rows": rows}
        says = "" if share is None else f": {kept:,} numbers keep {100 * share:.2f} % of the variance of {rows:,} rows"
        lines.append(f"The basis of {spec.name!r} is {'fitted' if spec.name in fitted else 'there'}: {path}{says}.")
    return Report({"bases": facts}, "\n".join(lines))
