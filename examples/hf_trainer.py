"""A label cache in the Hugging Face `Trainer`.

    make soft-labels
    .venv/bin/python -m pip install -c constraints.txt '.[transformers]'
    .venv/bin/python examples/hf_trainer.py [CONFIG]

`Trainer` takes a `Reader` as it takes any map-style dataset, with its own sampler and its own workers. What it needs
beside is a collator that turns a `Batch` into the dict it expects, and a subclass that knows our loss. With several
processes it repeats samples to even the last batch out; examples/ddp.py shows how none is.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from pipeline.config import Student, ViewSettings, load
from pipeline.losses import cross_entropy, kd
from pipeline.models import build
from pipeline.reader import Batch, Reader
from pipeline.sources import open_source, open_test
from pipeline.store.mapped import LabelCache
from pipeline.views import network_input


class DistillationTrainer(Trainer):
    """A `Trainer` of any module that answers inputs with logits: told by the teacher where there are soft labels.

    It reads `Reader`s: of the training set with a cache, of the test set without one. Whatever `args` say,
    `remove_unused_columns` is off, for a `Batch` has no columns, and `label_names` is `["labels"]`.
    """

    loss_is_scaled_for_ga = False  # ours is the mean of a batch, for Trainer to divide by its accumulation steps

    def __init__(
        self,
        *,
        args: TrainingArguments,
        student: Student,
        views: ViewSettings,
        **others: Any,  # noqa: ANN401 - whatever else Trainer takes
    ) -> None:
        args.remove_unused_columns = False
        args.label_names = ["labels"]
        super().__init__(args=args, data_collator=columns, compute_metrics=accuracy, **others)
        self.student, self.views = student, views

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer calls it so
        **_: object,
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean loss of a batch."""
        logits, labels_N = model(network_input(inputs["inputs"], self.views, channels_last=False)), inputs["labels"]
        if inputs["soft"] is None:
            loss = cross_entropy(logits, labels_N).mean()
        else:
            loss = kd(logits, inputs["soft"], labels_N, self.student.temperature, self.student.alpha).mean()
        return (loss, {"logits": logits}) if return_outputs else loss


def columns(batch: Batch) -> dict[str, Any]:
    """A batch as `Trainer` knows batches; soft labels have `.to` and `.pin_memory`, so they move with the tensors."""
    return {"inputs": batch.inputs_NX, "labels": batch.labels_N, "soft": batch.soft}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of samples whose largest logit is the true class's."""
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def main(config: Path) -> None:
    """Train and test one student."""
    experiment = load(config)
    student = experiment.students["distilled"]
    dataset = open_source(experiment.dataset)
    test = Reader(open_test(experiment, dataset))
    torch.manual_seed(student.seed)
    network = build(student.model, student.options, dataset.input_shape, dataset.classes)
    with TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            args=TrainingArguments(
                folder,
                num_train_epochs=student.epochs,
                per_device_train_batch_size=student.batch_size,
                per_device_eval_batch_size=student.batch_size,
                learning_rate=student.learning_rate,
                weight_decay=student.weight_decay,
                seed=student.seed,
                dataloader_num_workers=2,
                dataloader_pin_memory=torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
            ),
            student=student,
            views=experiment.views,
            model=network,
            train_dataset=Reader(dataset, LabelCache.open(experiment.cache.path)),
            eval_dataset=test,
        )
        trainer.train()
        print(f"accuracy on {len(test)} held-out samples: {trainer.evaluate()['eval_accuracy']:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "configs/digits.toml"))
