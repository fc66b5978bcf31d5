"""The door: help, JSON, usage, exit codes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from stage_cases import Outcome, run, snapshot, softlabels

from stages.__main__ import cli

HEAVY = {"torch", "numpy", "zarr", "pydantic", "matplotlib", "h5py", "sklearn"}
LOADED = """
import sys
sys.argv = ["softlabels", *sys.argv[1:]]
from stages.__main__ import main
main()
print(*sys.modules, sep=",", file=sys.stderr)
"""
CODES = (
    "0 done",
    "1 error",
    "2 usage",
    "3 corrupt",
    "4 incomplete",
    "5",
    "6 locked",
    "7 no space",
    "75 stopped",
    "130",
)


def test_help_lists_every_command_and_exit_code() -> None:
    """Law: `--help` of the group names each command and each exit code."""
    outcome = softlabels("--help")
    assert outcome.code == 0
    assert [name for name in cli.commands if f"\n  {name} " not in outcome.out] == []
    words = " ".join(outcome.out.split())
    assert [code for code in CODES if code not in words] == []


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_of_a_command_mentions_each_of_its_options(name: str) -> None:
    """Law: every option and argument of a command is in its help, each option with a sentence of its own."""
    outcome = softlabels(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in outcome.out
            assert parameter.help
        else:
            assert (parameter.metavar or parameter.name.upper()) in outcome.out


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Law: `--help` imports neither torch nor NumPy nor Zarr, so it answers at once."""
    found = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True)
    assert "softlabels" in found.stdout
    assert HEAVY & set(found.stderr.strip().split(",")) == set()


def one_object(outcome: Outcome) -> dict[str, object]:
    """What is on stdout, which is one JSON object, strictly."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    facts = json.loads(outcome.out, parse_constant=refuse)
    assert isinstance(facts, dict)
    assert outcome.out == f"{outcome.out.rstrip()}\n"
    return facts


@pytest.mark.usefixtures("filled")
def test_json_is_one_object_on_stdout() -> None:
    """Law: with --json every command prints one JSON object, and nothing else."""
    for words in (
        ("fit-teacher", "e.toml"),
        ("plan", "e.toml"),
        ("generate", "e.toml"),
        ("generate", "e.toml", "--set", "cache.path=other"),
        ("train", "e.toml"),
        ("inspect", "cache"),
        ("verify", "cache"),
    ):
        outcome = softlabels(*words, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert one_object(outcome)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("plan", "none.toml"), 2),
        (("generate", "e.toml", "--set", "labels.dtype=float32"), 5),
        (("train", "e.toml", "--student", "nobody"), 2),
        (("fit-teacher", "e.toml", "--set", "teacher.fit.epochs=9"), 5),
        (("inspect", "nowhere"), 4),
        (("verify", "e.toml"), 7),
        (("generate",), 2),
        (("generate", "e.toml", "--bad"), 2),
        (("nothing",), 2),
    ],
)
def test_an_error_is_a_json_object_too(words: tuple[str, ...], code: int, filled: Path) -> None:
    """Law: with --json an error is one object with the text and the exit code; people read the text on stderr."""
    before = snapshot(filled)
    outcome = softlabels(*words, "--json")
    facts = one_object(outcome)
    assert (outcome.code, facts["exit_code"]) == (code, code)
    assert str(facts["error"]) in outcome.err
    assert snapshot(filled) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generat", "e.toml"), ("No such command 'generat'", "--help")),
        (("generate",), ("Missing argument 'CONFIG'", "--help")),
        (("generate", "e.toml", "--restart"), ("No such option", "--restart", "--help")),
        (("train", "e.toml", "--student"), ("--student", "requires an argument")),
    ],
)
def test_a_usage_that_is_not_known_is_refused(words: tuple[str, ...], said: tuple[str, ...]) -> None:
    """Law: a mistyped command or option is exit code 2, with what is wrong."""
    outcome = softlabels(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert [text for text in said if text not in outcome.err] == []


@pytest.mark.parametrize("verb", ["plan", "generate", "train", "fit-teacher"])
def test_a_mistake_in_the_experiment_is_exit_code_2(verb: str, fitted: Path) -> None:
    """Law: every command that reads an experiment refuses what config refuses, and writes nothing."""
    before = snapshot(fitted)
    run(verb, "cache.shard_row=3").refuses(2, "e.toml: unknown key cache.shard_row: did you mean shard_rows?")
    run(verb, "nonsense").refuses(2, "--set nonsense: expected KEY.PATH=VALUE")
    softlabels(verb, "other.toml").refuses(2, "other.toml: no such experiment file. Files like it there: e.toml.")
    assert snapshot(fitted) == before


@pytest.mark.usefixtures("filled")
def test_ctrl_c_at_any_moment_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: Ctrl-C outside the long work is told in a line too, with how to go on."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.soft_labels.open_views", interrupted)
    outcome = run("generate")
    assert outcome.code == 130
    assert outcome.err.strip() == "softlabels: Stopped by Ctrl-C. Run the same command again to go on."


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
@pytest.mark.parametrize(
    "error", [ImportError("half a module"), RuntimeError("torn"), OSError(5, "Input/output error")]
)
@pytest.mark.usefixtures("filled")
def test_a_signal_counts_whatever_becomes_of_its_exception(
    error: Exception, number: signal.Signals, code: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: code that swallows the interruption and raises another error still ends as stopped, not as broken."""

    def swallowing(*_: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr("stages.soft_labels.open_views", swallowing)
    outcome = run("generate")
    outcome.refuses(code, f"softlabels: Stopped by {name}. Run the same command again to go on.")
    assert outcome.err.count("\n") == 1
    assert run("generate", flags=("--json",)).facts["exit_code"] == code


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(5, "Input/output error", "/disk/labels"), "/disk/labels: Input/output error. Mend this, then run"),
        (PermissionError(13, "Permission denied", "/disk"), "/disk: Permission denied. Mend this, then run"),
        (OSError("no such thing"), "a file: no such thing. Mend this, then run the same command again."),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "generate", "train", "fit-teacher"])
def test_an_io_error_from_anywhere_is_exit_code_7(
    verb: str, error: OSError, said: str, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: what the system refuses is one paragraph, wherever it was raised; nothing is changed."""

    def broken(*_: object) -> None:
        raise error

    for module in ("soft_labels", "train_student", "fit_teacher"):
        monkeypatch.setattr(f"stages.{module}.open_views", broken)
    before = snapshot(filled)
    outcome = run(verb)
    outcome.refuses(7, said)
    assert outcome.err.count("\n") == 1
    assert snapshot(filled) == before


@pytest.mark.usefixtures("filled")
def test_a_fault_of_ours_is_not_blamed_on_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what no user can cause is raised as it is, with all that is needed to mend it."""
    monkeypatch.setattr("stages.soft_labels.open_views", lambda *_: {}["nothing"])
    with pytest.raises(KeyError, match="nothing"):
        run("generate")
