"""Models of torchvision, as `torchvision:NAME`: its classifiers of images.

Not for its detectors and segmenters: they answer with no logits, and download a backbone unless told not to.
"""

from collections.abc import Mapping
from types import ModuleType

from torch import nn

from pipeline.errors import ConfigError
from pipeline.hubs.contract import Preprocessing, channels, loaded, refuse_unknown

LIBRARY = "torchvision"
CHANNELS = 3


def build(name: str, options: Mapping[str, object], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model without weights.

    Raises:
        ConfigError: the inputs are no images of three channels, or torchvision cannot be loaded or does not know the
            name.

    """
    inputs = channels(f"{LIBRARY}:{name}", input_shape)
    models = _models_with(name)
    if inputs != CHANNELS:
        raise ConfigError(
            f"torchvision:{name}: the inputs of this dataset have {inputs} channels, and torchvision's models take "
            f"{CHANNELS}. Take a model of timm, or a dataset of colour images."
        )
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return network


def preprocessing(name: str, options: Mapping[str, object]) -> Preprocessing:
    """What the transforms of the model's DEFAULT weights do. Other weights of it may want other images.

    Raises:
        ConfigError: torchvision cannot be loaded, or does not know the name.

    """
    found = _models_with(name).get_model_weights(name).DEFAULT.transforms()
    (size,), (resized,) = found.crop_size, found.resize_size
    wanted = options.get("image_size")
    return Preprocessing(
        size=wanted if isinstance(wanted, int) else size,
        crop=size / resized,
        interpolation=found.interpolation.value,
        mean=tuple(255 * each for each in found.mean),
        std=tuple(255 * each for each in found.std),
    )


def _models_with(name: str) -> ModuleType:
    models: ModuleType = loaded(LIBRARY, "models").models
    refuse_unknown(LIBRARY, name, models.list_models(module=models))
    return models
