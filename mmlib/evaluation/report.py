"""Does fusion help? The report of a cross-validation, with the one sentence that answers it.

The sentence is computed. It never compares with "the best single modality": which of them is the
best would be chosen by the scores that it is then judged by, and the best of several noisy scores
is too high. Fusion helps where it beats every one of them.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from mmlib.data.table import Problem, Table, describe, leaks, word
from mmlib.errors import expected
from mmlib.evaluation.controls import shown_sets
from mmlib.evaluation.intervals import (
    Interval,
    balanced_accuracy,
    clip_interval,
    fold_interval,
    format_interval,
)

PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "pillow")


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "picture, text and sound"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def names_of(modalities: Sequence[str]) -> dict[str, str]:
    """{key of the report: what a reader calls it}, in the order of the report's lines."""
    together = listed([word(m) for m in modalities])
    shown = {"all": together}
    for key, (first, *_) in list(shown_sets(modalities).items())[1:]:
        if key.startswith("only_"):
            shown[key] = f"{word(first)} alone"
        else:
            shown[key] = f"without {word(key.removeprefix('without_'))}"
    exchanged = {f"exchanged_{m}": f"{word(m, many=True)} exchanged" for m in modalities}
    probes = {f"probe_{key}": f"linear, {words}" for key, words in shown.items()}
    return {**shown, **exchanged, **probes, "majority": "most frequent label"}


def sentence(scores: Mapping[str, Sequence[float]], modalities: Sequence[str]) -> str:
    """Whether fusion helps, from the scores of each fold: balanced accuracy from 0 to 1.

    scores {"all": [k], "only_M": [k] for each modality, and with three or more "without_M": [k]}.

    "Helps": all together are above each modality alone, the whole 95 % interval of each paired
    difference above 0; as all must hold, testing several makes a false "helps" no likelier.
    "Hurts": one difference lies below 0; as one suffices, its level is raised by Bonferroni.
    Otherwise the sentence says that the difference cannot be told from 0, and how wide it may be.
    With three or more it goes on with what each adds to the others.
    """
    gains = {f"the {word(m)} alone": _gain(scores, f"only_{m}") for m in modalities}
    told = {name: fold_interval(gain) for name, gain in gains.items()}
    strict = {name: fold_interval(gain, 1 - 0.05 / len(gains)) for name, gain in gains.items()}
    worse = {name: found for name, found in strict.items() if found["high"] < 0}
    unsure = {name: found for name, found in told.items() if found["low"] <= 0}
    if worse:
        verdict, shown = "Fusion hurts", worse
    elif unsure:
        verdict, shown = "Fusion does not help by an amount we can tell", unsure
    else:
        verdict, shown = "Fusion helps", told
    amounts = listed([f"{_points(found)} over {name}" for name, found in shown.items()])
    together = listed([word(m) for m in modalities])
    added = [
        f"{word(m)} adds {_points(fold_interval(_gain(scores, f'without_{m}')))}"
        for m in modalities
        if f"without_{m}" in scores
    ]
    more = f"; to the others {listed(added)}" if added else ""
    return f"{verdict}: {together} together gain {amounts}{more} ({len(scores['all'])} folds)."


def _gain(scores: Mapping[str, Sequence[float]], name: str) -> list[float]:
    return [a - b for a, b in zip(scores["all"], scores[name], strict=True)]


def _points(gain: Interval) -> str:
    mean, ends = format_interval(gain, sign=True).split(" ", 1)
    return f"{mean} points {ends} of balanced accuracy"


def report_of(
    table: Table, target: Tensor, tests: Sequence[Tensor], outcomes: Sequence[Mapping[str, Tensor]]
) -> dict[str, Any]:
    """The report of k folds: the sentence, scores, controls, gains, and what mars the rows.

    target [N] classes; tests: the test rows of each fold; outcomes: the classes that each model and
    control predicted for them, by the keys of `names_of`. Scores are means over folds with
    `fold_interval`; the controls and the differences (all − one) are of balanced accuracy,
    `controls_accuracy` of accuracy; `probe_gain_over` is the linear probe's own.
    """
    accuracy: dict[str, list[float]] = {name: [] for name in outcomes[0]}
    balanced: dict[str, list[float]] = {name: [] for name in outcomes[0]}
    for test, outcome in zip(tests, outcomes, strict=True):
        for name, prediction in outcome.items():
            accuracy[name].append((prediction == target[test]).double().mean().item())
            balanced[name].append(balanced_accuracy(prediction.tolist(), target[test].tolist()))
    controls = [name for name in balanced if name != "all"]
    probes = {name.removeprefix("probe_"): x for name, x in balanced.items() if "probe_" in name}
    return {
        "sentence": sentence(balanced, table.modalities),
        "modalities": list(table.modalities),
        "accuracy": score_interval(accuracy["all"]),
        "balanced_accuracy": score_interval(balanced["all"]),
        "controls": {name: score_interval(balanced[name]) for name in controls},
        "controls_accuracy": {name: score_interval(accuracy[name]) for name in controls},
        "gain_over": {name: fold_interval(_gain(balanced, name)) for name in controls},
        "probe_gain_over": {
            name: fold_interval(_gain(probes, name)) for name in probes if name != "all"
        },
        "folds": {"balanced_accuracy": balanced, "accuracy": accuracy},
        "by_class": by_class(table, target, tests, outcomes),
        "rows": len(table.rows),
        "missing": {m: sum(m not in row.inputs for row in table.rows) for m in table.modalities},
        "groups": len({row.group for row in table.rows}),
        "unusable": [asdict(problem) for problem in table.problems],
        "warnings": warnings_of(table),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }


def score_interval(values: Sequence[float]) -> Interval:
    """`fold_interval` of scores, cut to the range from 0 to 1 in which a score can lie."""
    return clip_interval(fold_interval(values))


def by_class(
    table: Table, target: Tensor, tests: Sequence[Tensor], outcomes: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, float]]:
    """For each label its rows, and the share of them answered rightly, all folds together.

    target [n] of all rows; tests the test rows [m] of each fold; outcomes its predictions [m].
    """
    rows = torch.cat(list(tests))
    right = {
        name: torch.cat([outcome[name] for outcome in outcomes]) == target[rows]
        for name in shown_sets(table.modalities)
    }
    counts = Counter(row.label for row in table.rows)
    return {
        label: {
            "rows": counts[label],
            **{name: hit[target[rows] == c].double().mean().item() for name, hit in right.items()},
        }
        for c, label in enumerate(table.classes)
    }


def warnings_of(table: Table) -> list[str]:
    """What makes the scores too high, one line each; empty where nothing was found."""
    lines = []
    found = leaks(table)
    if all(row.group.startswith("row ") for row in table.rows):
        found.pop("text", None)  # that words come again is no leak where nobody asked for new ones
        lines.append(
            "no group column: rows were divided at random, so where rows share a name, a source or "
            "a day the scores are too high; name one with --group-column"
        )
    for modality, count in found.items():
        if count:
            lines.append(
                f"{count} of {len(table.rows)} rows have {word(modality, many=True)} that occur in "
                "another group, so a model may have seen in training what it is tested on"
            )
    return lines


def describe_report(report: Mapping[str, Any]) -> str:
    """The report as lines to read: scores and controls in percent, warnings, the sentence.

    Raises UserError where it is no report of a table's run.
    """
    with readable():
        return "\n".join(_lines(report))


@contextmanager
def readable() -> Iterator[None]:
    """What goes wrong within the block is a UserError, that it is no report of a table's run."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise expected(
            "the report of a run on a table",
            f"one that is damaged ({type(error).__name__}: {error})",
            "copy report.json anew, or train again",
        ) from None


def _lines(report: Mapping[str, Any]) -> list[str]:
    balanced = {"all": report["balanced_accuracy"], **report["controls"]}
    plain = {"all": report["accuracy"], **report["controls_accuracy"]}
    problems = [Problem(**problem) for problem in report["unusable"]]
    names = {k: words for k, words in names_of(report["modalities"]).items() if k in balanced}
    width = max(26, *(len(words) + 2 for words in names.values()))
    lines = [f"{'%':<{width}}{'balanced accuracy':<24}accuracy"]
    for name, words in names.items():
        scores = [format_interval(scores[name]) for scores in (balanced, plain)]
        lines.append(f"{words:<{width}}{scores[0]:<24}{scores[1]}")
    counts = [f"{n} without {word(modality)}" for modality, n in report["missing"].items()]
    counts += [f"{n} {word(m, many=True)} cut" for m, n in report["cut"].items() if n]
    lines.append(f"{report['rows']} rows in {report['groups']} groups, {', '.join(counts)}.")
    if problems:
        lines.append(f"{len(problems)} rows not used: {describe(problems)}.")
    lines += [f"Warning: {line}." for line in report["warnings"]]
    return [*lines, report["sentence"]]
