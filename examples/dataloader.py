"""A label cache in a plain PyTorch loop.

    make soft-labels
    .venv/bin/python examples/dataloader.py [CONFIG]

A `Reader` is a map-style dataset that answers a whole batch at once, and `collate` is its `collate_fn`: the rest is any
`DataLoader`, with its own shuffle and its own workers. Trains the experiment's student `distilled` with all true labels
and those of the cache, and prints its accuracy on held-out samples.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pipeline.config import load
from pipeline.devices import pick_device
from pipeline.evaluation import evaluate
from pipeline.losses import kd
from pipeline.models import build
from pipeline.reader import Batch, Reader, collate
from pipeline.sources import open_source, open_test
from pipeline.store.mapped import LabelCache
from pipeline.training import OPTIMIZERS
from pipeline.views import network_input


def main(config: Path) -> None:
    """Train and test one student."""
    experiment = load(config)
    student = experiment.students["distilled"]
    dataset = open_source(experiment.dataset)
    reader = Reader(dataset, LabelCache.open(experiment.cache.path))
    loader: DataLoader[Batch] = DataLoader(
        reader,
        student.batch_size,
        shuffle=True,
        num_workers=2,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
    )

    torch.manual_seed(student.seed)
    device = pick_device(student.device)
    network = build(student.model, student.options, dataset.input_shape, dataset.classes).to(device)
    optimizer = OPTIMIZERS[student.optimizer](network.parameters(), student)
    for _ in range(student.epochs):
        network.train()
        for batch in (each.to(device, non_blocking=True) for each in loader):
            logits = network(network_input(batch.inputs_NX, experiment.views, channels_last=False))
            loss_N = kd(logits, batch.soft, batch.labels_N, student.temperature, student.alpha)
            optimizer.zero_grad()
            loss_N.mean().backward()
            optimizer.step()

    def predict(inputs_NX: NDArray[np.generic]) -> torch.Tensor:
        network.eval()
        return network(network_input(torch.from_numpy(inputs_NX).to(device), experiment.views, channels_last=False))

    test = open_test(experiment, dataset)
    print(f"accuracy on {len(test)} held-out samples: {evaluate(predict, test, student.batch_size).accuracy:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "configs/digits.toml"))
