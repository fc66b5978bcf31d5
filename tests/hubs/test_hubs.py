"""Models of libraries: the library's own logits, no download, and no code but the library's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig

from pipeline.config import TeacherSettings, ViewSettings
from pipeline.errors import ConfigError, TeacherError
from pipeline.hubs import HUBS
from pipeline.hubs.contract import loaded
from pipeline.hubs.preprocessing import READERS
from pipeline.models import build
from pipeline.teachers import load_teacher
from pipeline.weights import save_state

ROOT = Path(__file__).parents[2]
TORCHVISION = ROOT / ".torchvision"
SHAPE, CLASSES = (3, 8, 8), 5
IMAGES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE)).astype(np.uint8)
VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": CLASSES,
}
CONFIGS = {
    "vit": ViTConfig(**VIT),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES),
    "vit in bfloat16": ViTConfig(**VIT, dtype="bfloat16"),
}
# torchvision's operators are CUDA's here; none of these models calls one.
OPERATORS = """
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor a, Tensor b, float c) -> Tensor")
library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
"""
needs_libraries = pytest.mark.skipif(not (TORCHVISION / "timm").exists(), reason="make .torchvision/ready")


def beside_torchvision(script: str, *arguments: object, operators: str = OPERATORS) -> str:
    """What a script prints in a process that finds torchvision and timm."""
    start = f"import sys, torch\nsys.path.append({str(TORCHVISION)!r})\n{operators}\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small ViT's config."""
    CONFIGS["vit"].save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def edited(folder: Path, **changes: object) -> Path:
    """The folder with other keys in its config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_every_library_has_a_builder_and_a_reader_of_its_preprocessing() -> None:
    """Law: by the same prefixes."""
    assert set(HUBS) == set(READERS) == {"timm", "torchvision", "transformers"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_teacher_of_transformers_answers_as_in_its_library(name: str, tmp_path: Path) -> None:
    """Law: to the bit, from the folder that it wrote under its own names, whatever dtype the weights were kept in."""
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(CONFIGS[name]).eval()
    model.save_pretrained(tmp_path, save_original_format=False)
    settings = TeacherSettings(
        model=f"transformers:{tmp_path}", checkpoint=tmp_path / "model.safetensors", device="cpu"
    )
    teacher = load_teacher(settings, ViewSettings(mean=128.0, std=64.0), SHAPE, CLASSES)
    with torch.inference_mode():
        expected = model.float()((torch.from_numpy(IMAGES).float() - 128) / 64).logits
    assert teacher.logits(IMAGES).equal(expected)
    assert set(teacher.network.state_dict()) == set(model.state_dict())


def test_what_a_student_of_transformers_saves_fits_its_library(folder: Path, tmp_path: Path) -> None:
    """Law: a state goes back and forth, as its tensors have the library's own names."""
    student = build(f"transformers:{folder}", {}, SHAPE, CLASSES)
    student(torch.randn(2, *SHAPE)).square().sum().backward()
    assert sum(weight.grad is not None for weight in student.parameters()) > 10
    save_state(tmp_path / "student.safetensors", student.state_dict())
    (folder / "model.safetensors").write_bytes((tmp_path / "student.safetensors").read_bytes())
    model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    x = torch.randn(2, *SHAPE)
    assert model.eval()(x).logits.equal(student.eval()(x))


def test_options_change_the_config_and_the_dataset_says_how_many_classes(folder: Path) -> None:
    """Law: as for the networks by name."""
    model = build(f"transformers:{folder}", {"hidden_dropout_prob": 0.5, "num_hidden_layers": 2}, SHAPE, 7)
    assert (model.config.hidden_dropout_prob, len(model.vit.layers)) == (0.5, 2)
    assert model(torch.randn(2, *SHAPE)).shape == (2, 7)


def test_a_path_may_hold_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: `~` and `$VARIABLES`, as in every path of an experiment."""
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("MODELS", str(folder.parent))
    for name in ("~/vit", "$MODELS/vit"):
        assert build(f"transformers:{name}", {}, SHAPE, CLASSES)(torch.randn(1, *SHAPE)).shape == (1, CLASSES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 3}, r"config\.json: a ViTConfig has no width\. Mend the options"),
        ({"num_labels": 3}, r"the option num_labels follows from the classes of the dataset\. Leave it out"),
        ({"dtype": "bfloat16"}, r"the option dtype follows from teacher\.precision\. Leave it out"),
        ({"trust_remote_code": True}, r"trust_remote_code = True: TypeError: .*multiple values"),
        ({"local_files_only": False}, r"local_files_only = False: TypeError: .*multiple values"),
        ({"patch_size": 0}, r"cannot be built with patch_size = 0: ZeroDivisionError"),
    ],
)
def test_options_that_do_not_fit_a_config_are_refused(folder: Path, options: dict[str, object], said: str) -> None:
    """Law: none is passed over, and none allows a download or foreign code."""
    with pytest.raises(ConfigError, match=said):
        build(f"transformers:{folder}", options, SHAPE, CLASSES)


def test_a_folder_that_is_no_classifier_of_images_is_refused(folder: Path, tmp_path: Path) -> None:
    """Law: nothing is looked for elsewhere, and no code in a folder is run."""
    with pytest.raises(ConfigError, match=r"there is no file google/vit/config\.json\. .*nothing is downloaded"):
        build("transformers:google/vit", {}, SHAPE, CLASSES)
    with pytest.raises(ConfigError, match=r"'transformers:.*' takes images"):
        build(f"transformers:{folder}", {}, (8, 8), CLASSES)
    with pytest.raises(ConfigError, match=r"ValueError: Unrecognized configuration class .*BertConfig"):
        build(f"transformers:{edited(folder, model_type='bert')}", {}, SHAPE, CLASSES)
    marker = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(marker)!r}, 'w')")
    foreign = {"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Model"}
    with pytest.raises(ConfigError, match=r"contains custom code"):
        build(f"transformers:{edited(folder, model_type='mine', auto_map=foreign)}", {}, SHAPE, CLASSES)
    assert not marker.exists()


def test_a_checkpoint_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """Law: by the names of the library's own tensors."""
    save_file({"classifier.bias": torch.zeros(CLASSES)}, tmp_path / "other.safetensors")
    settings = TeacherSettings(model=f"transformers:{folder}", checkpoint=tmp_path / "other.safetensors", device="cpu")
    with pytest.raises(TeacherError, match=r"does not fit ViTForImageClassification: vit\.\S+ is missing"):
        load_teacher(settings, ViewSettings(), SHAPE, CLASSES)


@needs_libraries
@pytest.mark.parametrize(
    ("model", "options", "key"),
    [
        ("timm:test_resnet", {"drop_rate": 0.5}, "fc.weight"),
        pytest.param("timm:test_vit.r160_in1k", {"img_size": 32}, "head.weight", marks=pytest.mark.slow),
        pytest.param("torchvision:squeezenet1_1", {}, "classifier.1.weight", marks=pytest.mark.slow),
        ("torchvision:resnet18", {"width_per_group": 64}, "fc.weight"),
    ],
)
def test_a_teacher_answers_as_in_its_library(model: str, options: dict[str, object], key: str, tmp_path: Path) -> None:
    """Law: to the bit, from a checkpoint with the library's own names."""
    script = """
import json
from pathlib import Path
from safetensors.torch import save_file
from pipeline.config import TeacherSettings, ViewSettings
from pipeline.teachers import load_teacher
import numpy as np, timm, torchvision
prefix, _, name = sys.argv[1].partition(":")
options, path = json.loads(sys.argv[2]), Path(sys.argv[3])
torch.manual_seed(0)
own = timm.create_model(name, num_classes=5, **options) if prefix == "timm" else torchvision.models.get_model(
    name, num_classes=5, **options)
save_file(own.state_dict(), path)
teacher = load_teacher(TeacherSettings(model=sys.argv[1], options=options, checkpoint=path, device="cpu"),
    ViewSettings(mean=128.0, std=64.0), (3, 32, 32), 5)
images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
with torch.inference_mode():
    expected = own.eval()((torch.from_numpy(images).float() - 128) / 64)
print(teacher.logits(images).equal(expected), sys.argv[4] in own.state_dict(), tuple(expected.shape))
"""
    found = beside_torchvision(script, model, json.dumps(options), tmp_path / "w.safetensors", key)
    assert found == "True True (4, 5)"


@needs_libraries
def test_timm_is_told_of_the_channels() -> None:
    """Law: grey images need no change of the model's options."""
    script = """
from pipeline.models import build
print(tuple(build("timm:test_resnet", {}, (1, 32, 32), 7)(torch.randn(2, 1, 32, 32)).shape))
"""
    assert beside_torchvision(script) == "(2, 7)"


REFUSED = [
    ("timm:resnet50x", {}, 3, "no classifier of images that is called 'resnet50x'. Did you mean timm:resnet50"),
    ("timm:hf-hub:timm/resnet18", {}, 3, "no classifier of images that is called 'hf-hub:timm/resnet18'"),
    ("timm:resnet18.none_such", {}, 3, "RuntimeError: Invalid pretrained tag (none_such) for resnet18"),
    ("timm:resnet18", {"pretrained": True}, 3, "pretrained = True: TypeError: "),
    ("timm:resnet18", {"hidden": 3}, 3, "cannot be built with hidden = 3: TypeError: "),
    ("torchvision:resnet81", {}, 3, "called 'resnet81'. Did you mean torchvision:resnet18?"),
    ("torchvision:fasterrcnn_resnet50_fpn", {}, 3, "no classifier of images that is called 'fasterrcnn"),
    ("torchvision:resnet18", {"weights": "DEFAULT"}, 3, "weights = 'DEFAULT': TypeError: "),
    ("torchvision:resnet18", {}, 1, "have 1 channels, and torchvision's models take 3. Take a model of timm"),
]


@needs_libraries
def test_what_a_library_does_not_know_or_would_download_is_refused() -> None:
    """Law: with what was found, and the nearest name."""
    script = """
import json
from pipeline.errors import ConfigError
from pipeline.models import build
for model, options, channels, said in json.loads(sys.argv[1]):
    try:
        build(model, options, (channels, 32, 32), 5)
    except ConfigError as error:
        if said not in str(error):
            print(model, error)
    else:
        print(model, options, "was built")
"""
    assert not beside_torchvision(script, json.dumps(REFUSED))


@needs_libraries
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_does_not_load_is_named_with_what_it_raised(library: str) -> None:
    """Law: and with what to do; here its operators are of another torch."""
    script = """
from pipeline.errors import ConfigError
from pipeline.models import build
try:
    build(f"{sys.argv[1]}:resnet18", {}, (3, 32, 32), 5)
except ConfigError as error:
    print(error)
"""
    assert beside_torchvision(script, library, operators="") == (
        f"The experiment names a model of {library}, which is installed but cannot be loaded: RuntimeError: operator "
        f"torchvision::nms does not exist. Run `pip install {library}` in a build that matches torch "
        f"{torch.__version__}, together with all that it needs."
    )


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_installed_is_named(library: str) -> None:
    """Law: with how to install it."""
    said = rf"model of {library}, which is not installed .*Run `pip install {library}`, and take a build that matches"
    with pytest.raises(ConfigError, match=said):
        build(f"{library}:resnet18", {}, SHAPE, CLASSES)


def test_a_part_of_a_library_that_does_not_load_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: a library may load its parts only when they are asked for, as transformers does."""
    (tmp_path / "half_there.py").write_text("def __getattr__(name):\n    raise RuntimeError('no ' + name)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"half_there, which is installed but cannot be loaded: RuntimeError: no Model"
    ):
        loaded("half_there", "Model")


def test_no_library_is_imported_before_it_is_named() -> None:
    """Law: whoever names none waits for none."""
    script = (
        "import sys, pipeline.models, pipeline.hubs.preprocessing; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "timm", "torchvision", "transformers"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "[]"
