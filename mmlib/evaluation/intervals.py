"""Scores and their intervals: over questions, over seeds, over folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from mmlib.errors import expected

Interval = dict[str, float]


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and t interval of one figure a seed or fold, in its units: {"mean", "low", "high", "n"}.

    With a single value the interval is unknown: low and high are the mean, and "n" says so.
    Source: Student (1908).
    """
    if len(values) == 0:
        raise expected("at least one value", 0, "run a seed first")
    x = np.asarray(values, dtype=float)
    mean, n = float(x.mean()), len(x)
    half = 0.0
    if n > 1:
        half = float(stats.t.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def paired_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """`interval` of the differences a − b, paired by seed or fold.

    Raises UserError where the lengths differ. Source: Student (1908).
    """
    if len(a) != len(b):
        raise expected(f"{len(a)} paired values", len(b), "compare the same seeds or folds")
    return interval([x - y for x, y in zip(a, b, strict=True)], level)


def accuracy_interval(correct: int, total: int, level: float = 0.95) -> Interval:
    """Share of `correct` among `total` independent answers with Wilson's interval.

    Raises UserError where there is no answer. Source: Wilson (1927).
    """
    if total <= 0:
        raise expected("at least one answer", total, "evaluate on more data")
    result = stats.binomtest(int(correct), int(total)).proportion_ci(level, method="wilson")
    mean = int(correct) / int(total)
    return {"mean": mean, "low": float(result.low), "high": float(result.high), "n": int(total)}


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


def clip_interval(found: Interval, low: float = 0.0, high: float = 1.0) -> Interval:
    """An interval whose ends are cut to the range in which the figure can lie; the mean stays."""
    return {**found, "low": max(low, found["low"]), "high": min(high, found["high"])}


def format_interval(
    found: Interval, digits: int = 1, factor: float = 100.0, sign: bool = False
) -> str:
    """An interval as text, "97.1 [96.2, 97.9]": times `factor`, with a sign where asked for.

    It is plain ASCII: what a terminal of any code page can write. A −0.0 is written as 0.0.
    """
    form = f"{'+' if sign else ''}.{digits}f"
    mean, low, high = (
        format(round(factor * found[name], digits) + 0.0, form) for name in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]"


def balanced_accuracy(prediction: Sequence[int], target: Sequence[int]) -> float:
    """Mean over the classes in `target` of the share answered rightly: chance is 1 / classes.

    prediction and target [N]. Source: Brodersen et al. (2010).
    """
    right, classes = np.asarray(prediction) == np.asarray(target), np.asarray(target)
    return float(np.mean([right[classes == c].mean() for c in np.unique(classes)]))


def accuracy_by_kind(
    prediction: Sequence[int], target: Sequence[int], kind: Sequence[str]
) -> dict[str, Interval]:
    """Accuracy "overall" and of each kind of question, each with Wilson's interval.

    prediction, target, kind [N]. Source: Wilson (1927).
    """
    right, kinds = np.asarray(prediction) == np.asarray(target), np.asarray(kind)
    scores = {"overall": accuracy_interval(right.sum(), len(right))}
    for name in dict.fromkeys(kind):
        scores[name] = accuracy_interval(right[kinds == name].sum(), (kinds == name).sum())
    return scores


def learned_at(
    curve: Sequence[Mapping[str, float]], kind: str, guess: float, share: float = 0.5
) -> int:
    """The first step at which a kind of question has covered `share` of the way from its best guess
    to all right, eq. (7.21).

    curve is a list of {"step", kind: accuracy, …}, one an evaluation, in order.
    Raises UserError where it never gets there. Source: chapter 07.
    """
    line = guess + share * (1 - guess)
    for at in curve:
        if at[kind] >= line:
            return int(at["step"])
    raise expected(f"a curve of {kind} that reaches {line:.3f}", "one below", "train for longer")
