"""Discriminators that learn beside a student to tell its logits from the teacher's, for the loss "adversarial".

A judge is thrown away when its student is done. What it knows and how it learns is part of the student's checkpoint, so
that a run which goes on is the run that was never stopped. Not for students that several processes share: each would
have a judge of its own.

Shape legend
    N  rows (samples)
    C  classes
    V  of a verdict: 1 + C (`pipeline.losses.adversarial`)
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.labels import DenseLabels
from pipeline.losses.adversarial import told_apart
from pipeline.seeds import seed_of
from pipeline.terms import Adversarial, Term

BETAS = (0.5, 0.999)  # the student moves, so a judge does well to forget (Radford et al. 2016, arXiv 1511.06434)


class Judge:
    """A perceptron of two hidden layers over logits, counted from their mean, with its own optimizer.

    Args:
        classes: how many logits there are.
        hidden: the width of its layers.
        learning_rate: of its own.
        device: where the logits are.

    """

    def __init__(self, classes: int, hidden: int, learning_rate: float, device: torch.device) -> None:
        widths = (classes, hidden, hidden)
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.network = nn.Sequential(*layers, nn.Linear(hidden, 1 + classes)).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate, betas=BETAS)

    def __call__(self, logits_NC: Tensor) -> Tensor:
        """The verdict on each row, [N, V]; a gradient goes to the logits alone."""
        fixed = {name: weight.detach() for name, weight in self.network.named_parameters()}
        verdict_NV: Tensor = torch.func.functional_call(self.network, fixed, (_centred(logits_NC),))
        return verdict_NV

    def learn(self, student_logits_NC: Tensor, labels: DenseLabels, labels_N: Tensor) -> None:
        """One step at telling a batch's rows of the student from the teacher's."""
        sides = ((labels.logits_NC, True), (student_logits_NC.detach(), False))
        verdicts = [(self.network(_centred(logits_NC)), teacher) for logits_NC, teacher in sides]
        loss = torch.stack([told_apart(verdict, labels_N, teacher=teacher).mean() for verdict, teacher in verdicts])
        self.optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """All that its next step depends on."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def judges_of(terms: Sequence[Term], classes: int, seed: int, device: torch.device) -> dict[int, Judge]:
    """For the place of each adversarial term of a loss, its judge at its first step, as a seed decides it."""
    judges = {}
    for place, term in enumerate(terms):
        if isinstance(term, Adversarial):
            torch.manual_seed(seed_of("judge", seed, place))
            judges[place] = Judge(classes, term.hidden, term.learning_rate, device)
    return judges


def _centred(logits_NC: Tensor) -> Tensor:
    """What a softmax makes of them does not depend on their mean, nor should who they are taken for."""
    return logits_NC.float() - logits_NC.float().mean(dim=1, keepdim=True)
