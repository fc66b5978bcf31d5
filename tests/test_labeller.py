"""What the cache stores of a batch: what the teacher says of these inputs, and what ties it to them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from river_cases import CLASSES, DENSE, samples
from torch import nn

from pipeline import encodings
from pipeline.config import TeacherSettings, ViewSettings
from pipeline.datasets.arrays import ArrayDataset
from pipeline.datasets.checks import checked
from pipeline.encodings import blocks
from pipeline.errors import DatasetError, TeacherError
from pipeline.executors.inline import run_inline
from pipeline.labeller import Labeller, Sent
from pipeline.labels import FeatureSpec, LabelSpec
from pipeline.models import build
from pipeline.store.documents import ROW_ARRAYS
from pipeline.store.layout import Layout
from pipeline.teachers import Teacher
from pipeline.teachers.ensemble import Ensemble
from pipeline.views import fingerprints

VIEWS = ViewSettings(mean=100.0, std=50.0)
TOPK = LabelSpec("topk", CLASSES, "float32", k=2, temperatures=(1.0, 4.0))


class Linear(nn.Module):
    """Logits that are plain arithmetic of the input: its first pixels."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        return inputs.flatten(1)[:, :CLASSES]


class Slow(nn.Module):
    """A network with weights, whose work takes a GPU milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow = nn.Linear(16, 4096), nn.Linear(4096, CLASSES)
        self.between = nn.Linear(4096, 4096)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        hidden = self.wide(inputs.flatten(1)).tanh()
        for _ in range(20):
            hidden = self.between(hidden).tanh()
        return self.narrow(hidden)


class Frugal(nn.Module):
    """Answers in the same memory each time, and from its second call on with what it is told to."""

    def __init__(self, first_row: list[float] | None = None) -> None:
        super().__init__()
        self.answer, self.first_row, self.calls = torch.empty(7, CLASSES), first_row, 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[N, 1, 4, 4] to [N, 3]."""
        self.calls += 1
        answer = self.answer[: len(inputs)].copy_(inputs.flatten(1)[:, :CLASSES])
        if self.first_row and self.calls == 2:
            answer[0] = torch.tensor(self.first_row)
        return answer


SETTINGS = TeacherSettings(model="mlp", checkpoint="none.safetensors", batch_size=7)
TEACHER = Teacher(Linear(), torch.device("cpu"), SETTINGS, VIEWS)


def labeller(dataset: ArrayDataset, spec: LabelSpec = DENSE, network: nn.Module | None = None) -> Labeller:
    """With a teacher that was never trained."""
    return Labeller(dataset, replace(TEACHER, network=network) if network else TEACHER, spec)


def test_a_batch_is_stored_with_its_logits_ids_labels_and_fingerprints() -> None:
    """Every array a row of the cache has, in its very dtype; the teacher is asked about the normalised input."""
    dataset = samples()
    block = labeller(dataset).label(labeller(dataset).load(5, 9))
    specs = {spec.name: spec for spec in ROW_ARRAYS} | {"logits": None}
    assert block.keys() == specs.keys()
    assert all(block[spec.name].dtype == spec.dtype for spec in ROW_ARRAYS)
    inputs = dataset.array[5:9]
    np.testing.assert_array_equal(block["logits"], (inputs.reshape(4, -1)[:, :CLASSES] - 100) / 50)
    np.testing.assert_array_equal(block["sample_id"], dataset.ids[5:9])
    np.testing.assert_array_equal(block["label"], dataset.labels[5:9])
    np.testing.assert_array_equal(block["input_crc32c"], fingerprints(inputs))


@pytest.mark.parametrize("encoding", ["topk", "sampled"])
@pytest.mark.parametrize(
    ("members", "module"),
    [(1, None), (1, "decoder.norm"), (2, None), (2, "members.1.decoder.norm")],
    ids=["one", "one, and features", "two", "two, and features"],
)
def test_of_a_language_model_no_more_than_a_block_of_logits_is_ever_there(
    encoding: str, members: int, module: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: its head is asked about some positions at a time, and what is stored is what all of them at once give."""
    classes, length = 50, 8
    monkeypatch.setattr(blocks, "WHOLE", 3 * classes)
    sizes, asked = [{"width": 16 + 8 * number, "depth": 1, "heads": 2} for number in range(members)], []
    networks = [build("gpt", size, (3, length), classes).eval() for size in sizes]
    for each in networks:
        each.head.register_forward_hook(lambda _, given, __: asked.append(given[0].shape[:-1].numel()))  # type: ignore[operator, union-attr]
    network = networks[0] if members == 1 else Ensemble(networks, [1, 2], "probabilities", classes).eval()
    ids, places = np.arange(4 * length).reshape(4, length) % classes, np.tile(np.arange(length), (4, 1))
    tokens = np.stack([ids, places, (ids + 1) % classes], axis=1).astype(np.int32)
    dataset = ArrayDataset(tokens, np.arange(4), None, classes)
    spec = LabelSpec(encoding, classes, "float32", k=4, temperatures=(1.0,), positions=length)
    teacher = Teacher(network, torch.device("cpu"), SETTINGS, ViewSettings(input="tokens"))
    told, width = torch.from_numpy(tokens), sizes[-1]["width"]
    if module is not None:
        kept = FeatureSpec("inside", module, "mean", "float32", (length, width), (width,))
        spec = replace(spec, features=(kept,))
    asker = Labeller(dataset, teacher, spec)
    record = asker.label(asker.load(0, 4))
    assert max(asked) == 3
    if module is not None:
        _, seen = teacher.answer_inside(told, [module])
        np.testing.assert_allclose(record["feature_inside"], seen[module].mean(dim=1), atol=1e-6)
    whole = encodings.encode(spec, teacher.logits(tokens), told[:, 2].long(), np.arange(4))
    for name, array in whole.items():
        np.testing.assert_allclose(record[name], array, atol=1e-5, err_msg=name)


class Between(nn.Module):
    """Has a layer between its halves; or halves of other shapes."""

    def __init__(self, classes: int, *, odd: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.norm, self.head = nn.Embedding(classes, 8), nn.LayerNorm(8), nn.Linear(8, classes)
        self.hidden = nn.Linear(8, 8) if odd else self.embedded

    def embedded(self, tokens_N2L: torch.Tensor) -> torch.Tensor:
        """[N, 2, L] to [N, L, 8]."""
        embedded: torch.Tensor = self.embedding(tokens_N2L[:, 0])
        return embedded

    def forward(self, tokens_N2L: torch.Tensor) -> torch.Tensor:
        """[N, 2, L] to [N, L, C]."""
        logits: torch.Tensor = self.head(self.norm(3 * self.embedded(tokens_N2L)))
        return logits


def test_a_feature_that_is_made_after_the_halves_part_is_kept_all_the_same() -> None:
    """Law: of the last layer itself: then all logits are there at once."""
    classes, length = 30, 5
    network = build("gpt", {"width": 16, "depth": 1, "heads": 2}, (3, length), classes).eval()
    teacher = Teacher(network, torch.device("cpu"), SETTINGS, ViewSettings(input="tokens"))
    tokens = torch.arange(length).repeat(3, 3, 1)
    logits, seen = teacher.answer_inside(tokens, ["head"], classes)
    assert isinstance(logits, torch.Tensor)
    torch.testing.assert_close(seen["head"], teacher.answer(tokens))


class Twice(nn.Module):
    """Has a module that runs in both of its halves; or does something behind them."""

    def __init__(self, classes: int, *, turned: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.act, self.out = nn.Embedding(classes, 8), nn.GELU(), nn.Linear(8, classes)
        self.turned = turned

    def hidden(self, tokens_N2L: torch.Tensor) -> torch.Tensor:
        """[N, 2, L] to [N, L, 8]."""
        hidden: torch.Tensor = self.act(self.embedding(tokens_N2L[:, 0]))
        return hidden

    def head(self, hidden_NLE: torch.Tensor) -> torch.Tensor:
        """[N, L, 8] to [N, L, C]."""
        logits: torch.Tensor = self.out(self.act(hidden_NLE))
        return logits

    def forward(self, tokens_N2L: torch.Tensor) -> torch.Tensor:
        """[N, 2, L] to [N, L, C]."""
        logits = self.head(self.hidden(tokens_N2L))
        return -logits if self.turned else logits


def test_of_a_module_that_runs_in_both_halves_the_last_answer_is_kept() -> None:
    """Law: the same as of the whole network, which is then asked whole."""
    teacher = Teacher(Twice(30).eval(), torch.device("cpu"), SETTINGS, ViewSettings(input="tokens"))
    tokens = torch.arange(5).repeat(3, 3, 1)
    logits, seen = teacher.answer_inside(tokens, ["act"], 30)
    assert isinstance(logits, torch.Tensor)
    assert torch.equal(seen["act"], teacher.answer_inside(tokens, ["act"])[1]["act"])
    assert not isinstance(teacher.answer_in_blocks(tokens, 30), torch.Tensor)


def test_no_member_of_a_mixture_hides_that_its_halves_are_not_its_answer() -> None:
    """Law: each is asked by itself, however little it counts."""
    mixture = Ensemble([Twice(30), Twice(30, turned=True)], [10_000, 1], "logits", 30).eval()
    teacher = Teacher(mixture, torch.device("cpu"), SETTINGS, ViewSettings(input="tokens"))
    assert isinstance(teacher.answer_in_blocks(torch.arange(5).repeat(3, 3, 1), 30), torch.Tensor)


@pytest.mark.parametrize("odd", [False, True])
def test_halves_that_do_not_make_the_networks_answer_are_not_asked(odd: bool) -> None:
    """Law: labels are those of `forward`, whatever else a network calls `hidden` and `head`."""
    classes, length = 30, 5
    tokens = np.tile(np.arange(length, dtype=np.int32), (3, 3, 1))
    teacher = Teacher(Between(classes, odd=odd).eval(), torch.device("cpu"), SETTINGS, ViewSettings(input="tokens"))
    spec = LabelSpec("dense", classes, "float32", positions=length)
    asker = Labeller(ArrayDataset(tokens, np.arange(3), None, classes), teacher, spec)
    record = asker.label(asker.load(0, 3))
    np.testing.assert_allclose(record["logits"], teacher.logits(tokens).numpy(), atol=1e-6)


def test_a_dataset_without_labels_is_stored_as_unlabelled() -> None:
    """-1, and no target logit."""
    dataset = samples()
    untold = ArrayDataset(dataset.array, dataset.ids, None, CLASSES)
    topk = LabelSpec("topk", CLASSES, "float32", k=2, temperatures=(1.0,))
    of = labeller(untold, topk)
    block = of.label(of.load(0, 3))
    assert block["label"].tolist() == [-1] * 3
    assert np.isnan(block["target"]).all()


def test_the_teacher_is_asked_in_batches_of_its_own_size() -> None:
    """`teacher.batch_size` of the experiment."""
    assert labeller(samples()).batch_size == 7


def test_logits_that_are_not_finite_are_refused_naming_their_samples() -> None:
    """By id, as the dataset knows them, not by their place in a batch."""
    dataset = samples()
    broken = ArrayDataset(dataset.array.copy(), dataset.ids, dataset.labels, CLASSES)
    broken.array[6, 0, 0, 1] = np.nan
    of = labeller(broken)
    with pytest.raises(TeacherError, match=rf"not finite .* for .*\b{dataset.ids[6]}\b"):
        of.label(of.load(5, 9))


def test_what_cannot_be_stored_is_found_when_the_result_is_asked_for() -> None:
    """Looking at it earlier would hold up the launch of the next batch until the device is done with this one."""
    dataset = samples()
    broken = ArrayDataset(np.full_like(dataset.array, np.inf), dataset.ids, dataset.labels, CLASSES)
    of = labeller(broken)
    pending = of.launch(of.load(0, 4))
    with pytest.raises(TeacherError, match="not finite"):
        pending.result()


def test_a_label_that_is_no_class_is_refused_before_it_is_sent_to_the_device() -> None:
    """A gather by it would end a CUDA process; the host sees it without waiting."""
    dataset = samples()
    strange = ArrayDataset(dataset.array, dataset.ids, dataset.labels + 1, CLASSES)
    with pytest.raises(DatasetError, match=r"are not classes: found .*expected 0 to 2"):
        labeller(strange).load(0, 24)


class Recorder:
    """Stands for a stream, an event or a tensor on a GPU: keeps what is asked of it."""

    device = torch.device("cpu")

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, object]] = []
        self.error = error

    def wait_event(self, event: object) -> None:
        """Of a stream."""
        self.asked.append(("wait_event", event))

    def record_stream(self, stream: object) -> None:
        """Of a tensor."""
        self.asked.append(("record_stream", stream))

    def synchronize(self) -> None:
        """Of an event."""
        self.asked.append(("synchronize", None))
        if self.error:
            raise self.error


def test_the_device_waits_for_a_batch_on_its_way_and_the_host_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's stream waits for the copy's event, and keeps the copy's memory from being given away."""
    stream, event, tensors = Recorder(), Recorder(), (Recorder(), Recorder())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    assert Sent(tensors, event).received() == tensors
    assert set(stream.asked) == {("wait_event", event)}
    assert [tensor.asked for tensor in tensors] == [[("record_stream", stream)]] * 2
    assert event.asked == []


def test_a_record_is_not_read_before_it_is_home() -> None:
    """The host waits for the event of the copy back, in `result` alone."""
    of, event = labeller(samples()), Recorder()
    pending = replace(of.launch(of.load(0, 4)), back=event)
    assert event.asked == []
    pending.result()
    assert event.asked == [("synchronize", None)]


def test_a_device_that_fails_at_its_work_is_told_as_such() -> None:
    """A GPU's errors come when its answer is waited for: they name the batch and what to try."""
    dataset = samples()
    of = labeller(dataset)
    pending = replace(of.launch(of.load(5, 9)), back=Recorder(RuntimeError("CUDA error: illegal address")))
    with pytest.raises(TeacherError, match=rf"4 samples, the first with id {dataset.ids[5]}: CUDA error: illegal addr"):
        pending.result()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("spec", [DENSE, LabelSpec("topk", CLASSES, "float32", k=2, temperatures=(1.0, 4.0))])
def test_a_run_on_a_gpu_stores_what_a_run_on_the_cpu_does(spec: LabelSpec) -> None:
    """However copies, launches and fetches overlap, each row keeps its own answer."""
    dataset, found = samples(240), {}
    for device in ("cpu", "cuda"):
        of = labeller(dataset, spec)
        of = replace(of, teacher=replace(TEACHER, network=Slow().to(device), device=torch.device(device)))
        blocks: list[dict[str, np.ndarray]] = []
        plan = list(Layout(240, 1, 60, 60).all_shards())
        keep = lambda _, block, __, blocks=blocks: blocks.append(block)  # noqa: E731 - a commit that keeps
        assert run_inline(plan, of, keep, stopped=lambda: False, progress=lambda _: None, workers=3)
        found[device] = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    for name, rows in found["cpu"].items():
        np.testing.assert_allclose(found["cuda"][name], rows, rtol=1e-4, atol=1e-4)


def whole(of: Labeller) -> dict[str, np.ndarray]:
    """All rows of a labeller's dataset, through the executor."""
    blocks: list[dict[str, np.ndarray]] = []
    plan = list(Layout(len(of.dataset), 1, 12, 12).all_shards())
    run_inline(plan, of, lambda _, block, __: blocks.append(block), stopped=lambda: False, progress=lambda _: None)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


@pytest.mark.parametrize("spec", [DENSE, TOPK])
def test_a_network_that_answers_in_the_same_memory_each_time_loses_no_row(spec: LabelSpec) -> None:
    """Law: each row's labels are its own, whatever becomes of the memory they came in."""
    frugal, generous = (whole(labeller(samples(), spec, network)) for network in (Frugal(), Linear()))
    for name, rows in generous.items():
        np.testing.assert_array_equal(frugal[name], rows)


@pytest.mark.parametrize("spec", [DENSE, TOPK])
def test_what_such_a_network_says_wrongly_is_refused_as_what_it_was(spec: LabelSpec) -> None:
    """Law: a refusal speaks of the batch that could not be stored, not of the one after it."""
    with pytest.raises(TeacherError, match=r"not finite \(NaN or infinite\) for 1 of"):
        whole(labeller(samples(), spec, Frugal([math.nan] * CLASSES)))


@pytest.mark.parametrize("spec", [DENSE, TOPK])
def test_logits_that_changed_before_they_could_be_refused_are_told_as_such(spec: LabelSpec) -> None:
    """On a GPU the next batch may have overwritten them: the cause is named, and what to do."""
    network = Frugal([math.nan] * CLASSES)
    of = labeller(samples(), spec, network)
    of.launch(of.load(0, 7))
    pending = of.launch(of.load(7, 14))
    of.launch(of.load(14, 21))
    ids = samples().ids
    with pytest.raises(TeacherError, match=rf"of 7 samples \(the first with id {ids[7]}\) .* same memory each time"):
        pending.result()


def test_a_dataset_that_reads_into_one_buffer_loses_no_input() -> None:
    """Law: what the teacher sees is what was fingerprinted, however the source reuses its memory."""

    class Reusing(ArrayDataset):
        def inputs(self, rows: np.ndarray) -> np.ndarray:
            buffer = self.array[: len(rows)]
            buffer[:] = kept[rows]
            return buffer

    kept = samples().array
    source = samples()
    reusing = checked(Reusing(kept.copy(), source.ids, source.labels, source.classes), "reusing", None, None)
    found, expected = whole(labeller(reusing)), whole(labeller(source))
    for name, rows in expected.items():
        np.testing.assert_array_equal(found[name], rows)


@pytest.mark.parametrize("place", ["pipeline.encodings.launch", "pipeline.labeller.Lane.send"])
def test_memory_that_runs_out_beside_the_network_is_told_as_such(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and encodings need the device's memory too."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    of = labeller(samples())
    monkeypatch.setattr(place, full)
    with pytest.raises(TeacherError, match=r"The device failed .*: out of memory\. If its memory ran out, lower"):
        of.label(of.load(0, 7))


def test_a_network_that_ends_the_program_is_an_error() -> None:
    """Law: `sys.exit()` in somebody's forward does not end stage one as if it were done."""

    class Quitter(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise SystemExit(0)

    of = labeller(samples(), network=Quitter())
    with pytest.raises(TeacherError, match=r"failed on a batch .*: SystemExit: 0"):
        of.label(of.load(0, 7))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Identity(), r"answered \[4, 1, 4, 4\] to 4 inputs; expected a tensor \[4, classes\]"),
        (nn.Flatten(), r"gives logits of shape \[4, 16\], but the dataset has 3 classes"),
    ],
)
def test_a_teacher_of_another_shape_is_refused(network: nn.Module, message: str) -> None:
    """Before anything is stored."""
    of = labeller(samples(), network=network)
    with pytest.raises(TeacherError, match=message):
        of.label(of.load(5, 9))
