"""Which parameters of a network decay: all, or all but biases, norms and what an experiment names.

Weight decay pulls a parameter towards zero. For a matrix that bounds what it can say; a bias or the scale of a norm has
no such reason, and those who train transformers leave these out (nanoGPT, timm).
"""

import difflib
from fnmatch import fnmatchcase

from torch import nn
from torch.optim.optimizer import ParamsT

from pipeline.errors import ConfigError
from pipeline.regimen import Training

NEAREST = 3
MATRIX = 2  # axes


def decaying(network: nn.Module, settings: Training) -> ParamsT:
    """The parameters of a network as its optimizer takes them: those that decay, then those that do not.

    Where all decay they are one list.

    Raises:
        ConfigError: a pattern of `no_decay` fits the name of no parameter.

    """
    if settings.decay == "all" and not settings.no_decay:
        return network.parameters()
    named = dict(network.named_parameters())
    for pattern in settings.no_decay:
        if not any(fnmatchcase(name, pattern) for name in named):
            raise ConfigError(_no_such_parameter(pattern, list(named), type(network).__name__))
    spared = {
        name: any(fnmatchcase(name, pattern) for pattern in settings.no_decay)
        or (settings.decay == "weights" and weight.dim() < MATRIX)
        for name, weight in named.items()
    }
    decayed, rest = ([weight for name, weight in named.items() if spared[name] is flag] for flag in (False, True))
    return [group for group in ({"params": decayed}, {"params": rest, "weight_decay": 0.0}) if group["params"]]


def _no_such_parameter(pattern: str, names: list[str], network: str) -> str:
    """What is said of a pattern that fits nothing."""
    near = difflib.get_close_matches(pattern, names, n=NEAREST, cutoff=0.0)
    return (
        f"no_decay: no parameter of {network} is named like {pattern!r}. The nearest are {', '.join(near) or 'none'}. "
        'Patterns are of whole names, where "*" stands for anything: mend this one, or leave it out.'
    )
