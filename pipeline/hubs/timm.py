"""Models of timm, as `timm:NAME`. Not for names of the Hugging Face Hub: nothing is downloaded.

NAME is that of an architecture, such as `resnet50`, or one with the tag of its weights, such as `resnet50.a1_in1k`,
which decides nothing but the preprocessing.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from pipeline.errors import ConfigError
from pipeline.hubs.contract import Preprocessing, channels, loaded, refuse_unknown

LIBRARY = "timm"


def build(name: str, options: Mapping[str, object], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model without weights, for images of as many channels.

    Raises:
        ConfigError: the inputs are no images, or timm cannot be loaded or does not know the name.

    """
    inputs = channels(f"{LIBRARY}:{name}", input_shape)
    timm = _timm_that_knows(name)
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=inputs, **options)
    return network


def preprocessing(name: str, options: Mapping[str, object]) -> Preprocessing:
    """What the weights' `pretrained_cfg` says, with what the options change of it.

    Raises:
        ConfigError: timm cannot be loaded, does not know the name, or says nothing of the images.

    """
    timm = _timm_that_knows(name)
    config = {**_pretrained_config(timm, name, options), **_table(options.get("pretrained_cfg_overlay"))}
    if not config:
        raise ConfigError(
            f"timm:{name}: timm does not say how this model wants its images. Set views.mean and views.std, and leave "
            "views.preprocessing out."
        )
    found = timm.data.resolve_data_config({"img_size": options.get("img_size")}, pretrained_cfg=config)
    _, height, width = found["input_size"]
    if height != width:
        raise ConfigError(
            f"timm:{name}: this model wants images of {height} x {width} pixels, and only squares are made by its "
            "name. Set views.mean and views.std, leave views.preprocessing out, and bring a dataset of your own."
        )
    return Preprocessing(
        size=height,
        crop=found["crop_pct"] if found["crop_mode"] == "center" else None,
        interpolation=found["interpolation"],
        mean=tuple(255 * each for each in found["mean"]),
        std=tuple(255 * each for each in found["std"]),
    )


def _timm_that_knows(name: str) -> ModuleType:
    timm = loaded(LIBRARY)
    if not timm.is_model(name) or ":" in name or "/" in name:  # hf-hub:NAME would ask the Hub
        refuse_unknown(LIBRARY, name, timm.list_models())
    return timm


def _pretrained_config(timm: ModuleType, name: str, options: Mapping[str, object]) -> dict[str, Any]:
    given = options.get("pretrained_cfg")
    if isinstance(given, Mapping):
        return dict(given)
    try:
        config = timm.get_pretrained_cfg(f"{name.partition('.')[0]}.{given}" if given else name)
    except RuntimeError as error:
        raise ConfigError(f"timm:{name}: {error} Name a tag that timm.list_pretrained() shows, or none.") from None
    return config.to_dict() if config else {}


def _table(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
