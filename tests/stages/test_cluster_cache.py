"""Clusters of a cache's features: a label cache of their own, and students that learn from it without a label."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import zarr
from sklearn.metrics import normalized_mutual_info_score
from stage_cases import EXPERIMENT, ROWS, decided, images, must, run, snapshot, softlabels, write_idx

from pipeline import centres
from pipeline.labels import LabelSpec
from pipeline.reader import label_spec
from pipeline.store.mapped import LabelCache
from pipeline.store.writer import CacheWriter
from stages.cluster_cache import beside

HIDDEN = 'teacher.features=[{module = "2", name = "hidden", dtype = "float32"}]'
BOTH = 'teacher.features=[{module = "2", name = "hidden"}, {module = "1", name = "middle", dtype = "int8"}]'
CLUSTERED = (
    'students.clustered={model = "mlp", options = {hidden = [4]}, epochs = 2, batch_size = 16, device = "cpu", '
    'cache = "cache-clusters"}'
)
ALONE = ("--student", "clustered")


def cluster(*words: str, cache: str = "cache", clusters: str = "4") -> object:
    """The command."""
    return softlabels("cluster", cache, "--clusters", clusters, *words)


def arrays(cache: str) -> dict[str, np.ndarray]:
    """All arrays of a cache, read by zarr alone."""
    group = zarr.open_group(f"{cache}/labels.zarr", mode="r")
    return {name: np.asarray(array) for name, array in group.arrays()}


@pytest.fixture(scope="module")
def cached_once(fitted_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with a cache of a feature, and one of its clusters."""
    folder = tmp_path_factory.mktemp("clustered") / "here"
    shutil.copytree(fitted_once, folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        must("generate", HIDDEN)
        assert cluster().code == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def cached(cached_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of it."""
    folder = tmp_path / "here"
    shutil.copytree(cached_once, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("cached")
def test_clusters_are_a_label_cache_of_the_same_samples() -> None:
    """Law: ids, labels and checksums are the source's; labels are logits of clusters; verify, inspect and push work."""
    theirs, ours = arrays("cache"), arrays("cache-clusters")
    for name in ("sample_id", "label", "input_crc32c"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    spec = label_spec(LabelCache.open(Path("cache-clusters")))
    assert spec == LabelSpec("dense", 4, "float16")
    job = json.loads(Path("cache-clusters/job.json").read_text())
    assert job["teacher"]["cache_id"] == json.loads(Path("cache/seal.json").read_text())["cache_id"]
    assert len(job["teacher"]["centres_sha256"]) == 64
    assert job["dataset"]["class_names"][3] == "cluster 3"
    assert softlabels("verify", "cache-clusters").code == 0
    facts = softlabels("inspect", "cache-clusters", "--stats", "--json").facts
    assert facts["statistics"]["labelled"] == 0
    assert facts["serves"]["hard"].startswith("not from these labels")
    assert facts["serves"]["kd"].startswith("any temperature")
    assert cluster("--out", "two", clusters="2").code == 0  # fewer than there are classes
    assert softlabels("inspect", "two", "--stats").code == 0
    assert softlabels("push", "cache-clusters", "copy").code == 0
    assert snapshot(Path("copy")).keys() == snapshot(Path("cache-clusters")).keys()
    shard = Path("cache-clusters/labels.zarr/logits/c/0/0/0")
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    assert softlabels("verify", "cache-clusters").code == 3


@pytest.mark.usefixtures("cached")
def test_assignments_are_probabilities_whose_most_likely_is_the_nearest_centre() -> None:
    """Law: within float16, against centres fitted here, in the order of ids; and what is told of them is so."""
    logits = arrays("cache-clusters")["logits"][0].astype(np.float64)
    feature = arrays("cache")["feature_hidden"][0]
    means = centres.fit(
        centres.Samples(lambda places: feature[places], *feature.shape), 4, seed=0, passes=10, each=lambda _: None
    )
    assert json.loads(Path("cache-clusters/job.json").read_text())["teacher"]["centres_sha256"] == means.digest
    exact = means.logits(feature, 1.0)
    assert (np.abs(logits - exact) <= 2**-10 * np.abs(exact) + 2**-24).all()
    nearest = means.squares(feature).argmin(axis=1)
    assert (logits[np.arange(ROWS), nearest] == 0).all()
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax.sum(axis=1), 1)
    about = json.loads(Path("cache-clusters/seal.json").read_text())["about"]
    sizes = np.bincount(nearest, minlength=4)
    assert (about["smallest"], about["largest"], about["empty"]) == (sizes.min(), sizes.max(), (sizes == 0).sum())
    assert about["mean_confidence"] == pytest.approx(softmax.max(axis=1).mean(), abs=1e-3)
    truth = arrays("cache")["label"][0]
    assert about["normalised_mutual_information"] == pytest.approx(normalized_mutual_info_score(truth, nearest))


@pytest.mark.usefixtures("cached")
def test_the_same_command_again_finds_nothing_to_do_and_another_is_refused() -> None:
    """Law: nothing is written by either; what differs is named."""
    before = snapshot(Path("cache-clusters"))
    again = cluster()
    assert (again.code, "already complete" in again.out, "Normalised mutual" in again.out) == (0, True, True)
    cluster("--seed", "1").refuses(5, "cache-clusters was made by another job", "teacher.seed was 0 and is now 1")
    cluster(clusters="40").refuses(5, "teacher.clusters was 4 and is now 40")
    cluster("--out", "cache").refuses(5, "cache holds a label cache of another kind, and no clusters", "--out")
    cluster("--out", ".").refuses(7, "it is no label cache")
    assert snapshot(Path("cache-clusters")) == before


@pytest.mark.usefixtures("cached")
def test_a_seed_decides_every_bit_and_softness_changes_no_cluster() -> None:
    """Law: the same cache id elsewhere; a temperature divides the logits."""
    facts = cluster("--out", "again", "--json").facts
    assert facts["cache_id"] == json.loads(Path("cache-clusters/seal.json").read_text())["cache_id"]
    assert (facts["rows"], facts["made"], facts["clusters"], facts["labelled"]) == (ROWS, ROWS, 4, ROWS)
    assert cluster("--out", "soft", "--temperature", "8").code == 0
    one, soft = (arrays(name)["logits"].astype(np.float64) for name in ("cache-clusters", "soft"))
    np.testing.assert_allclose(8 * soft, one, rtol=2**-9, atol=1e-5)
    assert cluster("--out", "other", "--seed", "5").code == 0
    assert (arrays("other")["logits"] != arrays("again")["logits"]).any()


@pytest.mark.usefixtures("fitted")
def test_clusters_do_not_depend_on_how_a_cache_is_cut_and_ordered() -> None:
    """Law: the same ids have the same rows, from other shards in another order."""
    must("generate", HIDDEN)
    assert cluster().code == 0
    source = LabelCache.open(Path("cache"))
    shuffled = np.random.default_rng(0).permutation(ROWS)
    job = source.job.model_copy(update={"shard_rows": 7, "chunk_rows": 7})
    with CacheWriter.open(Path("shuffled"), job, {}) as writer:
        for shard in writer.missing():
            writer.commit(shard, source.gather(0, shuffled[shard.start : shard.stop]), 0.0)
        writer.seal({})
    assert cluster(cache="shuffled").code == 0
    one, other = arrays("cache-clusters"), arrays("shuffled-clusters")
    for name, array in one.items():
        assert array[0][shuffled].tobytes() == other[name][0].tobytes(), name


@pytest.mark.usefixtures("cached")
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: shards that were written stay; what is told of all rows counts them too."""
    monkeypatch.setattr("pipeline.assignments.choose", lambda *_: (16, 16))
    assert cluster("--out", "whole").code == 0
    commit, done = CacheWriter.commit, []

    def once(self: CacheWriter, *args: object) -> object:
        done.append(1)
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return commit(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(CacheWriter, "commit", once)
        cluster("--out", "again").refuses(75, "Shards that are written are kept")
    assert len(done) == 2
    assert not Path("again/seal.json").exists()
    monkeypatch.setattr(CacheWriter, "commit", lambda self, *args: (done.append(1), commit(self, *args))[1])
    assert cluster("--out", "again").code == 0
    assert len(done) == 4
    assert decided(Path("again")) == decided(Path("whole"))


@pytest.mark.usefixtures("cached")
def test_a_run_begun_with_other_centres_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: as on a machine whose arithmetic differs in the last bits."""
    Path("cache-clusters/seal.json").unlink()
    monkeypatch.setattr("pipeline.centres.REASSIGNED", 0.9)
    cluster().refuses(5, "was begun with other centres than are found here")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("cache", "--clusters", "51"), 2, ("--clusters 51: ", "cache has 50 rows", "Ask for fewer")),
        (("cache", "--clusters", "1"), 2, ("--clusters 1: found 1, expected at least 2",)),
        (("cache", "--clusters", "3", "--feature", "hiden"), 2, ("no feature 'hiden'", "Did you mean 'hidden'?")),
        (("cache-clusters", "--clusters", "3"), 2, ("has no features to cluster. Add [[teacher.features]]",)),
        (("nowhere", "--clusters", "3"), 4, ("holds no label cache",)),
    ],
)
def test_what_cannot_be_clustered_is_refused(words: tuple[str, ...], code: int, said: tuple[str, ...]) -> None:
    """Law: what was found, what was expected, what to do; nothing is written."""
    softlabels("cluster", *words, "--out", "never").refuses(code, *said)
    assert not Path("never").exists()


@pytest.mark.usefixtures("cached")
def test_an_unsealed_cache_is_refused() -> None:
    """Law: exit code 4."""
    Path("cache/seal.json").unlink()
    cluster("--out", "never").refuses(4, "cache has no seal")


@pytest.mark.usefixtures("fitted")
def test_one_of_several_features_has_to_be_named_and_be_a_vector() -> None:
    """Law: features of eight bits are clustered as they are read."""
    must("generate", BOTH)
    cluster().refuses(2, "has several features: hidden, middle. Say which")
    assert cluster("--feature", "middle").code == 0
    maps = 'teacher.features=[{module = "0", name = "maps", reduction = "none"}]'
    cnn = ("teacher.model=cnn", "teacher.options={width = 4, depth = 1}", "teacher.checkpoint=cnn.safetensors")
    must("fit-teacher", *cnn)
    must("generate", *cnn, maps, "cache.path=mapped")
    cluster(cache="mapped").refuses(2, "The feature 'maps' (of the module '0') has [", 'reduction = "mean"')


@pytest.mark.usefixtures("cached")
def test_a_student_of_clusters_is_told_by_how_they_go_with_the_truth() -> None:
    """Law: its network has a logit a cluster; no accuracy, ECE or agreement is told of it, but `test_nmi`."""
    facts = must("train", HIDDEN, CLUSTERED, flags=(*ALONE, "--json")).facts
    (metrics,) = facts["students"]["clustered"]
    told = {name for name, value in metrics.items() if name.startswith("test_") and value is not None}
    assert told == {"test_nmi"}
    assert 0 <= metrics["test_nmi"] <= 1
    assert (metrics["true_labels"], metrics["soft_labels"]) == (0, ROWS)
    assert metrics["cache_id"] == json.loads(Path("cache-clusters/seal.json").read_text())["cache_id"]
    table = must("train", HIDDEN, CLUSTERED).out
    assert "NMI" in table
    assert "distilled" in table
    assert "normalised mutual information" in table
    assert softlabels("report", "runs/e").code == 0
    assert "NMI" in Path("runs/e/report.html").read_text()


@pytest.mark.usefixtures("cached")
def test_a_student_of_clusters_learns_what_they_are() -> None:
    """Law: its loss falls; a run of it does not need the experiment's own cache, and its id is that of the clusters."""
    shutil.rmtree("cache")
    longer = ("students.clustered.epochs=30", "students.clustered.learning_rate=1e-2")
    must("train", HIDDEN, CLUSTERED, *longer, flags=ALONE)
    lines = [json.loads(line) for line in Path("runs/e/clustered/seed-0/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    shutil.move("cache-clusters", "elsewhere")
    moved = CLUSTERED.replace("cache-clusters", "elsewhere")
    assert must("train", HIDDEN, moved, *longer, flags=(*ALONE, "--json")).code == 0
    assert len(Path("runs/e/clustered/seed-0/metrics.jsonl").read_text().splitlines()) == len(lines)
    assert run("train", HIDDEN, moved, *longer, flags=(*ALONE, "--restart")).code == 0


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('loss = "hard"', 'the loss "hard" asks for true labels'),
        ('loss = "dkd"', 'the loss "dkd" asks for true labels'),
        ('loss = [{name = "kd"}, {name = "adversarial"}]', 'the loss "adversarial" asks for true labels'),
        ("alpha = 0.5", 'the loss "hard" asks for true labels'),
        ('loss = [{name = "entropy"}]', "cache names clusters, and its loss asks none"),
        ("true_labels = 5", "true_labels is about classes or the teacher"),
        ('also = [{cache = "x"}]', "also is about classes or the teacher"),
        ("finetune = {epochs = 1}", "finetune is about classes or the teacher"),
    ],
)
def test_what_says_nothing_beside_clusters_is_refused(more: str, said: str) -> None:
    """Law: by name, as the file is read."""
    run("train", HIDDEN, f"{CLUSTERED[:-1]}, {more}}}", flags=ALONE).refuses(2, said)


@pytest.mark.usefixtures("cached")
def test_clusters_of_other_samples_are_refused() -> None:
    """Law: with what differs; by the checksum of the input, where a version hides it."""
    write_idx(Path("images"), images(ROWS, seed=7))
    run("train", HIDDEN, CLUSTERED, flags=ALONE).refuses(
        5, "cache-clusters holds clusters of other samples or views than this experiment's: dataset.content was"
    )
    run("train", HIDDEN, CLUSTERED, "views.mean=3", flags=ALONE).refuses(5, "views.mean was 128.0 and is now 3.0")


@pytest.mark.usefixtures("cached")
def test_each_kind_of_cache_is_refused_in_the_place_of_the_other() -> None:
    """Law: clusters are no answers of a teacher, and these no clusters; what to write instead is said."""
    run("train", HIDDEN, "cache.path=cache-clusters", flags=("--student", "distilled")).refuses(
        5, "cache-clusters holds clusters of a teacher's features, and not its answers", "as the `cache` of a student"
    )
    run("train", HIDDEN, CLUSTERED.replace("cache-clusters", "cache"), flags=ALONE).refuses(
        5, "cache holds the answers of a teacher, and a student's own `cache` is one of clusters"
    )
    run("generate", HIDDEN, "cache.path=cache-clusters").refuses(5, "teacher.clusters was 4 and is now nothing")
    also = 'students.distilled.also=[{cache = "cache-clusters"}]'
    run("train", HIDDEN, also, flags=("--student", "distilled")).refuses(5, "they differ in dataset")


def test_samples_without_a_label_teach_a_student_from_end_to_end(
    fitted_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: no file of labels, in any view; generate, cluster, train and report, and nothing is told of the truth."""
    folder = tmp_path / "here"
    shutil.copytree(fitted_once, folder, ignore=shutil.ignore_patterns("*labels"))
    monkeypatch.chdir(folder)
    dataset, rest = EXPERIMENT.split("[test]")[0], EXPERIMENT.split("[views]")[1].split("[students")[0]
    dataset = dataset.replace('labels = "labels"', "classes = 3")
    views = '[views]\ncount = 2\ntransform = "crop_flip"\noptions = {pixels = 1}\n'
    Path("e.toml").write_text(f"{dataset}{views}{rest}")
    must("generate", HIDDEN)
    made = cluster()
    assert made.code == 0, made.err
    assert "100 rows" in made.out
    assert "The cache has no true labels" in made.out
    facts = must("train", HIDDEN, CLUSTERED, flags=("--json",)).facts
    (metrics,) = facts["students"]["clustered"]
    assert (metrics["true_labels"], metrics["soft_labels"], metrics["test_accuracy"]) == (0, ROWS, None)
    assert "test_nmi" not in metrics
    assert softlabels("report", "runs/e").code == 0


@pytest.mark.parametrize(
    ("cache", "place"),
    [
        (Path("caches/x"), Path("caches/x-clusters")),
        (Path("caches/x/"), Path("caches/x-clusters")),
        ("s3://bucket/x/", "s3://bucket/x-clusters"),
    ],
)
def test_clusters_go_beside_their_cache(cache: Path | str, place: Path | str) -> None:
    """Law: under its name and "-clusters", in a folder or a bucket."""
    assert beside(cache) == place
