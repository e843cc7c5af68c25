"""Does it know when it is right? Confidence against accuracy, and answers that are withheld."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmlib.errors import expected

BINS = 15
DRAWS = 200
Array = NDArray[np.float64]


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> list[dict[str, Any]]:
    """Confidence beside accuracy: {"low", "high", "n", "confidence", "accuracy"} for each bin that
    holds an answer, confidences and shares from 0 to 1.

    confidence [N], the probability of the answer that was given; right [N], 0 or 1. The bins
    (low, high] are of equal width and together cover 0 to 1; the first holds 0 as well.

    Raises UserError where the two do not fit. Source: DeGroot & Fienberg (1983).
    """
    sure, hit = _checked(confidence, right)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    rows = []
    for number in np.unique(place):
        mine = place == number
        low, high = float(edges[number]), float(edges[number + 1])
        means = {"confidence": float(sure[mine].mean()), "accuracy": float(hit[mine].mean())}
        rows.append({"low": low, "high": high, "n": int(mine.sum()), **means})
    return rows


def calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """Σ n_b / N · |accuracy_b − confidence_b| over the bins of `reliability`, from 0 to 1.

    The figure is biased: it is above 0 for a calibrated model, more so with few answers and many
    bins (`calibration_floor` says by how much), and errors within a bin cancel. Compare models on
    the same number of questions and bins alone.

    confidence and right [N], errors as in `reliability`. Source: Naeini et al. (2015), ECE; for the
    bias Kumar et al. (2019).
    """
    rows = reliability(confidence, right, bins)
    total = sum(row["n"] for row in rows)
    return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / total


def calibration_floor(
    confidence: ArrayLike, bins: int = BINS, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """What `calibration_error` is for a calibrated model with these confidences [N], by chance:
    {"mean", "high"}, high the figure that 95 % of the draws stay below.

    An answer of confidence c is drawn right with probability c. An error below "high" is no sign of
    a fault. Source: Bröcker & Smith (2007), consistency resampling.
    """
    sure = np.asarray(confidence, dtype=float)
    rng = np.random.default_rng(seed)
    found = [calibration_error(sure, rng.random(len(sure)) < sure, bins) for _ in range(draws)]
    return {"mean": float(np.mean(found)), "high": float(np.quantile(found, 0.95))}


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> dict[str, Array]:
    """What is wrong among the answers that are given, where the least sure are withheld:
    {"coverage", "risk", "threshold"}, each [K] for K different confidences, the surest first.

    Answers of confidence ≥ threshold are given; coverage is their share of all, risk the share of
    wrong ones among them. Equal confidences are given or withheld together, so that the curve does
    not depend on the order of the rows.

    confidence and right [N], errors as in `reliability`. Source: El-Yaniv & Wiener (2010).
    """
    sure, hit = _checked(confidence, right)
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], np.cumsum(1 - hit[order])
    last = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)  # of each run of equal ones
    given = last + 1
    return {"coverage": given / len(sure), "risk": wrong[last] / given, "threshold": sure[last]}


def _checked(confidence: ArrayLike, right: ArrayLike) -> tuple[Array, Array]:
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if sure.ndim != 1 or sure.shape != hit.shape or not len(sure):
        raise expected(
            "a confidence and a right or wrong for each answer",
            f"shapes {list(sure.shape)} and {list(hit.shape)}", "pass two lists of one length",
        )  # fmt: skip
    if not ((sure >= 0) & (sure <= 1)).all():
        raise expected("confidences from 0 to 1", "others", "pass probabilities, not logits")
    return sure, hit
