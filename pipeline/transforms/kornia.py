"""A transform of Kornia, run for a whole batch on the device.

What is drawn is drawn for each view alone, by its name, and applied to all of them at once, so a view does not depend
on the batch that it is in. A transform whose draws cannot be put together so, as an order of steps, is applied to one
input after the other.

Float arithmetic differs in the last bits between kinds of device, and a view's fingerprint with it: stage two has to
make the views on the same kind as stage one, and says so where it does not.

Shape legend: N images, C channels, H height, W width.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.devices import pick_device
from pipeline.errors import DatasetError
from pipeline.generators import seed_all, untouched
from pipeline.transforms.contract import Name
from pipeline.transforms.own import Own


@dataclass(frozen=True)
class ByKornia:
    """The transform. It is given float32 in [0, 1] of uint8 images, and gives uint8 of those back."""

    own: Own
    device: str = "auto"
    outcomes = None

    @property
    def library(self) -> str | None:
        """Kornia."""
        return self.own.library

    @cached_property
    def _placed(self) -> Any:  # noqa: ANN401 - Kornia's types are not known here
        return self.own.made.to(pick_device(self.device))  # type: ignore[attr-defined]

    def __call__(self, inputs_NX: NDArray[np.generic], names: list[Name]) -> NDArray[np.generic]:
        """`[N, C, H', W']`, in the dtype of the inputs."""
        whole = inputs_NX.dtype == np.uint8
        inputs_NCHW = torch.from_numpy(inputs_NX).to(pick_device(self.device), torch.float32)
        inputs_NCHW = inputs_NCHW / 255 if whole else inputs_NCHW
        try:
            with untouched(), torch.no_grad():
                views_NCHW = self._views(inputs_NCHW, [name.seed for name in names], whole=whole)
        except Exception as error:  # Kornia's code and the device's memory: anything may come of it
            raise DatasetError(
                f"views.transform: {self.own.reference} raised {type(error).__name__}: {error} at a batch of shape "
                f"{list(inputs_NX.shape)}. Mend its views.options."
            ) from error
        if whole:
            views_NCHW = (views_NCHW * 255).round().clamp(0, 255).to(torch.uint8)
        return views_NCHW.cpu().numpy()

    def _views(self, inputs_NCHW: torch.Tensor, seeds: list[int], *, whole: bool) -> torch.Tensor:
        one = torch.Size((1, *inputs_NCHW.shape[1:]))
        drawn = []
        for seed in seeds:
            seed_all(seed)
            drawn.append(self._placed.forward_parameters(one))
        # In floats the size of a batch may tell in the last bits.
        if whole and (together := _joined(drawn)) is not None:
            views: torch.Tensor = self._placed(inputs_NCHW, params=together)
            return views
        return torch.cat([self._placed(inputs_NCHW[n : n + 1], params=each) for n, each in enumerate(drawn)])


def _joined(drawn: list[Any]) -> Any | None:  # noqa: ANN401
    """The draws of single rows as those of a batch; None if they are not rows."""
    first = drawn[0]
    if len({_form(each) for each in drawn}) > 1:
        return None  # other steps, or in another order
    if isinstance(first, dict):
        return _joined_tensors(drawn)
    if isinstance(first, list):
        parts = [_joined(list(each)) for each in zip(*drawn, strict=True)]
        return None if any(part is None for part in parts) else parts
    data = _joined([each.data for each in drawn])  # an item of a sequence: a name, and its draws
    return None if data is None else type(first)(first.name, data)


def _form(draws: Any) -> object:  # noqa: ANN401
    """What the draws of a row are of, but for their numbers."""
    if isinstance(draws, dict):
        return frozenset(draws)
    return len(draws) if isinstance(draws, list) else (type(draws), draws.name)


def _joined_tensors(drawn: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor] | None:
    found: dict[str, torch.Tensor] = {}
    for name, first in drawn[0].items():
        if name == "forward_input_shape":
            found[name] = torch.cat([torch.tensor([len(drawn)], dtype=first.dtype), first[1:]])
        elif any(name not in each or each[name].ndim == 0 or len(each[name]) != 1 for each in drawn):
            return None
        else:
            found[name] = torch.cat([each[name] for each in drawn])
    return found
