"""What every model library has in common: how it is loaded, and what it says of the images that its models want."""

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from pipeline.errors import ConfigError

IMAGE_AXES = 3


@dataclass(frozen=True)
class Preprocessing:
    """How a model's own library makes inputs of images before it asks the model."""

    size: int
    """The height and width of an input."""
    crop: float | None
    """The middle square of so large a share of the shorter side becomes the input. None: it is made otherwise."""
    interpolation: str
    """How images are resized, by one of Pillow's names."""
    mean: tuple[float, ...]
    """Of pixels from 0 to 255."""
    std: tuple[float, ...]
    """Of pixels from 0 to 255."""


def channels(model: str, input_shape: tuple[int, ...]) -> int:
    """How many channels the images have that a model is to take.

    Raises:
        ConfigError: the inputs are no images, [channels, height, width].

    """
    if len(input_shape) != IMAGE_AXES:
        raise ConfigError(
            f"The model {model!r} takes images [channels, height, width], but the inputs of this dataset are "
            f"{list(input_shape)}. Use the model 'mlp', or a dataset of images."
        )
    return input_shape[0]


def loaded(library: str, *names: str) -> ModuleType:
    """Import a model library, with these names of it, which it may load only when they are asked for.

    Raises:
        ConfigError: it is not installed, or does not load.

    """
    try:
        module = importlib.import_module(library)
        for name in names:
            getattr(module, name)
    except Exception as error:  # a library's import runs its code, and that of what it needs
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            raise ConfigError(
                f"The experiment names a model of {library}, which is not installed (ModuleNotFoundError: {error}). "
                f"Run `pip install {library}`, and take a build that matches torch {torch.__version__}."
            ) from None
        raise ConfigError(
            f"The experiment names a model of {library}, which is installed but cannot be loaded: "
            f"{type(error).__name__}: {error}. Run `pip install {library}` in a build that matches torch "
            f"{torch.__version__}, together with all that it needs."
        ) from error
    return module


def refuse_unknown(library: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that the library does not know.

    Raises:
        ConfigError: naming the nearest that it does.

    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {library}:{near[0]}? " if near else ""
    raise ConfigError(
        f"{library}:{name}: {library} has no classifier of images that is called {name!r}. {hint}It knows {len(known)} "
        "of them by name; only weights that are on this machine are used, and they go into teacher.checkpoint."
    )
