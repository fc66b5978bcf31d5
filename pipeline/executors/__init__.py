"""Executors run a plan, the list of shards that have no receipt yet: a table from a name to a function, one a file."""

from collections.abc import Callable, Mapping

from pipeline.executors.inline import run_inline

EXECUTORS: Mapping[str, Callable[..., bool]] = {"inline": run_inline}
