"""Every valid experiment, as the tables that a file holds."""

from hypothesis import strategies as st

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
paths = st.from_regex(r"(/|\.\./)?[a-z][a-z0-9 ._é-]{0,8}(/[a-z0-9-]{1,6}){0,2}", fullmatch=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
fractions = st.floats(0, 1)
counts = st.integers(1, 2**40)
seeds = st.integers(0, 2**62 - 1)
values = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
options = st.dictionaries(texts, values, max_size=3)
said = {"classes": st.integers(2, 2**31 - 1), "class_names": st.lists(texts, max_size=3), "version": texts}
sources = st.one_of(
    st.fixed_dictionaries({"kind": st.just("digits")}, optional={"part": st.sampled_from(["train", "test"]), **said}),
    st.fixed_dictionaries({"kind": st.just("digits"), "without": st.lists(st.integers(0, 2**40), max_size=3)}),
    st.fixed_dictionaries({"kind": st.just("idx"), "inputs": paths}, optional={"labels": paths, **said}),
    st.fixed_dictionaries({"kind": st.just("hdf5"), "path": paths, "inputs": texts}, optional={"ids": texts, **said}),
    st.fixed_dictionaries({"kind": st.just("npy"), "inputs": paths}, optional={"labels": paths, "ids": paths, **said}),
    st.fixed_dictionaries({"kind": st.just("zarr"), "inputs": paths}, optional={"ids": paths, **said}),
    st.fixed_dictionaries(
        {"kind": st.just("tokens"), "path": paths, "length": st.integers(2, 2**31 - 1)},
        optional={
            "layout": st.sampled_from(["packed", "documents"]),
            "long": st.sampled_from(["cut", "refuse"]),
            "dtype": st.sampled_from(["uint16", "uint32", "int32", "int64"]),
            "vocabulary": st.integers(2, 2**31 - 1),
            "end": st.integers(0, 2**31 - 1),
            "mask": paths,
            **said,
        },
    ),
    st.fixed_dictionaries({"kind": st.just("own.data:Set")}, optional={"options": options, **said}),
)
devices = st.sampled_from(["auto", "cpu", "cuda", "mps"])
precisions = st.sampled_from(["float32", "bfloat16", "float16"])
training = {
    "epochs": counts,
    "batch_size": counts,
    "learning_rate": positive,
    "seed": seeds,
    "optimizer": st.sampled_from(["adamw", "sgd"]),
    "momentum": fractions,
    "weight_decay": st.floats(0, allow_infinity=False),
    "decay": st.sampled_from(["all", "weights"]),
    "no_decay": st.lists(texts.filter(bool), max_size=2),
    "schedule": st.sampled_from(["cosine", "constant"]),
    "warmup": fractions,
    "clip_norm": positive,
    "precision": precisions,
    "channels_last": st.booleans(),
    "device": devices,
}
weights = st.floats(-9, 9) | st.fixed_dictionaries(
    {"start": st.floats(-9, 9), "end": st.floats(-9, 9)}, optional={"schedule": st.sampled_from(["linear", "cosine"])}
)
temperatures = positive | st.fixed_dictionaries(
    {"start": positive, "end": positive}, optional={"by": st.sampled_from(["step", "epoch"])}
)
terms = st.one_of(
    st.fixed_dictionaries({"name": st.just("hard")}, optional={"weight": weights, "label_smoothing": st.just(0.1)}),
    st.fixed_dictionaries(
        {"name": st.sampled_from(["kd", "dkd"])},
        optional={"weight": weights, "temperature": temperatures, "standardise": st.booleans()},
    ),
    st.fixed_dictionaries({"name": st.just("wkd")}, optional={"cost": paths, "iterations": counts}),
)
losses = st.sampled_from(["hard", "kd", "dist"]) | st.lists(terms, min_size=1, max_size=3)
students = st.fixed_dictionaries(
    {"model": texts},
    optional={
        "options": options,
        "loss": losses,
        "temperature": temperatures,
        "alpha": fractions,
        "true_labels": counts,
        "window": counts,
        "repeats": counts,
        "gradients": st.fixed_dictionaries({}, optional={"weight": weights, "penalty": weights, "alpha": fractions}),
        "seeded": st.fixed_dictionaries(
            {"checkpoint": paths.map("{}.safetensors".format)},
            optional={"layers": st.sampled_from(["even", "first", "last", "mean"]), "widths": st.just("norm")},
        ),
        "finetune": st.fixed_dictionaries(
            {"epochs": counts},
            optional={
                "loss": st.just("hard") | st.lists(st.fixed_dictionaries({"name": st.just("hard")}), min_size=1),
                "dataset": sources,
                **{key: each for key, each in training.items() if key not in ("epochs", "seed")},
            },
        ),
        **training,
    },
)


def _of_tokens(table: dict) -> dict:
    """Tokens stay as they are: nothing of numbers beside them."""
    views = table.get("views", {})
    if table["dataset"]["kind"] == "tokens" and views:
        table = {**table, "views": {key: value for key, value in views.items() if key not in ("mean", "std")}}
    return table


experiments = st.fixed_dictionaries(
    {
        "dataset": sources,
        "teacher": st.fixed_dictionaries(
            {"model": texts, "checkpoint": paths},
            optional={
                "options": options,
                "batch_size": counts,
                "device": devices,
                "precision": precisions,
                "channels_last": st.booleans(),
                "gradients": st.fixed_dictionaries(
                    {"of": st.just("projections"), "projections": counts}, optional={"seed": seeds}
                ),
                "fit": st.fixed_dictionaries({}, optional=training),
            },
        ),
        "cache": st.fixed_dictionaries({"path": paths}, optional={"shard_rows": counts, "chunk_rows": counts}),
    },
    optional={
        "test": sources,
        "views": st.fixed_dictionaries(
            {}, optional={"count": st.just(1), "seed": seeds, "mean": finite, "std": positive}
        ),
        "labels": st.fixed_dictionaries(
            {},
            optional={
                "encoding": texts,
                "dtype": st.sampled_from(["float16", "float32", "int8"]),
                "k": counts,
                "tail": counts,
                "seed": seeds,
                "standardised": st.booleans(),
                "temperatures": st.lists(positive, max_size=4),
            },
        ),
        "students": st.dictionaries(names, students, max_size=3),
    },
).map(_of_tokens)
