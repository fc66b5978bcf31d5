"""A frozen network that answers: in which mode, in which precision, and what it must answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.config import TeacherSettings, ViewSettings
from pipeline.errors import ConfigError, TeacherError
from pipeline.labels import GradientSpec
from pipeline.models import build
from pipeline.teachers import Teacher, load_teacher
from pipeline.weights import save_state

STEADY = settings(deadline=None, derandomize=True, max_examples=25)
SHAPE, CLASSES = (3, 8, 8), 5
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE)).astype(np.uint8)
VIEWS = ViewSettings(mean=128.0, std=64.0)
MODELS = [
    ("mlp", {"hidden": [16], "dropout": 0.5}),
    ("cnn", {"width": 8}),
    ("resnet", {"width": 8, "blocks": [1, 1]}),
]


def teacher_of(folder: Path, model: str, options: dict[str, object], **settings: object) -> Teacher:
    """A teacher with seeded weights, from a checkpoint."""
    torch.manual_seed(0)
    path = folder / f"{model}.safetensors"
    save_state(path, build(model, options, SHAPE, CLASSES).state_dict())
    made = TeacherSettings(model=model, options=options, checkpoint=path, device="cpu", **settings)
    return load_teacher(made, VIEWS, SHAPE, CLASSES)


def answering(network: nn.Module) -> Teacher:
    """A teacher around a network that is at hand."""
    made = TeacherSettings(model="own:Net", checkpoint=Path("none"), device="cpu")
    return Teacher(network, torch.device("cpu"), made, VIEWS)


class Answers(nn.Module):
    """A network that gives what a function makes of its input."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        """Whatever."""
        return self.answer(x)


@pytest.mark.parametrize(("model", "options"), MODELS)
def test_a_teacher_is_frozen(model: str, options: dict[str, object], tmp_path: Path) -> None:
    """Law: no module trains (so dropout is off), no weight wants a gradient, and asking changes no weight."""
    teacher = teacher_of(tmp_path, model, options)
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    assert not any(module.training for module in teacher.network.modules())
    assert not any(weight.requires_grad for weight in teacher.network.parameters())
    first, second = teacher.logits(IMAGES), teacher.logits(IMAGES)
    assert first.equal(second)
    assert first.is_inference()
    assert all(tensor.equal(before[name]) for name, tensor in teacher.network.state_dict().items())
    assert teacher.parameters == sum(weight.numel() for weight in teacher.network.parameters())


@pytest.mark.parametrize(("model", "options"), MODELS)
def test_its_answer_is_the_network_on_the_normalised_input(
    model: str, options: dict[str, object], tmp_path: Path
) -> None:
    """Law: logits = network((x - mean) / std), [N, C] in float32, with the weights of the checkpoint."""
    teacher = teacher_of(tmp_path, model, options)
    torch.manual_seed(0)
    network = build(model, options, SHAPE, CLASSES).eval()
    expected = network((torch.from_numpy(IMAGES).float() - 128) / 64)
    found = teacher.logits(IMAGES)
    assert (found.dtype, found.shape) == (torch.float32, (12, CLASSES))
    assert torch.allclose(found, expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("model", "options"), MODELS)
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"channels_last": True}, 1e-5),
        ({"precision": "bfloat16"}, 0.05),
        ({"precision": "bfloat16", "channels_last": True}, 0.05),
    ],
)
def test_other_formats_stay_close_to_float32(
    model: str, options: dict[str, object], settings: dict[str, object], tolerance: float, tmp_path: Path
) -> None:
    """Law: channels-last gives the same logits up to rounding, bfloat16 up to its 8 bits; both in float32."""
    plain = teacher_of(tmp_path, model, options).logits(IMAGES)
    other = teacher_of(tmp_path, model, options, **settings).logits(IMAGES)
    assert other.dtype == torch.float32
    assert (other - plain).abs().max() <= tolerance * plain.abs().max()
    if "precision" in settings:
        assert not other.equal(plain)


def test_an_answer_on_the_device_keeps_the_dtype_of_the_network(tmp_path: Path) -> None:
    """Law: `answer` is `logits` before it is widened: half the memory to read where a network gives bfloat16."""
    teacher = teacher_of(tmp_path, "mlp", {}, precision="bfloat16")
    answer = teacher.answer(torch.from_numpy(IMAGES))
    assert answer.dtype == torch.bfloat16
    assert answer.float().equal(teacher.logits(IMAGES))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Teacher]:
    """One teacher of each model."""
    return [teacher_of(tmp_path_factory.mktemp("company"), model, options) for model, options in MODELS]


@STEADY
@given(rows=st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_a_sample_is_answered_the_same_in_any_company(rows: list[int], networks: list[Teacher]) -> None:
    """Law: a row's logits do not depend on the other rows of its batch, but for the rounding of another kernel."""
    for teacher in networks:
        whole, some = teacher.logits(IMAGES), teacher.logits(IMAGES[rows])
        assert torch.allclose(some, whole[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda x: x, "[12, 3, 8, 8]"),
        (lambda x: x.flatten(), "[2304]"),
        (lambda x: x.flatten(1)[:1], "[1, 192]"),
        (lambda x: (x.flatten(1),), "tuple"),
        (lambda x: {"logits": x.flatten(1)}, "dict"),
        (lambda _: None, "NoneType"),
    ],
)
def test_an_answer_that_is_no_row_of_logits_a_sample_is_refused(answer: object, found: str) -> None:
    """Law: anything but a tensor [N, C] is refused with what was found and how to mend it."""
    with pytest.raises(TeacherError) as refusal:
        answering(Answers(answer)).logits(IMAGES)
    assert str(refusal.value) == (
        f"The teacher own:Net answered {found} to 12 inputs; expected a tensor [12, classes]. Wrap it in a module "
        "whose forward returns the logits."
    )


def test_a_network_that_fails_is_told_as_the_teacher() -> None:
    """Law: an error inside the network names the teacher, the shape it was asked and the error itself."""
    with pytest.raises(TeacherError, match=r"own:Net failed on a batch of shape \[12, 3, 8, 8\]: RuntimeError: .*mat1"):
        answering(nn.Sequential(nn.Flatten(), nn.Linear(7, 2))).logits(IMAGES)


def test_a_checkpoint_or_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: no teacher is made of a missing checkpoint, an unknown model or a device that this machine lacks."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    there = {"model": "cnn", "checkpoint": tmp_path / "none.safetensors", "device": "cpu"}
    for changes, error, said in (
        ({}, TeacherError, "there is no such checkpoint"),
        ({"model": "cnnn"}, ConfigError, "Did you mean 'cnn'"),
        ({"device": "mps"}, ConfigError, 'device = "mps": this machine does not have it'),
    ):
        with pytest.raises(error, match=said):
            load_teacher(TeacherSettings(**{**there, **changes}), VIEWS, SHAPE, CLASSES)


class Hungry(torch.nn.Module):
    """A network that runs out of memory on more than a few inputs."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 2]` of `[N, ...]`."""
        self.batches.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return x.flatten(1)[:, :2]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    """Law: the same logits in the same order, and the log says which size would do."""
    network = Hungry(3)
    asked = Teacher(network, torch.device("cpu"), TeacherSettings(model="own", checkpoint="none"), VIEWS)
    inputs = np.arange(44, dtype=np.float32).reshape(11, 4)
    np.testing.assert_array_equal(asked.logits(inputs).numpy(), (inputs[:, :2] - 128) / 64)
    assert network.batches == [11, 6, 3, 3, 5, 3, 2]
    assert "ran out of memory on a batch of 11: its halves are asked instead. teacher.batch_size = 5" in caplog.text


def test_gradients_of_a_batch_that_does_not_fit_are_those_of_its_halves() -> None:
    """Law: each row's is of its own class, by the normalised input; -1 has zeros."""
    asked = Teacher(Hungry(3), torch.device("cpu"), TeacherSettings(model="own", checkpoint="none"), VIEWS)
    classes = torch.tensor([0, 1, -1, 0, 1, -1, 1, 1, 0, 0, -1])
    found = asked.gradient(torch.zeros(11, 4), GradientSpec("true", "float32", (4,)), classes)
    expected = torch.eye(4)[classes.clamp(min=0)] * (classes >= 0)[:, None]
    torch.testing.assert_close(found, expected)


def test_a_teacher_that_does_not_fit_with_one_input_is_refused() -> None:
    """Law: with the device and what would do."""
    asked = Teacher(Hungry(0), torch.device("cpu"), TeacherSettings(model="own", checkpoint="none"), VIEWS)
    with pytest.raises(TeacherError, match=r"does not fit into the memory of cpu with one input of shape \[4\]"):
        asked.logits(np.zeros((3, 4), np.float32))
