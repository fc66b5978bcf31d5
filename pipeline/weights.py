"""Weights on disk: safetensors, or tensors alone by `torch.load(weights_only=True)`; never a pickle that runs code.

Of large models they are several safetensors files, and an index beside them says which tensor is in which.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from pipeline.errors import TeacherError
from pipeline.store.files import write_durably

NAMED = 3
INDEX = ".safetensors.index.json"
"""How the name of an index ends."""

State = dict[str, torch.Tensor]


@torch.no_grad()
def save_state(path: Path, state: Mapping[str, torch.Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write a state as safetensors, whole or not at all, with what is to be said of it."""
    # Copies, since tied weights share memory, which safetensors does not write.
    copies = {name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for name, tensor in state.items()}
    write_durably(path, [save(copies, dict(notes) if notes else None)])


def load_state(path: Path) -> State:
    """Read a state from a safetensors file or the index of several, else from a `torch.save` of tensors alone.

    Raises:
        TeacherError: there is no such file, or it is none of these.

    """
    if path.name.endswith(INDEX):
        return _load_parts(path)
    try:
        return load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except FileNotFoundError:
        raise TeacherError(_missing(path)) from None
    except (SafetensorError, OSError) as error:
        raise TeacherError(
            f"{path}: this checkpoint cannot be read: {error}. Expected a safetensors file, or a state_dict() written "
            "by torch.save under another suffix."
        ) from None


def notes_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself besides its tensors; of any other file nothing.

    Raises:
        TeacherError: there is no such file.

    """
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        raise TeacherError(_missing(path)) from None
    except (SafetensorError, OSError):
        return {}


def note_in(path: Path, name: str) -> Mapping[str, Any] | None:
    """What a file says of itself under a name, as JSON; None if there is no file, or it does not say."""
    said = notes_of(path).get(name) if path.is_file() else None
    try:
        found = json.loads(said) if said else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class _Index(BaseModel):
    """`model.safetensors.index.json`: in which file beside it each tensor is."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[^/\\\x00]+\.safetensors$")]]


def _load_parts(path: Path) -> State:
    state: State = {}
    for part, names in _parts(path).items():
        found = load_state(part)
        if found.keys() != names:
            name = min(found.keys() ^ names)
            raise TeacherError(
                f"{path} and {part.name} are of two checkpoints: the tensor {name!r} is in one of them alone. Copy the "
                "index and all its files anew, from one place."
            )
        state |= found
    return state


def _parts(path: Path) -> dict[Path, set[str]]:
    """The files that an index names, and the tensors that are to be in each."""
    try:
        index = _Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise TeacherError(_missing(path)) from None
    except OSError as error:
        raise TeacherError(f"{path}: this checkpoint cannot be read: {error.strerror}. Name another file.") from None
    except ValidationError:
        raise TeacherError(
            f"{path}: expected an index of safetensors files beside it, as transformers writes it, with the file of "
            "each tensor under weight_map. Save the model again, or name its one safetensors file."
        ) from None
    found: dict[Path, set[str]] = {}
    for name, part in sorted(index.weight_map.items()):
        found.setdefault(path.with_name(part), set()).add(name)
    return found


def _load_tensors(path: Path) -> State:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever is in it, it is not tensors alone
        raise TeacherError(
            f"{path}: this checkpoint is not a plain state of tensors ({type(error).__name__}); anything else could "
            "run code when it is loaded: refused. Save the model's state_dict() with safetensors and name that file."
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise TeacherError(
            f"{path}: found {type(state).__name__}, expected a state of named tensors. Save the model's state_dict()."
        )
    return dict(state)


def fit_state(model: torch.nn.Module, state: State, path: Path) -> None:
    """Put a state into a model. Of tensors that are one in the model, such as tied weights, it may name any or all.

    Raises:
        TeacherError: naming the first tensors that are missing, unknown, of another shape, or not the same though they
            are one in the model.

    """
    own = model.state_dict()
    held = {_memory(tensor): name for name, tensor in own.items() if name in state}
    held.pop(None, None)
    twins = {name: held[_memory(tensor)] for name, tensor in own.items() if _memory(tensor) in held}
    wrong = [f"{name} is missing" for name in own if name not in state and name not in twins]
    wrong += [f"{name} is unknown to the model" for name in state if name not in own]
    wrong += [
        f"{name} has shape {list(state[name].shape)}, the model wants {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    wrong += [
        f"{name} is not {twin}, and the model ties them"
        for name, twin in twins.items()
        if name in state and not _same(state[name], state[twin])
    ]
    if wrong:
        more = f" (and {len(wrong) - NAMED} more)" if len(wrong) > NAMED else ""
        raise TeacherError(
            f"{path}: this checkpoint does not fit {type(model).__name__}: {'; '.join(wrong[:NAMED])}{more}. "
            "Name the model and its options as they were when the checkpoint was made."
        )
    model.load_state_dict({**{name: state[twin] for name, twin in twins.items()}, **state})


def _memory(tensor: torch.Tensor) -> tuple[object, ...] | None:
    """Where a tensor is; None if it takes no memory. Two of one place are one."""
    if not tensor.numel():
        return None
    return tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride()


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, NaN too."""
    return one is other or (one.dtype == other.dtype and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))


def file_digest(path: Path) -> str:
    """The sha256 of a checkpoint file, as hex; no model is built and no tensor is read.

    Of an index of several, it is over the tensors' names and the sha256 of the file that each is in.

    Raises:
        TeacherError: there is no such file.

    """
    if path.name.endswith(INDEX):
        told = {part.name: [file_digest(part), *sorted(names)] for part, names in _parts(path).items()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise TeacherError(_missing(path)) from None
    except OSError as error:
        raise TeacherError(f"{path}: this checkpoint cannot be read: {error.strerror}. Name another file.") from None


def file_bytes(path: Path) -> int | None:
    """How large a checkpoint is, the files that an index names together; None if one is not there."""
    with suppress(TeacherError, OSError):
        parts = _parts(path) if path.name.endswith(INDEX) else [path]
        return sum(part.stat().st_size for part in parts)
    return None


def _missing(path: Path) -> str:
    return (
        f"{path}: there is no such checkpoint. Correct teacher.checkpoint, or train the teacher first with "
        "`softlabels fit-teacher`."
    )
