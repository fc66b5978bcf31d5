"""Make the golden caches of the current format version; run once for each version, and what it makes is kept for ever.

    python tests/golden/make.py

Two views of 11 rows in shards of 8 and chunks of 4, for each encoding and dtype. `expected.json` says what is in
them: the SHA-256 of every array's values, and the cache id.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from read_elsewhere import digest  # noqa: E402
from river_cases import job_for, samples, told  # noqa: E402

from pipeline import encodings  # noqa: E402
from pipeline.labels import LabelSpec  # noqa: E402
from pipeline.store.canonical import FORMAT  # noqa: E402
from pipeline.store.mapped import LabelCache  # noqa: E402
from pipeline.store.writer import CacheWriter  # noqa: E402
from pipeline.views import fingerprints  # noqa: E402

FOLDER = HERE / FORMAT.replace("/", "-")
ROWS, VIEWS, CLASSES = 11, 2, 7
SPECS = {
    "dense-float16": LabelSpec("dense", CLASSES, "float16"),
    "dense-float32": LabelSpec("dense", CLASSES, "float32"),
    "topk-float16": LabelSpec("topk", CLASSES, "float16", 3, (1.0, 2.0, 4.0)),
    "topk-float32": LabelSpec("topk", CLASSES, "float32", 3, (1.0, 4.0)),
}


def make(path: Path, spec: LabelSpec) -> dict[str, object]:
    """A sealed cache, and what is in it."""
    dataset = samples(ROWS)
    job = job_for(dataset, spec).model_copy(update={"view_count": VIEWS})
    with CacheWriter.open(path, job, {"softlabels": "golden"}) as writer:
        for shard in writer.missing():
            rows = np.arange(shard.start, shard.stop)
            logits_NC = told(dataset.ids[rows] + 1000 * shard.view, CLASSES)
            record = encodings.encode(spec, logits_NC, torch.from_numpy(dataset.labels[rows]), dataset.ids[rows])
            block = {name: tensor.numpy() for name, tensor in record.items()}
            block |= {"sample_id": dataset.ids[rows], "label": dataset.labels[rows].astype(np.int32)}
            writer.commit(shard, block | {"input_crc32c": fingerprints(dataset.inputs(rows))}, 0.0)
        seal = writer.seal({})
    cache = LabelCache.open(path)
    views = [cache.gather(view, np.arange(ROWS)) for view in range(VIEWS)]
    arrays = {spec.name: digest(np.stack([view[spec.name] for view in views])) for spec in job.arrays}
    return {"cache_id": seal.cache_id, "arrays": arrays}


if __name__ == "__main__":
    expected = {name: make(FOLDER / name, spec) for name, spec in SPECS.items()}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
