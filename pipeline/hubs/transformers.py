"""Models of transformers, as `transformers:PATH`: PATH is a folder with the model's config.json.

Nothing is downloaded, and no code that such a folder may hold is run.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from torch import nn

from pipeline.errors import ConfigError
from pipeline.hubs import texts
from pipeline.hubs.contract import IMAGE_AXES, Preprocessing, loaded
from pipeline.sequences import SHOWN, TARGETS

LIBRARY = "transformers"
IMAGE_CLASSIFIER = "AutoModelForImageClassification"
LANGUAGE_MODEL = "AutoModelForCausalLM"
TEXT_CLASSIFIER = "AutoModelForSequenceClassification"
TEXT_AXES = 2
FOLLOWS = {"num_labels": "the classes of the dataset", "dtype": "teacher.precision"}
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By their numbers in Pillow."""
WHOLE_FROM = 384
"""ConvNeXT's processor, the one that takes a share of an image, takes all of it from this size on."""
OWN_WAYS = ("ImageGPT", "Levit", "Perceiver")
"""Processors whose numbers mean something else."""
STEPS = ("rescale_offset", "include_top", "do_flip_channel_order", "do_pad")
"""What (x - mean) / std does not do."""


def build(name: str, options: Mapping[str, object], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model without weights, by its config.json with what the options change of it. It answers with its logits.

    What it is follows from the inputs: a classifier of images, [channels, height, width], or of sequences of tokens,
    [2, L], to [N, classes]; where each token has one to come next, [3, L], a causal language model, to [N, L, V]. V is
    the model's own, and may be more than the classes.

    Its tensors have the names that transformers gives them: its checkpoints fit.

    Raises:
        ConfigError: transformers cannot be loaded, there is no such config, the options or the inputs do not fit it, or
            it is asked about tokens and does not keep apart what must be.

    """
    kind = _kind(name, input_shape)
    folder = _folder_with(name, "config.json")
    _refuse_what_follows(name, options)
    transformers = loaded(LIBRARY, "AutoConfig", kind)
    config = _config(transformers, folder, options)
    model = f"{LIBRARY}:{name}"
    if kind == LANGUAGE_MODEL:
        texts.refuse_small(model, config, classes)
    elif config.num_labels != classes:
        config.num_labels = classes
    # Weights in float32, whatever the config says: inputs are, and teacher.precision alone casts.
    network: nn.Module = getattr(transformers, kind).from_config(config, dtype=torch.float32)
    # A hook and no module around the model, in which each tensor would have another name.
    network.register_forward_hook(_logits)
    if kind == LANGUAGE_MODEL:
        texts.ask_for_next(model, network, input_shape[1])
        texts.refuse_long(model, config, input_shape[1])
    elif kind == TEXT_CLASSIFIER:
        texts.ask_for_classes(model, network)
    return network


def tokenizer_digest(name: str) -> str | None:
    """The sha256 of the tokenizer.json in the folder, as hex; None if there is none."""
    return _digest(name, "tokenizer.json")


def config_digest(name: str) -> str | None:
    """The sha256 of the config.json in the folder, as hex; None if there is none."""
    return _digest(name, "config.json")


def _digest(name: str, file: str) -> str | None:
    path = _folder(name) / file
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def preprocessing(name: str, options: Mapping[str, object]) -> Preprocessing:
    """What the folder's preprocessor_config.json says. It is read without transformers.

    Raises:
        ConfigError: there is none, or it says too little, or what cannot be done here.

    """
    path = _folder_with(name, "preprocessor_config.json") / "preprocessor_config.json"
    try:
        found = _Processor.model_validate_json(path.read_bytes())
    except ValidationError as error:
        detail = error.errors()[0]
        raise ConfigError(
            f"{path}: {'.'.join(map(str, detail['loc'])) or 'this file'}: {detail['msg']}. {_BY_HAND}"
        ) from None
    if odd := found.odd():
        raise ConfigError(f"{path}: {odd}, which (x - mean) / std of a resized image is not. {_BY_HAND}")
    size, crop = found.square()
    wanted = options.get("image_size")
    return Preprocessing(wanted if isinstance(wanted, int) else size, crop, FILTERS[found.resample], *found.scaled())


_BY_HAND = "Set views.mean and views.std, and leave views.preprocessing out."
_Side = PositiveInt | dict[str, PositiveInt | None]


class _Processor(BaseModel):
    """As much of a preprocessor_config.json as decides what a model is shown."""

    model_config = ConfigDict(allow_inf_nan=False, extra="allow")

    size: _Side
    resample: Annotated[int, Field(ge=0, lt=len(FILTERS))]
    crop_size: _Side | None = None
    crop_pct: PositiveFloat | None = None
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[PositiveFloat, ...] | None = None
    rescale_factor: PositiveFloat = 1 / 255
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    image_processor_type: str | None = None
    feature_extractor_type: str | None = None

    def odd(self) -> str | None:
        """What it does that cannot be done here."""
        kind = self.image_processor_type or self.feature_extractor_type or ""
        if kind.startswith(OWN_WAYS):
            return f"it is of a {kind}, a processor with ways of its own"
        if self.do_resize is False:
            return "it holds do_resize = false"
        if self.do_normalize is not False and not (self.image_mean and self.image_std):
            return "it holds no image_mean or no image_std"
        return next((f"it holds {step} = true" for step in STEPS if (self.model_extra or {}).get(step)), None)

    def square(self) -> tuple[int, float | None]:
        """The size of an input, and the share of the image's shorter side that it shows, where it is such a share."""
        side, shorter = _side(self.size)
        if self.crop_pct:
            return side, self.crop_pct if side < WHOLE_FROM else None
        if not self.do_center_crop or self.crop_size is None:
            return side, None
        cut, _ = _side(self.crop_size)
        return cut, cut / side if shorter and cut <= side else None

    def scaled(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and the standard deviation of pixels from 0 to 255."""
        factor = 1.0 if self.do_rescale is False else self.rescale_factor
        mean, std = self.image_mean or (), self.image_std or ()
        if self.do_normalize is False:
            mean, std = (0.0,), (1.0,)
        return tuple(each / factor for each in mean), tuple(each / factor for each in std)


def _side(size: _Side) -> tuple[int, bool]:
    """The side of a square, and whether it is said to be that of an image's shorter side."""
    if isinstance(size, int):
        return size, False
    sides = {side for side in size.values() if side}
    if len(sides) != 1:
        raise ConfigError(
            f"preprocessor_config.json asks for images of {size}, and only squares are made by a model's name. "
            f"{_BY_HAND}"
        )
    return sides.pop(), bool(size.get("shortest_edge"))


def _kind(name: str, input_shape: tuple[int, ...]) -> str:
    if len(input_shape) == IMAGE_AXES:
        return IMAGE_CLASSIFIER
    by_rows = {SHOWN: TEXT_CLASSIFIER, TARGETS + 1: LANGUAGE_MODEL}
    if len(input_shape) != TEXT_AXES or input_shape[0] not in by_rows:
        raise ConfigError(
            f"The model '{LIBRARY}:{name}' takes images [channels, height, width] or sequences of tokens "
            f"[{SHOWN} or {TARGETS + 1}, length], but the inputs of this dataset are {list(input_shape)}. Use "
            "the model 'mlp', or a dataset of images or of tokens."
        )
    return by_rows[input_shape[0]]


def _folder(name: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(name)))  # noqa: PTH111 - pathlib's raises for a strange ~user


def _folder_with(name: str, file: str) -> Path:
    folder = _folder(name)
    if not (folder / file).is_file():
        raise ConfigError(
            f"transformers:{name}: there is no file {folder / file}. Name a folder on this machine that "
            "save_pretrained() wrote; nothing is downloaded."
        )
    return folder


def _refuse_what_follows(name: str, options: Mapping[str, object]) -> None:
    for option in options:
        if option in FOLLOWS:
            raise ConfigError(
                f"transformers:{name}: the option {option} follows from {FOLLOWS[option]}. Leave it out here."
            )


def _config(transformers: ModuleType, folder: Path, options: Mapping[str, object]) -> Any:  # noqa: ANN401 - transformers' own
    config, unused = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, return_unused_kwargs=True, **options
    )
    if unused:
        raise ConfigError(
            f"{folder / 'config.json'}: a {type(config).__name__} has no {', '.join(sorted(unused))}. Mend the options "
            "of this model: they change what its config.json says."
        )
    return config


def _logits(_: nn.Module, __: tuple[object, ...], answer: Any) -> torch.Tensor:  # noqa: ANN401 - a ModelOutput
    logits: torch.Tensor = answer.logits
    return logits
