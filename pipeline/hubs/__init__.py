"""Models of libraries, by `PREFIX:NAME`, one library a file. Each is imported when an experiment names it.

They come without weights: those of a teacher are its checkpoint, and nothing is downloaded.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from pipeline.hubs import timm, torchvision, transformers

Builder = Callable[[str, Mapping[str, object], tuple[int, ...], int], nn.Module]
"""Called with the name, the options, the shape of one input, and how many classes there are."""

HUBS: Mapping[str, Builder] = MappingProxyType(
    {"timm": timm.build, "torchvision": torchvision.build, "transformers": transformers.build}
)


def tokenizer_digest(model: str) -> str | None:
    """The sha256 of the tokenizer.json that is beside a model `transformers:PATH`, as hex. None: there is none.

    >>> tokenizer_digest("gpt") is None
    True
    """
    prefix, _, name = model.partition(":")
    return transformers.tokenizer_digest(name) if prefix == transformers.LIBRARY else None


def config_digest(model: str) -> str | None:
    """The sha256 of the config.json that a model `transformers:PATH` is built by, as hex. None: there is none."""
    prefix, _, name = model.partition(":")
    return transformers.config_digest(name) if prefix == transformers.LIBRARY else None
