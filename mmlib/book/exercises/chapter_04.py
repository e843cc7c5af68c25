"""The exercises of chapter 04, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

from math import comb, exp, log, sqrt
from typing import Any

import torch
from torch import Tensor

from mmlib.attention import attention, attention_weights
from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_04_turns import JOINT, LATE, SHARE
from mmlib.book.symbols import TASKS

# 4.1: a key's points are the sum of its two numbers; the query makes each point a factor of 2
_QUERY = [sqrt(2) * log(2)] * 2
_WORDS, _CELLS = [(0, 0), (2, 0)], [(1, 0), (2, 1), (1, 1)]


def _terms(keys: list[tuple[int, int]], root: float = sqrt(2), unit: float = 1.0) -> list[float]:
    return [exp(unit * sum(q * k for q, k in zip(_QUERY, key, strict=True)) / root) for key in keys]


def _share(t: float, i: float) -> float:
    return i / (t + i)


_t, _i = _terms(_WORDS), _terms(_CELLS)
_share_of_picture = Exercise(
    right=_share(sum(_t), sum(_i)),
    wrong=(
        (
            _share(sum(_terms(_WORDS, unit=1 / log(2))), sum(_terms(_CELLS, unit=1 / log(2)))),
            "You took e to the points. Here a point doubles the share, so the base is 2.",
        ),
        (_share(sum(_i), sum(_t)), "That is the share of the words; the picture's was asked for."),
        (
            _share(sum(_t) / 2, sum(_i) / 3),
            "You took the mean of each side's terms. Softmax adds them, so more tokens weigh more.",
        ),
        (_share(2, 3), "That counts tokens. It holds only where all scores are equal."),
        (
            _share(log(_t[0]) + log(_t[1]), sum(log(x) for x in _i)),
            "You added points. What is added are the counts, 2 to the points.",
        ),
        (
            _share(_t[0] * _t[1], _i[0] * _i[1] * _i[2]),
            "You took 2 to the summed points; the counts themselves are summed.",
        ),
        (
            _share(max(_t), max(_i)),
            "You took the largest term of each side; all of them are in the sum.",
        ),
        (1.0, "That is a softmax over the cells alone; the words are in the same sum."),
    ),
    look="Write down the count of each of the five tokens, then eq. (4.2).",
)

_freedom = Exercise(
    right=lambda H, n: H * (n - 1),
    wrong=(
        (lambda H, n: H * n, "The weights of one head sum to 1, so not all of them are free."),
        (lambda H, n: n - 1, "That is one head. Each head has a softmax of its own."),
        (lambda H, n: n, "Two things are missing: the heads, and that weights sum to 1."),
        (lambda H, n: H * n - 1, "Not all weights together sum to 1: those of each head do."),
        (lambda H, n: H, "With n = 1 your formula leaves H choices, but eq. (4.5) leaves none."),
    ),
    cases=((1, 1), (1, 2), (4, 2), (8, 1), (3, 5)),
    look="How many numbers fix n positive weights that sum to 1? Then count heads.",
)


def _merge(h_t: Tensor, s_t: Tensor, h_i: Tensor, s_i: Tensor) -> Tensor:
    alpha = torch.sigmoid(s_t - s_i)[..., None]
    return alpha * h_t + (1 - alpha) * h_i


def _merge_overflowing(h_t: Tensor, s_t: Tensor, h_i: Tensor, s_i: Tensor) -> Tensor:
    alpha = (s_t.exp() / (s_t.exp() + s_i.exp()))[..., None]
    return alpha * h_t + (1 - alpha) * h_i


def _merge_by_logarithm(h_t: Tensor, s_t: Tensor, h_i: Tensor, s_i: Tensor) -> Tensor:
    alpha = (s_t / (s_t + s_i))[..., None]
    return alpha * h_t + (1 - alpha) * h_i


def _merge_cases() -> list[tuple]:
    random = torch.Generator().manual_seed(4)
    h_t, h_i = (torch.randn(3, 2, generator=random, dtype=torch.float64) for _ in range(2))
    s_t = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    s_i = torch.tensor([1.5, 0.25, -3.0], dtype=torch.float64)
    apart = torch.tensor([1000.0, 0.0, -1000.0], dtype=torch.float64)
    shifts = (0, 1000, apart)
    return [(h_t, s_t + shift, h_i, s_i + shift) for shift in shifts]


def _merge_by_one_maximum(h_t: Tensor, s_t: Tensor, h_i: Tensor, s_i: Tensor) -> Tensor:
    most = torch.maximum(s_t, s_i).max()
    return _merge_overflowing(h_t, s_t - most, h_i, s_i - most)


_merging = Exercise(
    right=_merge,
    wrong=(
        (
            _merge_overflowing,
            "Right for small scores. In the second case e^1000 overflows to inf, and inf/inf is"
            " NaN: use only the difference of the two logarithms.",
        ),
        (
            _merge_by_one_maximum,
            "One maximum for all rows: in a row far below it both terms become 0, and 0/0 is NaN."
            " Take the maximum of each row, or only the difference of the two logarithms.",
        ),
        (
            lambda h_t, s_t, h_i, s_i: _merge(h_i, s_t, h_t, s_i),
            "The two sides are exchanged: the share of the text multiplies the text's result.",
        ),
        (_merge_by_logarithm, "s_t is the logarithm of Z_t; eq. (4.2) is about Z_t itself."),
        (
            lambda h_t, s_t, h_i, s_i: (h_t + h_i) / 2,
            "That is the plain mean: right only where both sides have the same Z.",
        ),
        (
            lambda h_t, s_t, h_i, s_i: h_t + h_i,
            "The two results are added without shares: the normalizer is missing.",
        ),
    ),
    cases=_merge_cases(),
    look="Start from eq. (4.3), with α written in terms of log Z_t − log Z_i.",
)

_functions_beyond_a_sum = Exercise(
    right=2,
    wrong=(
        (1, "XOR is one. What of the function that is 1 where the bits agree?"),
        (14, "That is how many a sum can represent; the others were asked for."),
        (
            10,
            "That many depend on both bits. But a sum can say AND: depending on both is not"
            " interacting.",
        ),
        (
            8,
            "That many have an odd number of ones, like AND. Try f = g = bit for AND, with a"
            " threshold between 1 and 2.",
        ),
        (0, "Look at the proof of section 4.4 again: which signs would the four margins need?"),
    ),
    look="Which patterns of four signs contradict eq. (4.7)?",
)


def _pictures(K: int, n: int, p: float) -> float:
    """The probability of n ones among K values."""
    return comb(K, n) * p**n * (1 - p) ** (K - n)


def _pooled_bound(K: int, p: float = 0.5) -> float:
    return sum(_pictures(K, n, p) * max(n, K - n) for n in range(K + 1)) / K


_bound = Exercise(
    right=_pooled_bound,
    wrong=(
        (
            lambda K, p: _pooled_bound(K),
            "That is eq. (4.9), where ones are as frequent as zeros. How many ones does a picture"
            " have when they are not?",
        ),
        (
            lambda K, p: sum(p**n * (1 - p) ** (K - n) * max(n, K - n) for n in range(K + 1)) / K,
            "You counted one picture with n ones. How many are there?",
        ),
        (
            lambda K, p: sum(max(n, K - n) for n in range(K + 1)) / (K + 1) / K,
            "You took every number of ones as equally likely.",
        ),
        (
            lambda K, p: K * _pooled_bound(K, p),
            "That is the expected number of right cells; divide by the cells to get a share.",
        ),
        (
            lambda K, p: max(p, 1 - p),
            "That is the majority answer. The mean cell also tells n: take the best guess for each"
            " n, then the average.",
        ),
        (
            lambda K, p: sum(_pictures(K, n, p) * max(p, 1 - p) for n in range(1, K + 1)),
            "Given n the named cell holds a one with probability n/cells; p has done its part.",
        ),
        (lambda K, p: 1.0, "That needs the pairs of mark and value, which the mean does not keep."),
    ),
    cases=tuple((K, p) for K in (1, 2, 4, 7) for p in (0.5, 0.2, 0.9)),
    look="Given n ones among the cells, how often is the best guess right? Average over n.",
)


def _mean(x: Tensor, *kept: int) -> Tensor:
    """The mean over all axes but the kept ones."""
    return x.mean([axis for axis in range(3) if axis not in kept], keepdim=True)


def _sum_of_three(x: Tensor) -> Tensor:
    return _mean(x, 0) + _mean(x, 1) + _mean(x, 2)


def _emap(x: Tensor) -> Tensor:
    return _sum_of_three(x) - 2 * x.mean()


_table = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
_emaps = Exercise(
    right=_emap,
    wrong=(
        (_sum_of_three, "The overall mean is in f, in g and in the third; it is wanted once."),
        (
            lambda x: _sum_of_three(x) - x.mean(),
            "With two modalities one overall mean is too many. With three?",
        ),
        (
            lambda x: _sum_of_three(x) - 3 * x.mean(),
            "Three overall means are in the sum; one of them has to stay.",
        ),
        (
            lambda x: _sum_of_three(x) / 3,
            "Dividing does not help: on a table that is a sum already, nothing may change.",
        ),
        (
            lambda x: _mean(x, 0, 1) + _mean(x, 0, 2) + _mean(x, 1, 2) - 2 * x.mean(),
            "Each of your means keeps two modalities, and so what these two say together.",
        ),
        (
            lambda x: x - _emap(x),
            "That is what the projection leaves out, the interaction. The sum was asked for.",
        ),
    ),
    cases=((_table,), (_table[:, :2] + 1,)),
    look="f is the mean over the two other axes, and so are g and the third. What have they in"
    " common?",
)


def _judge_weights(answer: Any) -> str:
    """Run the reader's one head on every pair of `reference` and say what it looks at."""
    task = TASKS["reference"]
    W_q, W_k, W_v = (torch.as_tensor(W, dtype=torch.float64) for W in answer)
    shapes = (("W_q", W_q, 5, "[5, r]"), ("W_k", W_k, 6, "[6, r]"), ("W_v", W_v, 6, "[6, 1]"))
    for name, W, rows, wanted in shapes:
        if W.dim() != 2 or W.shape[0] != rows:
            return f"not yet. {name} has the shape {list(W.shape)}; {wanted} is asked for."
    if W_q.shape[1] != W_k.shape[1] or W_v.shape[1] != 1:
        return "not yet. W_q and W_k need the same number of columns, W_v one."
    q, cells = task.texts.double()[:, 0] @ W_q, task.pictures.double()
    k, v = cells @ W_k, cells @ W_v
    # every question [4] with every picture [16]: one head, one query
    q, k, v = q[:, None, None, None], k[None, :, None], v[None, :, None]
    q = q.expand(-1, len(cells), -1, -1, -1)
    k, v = (x.expand(len(q), *x.shape[1:]) for x in (k, v))
    margin = attention(q, k, v)[..., 0, 0, 0]
    if bool(((margin > 0) == (task.answer == 1)).all()) and bool((margin.abs() > 1e-6).all()):
        return ""
    weights = attention_weights(q, k)[:, :, 0, 0]
    named = weights.diagonal(dim1=0, dim2=2)  # key k stands in cell k
    if bool((weights - 0.25).abs().max() < 1e-6):
        return (
            "not yet. All four weights are 1/4: this is the mean of section 4.5, and it is bound as"
            " the mean is. What should the product of a query and a key be?"
        )
    if bool(((margin > 0) == (task.answer == 0)).all()):
        return "not yet. Every answer is the opposite of the right one: look at the sign of W_v."
    if bool(((v - v[..., :1, :]).abs() < 1e-9).all()):
        return "not yet. W_v gives every cell the same value, so what is looked at does not matter."
    if bool((named <= weights.amin(-1).T + 1e-9).all()):
        return "not yet. The named cell gets the least attention: look at the sign of the product."
    if bool((named > 0.5).all()) and bool((margin >= 0).all()):
        return (
            "not yet. The right cell is looked at, but no result is below zero. What should W_v"
            " read from a cell whose value is zero?"
        )
    if bool((named <= 0.5).any()):
        return (
            "not yet. A named cell gets half of the attention or less, so the other three together"
            " can outvote it. What makes a softmax sharper?"
        )
    return "not yet. The right cell is looked at, but what W_v reads there is not its value."


_by_hand = Exercise(look="", judge=_judge_weights)


def _judge_parity(answer: Any) -> str:
    """Which pooled fusions can answer the parity of three bits, one in each modality."""
    right = {"late": False, "concat": True, "bilinear": True, "film": False}
    if not isinstance(answer, dict) or set(answer) != set(right):
        return f"not yet. A dictionary with the keys {', '.join(right)} is asked for."
    if not all(isinstance(value, bool) for value in answer.values()):
        return "not yet. Each value is to be True (it can) or False (it cannot)."
    reasons = {
        "late": "late: let one of the three bits stay as it is. What is left to answer?",
        "concat": "concat: there are eight inputs, and a hidden layer reads all of them.",
        "bilinear": "bilinear: which two numbers could stand for a bit, so that a product tells"
        " something?",
        "film": "film: let the text stay as it is. In what form do picture and sound meet?",
    }
    for name, can in right.items():
        if answer[name] != can:
            return f"not yet. Think again about {reasons[name]}"
    return ""


_parity = Exercise(look="", judge=_judge_parity)

EXERCISES: dict[str, Exercise] = {
    "4.A": JOINT,
    "4.B": SHARE,
    "4.C": LATE,
    "4.1": _share_of_picture,
    "4.2": _freedom,
    "4.3": _merging,
    "4.4": _functions_beyond_a_sum,
    "4.5": _bound,
    "4.6": _by_hand,
    "4.7": _parity,
    "4.8": _emaps,
}
