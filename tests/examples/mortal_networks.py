"""A network that kills its process in the middle of training, named in experiments as `mortal_networks:mlp`."""

import os
import signal
from pathlib import Path

from torch import Tensor, nn


class Mortal(nn.Sequential):
    """Logits of images, until the last process has asked for training so often; after as many lives it goes on."""

    def __init__(self, diary: str, lives: int, steps: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
        self.diary, self.lives, self.steps_left = Path(diary), lives, steps

    def forward(self, inputs_NX: Tensor) -> Tensor:
        """The logits, or the end."""
        self.steps_left -= self.training
        last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        deaths = self.diary.read_text().count("\n") if self.diary.exists() else 0
        if last and self.steps_left == 0 and deaths < self.lives:
            self.diary.write_text("died\n" * (deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs_NX)


def mlp(diary: str, lives: int = 0, steps: int = 1) -> nn.Module:
    """The network of an experiment."""
    return Mortal(diary, lives, steps)
