"""What the commands take, in words of click; this is its one door. What they do with it is in `stages.__main__`.

With `__main__` it is the door of the command line, and no stage.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline import __version__

__all__ = ["Abort", "UsageError", "door"]

Abort, UsageError = click.Abort, click.UsageError
Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

FILE = click.Path(path_type=Path)
AT_LEAST_1, AT_LEAST_2 = click.IntRange(min=1), click.IntRange(min=2)
SEED = click.IntRange(0, 2**63 - 1)


def door(text: str, epilog: str) -> click.Group:
    """The group of all commands."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
    group = click.Group("cli", help=text, epilog=epilog, context_settings=settings)
    click.version_option(__version__, prog_name="softlabels")(group)
    return group


def location(value: str) -> Path | str:
    """A path, or an address of an object store."""
    return value if "://" in value else Path(value)


def _all(*decorators: Decorator) -> Decorator:
    """Options in the order in which `--help` lists them."""

    def decorate(command: Command) -> Command:
        for each in reversed(decorators):
            command = each(command)
        return command

    return decorate


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of text.")
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set cache.path=caches/b."
)
experiment = _all(click.argument("config", type=FILE), overrides, as_json)
cache = _all(click.argument("cache", type=location), as_json)
copied = _all(as_json, click.argument("source", type=location), click.argument("dest", type=location))
workers = _all(
    click.option(
        "--workers",
        type=AT_LEAST_1,
        metavar="N",
        help="Have so many processes on this machine do it, each with a GPU of its own where there are any.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS|FILE",
        help="Have the workers of a Dask cluster do it: its scheduler's address, such as tcp://HOST:8786, or its file.",
    ),
)
views = click.option("--views", type=AT_LEAST_1, help="How many views it is to have. Default: no more.")
tokenized = _all(
    click.argument("sources", nargs=-1, required=True, metavar="SOURCES..."),
    click.option("--out", type=FILE, required=True, help="The folder to write: a new one."),
    click.option("--tokenizer", metavar="bytes|FILE", required=True, help='"bytes", or the path of a tokenizer.json.'),
    click.option(
        "--end", metavar="TOKEN", help="The token that ends a document. Default: the usual one that there is."
    ),
    click.option("--per-line", is_flag=True, help="Take each line of a text file for a document."),
    click.option(
        "--text-key", default="text", show_default=True, help="What holds the text in .jsonl, .csv and datasets."
    ),
    click.option("--label-key", metavar="KEY", help="What holds the class there. Default: documents have none."),
    click.option("--held-out", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Share for a test set."),
    as_json,
)
runs = click.option("--runs", type=FILE, help="Where run folders go. Default: runs/ and the config's name.")
looked_into = _all(
    click.option("--stats", is_flag=True, help="Read all of it, and say how sure and how right the labels are."),
    click.option(
        "--temperature",
        type=float,
        help="Of the softmax that --stats looks at. Default: 1, or the first that there is.",
    ),
    click.option("--plot", type=FILE, metavar="FILE.png", help="Draw calibration and entropy of --stats."),
)
clustered = _all(
    cache,
    click.option("--feature", metavar="NAME", help="A feature of the teacher. Default: the only one that there is."),
    click.option("--clusters", type=int, required=True, metavar="K", help="How many."),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Of the assignments: more is softer.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Of the start, and of the order of rows."),
    click.option("--passes", type=AT_LEAST_1, default=10, show_default=True, help="Over all rows, to find centres."),
    click.option("--out", type=location, metavar="ADDRESS", help="Where they go. Default: CACHE-clusters."),
)
teacher = click.option("--teacher", "config", type=FILE, metavar="CONFIG", help="Ask this experiment's teacher again.")
seed = click.option("--seed", type=SEED, default=0, show_default=True, help="Which random rows.")
compared = _all(
    click.option(
        "--temperature",
        "temperatures",
        type=click.FloatRange(min=0, min_open=True),
        multiple=True,
        default=(1.0, 4.0),
        show_default=True,
        help="Of the softmax to be kept; may be repeated.",
    ),
    click.option("--draws", type=AT_LEAST_2, default=100, show_default=True, help="How often to draw, for the bias."),
)
reported = _all(
    click.argument("what", type=location, metavar="CACHE|RUNS"),
    click.option("--out", type=location, metavar="FILE.html", help="Default: CACHE.html; report.html in RUNS."),
    as_json,
)
into = click.option("--into", type=FILE, help="Where files go. Default: in runs/ and the config's name.")


def restart(text: str) -> Decorator:
    """Begin anew."""
    return click.option("--restart", is_flag=True, help=text)


def students(text: str) -> Decorator:
    """Some of an experiment's."""
    return click.option("--student", "students", multiple=True, metavar="NAME", help=text)


def rows(default: int) -> Decorator:
    """How many of a cache or a dataset."""
    return click.option(
        "--rows", type=AT_LEAST_1, default=default, show_default=True, help="About so many random rows."
    )
