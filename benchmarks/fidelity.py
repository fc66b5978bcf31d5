"""What a byte of a label is worth, on rows of real teachers: an ImageNet classifier's and a language model's.

First three claims, side by side on the same rows. `sampled` against multinomial counts, of as many draws as come to
12, 20 and 50 different ids a row: with as many ids and with 0.6 of them, the variance of the weights, which is that
of the gradient by the logits. Rows have a record each; then the positions of a sequence share one, and so do a
thousand rows of the classifier, to show what that is worth. Bytes are against counts packed without room to spare.
And the error of the tail's mass at each temperature of the grid, of top-k labels and of probabilities renormalised.

Then the table and the plot that `softlabels fidelity` makes, of each teacher.

    make fidelity [QUICK=--quick]
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.results import FOLDER, Row, publish
from benchmarks.rows import classifier, language
from pipeline.encodings.ids import ids_array
from pipeline.fidelity import Fidelity, Method, compare, stored
from pipeline.labels import LabelSpec
from pipeline.rules import rule
from pipeline.store.layout import row_bytes
from stages.fidelity import GRID, kept, methods_for
from stages.report import Report

IDS, FEWER, SHARED = (12, 20, 50), 0.6, 1000
TABLE_ROWS, TABLE_DRAWS = 2000, 100
TABLE_TOKENS, TOKEN_DRAWS = 256, 25
QUICK_ROWS, QUICK_DRAWS = 64, 3
K = 16


def measured(logits_NC: torch.Tensor, method: Method, temperature: float = 1.0) -> Fidelity:
    """A method on rows without labels, once."""
    (found,) = compare(logits_NC, torch.full((len(logits_NC),), -1), [method], temperature, 2)
    return found


def draws_for(logits_NC: torch.Tensor, ids: int) -> int:
    """How many multinomial draws hit so many different classes of a row, on average: sum of 1 - (1 - p)^n."""
    p_NC = torch.softmax(logits_NC, dim=1)
    misses_NC, n = torch.ones_like(p_NC), 0
    while (1 - misses_NC).sum(dim=1).mean() < ids:
        misses_NC, n = misses_NC * (1 - p_NC), n + 1
    return n


def against_counts(name: str, logits_NC: torch.Tensor, positions: int | None, ids: int) -> Iterator[Row]:
    """`sampled` with as many ids as multinomial counts, and with 0.6 of them."""
    classes = logits_NC.shape[1]
    draws = draws_for(logits_NC, ids)
    counts = measured(logits_NC, stored("", LabelSpec("multinomial", classes, "float16", draws, (1.0,))))
    packed = counts.ids * (row_bytes(ids_array("ids", classes, 1)) + 1) + 1  # no room left: id and count, and a length
    for k in (ids, round(FEWER * ids)):
        ours = measured(logits_NC, stored("", LabelSpec("sampled", classes, "float16", k, (1.0,), positions=positions)))
        what = f"{name}: sampled, {ours.ids:.1f} ids, against {draws} draws, {counts.ids:.1f} ids"
        yield Row(f"{what}: variance", ours.variance, "", counts.variance, ours.variance / counts.variance)
        yield Row(f"{what}: bytes a row, these packed", ours.bytes, "bytes", packed, ours.bytes / packed)


def tails(name: str, logits_NC: torch.Tensor) -> Iterator[Row]:
    """The error of the tail's mass, by the grid and by renormalising."""
    classes = logits_NC.shape[1]
    for temperature in GRID:
        topk = measured(logits_NC, stored("", LabelSpec("topk", classes, "float32", K, GRID)), temperature)
        other = measured(logits_NC, rule("renormalised or re-tempered", K, classes), temperature)
        what = f"{name}: tail error at T = {temperature:g}, top-{K} with its grid, against renormalised"
        yield Row(what, topk.tail, "", other.tail, topk.tail / other.tail)


def tabled(name: str, logits_NC: torch.Tensor, labels_N: torch.Tensor, positions: int, draws: int) -> Report:
    """Every method at T = 1 and 4, kept with its plot."""
    found = []
    for temperature in (1.0, 4.0):
        labelled = bool((labels_N >= 0).any())
        methods = list(methods_for(logits_NC.shape[1], temperature, GRID, labelled=labelled, positions=positions))
        found += list(compare(logits_NC, labels_N, methods, temperature, draws))
    folder = FOLDER if draws > QUICK_DRAWS else Path("runs")
    return kept(found, len(logits_NC), draws, folder / f"fidelity_{name}")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help=f"{QUICK_ROWS} rows of each, {QUICK_DRAWS} draws; no figure is kept.")
def main(*, quick: bool) -> None:
    """Measure, print and keep."""
    images = torch.from_numpy(np.array(classifier()[: QUICK_ROWS if quick else TABLE_ROWS]))
    sequences, next_tokens, length = language()
    length = QUICK_ROWS if quick else length
    tokens, labels = (torch.from_numpy(np.array(each[:length])) for each in (sequences, next_tokens))
    shared = min(SHARED, len(images))
    kinds = [
        ("classifier", images, None),
        (f"classifier, {shared} rows a record", images, shared),
        ("language model", tokens, None),
        (f"language model, {length} positions a record", tokens, length),
    ]
    rows = [
        *(row for kind in kinds for ids in IDS for row in against_counts(*kind, ids)),
        *tails("classifier", images),
        *tails("language model", tokens),
    ]
    publish("fidelity", rows, keep=not quick)
    few = QUICK_ROWS if quick else TABLE_TOKENS
    print(tabled("classifier", images, torch.full((len(images),), -1), 1, QUICK_DRAWS if quick else TABLE_DRAWS).text)
    print(tabled("language", tokens[:few], labels[:few], few // 2, QUICK_DRAWS if quick else TOKEN_DRAWS).text)


if __name__ == "__main__":
    main()
