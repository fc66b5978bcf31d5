"""Hold encodings against the whole softmax on rows of the real teacher: what a byte buys."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.audit import answered
from pipeline.config import Experiment
from pipeline.errors import ConfigError
from pipeline.fidelity import Fidelity, Method, compare, stored
from pipeline.job import spec_of
from pipeline.labels import DType, LabelSpec
from pipeline.plots import families
from pipeline.reader import Reader
from pipeline.rules import RULES, TO_THE_LABEL, rule
from pipeline.seeds import generator
from pipeline.sources import open_views
from pipeline.store.files import make_directory, write_durably
from stages.bars import bar
from stages.report import Report, table
from stages.soft_labels import teacher_of

GRID = (1.0, 2.0, 4.0, 8.0)
DTYPES: tuple[DType, ...] = ("float32", "float16", "int8")
FEW_CLASSES = 32
LEAST_DEGREES = 1e-3  # on a logarithmic axis
HEADER = ["", "T", "bytes", "ids", "KL", "TV", "tail", "ECE", "angle", "norm", "of 256", "variance", "bias²", "chance"]
LEGEND = """\
Means over rows; bytes and ids of a row. KL of what is kept from the teacher (nats); TV: half of sum |w - p|; tail:
error of the mass outside the K largest; ECE: calibration of the likeliest class; angle (degrees) and norm of the
gradient by the logits of a student half as sure, of a row and added over 256; variance: sum of (w - p)^2; bias²: the
same of the mean over {draws} draws, and by chance."""


def fidelity(
    experiment: Experiment, folder: Path, *, rows: int, temperatures: Sequence[float], draws: int, seed: int
) -> Report:
    """Compare encodings, and the rules that others use, on random rows of the dataset; keeps a table and a plot.

    Raises:
        ConfigError: labels that the dataset cannot have, or a temperature that no softmax has.
        TeacherError: the teacher fails, or its logits are not finite.

    """
    if not all(map(math.isfinite, temperatures)):
        raise ConfigError(f"--temperature {' '.join(map(str, temperatures))}: expected finite numbers above 0.")
    dataset = open_views(experiment)
    spec = spec_of(experiment.labels, dataset)
    asked = sorted(set(temperatures))
    labelled = dataset.positions is not None or bool(
        dataset.labels is not None and (np.asarray(dataset.labels) >= 0).any()
    )
    methods = {each: list(methods_for(spec.classes, each, asked, labelled=labelled)) for each in asked}
    teacher = teacher_of(experiment, dataset)
    samples = min(-(-rows // (dataset.positions or 1)), len(dataset))
    chosen = np.sort(generator("fidelity", seed).choice(len(dataset), samples, replace=False))
    logits_NC, labels_N = answered(Reader(dataset), teacher, spec, chosen)
    make_directory(folder)  # refused before the work, not after it
    found = []
    with bar("methods", sum(map(len, methods.values())), 0) as progress:
        for temperature in asked:
            for each in compare(logits_NC, labels_N, methods[temperature], temperature, draws):
                found.append(each)
                progress.update(1)
    return kept(found, len(labels_N), draws, folder)


def methods_for(
    classes: int, temperature: float, temperatures: Sequence[float], *, labelled: bool, positions: int = 1
) -> Iterator[Method]:
    """What is compared: every encoding at a few sizes, samples that share a record if rows are positions; the rules."""
    grid = tuple(sorted({*GRID, *temperatures}))
    for dtype in DTYPES:
        yield stored(f"dense {dtype}", LabelSpec("dense", classes, dtype))
    for k in sizes(classes):
        for dtype in DTYPES[1:]:
            yield stored(f"topk {dtype}, {k}", LabelSpec("topk", classes, dtype, k, grid), k)
        half = LabelSpec("head+sampled", classes, "float16", (k + 1) // 2, grid, tail=max(1, k // 2))
        yield stored(f"head+sampled, {k}", half, k)
        yield stored(f"sampled, {k}", LabelSpec("sampled", classes, "float16", k, (temperature,)), k)
        if positions > 1:
            shared = LabelSpec("sampled", classes, "float16", k, (temperature,), positions=positions)
            yield stored(f"sampled of {positions} positions, {k}", shared, k)
        yield stored(f"multinomial, {3 * k}", LabelSpec("multinomial", classes, "float16", 3 * k, (temperature,)), k)
        yield from (rule(name, k, classes) for name in RULES if labelled or name != TO_THE_LABEL)


def sizes(classes: int) -> tuple[int, ...]:
    """Numbers of ids that are worth comparing."""
    return tuple(k for k in ((3, 5) if classes <= FEW_CLASSES else (8, 16, 32, 64)) if k < classes)


def kept(found: Sequence[Fidelity], rows: int, draws: int, folder: Path) -> Report:
    """The table, and its files in a folder: fidelity.json and fidelity.png."""
    make_directory(folder)
    facts = {"rows": rows, "draws": draws, "methods": [_finite(each) for each in found]}
    write_durably(folder / "fidelity.json", [json.dumps(facts, indent=1).encode()])
    write_durably(folder / "fidelity.png", [plot(found)])
    text = table(HEADER, [_row(each) for each in found])
    return Report(
        {**facts, "folder": str(folder)},
        f"{text}\n\n{rows:,} rows of the teacher. {LEGEND.format(draws=draws)}\nKept in {folder}.",
    )


def plot(found: Sequence[Fidelity]) -> bytes:
    """The angle between gradients added over 256 rows and the teacher's, against bytes a row, at each temperature."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for each in found:
        family = each.method.split(",")[0] if "top-" not in each.method else each.method.split(", ", 1)[1]
        lines = panels.setdefault(f"T = {each.temperature:g}", {})
        if not math.isnan(each.batch_angle):
            lines.setdefault(family, []).append((each.bytes, max(LEAST_DEGREES, each.batch_angle)))
    return families(panels, "bytes a row", "degrees from the teacher's gradient, 256 rows")


def _finite(each: Fidelity) -> dict[str, object]:
    """As JSON has it, which knows no NaN."""
    return {name: None if value != value else value for name, value in asdict(each).items()}  # noqa: PLR0124  # NaN


def _row(each: Fidelity) -> list[str]:
    return [
        each.method,
        f"{each.temperature:g}",
        f"{each.bytes:,.0f}",
        f"{each.ids:.1f}",
        *(_number(value) for value in (each.kl, each.tv, each.tail, each.ece)),
        *(
            "-" if math.isnan(value) else f"{value:.{digits}f}"
            for value, digits in ((each.angle, 1), (each.norm, 3), (each.batch_angle, 2))
        ),
        *(_number(value) for value in (each.variance, each.bias)),
        f"({_number(each.chance)})" if each.chance else "",
    ]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.4f}"  # noqa: PLR2004
