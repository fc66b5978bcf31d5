"""A label cache in a Lightning `Trainer`.

    make soft-labels
    .venv/bin/python -m pip install -c constraints.txt '.[lightning]'
    .venv/bin/python examples/lightning_module.py [CONFIG]

Lightning hands a `Batch` to `training_step` as it is, on the right device: it moves whatever has `.to`. `EpochSampler`
shares the batches among the processes, if there are several, so Lightning is told to keep its own sampler out, and to
ask for the loader once an epoch, because it does not tell a batch sampler which epoch it is.
"""

import sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

from pipeline.config import Experiment, Student, load
from pipeline.datasets import Dataset
from pipeline.losses import kd
from pipeline.models import build
from pipeline.order import EpochSampler
from pipeline.reader import Batch, Reader, collate
from pipeline.sources import open_source, open_test
from pipeline.store.mapped import LabelCache
from pipeline.training import OPTIMIZERS
from pipeline.views import network_input


class Distillation(lightning.LightningModule):
    """A student of the experiment."""

    def __init__(self, experiment: Experiment, student: Student, dataset: Dataset) -> None:
        super().__init__()
        self.experiment, self.student, self.dataset = experiment, student, dataset
        self.network = build(student.model, student.options, dataset.input_shape, dataset.classes)

    def forward(self, inputs_NX: torch.Tensor) -> torch.Tensor:
        """Logits [N, C] of inputs as the dataset stores them."""
        return self.network(network_input(inputs_NX, self.experiment.views, channels_last=False))

    def training_step(self, batch: Batch) -> torch.Tensor:
        """The mean loss of this process's share of a batch."""
        logits, student = self(batch.inputs_NX), self.student
        return kd(logits, batch.soft, batch.labels_N, student.temperature, student.alpha).mean()

    def test_step(self, batch: Batch) -> None:
        """Whose largest logit is the true class's."""
        right_N = self(batch.inputs_NX).argmax(dim=1) == batch.labels_N
        self.log("accuracy", right_N.float().mean(), batch_size=len(right_N), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As the experiment says."""
        return OPTIMIZERS[self.student.optimizer](self.parameters(), self.student)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The epoch's batches, or this process's share of each."""
        reader = Reader(self.dataset, LabelCache.open(self.experiment.cache.path))
        ranks = {"rank": self.trainer.global_rank, "world": self.trainer.world_size}
        sampler = EpochSampler(len(reader), self.student.batch_size, seed=self.student.seed, **ranks)
        sampler.set_epoch(self.current_epoch)
        return DataLoader(reader, batch_sampler=sampler, num_workers=2, collate_fn=collate)


def main(config: Path) -> None:
    """Train and test one student."""
    experiment = load(config)
    student = experiment.students["distilled"]
    dataset = open_source(experiment.dataset)
    lightning.seed_everything(student.seed)
    module = Distillation(experiment, student, dataset)
    trainer = lightning.Trainer(
        max_epochs=student.epochs,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(module)
    test = Reader(open_test(experiment, dataset))
    results = trainer.test(module, DataLoader(test, student.batch_size, collate_fn=collate), verbose=False)
    print(f"accuracy on {len(test)} held-out samples: {results[0]['accuracy']:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "configs/digits.toml"))
