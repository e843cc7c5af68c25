"""The exercises of chapter 03, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from typing import Any

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_03_judged import BLOCKS, STREAMING, VARIANTS
from mmlib.book.exercises.chapter_03_turns import ATTEND, MASKED, SOFTMAX, TWO_HEADS

# The five words: red, circle, above, blue, square
_TOKENS = [(1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)]
_QUERY_OF_BLUE = [log(2) * n for n in (-2, -2, 6, 2)]

# 3.1: what blue receives of circle under the causal mask


def _terms(root: float, seen: int) -> list[float]:
    return [
        exp(sum(q * k for q, k in zip(_QUERY_OF_BLUE, key, strict=True)) / root)
        for key in _TOKENS[:seen]
    ]


def _received(terms: list[float]) -> float:
    """The column of circle: only the second token has it."""
    return terms[1] / sum(terms)


_causal = Exercise(
    right=_received(_terms(2, 4)),
    wrong=(
        (
            _received(_terms(2, 5)),
            "That is without the mask, or with weights that were masked after the softmax: the"
            " weights of the words that are seen must sum to 1 again.",
        ),
        (
            _received(_terms(2, 4)[:3]),
            "You hid the word from itself: a token's own block is not later than itself.",
        ),
        (_received(_terms(1, 4)), "Did you divide the scores by the root of d_k?"),
        (_received(_terms(4, 4)), "Scores are divided by the root of d_k, not by d_k."),
        (
            _received([*_terms(2, 4), 1.0]),
            "You gave the hidden word the score 0, and e^0 = 1. Its score is −∞, its term 0.",
        ),
        (
            _received([exp(n) for n in (-1, 3, 0, -1)]),
            "You took e to the points. The query has the factor ln 2, so a point doubles the term.",
        ),
        (_terms(2, 4)[1], "The term still has to be divided by the sum of the terms."),
    ),
    look="Which four words does blue see? Write down their terms and the sum.",
)

# 3.5: the gradient of the query of above, whose weights are all 1/5


def _of_query(
    mean: float = 0.2, root: float = 2.0, sign: float = 1.0, column: int = 1
) -> list[float]:
    useful = [k[column] - mean for k in _TOKENS]
    return [
        sign * sum(u * k[c] for u, k in zip(useful, _TOKENS, strict=True)) / 5 / root
        for c in range(4)
    ]


_gradient = Exercise(
    right=_of_query(),
    wrong=(
        (
            _of_query(mean=0.0),
            "You left the mean out: through the softmax it is v_j − h that counts, not v_j.",
        ),
        (_of_query(root=1.0), "The root of d_k divides the gradient as it divides the scores."),
        (_of_query(root=4.0), "Divide by the root of d_k, not by d_k."),
        (
            _of_query(sign=-1.0),
            "The sign is turned. That is the step downhill; the gradient points uphill.",
        ),
        (
            [5 * g for g in _of_query()],
            "The weights, one fifth each, are missing from the scores' gradients.",
        ),
        (
            _of_query(column=0),
            "That is for the first column, red; the loss reads the second.",
        ),
    ),
    cases=((),),
    look="Four numbers, one a column. First the five gradients of the scores (they sum to zero),"
    " then the keys, then the root.",
)

# 3.6 and 3.4: two laws

_trace = Exercise(
    right=lambda n: 1 - 1 / n,
    wrong=(
        (lambda n: 1.0, "One key would then let a gradient pass. What is its weight?"),
        (
            lambda n: 1 / n,
            "That is the sum of the squared weights; the trace is what is left of 1.",
        ),
        (
            lambda n: (1 - 1 / n) / n,
            "That is one entry of the diagonal for equal weights. The trace has n of them.",
        ),
        (lambda n: n - 1, "The diagonal of J is w(1 − w), not 1 − w."),
        (
            lambda n: 0.25 if n > 1 else 0.0,
            "That is the largest value of one entry w(1 − w). The trace is the sum of all n.",
        ),
    ),
    cases=((1,), (2,), (3,), (8,), (100,)),
    look="By eq. (3.12), which weights have the smallest sum of squares?",
)

Law = Callable[[int, float, float], Any]


def _pair(whole: Law, left: Law) -> Law:
    return lambda d_k, a, b: (whole(d_k, a, b), left(d_k, a, b))


def _whole(d_k: int, a: float, b: float) -> float:
    return d_k * (1 + a**2 + b**2)


def _left(d_k: int, a: float, b: float) -> float:
    return d_k * (1 + a**2)


_with_means = Exercise(
    right=_pair(_whole, _left),
    wrong=(
        (
            _pair(lambda d_k, a, b: d_k, lambda d_k, a, b: d_k),
            "That is eq. (3.3), where the means are zero.",
        ),
        (
            _pair(_left, _left),
            "That is what one query's softmax sees; the whole variance is asked for as well.",
        ),
        (
            _pair(lambda d_k, a, b: d_k * (1 + a**2) * (1 + b**2), _left),
            "Your first is the mean of the squared product; a variance also subtracts the square"
            " of the mean.",
        ),
        (
            _pair(lambda d_k, a, b: d_k * (1 + (a * b) ** 2), _left),
            "The product of the means is a constant and has no variance; a mean times what the"
            " other factor does has.",
        ),
        (
            _pair(lambda d_k, a, b: 1 + a**2 + b**2, lambda d_k, a, b: 1 + a**2),
            "That is one product of two components; there are d_k.",
        ),
        (
            _pair(lambda d_k, a, b: d_k * (1 + a + b), lambda d_k, a, b: d_k * (1 + a)),
            "The means enter by their squares: a mean of −1 spreads as much as one of 1.",
        ),
        (
            _pair(_whole, _whole),
            "The first is right. In the second, which term of q·k is the same for all keys?",
        ),
        (
            _pair(_whole, lambda d_k, a, b: d_k),
            "The first is right. In the second you took both means away; one of them meets a"
            " factor that differs from key to key.",
        ),
        (
            _pair(_whole, lambda d_k, a, b: d_k * (1 + b**2)),
            "The first is right. In the second the means are exchanged: b meets the query, which"
            " is the same for all its keys.",
        ),
        (
            _pair(_whole, lambda d_k, a, b: d_k * b**2),
            "The first is right. The second is what the softmax does not see; what is left?",
        ),
        (_whole, "That is the whole, and right. Give the part that is left beside it."),
    ),
    cases=((1, 0.0, 0.0), (4, 1.0, 0.0), (16, 0.5, -2.0), (64, 1.0, 1.0)),
    look="Two numbers. Write q = a + q', k = b + k' and multiply out: which of the four terms have"
    " a variance, and which differ between the keys of one query?",
)

# 3.2: two sentences in one row


def _packed(segment: Tensor, block: Tensor) -> Tensor:
    return (segment[:, None] == segment) & (block <= block[:, None])


_PACKED_CASES = (
    (torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1])),
    (torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 0, 0, 0, 1, 0])),
    (torch.tensor([1, 0, 1, 0]), torch.tensor([1, 0, 0, 1])),
)

_packing = Exercise(
    right=_packed,
    wrong=(
        (
            lambda segment, block: block <= block[:, None],
            "The blocks alone: the first token of one sample is seen by the other.",
        ),
        (
            lambda segment, block: segment[:, None] == segment,
            "The segments alone: within a sample a token sees what comes later.",
        ),
        (
            lambda segment, block: (segment <= segment[:, None]) & (block <= block[:, None]),
            "With ≤ between segments the second sample sees the first. They must be equal.",
        ),
        (
            lambda segment, block: _packed(segment, block).T,
            "Rows and columns are exchanged: row i is the query, column j the key.",
        ),
        (
            lambda segment, block: (segment[:, None] == segment) & (block < block[:, None]),
            "With < between blocks no token sees itself, nor the others of its block.",
        ),
        (
            lambda segment, block: ~_packed(segment, block),
            "True is what may be seen; your table is turned.",
        ),
        (
            lambda segment, block: (
                (segment[:, None] == segment)
                & torch.ones(len(block), len(block), dtype=torch.bool).tril()
            ),
            "A causal triangle. It disregards the blocks: tokens of one block see each other, and"
            " order in the row need not be the order of the blocks.",
        ),
    ),
    cases=_PACKED_CASES,
    look="Rule (3.5) holds within a segment. What must hold of the two segments?",
)

EXERCISES: dict[str, Exercise] = {
    "3.A": SOFTMAX,
    "3.B": ATTEND,
    "3.C": MASKED,
    "3.D": TWO_HEADS,
    "3.1": _causal,
    "3.2": _packing,
    "3.3": BLOCKS,
    "3.4": _with_means,
    "3.5": _gradient,
    "3.6": _trace,
    "3.7": VARIANTS,
    "3.8": STREAMING,
}
