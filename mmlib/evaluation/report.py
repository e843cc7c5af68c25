"""Does fusion help? The report of a cross-validation, with the one sentence that answers it.

The sentence is computed. It never compares with "the better single modality": which of the two is
better would be chosen by the scores that it is then judged by, and the better of two noisy scores
is too high. Fusion helps where it beats both.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from mmlib.data.table import Problem, Table, describe, leaks
from mmlib.evaluation import Interval, balanced_accuracy, interval

SINGLES = {"image_only": "the picture alone", "text_only": "the text alone"}
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "pillow")


def fold_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and interval of one figure a fold, {"mean", "low", "high", "n"}, units of the values.

    Folds share their training rows, so their scores are not independent and a plain t interval is
    too narrow. Each half is widened by √(1 + k / (k − 1)), k folds: the variance is taken as
    (1/k + n_test / n_train) s² instead of s² / k. A bootstrap over groups would keep the trained
    models fixed, and so leave out how much they change with their training rows.
    Source: Nadeau & Bengio (2003), eq. 8, for k folds: n_test / n_train = 1 / (k − 1).
    """
    plain = interval(values, level)
    k = len(values)
    wider = math.sqrt(1 + k / (k - 1)) if k > 1 else 1.0
    half = (plain["high"] - plain["mean"]) * wider
    return {**plain, "low": plain["mean"] - half, "high": plain["mean"] + half}


def score_interval(values: Sequence[float]) -> Interval:
    """`fold_interval` of scores, cut to the range from 0 to 1 in which a score can lie."""
    found = fold_interval(values)
    return {**found, "low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def sentence(both: Sequence[float], singles: Mapping[str, Sequence[float]]) -> str:
    """Whether fusion helps, from the scores of each fold: balanced accuracy from 0 to 1.

    "Helps": both is above each of `singles` (a name, its scores), the whole 95 % interval of each
    paired difference above 0; as all must hold, testing several makes a false "helps" no likelier.
    "Hurts": one difference lies below 0; as one suffices, its level is raised by Bonferroni.
    Otherwise the sentence says that the difference cannot be told from 0, and how wide it may be.
    """
    differences = {
        name: [b - s for b, s in zip(both, scores, strict=True)] for name, scores in singles.items()
    }
    told = {name: fold_interval(d) for name, d in differences.items()}
    strict = {name: fold_interval(d, 1 - 0.05 / len(told)) for name, d in differences.items()}
    worse = [name for name in told if strict[name]["high"] < 0]
    unsure = [name for name in told if told[name]["low"] <= 0]
    if worse:
        text, shown = "Fusion hurts", {name: strict[name] for name in worse}
    elif unsure:
        text, shown = "Fusion does not help by an amount we can tell", {n: told[n] for n in unsure}
    else:
        text, shown = "Fusion helps", told
    amounts = " and ".join(f"{_points(gain)} over {name}" for name, gain in shown.items())
    return f"{text}: picture and text together gain {amounts} ({len(both)} folds)."


def _points(gain: Interval) -> str:
    mean, low, high = (f"{100 * gain[key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{mean} points [{low}, {high}] of balanced accuracy".replace("-", "−")


def report_of(
    table: Table, target: Tensor, tests: Sequence[Tensor], outcomes: Sequence[Mapping[str, Tensor]]
) -> dict[str, Any]:
    """The report of k folds: the sentence, scores, controls, gains, and what mars the rows.

    target [N] classes; tests: the test rows of each fold; outcomes: the classes that each model and
    control predicted for them. Scores are means over folds with `fold_interval`; the controls and
    the differences (both − one) are of balanced accuracy, `controls_accuracy` of accuracy.
    """
    accuracy: dict[str, list[float]] = {name: [] for name in outcomes[0]}
    balanced: dict[str, list[float]] = {name: [] for name in outcomes[0]}
    for test, outcome in zip(tests, outcomes, strict=True):
        for name, prediction in outcome.items():
            accuracy[name].append((prediction == target[test]).double().mean().item())
            balanced[name].append(balanced_accuracy(prediction.tolist(), target[test].tolist()))
    controls = [name for name in balanced if name != "both"]
    over = {
        name: [b - s for b, s in zip(balanced["both"], balanced[name], strict=True)]
        for name in controls
    }
    probe = [
        b - s for b, s in zip(balanced["probe_both"], balanced["probe_image_only"], strict=True)
    ]
    return {
        "sentence": sentence(
            balanced["both"], {words: balanced[name] for name, words in SINGLES.items()}
        ),
        "accuracy": score_interval(accuracy["both"]),
        "balanced_accuracy": score_interval(balanced["both"]),
        "controls": {name: score_interval(balanced[name]) for name in controls},
        "controls_accuracy": {name: score_interval(accuracy[name]) for name in controls},
        "gain_over": {name: fold_interval(over[name]) for name in controls},
        "probe_gain_over_image_only": fold_interval(probe),
        "folds": {"balanced_accuracy": balanced, "accuracy": accuracy},
        "by_class": by_class(table, target, tests, outcomes),
        "rows": len(table.rows),
        "without_picture": sum(row.picture is None for row in table.rows),
        "without_text": sum(not row.text for row in table.rows),
        "groups": len({row.group for row in table.rows}),
        "unusable": [asdict(problem) for problem in table.problems],
        "warnings": warnings_of(table),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }


def by_class(
    table: Table, target: Tensor, tests: Sequence[Tensor], outcomes: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, float]]:
    """For each label its rows, and the share of them answered rightly, all folds together.

    target [n] of all rows; tests the test rows [m] of each fold; outcomes its predictions [m].
    """
    rows = torch.cat(list(tests))
    right = {
        name: torch.cat([outcome[name] for outcome in outcomes]) == target[rows]
        for name in ("both", *SINGLES)
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
        found.pop("texts")  # that words come again is no leak where nobody asked for new ones
        lines.append(
            "no group column: rows were divided at random, so where rows share a name, a source or "
            "a day the scores are too high; name one with --group-column"
        )
    for kind, count in found.items():
        if count:
            lines.append(
                f"{count} of {len(table.rows)} rows have {kind} that occur in another group, so a "
                "model may have seen in training what it is tested on"
            )
    return lines


NAMES = {
    "both": "picture and text",
    "image_only": "picture alone",
    "text_only": "text alone",
    "shuffled": "pictures exchanged",
    "probe_both": "linear, picture and text",
    "probe_image_only": "linear, picture alone",
    "probe_text_only": "linear, text alone",
    "majority": "most frequent label",
}


def describe_report(report: Mapping[str, Any]) -> str:
    """The report as lines to read: scores and controls in percent, warnings, the sentence."""
    balanced = {"both": report["balanced_accuracy"], **report["controls"]}
    plain = {"both": report["accuracy"], **report["controls_accuracy"]}
    problems = [Problem(**problem) for problem in report["unusable"]]
    lines = [f"{'%':<26}{'balanced accuracy':<24}accuracy"]
    for name, words in NAMES.items():
        lines.append(f"{words:<26}{_percent(balanced[name]):<24}{_percent(plain[name])}")
    lines.append(
        f"{report['rows']} rows in {report['groups']} groups, {report['without_picture']} without "
        f"picture, {report['without_text']} without text, {report['texts_cut']} texts cut."
    )
    if problems:
        lines.append(f"{len(problems)} rows not used: {describe(problems)}.")
    lines += [f"Warning: {line}." for line in report["warnings"]]
    return "\n".join([*lines, report["sentence"]])


def _percent(score: Interval) -> str:
    mean, low, high = (f"{100 * score[key]:.1f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
