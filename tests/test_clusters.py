"""The recipes of `docs/clusters.md`: every command parses, and what they name is there."""

import ast
import re
import shlex
from pathlib import Path

import click
import distributed
import pytest
import yaml
from distributed.cli.dask_scheduler import main as scheduler
from distributed.cli.dask_worker import main as worker

from stages.__main__ import cli

DOC = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text()
DAEMON = "DASK_DISTRIBUTED__WORKER__DAEMON"
MEMORY = {"MALLOC_TRIM_THRESHOLD_": "67108864", "MALLOC_MMAP_THRESHOLD_": "33554432"}


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.DOTALL | re.MULTILINE)


def documents() -> list[dict]:
    """The resources of the recipe for Kubernetes."""
    (text,) = blocks("yaml")
    return list(yaml.safe_load_all(text))


def container(pod: dict) -> dict:
    """The one container of a pod."""
    (found,) = pod["containers"]
    return found


def commands() -> list[list[str]]:
    """The words of every command: of a shell, of a job script, of a container."""
    lines = [line for text in blocks("sh") + blocks("text") for line in text.splitlines() if not line.startswith("#")]
    cluster, job = (document["spec"] for document in documents())
    pods = (cluster["worker"]["spec"], cluster["scheduler"]["spec"], job["template"]["spec"])
    return [shlex.split(line.removesuffix("&")) for line in lines] + [container(pod)["args"] for pod in pods]


def parsed(words: list[str]) -> tuple[click.Command, dict[str, object]]:
    """Who is called by a command, and with which options."""
    match [word for word in words if not word.startswith("DASK_")]:
        case ["softlabels", "generate", *rest]:
            command = cli.commands["generate"]
        case ["dask", "scheduler", *rest]:
            command = scheduler
        case ["dask", "worker", *rest] | ["dask", "cuda", "worker", *rest]:  # the cuda worker has these options too
            command = worker
        case ["python", "-m", "distributed.cli.dask_worker", *rest]:
            command = worker
    return command, command.make_context("it", list(rest)).params


@pytest.mark.parametrize("words", [each for each in commands() if each[0] != "export"], ids=" ".join)
def test_a_command_of_a_recipe_parses(words: list[str]) -> None:
    """Law: each option is known to the installed Dask, or to us."""
    command, options = parsed(words)
    if command is worker:
        assert (options["nthreads"], options["memory_limit"]) == (2, "0")
        assert options["scheduler"] or options["scheduler_file"] or "$(DASK_WORKER_NAME)" in words


def test_there_are_recipes_for_three_kinds_of_cluster() -> None:
    """Law: one machine in two ways, Slurm and Kubernetes; each says how it was tested."""
    found = [parsed(words)[0] for words in commands() if words[0] != "export"]
    assert [found.count(command) for command in (cli.commands["generate"], scheduler, worker)] == [4, 2, 3]
    assert DOC.count("*Tested*") == 3


def test_a_workers_environment_is_dasks_and_the_same_in_all_recipes() -> None:
    """Law: the names are of settings that there are, and all three recipes set them."""
    one, two, three = DAEMON.removeprefix("DASK_").lower().split("__")
    assert distributed.config[one][two][three] is True
    assert "MALLOC_TRIM_THRESHOLD_" in distributed.config["distributed"]["nanny"]["pre-spawn-environ"]
    wanted = {DAEMON: "False", **MEMORY}
    set_by_kubernetes = container(documents()[0]["spec"]["worker"]["spec"])["env"]
    assert {each["name"]: each["value"] for each in set_by_kubernetes} == wanted
    for text in (*blocks("python"), blocks("sh")[1], *blocks("text")):
        exports = " ".join(re.findall(r'^ *"?export ([^"\n]*)"?,?$', text, re.MULTILINE))
        assert dict(word.split("=") for word in exports.split()) == wanted


def test_what_is_set_where_a_nanny_starts_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: Dask's own value is for where there is none."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", MEMORY["MALLOC_TRIM_THRESHOLD_"])
    found = distributed.nanny._get_env_variables("distributed.nanny.pre-spawn-environ")  # noqa: SLF001 - it has no other name
    assert found["MALLOC_TRIM_THRESHOLD_"] == MEMORY["MALLOC_TRIM_THRESHOLD_"]


def test_the_driver_of_kubernetes_finds_its_scheduler() -> None:
    """Law: it asks for the service that the operator names after the cluster, at the port that is served."""
    cluster, job = documents()
    (port,) = [each for each in cluster["spec"]["scheduler"]["service"]["ports"] if each["name"] == "tcp-comm"]
    address = container(job["spec"]["template"]["spec"])["args"][-1]
    assert address == f"tcp://{cluster['metadata']['name']}-scheduler:{port['port']}"
    labels = cluster["spec"]["scheduler"]["service"]["selector"]
    assert labels["dask.org/cluster-name"] == cluster["metadata"]["name"]


def test_the_program_for_slurm_is_one() -> None:
    """Law: it is Python, and writes the file that the command after it reads."""
    (program,) = blocks("python")
    called = {
        node.func.id
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {"SLURMCluster", "Path"} <= called
    assert '"scheduler.json"' in program
    assert "--scheduler scheduler.json" in blocks("sh")[2]
