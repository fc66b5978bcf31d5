"""The way to the workers of a cluster: who is there, what they are asked for, and what became of it.

Tasks are given to a worker by its address and never move: Dask does not decide whose turn it is. All that happens comes
in one queue: what the scheduler says of workers that come and go, and how tasks end.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from itertools import count
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, Protocol, Self

from pipeline import errand, errors
from pipeline.errors import ClusterError, IncompleteError, SoftLabelsError
from pipeline.executors import desk
from pipeline.executors.dask import AGAIN, Done, Failed, Gone, Joined, Left, News
from pipeline.executors.desk import Order
from pipeline.executors.surroundings import shown

COME_SECONDS = 60.0  # for the first worker
COUNT_SECONDS = 5.0  # between two looks at who is there, should an event be lost
REST_SECONDS = 10.0  # for tasks to end at their next batch


class Task(Protocol):
    """What we need of a future of Dask's, which has no types."""

    status: str

    def done(self) -> bool:
        """Whether it has ended, somehow."""

    def exception(self) -> BaseException | None:
        """What it raised."""

    def result(self, timeout: float) -> object:
        """What it returned."""

    def release(self) -> None:
        """Let Dask forget it."""

    def add_done_callback(self, told: Callable[["Task"], object]) -> None:
        """Have a function told, from another thread, once it has ended."""


class Crew:
    """The workers of a cluster, told of one run. A context manager.

    Args:
        client: connected to the scheduler.
        posting: the plugin that tells workers of the run.
        order: what the run is about.

    """

    def __init__(self, client: Any, posting: object, order: Order) -> None:  # noqa: ANN401 - Dask has no types
        self.order, self.scheduler = order, str(client.scheduler.address)
        self._client, self._posting = client, posting
        self._queue: SimpleQueue[News | tuple[int, Task]] = SimpleQueue()
        self._asked: dict[int, Task] = {}
        self._here: set[str] = set()
        self.most = 0  # workers at a time
        self._counted, self._tries = float("-inf"), count()
        # The same for each run at this cache: what a killed driver left is put in order by the next one.
        named = sha256(f"{order.experiment.cache.path} {order.job.fingerprint}".encode()).hexdigest()
        self._name = f"softlabels {named[:16]}"

    def __enter__(self) -> Self:
        self._client.subscribe_topic("all", self._hear)
        try:
            self._client.register_plugin(self._posting, name=self._name)
        except OSError as error:
            raise self._gone() from error
        except Exception as error:  # whatever a worker raises at it
            raise ClusterError(
                f"The workers of {self.scheduler} cannot be told what to do: {type(error).__name__}: {error}. They "
                "need this version of softlabels, and the same versions of what it needs: install it on every machine."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    @property
    def dashboard(self) -> str | None:
        """The address of the scheduler's pages, if it shows any."""
        services, link = self._client.scheduler_info(n_workers=0)["services"], str(self._client.dashboard_link)
        return link if "dashboard" in services and shown(link) else None

    def wait(self, seconds: float = COME_SECONDS) -> None:
        """Wait for a first worker.

        Raises:
            ClusterError: none comes.

        """
        for _ in _looks(seconds):
            if self._threads():
                return
        raise ClusterError(
            f"The scheduler at {self.scheduler} has had no worker for {seconds:.0f} s. Start workers for it, and run "
            "the same command again."
        )

    def ask(self, worker: str, number: int, attempt: int) -> None:
        """Have a worker make a shard durable."""
        future = self._submit(errand.label, number, attempt, workers=[worker], allow_other_workers=False)
        self._asked[number] = future
        future.add_done_callback(lambda done: self._queue.put((number, done)))

    def recall(self, number: int) -> None:
        """Give up what a shard's worker was asked for."""
        if future := self._asked.pop(number, None):
            future.release()

    def news(self, seconds: float) -> Iterator[News]:
        """What has happened, in order; waits for the first for so long at most."""
        if self._client.status != "running":
            yield Gone(self.scheduler)
            return
        try:
            self._count()
        except IncompleteError:
            yield Gone(self.scheduler)
            return
        with suppress(Empty):
            item = self._queue.get(timeout=seconds)
            while True:
                if news := self._read(*item) if isinstance(item, tuple) else item:
                    self._follow(news)
                    yield news
                item = self._queue.get_nowait()

    def greet(self, number: int | None) -> dict[str, str]:
        """The tools of a worker; with a shard's number, TeacherError if its first batch cannot be stored."""
        found: dict[str, str] = self._answer(errand.greet, -1 if number is None else number)
        return found

    def about(self) -> dict[str, Any]:
        """Figures of the teacher, for the seal."""
        found: dict[str, Any] = self._answer(errand.about)
        return found

    def devices(self) -> Mapping[str, str | None]:
        """The GPU of each worker there is."""
        found: Mapping[str, str | None] = self._client.run(desk.device)
        return found

    def dismiss(self) -> None:
        """End the run on all workers. Tasks end at their next batch; what is then durable is kept."""
        with suppress(Exception):  # no scheduler, no worker: then nothing is left to end
            if self._client.status == "running":
                self._client.unregister_worker_plugin(self._name)
                for _ in _looks(REST_SECONDS):
                    if all(future.done() for future in self._asked.values()):
                        break
        for number in list(self._asked):
            self.recall(number)

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """An event of the scheduler's, from another thread."""
        _, about = event
        match about.get("action"):
            case "add-worker":
                self._queue.put(Joined(about["worker"]))
            case "remove-worker":
                self._queue.put(Left(about["worker"], bool(about.get("expected"))))

    def _count(self) -> None:
        """Compare who is there with whom we know of, now and then."""
        if monotonic() - self._counted < COUNT_SECONDS:
            return
        self._counted = monotonic()
        there = set(self._threads())
        for worker in there - self._here:
            self._queue.put(Joined(worker))
        for worker in self._here - there:
            self._queue.put(Left(worker, expected=False))

    def _follow(self, news: News) -> None:
        match news:
            case Joined(worker):
                self._here.add(worker)
                self.most = max(self.most, len(self._here))
            case Left(worker):
                self._here.discard(worker)

    def _read(self, number: int, future: Task) -> News | None:
        """What became of a task."""
        current = self._asked.get(number) is future
        if current:
            del self._asked[number]
        status = future.status
        if status == "finished":
            future.release()
            return Done(number)  # also of a task that was given up: its shard is durable
        if not current:
            return None
        if status == "error":
            return Failed(number, _words(future.exception()))
        return Gone(self.scheduler)  # cancelled, and not by us

    def _threads(self) -> Mapping[str, int]:
        try:
            found: Mapping[str, int] = self._client.nthreads()
        except OSError as error:
            raise self._gone() from error
        return found

    def _submit(self, task: Callable[..., object], *numbers: int, **how: object) -> Task:
        key = f"softlabels-{self.order.token}-{next(self._tries)}"
        future: Task = self._client.submit(task, self.order.token, *numbers, key=key, pure=False, retries=0, **how)
        return future

    def _answer(self, task: Callable[..., object], *numbers: int) -> Any:  # noqa: ANN401 - what the task says
        """What any worker says, as itself or as the error that it is."""
        future, seen = self._submit(task, *numbers), monotonic()
        while not future.done():
            sleep(0.02)
            if self._client.status != "running":
                raise self._gone()
            if monotonic() - seen > COUNT_SECONDS:
                seen = monotonic()
                self.wait()
        if future.status == "error":
            raise _as_here(future.exception())
        if future.status != "finished":
            raise self._gone()
        return future.result(timeout=COME_SECONDS)

    def _gone(self) -> IncompleteError:
        return IncompleteError(f"The scheduler at {self.scheduler} is gone. What is done is kept. {AGAIN}")


def _looks(seconds: float) -> Iterator[None]:
    """Ten times a second, for so long."""
    until = monotonic() + seconds
    while True:
        yield
        if monotonic() > until:
            return
        sleep(0.1)


def _words(error: BaseException | None) -> str:
    if isinstance(error, errand.RefusalError):
        return f"{error.kind} on {error.host}: {error.text}"
    if type(error).__name__ == "KilledWorker":  # Dask's, of a task whose workers have died one after the other
        return "the process of each worker that tried it ended (was it killed for its memory?)"
    return f"{type(error).__name__}: {error}"


def _as_here(error: BaseException | None) -> SoftLabelsError:
    """What a worker raised, as if it were raised here."""
    if isinstance(error, errand.RefusalError):
        kind = getattr(errors, error.kind, None)
        if isinstance(kind, type) and issubclass(kind, SoftLabelsError):
            return kind(error.text)
    return ClusterError(
        f"A worker could not begin: {_words(error)}. Look into the log of the workers; or run the same command without "
        "a cluster, which shows more."
    )
