"""Gradients of a teacher beside its labels, and students that are told of them: what is known in closed form, and kept.

The teacher is asked here by itself, a sample at a time, by plain autograd.
"""

from pathlib import Path

import numpy as np
import own_insides
import pytest
import torch
import zarr
from safetensors.torch import load_file
from stage_cases import CLASSES, ECHO, ROWS, assert_two_ranks_make, images, must, run, softlabels, words
from torch import Tensor

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.hints import random_projections
from pipeline.models import build
from pipeline.reader import label_spec, refuse_without_gradients
from pipeline.store.mapped import LabelCache
from pipeline.weights import load_state, save_state

TOP, TRUE = 'of = "top"', 'of = "true"'
PROJECTED = 'of = "projections", projections = 2, seed = 5'
ALONE = (
    'students.distilled.loss=[{name = "hard", weight = 0.0}]',
    "students.distilled.optimizer=sgd",
    "students.distilled.weight_decay=0",
    "students.distilled.schedule=constant",
    "students.distilled.learning_rate=0.1",
    "students.distilled.momentum=0.5",
    "students.distilled.epochs=40",
)
LINEAR = ("teacher.options={hidden = []}", "teacher.checkpoint=linear.safetensors")


def gradients(what: str, dtype: str = "float32") -> str:
    """The setting that has them cached."""
    return f'teacher.gradients={{{what}, dtype = "{dtype}"}}'


def told(**settings: object) -> str:
    """The setting that tells the student."""
    return f"students.distilled.gradients={{{', '.join(f'{name} = {value}' for name, value in settings.items())}}}"


def stored(name: str, cache: str = "cache") -> np.ndarray:
    """An array of the cache, read by zarr alone."""
    return np.asarray(zarr.open_group(f"{cache}/labels.zarr", mode="r")[name][0])


def teacher(hidden: tuple[int, ...] = (8,)) -> torch.nn.Module:
    """The fitted one."""
    network = build("mlp", {"hidden": hidden}, (1, 4, 4), CLASSES)
    checkpoint = load(Path("e.toml"), []).teacher.checkpoint if hidden else Path("linear.safetensors")
    network.load_state_dict(load_state(checkpoint))
    return network.eval()


def jacobians() -> Tensor:
    """Of each sample, asked by itself, by the normalised input: [N, C, 1, 4, 4]."""
    inputs = (torch.from_numpy(images(ROWS)[:, None].astype(np.float32)) - 128) / 64
    network = teacher()
    return torch.stack([torch.autograd.functional.jacobian(network, each[None])[0, :, 0] for each in inputs])


def weights(runs: str) -> bytes:
    """What has become of the student."""
    return Path(runs, "distilled/seed-0/student.safetensors").read_bytes()


def train(*settings: str, runs: str = "runs") -> None:
    """Train the student."""
    must("train", *settings, flags=("--student", "distilled", "--runs", runs))


def expected(what: str) -> np.ndarray:
    """What is to be stored."""
    jacobian = jacobians()
    if what == PROJECTED:
        return torch.einsum("rc,ncdhw->nrdhw", random_projections(2, CLASSES, 5), jacobian).numpy()
    with torch.no_grad():
        inputs = (torch.from_numpy(images(ROWS)[:, None].astype(np.float32)) - 128) / 64
        classes = teacher()(inputs).argmax(dim=1) if what == TOP else torch.arange(ROWS) % CLASSES
    return jacobian[torch.arange(ROWS), classes].numpy()


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("what", [TOP, TRUE, PROJECTED])
def test_cached_gradients_are_those_of_the_teacher_asked_directly(what: str) -> None:
    """Law: of each sample alone, whatever batch it was in, within what the dtype says; labels are those without."""
    must("generate", "cache.path=alone")
    must("generate", gradients(what), "teacher.batch_size=3")
    found = expected(what)
    np.testing.assert_allclose(stored("gradient"), found, rtol=1e-5, atol=1e-6)
    must("generate", gradients(what, "float16"), "cache.path=half")
    np.testing.assert_allclose(stored("gradient", "half"), found, rtol=2**-10, atol=2**-24)
    must("generate", gradients(what, "int8"), "cache.path=coded")
    scale = stored("gradient_scale", "coded").reshape(-1, *(1,) * (found.ndim - 1))
    np.testing.assert_allclose(stored("gradient", "coded") * scale, found, atol=scale.max() * 0.51)
    assert stored("logits", "half").tobytes() == stored("logits", "alone").tobytes()
    assert softlabels("verify", "cache").code == 0
    assert '"gradient"' in Path("cache/receipts/000000000.json").read_text()


@pytest.mark.usefixtures("fitted")
def test_a_teacher_of_low_precision_has_gradients_in_float32_of_the_class_that_it_names() -> None:
    """Law: labels are in its precision, and the class is their largest; derivatives are those of float32."""
    must("generate", gradients(TOP), "teacher.precision=bfloat16", "labels.dtype=float32")
    classes = stored("gradient_class")
    np.testing.assert_array_equal(classes, stored("logits").argmax(axis=1))
    np.testing.assert_allclose(
        stored("gradient"), jacobians()[torch.arange(ROWS), classes].numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.usefixtures("fitted")
def test_a_sample_without_a_true_label_has_no_gradient_of_its_logit() -> None:
    """Law: zeros are stored, and it teaches the student nothing by them."""
    labels = (np.arange(ROWS) % CLASSES).astype(np.int64)
    labels[::2] = -1
    np.save("x.npy", images(ROWS)[:, None])
    np.save("y.npy", labels)
    some = ('dataset={kind = "npy", inputs = "x.npy", labels = "y.npy", classes = 3}', gradients(TRUE))
    must("generate", *some)
    np.testing.assert_array_equal(stored("gradient").any(axis=(1, 2, 3)), labels >= 0)
    train(*some, told(weight=0.1, penalty=1.0, alpha=3.0))


@pytest.mark.usefixtures("fitted")
def test_a_network_that_keeps_what_it_made_and_writes_into_its_input_has_gradients() -> None:
    """Law: of w tanh(t x): w t (1 - tanh^2)."""
    network = own_insides.Keeping()
    save_state(Path("keeping.safetensors"), network.state_dict())
    own = ("teacher.model=own_insides:Keeping", "teacher.options={}", "teacher.checkpoint=keeping.safetensors")
    must("generate", *own, gradients(TRUE))
    inputs = (images(ROWS).reshape(ROWS, 16).astype(np.float32) - 128) / 64
    table = np.linspace(0.5, 1.5, 16, dtype=np.float32)
    slopes = (1 - np.tanh(inputs * table) ** 2) * table
    found = network.linear.weight.detach().numpy()[np.arange(ROWS) % CLASSES] * slopes
    np.testing.assert_allclose(stored("gradient").reshape(ROWS, 16), found, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("fitted")
def test_gradients_are_part_of_the_job_and_held_out_samples_have_none() -> None:
    """Law: other gradients, or none, are exit code 5; the same are found complete, and students read them."""
    tested = ("cache.test=tested", gradients(PROJECTED))
    must("generate", *tested)
    assert "gradient" not in zarr.open_group("tested/labels.zarr", mode="r")
    run("generate", gradients(TOP)).refuses(5, "labels.gradient")
    run("generate").refuses(5, "labels.gradient")
    assert "already complete" in must("generate", *tested).out
    train(*tested, told())


@pytest.mark.usefixtures("fitted")
def test_no_weight_is_no_change_and_other_students_are_served_as_ever() -> None:
    """Law: byte by byte, beside one who asks for none, from a cache with gradients or without; a ramp is a change."""
    must("generate", "cache.path=alone")
    must("generate", gradients(TOP))
    train("cache.path=alone", runs="alone-runs")
    train(gradients(TOP), runs="plain")
    train(gradients(TOP), told(weight=0.0), runs="zero")
    train(gradients(TOP), told(weight="{start = 0.0, end = 0.1}"), runs="ramp")
    assert weights("alone-runs") == weights("plain") == weights("zero") != weights("ramp")


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("what", [TRUE, 'of = "projections", projections = 8'])
def test_a_linear_student_told_of_derivatives_alone_ends_with_its_teachers(what: str) -> None:
    """Law: ||W - W'||^2 has one minimum: its weights are the teacher's; the bias, of which it says nothing, stays."""
    must("fit-teacher", *LINEAR)
    must("generate", *LINEAR, gradients(what))
    own = ("students.distilled.options={hidden = []}", "students.distilled.seed=3")  # the teacher begins from seed 0
    train(*LINEAR, gradients(what), *ALONE, *own, told(), runs="told")
    train(*LINEAR, gradients(what), *ALONE, *own, told(weight=0.0), runs="untold")
    student, before = (load_file(f"{runs}/distilled/seed-3/student.safetensors") for runs in ("told", "untold"))
    torch.testing.assert_close(student["1.weight"], teacher(()).state_dict()["1.weight"], rtol=0, atol=1e-5)
    assert (before["1.weight"] - student["1.weight"]).abs().max() > 0.1
    assert torch.equal(student["1.bias"], before["1.bias"])


@pytest.mark.usefixtures("fitted")
def test_a_penalised_linear_student_ends_as_steep_as_asked() -> None:
    """Law: (||w|| - alpha)^2 has its minimum where the weights of each class have the length alpha."""
    must("generate", gradients(TRUE))
    linear = (*ALONE, "students.distilled.options={hidden = []}")
    train(gradients(TRUE), *linear, told(weight=0.0, penalty=1.0, alpha=0.7))
    weight = load_file("runs/distilled/seed-0/student.safetensors")["1.weight"]
    torch.testing.assert_close(weight.norm(dim=1), torch.full((CLASSES,), 0.7), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("fitted")
def test_a_run_told_of_gradients_that_is_stopped_goes_on_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: of a convolutional student with batch normalisation, in bfloat16 and channels last."""
    small = "students.distilled.options={width = 4, depth = 1}"
    settings = (gradients(TOP), told(weight=0.1, penalty=0.1, alpha=1.0), "students.distilled.model=cnn", small)
    settings += ("students.distilled.precision=bfloat16", "students.distilled.channels_last=true")
    must("generate", gradients(TOP))
    train(*settings, runs="straight")
    with monkeypatch.context() as patch:
        left = iter(range(3))
        patch.setattr("stages.signals.Stop.__call__", lambda _: next(left, None) is None)
        assert run("train", *settings, flags=("--student", "distilled", "--runs", "stopped")).code != 0
    train(*settings, runs="stopped")
    assert weights("stopped") == weights("straight")


@pytest.mark.usefixtures("fitted")
def test_ranks_share_a_student_told_of_gradients() -> None:
    """Law: two processes make of it what one does, but for the order of sums."""
    settings = (gradients(TOP), told(weight=0.5, penalty=0.1, alpha=1.0))
    must("generate", gradients(TOP))
    train(*settings, runs="one")
    command = words("train", settings, ("--student", "distilled", "--runs", "two"))
    assert_two_ranks_make(command, Path("one"), Path("two"))


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (('teacher.gradients={of = "projections"}',), 2, ("teacher.gradients: of = ", "needs projections")),
        (('teacher.gradients={of = "top", projections = 2}',), 2, ("needs projections", "others take none")),
        ((gradients(TOP), "views.input=tokens", "views.mean=0", "views.std=1"), 2, ("ids of tokens", "[[teacher.feat")),
        ((gradients(TRUE), "views.mix=mixup"), 2, ("have no true labels", 'Use of = "top"')),
        ((gradients(TOP), "teacher.model=own_insides:Detached"), 1, ("own_insides:Detached cannot give any", "leave")),
        ((gradients(TOP), "teacher.model=own_insides:Counts"), 1, ("own_insides:Counts cannot give any",)),
    ],
)
def test_a_gradient_that_a_teacher_cannot_give_is_refused(
    settings: tuple[str, ...], code: int, said: tuple[str, ...]
) -> None:
    """Law: what is wrong and what to do, before anything is written."""
    own = ("teacher.options={}",) if any("own_insides" in each for each in settings) else ()
    run("generate", *settings, *own).refuses(code, *said)
    assert not Path("cache").exists()


@pytest.mark.usefixtures("fitted")
def test_a_gradient_that_its_dtype_does_not_hold_is_named_by_its_samples() -> None:
    """Law: never stored as an infinity."""
    steep = (*ECHO, "teacher.options={scale = 1e6}", "labels.dtype=float32")
    save_state(Path("echo.safetensors"), {"scale": torch.tensor(1e6)})
    run("generate", *steep, gradients(TOP, "float16")).refuses(
        1, 'The gradient (teacher.gradients.of = "top")', 'set its dtype = "float32"', "8 of 8 samples"
    )
    must("generate", *steep, gradients(TOP))
    assert stored("gradient").max() == 1e6


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize("model", ["Once", "Detached"])
def test_a_student_that_cannot_learn_by_derivatives_is_refused(model: str) -> None:
    """Law: before its first step, with what is missing."""
    must("generate", gradients(TOP))
    own = (f"students.distilled.model=own_insides:{model}", "students.distilled.options={}")
    run("train", gradients(TOP), told(), *own, flags=("--student", "distilled")).refuses(
        2, f"students.distilled.gradients: a {model} cannot learn by its derivatives", "Leave the table out"
    )


@pytest.mark.usefixtures("filled")
def test_a_cache_without_gradients_tells_none() -> None:
    """Law: exit code 2 says how to have some."""
    run("train", told(), flags=("--student", "distilled")).refuses(
        2, "cache has no gradients of its teacher", "[teacher.gradients]"
    )


@pytest.mark.usefixtures("filled")
def test_samples_with_positions_take_no_gradients() -> None:
    """Law: it says how many positions there are, and what to leave out."""
    cache = LabelCache.open("cache")
    spec = type(label_spec(cache))(encoding="dense", classes=3, dtype="float16", positions=8)
    with pytest.raises(ConfigError, match="each of 8 positions has an answer of its own"):
        refuse_without_gradients(cache, spec)
