"""What every transform promises."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Name(NamedTuple):
    """The name of a view, as far as a transform needs it."""

    seed: int
    """The hash of the experiment's seed, the sample's id and the number of the view: of all that is drawn."""
    view: int
    """The number of the view, for those who can make all there are, one after the other."""


class Transform(Protocol):
    """Makes views: of the same inputs and names always the same, whoever else is in the batch.

    Called from several threads at once. May be pickled.
    """

    @property
    def outcomes(self) -> int | None:
        """How many different views of a sample it can make: view v is the v-th of them; None: they are drawn."""

    @property
    def library(self) -> str | None:
        """The package whose version decides its pixels, beside our own."""

    def __call__(self, inputs_NX: NDArray[np.generic], names: list[Name]) -> NDArray[np.generic]:
        """A view of each input, `[N, *view_shape]`."""
