"""Intervals where questions come in groups: several about one picture are not independent.

They are over questions for one trained model. How much another seed would change is not in them:
that takes several models, and `interval` over their scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmlib.errors import expected
from mmlib.evaluation.intervals import Interval

Array = NDArray[np.float64]


def cluster_interval(
    values: ArrayLike, groups: Sequence[Hashable], level: float = 0.95
) -> Interval:
    """Mean of values [N] and its t interval over groups [N]: {"mean", "low", "high", "n"}.

    Var = G / (G − 1) · Σ_g (Σ_{i in g} (x_i − mean))² / N², t with G − 1 degrees of freedom: that
    of `interval` where each group is one value, and of the groups' means where all are as large.
    "n" is N. Units of the values; with one group the ends are the mean, for nothing is known.

    Raises UserError where there is no value, or not as many groups. Source: Liang & Zeger (1986).
    """
    x, index, G = _grouped(values, groups)
    mean, half = float(x.mean()), 0.0
    if G > 1:
        half = float(stats.t.ppf(0.5 + level / 2, G - 1)) * _variance(x, index, G) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(x)}


def cluster_accuracy(right: ArrayLike, groups: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Share of right [N] (0 or 1) with Wilson's interval for as many answers as the groups leave.

    The effective number is N / d, where d ≥ 1 is the variance over groups by that of independent
    answers; where all are right, or all wrong, it is the number of groups. "n" is N. With one row
    a group it is `accuracy_interval`. Take thirty groups or more.

    Raises UserError as `cluster_interval` does. Source: Korn & Graubard (1998), with Wilson (1927).
    """
    x, index, G = _grouped(right, groups)
    p, N = float(x.mean()), len(x)
    effective = float(G)
    if 0 < p < 1 and G > 1:
        alone = p * (1 - p) / (N - 1)
        effective = N / max(1.0, _variance(x, index, G) / alone)
    z2 = float(stats.norm.ppf(0.5 + level / 2)) ** 2
    middle = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    half = (z2 * (p * (1 - p) + z2 / (4 * effective)) / effective) ** 0.5 / (1 + z2 / effective)
    return {"mean": p, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "n": N}


def cluster_effect(
    values: ArrayLike, groups: Sequence[Hashable], reach: float = 1.0, level: float = 0.95
) -> Interval:
    """Mean of effects [N], each from −reach to reach, with an interval that is never empty.

    It is that of `cluster_interval` with two groups of average size added, one in which each effect
    is reach and one in which it is −reach. So where all effects are 0 it still has a width, as it
    must: what did not occur in N questions may be rare. The mean is that of the questions alone.

    Units of the values; errors as in `cluster_interval`. Source: Bonett & Price (2012), for groups.
    """
    plain = cluster_interval(values, groups, level)
    x = np.asarray(values, dtype=float)
    size = max(1, round(len(x) / len(set(groups))))
    more = np.concatenate([x, np.full(size, reach), np.full(size, -reach)])
    named = [*(("given", group) for group in groups), *[("up", "")] * size, *[("down", "")] * size]
    wider = cluster_interval(more, named, level)
    return {**plain, "low": max(-reach, wider["low"]), "high": min(reach, wider["high"])}


def cluster_difference(
    a: ArrayLike, b: ArrayLike, groups: Sequence[Hashable], level: float = 0.95
) -> Interval:
    """`cluster_effect` of a − b, both [N], from 0 to 1 and of the same questions in this order.

    Raises UserError where they differ in length.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape:
        raise expected(f"{len(x)} paired answers", len(y), "compare the same questions")
    return cluster_effect(x - y, groups, 1.0, level)


def _grouped(values: ArrayLike, groups: Sequence[Hashable]) -> tuple[Array, NDArray[np.int_], int]:
    """The values, the number from 0 of each one's group, and how many groups there are."""
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) != len(groups) or not len(x):
        raise expected(
            "values [N], at least one, and a group for each",
            f"shape {list(x.shape)} and {len(groups)} groups", "name the group of each question",
        )  # fmt: skip
    seen: dict[Hashable, int] = {}
    index = np.array([seen.setdefault(group, len(seen)) for group in groups])
    return x, index, len(seen)


def _variance(x: Array, index: NDArray[np.int_], G: int) -> float:
    """The variance of the mean of x where groups, not values, are independent."""
    sums = np.bincount(index, x - x.mean())
    return float(G / (G - 1) * (sums**2).sum() / len(x) ** 2)
