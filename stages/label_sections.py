"""What a cache's labels say, as sections of its page: of classes, how sure and how right; of clusters, how large."""

from collections.abc import Iterator

import numpy as np

from pipeline import plots
from pipeline.audit.statistics import Statistics
from pipeline.pages import cut, glossary, grid, heading, paragraph, picture
from stages.look_into_cache import CONFUSED, HEADER, MOST_LISTED, classes, confused, drawn, overall
from stages.report import counted


def said(found: Statistics) -> Iterator[str]:
    """How sure the labels are, and how right."""
    yield heading("How sure and how right its labels are")
    yield picture(drawn(found), "accuracy by confidence, and rows by entropy")
    yield glossary(overall(found))
    yield paragraph(found.known)
    if found.labelled:
        yield grid(HEADER, [[cut(cell) for cell in row] for row in classes(found)])
    if found.confused:
        yield grid(CONFUSED, [[cut(cell) for cell in row] for row in confused(found)])


def clusters(found: Statistics) -> Iterator[str]:
    """How large clusters are, and how sure rows are of theirs."""
    sizes = found.likeliest
    order = np.argsort(-sizes, kind="stable").tolist()
    listed = order if len(order) <= MOST_LISTED else order[: MOST_LISTED // 2] + order[-MOST_LISTED // 2 :]
    yield heading("How large its clusters are")
    yield picture(plots.sizes(sizes.tolist()), f"rows of {counted(sizes.size, 'cluster')}, the largest first")
    yield glossary(overall(found))
    yield paragraph(found.known)
    share = max(found.rows, 1)
    rows = [[f"cluster {place}", f"{int(sizes[place]):,}", f"{sizes[place] / share:.2%}"] for place in listed]
    yield grid(["the largest and the smallest" if len(listed) < len(order) else "", "rows", "share"], rows)
