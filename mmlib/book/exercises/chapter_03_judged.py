"""What chapter 03 judges by running it: a step of the fused path, a row of blocks, predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmlib.attention import attention_mask
from mmlib.book.exercises import Exercise

# 3.8: the fused path's step, judged by what it gives over several pieces

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


STREAMING = Exercise(look="", judge=_judge_step)

# 3.3: two words, three cells, two words


def _visible(block: Any) -> Tensor:
    numbers = torch.as_tensor(block, dtype=torch.float64)
    row = numbers.unique(return_inverse=True)[1][None]  # their ranks: any numbers may be given
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


BLOCKS = Exercise(look="", judge=_judge_blocks)

# 3.7: variants of the task of two heads

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


VARIANTS = Exercise(look="", judge=_judge_variants)
