"""From row numbers to the rows of a cache: dataset, view, teacher and encoding, joined for one batch.

Three steps, so that none has to wait for another. `load` reads a batch in any thread and sends it on its way to the
teacher's device; `launch` asks the teacher and encodes; `Pending.result` waits for what comes back. On a GPU, `launch`
returns before the device has begun: copies to it run on a stream of their own, the record comes home into page-locked
memory, and whether its rows can be stored comes with it as one boolean. Elsewhere each step is done when it returns.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import encodings, reductions
from pipeline.bases import Basis, bases_of
from pipeline.datasets import Dataset
from pipeline.encodings.blocks import Logits
from pipeline.errors import TeacherError
from pipeline.features import CLASS
from pipeline.labels import GradientSpec, LabelSpec
from pipeline.seeds import seed_of
from pipeline.sequences import TARGETS, refuse_other_tokenizer, there
from pipeline.teachers import Teacher
from pipeline.views import Viewed, fingerprints, viewed

Block = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Sent:
    """Tensors on their way to the teacher's device, and when the last of them is there; None: they are."""

    tensors: tuple[torch.Tensor, ...]
    arrived: torch.cuda.Event | None = None

    def received(self) -> tuple[torch.Tensor, ...]:
        """The tensors for what the calling thread launches next: the device waits for them, the thread does not."""
        if self.arrived:
            for tensor in self.tensors:
                stream = torch.cuda.current_stream(tensor.device)
                stream.wait_event(self.arrived)
                tensor.record_stream(stream)  # or its memory could be given away while this stream still reads it
        return self.tensors


class Lane:
    """The way to a device and back. On CUDA neither waits for the other, nor anyone for them, until told to."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def send(self, *arrays: NDArray[np.generic]) -> Sent:
        """Arrays to the device, from any thread."""
        tensors = tuple(torch.from_numpy(array) for array in arrays)
        if self._stream is None:
            return Sent(tuple(tensor.to(self.device) for tensor in tensors))
        with torch.cuda.stream(self._stream):
            sent = tuple(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors)
            return Sent(sent, self._stream.record_event())

    @property
    def late(self) -> bool:
        """Whether what is launched runs later. Elsewhere it has run, and may be overwritten by what runs next."""
        return self._stream is not None

    def fetch(self, record: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event | None]:
        """Tensors to the host, and when they are there: not to be read before."""
        home = {name: tensor.to("cpu", non_blocking=self.late) for name, tensor in record.items()}
        if not self.late:
            return home, None
        back = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # it sleeps: the loaders need the cores
        back.record(torch.cuda.current_stream(next(iter(record.values())).device))
        return home, back


@dataclass(frozen=True)
class Loaded:
    """A batch in memory, before the teacher sees it: `sent` holds its inputs and labels."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    fingerprints: NDArray[np.uint32]
    sent: Sent
    view: int = 0


@dataclass(frozen=True)
class Pending:
    """A batch that the device is at work on. Its logits are kept until it is known that they can be stored."""

    spec: LabelSpec
    batch: Loaded
    logits_NC: Logits
    record: Mapping[str, torch.Tensor]
    back: torch.cuda.Event | None

    def result(self) -> Block:
        """What the cache stores of the batch, every array `[N, ...]`; waits for the device.

        Raises:
            TeacherError: logits that are not finite or do not fit the encoding, naming their sample ids; or the device
                failed at its work.

        """
        with explained(self.batch.ids):
            if self.back:
                self.back.synchronize()
        if not self.record["storable"]:
            if self.spec.kept:
                reductions.refuse(self.spec.kept, self.record, self.batch.ids)
            encodings.refuse(self.spec, self.logits_NC, self.batch.ids)
        return {name: tensor.numpy() for name, tensor in self.record.items() if name != "storable"} | {
            "sample_id": self.batch.ids,
            "label": self.batch.labels.astype(np.int32),
            "input_crc32c": self.batch.fingerprints,
        }


@contextmanager
def explained(ids: NDArray[np.int64]) -> Iterator[None]:
    """What a device says of its own troubles, as an error about these samples."""
    try:
        yield
    except RuntimeError as error:
        raise TeacherError(
            f"The device failed while the teacher was at work on {len(ids)} samples, the first with id {ids[0]}: "
            f"{error}. If its memory ran out, lower teacher.batch_size. Else run the teacher with device = "
            '"cpu" to see which step it is, or run the same command again to go on, if it was the device itself.'
        ) from error


@dataclass(frozen=True)
class Labeller:
    """Labels batches of one dataset, or of its views, with one teacher in one encoding."""

    dataset: Dataset
    teacher: Teacher
    spec: LabelSpec
    lane: Lane = field(init=False)
    views: Viewed = field(init=False)
    bases: Mapping[str, Basis] = field(init=False)  # of features that are kept by their principal components

    def __post_init__(self) -> None:
        object.__setattr__(self, "lane", Lane(self.teacher.device))
        object.__setattr__(self, "views", viewed(self.dataset))
        found = bases_of(self.spec.features, self.teacher.settings.features, self.teacher.device)
        object.__setattr__(self, "bases", found)
        refuse_other_tokenizer(self.teacher.network, self.views.tokenizer_sha256)

    @property
    def late(self) -> bool:
        """Whether a batch is at work on after `launch` has returned."""
        return self.lane.late

    @property
    def batch_size(self) -> int:
        """Rows asked of the teacher at once."""
        return self.teacher.settings.batch_size

    def load(self, start: int, stop: int, view: int = 0) -> Loaded:
        """A view of rows `start` to `stop` of the dataset, made, fingerprinted and sent to the device.

        Raises:
            DatasetError: a label that is not a class.

        """
        rows = np.arange(start, stop)
        ids, inputs, labels = self.views.ids[rows], self.views.inputs(rows, view), self.views.labels
        known = np.full(rows.size, -1) if labels is None else np.asarray(labels[rows])
        told = known if self.spec.positions is None else np.ascontiguousarray(inputs[:, TARGETS], np.int64)
        encodings.refuse_strange_labels(self.spec, told, ids)
        with explained(ids):
            sent = self.lane.send(inputs, told)
        return Loaded(ids, known, fingerprints(inputs), sent, view)

    @torch.no_grad()
    def launch(self, batch: Loaded) -> Pending:
        """Begin to label a batch. Of tokens, logits beyond the vocabulary are padding, and left out.

        Where the teacher's network has a head that can be asked by itself, all logits of such a batch are never there.

        Raises:
            TeacherError: the network fails, or answers with something else than `[N, C]` logits, or `[N, L, C]` of
                samples with positions.

        """
        with torch.inference_mode(self.spec.gradient is None):  # what is made in it is unfit for a graph
            return self._launched(batch)

    def _launched(self, batch: Loaded) -> Pending:
        inputs_NX, labels_N = batch.sent.received()
        with explained(batch.ids):
            logits_NC, inside = self._asked(inputs_NX)
        with explained(batch.ids):
            record = encodings.launch(drawn_anew(self.spec, batch.view), logits_NC, labels_N, batch.ids)
            storable = encodings.storable(record)
            if self.spec.gradient is not None:
                inside = inside | self._gradient(self.spec.gradient, inputs_NX, logits_NC, labels_N)
            if inside:
                storable, record = storable & reductions.storable(inside), {**record, **inside}
            home, back = self.lane.fetch({**record, "storable": storable})
        return Pending(self.spec, batch, logits_NC, home, back)

    def _asked(self, inputs_NX: torch.Tensor) -> tuple[Logits, dict[str, torch.Tensor]]:
        """What the teacher says of a batch, and what is kept of its features."""
        features = self.spec.features
        if features:
            classes = None if self.spec.positions is None else self.spec.classes
            logits_NC, seen = self.teacher.answer_inside(inputs_NX, [each.module for each in features], classes)
            positions = there(inputs_NX) if self.teacher.views.input == "tokens" else None
            given = [(each, seen[each.module], positions, self.bases.get(each.name)) for each in features]
            inside = [reductions.encode(*each) for each in given]
            return logits_NC, {name: array for part in inside for name, array in part.items()}
        if self.spec.positions is None:
            return self.teacher.answer(inputs_NX), {}
        return self.teacher.answer_in_blocks(inputs_NX, self.spec.classes), {}

    def _gradient(
        self, spec: GradientSpec, inputs_NX: torch.Tensor, logits_NC: Logits, labels_N: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What is kept of how the logits change with the input."""
        assert isinstance(logits_NC, torch.Tensor), "they are deferred of samples with positions alone"
        classes_N = labels_N if spec.of == "true" else logits_NC.argmax(dim=1)
        found = reductions.stored(spec, self.teacher.gradient(inputs_NX, spec, classes_N))
        return found | {CLASS: classes_N.to(torch.int32)} if spec.of == "top" else found

    def label(self, batch: Loaded) -> Block:
        """What the cache stores of a batch, waited for; refuses what `launch` and `Pending.result` refuse."""
        return self.launch(batch).result()


def drawn_anew(spec: LabelSpec, view: int) -> LabelSpec:
    """The same labels, but that what is drawn of a sample in this view has its own seed."""
    return replace(spec, seed=seed_of("draws of a view", spec.seed, view)) if view else spec
