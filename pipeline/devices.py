"""Where networks run, and in which precision."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from threadpoolctl import ThreadpoolController

from pipeline.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` takes the first there is of cuda, mps, cpu.

    Raises:
        ConfigError: a device that this machine does not have.

    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        have = ", ".join(kind for kind, available in there.items() if available)
        raise ConfigError(
            f'device = "{name}": this machine does not have it; it has {have}. Name one of these or "auto".'
        )
    return torch.device(name)


def gpus(name: str) -> list[str]:
    """What CUDA calls each GPU that this process sees; none, if the device of a name is no GPU of CUDA's."""
    if pick_device(name).type != "cuda":
        return []
    return visible(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())


def visible(named: str | None, count: int) -> list[str]:
    """The names of so many GPUs, given what CUDA_VISIBLE_DEVICES says of them.

    >>> visible(None, 2), visible("4, GPU-7", 2)
    (['0', '1'], ['4', 'GPU-7'])
    """
    names = [name.strip() for name in (named or "").split(",") if name.strip()]
    return names[:count] or [str(number) for number in range(count)]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision for matrix products; nothing at all for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def for_one_thread() -> Callable[[], object]:
    """What a thread that reads beside a network on the CPU does first, so that it computes by itself.

    OpenMP starts a team of threads for each thread that asks for one, as torch does for any 32,768 numbers. With more
    of them than cores, the teams wait in the kernel and no longer at work: a network's epoch takes a third longer.
    """
    loaded = ThreadpoolController()

    def begin() -> None:
        torch.get_num_threads()  # else torch would set them anew, at its first call in this thread
        loaded.limit(limits=1, user_api="openmp")

    return begin


def place(network: torch.nn.Module, device: torch.device, *, channels_last: bool) -> None:
    """Move a network to a device; with `channels_last` its convolutions run in that memory format, often faster."""
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch takes it, its stubs do not
