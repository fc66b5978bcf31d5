"""What a student minimises: a sum of losses, whose weights and temperatures may change over a run.

Shape legend
    N  rows (samples)
    C  classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.judges import Judge
from pipeline.labels import BlendedLabels, DenseLabels, Heard, MixedLabels, SoftLabels
from pipeline.losses import (
    LOSSES,
    Shares,
    blend,
    class_cost,
    cross_entropy,
    kl,
    prototypes,
    standardised,
    standardised_labels,
    sure,
)
from pipeline.reader import Reader
from pipeline.schedules import BEGIN, END, Progress, value_at
from pipeline.seeds import generator
from pipeline.terms import DIST, KD, WKD, Adversarial, Hard, Tempered, Term, Weak

MOST = 700  # costs, in units of the regularisation, beyond which exp(-cost) is nothing even in float64
SAMPLE = 4096  # rows whose logits tell which classes are alike
WANTED = {name: frozenset(signature(loss).parameters) for name, loss in LOSSES.items()}


@dataclass(frozen=True)
class Objective:
    """A loss as training wants it: from student logits [N, C], true labels [N] and soft labels to a value a row, [N].

    Args:
        terms: the summands, each with its weight.
        costs: for the place of each `wkd` among them, what it costs to take one class for another, [C, C].
        progress: how much of a run is done, where a weight or a temperature changes.
        judges: for the place of each `adversarial` term, who learns beside the student to tell it from the teacher.

    """

    terms: Sequence[Term]
    costs: Mapping[int, Tensor] = field(default_factory=dict)
    progress: Progress = BEGIN
    judges: Mapping[int, Judge] = field(default_factory=dict)

    def at(self, progress: Progress, judges: Mapping[int, Judge] | None = None) -> "Objective":
        """The same with the weights and temperatures that it has when so much of a run is done, and by these judges."""
        return replace(self, progress=progress, judges=self.judges if judges is None else judges)

    @property
    def identity(self) -> dict[str, str]:
        """What decides its value besides terms and labels: a digest of class costs that come from a file, if any do."""
        named = [place for place, term in enumerate(self.terms) if isinstance(term, WKD) and term.cost]
        digest = sha256(b"".join(self.costs[place].numpy().tobytes() for place in named))
        return {"class_costs": digest.hexdigest()} if named else {}

    @property
    def weak(self) -> tuple[Weak, ...]:
        """Those terms that hear the teacher of some rows only."""
        return tuple(term for term in self.terms if isinstance(term, Weak))

    @torch.no_grad()
    def heard(self, soft: Heard | None) -> Tensor | None:
        """How many rows there are, and of how many each `weak` term hears the teacher; None without such a term.

        Of several teachers, the mean by their weights.
        """
        if not self.weak or soft is None:
            return None
        if isinstance(soft, MixedLabels):
            parts = [part for each in soft.parts if (part := self.heard(each)) is not None]
            return torch.stack([w * part for part, w in zip(parts, soft.weights, strict=True)]).sum(dim=0)
        sure_N = [sure(soft, value_at(term.temperature, self.progress), term.threshold) for term in self.weak]
        return torch.stack([torch.ones_like(sure_N[0]), *sure_N]).sum(dim=1, dtype=torch.float32)

    def __call__(self, student_logits_NC: Tensor, labels_N: Tensor, soft: Heard | None) -> Tensor:
        """The sum, [N].

        Raises:
            ConfigError: a term asks the teacher and no soft labels were given, or these cannot serve it.

        """
        if isinstance(soft, SoftLabels) and (shares := self._shares(self.progress)):
            # Without the detour by names, which would take a fifth longer.
            hard_N = cross_entropy(student_logits_NC, labels_N)
            return shares.hard * hard_N + shares.soft * kl(student_logits_NC, soft, shares.temperature)
        total_N = None
        for place, term in enumerate(self.terms):
            if term.weight_at(self.progress):
                part_N = self._term(place, student_logits_NC, labels_N, soft)
                total_N = part_N if total_N is None else total_N + part_N
        return 0.0 * student_logits_NC.sum(dim=1) if total_N is None else total_N

    def blend(self, labels_N: Tensor, soft: Heard | None) -> BlendedLabels | None:
        """Dense labels as this loss weighs them throughout a run, for who reads ahead; None if only a step can tell."""
        shares = self._shares(BEGIN)
        if shares is None or shares != self._shares(END) or not isinstance(soft, DenseLabels):
            return None
        return blend(soft, labels_N, shares)

    def _shares(self, progress: Progress) -> Shares | None:
        """Of what most students are told, the sum of `hard` and `kd`, the shares; None of all other losses."""
        told = [(term, weight) for term in self.terms if (weight := term.weight_at(progress))]
        match told:
            case [(Hard(label_smoothing=0), hard), (KD(standardise=False) as kd, soft)]:
                temperature = value_at(kd.temperature, progress)
                return Shares(temperature, hard, soft * temperature**2)
        return None

    def _term(self, place: int, logits_NC: Tensor, labels_N: Tensor, soft: Heard | None) -> Tensor:
        """One summand, times its weight, [N]."""
        term = self.terms[place]
        if isinstance(soft, MixedLabels):
            if not term.serves:
                return self._term(place, logits_NC, labels_N, None)
            parts = zip(soft.parts, soft.weights, strict=True)
            return torch.stack([w * self._term(place, logits_NC, labels_N, part) for part, w in parts]).sum(dim=0)
        if term.serves and soft is None:
            raise ConfigError(
                f'The loss "{term.name}" needs soft labels and was given none. Train from a label cache, or set '
                'loss = "hard".'
            )
        if isinstance(term, Tempered) and term.standardise:
            assert soft is not None, "a tempered term asks the teacher"
            logits_NC, soft = standardised(logits_NC), standardised_labels(soft)
        given = {"student_logits_NC": logits_NC, "labels_N": labels_N, "labels": soft, **term.options(self.progress)}
        if place in self.costs:
            given["cost_CC"] = self.costs[place].to(logits_NC.device)
        if isinstance(term, Adversarial):
            given["judge"] = self._judge(place, logits_NC, labels_N, soft)
        loss_N: Tensor = LOSSES[term.name](**{name: given[name] for name in given.keys() & WANTED[term.name]})
        factor = term.weight_at(self.progress)
        if isinstance(term, Tempered) and term.squared:
            factor *= value_at(term.temperature, self.progress) ** 2
        return loss_N if factor == 1 else factor * loss_N

    def _judge(self, place: int, logits_NC: Tensor, labels_N: Tensor, soft: Heard | None) -> Judge:
        """Who judges this batch, once it has learned from it: every step of a student is one of its judge."""
        judge = self.judges.get(place)
        if judge is None or not isinstance(soft, DenseLabels):
            raise ConfigError(
                'The loss "adversarial" needs every logit of the teacher, and a judge. Train from dense labels, with '
                "the judges of `pipeline.judges`."
            )
        judge.learn(logits_NC, soft, labels_N)
        return judge


def objective(terms: Sequence[Term], reader: Reader, world: int = 1) -> Objective:
    """The loss of these terms, with the class costs of each `wkd`: from its file, or estimated from random labels.

    Args:
        terms: the summands.
        reader: of the labels to learn from.
        world: how many processes share a batch.

    Raises:
        ConfigError: a file is not there, or holds no square of finite costs, one for each pair of classes; or costs are
            so large beside the regularisation that the loss is no number; or a term compares rows that no process sees
            together.

    """
    costs = {}
    for place, term in enumerate(terms):
        if isinstance(term, DIST | Adversarial) and world > 1:
            does = "compares the rows of a batch" if isinstance(term, DIST) else "has a judge that learns from a batch"
            raise ConfigError(
                f'The loss "{term.name}" {does}, and {world} processes share each: none sees them all. '
                "Train this student in one process, or by another loss."
            )
        if isinstance(term, WKD):
            costs[place] = _read(term.cost, reader.spec.classes) if term.cost else _estimated(term, reader)
            _refuse_no_flow(term, costs[place])
    return Objective(terms, costs)


def _estimated(term: WKD, reader: Reader) -> Tensor:
    count = min(max(1, SAMPLE // (reader.dataset.positions or 1)), len(reader))
    chosen = generator("class costs").choice(len(reader), count, replace=False)
    sample = reader.__getitems__(np.sort(chosen)).soft
    assert isinstance(sample, DenseLabels), "only dense labels serve it"
    return class_cost(prototypes(sample.logits_NC), term.sharpness)


def _refuse_no_flow(term: WKD, costs_CC: Tensor) -> None:
    largest, most = costs_CC.max().item(), MOST * term.regularisation
    if largest > most:
        raise ConfigError(
            f'The loss "wkd" has class costs of up to {largest:g}, and nothing flows at more than {most:g}, which is '
            f"{MOST} times its regularisation. Raise regularisation, or have costs of at most about 1."
        )


def _read(path: Path, classes: int) -> Tensor:
    try:
        with path.open("rb") as file:
            costs = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: these class costs cannot be read: {error}. Write them with numpy.save.") from None
    shape, kind = costs.shape, costs.dtype.kind
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite, and refused
        costs_CC = costs.astype(np.float32) if kind in "iuf" else np.full(1, np.nan, np.float32)
    if shape != (classes, classes) or not np.isfinite(costs_CC).all() or (costs_CC < 0).any():
        raise ConfigError(
            f"{path} holds {shape} of kind {kind!r} where finite costs of at least 0 were expected, [{classes}, "
            f"{classes}], one for each pair of classes. Mend the file, or leave the key out to have them estimated."
        )
    return torch.from_numpy(costs_CC)
