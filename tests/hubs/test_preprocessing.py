"""`preprocessing = "teacher"`: the library's own numbers, filled in where an experiment leaves them out."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from test_hubs import beside_torchvision, needs_libraries
from transformers import ViTImageProcessorPil

from pipeline.config import Experiment, ViewSettings, dump, load
from pipeline.errors import ConfigError
from pipeline.hubs.preprocessing import Preprocessing, preprocessing_of, resolved
from pipeline.job import _views_section
from pipeline.kinds import Digits, Source
from pipeline.views import network_input
from stages.__main__ import _load

PLAIN = {
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.5, 0.25, 0.125],
    "image_std": [0.5, 0.5, 0.25],
}


def told(folder: Path, **changes: object) -> str:
    """The name of a model in a folder whose preprocessor_config.json says this."""
    said = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return f"transformers:{folder}"


def experiment_file(folder: Path, model: str, views: str = 'preprocessing = "teacher"') -> Path:
    """An experiment on digits."""
    path = folder / "experiment.toml"
    path.write_text(
        f'[dataset]\nkind = "digits"\n[views]\n{views}\n[teacher]\nmodel = "{model}"\n'
        'checkpoint = "w.safetensors"\n[cache]\npath = "caches/x"\n'
    )
    return path


@pytest.mark.parametrize(
    ("changes", "size", "crop"),
    [
        ({}, 224, 224 / 256),
        ({"crop_size": 192}, 192, 192 / 256),
        ({"size": {"shortest_edge": 224}, "crop_size": None, "do_center_crop": None, "crop_pct": 0.9}, 224, 0.9),
        ({"size": 224, "crop_size": None, "crop_pct": 0.875}, 224, 0.875),
        ({"size": {"shortest_edge": 384}, "crop_size": None, "crop_pct": 0.875}, 384, None),
        ({"size": {"height": 160, "width": 160}, "do_center_crop": False}, 160, None),
        ({"size": 160, "do_center_crop": False}, 160, None),
        ({"size": {"height": 256, "width": 256}}, 224, None),
        ({"size": {"shortest_edge": 200}}, 224, None),
        ({"do_center_crop": None}, 256, None),
    ],
)
def test_a_share_of_an_image_is_told_from_an_image_that_is_squeezed(
    changes: dict[str, object], size: int, crop: float | None, tmp_path: Path
) -> None:
    """Law: a crop is named only where the library cuts a square from the middle of a resized image."""
    found = preprocessing_of(told(tmp_path, **changes), {})
    assert found == Preprocessing(size, crop, "bicubic", (127.5, 63.75, 31.875), (127.5, 127.5, 63.75))


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"rescale_factor": 0.5}, (1.0, 0.5, 0.25), (1.0, 1.0, 0.5)),
        ({"do_rescale": False}, (0.5, 0.25, 0.125), (0.5, 0.5, 0.25)),
        ({"do_normalize": False}, (0.0,), (255.0,)),
        ({"do_normalize": False, "image_mean": None, "image_std": None}, (0.0,), (255.0,)),
    ],
)
def test_the_numbers_are_for_pixels_from_0_to_255(
    changes: dict[str, object], mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    """Law: (x f - mean) / std is (x - mean / f) / (std / f)."""
    found = preprocessing_of(told(tmp_path, **changes), {})
    assert (found.mean, found.std) == (mean, std)


def test_a_network_is_given_what_the_librarys_own_processor_gives_it(tmp_path: Path) -> None:
    """Law: of an image that has its size already, up to rounding."""
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    found = preprocessing_of(f"transformers:{tmp_path}", {})
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    expected = torch.as_tensor(np.asarray(processor(Image.fromarray(image))["pixel_values"][0]))
    views = ViewSettings(mean=found.mean, std=found.std)
    given = network_input(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()), views, channels_last=False)[0]
    assert torch.allclose(given, expected, atol=1e-5)


def test_an_option_that_changes_the_size_of_a_models_images_counts(tmp_path: Path) -> None:
    """Law: over what the library says of its weights."""
    assert preprocessing_of(told(tmp_path), {"image_size": 96}).size == 96


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"image_mean": None},
            r"preprocessor_config\.json: it holds no image_mean or no image_std.*Set views\.mean and",
        ),
        ({"resample": None}, r"preprocessor_config\.json: resample: Field required\. Set views\.mean"),
        ({"resample": 9}, r"resample: Input should be less than 6"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"image_std\.1: Input should be greater than 0"),
        ({"size": {"height": 8, "width": 9}}, r"images of \{'height': 8, 'width': 9\}, and only squares are made"),
        ({"do_resize": False}, r"it holds do_resize = false"),
        ({"do_flip_channel_order": True}, r"it holds do_flip_channel_order = true, which \(x - mean\) / std"),
        ({"rescale_offset": True}, r"it holds rescale_offset = true"),
        ({"image_processor_type": "LevitImageProcessor"}, r"it is of a LevitImageProcessor, a processor with ways of"),
        ({"feature_extractor_type": "PerceiverFeatureExtractor"}, r"it is of a PerceiverFeatureExtractor"),
    ],
)
def test_what_cannot_be_done_here_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    """Law: no image is made in another way than the library makes it without a word."""
    with pytest.raises(ConfigError, match=said):
        preprocessing_of(told(tmp_path, **changes), {})


@pytest.mark.parametrize("model", ["mlp", "my_models:build", "timmy:resnet18"])
def test_a_model_of_no_library_says_nothing(model: str) -> None:
    """Law: it is refused, with those that do."""
    said = (
        r'views\.preprocessing = "teacher": the teacher .* is of no library .*: timm, torchvision, transformers\. Leave'
    )
    with pytest.raises(ConfigError, match=said):
        preprocessing_of(model, {})


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    """Law: and a file that is no JSON."""
    with pytest.raises(ConfigError, match=r"there is no file .*preprocessor_config\.json\. Name a folder"):
        preprocessing_of(f"transformers:{tmp_path}", {})
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json: this file: Invalid JSON"):
        preprocessing_of(f"transformers:{tmp_path}", {})


def test_all_stages_see_plain_numbers_and_the_job_records_them(tmp_path: Path) -> None:
    """Law: as if they stood in the file, which can be written and read again before and after."""
    path = experiment_file(tmp_path, told(tmp_path))
    before, found = load(path), _load(path, ())
    by_hand = _load(path, ("views={mean=[127.5, 63.75, 31.875], std=[127.5, 127.5, 63.75]}",))
    assert found == by_hand == resolved(found)
    assert _views_section(found.views) == {"seed": 0, "mean": [127.5, 63.75, 31.875], "std": [127.5, 127.5, 63.75]}
    for experiment in (before, found):
        again = tmp_path / "again.toml"
        again.write_text(dump(experiment))
        assert load(again) == experiment


def test_a_finetunes_own_images_are_made_as_the_teachers(tmp_path: Path) -> None:
    """Law: what their table leaves out is filled in as it is for `[dataset]`; what is said stays."""
    path = experiment_file(tmp_path, told(tmp_path))
    own = "{kind = 'images', path = 'more', crop = 1.0}"
    small = f"students.small={{model = 'mlp', finetune = {{epochs = 1, dataset = {own}}}}}"
    finetune = _load(path, (small,)).students["small"].finetune
    assert finetune is not None
    assert (finetune.dataset.size, finetune.dataset.crop) == (224, 1.0)


@pytest.mark.parametrize(
    ("views", "which"), [("mean = 0.0", "mean"), ("std = [2, 3]", "std"), ("mean = 1\nstd = 2", "mean and std")]
)
def test_numbers_beside_preprocessing_are_refused(views: str, which: str, tmp_path: Path) -> None:
    """Law: whatever they are."""
    path = experiment_file(tmp_path, "mlp", f'preprocessing = "teacher"\n{views}')
    with pytest.raises(ConfigError, match=rf'preprocessing = "teacher" says what {which} would say too: leave one of'):
        load(path)


def test_nobody_but_the_teacher_says_it(tmp_path: Path) -> None:
    """Law: "teacher" is the only word."""
    with pytest.raises(ConfigError, match=r"views\.preprocessing: found 'student' \(str\), expected 'teacher'"):
        load(experiment_file(tmp_path, "mlp", 'preprocessing = "student"'))


class Cut(Source):
    """A kind of dataset that resizes."""

    kind: Literal["cut"] = "cut"
    size: int | None = None
    crop: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


def of_cuts(model: str, dataset: Source, test: Source | None = None) -> Experiment:
    """An experiment on datasets that resize."""
    experiment = Experiment.model_validate(
        {
            "dataset": {"kind": "digits"},
            "views": {"preprocessing": "teacher"},
            "teacher": {"model": model, "checkpoint": "w"},
            "cache": {"path": "x"},
        }
    )
    return experiment.model_copy(update={"dataset": dataset, "test": test})


def test_datasets_are_told_what_they_leave_out(tmp_path: Path) -> None:
    """Law: and nothing else; those without these keys stay as they are."""
    found = resolved(of_cuts(told(tmp_path), Cut(classes=3, size=None), Cut(size=96, crop=0.5)))
    assert found.dataset == Cut(classes=3, size=224, crop=224 / 256, interpolation="bicubic")
    assert found.test == Cut(size=96, crop=0.5, interpolation="bicubic")
    assert resolved(of_cuts(told(tmp_path), Digits(kind="digits"))).dataset == Digits(kind="digits")


def test_what_a_dataset_cannot_do_is_refused_unless_it_says_otherwise(tmp_path: Path) -> None:
    """Law: naming the table and the key."""
    squeezed = told(tmp_path, size={"height": 32, "width": 32}, do_center_crop=False)
    with pytest.raises(
        ConfigError, match=r"test\.crop: the teacher's own inputs are no square .*Say test\.crop yourself"
    ):
        resolved(of_cuts(squeezed, Cut(crop=1.0), Cut()))
    assert resolved(of_cuts(squeezed, Cut(crop=1.0))).dataset == Cut(size=32, crop=1.0, interpolation="bicubic")
    with pytest.raises(ConfigError, match=r"dataset\.interpolation: the teacher's library says 'box', which this kind"):
        resolved(of_cuts(told(tmp_path, resample=4), Cut()))
    with pytest.raises(ValidationError):
        Cut(interpolation="box")


@needs_libraries
def test_what_torchvision_and_timm_say() -> None:
    """Law: the numbers of the library's own transforms, for every classifier of torchvision and some of timm."""
    script = """
import math, timm, torchvision
from torchvision import models
from pipeline.hubs.preprocessing import preprocessing_of
for name in models.list_models(module=models):
    found, own = preprocessing_of(f"torchvision:{name}", {}), models.get_model_weights(name).DEFAULT.transforms()
    assert [found.size] == own.crop_size and [math.floor(found.size / found.crop)] == own.resize_size, name
    assert found.interpolation in ("bilinear", "bicubic") and 0 < found.crop <= 1, name
    assert [each / 255 for each in found.std] == own.std, (name, found.std, own.std)
for name in ("resnet18.a1_in1k", "vit_base_patch16_224", "test_resnet", "convnext_tiny"):
    found, own = preprocessing_of(f"timm:{name}", {}), timm.create_model(name).pretrained_cfg
    assert (found.size, found.crop, found.interpolation) == (
        own["input_size"][1], own["crop_pct"], own["interpolation"]), name
    assert found.mean == tuple(255 * each for each in own["mean"]), name
    assert found.std == tuple(255 * each for each in own["std"]), name
assert preprocessing_of("timm:vit_base_patch16_224", {"img_size": 96}).size == 96
assert preprocessing_of("timm:resnet18", {"pretrained_cfg_overlay": {"crop_pct": 0.5}}).crop == 0.5
assert preprocessing_of("timm:resnet18", {"pretrained_cfg": "a2_in1k"}) == preprocessing_of("timm:resnet18.a2_in1k", {})
assert preprocessing_of("timm:resnet18", {"pretrained_cfg_overlay": {"crop_mode": "squash"}}).crop is None
assert preprocessing_of("torchvision:vit_b_16", {"image_size": 96}).size == 96
print(preprocessing_of("torchvision:resnet50", {}).size)
"""
    assert beside_torchvision(script) == "224"


REFUSED = [
    (
        "timm:resnet18.none_such",
        {},
        "timm:resnet18.none_such: Invalid pretrained tag (none_such) for resnet18. Name a",
    ),
    (
        "timm:resnet18",
        {"pretrained_cfg": {"input_size": [3, 8, 9]}},
        "wants images of 8 x 9 pixels, and only squares",
    ),
    ("timm:resnet18", {"pretrained_cfg": {}}, "timm does not say how this model wants its images. Set views.mean"),
    ("torchvision:resnet81", {}, "Did you mean torchvision:resnet18?"),
]


@needs_libraries
def test_what_a_library_does_not_say_is_refused() -> None:
    """Law: with what to do instead."""
    script = """
import json
from pipeline.errors import ConfigError
from pipeline.hubs.preprocessing import preprocessing_of
for model, options, said in json.loads(sys.argv[1]):
    try:
        print(model, preprocessing_of(model, options))
    except ConfigError as error:
        if said not in str(error):
            print(model, error)
"""
    assert not beside_torchvision(script, json.dumps(REFUSED))
