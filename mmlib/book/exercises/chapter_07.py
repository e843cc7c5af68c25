"""The exercises of chapter 07, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmlib.book.costs import layer_flops
from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_07_judged import RESUMED

# 7.1: one fusion layer of `small`, all words asking, eight questions a picture; 10⁶ a question
_d, _t, _i, _Q = 128, 12, 64, 8


def _millions(flops: float) -> float:
    return flops / 1e6


_layer = layer_flops(_d, _t, _i, _t, _Q, 1) / _Q
_cells = 4 * _i * _d**2  # of one picture
_flops_of_a_layer = Exercise(
    right=_millions(_layer),
    wrong=(
        (_millions(_layer / 2), "A multiply-add is two operations."),
        (
            _millions(_layer + _cells - _cells / _Q),
            "The cells' keys and values are computed once for the eight questions.",
        ),
        (
            _millions(_layer - _cells / _Q),
            "The cells' own keys and values are missing: an eighth of them is this question's.",
        ),
        (
            _millions(_layer - 4 * _t * (_t + _i) * _d),
            "Weights alone: attention multiplies words with words and cells, without any weight.",
        ),
        (
            _millions(_layer - 4 * _t * _i * _d),
            "The words attend to the cells as well: the keys are words and cells.",
        ),
        (
            _millions(_layer - 2 * _t * (_t + _i) * _d),
            "Attention is two products: the scores, and the mixture of the values.",
        ),
        (_millions(_layer - 16 * _t * _d**2), "The feed-forward part is missing, the largest."),
        (
            _millions(_layer - 8 * _t * _d**2),
            "The feed-forward part is two layers: d to 4 d, and back.",
        ),
        (_millions(3 * _layer), "That is forward and backward; the forward pass was asked for."),
        (_millions(_layer * _Q), "That is for all eight questions; one was asked for."),
    ),
    look="Write eq. (7.6) down with B = 8, P = 1, n = L_t = 12, L_i = 64, and divide by eight.",
)

# 7.2: 10⁹ bytes of weights, gradients and moments; 119.5 million parameters, 85.5 of them frozen
_N, _frozen = 119.5e6, 85.5e6
_bytes_when_frozen = Exercise(
    right=(4 * _N + 12 * (_N - _frozen)) / 1e9,
    wrong=(
        (16 * _N / 1e9, "A frozen weight has no gradient and no moments."),
        (16 * (_N - _frozen) / 1e9, "A frozen weight is still there: four bytes."),
        (
            12 * (_N - _frozen) / 1e9,
            "The weights themselves are missing: four bytes each, frozen or not.",
        ),
        ((4 * _N + 12 * _frozen) / 1e9, "You counted the gradients of the frozen ones."),
        ((4 * _N + 8 * (_N - _frozen)) / 1e9, "Gradient, m and v: three numbers, not two."),
        (
            (4 * _N + 4 * (_N - _frozen)) / 1e9,
            "AdamW keeps two numbers for each weight that moves.",
        ),
        (
            (8 * _N + 8 * (_N - _frozen)) / 1e9,
            "A frozen weight gets no gradient, so none is kept.",
        ),
        (
            (4 * _N + 12 * (_N - _frozen)) / 2**30,
            "That is in 2³⁰ bytes; the answer was asked in 10⁹.",
        ),
        (
            (4 * _N + 12 * (_N - _frozen)) / 4e9,
            "That counts numbers; each has four bytes.",
        ),
    ),
    look="Four bytes for each weight, and twelve more for each that moves.",
)


def _factors(n: Tensor) -> Tensor:
    return n / n.sum()


_weights_of_pieces = Exercise(
    right=_factors,
    wrong=(
        (
            lambda n: torch.full_like(n, 1 / len(n)),
            "That is a mean of means; pieces with few labels speak too loudly.",
        ),
        (
            lambda n: torch.full_like(n, 1.0) / n.sum(),
            "That is the factor of a *sum* of losses. A piece's mean has been divided already.",
        ),
        (lambda n: 1 / n, "That turns the mean into something smaller still; see eq. (7.13)."),
        (
            lambda n: (1 / n) / (1 / n).sum(),
            "The other way round: a piece with more labels gets a larger factor.",
        ),
        (lambda n: n, "The factors must add up to one, or the step grows with the batch."),
        (
            lambda n: n / n.max(),
            "The factors must add up to one, or the step grows with the number of pieces.",
        ),
        (lambda n: n.softmax(0), "Proportional to the labels, not to their exponentials."),
        (
            lambda n: n / n.mean(),
            "That is right for a mean over pieces; for a sum divide by the number of pieces.",
        ),
    ),
    cases=tuple((torch.tensor(n),) for n in ((3.0, 60.0), (5.0, 5.0), (1.0, 2.0, 5.0), (0.0, 4.0))),
    look="Multiply a piece's mean by its labels to get its sum, then divide by all labels.",
)

_S = 100.0


def _stable(s: int, S: int, w: int) -> float:
    return min(1.0, (s + 1) / w, (S - s) / (0.2 * S))


_schedule = Exercise(
    right=_stable,
    wrong=(
        (
            lambda s, S, w: min(1.0, s / w, (S - s) / (0.2 * S)),
            "Your step 0 has the rate 0 and does nothing: the line is (s + 1)/w.",
        ),
        (lambda s, S, w: min(1.0, (s + 1) / w), "The last fifth, where it falls, is missing."),
        (
            lambda s, S, w: min(1.0, (S - s) / (0.2 * S)),
            "Warm-up is missing: the first w steps rise in a line.",
        ),
        (
            lambda s, S, w: min(1.0, (s + 1) / w) * min(1.0, (S - s) / S),
            "It falls from the first step on. Until four fifths of the steps it is constant.",
        ),
        (
            lambda s, S, w: min(1.0, (s + 1) / w) * (1.0 if s < 0.8 * S else 0.0),
            "It jumps to zero; in the last fifth it falls in a line.",
        ),
        (
            lambda s, S, w: min(1.0, (s + 1) / w, (S - s) / (0.8 * S)),
            "It falls over the last four fifths; it should over the last fifth.",
        ),
        (
            lambda s, S, w: min(1.0, (s + 1) / w, (S - s) / w),
            "It falls over the last w steps. The last fifth of all steps was asked for.",
        ),
        (
            lambda s, S, w: (
                min(1.0, (s + 1) / w)
                * (0.5 * (1 + math.cos(math.pi * (s / S - 0.8) / 0.2)) if s > 0.8 * S else 1.0)
            ),
            "That falls along a cosine; a line was asked for.",
        ),
        (
            lambda s, S, w: min(1.0, (s + 1) / w, (S - s - 1) / (0.2 * S)),
            "It is zero at step S - 1, which is still taken; let it be zero at S.",
        ),
    ),
    cases=tuple(
        (s, S, w)
        for S, w in ((100, 10), (2400, 200))
        for s in (0, w // 2, w - 1, w, S // 2, 4 * S // 5, 9 * S // 10, S - 1)
    ),
    look="Three lines, and the smallest of them: (s + 1)/w, 1, and one that is 0 at S.",
)

_lost_in_bf16 = Exercise(
    right=2.0**6 * 2.0**-8,
    wrong=(
        (
            2.0**6 * 2.0**-7,
            "That is the gap between neighbors; what is below half of it is lost.",
        ),
        (100 * 2.0**-8, "The gaps are those of the power of two below, 64, not of 100 itself."),
        (100 * 2.0**-7, "Half the gap, and the gap of the power of two below 100."),
        (2.0**-8, "That is at 1; the gaps grow with the number."),
        (2.0**6 * 2.0**-9, "Eight bits of precision include the leading one: seven follow it."),
        (2.0**6 * 2.0**-11, "That is float16, with its eleven bits; bf16 has eight."),
        (2.0**6 * 2.0**-24, "That is float32, with its twenty-four bits; bf16 has eight."),
    ),
    look="Between which powers of two does 100 lie, and into how many steps are they divided?",
)


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

# 7.8: the interval of a paired difference over seeds; Student (1908)
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
    "7.1": _flops_of_a_layer,
    "7.2": _bytes_when_frozen,
    "7.3": _weights_of_pieces,
    "7.4": _schedule,
    "7.5": _lost_in_bf16,
    "7.6": RESUMED,
    "7.7": _step_when_frozen,
    "7.8": _paired_difference,
}
