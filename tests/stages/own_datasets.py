"""A user's own datasets, named in experiments as `own_datasets:NAME`."""

import numpy as np
from stage_cases import images


class Crumbling:
    """Twelve labelled samples, of which only the first can be read."""

    labels = np.arange(12) % 3

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> np.ndarray:
        if row:
            raise OSError(f"no file for row {row}")
        return images(1)


class Whole:
    """Fifty labelled samples with all that a dataset has, none of which can be read."""

    ids = np.arange(50)
    labels = np.arange(50) % 3
    classes = 3
    class_names = None
    input_shape = (1, 4, 4)
    input_dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return 50

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Raise."""
        raise OSError(f"no file for {len(rows)} rows")


class Endless(Whole):
    """The same, which cannot say how many there are."""

    def __len__(self) -> int:
        raise OSError("no index file")
