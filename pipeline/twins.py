"""What one term of a loss is worth: a student beside its twin, who is told the same but for that term.

Only twins can tell. Two students that differ in anything else say nothing about a term, so nothing is said of them.
"""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from pipeline.schedules import PositiveRamp
from pipeline.terms import one_term

Results = Mapping[str, Sequence[Mapping[str, Any]]]
APART = ("seed", "cache_id", "loss", "temperature", "alpha")  # of an identity: looked at otherwise, or not at all
MEASURES = ("test_accuracy", "test_agreement")  # of which the first that there is counts; for each, more is better


def verdicts(results: Results, term: str) -> dict[str, dict[str, Any]]:
    """Of each student that is told a term: its twin, if there is one, and whether the term helped.

    It helped if the mean over seeds is higher than the twin's by more than either's standard deviation, of one seed by
    anything. `helped` is None where there is no twin, or nothing was measured.

    Args:
        results: the metrics of each student's runs.
        term: its name.

    """
    told = {name: runs for name, runs in results.items() if runs and term in [each["name"] for each in _told(runs[0])]}
    return {name: _verdict(runs, results, term) for name, runs in told.items()}


def in_words(found: Mapping[str, Mapping[str, Any]], term: str) -> list[str]:
    """A line of text for each verdict: that it helped, that it did not, or what it takes to know."""
    return [_line(name, verdict, term) for name, verdict in found.items()]


def _verdict(runs: Sequence[Mapping[str, Any]], results: Results, term: str) -> dict[str, Any]:
    plain = _without(runs[0], term)
    twin = next((name for name, each in results.items() if each and _without(each[0], None) == plain), None)
    both = [] if twin is None else [runs, results[twin]]
    measures = [key for key in MEASURES if both and all(m.get(key) is not None for each in both for m in each)]
    if not measures:
        return {"twin": twin, "helped": None}
    with_it, without = ([float(metrics[measures[0]]) for metrics in each] for each in both)
    spread = max(stdev(values) if len(values) > 1 else 0.0 for values in (with_it, without))
    gain = mean(with_it) - mean(without)
    return {
        "twin": twin,
        "helped": gain > spread,
        "measure": measures[0],
        "with": mean(with_it),
        "without": mean(without),
        "spread": spread,
    }


def _line(name: str, verdict: Mapping[str, Any], term: str) -> str:
    if verdict["helped"] is None:
        return (
            f'Whether "{term}" helps {name} is not known: no student in this table is told the same but for it, or '
            "nothing was measured."
        )
    did = "helped" if verdict["helped"] else "did not help"
    figures = f"{100 * verdict['with']:.2f} % with it, {100 * verdict['without']:.2f} % without ({verdict['twin']})"
    beyond = "" if verdict["helped"] or verdict["with"] <= verdict["without"] else ", no more than seeds differ"
    return f'"{term}" {did} {name}: {verdict["measure"].removeprefix("test_")} {figures}{beyond}.'


def _told(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The terms of a run's loss, those that a name stands for too."""
    identity = metrics["identity"]
    if not isinstance(identity.get("loss"), str):
        return list(identity.get("loss") or ())
    asked = identity["temperature"]
    temperature = PositiveRamp.model_validate(asked) if isinstance(asked, Mapping) else asked
    return [term.model_dump(mode="json") for term in one_term(identity["loss"], temperature, identity["alpha"])]


def _without(metrics: Mapping[str, Any], term: str | None) -> dict[str, Any]:
    """What decides a run, but for a term of its loss, its seed, and whether another of its terms asks the teacher."""
    identity = {key: value for key, value in metrics["identity"].items() if value is not None and key not in APART}
    return {**identity, "loss": [each for each in _told(metrics) if each["name"] != term]}
