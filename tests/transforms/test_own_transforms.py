"""A user's own transforms, and those of libraries: the same view by the same name, whatever they draw from."""

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from pipeline.errors import ConfigError, DatasetError
from pipeline.generators import GENERATORS, untouched
from pipeline.transforms import Name, Transform, open_transform
from pipeline.transforms.kornia import ByKornia
from pipeline.transforms.own import Own, version_of
from pipeline.transforms.processes import InProcesses

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 3, 12, 12), np.uint8)
FLOATS = IMAGES.astype(np.float32)
NAMES = [Name(seed, view) for view, seed in enumerate(np.random.default_rng(1).integers(0, 2**63, 9).tolist())]
TORCHVISION = Path(__file__).parents[2] / ".torchvision"

KINDS = {
    "a generator": ("own_transforms:noisy", {"scale": 2.0}, FLOATS),
    "three generators": ("own_transforms:shaken", {}, FLOATS),
    "a module": ("own_transforms:Shifted", {}, FLOATS),
    "albumentations": ("albumentations:RandomResizedCrop", {"size": [8, 8]}, IMAGES),
    "albumentations, noise": ("albumentations:GaussNoise", {"p": 1.0}, IMAGES),
    "kornia": ("kornia.augmentation:RandomAffine", {"degrees": 20.0, "p": 0.7}, IMAGES),
    "kornia, an order": ("kornia.augmentation:ColorJiggle", {"brightness": 0.3, "hue": 0.2, "p": 1.0}, IMAGES),
    "crop_flip": ("crop_flip", {"pixels": 3}, IMAGES),
    "resized_crop": ("resized_crop", {"size": 8}, IMAGES),
}

ALIKE = ("a module", "albumentations")  # run by processes, as others of these are


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look for a newer version, in this process or in those of a transform."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in KINDS],
)
def kind(request: pytest.FixtureRequest) -> Iterator[tuple[Transform, np.ndarray]]:
    """A transform of each kind, and inputs for it."""
    name, options, inputs = KINDS[request.param]
    transform = open_transform(name, options, 2)
    yield transform, inputs
    if isinstance(transform, InProcesses):
        transform.close()


def test_a_view_depends_on_its_name_alone(kind: tuple[Transform, np.ndarray]) -> None:
    """Law: not on the batch, its order, the thread, a copy of the transform, or on what was drawn before."""
    transform, inputs = kind
    views = transform(inputs, NAMES)
    assert len({view.tobytes() for view in views}) > 5
    random.seed(5)
    torch.manual_seed(5)
    order = np.array([3, 8, 0, 5, 1])
    np.testing.assert_array_equal(transform(inputs[order], [NAMES[place] for place in order]), views[order])
    alone = np.concatenate([transform(inputs[place : place + 1], [NAMES[place]]) for place in range(3)])
    np.testing.assert_array_equal(alone, views[:3])
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301 - our own
    np.testing.assert_array_equal(again(inputs[:2], NAMES[:2]), views[:2])
    if isinstance(again, InProcesses):
        again.close()
    found: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda at=at: found.update({at: transform(inputs, NAMES)})) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for again_views in found.values():
        np.testing.assert_array_equal(again_views, views)


def test_a_view_of_another_name_is_another(kind: tuple[Transform, np.ndarray]) -> None:
    """Law: of one input, under nine names."""
    transform, inputs = kind
    views = transform(np.repeat(inputs[:1], 9, axis=0), NAMES)
    assert len({view.tobytes() for view in views}) > 3


def test_whoever_draws_meanwhile_is_not_disturbed(kind: tuple[Transform, np.ndarray]) -> None:
    """Law: the generators of this process go on as if no view had been made."""
    transform, inputs = kind
    for seed in (lambda: random.seed(3), lambda: np.random.seed(3), lambda: torch.manual_seed(3)):  # noqa: NPY002
        seed()
    expected = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002, S311
    for seed in (lambda: random.seed(3), lambda: np.random.seed(3), lambda: torch.manual_seed(3)):  # noqa: NPY002
        seed()
    transform(inputs, NAMES)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected  # noqa: NPY002, S311


def test_whoever_holds_the_generators_is_waited_for() -> None:
    """Law: a step of training that holds them draws in one piece."""
    transform = open_transform("kornia.augmentation:RandomHorizontalFlip", {}, 1)
    thread = threading.Thread(target=transform, args=(IMAGES, NAMES))
    with GENERATORS:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    with untouched(), untouched():
        pass


def test_kornia_is_asked_about_a_batch_at_once_where_its_draws_allow_it() -> None:
    """Law: draws of single rows are put together; an order of steps cannot be, and goes row by row."""
    calls: list[int] = []

    class Watched(ByKornia):
        @property
        def _placed(self) -> object:
            made = self.own.made
            made.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
            return made

    for name, options, expected in (
        ("RandomAffine", {"degrees": 5.0}, {9}),
        ("RandomHorizontalFlip", {}, {9}),
        ("ColorJiggle", {"hue": 0.1}, {1}),
    ):
        calls.clear()
        Watched(Own(f"kornia.augmentation:{name}", options))(IMAGES, NAMES)
        assert set(calls) == expected


@pytest.mark.parametrize("name", ["crop_and_turn", "one_of_two"])
def test_a_sequence_of_kornia_is_put_together_too(name: str) -> None:
    """Law: as each of its parts, unless rows take other steps."""
    own = Own(f"own_sequences:{name}", {})
    views = ByKornia(own)(IMAGES, NAMES)
    alone = np.concatenate([ByKornia(own)(IMAGES[at : at + 1], NAMES[at : at + 1]) for at in range(9)])
    np.testing.assert_array_equal(views, alone)


BY_KORNIA = {
    "RandomResizedCrop": {"size": (8, 8)},
    "RandomErasing": {"p": 0.6},
    "RandomGaussianBlur": {"kernel_size": (3, 3), "sigma": (0.1, 2.0)},
    "RandomPerspective": {"p": 0.5},
    "RandomGaussianNoise": {"p": 0.6},
    "RandomChannelShuffle": {"p": 0.6},
    "RandomElasticTransform": {"p": 0.6},
}


@pytest.mark.parametrize("name", BY_KORNIA)
def test_what_kornia_makes_of_a_batch_is_what_it_makes_of_each(name: str) -> None:
    """Law: to the byte, for transforms that draw in different ways."""
    transform = ByKornia(Own(f"kornia.augmentation:{name}", BY_KORNIA[name]))
    alone = np.concatenate([transform(IMAGES[at : at + 1], NAMES[at : at + 1]) for at in range(9)])
    np.testing.assert_array_equal(transform(IMAGES, NAMES), alone)


@pytest.mark.skipif(not TORCHVISION.exists(), reason="make .torchvision/ready")
def test_transforms_of_torchvision_make_views() -> None:
    """Law: what it is given by name is what torchvision makes of a tensor after `torch.manual_seed`."""
    script = """
import sys, torch
sys.path.append(sys.argv[1])
library = torch.library.Library("torchvision", "DEF")  # its operators are CUDA's here
library.define("nms(Tensor a, Tensor b, float c) -> Tensor")
library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
import numpy as np
from torchvision.transforms import v2
from pipeline.transforms import Name
from pipeline.transforms.own import Own
own = Own("torchvision.transforms.v2:RandomResizedCrop", {"size": [6, 6]})
x = np.random.default_rng(0).integers(0, 256, (3, 12, 12), np.uint8)
(view,) = own(x[None], [Name(11, 0)])
torch.manual_seed(11)
assert (torch.from_numpy(view) == v2.RandomResizedCrop((6, 6))(torch.from_numpy(x))).all()
print(own.library, view.shape)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(TORCHVISION)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "torchvision (3, 6, 6)", done.stderr


def test_a_library_that_cannot_be_loaded_is_named() -> None:
    """Law: with what is missing, or what it raised."""
    with pytest.raises(ConfigError, match=r"there is no module 'torchvisoin'"):
        open_transform("torchvisoin.transforms:CenterCrop", {}, 1)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("crop_flop", {}, r"there is no transform 'crop_flop'. Did you mean 'crop_flip'\?"),
        ("crop_flip", {"pixel": 2}, r"views.options do not fit the transform crop_flip: .*pixel"),
        ("own_transforms:failing", {"where": "build"}, r"calling own_transforms:failing .* raised ValueError: no such"),
        ("own_transforms:number", {}, r"gave a int, expected a transform"),
        ("own_transforms:nothing", {}, r"has no 'nothing'"),
    ],
)
def test_a_transform_that_cannot_be_made_is_refused(name: str, options: dict, said: str) -> None:
    """Law: before anything is read."""
    with pytest.raises(ConfigError, match=said):
        open_transform(name, options, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "own_transforms:failing",
            r"own_transforms:failing at an input of uint8 and shape .* raised ValueError: this image is uint8\. Mend",
        ),
        ("own_transforms:ragged", r"gave views of different shapes or dtypes, such as uint8 \[\d\] and uint8 \[\d\]"),
        ("own_transforms:deadly", r"a process that ran own_transforms:deadly was ended"),
        (
            "kornia.augmentation:CenterCrop",
            r"kornia.augmentation:CenterCrop raised .* at a batch of shape \[9, 3, 12, 12\]",
        ),
    ],
)
def test_a_transform_that_fails_is_named_with_what_it_was_given(name: str, said: str) -> None:
    """Law: an error of the dataset, whichever process it came from."""
    options = {"size": (-3, 99)} if "kornia" in name else {}
    transform = open_transform(name, options, 1)
    with pytest.raises(DatasetError, match=said):
        transform(IMAGES, NAMES)
    if isinstance(transform, InProcesses):
        transform.close()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Law: also when that is killed, and they are at work."""
    diary = tmp_path / "diary"
    script = (
        "import sys, numpy as np; from pipeline.transforms import Name, open_transform\n"
        "if __name__ == '__main__':\n"
        "    open_transform('own_transforms:slow', {'diary': sys.argv[1]}, 1)(np.zeros((1, 2)), [Name(0, 0)])"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    file = tmp_path / "main.py"
    file.write_text(script)
    parent = subprocess.Popen([sys.executable, str(file), str(diary)], env={**os.environ, "PYTHONPATH": paths})
    end = time.monotonic() + 60
    while not diary.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    worker = psutil.Process(int(diary.read_text()))
    parent.kill()
    parent.wait()
    worker.wait(20)


def _as_daemon(queue: "multiprocessing.Queue[bytes]") -> None:
    sys.argv.append("as a daemon")
    queue.put(open_transform("own_transforms:shaken", {}, 2)(FLOATS, NAMES).tobytes())


def test_a_process_that_may_have_no_children_makes_views_itself() -> None:
    """Law: the same views as elsewhere."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[bytes] = context.Queue()
    process = context.Process(target=_as_daemon, args=(queue,), daemon=True)
    process.start()
    found = queue.get(timeout=60)
    process.join()
    transform = open_transform("own_transforms:shaken", {}, 1)
    assert found == transform(FLOATS, NAMES).tobytes()
    transform.close()


FORKS = """
import os, sys, threading, time
import numpy as np
from pipeline.generators import GENERATORS
from pipeline.transforms import Name, open_transform

def hold():
    with GENERATORS:
        time.sleep(0.5)

if __name__ == "__main__":
    transform = open_transform("own_transforms:shaken", {}, 1)
    make = lambda: transform(np.zeros((2, 3), np.float32), [Name(0, 0), Name(1, 1)])
    mine = make()
    threading.Thread(target=hold).start()
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    with GENERATORS:
        same = np.array_equal(make(), mine)
    transform.close()
    os._exit(0 if same else 7)
"""


def ran(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A script of a user's own, with these tests' transforms at hand."""
    file = folder / "main.py"
    file.write_text(script)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(file)],
        env={**os.environ, "PYTHONPATH": paths},
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_forked_process_has_processes_of_its_own(tmp_path: Path) -> None:
    """Law: those of its parent, and a lock that a thread of the parent held, are nothing to it."""
    found = ran(FORKS, tmp_path)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_script_without_a_main_part_is_told_so(tmp_path: Path) -> None:
    """Law: each process of a transform imports the script that it is asked by."""
    said = ran(FORKS.replace('if __name__ == "__main__":', "if True:"), tmp_path)
    assert said.returncode == 1
    assert 'has to begin its work under `if __name__ == "__main__":`, since each process imports it' in said.stderr


def test_a_library_is_told_by_its_version() -> None:
    """Law: of what is installed; nothing of the user's own module."""
    own = Own("kornia.augmentation:RandomHorizontalFlip", {})
    assert own.library == "kornia"
    assert list(version_of(own.library)) == ["kornia"]
    assert version_of(Own("own_transforms:noisy", {}).library) == version_of("no such package") == {}
