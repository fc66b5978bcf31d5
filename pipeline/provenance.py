"""What a cache says of how it came about: the tools in its receipts, figures of its teacher in the seal."""

import platform
from contextlib import suppress
from importlib.metadata import version

import torch
from pydantic import JsonValue

from pipeline.datasets import Dataset
from pipeline.errors import SoftLabelsError
from pipeline.labeller import Labeller
from pipeline.runs import fit_seconds
from pipeline.teachers import Teacher
from pipeline.views import Viewed, viewed
from pipeline.weights import file_bytes

NAMED = 3


def tools(labeller: Labeller) -> dict[str, str]:
    """What a receipt names: not what was asked, but what the last bits of a float and the pixels may depend on."""
    teacher = labeller.teacher
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("softlabels", "torch", "numpy", "zarr")},
        **labeller.views.tools,
        **({"skipped": listed(skipped)} if (skipped := skipped_of(labeller.views)) else {}),
        "device": teacher.device.type,
        "batch_size": str(teacher.settings.batch_size),
        "threads": str(torch.get_num_threads()),
    }


def skipped_of(views: Viewed) -> tuple[str, ...]:
    """The names of what a dataset was asked to leave out where it cannot be decoded."""
    return tuple(getattr(views.dataset, "skipped", ()))


def listed(names: tuple[str, ...]) -> str:
    """How many, and the first of them.

    >>> listed(("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    '4: a.jpg, b.jpg, c.jpg, …'
    """
    return f"{len(names)}: {', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''}"


def figures(teacher: Teacher, test: Dataset | None) -> dict[str, JsonValue]:
    """Figures that stand beside the students' in tables, since stage two cannot ask the teacher.

    How right it is on `[test]` and what an answer to it costs, null where there is none.
    """
    from pipeline.cost import Figures, cost  # noqa: PLC0415 - two seconds, which one worker of many has to spend
    from pipeline.evaluation import Evaluation, evaluate  # noqa: PLC0415

    reached, costs, batch_size = Evaluation(), Figures(), teacher.settings.batch_size
    asked = teacher.settings.asked
    known = [fit_seconds(each.checkpoint) for each in asked]
    sizes = [file_bytes(each.checkpoint) for each in asked]
    # A test set that cannot be read, or be answered, must not keep labels from being sealed.
    with suppress(SoftLabelsError, RuntimeError, ValueError, LookupError):
        reached = evaluate(teacher.logits, test, batch_size, closely=True) if test else reached
        costs = cost(teacher.logits, test, batch_size, teacher.device) if test else costs
    told = ("accuracy", "ece", "cross_entropy", "top5", "macro_f1", "auroc")
    return {
        "teacher_parameters": teacher.parameters,
        "teacher_weights_bytes": sum(each or 0 for each in sizes) if None not in sizes else None,
        **{f"teacher_test_{name}": getattr(reached, name) for name in told},
        "teacher_test_perplexity": reached.perplexity if test and viewed(test).positions else None,
        "teacher_fit_seconds": sum(each or 0.0 for each in known) if None not in known else None,
        **{f"teacher_{name}": value for name, value in costs.items()},
    }
