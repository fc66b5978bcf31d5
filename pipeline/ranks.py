"""The processes that train together, one a device, as `torchrun` starts them; by itself a process is the only one.

torchrun --nproc-per-node 4 -m stages train configs/mine.toml --student small
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from pipeline.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is. What all have to agree on is asked here, by all of them alike."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process reports and writes for all."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - what is asked
        """Whether any process says so."""
        return self.total(float(flag))[0] > 0

    def total(self, *values: float) -> list[float]:
        """Numbers summed over all processes.

        Raises:
            TrainingError: another process has ended.

        """
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        try:
            distributed.all_reduce(summed)
        except RuntimeError as error:
            raise TrainingError(
                f"Rank {self.rank} of {self.world} cannot reach the others: {' '.join(str(error).split())}. One of "
                "them has ended; its own message says why."
            ) from error
        return [float(value) for value in summed]

    def wait(self) -> None:
        """Go on when all are here: what the leader wrote before is there then."""
        self.total(0.0)

    def share(self, network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The same network, whose gradients are averaged over all processes."""
        if self.world == 1:
            return network
        # Without `find_unused_parameters` its buckets are rebuilt after the first step, so a run that goes on from a
        # checkpoint would sum in another order than one that never stopped.
        devices = None if device.type == "cpu" else [device]
        return torch.nn.parallel.DistributedDataParallel(network, devices, find_unused_parameters=True)


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes, if `torchrun` started some."""
    if not distributed.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
    try:
        yield ranks
        ranks.wait()
    finally:
        # Networks in cycles still hold the group; left to the interpreter's end, its threads would abort the process.
        gc.collect()
        distributed.destroy_process_group()
