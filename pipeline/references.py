"""The user's own code, named as `package.module:callable` in an experiment file and nowhere else."""

import importlib
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from pipeline.errors import ConfigError

NAMES_SHOWN = 20


def resolve(reference: str) -> Callable[..., object]:
    """The callable that `package.module:callable` names; the working directory counts as a place to import from.

    >>> resolve("math:hypot")(3, 4)
    5.0

    Raises:
        ConfigError: the reference is not of that form, its module cannot be imported, or it names no callable.

    """
    found = named(reference)
    if not callable(found):
        raise ConfigError(
            f"{reference}: found {type(found).__name__} {found!r}, expected a function or a class to call."
        )
    return found  # what it returns is for the caller to judge


def named(reference: str) -> object:
    """Whatever `package.module:attribute` names; see `resolve`.

    >>> named("math:pi")
    3.141592653589793

    Raises:
        ConfigError: the reference is not of that form, its module cannot be imported, or has no such attribute.

    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{reference!r} names no code: expected package.module:callable, such as my_models:build.")
    module = _imported(reference, module_name)
    try:
        found: object = attrgetter(attribute)(module)
    except AttributeError:
        raise ConfigError(
            f"{reference}: the module {module_name} ({_place(module)}) has no {attribute!r}. It has: "
            f"{_callables(module)}. Correct the name after the colon."
        ) from None
    return found


def _imported(reference: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        # As `python -m` does, and for good: a spawned worker inherits sys.path and must find the module to unpickle.
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{reference}: there is no module {error.name!r}, neither installed nor in {here}. Correct the name "
                "before the colon, or run from the folder that holds it."
            ) from None
        raise ConfigError(f"{reference}: the module {name} needs {error.name!r}, which is not installed.") from error
    except Exception as error:  # importing the user's module runs the user's code: anything may come of it
        raise ConfigError(
            f"{reference}: importing the module {name} raised {type(error).__name__}: {error}. Mend the module; "
            f"`python -c 'import {name}'` shows where."
        ) from error


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"


def _callables(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    return ", ".join(names[:NAMES_SHOWN] + ["…"] * (len(names) > NAMES_SHOWN)) or "nothing to call"
