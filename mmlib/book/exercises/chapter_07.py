"""The exercises of chapter 07, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_07_judged import DIAGNOSED, GROUPS, RESUMED
from mmlib.book.exercises.chapter_07_turns import ADAMW, SCHEDULE, STEP

# 7.2: plain descent on two weights whose loss curves by 16 and by 4; best is 2/(16 + 4)
_STEEP, _FLAT = 16.0, 4.0


def _slowest(eta: float) -> float:
    """What is left of the slower weight's distance after one step at that rate."""
    return max(abs(1 - eta * _STEEP), abs(1 - eta * _FLAT))


_best_rate = Exercise(
    right=_slowest(2 / (_STEEP + _FLAT)),
    wrong=(
        (2 / (_STEEP + _FLAT), "That is the rate. What does a step at it leave of the distance?"),
        (
            _slowest(1 / _STEEP),
            "At the rate 1/16 the steep weight arrives in one step, and the flat one is slow. A"
            " larger rate serves both.",
        ),
        (
            _slowest(2 / _STEEP),
            "At the rate 2/16 the steep weight jumps from side to side for ever.",
        ),
        (_slowest(1 / _FLAT), "At the rate 1/4 the steep weight runs away."),
        (
            _FLAT / _STEEP,
            "That is the ratio of the curvatures. Set 1 - 4η against 16η - 1.",
        ),
        (
            1 - _slowest(2 / (_STEEP + _FLAT)),
            "That is the share that is gone. What is left was asked for.",
        ),
        (
            _slowest(2 / (_STEEP + _FLAT)) ** 2,
            "That is what is left of the *loss*, which goes with the square of the distance.",
        ),
        (
            -_slowest(2 / (_STEEP + _FLAT)),
            "The size was asked for, without the sign: a weight that changes sides is as far off.",
        ),
    ),
    look="A step multiplies the distances by 1 - 16η and 1 - 4η. When are they of one size?",
)


# 7.4: the operations of a step whose text encoder is frozen
Cost = Callable[[float, float, float], float]
_frozen_text: Cost = lambda text, image, fusion: text + 3 * (image + fusion)  # noqa: E731
_step_when_frozen = Exercise(
    right=_frozen_text,
    wrong=(
        (
            lambda text, image, fusion: 3 * (text + image + fusion),
            "Nothing below the text's states needs a gradient: its backward pass is left out.",
        ),
        (
            lambda text, image, fusion: 2 * text + 3 * (image + fusion),
            "You kept dL/dX for the words' encoder. Who below it would need that?",
        ),
        (
            lambda text, image, fusion: 3 * (image + fusion),
            "The forward pass of the frozen encoder still runs, unless its states are kept.",
        ),
        (
            lambda text, image, fusion: text + image + fusion,
            "That is a forward pass. Picture and fusion still learn.",
        ),
        (
            lambda text, image, fusion: text + 2 * (image + fusion),
            "The backward pass alone is twice the forward one; forward and backward are three.",
        ),
        (
            lambda text, image, fusion: text + 3 * image + 2 * fusion,
            "The fusion learns too: it needs both products of eq. (7.1).",
        ),
        (
            lambda text, image, fusion: text + 3 * fusion + 2 * image,
            "The picture's encoder learns too: it needs both products of eq. (7.1).",
        ),
    ),
    cases=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (2.0, 3.0, 5.0)),
    look="Three times forward for what learns. What is left of the frozen part?",
)

# 7.6: the interval of a paired difference over seeds; Student (1908)
_T = {3: 4.303, 5: 2.776}  # the 97.5 % point of t with n − 1 degrees of freedom


def _bounds(
    variant: Tensor, whole: Tensor, t: float | None = None, ddof: int = 1, root: bool = True
) -> tuple[float, float]:
    """mean ± t s / √n of the differences; t, ddof and root are there to be got wrong."""
    d, n = variant - whole, len(variant)
    half = (t or _T[n]) * float(d.std(correction=ddof)) / (math.sqrt(n) if root else 1)
    return float(d.mean()) - half, float(d.mean()) + half


def _unpaired(variant: Tensor, whole: Tensor) -> tuple[float, float]:
    n = len(variant)
    half = _T[n] * math.sqrt(float(variant.var() + whole.var()) / n)
    middle = float(variant.mean() - whole.mean())
    return middle - half, middle + half


_paired_difference = Exercise(
    right=_bounds,
    wrong=(
        (
            lambda variant, whole: _bounds(variant, whole, t=1.96),
            "1.96 is for many seeds. With few, s is itself a guess: take t from the text.",
        ),
        (
            lambda variant, whole: _bounds(variant, whole, t=_T[8 - len(variant)]),
            "That is the t of the other number of seeds.",
        ),
        (
            lambda variant, whole: _bounds(variant, whole, t=_T[3]),
            "t depends on the number of seeds: five have another than three.",
        ),
        (
            lambda variant, whole: _bounds(variant, whole, ddof=0),
            "s divides the squares by n - 1, since the mean was taken from the same numbers.",
        ),
        (
            lambda variant, whole: _bounds(variant, whole, root=False),
            "That holds one more seed. The mean of n of them varies less, by the root of n.",
        ),
        (
            lambda variant, whole: _bounds(whole, variant),
            "The other way round: a fall is a difference below 0.",
        ),
        (_unpaired, "Take the difference seed by seed first: s is the spread of the differences."),
        (
            lambda variant, whole: _bounds(variant, whole)[::-1],
            "The lower bound first.",
        ),
    ),
    cases=(
        (torch.tensor([0.50, 0.55, 0.47]), torch.tensor([0.78, 0.91, 0.99])),
        (torch.tensor([0.71, 0.96, 0.98]), torch.tensor([0.75, 0.94, 0.97])),
        (torch.tensor([0.70, 0.80, 0.95, 0.85, 0.60]), torch.tensor([0.72, 0.85, 0.99, 0.9, 0.7])),
    ),
    look="Differences by seed, their mean, their s, and t times s over the root of n, not over n.",
)

EXERCISES = {
    "7.A": ADAMW,
    "7.B": SCHEDULE,
    "7.C": STEP,
    "7.1": DIAGNOSED,
    "7.2": _best_rate,
    "7.3": GROUPS,
    "7.4": _step_when_frozen,
    "7.5": RESUMED,
    "7.6": _paired_difference,
}
