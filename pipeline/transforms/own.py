"""The user's own transform, or a library's: `transform = "package.module:callable"`, called with the options.

What it gives is a transform of one input, and how it is called follows from what it is:

- a function of an input and a `numpy.random.Generator` draws from that one, which is seeded by the view's name;
- a `torch.nn.Module`, as torchvision's, is given a tensor; one of albumentations an array `[H, W, C]`; any other
  function of one input an array. They draw from the generators of their process, so processes of their own run them;
- one of Kornia is given a batch, on the device: see `kornia`.

Not for one that remembers what it has seen, or reads a clock: a view could not be made again.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError, DatasetError, SoftLabelsError
from pipeline.generators import seed_all
from pipeline.references import resolve
from pipeline.transforms.contract import Name

Array = NDArray[np.generic]
IMAGE_AXES = 3


@dataclass(frozen=True)
class Own:
    """A transform that the user names, made where it is needed: only its name and its options are pickled.

    Args:
        reference: `package.module:callable`.
        options: what it is called with.

    """

    reference: str
    options: Mapping[str, object]
    outcomes = None

    def __reduce__(self) -> tuple[type["Own"], tuple[str, Mapping[str, object]]]:
        return Own, (self.reference, self.options)

    @cached_property
    def made(self) -> Callable[..., object]:
        """What the callable gives.

        Raises:
            ConfigError: it cannot be imported or raises, or what it gives cannot be called.

        """
        build = resolve(self.reference)
        with _blamed(ConfigError, f"calling {self.reference} with {dict(self.options)}"):
            made = build(**self.options)
        if not callable(made):
            raise ConfigError(
                f"views.transform: {self.reference} gave a {type(made).__name__}, expected a transform: something that "
                "is called with an input and gives a view of it."
            )
        return made

    @cached_property
    def family(self) -> str:
        """The package that it is of."""
        kind = self.made if inspect.isroutine(self.made) else type(self.made)
        return str(kind.__module__).partition(".")[0]

    @cached_property
    def library(self) -> str | None:
        """The distribution that it is of, if it was installed as one."""
        return next(iter(packages_distributions().get(self.family, ())), None)

    @cached_property
    def takes_generator(self) -> bool:
        """Whether it has to be given a generator beside an input."""
        if isinstance(self.made, torch.nn.Module):
            return False
        try:
            parameters = inspect.signature(self.made).parameters.values()
        except (TypeError, ValueError):
            return False
        needed = [each for each in parameters if each.default is each.empty and each.kind in _BY_PLACE]
        return len(needed) == 2  # noqa: PLR2004 - an input and a generator

    def __call__(self, inputs_NX: Array, names: list[Name]) -> Array:
        """A view of each input. It seeds the generators of the process, unless it is given one."""
        views = [self._view(input_X, name) for input_X, name in zip(inputs_NX, names, strict=True)]
        if len({(view.shape, view.dtype) for view in views}) > 1:
            raise DatasetError(
                f"views.transform: {self.reference} gave views of different shapes or dtypes, such as "
                f"{views[0].dtype} {list(views[0].shape)} and {next(_others(views))}. Have it bring all to one."
            )
        return np.stack(views) if views else np.empty((0, *inputs_NX.shape[1:]), inputs_NX.dtype)

    def _view(self, input_X: Array, name: Name) -> Array:
        with _blamed(DatasetError, f"{self.reference} at an input of {input_X.dtype} and shape {list(input_X.shape)}"):
            return np.ascontiguousarray(self._called(input_X, name.seed))

    def _called(self, input_X: Array, seed: int) -> Any:  # noqa: ANN401 - what the user's code gives
        if self.takes_generator:
            return self.made(input_X, np.random.default_rng(seed))
        seed_all(seed)
        if isinstance(self.made, torch.nn.Module):
            return self.made(torch.from_numpy(input_X.copy()))
        if self.family == "albumentations":
            return _by_albumentations(self.made, input_X, seed)
        return self.made(input_X.copy())


def _by_albumentations(transform: Any, input_X: Array, seed: int) -> Array:  # noqa: ANN401 - it has generators of its own
    transform.set_random_seed(seed % 2**32)
    image = np.ascontiguousarray(input_X.transpose(1, 2, 0)) if input_X.ndim == IMAGE_AXES else input_X
    found: Array = np.asarray(transform(image=image)["image"])
    return found.transpose(2, 0, 1) if found.ndim == IMAGE_AXES else found


@contextmanager
def _blamed(kind: type[SoftLabelsError], what: str) -> Iterator[None]:
    """Run the user's code: whatever it raises is of this kind."""
    try:
        yield
    except SoftLabelsError:
        raise
    except Exception as error:
        raise kind(
            f"views.transform: {what} raised {type(error).__name__}: {error}. Mend it or its views.options."
        ) from error


def version_of(library: str | None) -> dict[str, str]:
    """The version of a library, by its name; nothing, if there is none."""
    try:
        return {library: version(library)} if library else {}
    except PackageNotFoundError:
        return {}


def _others(views: list[Array]) -> Any:  # noqa: ANN401
    return (f"{v.dtype} {list(v.shape)}" for v in views if (v.shape, v.dtype) != (views[0].shape, views[0].dtype))


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
