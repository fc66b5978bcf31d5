"""Every command where the cache is at an address: `generate`, `inspect`, `verify`, `train`, `push`, `pull`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from stage_cases import must, run, snapshot, softlabels

from benchmarks.servers import proxy
from pipeline.store import lease
from pipeline.store.state import read_state

Reach = Callable[[str], str]


@pytest.fixture
def url(reach: Reach, moto: str) -> str:
    """A prefix of a bucket that is empty."""
    return reach(moto)


def test_a_cache_at_an_address_is_the_one_in_a_directory_and_trains_the_same_students(url: str, filled: Path) -> None:
    """Law: the same cache id, and from it the same weights to the bit, through copies, in windows or not."""
    here = (f"cache.path={url}", f"cache.mirror={filled}/copies")
    assert must("plan", *here, flags=("--json",)).facts["free_bytes"] is None
    made = must("generate", *here, flags=("--json",)).facts
    assert made["cache_id"] == read_state(filled / "cache").seal.cache_id
    assert "is already complete" in must("generate", *here).out
    for settings in ((), ("students.distilled.window=2",)):
        weights = []
        for number, place in enumerate(((), here)):
            folder = f"runs-{number}-{len(settings)}"
            must("train", *place, *settings, flags=("--student", "distilled", "--runs", folder))
            weights.append(load_file(filled / folder / "distilled/seed-0/student.safetensors"))
        assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    said = must("train", *here, flags=("--student", "distilled")).out
    assert f"Label cache: {url}, " in said


def test_workers_of_a_cluster_write_to_a_bucket_what_one_process_makes(url: str, filled: Path) -> None:
    """Law: the same labels and the same cache id, on a real server or not: receipts there are the only truth."""
    made = must("generate", f"cache.path={url}", flags=("--workers", "2", "--json")).facts
    assert (made["cache_id"], made["workers"]) == (read_state(filled / "cache").seal.cache_id, 2)
    assert softlabels("verify", url).code == 0


@pytest.mark.usefixtures("fitted")
def test_a_store_without_conditional_writes_has_no_cluster(
    reach: Reach, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: found out before a shard is made; one process may write there."""
    monkeypatch.setattr(lease, "SETTLES_SECONDS", 0.0)
    with proxy(moto, conditions=False) as (server, _):
        place = f"cache.path={reach(server)}"
        run("generate", place, flags=("--workers", "1")).refuses(2, "has no conditional writes", "one writer")
        assert "Cache id" in must("generate", place).out


def test_an_address_is_inspected_and_verified_like_a_path(url: str, filled: Path) -> None:
    """Law: facts, statistics and problems are those of the cache, and names are addresses."""
    must("generate", f"cache.path={url}")
    facts = [json.loads(softlabels("inspect", place, "--json").out) for place in (url, "cache")]
    assert facts[0]["cache_id"] == facts[1]["cache_id"]
    assert f"{url}: 4 shards" in softlabels("verify", url).out
    asked = softlabels(
        "verify", url, "--teacher", "e.toml", "--set", f"cache.path={url}", "--set", "cache.mirror=copies"
    )
    assert "the same best class in 100.00%" in asked.out
    assert (filled / "copies/copies/CACHEDIR.TAG").exists()


def test_a_cache_is_pushed_and_pulled_whole(url: str, filled: Path) -> None:
    """Law: there and back it is the same to the byte; a second time there is nothing to do."""
    assert "4 copied now" in softlabels("push", "cache", url).out
    assert json.loads(softlabels("pull", url, "again", "--json").out)["copied"] == 4
    assert "0 copied now" in softlabels("pull", url, "again").out
    before, after = (
        {name.split("/", 1)[1]: data[0] for name, data in snapshot(filled).items() if name.startswith(f"{folder}/")}
        for folder in ("cache", "again")
    )
    assert before == after


def test_a_partial_cache_is_copied_as_far_as_it_is(url: str, filled: Path) -> None:
    """Law: exit code 4 says that the source has no seal; once it has, the same command ends the copy."""
    (filled / "cache/seal.json").unlink()
    (filled / "cache/receipts/000000002.json").unlink()
    outcome = softlabels("push", "cache", url)
    assert (outcome.code, "has no seal yet: finish it" in outcome.out) == (4, True)
    must("generate")
    assert "1 copied now" in softlabels("push", "cache", url).out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("pull", "nowhere", "dest"), 4, "holds no label cache"),
        (("push", "cache", "e.toml"), 7, "e.toml is a file, and a label cache is a directory"),
        (("push", "cache", "nothing://there"), 2, "is no address that is known here"),
        (("inspect", "hdfs://there"), 2, "Install what reaches such a store"),
    ],
)
def test_a_copy_that_cannot_be_is_refused(arguments: tuple[str, ...], code: int, said: str, filled: Path) -> None:
    """Law: nothing is written, and the error says what was expected."""
    before = snapshot(filled)
    softlabels(*arguments).refuses(code, said)
    assert snapshot(filled) == before


@pytest.mark.usefixtures("filled")
def test_a_key_in_an_address_is_refused() -> None:
    """Law: what opens a store is never kept in an experiment or a run folder."""
    run("plan", "cache.path=s3://key:secret@bucket/x").refuses(
        2, "cache.path: an address with a key in it would be kept"
    )
    run("plan", "cache.path=s3://$NOWHERE/x").refuses(2, "is not set; set it, or write the path out")
