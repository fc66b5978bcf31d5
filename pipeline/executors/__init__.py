"""Executors run a plan, the list of shards that have no receipt yet: a table from a name to a function, one a file.

Both run the same plan, and one shard by the same function: a worker of a cluster runs its shard as `inline` does. So a
cache is the same to the byte whoever made it, on the same kind of device and with the same number of threads.
"""

from collections.abc import Callable, Mapping

from pipeline.executors.dask import run_dask
from pipeline.executors.inline import run_inline

EXECUTORS: Mapping[str, Callable[..., bool]] = {"inline": run_inline, "dask": run_dask}
