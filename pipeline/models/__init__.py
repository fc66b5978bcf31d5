"""Small reference networks by name, those of model libraries by `PREFIX:NAME`, your own by `package.module:callable`.

The small networks are for examples and tests. They take inputs [N, *input_shape] and give logits [N, classes], or at
each position of a sequence, [N, L, classes]. Not for results to publish: use a model library's (`pipeline.hubs`), or a
factory of your own.
"""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from pipeline.errors import ConfigError, SoftLabelsError
from pipeline.hubs import HUBS, tokenizer_digest
from pipeline.models.gpt import gpt, text_classifier
from pipeline.models.images import Jitter, Residual, cnn, mlp, resnet
from pipeline.references import resolve

__all__ = ["MODELS", "Jitter", "Residual", "build", "count_parameters"]

MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"mlp": mlp, "cnn": cnn, "resnet": resnet, "gpt": gpt, "text_classifier": text_classifier}
)


def build(model: str, arguments: Mapping[str, object], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A network by name or of a library, made for these shapes; or of a factory of yours, from the arguments only.

    Raises:
        ConfigError: the name is not known, the arguments do not fit, or what comes back is no `torch.nn.Module`.

    """
    try:
        network = _built(model, arguments, input_shape, classes)
    except SoftLabelsError:
        raise
    except Exception as error:
        given = ", ".join(f"{name} = {value!r}" for name, value in arguments.items()) or "no options"
        raise ConfigError(
            f"The model {model!r} cannot be built with {given}: {type(error).__name__}: {error}. Mend the "
            "options of this model."
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"The model {model!r} gave a {type(network).__name__}, where a torch.nn.Module was expected. Name a class "
            "or a function that returns a module."
        )
    return network


def count_parameters(model: nn.Module) -> int:
    """The number of weights, trained or frozen."""
    return sum(parameter.numel() for parameter in model.parameters())


def _built(model: str, arguments: Mapping[str, object], input_shape: tuple[int, ...], classes: int) -> object:
    prefix, colon, name = model.partition(":")
    if not colon:
        return _named(model)(input_shape=input_shape, classes=classes, **arguments)
    if prefix in HUBS:
        network = HUBS[prefix](name, arguments, input_shape, classes)
        network.tokenizer_sha256 = tokenizer_digest(model)  # type: ignore[assignment]  # no weight: what its ids mean
        return network
    return resolve(model)(**arguments)


def _named(model: str) -> Callable[..., nn.Module]:
    if model not in MODELS:
        near = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"There is no model {model!r}. {hint}Known are {', '.join(MODELS)}; name one of your own as "
            "package.module:callable."
        )
    return MODELS[model]
