"""Who labels: this process, or the workers of a cluster. Both are asked for the same."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol

import torch
from pydantic import JsonValue

from pipeline.config import Experiment
from pipeline.datasets import Dataset
from pipeline.devices import gpus
from pipeline.errors import ConfigError
from pipeline.executors import EXECUTORS
from pipeline.executors.desk import Order, rooted
from pipeline.executors.inline import cuts
from pipeline.labeller import Labeller
from pipeline.provenance import figures, tools
from pipeline.sources import readers
from pipeline.store.documents import Job
from pipeline.store.layout import Shard
from pipeline.store.writer import CacheWriter
from stages.bars import Bar, beside, note
from stages.report import counted
from stages.signals import Stop

if TYPE_CHECKING:
    from pipeline.executors.crew import Crew

NO_DASHBOARD = "no dashboard: its pages need bokeh (pip install 'softlabels[dashboard]', where the scheduler runs)"


class Hands(Protocol):
    """Whoever labels the shards of a plan."""

    @property
    def workers(self) -> int:
        """How many processes did it beside this one, at most at a time."""

    def greet(self, first: Shard | None) -> dict[str, str]:
        """The tools at work; TeacherError if a shard's first batch cannot be stored."""

    def run(self, writer: CacheWriter, plan: Sequence[Shard], stop: Stop, bar: Bar) -> bool:
        """Make the shards of a plan durable; whether all are."""

    def about(self) -> dict[str, JsonValue]:
        """Figures of the teacher, for the seal."""


@dataclass(frozen=True)
class Here:
    """In this process."""

    labeller: Labeller
    readers: int
    test: Dataset | None
    workers: int = 0

    def greet(self, first: Shard | None) -> dict[str, str]:
        """The tools at work."""
        if first:
            cut = next(cuts([first], self.labeller.batch_size))
            self.labeller.label(self.labeller.load(cut.start, cut.stop, cut.shard.view))
        return tools(self.labeller)

    def run(self, writer: CacheWriter, plan: Sequence[Shard], stop: Stop, bar: Bar) -> bool:
        """Label here, and commit by the writer."""
        return EXECUTORS["inline"](
            plan, self.labeller, writer.commit, stopped=stop, progress=bar.update, workers=self.readers
        )

    def about(self) -> dict[str, JsonValue]:
        """Figures of the teacher."""
        return figures(self.labeller.teacher, self.test)


@dataclass(frozen=True)
class There:
    """On the workers of a cluster."""

    crew: "Crew"

    @property
    def workers(self) -> int:
        """How many did it, at most at a time."""
        return self.crew.most

    def greet(self, first: Shard | None) -> dict[str, str]:
        """The tools of one of them."""
        return self.crew.greet(first.number if first else None)

    def run(self, writer: CacheWriter, plan: Sequence[Shard], stop: Stop, bar: Bar) -> bool:
        """Have them label and commit, and take note of what they did."""
        if not writer.place.shared:
            raise ConfigError(
                f"{writer.place} has no conditional writes, so a cache there has one writer and a cluster none. Leave "
                "--workers and --scheduler out, or set another cache path."
            )
        whole = EXECUTORS["dask"](
            plan,
            self.crew,
            attempt=writer.attempt,
            shards=writer.layout.shards,
            stopped=stop,
            progress=bar.update,
            told=lambda done, there: beside(bar, f"shards {done:,}/{len(plan):,}, workers {there}"),
        )
        if not whole:
            self.crew.dismiss()
        writer.look_again()
        if whole:
            writer.clear_up()
        return whole

    def about(self) -> dict[str, JsonValue]:
        """Figures of the teacher."""
        return self.crew.about()


@contextmanager
def crew_of(experiment: Experiment, job: Job, workers: int | None, scheduler: str | None) -> Iterator[There]:
    """The workers that a user asked for: so many on this machine, or those of a scheduler that runs."""
    with _crew(experiment, job, workers or 1, scheduler) as crew:
        note(f"waiting for workers at {crew.scheduler}")
        crew.wait()
        note(f"dashboard: {crew.dashboard}" if crew.dashboard else NO_DASHBOARD)
        yield There(crew)


def _crew(experiment: Experiment, job: Job, workers: int, scheduler: str | None) -> "AbstractContextManager[Crew]":
    from pipeline.executors.cluster import joined, local  # noqa: PLC0415 - a second, for those who use it

    order = Order(SystemRandom().getrandbits(62), rooted(experiment), job)
    if scheduler:
        return joined(scheduler, order)
    devices = gpus(experiment.teacher.device)
    if devices and workers > len(devices):
        raise ConfigError(
            f"--workers {workers}: this machine has {counted(len(devices), 'GPU')} to see, and each worker needs one "
            'of its own. Ask for fewer, or set teacher.device = "cpu".'
        )
    threads, reading = torch.get_num_threads() // workers, readers(experiment) // workers
    return local(workers, devices, replace(order, threads=max(1, threads), readers=max(1, reading)))
