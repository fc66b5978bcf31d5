"""What a student may be told, as settings: weights, defaults, and which labels serve what."""

import re
from inspect import Parameter, signature

import numpy as np
import pytest
import torch

from pipeline import encodings
from pipeline.errors import ConfigError
from pipeline.judges import judges_of
from pipeline.labels import LabelSpec
from pipeline.losses import LOSSES, class_cost
from pipeline.objective import Objective
from pipeline.schedules import Progress
from pipeline.terms import TERMS, Tempered, Term, one_term, refuse_beside_clusters, refuse_unserved, served

CLASSES = 6
GRID = (1.0, 2.0)
SPECS = {
    "dense": LabelSpec("dense", CLASSES, "float32"),
    "dense int8": LabelSpec("dense", CLASSES, "int8"),
    "topk": LabelSpec("topk", CLASSES, "float16", 3, GRID),
    "topk standardised": LabelSpec("topk", CLASSES, "int8", 3, GRID, standardised=True),
    "head+sampled": LabelSpec("head+sampled", CLASSES, "float16", 2, GRID, tail=2),
    "head+sampled standardised": LabelSpec("head+sampled", CLASSES, "float16", 2, GRID, tail=2, standardised=True),
    "sampled": LabelSpec("sampled", CLASSES, "float16", 3, (2.0,)),
    "sampled, to be standardised": LabelSpec("sampled", CLASSES, "float16", 3, (2.0,), standardised=True),
    "multinomial": LabelSpec("multinomial", CLASSES, "float16", 8, (2.0,)),
}
TENSORS = {"student_logits_NC", "labels", "labels_N", "cost_CC", "judge"}


def term(name: str, **settings: object) -> Term:
    """A term as an experiment names it."""
    return TERMS[name].model_validate({"name": name, **settings})


def test_a_weight_is_a_number_or_a_ramp() -> None:
    """A number stays as it is."""
    assert [term("kd", weight=0.7).weight_at(Progress(share)) for share in (0.0, 1.0)] == [0.7, 0.7]
    assert term("kd", weight={"start": 1, "end": 0}).weight_at(Progress(0.25)) == 0.75


def test_every_loss_has_its_term_under_its_name() -> None:
    """Law: the two tables have the same names, in the same order, and each term is made by its own."""
    assert list(TERMS) == list(LOSSES)
    assert [term(name).name for name in TERMS] == list(TERMS)


@pytest.mark.parametrize("name", TERMS)
def test_the_options_of_a_term_are_those_of_its_loss(name: str) -> None:
    """Law: the same names as the function's parameters that are no tensors, and its defaults where it has any."""
    options = term(name).options()
    wanted = {key: each.default for key, each in signature(LOSSES[name]).parameters.items() if key not in TENSORS}
    assert options.keys() == wanted.keys()
    defaults = {key: value for key, value in wanted.items() if value is not Parameter.empty}
    assert {key: options[key] for key in defaults} == defaults


@pytest.mark.parametrize("name", TERMS)
def test_a_name_is_that_term_beside_the_true_labels(name: str) -> None:
    """Law: (1 - alpha) hard + alpha of it, at the temperature if it has one; alone if it does not ask the teacher."""
    *hard, last = one_term(name, 3.0, 0.75)
    assert (last.name, getattr(last, "temperature", 3.0)) == (name, 3.0)
    if last.serves:
        assert [(each.name, each.weight) for each in hard] == [("hard", 0.25)]
        assert last == term(name, weight=0.75, **{key: 3.0 for key in ("temperature",) if hasattr(last, key)})
    else:
        assert (hard, last) == ([], term(name))


ANY, ALWAYS = "any temperature", "always"
LSKD = "any temperature, standardised too"
ON_GRID, AT_TWO = "temperature 1, 2", "temperature 2"
WHOLE = "not from these labels: it needs dense"
BOUNDED = f"{WHOLE} or topk or head+sampled"
TEMPERED = ("kd", "soft", "reverse_kl", "jsd", "skew_kl", "tv", "dkd")
ALONE = {"hard": ALWAYS, "entropy": ALWAYS}
NOT_WHOLE = dict.fromkeys(("dist", "wkd", "adversarial"), WHOLE)
SPARSE = dict.fromkeys(TEMPERED, ON_GRID) | {"mse": ALWAYS, "weak": ON_GRID} | NOT_WHOLE
DRAWN = dict.fromkeys((*TEMPERED, "mse", "weak"), BOUNDED) | {"kd": AT_TWO, "soft": AT_TWO} | NOT_WHOLE
DENSE = dict.fromkeys((*TEMPERED, "dist", "wkd"), LSKD) | {"mse": ALWAYS, "weak": ANY, "adversarial": ALWAYS}
STANDARD = SPARSE | dict.fromkeys(TEMPERED, f"{ON_GRID}, standardised too")
WORDS = {
    "dense": DENSE,
    "dense int8": DENSE,
    "topk": SPARSE,
    "topk standardised": STANDARD,
    "head+sampled": SPARSE,
    "head+sampled standardised": STANDARD,
    "sampled": DRAWN,
    "sampled, to be standardised": DRAWN,
    "multinomial": DRAWN,
}


def words_of(labels: LabelSpec) -> dict[str, str]:
    """What `plan` and `inspect` print."""
    return served(labels.encoding, labels.temperatures, standardised=labels.standardised)


@pytest.mark.parametrize("kind", SPECS)
def test_what_labels_serve_is_said_of_every_loss(kind: str) -> None:
    """Word for word."""
    assert words_of(SPECS[kind]) == ALONE | WORDS[kind]


def accepts(labels: LabelSpec, asked: Term) -> tuple[bool, bool, bool]:
    """Whether labels serve a term: as `served` says, as `refuse_unserved` decides, as the loss itself does."""
    words = words_of(labels)[asked.name]
    listed = [float(number) for number in re.findall(r"\d[\d.]*", words)]
    on_grid = not words.startswith("temperature") or getattr(asked, "temperature", None) in listed
    standard = not getattr(asked, "standardise", False) or "standardised too" in words
    said = not words.startswith("not") and on_grid and standard
    try:
        refuse_unserved("students.one.loss", [asked], labels)
    except ConfigError:
        decided = False
    else:
        decided = True
    return said, decided, computes(labels, asked)


def computes(labels: LabelSpec, asked: Term) -> bool:
    """Whether the loss gives a finite number a row, of rows that went through the encoding; else it refuses."""
    random = torch.Generator().manual_seed(0)
    logits_NC, student_NC = (3 * torch.randn(5, CLASSES, generator=random) for _ in range(2))
    true_N = torch.tensor([0, 5, -1, 2, 2])
    soft = encodings.decode(labels, encodings.encode(labels, logits_NC, true_N, np.arange(5)))
    judges = judges_of([asked], CLASSES, 0, torch.device("cpu"))
    told = Objective([asked], {0: class_cost(logits_NC.T)} if asked.name == "wkd" else {}, judges=judges)
    try:
        loss_N = told(student_NC, true_N, soft)
    except ConfigError:
        return False
    assert loss_N.shape == (5,)
    assert loss_N.isfinite().all()
    return True


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("name", TERMS)
def test_what_is_said_to_be_served_is_what_is_served(name: str, kind: str) -> None:
    """Law: words, the refusal before training and the loss itself agree, at each temperature, standardised and not."""
    changes = [{"temperature": t} for t in (1.0, 2.0, 3.0)] if "temperature" in TERMS[name].model_fields else [{}]
    if issubclass(TERMS[name], Tempered):
        changes = [change | {"standardise": each} for change in changes for each in (False, True)]
    for change in changes:
        assert len(set(accepts(SPECS[kind], term(name, **change)))) == 1, change


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        (
            "sampled",
            term("jsd"),
            (
                'students.one.loss: the loss "jsd" cannot be had from "sampled" labels. These serve hard, kd, soft, '
                "entropy; for it, generate labels with labels.encoding = 'dense' or 'topk' or 'head+sampled'."
            ),
        ),
        (
            "topk",
            term("dist"),
            (
                'students.one.loss: the loss "dist" cannot be had from "topk" labels. These serve hard, kd, soft, '
                "reverse_kl, jsd, skew_kl, tv, mse, dkd, weak, entropy; for it, generate labels with labels.encoding = "
                "'dense'."
            ),
        ),
        (
            "head+sampled",
            term("kd", temperature=2.5),
            (
                'students.one.loss: these "head+sampled" labels cannot serve temperature 2.5: the probabilities they '
                "know are those at 1, 2. Train at one of these, or generate labels with this one in "
                "labels.temperatures."
            ),
        ),
        (
            "topk",
            term("kd", temperature=2, standardise=True),
            (
                'students.one.loss: these "topk" labels cannot be standardised: the sums of standardised logits were '
                'not kept. Generate labels with labels.encoding = "topk" and labels.standardised = true, or with '
                'labels.encoding = "dense".'
            ),
        ),
        ("multinomial", term("soft", temperature=2, standardise=True), '"multinomial" labels cannot be standardised'),
    ],
)
def test_what_labels_cannot_serve_is_refused_with_what_can(kind: str, asked: Term, said: str) -> None:
    """Law: the key, the term and the labels are named, and what to do; terms before it that are served do not help."""
    with pytest.raises(ConfigError) as refusal:
        refuse_unserved("students.one.loss", [term("hard"), asked], SPECS[kind])
    assert said in str(refusal.value)


def test_terms_that_ask_for_true_labels_say_so() -> None:
    """Law: those whose functions are given them, and no others."""
    assert {name for name, kind in TERMS.items() if kind.truth} == {
        name for name, loss in LOSSES.items() if "labels_N" in signature(loss).parameters
    }


@pytest.mark.parametrize("name", [name for name, kind in TERMS.items() if kind.truth])
def test_what_asks_for_true_labels_says_nothing_of_clusters(name: str) -> None:
    """Law: refused by its name, unless it has no weight."""
    refuse_beside_clusters((term("kd"), term(name, weight=0.0)), ())
    with pytest.raises(ValueError, match=rf'the loss "{name}" asks for true labels'):
        refuse_beside_clusters((term("kd"), term(name)), ())
    with pytest.raises(ValueError, match="its loss asks none"):
        refuse_beside_clusters((term("entropy"),), ())
    with pytest.raises(ValueError, match="finetune is about classes"):
        refuse_beside_clusters((term("kd"),), ("finetune",))
