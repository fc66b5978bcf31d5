"""What each rank of `tests/test_ranks.py` runs: a small course, which one of them may be asked to stop.

python tests/rank_cases.py FOLDER STEPS RANK: train in FOLDER, and after STEPS steps of this call ask RANK to stop; for
`broken` in place of STEPS, the loss of RANK is no number from its second step on.
"""

import math
import sys
from pathlib import Path

import torch
from river_cases import CLASSES, samples
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.config import ViewSettings
from pipeline.course import Watch, teach
from pipeline.labels import SoftLabels
from pipeline.lesson import Lesson
from pipeline.ranks import Ranks, joined
from pipeline.reader import Reader
from pipeline.regimen import Training
from pipeline.runs import Metrics, Run

SETTINGS = Training(epochs=2, batch_size=16, learning_rate=0.05, optimizer="sgd", device="cpu", clip_norm=1.0)
VIEWS = ViewSettings(mean=3000.0, std=2000.0)


def network(dropout: float = 0.0) -> nn.Module:
    """Nothing that looks at a batch as a whole."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Dropout(dropout), nn.Linear(8, CLASSES)
    )


def go(folder: Path, ranks: Ranks, steps: float, asked: int, broken: int | None = None) -> list[Metrics | None]:
    """Two students in one class, of 35 rows: batches of 16, 10 and 9, so that shares differ."""
    taken: list[int] = []

    def loss(logits_NC: torch.Tensor, labels_N: torch.Tensor, _: SoftLabels | None) -> torch.Tensor:
        factor = math.nan if ranks.rank == broken and taken else 1.0
        return factor * F.cross_entropy(logits_NC, labels_N, reduction="none")

    watch = Watch(lambda: ranks.rank == asked and len(taken) >= steps, taken.append)
    plain = Lesson(network, loss, soft=False, test=samples(12, seed=1))
    lessons = {"plain": plain, "dropout": Lesson(lambda: network(0.2), loss, soft=False)}
    entries = [
        (Run(folder / name, folder / name / "w.safetensors", {}, "", SETTINGS, VIEWS, 0), lesson)
        for name, lesson in lessons.items()
    ]
    return teach(entries, Reader(samples(35)), watch, 1, ranks)


if __name__ == "__main__":
    with joined() as ranks:
        broken = sys.argv[2] == "broken"
        rank = int(sys.argv[3])
        steps = math.inf if broken else float(sys.argv[2])
        found = go(Path(sys.argv[1]), ranks, steps, rank, rank if broken else None)
        assert found[0] is None or found[0]["true_labels"] == 35
