"""The generators that a process has for all of its threads: Python's, NumPy's and torch's.

Whoever draws from them holds `GENERATORS`, or two threads would take numbers out of each other's sequence: a step of
training with dropout, and a batch of views that a library draws.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch

GENERATORS = RLock()
os.register_at_fork(  # a thread that held it is not there in the child: nobody would let go of it
    before=GENERATORS.acquire, after_in_parent=GENERATORS.release, after_in_child=GENERATORS.release
)


def seed_all(seed: int) -> None:
    """Seed each of them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is this one that libraries draw from
    torch.manual_seed(seed)


@contextmanager
def untouched() -> Iterator[None]:
    """While inside, no other thread of ours draws; afterwards they go on as if nothing had been drawn."""
    with GENERATORS:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_rng_state(before[2])
            if on_devices:
                torch.cuda.set_rng_state_all(on_devices)
