"""From a sample to a view of it, by name. A transform is a name in `TRANSFORMS`, one file each, or the user's own."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pipeline.errors import ConfigError, SoftLabelsError
from pipeline.transforms.contract import Name, Transform
from pipeline.transforms.crop_flip import crop_flip
from pipeline.transforms.kornia import ByKornia
from pipeline.transforms.own import Own
from pipeline.transforms.processes import InProcesses
from pipeline.transforms.resized_crop import resized_crop

__all__ = ["TRANSFORMS", "Name", "Transform", "open_transform"]

TRANSFORMS: Mapping[str, Callable[..., Transform]] = MappingProxyType(
    {"crop_flip": crop_flip, "resized_crop": resized_crop}
)


def open_transform(name: str, options: Mapping[str, object], workers: int) -> Transform:
    """A transform by name, or the user's `package.module:callable`, called with the options.

    Args:
        name: which.
        options: its keywords.
        workers: processes, for one that cannot be run in threads.

    Raises:
        ConfigError: there is none of that name, or it cannot be made of these options.

    """
    if ":" in name:
        return _own(Own(name, options), workers)
    if name not in TRANSFORMS:
        near = difflib.get_close_matches(name, TRANSFORMS, n=1)
        raise ConfigError(
            f"views.transform: there is no transform {name!r}. {f'Did you mean {near[0]!r}? ' if near else ''}Known "
            f"are {', '.join(TRANSFORMS)}; name one of your own as package.module:callable."
        )
    try:
        return TRANSFORMS[name](**options)
    except SoftLabelsError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"views.options do not fit the transform {name}: {error}. Mend them.") from error


def _own(own: Own, workers: int) -> Transform:
    if own.family == "kornia":
        return ByKornia(own)
    return own if own.takes_generator else InProcesses(own, workers)
