"""The exercises of chapter 03, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import Any

import torch
from torch import Tensor

from mmlib.attention import attention_mask
from mmlib.exercises import Exercise

# The five words of section 3.1: red, circle, above, blue, square
_TOKENS = [(1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)]
_QUERY_OF_BLUE = [log(2) * n for n in (-2, -2, 4, 4)]

# 3.1: what blue hears of circle under the causal mask


def _terms(root: float, seen: int) -> list[float]:
    return [
        exp(sum(q * k for q, k in zip(_QUERY_OF_BLUE, key, strict=True)) / root)
        for key in _TOKENS[:seen]
    ]


def _heard(terms: list[float], scale: float = 20.0) -> float:
    """The column of circle: only the second token has it."""
    return scale * terms[1] / sum(terms)


_causal = Exercise(
    right=_heard(_terms(2, 4)),
    wrong=(
        (
            _heard(_terms(2, 5)),
            "That is without the mask, or with weights that were masked after the softmax: the"
            " weights of the words that are seen must sum to 1 again.",
        ),
        (
            _heard(_terms(2, 4)[:3]),
            "You hid the word from itself: a token's own block is not later than itself.",
        ),
        (_heard(_terms(1, 4)), "Did you divide the scores by the root of d_k?"),
        (_heard(_terms(4, 4)), "Scores are divided by the root of d_k, not by d_k."),
        (_heard(_terms(2, 4), 1.0), "That is the weight. The value of circle is twenty of it."),
        (
            _heard([*_terms(2, 4), 1.0]),
            "You gave the hidden word the score 0, and e^0 = 1. Its score is −∞, its term 0.",
        ),
        (20 * _terms(2, 4)[1], "The term still has to be divided by the sum of the terms."),
    ),
    look="Which four words does blue see? Write down their terms and the sum.",
)

# 3.2: the gradient of the query of above, whose weights are all 1/5


def _of_query(
    mean: float = 4.0, root: float = 2.0, sign: float = 1.0, value: float = 20.0, column: int = 1
) -> list[float]:
    useful = [value * k[column] - mean for k in _TOKENS]
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
            [20 * g for g in _of_query()],
            "You multiplied the scores' gradients by the values; the score is made of keys.",
        ),
        (
            [5 * g for g in _of_query()],
            "The weights, one fifth each, are missing from the scores' gradients.",
        ),
        (
            _of_query(mean=0.2, value=1.0),
            "The values are twenty times the tokens.",
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

# 3.3 and 3.4: two laws

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
    look="By eq. (3.6), which weights have the smallest sum of squares?",
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
            "That is eq. (3.7), where the means are zero.",
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

# 3.5: two samples in one row


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
    look="Rule (3.10) holds within a segment. What must hold of the two segments?",
)

# 3.6: the fused path's step, judged by what it gives over several pieces

State = tuple[Tensor, Tensor, Tensor]
Step = Callable[[State, Tensor, Tensor], State]
Function = Callable[..., Any]


def _step(unit: Function, of_Z: Function, of_a: Function) -> Step:
    """A step in the unit e^m, m = unit(old m, piece's largest), with a factor on the old sums."""

    def step(state: State, s: Tensor, v: Tensor) -> State:
        m, Z, a = state
        new = unit(m, s.max())
        old, terms = torch.exp(m - new), torch.exp(s - new)
        return new, of_Z(old) * Z + terms.sum(), of_a(old) * a + terms @ v

    return step


def _own(m: Tensor, piece: Tensor) -> Tensor:
    return piece


def _rescaled(old: Tensor) -> Tensor:
    return old


def _kept(old: Tensor) -> float:
    return 1.0


def _lost(old: Tensor) -> float:
    return 0.0


def _turned(old: Tensor) -> Tensor:
    return 1 / old


def _divided(state: State, s: Tensor, v: Tensor) -> State:
    m, Z, a = _right_step(state, s, v)
    return m, Z, a / Z


_right_step = _step(torch.maximum, _rescaled, _rescaled)
_STEPS: Sequence[tuple[Step, str]] = (
    (
        _step(lambda m, piece: torch.zeros_like(m), _rescaled, _rescaled),
        "Right for small scores, but e^1000 overflows: every exponential must be taken of a score"
        " minus the largest so far.",
    ),
    (
        _step(torch.maximum, _kept, _kept),
        "When a piece brings a larger score, what was summed before is in the old unit: multiply Z"
        " and a by e^(old m − new m).",
    ),
    (_step(torch.maximum, _rescaled, _kept), "Z is brought to the new unit, a is not."),
    (_step(torch.maximum, _kept, _rescaled), "a is brought to the new unit, Z is not."),
    (
        _step(_own, _rescaled, _rescaled),
        "m must be the largest score of all pieces so far. With the piece's own, a piece of small"
        " scores makes e^(old m − m) overflow.",
    ),
    (
        _step(torch.maximum, _turned, _turned),
        "The exponent is turned: the old sums take e^(old m − new m), which is 0 at the first piece"
        " and never above 1. Yours is infinite there.",
    ),
    (_divided, "a is a sum, like Z. It is divided by Z once, at the end, not at every step."),
    (_step(_own, _lost, _lost), "Only the last piece is left: the old Z and a belong to the sums."),
)


def _pieces() -> list[tuple[Tensor, Tensor]]:
    """Scores [12] and values [12, 2]: small, rising to 1000 and falling again, all far below 0."""
    random = torch.Generator().manual_seed(3)
    s = torch.randn(12, generator=random, dtype=torch.float64)
    v = torch.randn(12, 2, generator=random, dtype=torch.float64)
    rising = torch.tensor([-1000.0] * 4 + [998.0, 999.0, 1000.0, 1000.0] + [-1000.0] * 4)
    return [(s, v), (s + rising, v), (s - 2000, v)]


def _run(step: Step, s: Tensor, v: Tensor) -> Tensor:
    """The result of a step over pieces of three keys."""
    m, Z, a = s.new_tensor(float("-inf")), s.new_zeros(()), v.new_zeros(2)
    for n in range(0, len(s), 3):
        m, Z, a = step((m, Z, a), s[n : n + 3], v[n : n + 3])
    return a / Z


def _judge_step(answer: Any) -> str:
    """Run the reader's step over pieces, and name the step it behaves like."""
    if not callable(answer):
        return "not yet. A function is asked for."
    returned: list[Any] = []

    def noted(state: State, s: Tensor, v: Tensor) -> Any:
        returned.append(answer(state, s, v))
        return returned[-1]

    try:
        given = [_run(noted, s, v) for s, v in _pieces()]
    except (TypeError, ValueError):
        if returned and returned[-1] is None:
            return "no answer yet: your function returns None."
        if returned and len(returned[-1]) != 3:
            return "not yet. The new state has three parts: m, Z and a."
        raise
    for step, sentence in ((_right_step, ""), *_STEPS):
        by_step = [_run(step, s, v) for s, v in _pieces()]
        if torch.allclose(torch.stack(given), torch.stack(by_step), atol=1e-9, equal_nan=True):
            return sentence and f"not yet. {sentence}"
    return "not yet. Write Z over two pieces as one sum, with the larger of the two m."


_streaming = Exercise(look="", judge=_judge_step)

# 3.7: two words, three cells, two words


def _visible(block: Any) -> Tensor:
    row = torch.as_tensor(block, dtype=torch.float64)[None]
    return attention_mask(torch.ones(row.shape, dtype=torch.bool), row)[0, 0]


_BLOCKS: Sequence[tuple[list[int], str]] = (
    ([0, 1, 2, 3, 4, 5, 6], "That is causal: the first cell does not see the other two."),
    (
        [0, 0, 1, 1, 1, 2, 3],
        "The two words in front share a block, so the first sees the second, which comes later.",
    ),
    ([0, 1, 2, 2, 2, 3, 3], "The last word is seen by the one before it."),
    ([0, 0, 1, 1, 1, 2, 2], "Words share blocks, so a word sees one that comes later."),
    ([0, 0, 0, 0, 0, 1, 2], "That is a prefix of five: the words in front see the picture."),
    ([1, 2, 0, 0, 0, 3, 4], "The first words see the picture, which comes later; it sees no word."),
    ([0, 1, 0, 0, 0, 2, 3], "The first word sees the picture, which comes after it."),
    ([4, 3, 2, 2, 2, 1, 0], "The order is turned: a query sees the blocks that are not later."),
    ([0, 0, 0, 0, 0, 0, 0], "One block for all: everybody sees everybody."),
)


def _judge_blocks(answer: Any) -> str:
    """Compare who sees whom: the numbers themselves are free."""
    if len(answer) != 7:
        return f"not yet. Seven numbers are asked for, one a token; yours are {len(answer)}."
    seen = _visible(answer)
    if torch.equal(seen, _visible([0, 1, 2, 2, 2, 3, 4])):
        return ""
    for block, sentence in _BLOCKS:
        if torch.equal(seen, _visible(block)):
            return f"not yet. {sentence}"
    return "not yet. Which tokens see each other both ways? Those, and only those, share a block."


_blocks = Exercise(look="", judge=_judge_blocks)

# 3.8: variants of the task of section 3.8

_VARIANTS: dict[str, tuple[bool, str]] = {
    "tied": (False, "with shared W_q and W_k both heads have the same row of weights. What is the"
             " rank of (u_1 + u_2) wᵀ?"),
    "hidden layer": (False, "what reaches the network is one number, a weighted sum, and the"
                     " question. Can it tell two real numbers from their sum?"),
    "two queries": (True, "each of the two tokens has a softmax of its own."),
    "sum": (True, "what are the weights, and what does u have to be?"),
    "difference": (False, "one u for both places, and weights that are positive: which signs can"
                   " the two have?"),
}  # fmt: skip


def _judge_variants(answer: Any) -> str:
    """Which variants can bring the error to zero."""
    if not isinstance(answer, dict) or set(answer) != set(_VARIANTS):
        return f"not yet. A dictionary with the keys {', '.join(_VARIANTS)} is asked for."
    for name, (can, reason) in _VARIANTS.items():
        if answer[name] != can:
            return f"not yet. Think again about {name}: {reason}"
    return ""


_variants = Exercise(look="", judge=_judge_variants)

EXERCISES: dict[str, Exercise] = {
    "3.1": _causal,
    "3.2": _gradient,
    "3.3": _trace,
    "3.4": _with_means,
    "3.5": _packing,
    "3.6": _streaming,
    "3.7": _blocks,
    "3.8": _variants,
}
