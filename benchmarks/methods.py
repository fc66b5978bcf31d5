"""What each method is worth to a student beside what a row of it costs: one teacher, one student, five seeds.

On Fashion-MNIST and CIFAR-10: alone, told by each loss of logits, and by `kd` with each method besides. The weight of a
method is chosen on a validation split that nobody learns from, by one run of one epoch and another seed for each; the
two best of those that are beside `kd` are then taken together. The time of a run is its own in a walk that all students
of a seed share, so that they compare with each other. Runs that are done are not done again.

    make methods
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from benchmarks.methods_table import (
    ACCURACY,
    BEST,
    BYTES,
    CHOSEN,
    CLUSTERED,
    DEVIATION,
    ECE,
    GAIN,
    NMI,
    SEEDS,
    TIME,
    best,
    plot,
    table,
)
from benchmarks.results import FOLDER, Row, write
from pipeline.assignments import Clustering
from pipeline.config import Experiment
from pipeline.features import CLASS, SCALE
from pipeline.runs import Metrics
from pipeline.store.layout import row_bytes
from pipeline.store.mapped import LabelCache
from stages.cluster_cache import beside, cluster
from stages.fit_teacher import fit_teacher
from stages.seed_student import seed_students
from stages.soft_labels import generate
from stages.train_student import train_students

DATASETS = {"fashion": "Fashion-MNIST", "cifar10": "CIFAR-10"}
VALIDATION: dict[str, tuple[int, int]] = {"fashion": (50_000, 60_000), "cifar10": (45_000, 50_000)}
SEARCHED = 100
"""The seed of the runs by which numbers are chosen; those of the table begin with 0."""
BEST_TWO, FINETUNED = "the best two", "kd, then true labels"
CLUSTERS = 20
Keys = dict[str, Any]
Told = dict[str, list[Metrics]]


@dataclass(frozen=True)
class Method:
    """Keys of a student, by a number that is chosen among some."""

    keys: Callable[[float], Keys]
    tried: tuple[float, ...] = (1.0,)
    beside: bool = False
    """Whether it stands beside `kd`, and so may be one of two."""
    kept: tuple[Keys, ...] = ()
    """Features that a cache of its own keeps."""
    kd: Keys = field(default_factory=dict)
    """What it is told besides, where it says nothing of its loss."""

    def told(self, number: float) -> Keys:
        """All keys, by a number."""
        return self.kd | self.keys(number)


def told(name: str, *, hard: float = 0.1, soft: float = 0.9, **options: object) -> Keys:
    """A loss beside that of true labels."""
    return {"loss": [{"name": "hard", "weight": hard}, {"name": name, "weight": soft, **options}]}


def hint(loss: str, *tried: float, feature: str = "last", module: str = "11") -> Method:
    """A hint beside `kd`."""
    return Method(
        lambda weight: {"hints": [{"loss": loss, "feature": feature, "module": module, "weight": weight}]},
        tried,
        beside=True,
    )


def reduced(dtype: str, **reduction: object) -> Method:
    """`feature_mse` by the last feature, kept in fewer bytes."""
    vector = {"module": "13", "name": "last", "dtype": dtype, **reduction}
    return replace(hint("feature_mse", 0.1, 1.0, 10.0), beside=False, kept=(vector,))


def same(keys: Keys) -> Method:
    """A method with nothing to choose."""
    return Method(lambda _: keys)


def at(temperature: float) -> dict[str, Method]:
    """All but `kd`, at the temperature that it has."""
    kd = told("kd", temperature=temperature)["loss"]
    return {
        "alone": same({"loss": "hard"}),
        "label_smoothing": Method(lambda share: {"loss": [{"name": "hard", "label_smoothing": share}]}, (0.05, 0.1)),
        "entropy": Method(
            lambda weight: {"loss": [{"name": "hard"}, {"name": "entropy", "weight": -weight}]}, (0.1, 0.3)
        ),
        "lskd": Method(lambda weight: told("kd", soft=weight, temperature=2.0, standardise=True), (0.9, 9.0)),
        "reverse_kl": same(told("reverse_kl", temperature=temperature)),
        "jsd": same(told("jsd", temperature=temperature)),
        "skew_kl": same(told("skew_kl", temperature=temperature)),
        "tv": Method(lambda weight: told("tv", temperature=temperature, soft=weight), (0.9, 3.0)),
        "mse": Method(lambda weight: told("mse", hard=1.0, soft=weight), (0.01, 0.03)),
        "dkd": Method(lambda beta: told("dkd", hard=1.0, soft=1.0, temperature=temperature, beta=beta), (1.0, 4.0)),
        "dist": same(told("dist", hard=1.0, soft=1.0, temperature=temperature)),
        "wkd": Method(lambda weight: told("wkd", hard=1.0, soft=weight), (0.1, 1.0)),
        "weak": same(told("weak")),
        "adversarial": Method(
            lambda weight: {"loss": [*kd, {"name": "adversarial", "weight": weight}]}, (0.01, 0.1), beside=True
        ),
        "feature_mse": hint("feature_mse", 0.1, 1.0, 10.0),
        "feature_mse, int8": reduced("int8"),
        "feature_mse, pca to 32": reduced("float16", reduction="pca", dimensions=32),
        "feature_mse, projection to 32": reduced("float16", reduction="projection", dimensions=32),
        "feature_cosine": hint("feature_cosine", 0.1, 1.0, 10.0),
        "rkd_distance": hint("rkd_distance", 0.25, 2.5, 25.0),
        "rkd_angle": hint("rkd_angle", 5.0, 50.0),
        "similarity": hint("similarity", 30.0, 300.0, 3000.0),
        "cka": hint("cka", 0.03, 0.3, 3.0),
        "attention": hint("attention", 1.0, 10.0, feature="middle", module="7"),
        "infonce": hint("infonce", 0.1, 1.0),
        "crd": hint("crd", 0.0003, 0.003, 0.03),
        "gradient": Method(lambda weight: {"gradients": {"weight": weight}}, (0.1,), beside=True),
        "gradient_norm": Method(lambda weight: {"gradients": {"weight": 0.0, "penalty": weight}}, (0.01,), beside=True),
        "seeded": same({"seeded": {}}),
        FINETUNED: same({"finetune": {"epochs": 1, "learning_rate": 3e-4}}),
    }


KD = Method(lambda temperature: told("kd", temperature=temperature), (1.0, 2.0, 4.0))
QUICK = ("alone", "kd", "feature_mse", "feature_mse, pca to 32", "attention", FINETUNED)


@dataclass(frozen=True)
class Bench:
    """One dataset, with what is found on it."""

    name: str
    seeds: int
    quick: bool

    @property
    def place(self) -> str:
        """Of its runs and its cache."""
        return f"{'quick-' if self.quick else ''}methods_{self.name}"

    def experiment(
        self, students: Mapping[str, Keys], kept: tuple[Keys, ...] = (), *, searching: bool = False
    ) -> Experiment:
        """The experiment with these students, by its cache or one of these features; or tested on the other split."""
        table = tomllib.loads(Path(f"configs/methods_{self.name}.toml").read_text())
        base = table["students"]["kd"] | ({"epochs": 1} if self.quick else {})
        base |= {"repeats": 1, "seed": SEARCHED, "epochs": 1} if searching else {"repeats": self.seeds}
        table["students"] = {name: base | {"baseline": None} | keys for name, keys in students.items()}
        table["cache"]["path"] = self.cache(kept)
        if kept:
            table["teacher"] |= {"features": [_with_basis(each, self.place) for each in kept], "gradients": None}
        if searching:
            table["test"] = table["dataset"] | {"rows": list(VALIDATION[self.name])}
        if self.quick:
            table["dataset"]["rows"], table["teacher"]["fit"]["epochs"] = [0, 2000], 1
            table["teacher"]["checkpoint"] = f"checkpoints/{self.place}.safetensors"
        for name, keys in table["students"].items():
            if "seeded" in keys:
                keys["seeded"] = {"checkpoint": f"checkpoints/{self.place}-{name}.safetensors"}
        return Experiment.model_validate(table)

    def cache(self, kept: tuple[Keys, ...] = ()) -> str:
        """Where labels go that have these features; or else those of the experiment."""
        words = [str(word) for each in kept for word in each.values()]
        return "-".join([f"caches/{self.place}", *words])

    def trained(self, students: Mapping[str, tuple[Method, Keys]], where: str, *, searching: bool = False) -> Told:
        """The runs of each of these students, which have a method and its keys."""
        found: Told = {}
        for kept in {self.cache(method.kept): method.kept for method, _ in students.values()}.values():
            these = {name: keys for name, (method, keys) in students.items() if method.kept == kept}
            experiment = self.experiment(these, kept, searching=searching)
            fit_teacher(experiment, restart=False)
            generate(experiment)
            if any(student.seeded for student in experiment.students.values()):
                seed_students(experiment, (), restart=False)
            folder = Path("runs") / self.place / where
            found |= train_students(experiment, (), folder, restart=False).facts["students"]
        return found

    @cached_property
    def tempered(self) -> dict[float, float]:
        """The validation accuracy of `kd` at each temperature."""
        return self.tried({"kd": KD})["kd"]

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Those of the table, but for the best two; first the one that others are held against."""
        temperature = max(sorted(self.tempered), key=lambda each: self.tempered[each])
        all_ = {"kd": replace(KD, keys=lambda _: KD.keys(temperature)), **at(temperature)}
        return {name: replace(method, kd=KD.keys(temperature)) for name, method in all_.items() if self.shows(name)}

    def shows(self, name: str) -> bool:
        """Whether a method is in the table."""
        return name in QUICK or not self.quick

    def tried(self, methods: Mapping[str, Method]) -> dict[str, dict[float, float]]:
        """The validation accuracy of methods by each number that is tried."""
        entries = {f"{name}-{number:g}": (name, number) for name, each in methods.items() for number in each.tried}
        students = {
            slug(entry): (methods[name], methods[name].told(number)) for entry, (name, number) in entries.items()
        }
        runs = self.trained(students, "search", searching=True)
        found: dict[str, dict[float, float]] = {}
        for entry, (name, number) in entries.items():
            found.setdefault(name, {})[number] = 100 * runs[slug(entry)][0]["test_accuracy"]
        return found

    @cached_property
    def search(self) -> dict[str, dict[float, float]]:
        """The validation accuracy of each number that was tried, of each method that has one to choose."""
        chosen = {
            name: method
            for name, method in self.methods.items()
            if name != "kd" and (len(method.tried) > 1 or method.beside)
        }
        return {"kd": self.tempered, **self.tried(chosen)}

    def chosen(self, name: str) -> float:
        """The number that a method has: of equals the smallest."""
        tried = self.search.get(name, {self.methods[name].tried[0]: 0.0})
        return max(sorted(tried), key=lambda number: tried[number])

    @cached_property
    def pair(self) -> tuple[str, str]:
        """The two methods beside `kd` that did best on the validation split."""
        beside = [name for name, method in self.methods.items() if method.beside]
        first, second, *_ = sorted(beside, key=lambda name: -max(self.search[name].values()))
        return first, second

    @cached_property
    def runs(self) -> dict[str, list[Metrics]]:
        """Of every method, with what was chosen for it."""
        names = [*self.methods, BEST_TWO]
        students = {slug(name): (self.methods.get(name, self.methods["kd"]), self.keys(name)) for name in names}
        found = self.trained(students, "table")
        return {name: found[slug(name) + (" + finetune" if name == FINETUNED else "")] for name in names}

    def clustered(self) -> Iterator[Row]:
        """Of a student that is told of clusters of the last feature, and of nothing else."""
        where, runs = beside(Path(self.cache())), Path("runs") / self.place / "clusters"
        cluster(Path(self.cache()), "last", Clustering(clusters=CLUSTERS), where)
        keys = {"cache": str(where), "loss": [{"name": "kd", "temperature": 1.0}]}
        found = train_students(self.experiment({"clusters": keys}), (), runs, restart=False).facts["students"]
        reached = [100 * run["test_nmi"] for run in found["clusters"]]
        key = f"{DATASETS[self.name]}, {CLUSTERED}: "
        yield Row(key + NMI, mean(reached), "%", spread=(min(reached), max(reached)))
        yield Row(key + DEVIATION + NMI, stdev(reached), "%")
        yield Row(key + CHOSEN, CLUSTERS, "")
        yield Row(key + BYTES, sum(map(row_bytes, LabelCache.open(where).job.arrays)), "bytes")

    def bytes_of(self, name: str) -> int:
        """What a row of a cache has that serves a method and no other; 0 where it asks no teacher."""
        student = self.experiment({"it": self.keys(name)}).students["it"]
        if not student.soft:
            return 0
        sizes = {each.name: row_bytes(each) for each in LabelCache.open(self.cache(self.kept(name))).job.arrays}
        inside = {f"feature_{hint.feature}{end}" for hint in student.hints for end in ("", SCALE)}
        inside |= {"gradient", CLASS} if student.gradients else set()
        extra = {array for array in sizes if array.startswith(("feature_", "gradient"))}
        return sum(size for array, size in sizes.items() if array not in extra or array in inside)

    def kept(self, name: str) -> tuple[Keys, ...]:
        """The features of a method's own cache."""
        return self.methods[name].kept if name in self.methods else ()

    def keys(self, name: str) -> Keys:
        """Those of a student, with what was chosen."""
        if name == BEST_TWO:
            return together(*(self.keys(each) for each in self.pair))
        return self.methods[name].told(self.chosen(name))

    def rows(self) -> Iterator[Row]:
        """The figures to keep."""
        name = DATASETS[self.name]
        kd = self.runs["kd"]
        yield Row(f"{name}: {SEEDS}", len(kd), "seeds")
        for method, runs in self.runs.items():
            reached = [100 * run["test_accuracy"] for run in runs]
            gained = [each - 100 * other["test_accuracy"] for each, other in zip(reached, kd, strict=True)]
            for what, values in ((ACCURACY, reached), (GAIN, gained)):
                yield Row(f"{name}, {method}: {what}", mean(values), "%", spread=(min(values), max(values)))
                yield Row(f"{name}, {method}: {DEVIATION}{what}", stdev(values), "%")
            yield Row(f"{name}, {method}: {ECE}", 100 * mean(run["test_ece"] for run in runs), "%")
            yield Row(f"{name}, {method}: {BYTES}", self.bytes_of(method), "bytes")
            seconds, theirs = (mean(run["seconds"] for run in each) for each in (runs, kd))
            if not self.kept(method) and method != FINETUNED:  # these were taught by themselves, in another hour
                yield Row(f"{name}, {method}: {TIME}", seconds / theirs, "")
        for method, tried in self.search.items():
            yield Row(f"{name}, {method}: {CHOSEN}", self.chosen(method), "")
            for number, accuracy in tried.items():
                yield Row(f"{name}, {method} by {number:g}: validation accuracy", accuracy, "%")
        for method in self.pair:
            yield Row(f"{name}, {method}: {BEST}", max(self.search[method].values()), "%")
        if self.shows(CLUSTERED):
            yield from self.clustered()


def slug(name: str) -> str:
    """A name as students may have it."""
    return name.replace(",", "").replace(" ", "_")


def _with_basis(feature: Keys, place: str) -> Keys:
    basis = {"basis": f"checkpoints/{place}.pca.safetensors"} if feature.get("reduction") == "pca" else {}
    return feature | basis


def together(first: Keys, second: Keys) -> Keys:
    """A student told by two methods."""
    both = first | second
    return both | ({"hints": [*first["hints"], *second["hints"]]} if "hints" in first and "hints" in second else {})


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(tuple(DATASETS)), help="Train on this dataset, and keep no figure.")
@click.option("--seeds", default=5, show_default=True, help="Runs of each student.")
@click.option("--quick", is_flag=True, help="A few methods, 2,000 images, two seeds, one epoch; no figure is kept.")
def main(only: str | None, seeds: int, *, quick: bool) -> None:
    """Train what is not trained yet, print and keep."""
    benches = [Bench(name, 2 if quick else seeds, quick) for name in ([only] if only else DATASETS)]
    rows = [row for bench in benches for row in bench.rows()]
    print("\n".join(table(rows)))
    print("\nThe best two: " + "; ".join(f"{name}: {' and '.join(pair)}" for name, pair in best(rows).items()) + ".")
    if not only and not quick:
        write("methods", rows)
        (FOLDER / "methods.png").write_bytes(plot(rows))


if __name__ == "__main__":
    main()
