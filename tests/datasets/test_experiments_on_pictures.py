"""The tables of an experiment file that name pictures: what does not fit is refused, whatever the kind."""

from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.errors import ConfigError

TABLES = {
    "images": 'path = "x"\nsize = 4\ncrop = 1\ninterpolation = "lanczos"\ndamaged = "skip"',
    "webdataset": 'shards = "t-{08..10}.tar"\nsize = 4',
    "huggingface": 'path = "x"\ninput = "picture"\nlabel = "class"\nsize = 3\ninterpolation = "bicubic"',
}


@pytest.mark.parametrize(
    ("kind", "override", "said"),
    [
        ("images", "dataset.sise=3", "unknown key dataset.sise: did you mean size?"),
        ("images", "dataset.inputs=x", "unknown key dataset.inputs: "),
        ("images", "dataset.size=0", "dataset.size: found 0 (int), expected greater than 0."),
        ("images", "dataset.size=4.0", "dataset.size: found 4.0 (float), expected a valid integer."),
        ("images", "dataset.crop=0", "dataset.crop: found 0 (int), expected greater than 0."),
        ("images", "dataset.crop=1.1", "dataset.crop: found 1.1 (float), expected less than or equal to 1."),
        (
            "images",
            "dataset.interpolation=hamming",
            "dataset.interpolation: found 'hamming' (str), expected 'bilinear', 'bicubic'",
        ),
        ("images", "dataset.damaged=true", "dataset.damaged: found True (bool), expected 'refuse' or 'skip'."),
        ("images", "dataset.labelled=1", "dataset.labelled: found 1 (int), expected a valid boolean."),
        ("webdataset", "dataset.shard=3", "unknown key dataset.shard: did you mean shards?"),
        ("webdataset", "dataset.labelled=true", "unknown key dataset.labelled: "),
        ("webdataset", "dataset.shards=[]", "dataset.shards: found "),
        ("webdataset", "dataset.shards=3", "dataset.shards: found 3 (int), expected a list."),
        ("webdataset", "dataset.shards=[3]", "dataset.shards.0: found 3 (int), expected a path, in quotes."),
        ("webdataset", "dataset.crop=0", "dataset.crop: found 0 (int), expected greater than 0."),
        ("huggingface", "dataset.inputs=x", "unknown key dataset.inputs: did you mean input?"),
        ("huggingface", "dataset.labels=x", "unknown key dataset.labels: did you mean label?"),
        (
            "huggingface",
            "dataset.name=x",
            "dataset: expected either `path`, a folder, or `name`, that of a published dataset.",
        ),
        (
            "huggingface",
            "dataset={kind = 'huggingface', input = 'x'}",
            "dataset: expected either `path`, a folder, or `name`, that",
        ),
        (
            "huggingface",
            "dataset.config=x",
            "dataset: `config` chooses among those of a `name`; leave it out beside `path`.",
        ),
        ("huggingface", "dataset.size=0", "dataset.size: found 0 (int), expected greater than 0."),
        (
            "huggingface",
            "dataset={kind = 'huggingface', path = 'x'}",
            "the key dataset.input is missing; it is needed.",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_refused(kind: str, override: str, said: str, tmp_path: Path) -> None:
    """Law: the file, the key, what was found, what was expected."""
    path = tmp_path / "experiment.toml"
    path.write_text(
        f'[dataset]\nkind = "{kind}"\n{TABLES[kind]}\n'
        '[teacher]\nmodel = "mlp"\ncheckpoint = "t.safetensors"\n[cache]\npath = "c"\n'
    )
    load(path)
    with pytest.raises(ConfigError) as refusal:
        load(path, [override])
    assert str(refusal.value).startswith(f"{path}: {said}")
