"""Several networks as one teacher: what is cached is their mixture.

Shape legend: N rows, L positions, C classes, E width of what last layers are given, M members.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


def mean_of_probabilities(logits_MNC: Tensor, weights_M: Tensor) -> Tensor:
    """Log sum w_m softmax(z_m), [N, C]: its softmax is the mean of the members' probabilities.

    At temperature 1. At another one, students see the mixture tempered, not a mixture of tempered answers.
    """
    shape = (-1, *(1,) * (logits_MNC.ndim - 1))
    return torch.logsumexp(torch.log_softmax(logits_MNC, dim=-1) + weights_M.log().view(shape), dim=0)


def mean_of_logits(logits_MNC: Tensor, weights_M: Tensor) -> Tensor:
    """Sum w_m z_m, [N, C]: its softmax is the members' geometric mean, at every temperature."""
    mixed: Tensor = torch.tensordot(weights_M, logits_MNC, dims=1)
    return mixed


MIXTURES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"probabilities": mean_of_probabilities, "logits": mean_of_logits}
)


class Ensemble(nn.Module):
    """Networks that are asked one after the other; it answers with their mixture in float32.

    Args:
        members: each maps the same inputs to logits [N, C], or [N, L, C]; of a padded vocabulary to more.
        weights: what each counts for; they are scaled to a sum of one.
        mixture: which mean is taken.
        classes: how many logits count.

    Raises:
        ConfigError: members of different tokenizers.

    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], mixture: str, classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.tensor(weights) / sum(weights), persistent=False)
        self.mixture, self.classes = mixture, classes
        known = sorted({digest for each in members if (digest := getattr(each, "tokenizer_sha256", None))})
        if len(known) > 1:
            raise ConfigError(
                f"teacher.members have different tokenizers ({', '.join(each[:12] for each in known)}): the same ids "
                "are other words to each. Name members of one tokenizer."
            )
        self.tokenizer_sha256 = known[0] if known else None
        self.widths: list[int] = []
        if all(hasattr(each, "hidden") and hasattr(each, "head") for each in members):
            self.hidden, self.head = self._hidden, self._head

    def forward(self, inputs: Tensor) -> Tensor:
        """`[N, *input]` to `[N, C]`, or to `[N, L, C]`."""
        return self._mixed([member(inputs) for member in self.members])

    def _hidden(self, inputs: Tensor) -> Tensor:
        """`[N, *input]` to what the members' last layers are given, side by side, `[N, L, E]`."""
        parts = [member.hidden(inputs) for member in self.members]  # type: ignore[operator]  # a module's own
        self.widths = [part.shape[-1] for part in parts]
        return torch.cat(parts, dim=-1)

    def _head(self, hidden_NLE: Tensor) -> Tensor:
        """That to `[N, L, C]`, of any part of the positions."""
        parts = torch.split(hidden_NLE, self.widths, dim=-1)
        return self._mixed([member.head(part) for member, part in zip(self.members, parts, strict=True)])  # type: ignore[operator]

    def _mixed(self, answers: Sequence[Tensor]) -> Tensor:
        logits = torch.stack([each[..., : self.classes].float() for each in answers])
        return MIXTURES[self.mixture](logits, self.get_buffer("weights"))
