"""One experiment, one file: what is read, and what each mistake is told."""

import tomllib
from pathlib import Path

import pytest
from config_cases import experiments, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Experiment, dump, load
from pipeline.errors import ConfigError
from pipeline.schedules import BEGIN, Progress

STEADY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=60,
)

CONFIGS = Path(__file__).parents[1] / "configs"
WHOLE = """
[dataset]
kind = "idx"
inputs = "images"
labels = "labels"
classes = 3
class_names = ["a", "b", "c"]
version = "v1"

[test]
kind = "own.data:test_part"
options = { part = "test", few = 5 }

[views]
count = 1
seed = 3
mean = 4.9
std = 6

[teacher]
model = "own.models:build"
options = { width = 32, blocks = [1, 1, 1] }
checkpoint = "teacher.safetensors"
batch_size = 64
device = "cpu"
precision = "bfloat16"
channels_last = true

[teacher.fit]
epochs = 20
optimizer = "sgd"
clip_norm = 1.0

[labels]
encoding = "topk"
dtype = "float32"
k = 2
temperatures = [1, 2.5]

[cache]
path = "caches/one"
shard_rows = 512
chunk_rows = 64

[students.small]
model = "mlp"
options = { hidden = [4] }
loss = "kd"
temperature = 2.5
alpha = 0.5
epochs = 3
batch_size = 32
learning_rate = 3e-3
seed = 7
true_labels = 30
window = 2
repeats = 2
baseline = "alone"

[students.alone]
model = "mlp"
loss = "hard"
"""
MULTIPLE = "make one a multiple of the other."
OR_LIST = "or a list with one for each channel."
KINDS = "digits, hdf5, huggingface, idx, images, npy, tokens, webdataset, zarr, or your own package.module:callable"
SHORT = """
dataset.kind = "digits"
teacher = { model = "mlp", checkpoint = "t.safetensors" }
cache.path = "c"
"""


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file that sets a key of every kind."""
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE)
    return path


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A file with no more than is needed."""
    path = tmp_path / "short.toml"
    path.write_text(SHORT)
    return path


@STEADY
@given(table=experiments)
def test_an_experiment_is_what_its_dump_says(tmp_path: Path, table: dict[str, object]) -> None:
    """Law: load(dump(e)) == e for every experiment e."""
    experiment = Experiment.model_validate(table)
    path = tmp_path / "dumped.toml"
    path.write_text(dump(experiment), encoding="utf-8")
    assert load(path) == experiment


def test_the_keys_to_keep_are_read(whole: Path) -> None:
    """Law: these keys exist and arrive as they are written: experiments of users name them."""
    e = load(whole)
    student = e.students["small"]
    found = {
        "cache": (e.cache.path, e.cache.shard_rows, e.cache.chunk_rows),
        "labels": (e.labels.encoding, e.labels.dtype, e.labels.k, e.labels.temperatures),
        "views": (e.views.count, e.views.seed),
        "student": (student.model, student.loss, student.temperature, student.alpha),
        "training": (student.epochs, student.batch_size, student.learning_rate, student.seed),
    }
    assert found == {
        "cache": (Path("caches/one"), 512, 64),
        "labels": ("topk", "float32", 2, (1.0, 2.5)),
        "views": (1, 3),
        "student": ("mlp", "kd", 2.5, 0.5),
        "training": (3, 32, 3e-3, 7),
    }


def test_a_loss_is_read_as_its_terms(whole: Path) -> None:
    """Law: a list is those terms in that order, a name what it stands for; they tell who is asked."""
    said = "[{name = 'hard', weight = {start = 1, end = 0.5}}, {name = 'wkd', cost = 'c.npy', standardise = true}]"
    hard, wkd = load(whole, [f"students.small.loss={said}"]).students["small"].terms
    assert (hard.name, hard.weight_at(Progress(1.0)), wkd.name, wkd.weight_at(BEGIN)) == ("hard", 0.5, "wkd", 1.0)
    assert (wkd.temperature, wkd.cost, wkd.standardise) == (8.0, Path("c.npy"), True)
    students = load(whole, ["students.doubt={model = 'mlp', loss = [{name = 'hard'}, {name = 'entropy'}]}"]).students
    assert {name: student.soft for name, student in students.items()} == {"small": True, "alone": False, "doubt": False}
    assert [(term.name, term.weight) for term in students["small"].terms] == [("hard", 0.5), ("kd", 0.5)]


def test_what_is_left_out_has_a_value(short: Path) -> None:
    """Law: dataset, teacher and cache are enough; the rest is float16 logits, one plain view and no student."""
    e = load(short)
    assert (e.labels.encoding, e.labels.dtype, e.views.count, e.students, e.test) == ("dense", "float16", 1, {}, None)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("datset.kind=digits", "unknown key datset: did you mean dataset?"),
        ("dataset.input=images", "unknown key dataset.input: did you mean inputs?"),
        ("dataset={kind = 'digits', prat = 'test'}", "unknown key dataset.prat: did you mean part?"),
        ("dataset={kind = 'hdf5', path = 'x', inputs = 'y', id = 'z'}", "unknown key dataset.id: did you mean ids?"),
        ("dataset={kind = 'zarr', inputs = 'y', lables = 'z'}", "unknown key dataset.lables: did you mean labels?"),
        ("dataset={kind = 'own:Set', option = {}}", "unknown key dataset.option: did you mean options?"),
        ("test={kind = 'digits', clases = 2}", "unknown key test.clases: did you mean classes?"),
        ("views.sead=1", "unknown key views.sead: did you mean seed?"),
        ("teacher.chekpoint=x", "unknown key teacher.chekpoint: did you mean checkpoint?"),
        ("teacher.fit.epoch=1", "unknown key teacher.fit.epoch: did you mean epochs?"),
        ("labels.temperature=1", "unknown key labels.temperature: did you mean temperatures?"),
        ("cache.shardrows=1", "unknown key cache.shardrows: did you mean shard_rows?"),
        ("students.small.temprature=1", "unknown key students.small.temprature: did you mean temperature?"),
        ("students.idx={model = 'mlp', los = 'kd'}", "unknown key students.idx.los: did you mean loss?"),
        (
            "students.small.loss=[{name = 'hard'}, {name = 'kd', temprature = 3}]",
            "unknown key students.small.loss.1.temprature: did you mean temperature?",
        ),
        (
            "students.small.temperature={start = 4, end = 1, bye = 'epoch'}",
            "unknown key students.small.temperature.bye: did you mean by?",
        ),
        (
            "students.small.loss=[{name = 'hard', tau = 3}]",
            "unknown key students.small.loss.0.tau: known keys here: label_smoothing, name, weight.",
        ),
        (
            "students.small.loss=[{name = 'kd', weight = {start = 1, end = 0, shedule = 'cosine'}}]",
            "unknown key students.small.loss.0.weight.shedule: did you mean schedule?",
        ),
        (
            "students.loss={model = 'mlp', loss = [{name = 'kd'}], epoch = 1}",
            "unknown key students.loss.epoch: did you mean epochs?",
        ),
        (
            "views.zzz=1",
            (
                "unknown key views.zzz: known keys here: alpha, count, input, mean, mix, options, preprocessing, seed, "
                "std, transform."
            ),
        ),
        (
            "cache.zzz=1",
            "unknown key cache.zzz: known keys here: chunk_rows, mirror, mirror_bytes, path, shard_rows, test.",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(override: str, said: str, whole: Path) -> None:
    """Law: in every table a key that is not known names the file, its path and the nearest key, or all there are."""
    with pytest.raises(ConfigError) as refusal:
        load(whole, [override])
    assert str(refusal.value) == f"{whole}: {said}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("labels.k=true", "labels.k: found True (bool), expected a valid integer."),
        ("labels.k=2.0", "labels.k: found 2.0 (float), expected a valid integer."),
        ("labels.k=0", "labels.k: found 0 (int), expected greater than 0."),
        ('labels.k="2"', "labels.k: found '2' (str), expected a valid integer."),
        ("labels.dtype=int4", "labels.dtype: found 'int4' (str), expected 'float16', 'float32' or 'int8'."),
        ("labels.temperatures=3", "labels.temperatures: found 3 (int), expected a list."),
        ("labels.temperatures=[1, 'x']", "labels.temperatures.1: found 'x' (str), expected a valid number."),
        ("labels.temperatures=[0]", "labels.temperatures.0: found 0 (int), expected greater than 0."),
        ("views.count=0", "views.count: found 0 (int), expected greater than or equal to 1."),
        ("views.count=2", "views: count = 2 views of a sample would all be the same: name a transform or a mix."),
        (
            "students.small.views_at_once=3",
            f"students.small: batch_size = 32 rows cannot be samples in views_at_once = 3 views each: {MULTIPLE}",
        ),
        (
            "cache.path=s3:/labels/x",
            "cache.path: 's3:/labels/x' has one slash where an address has two; did you mean s3://labels/x?",
        ),
        ("views.std=0", "views.std: found 0 (int), expected greater than 0."),
        ("views.mean=nan", f"views.mean: found nan (float), expected a finite number, {OR_LIST}"),
        ("views.mean=true", f"views.mean: found True (bool), expected a finite number, {OR_LIST}"),
        ("views.mean=[]", f"views.mean: found [] (list), expected a finite number, {OR_LIST}"),
        ("views.std=[1, 0]", "views.std: found [1, 0] (list), expected greater than 0."),
        ("students.small.temperature=inf", "students.small.temperature: found inf (float), expected a finite number."),
        ("students.small.alpha=1.5", "students.small.alpha: found 1.5 (float), expected less than or equal to 1."),
        ("students.small.seed=-1", "students.small.seed: found -1 (int), expected greater than or equal to 0."),
        (
            "students.small.loss=nothing",
            "students.small.loss: found 'nothing', expected one of hard, kd, soft, ",
        ),
        ("students.small.loss=entropy", "students.small.loss: found 'entropy', expected one of hard, kd, soft, "),
        ("students.small.loss=adversarial", "students.small.loss: found 'adversarial', expected one of hard, kd, "),
        ("students.small.loss=3", "students.small.loss: found 3 (int), expected a list."),
        ("students.small.loss={name = 'kd'}", "students.small.loss: found {'name': 'kd'} (dict), expected a list."),
        (
            "students.small.loss=[]",
            "students.small.loss: an empty list tells a student nothing; name a term, for ",
        ),
        ("students.small.loss=['kd']", "students.small.loss.0: found 'kd' (str), expected a table."),
        (
            "students.small.loss=[{name = 'kdd'}]",
            (
                "students.small.loss.0.name: found 'kdd', expected one of adversarial, dist, dkd, entropy, hard, "
                "jsd, kd, mse, reverse_kl, skew_kl, soft, tv, weak, wkd. Did you mean kd?"
            ),
        ),
        ("students.small.loss=[{weight = 1}]", "students.small.loss.0.name: found None, expected one of adv"),
        (
            "students.small.loss=[{name = 'kd', weight = 'x'}]",
            "students.small.loss.0.weight: found 'x' (str), expected a valid number.",
        ),
        (
            "students.small.loss=[{name = 'kd', weight = {start = 1, end = 0, schedule = 'x'}}]",
            "students.small.loss.0.weight.schedule: found 'x' (str), expected 'linear', 'cosine' or 'constant'.",
        ),
        (
            "students.small.temperature={start = 4, end = 0}",
            "students.small.temperature.end: found 0 (int), expected greater than 0.",
        ),
        (
            "students.small.temperature={start = 4, end = 1, schedule = 'constant'}",
            "students.small.temperature: a constant stays at its start, 4, so leave out end = 1.",
        ),
        (
            "students.small.loss=[{name = 'kd', weight = {start = 1}}]",
            "the key students.small.loss.0.weight.end is missing; it is needed.",
        ),
        (
            "students.small.loss=[{name = 'jsd', beta = 1}]",
            "students.small.loss.0.beta: found 1 (int), expected less ",
        ),
        ("students.small=3", "students.small: found 3 (int), expected a table."),
        ("students=[]", "students: found [] (list), expected a table."),
        ("teacher.fit=1", "teacher.fit: found 1 (int), expected a table."),
        ("teacher.channels_last=1", "teacher.channels_last: found 1 (int), expected a valid boolean."),
        ("dataset.classes=1", "dataset.classes: found 1 (int), expected greater than or equal to 2."),
        ("dataset.classes=2147483648", "dataset.classes: found 2147483648 (int), expected less than 2147483648."),
        ("dataset.without=3", "dataset.without: found 3 (int), expected a list."),
        ("test.without=[true]", "test.without.0: found True (bool), expected a valid integer."),
        ("test.without=[-1]", "test.without.0: found -1 (int), expected greater than or equal to 0."),
        ("cache.path=3", "cache.path: found 3 (int), expected a path, in quotes."),
        ("dataset.class_names=ab", "dataset.class_names: found 'ab' (str), expected a list."),
        ("dataset=3", f"dataset.kind: found 3, expected one of {KINDS}."),
        ("dataset.kind=idz", f"dataset.kind: found 'idz', expected one of {KINDS}. Did you mean idx?"),
        ("students.a b.model=mlp", "students.a b: found 'a b' (str), expected a string that should match pattern"),
        ("teacher.options={a = nan}", "teacher.options: expected strings, finite numbers, booleans, lists and tables"),
        ("teacher.options={a = 2020-01-01}", "teacher.options: expected strings, finite numbers, booleans, lists"),
        (
            "students.small.baseline=nobody",
            "students.small.baseline names 'nobody', which is no student of this experiment.",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused(override: str, said: str, whole: Path) -> None:
    """Law: a wrong value is told once: the file, the key, what was found, what was expected; nothing is converted."""
    with pytest.raises(ConfigError) as refusal:
        load(whole, [override])
    assert str(refusal.value).startswith(f"{whole}: ")
    assert "\n" not in str(refusal.value)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ('cache.path = "c"\n', "the key cache is missing; it is needed."),
        ('model = "mlp", ', "the key teacher.model is missing; it is needed."),
        ('dataset.kind = "digits"\n', "the key dataset is missing; it is needed."),
    ],
)
def test_a_missing_key_is_named(cut: str, said: str, short: Path) -> None:
    """Law: what is needed and not there is named with the file and the path to it."""
    assert cut in SHORT
    short.write_text(SHORT.replace(cut, ""))
    with pytest.raises(ConfigError) as refusal:
        load(short)
    assert str(refusal.value) == f"{short}: {said}"


def test_every_mistake_is_told_at_once(whole: Path) -> None:
    """Law: a file with several mistakes is refused with a line for each."""
    with pytest.raises(ConfigError) as refusal:
        load(whole, ["labels.k=x", "views.sed=1", "cache={}"])
    assert len(str(refusal.value).splitlines()) == 3


def test_a_missing_file_lists_those_beside_it(whole: Path) -> None:
    """Law: a name that is not there is answered with the experiment files of its folder."""
    with pytest.raises(
        ConfigError, match=r"hole\.toml: no such experiment file\. Files like it there: .*/whole\.toml\."
    ):
        load(whole.with_name("hole.toml"))
    with pytest.raises(ConfigError, match=r"no such experiment file\. Files like it there: none\."):
        load(whole.parent / "nowhere/whole.toml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[dataset\n", "this is not valid TOML: "),
        (b"a = 1\na = 2\n", "this is not valid TOML: "),
        (b"a = " + b"[" * 10_000, "this is not valid TOML: "),
        (b"a = " + b"9" * 5_000, "this is not valid TOML: "),
        (b'a = "\xff\xfe"', "this experiment file cannot be read: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """Law: whatever bytes a file holds, it is an experiment or a ConfigError that names it."""
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        load(path)
    assert str(refusal.value).startswith(f"{path}: {said}")


def test_a_directory_is_no_experiment(tmp_path: Path) -> None:
    """Law: a path that is there and cannot be read says why."""
    with pytest.raises(ConfigError, match=r"this experiment file cannot be read: .*Is a directory"):
        load(tmp_path)


@STEADY
@given(content=st.binary(max_size=40) | texts.map(str.encode))
def test_no_file_whatsoever_raises_anything_else(tmp_path: Path, content: bytes) -> None:
    """Law: short of an experiment, every content is a ConfigError."""
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"any\.toml: "):
        load(path)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("cache.path=caches/b", ("cache", "path"), Path("caches/b")),
        ('cache.path="caches/b"', ("cache", "path"), Path("caches/b")),
        (" cache . path = caches/b ", ("cache", "path"), Path("caches/b")),
        ("labels.temperatures=[1, 4]", ("labels", "temperatures"), (1.0, 4.0)),
        ("views.mean=-1e3", ("views", "mean"), -1000.0),
        ("teacher.options={a = {b = [true]}}", ("teacher", "options"), {"a": {"b": [True]}}),
        ("teacher.options.width=8", ("teacher", "options"), {"width": 8, "blocks": [1, 1, 1]}),
        ("test.rows=[0, 100]", ("test", "rows"), (0, 100)),
        ("test.without=[2, 0]", ("test", "without"), (2, 0)),
        ("dataset.version=a=b", ("dataset", "version"), "a=b"),
        ("dataset.version=", ("dataset", "version"), ""),
    ],
)
def test_an_override_sets_one_key(override: str, key: tuple[str, str], value: object, whole: Path) -> None:
    """Law: KEY.PATH=VALUE sets that key, in TOML or as a bare word, and leaves all others as they are."""
    found, before = load(whole, [override]), load(whole)
    assert getattr(getattr(found, key[0]), key[1]) == value
    table = getattr(found, key[0]).model_copy(update={key[1]: getattr(getattr(before, key[0]), key[1])})
    assert found.model_copy(update={key[0]: table}) == before


def test_overrides_make_tables_and_the_last_one_counts(short: Path) -> None:
    """Law: an override may name a table that is not there; of two for one key the later wins."""
    e = load(short, ["students.new.model=mlp", "students.new.epochs=3", "students.new.epochs=4"])
    assert (e.students["new"].model, e.students["new"].epochs) == ("mlp", 4)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("labels.k", "--set labels.k: expected KEY.PATH=VALUE, for example --set cache.path=caches/other."),
        ("=3", "--set =3: expected KEY.PATH=VALUE"),
        ("labels..k=3", "--set labels..k=3: expected KEY.PATH=VALUE"),
        ("labels.k.more=3", "--set labels.k.more=3: k is a value, not a table, in this experiment."),
    ],
)
def test_an_override_that_is_none_is_refused(override: str, said: str, whole: Path) -> None:
    """Law: what is not KEY.PATH=VALUE, or goes through a value, is refused in its own words."""
    with pytest.raises(ConfigError) as refusal:
        load(whole, [override])
    assert str(refusal.value).startswith(said)


def test_home_and_variables_are_filled_in(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: `~`, $NAME and ${NAME} in a path are what they stand for when the file is read; other texts keep theirs."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("STORE", "/big/disk")
    e = load(whole, ["cache.path=~/c", "teacher.checkpoint=$STORE/t.safetensors", "dataset.inputs=${STORE}/x"])
    assert (e.cache.path, e.teacher.checkpoint) == (Path("/home/someone/c"), Path("/big/disk/t.safetensors"))
    assert e.dataset.arguments()["inputs"] == Path("/big/disk/x")
    assert load(whole, ["dataset.version=$STORE"]).dataset.version == "$STORE"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("$NO_SUCH_VARIABLE/x", "the environment variable in '$NO_SUCH_VARIABLE/x' is not set; set it, or write"),
        ("~nobody-of-this-name/x", "'~nobody-of-this-name/x' is no path: it names a user that is not known"),
        ('""', "an empty path names nothing; leave the key out, or name a place"),
        ('"a\\u0000b"', "is no path: it names a user that is not known, or holds a NUL character"),
    ],
)
def test_a_path_that_cannot_be_filled_in_is_refused(value: str, said: str, whole: Path) -> None:
    """Law: a variable or a user that is not there is refused, never taken for a folder of that name."""
    with pytest.raises(ConfigError, match=r"cache\.path: ") as refusal:
        load(whole, [f"cache.path={value}"])
    assert said in str(refusal.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_experiments_that_come_along_are_valid(path: Path) -> None:
    """Law: every file in configs/ is read, and is what its dump says."""
    experiment = load(path)
    assert Experiment.model_validate(tomllib.loads(dump(experiment))) == experiment
    assert experiment.students
