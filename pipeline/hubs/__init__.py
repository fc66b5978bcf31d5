"""Models of libraries, by `PREFIX:NAME`, one library a file. Each is imported when an experiment names it.

They come without weights: those of a teacher are its checkpoint, and nothing is downloaded.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from pipeline.hubs import timm, torchvision, transformers

Builder = Callable[[str, Mapping[str, object], int, int], nn.Module]
"""Called with the name, the options, and how many channels and classes there are."""

HUBS: Mapping[str, Builder] = MappingProxyType(
    {"timm": timm.build, "torchvision": torchvision.build, "transformers": transformers.build}
)
