"""A label cache in many processes: DistributedDataParallel through `torchrun`, on GPUs or on cores.

    make soft-labels
    .venv/bin/torchrun --standalone --nproc-per-node 2 examples/ddp.py [CONFIG [CHECKPOINT]]

However many processes there are, every sample is seen once an epoch and every step is that of one process with the
whole batch: `EpochSampler` shares each batch of one global order, and a rank's loss counts by its rows. So the weights
come out the same but for rounding, in networks without batch norm, which looks at its own share alone.

A lost process costs the steps since the last checkpoint: the same command goes on from there, in the middle of an epoch
and, if need be, with another number of processes.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from pipeline.config import load
from pipeline.evaluation import evaluate
from pipeline.losses import kd
from pipeline.models import build
from pipeline.order import EpochSampler
from pipeline.reader import Batch, Reader, collate
from pipeline.sources import open_source, open_test
from pipeline.store.mapped import LabelCache
from pipeline.training import predictor, start

SAVE_STEPS = 20


def main(config: Path, checkpoint: Path) -> None:
    """Train one student in all processes, and test it in the first."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()

    experiment = load(config)
    student = experiment.students["distilled"]
    dataset = open_source(experiment.dataset)
    reader = Reader(dataset, LabelCache.open(experiment.cache.path))
    sampler = EpochSampler(len(reader), student.batch_size, seed=student.seed, rank=rank, world=world)
    loader: DataLoader[Batch] = DataLoader(reader, batch_sampler=sampler, num_workers=1, collate_fn=collate)

    torch.manual_seed(student.seed)
    network = build(student.model, student.options, dataset.input_shape, dataset.classes)
    learner = start(network, student, experiment.views, student.epochs * sampler.steps)
    state = {"epoch": 0, "step": 0}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        learner.load_state(state["learner"])

    checkpoint.parent.mkdir(parents=True, exist_ok=True)

    def save(epoch: int, step: int) -> None:
        part = checkpoint.with_suffix(".part")
        torch.save({"learner": learner.state(), "epoch": epoch, "step": step}, part)
        part.replace(checkpoint)  # a process that dies before this leaves the last checkpoint whole

    replica, done = DistributedDataParallel(network), state["step"]
    for epoch in range(state["epoch"], student.epochs):
        sampler.set_epoch(epoch, done)
        for step, batch in enumerate((each.to(learner.device) for each in loader), done + 1):
            logits = replica(learner.input(batch.inputs_NX))
            loss_N = kd(logits, batch.soft, batch.labels_N, student.temperature, student.alpha)
            learner.optimizer.zero_grad()
            # The mean of these over the ranks is the mean over the whole batch, though their shares differ by a row.
            (loss_N.sum() * world / sampler.rows(step - 1)).backward()
            learner.optimizer.step()
            learner.schedule.step()
            if rank == 0 and step % SAVE_STEPS == 0:
                save(epoch, step)
        done = 0
    if rank == 0:
        save(student.epochs, 0)
    distributed.destroy_process_group()

    if rank == 0:
        test = open_test(experiment, dataset)
        found = evaluate(predictor(learner), test, student.batch_size).accuracy
        print(f"accuracy on {len(test)} held-out samples: {found:.4f}")


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    config = given[0] if given else Path("configs/digits.toml")
    main(config, given[1] if given[1:] else Path("runs", f"{config.stem}-ddp.pt"))
