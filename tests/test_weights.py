"""Weights on disk: what is written is what is read, and nothing read runs."""

import hashlib
import json
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import TeacherError
from pipeline.weights import State, file_bytes, file_digest, fit_state, load_state, save_state

STEADY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=50,
)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bytes as a tensor of some dtype and shape: NaN, infinity, no rows and no axes included."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = int(torch.Size(shape).numel())
    if dtype == torch.bool:
        return torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=dtype).reshape(shape)
    size = count * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    return (torch.frombuffer(bytearray(data), dtype=dtype) if size else torch.empty(0, dtype=dtype)).reshape(shape)


states = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), tensors(), max_size=4
)


def same(a: State, b: State) -> bool:
    """Whether two states are equal, bit for bit."""
    return set(a) == set(b) and all(
        (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
        and a[name].contiguous().reshape(-1).view(torch.uint8).equal(b[name].contiguous().reshape(-1).view(torch.uint8))
        for name in a
    )


@STEADY
@given(state=states)
def test_a_state_is_read_as_it_was_written(state: State, tmp_path: Path) -> None:
    """Law: load(save(s)) is s, bit for bit, and saved twice it is the same bytes: so it has one digest."""
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_state(first, state)
    save_state(second, load_state(first))
    assert same(load_state(first), state)
    assert first.read_bytes() == second.read_bytes()
    assert file_digest(first) == hashlib.sha256(first.read_bytes()).hexdigest()


@STEADY
@given(state=states)
def test_what_torch_saved_is_read_too(state: State, tmp_path: Path) -> None:
    """Law: a plain or ordered dict of tensors by torch.save is the same state."""
    path = tmp_path / "state.pt"
    for saved in (state, OrderedDict(state)):
        torch.save(saved, path)
        assert same(load_state(path), state)


def test_tied_weights_and_other_layouts_are_written_by_their_values(tmp_path: Path) -> None:
    """Law: tensors that share memory, lie channels-last or transposed, or want gradients are read as equal ones."""
    weight = torch.randn(3, 4)
    state = {"a": weight, "b": weight, "c": weight.T, "d": weight[1:]}
    state["e"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state["f"] = nn.Parameter(torch.randn(2))
    save_state(tmp_path / "tied.safetensors", state)
    assert same(load_state(tmp_path / "tied.safetensors"), {name: tensor.detach() for name, tensor in state.items()})


class Bomb:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["bomb.pt", "bomb.bin", "bomb.safetensors", "bomb"])
@pytest.mark.parametrize("by_torch", [True, False])
def test_a_checkpoint_never_runs_code(name: str, by_torch: bool, tmp_path: Path) -> None:
    """Law: a pickle of more than tensors is refused under any name, and nothing in it is called."""
    mark, path = tmp_path / "executed", tmp_path / name
    if by_torch:
        torch.save({"weight": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    with pytest.raises(TeacherError) as refusal:
        load_state(path)
    assert str(path) in str(refusal.value)
    assert "safetensors" in str(refusal.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ([1, 2], "found list, expected a state of named tensors. Save the model's state_dict()"),
        ({"epoch": 3}, "found dict, expected a state of named tensors"),
        ({"model": {"weight": torch.zeros(1)}}, "found dict, expected a state of named tensors"),
        (nn.Linear(1, 1), "is not a plain state of tensors"),
    ],
)
def test_a_checkpoint_that_is_no_state_is_refused(saved: object, said: str, tmp_path: Path) -> None:
    """Law: what torch.save wrote and is no dict of tensors is told what to save instead."""
    path = tmp_path / "other.pt"
    torch.save(saved, path)
    with pytest.raises(TeacherError) as refusal:
        load_state(path)
    assert said in str(refusal.value)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt"])
def test_a_checkpoint_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    """Law: a file that is missing, empty or a directory is a TeacherError that names it and says what to do."""
    path = tmp_path / name
    for read in (load_state, file_digest):
        with pytest.raises(TeacherError, match=f"{name}: there is no such checkpoint. .*softlabels fit-teacher"):
            read(path)
    path.write_bytes(b"")
    with pytest.raises(TeacherError, match=f"{name}: this checkpoint .*safetensors"):
        load_state(path)
    path.unlink()
    path.mkdir()
    for read in (load_state, file_digest):
        with pytest.raises(TeacherError, match=f"{name}: this checkpoint cannot be read: "):
            read(path)


def test_a_state_that_fits_is_put_in(tmp_path: Path) -> None:
    """Law: after fit_state the model's state is the given one."""
    model, state = nn.Linear(2, 3), nn.Linear(2, 3).state_dict()
    fit_state(model, state, tmp_path)
    assert same(dict(model.state_dict()), dict(state))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "weight is missing; bias is missing."),
        ({"weight": (3, 2), "bias": (3,), "extra": (1,)}, "extra is unknown to the model."),
        ({"weight": (2, 3), "bias": (3,)}, "weight has shape [2, 3], the model wants [3, 2]."),
        ({"weight": (3, 2), "bias": ()}, "bias has shape [], the model wants [3]."),
        (
            {"a": (1,), "b": (1,), "c": (1,)},
            "weight is missing; bias is missing; a is unknown to the model (and 2 more).",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_tensor_by_tensor(state: dict[str, tuple[int, ...]], said: str) -> None:
    """Law: missing, unknown and misshapen tensors are named, three at most, and the model is left as it was."""
    model = nn.Linear(2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TeacherError) as refusal:
        fit_state(model, {name: torch.zeros(shape) for name, shape in state.items()}, Path("t.pt"))
    assert f"t.pt: this checkpoint does not fit Linear: {said}" in str(refusal.value)
    assert "Name the model and its options" in str(refusal.value)
    assert same(dict(model.state_dict()), before)


def test_a_cut_safetensors_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    """Law: for every length below the whole, the file is refused."""
    path = tmp_path / "t.safetensors"
    save_file({"weight": torch.arange(3.0)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(TeacherError, match=r"t\.safetensors: this checkpoint cannot be read"):
            load_state(path)


def write_parts(folder: Path) -> Path:
    """A model of three tensors in two files, and their index."""
    state = {name: torch.full((2,), float(place)) for place, name in enumerate("abc")}
    files = {"model-1.safetensors": ("a", "c"), "model-2.safetensors": ("b",)}
    for file, names in files.items():
        save_file({name: state[name] for name in names}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, names in files.items() for name in names}}))
    return index


def test_a_model_in_several_files_is_that_of_its_index(tmp_path: Path) -> None:
    """Law: all tensors of all files; the digest is another as soon as a file or a tensor's place is."""
    index = write_parts(tmp_path)
    assert {name: tensor.tolist() for name, tensor in load_state(index).items()} == {
        "a": [0.0, 0.0],
        "b": [1.0, 1.0],
        "c": [2.0, 2.0],
    }
    digest = file_digest(index)
    assert file_bytes(index) == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    index.write_text(json.dumps({**json.loads(index.read_text()), "metadata": {"total_size": 24}}))
    assert file_digest(index) == digest
    save_file({"b": torch.full((2,), 3.0)}, tmp_path / "model-2.safetensors")
    assert file_digest(index) != digest


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "expected an index of safetensors files"),
        ("[]", "expected an index of safetensors files"),
        ('{"weight_map": {"a": "../model-1.safetensors"}}', "expected an index of safetensors files"),
        ('{"weight_map": {"a": "/model-1.safetensors"}}', "expected an index of safetensors files"),
        ('{"weight_map": {"a": "model-1.bin"}}', "expected an index of safetensors files"),
        ('{"weight_map": {"a": "model-3.safetensors"}}', "model-3.safetensors: there is no such checkpoint"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', "are of two checkpoints: the tensor 'c' is in one"),
        ('{"weight_map": {"b": "model-2.safetensors", "d": "model-2.safetensors"}}', "two checkpoints: the tensor 'd'"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(index: str, said: str, tmp_path: Path) -> None:
    """Law: nothing outside its folder is read, and no tensor is left out or left as it was."""
    path = write_parts(tmp_path)
    path.write_text(index)
    with pytest.raises(TeacherError, match=re.escape(said)):
        load_state(path)


def test_an_index_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Law: with the path, by whoever reads it first."""
    for read in (load_state, file_digest):
        with pytest.raises(TeacherError, match=r"index\.json: there is no such checkpoint"):
            read(tmp_path / "model.safetensors.index.json")
    assert file_bytes(tmp_path / "model.safetensors.index.json") is None
    assert file_bytes(tmp_path / "model.safetensors") is None
