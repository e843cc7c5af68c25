"""What the reader of chapter 03 writes, and the mistakes it invites."""

from __future__ import annotations

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _attend(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    return (Q @ K.T).softmax(-1) @ V


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


def _two_heads(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    return _heads(Q, K, V, (Q.shape[-1] // 2) ** 0.5)


def _heads(Q: Tensor, K: Tensor, V: Tensor, root: float) -> Tensor:
    """Two heads of adjacent columns, their scores divided by root."""
    parts = zip(Q.chunk(2, -1), K.chunk(2, -1), V.chunk(2, -1), strict=True)
    return torch.cat([(q @ k.T / root).softmax(-1) @ v for q, k, v in parts], -1)


_draw = torch.Generator().manual_seed(3)
_Q, _K, _V = (torch.randn(4, 6, generator=_draw) for _ in range(3))
_SCORES = torch.tensor([[2.0, -1.0, 0.0, 2.0], [0.5, 0.0, 1.0, -2.0], [1.0, 1.0, 3.0, 0.0]])

SOFTMAX = Exercise(
    look="Each weight is e to the score, over the sum of those of its row.",
    right=_softmax,
    cases=(
        (torch.tensor([2.0, -1.0, 0.0, 2.0, -1.0]),),
        (_SCORES,),
        (torch.tensor([[1000.0, 999.0], [-1000.0, -1000.0]]),),
    ),
    wrong=(
        (
            lambda s: s.exp() / s.exp().sum(-1, keepdim=True),
            "Right for small scores, but e^1000 is infinite and ∞/∞ is nan. Subtract the largest"
            " score of the row first.",
        ),
        (
            lambda s: (s - s.max()).exp() / (s - s.max()).exp().sum(-1, keepdim=True),
            "You subtract the largest score of the whole matrix. A row far below it then has only"
            " zeros, and 0/0 is nan: take each row's own largest.",
        ),
        (
            lambda s: s.softmax(0),
            "The columns add up to one. Each row should: sum over the last axis.",
        ),
        (
            lambda s: (s - s.max()).exp() / (s - s.max()).exp().sum(),
            "All numbers together add up to one. Each row should, by itself.",
        ),
        (
            lambda s: (s - s.max(-1, keepdim=True).values).exp(),
            "Those are the terms. They still have to be divided by their sum.",
        ),
        (
            lambda s: s / s.sum(-1, keepdim=True),
            "You divide the scores themselves by their sum, so a negative score gives a negative"
            " weight. Take the exponential first.",
        ),
        (
            lambda s: (s * 0.6931471805599453).softmax(-1),
            "That doubles the share for each point, as in section 3.1. The softmax takes e.",
        ),
        (lambda s: s.log_softmax(-1), "That is the logarithm of the weights."),
    ),
)

ATTEND = Exercise(
    look="Scores first, [L, L], then the softmax over the keys, then times V.",
    right=_attend,
    cases=((_Q, _K, _V), (_Q[:3], _K[:3], _V[:3, :5])),
    wrong=(
        (
            lambda Q, K, V: (Q @ K.T / Q.shape[-1] ** 0.5).softmax(-1) @ V,
            "That divides by the root of d_k: right in the next section, too early in this one.",
        ),
        (
            lambda Q, K, V: (Q @ K.T).softmax(0) @ V,
            "The softmax runs over the queries. Each query spreads its attention over the keys:"
            " the last axis.",
        ),
        (lambda Q, K, V: Q @ K.T @ V, "The softmax is missing."),
        (lambda Q, K, V: (Q @ K.T).softmax(-1), "Those are the weights. Multiply them by V."),
        (lambda Q, K, V: Q @ K.T, "Those are the scores. The softmax and the values are missing."),
        (
            lambda Q, K, V: (Q @ K.T @ V).softmax(-1),
            "The softmax comes before the values: it makes weights of scores.",
        ),
        (
            lambda Q, K, V: (K @ Q.T).softmax(-1) @ V,
            "Queries and keys are exchanged: row i of the scores belongs to query i.",
        ),
        (
            lambda Q, K, V: (Q @ K.T).softmax(-1) @ K,
            "You summed the keys. The weights belong to the values.",
        ),
    ),
)

_MASK = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()
_LARGE = torch.tensor([[9.0, 99.0], [-99.0, 9.0]])

MASKED = Exercise(
    look="Hide the scores before the softmax: which score has a term of exactly zero?",
    right=_masked,
    cases=(
        (torch.cat([_SCORES, _SCORES[:1]]), _MASK),
        (_LARGE, torch.tensor([[True, False], [True, True]])),
        (torch.tensor([[-3e9, 0.0], [5.0, -3e9]]), torch.tensor([[True, False], [True, True]])),
    ),
    wrong=(
        (
            lambda s, m: s.softmax(-1) * m,
            "A weight that is cleared after the softmax has already been counted in the sum: the"
            " rows no longer add up to one.",
        ),
        (
            lambda s, m: (s + m.float()).softmax(-1),
            "Adding 1 and 0 only favors what may be attended to; hidden keys keep a weight.",
        ),
        (
            lambda s, m: (s * m).softmax(-1),
            "A hidden key got the score 0, and e^0 = 1. Its score is −∞.",
        ),
        (lambda s, m: s.softmax(-1), "The mask is not used."),
        *(
            (
                lambda s, m, low=low: s.masked_fill(~m, low).softmax(-1),
                "A finite number can be outweighed: where the scores that count are lower still,"
                " the hidden key wins. Only −∞ hides it whatever the others are.",
            )
            for low in (-10.0, -100.0, -1e4, -1e9)
        ),
        (
            lambda s, m: s.masked_fill(m, float("-inf")).softmax(-1),
            "True means: may attend. You hid those and kept the others.",
        ),
        (
            lambda s, m: s.masked_fill(~m, float("-inf")),
            "Those are the masked scores. The softmax is missing.",
        ),
        (
            lambda s, m: s.masked_fill(~m.T, float("-inf")).softmax(-1),
            "Rows and columns are exchanged: row i of the mask belongs to query i.",
        ),
    ),
)

TWO_HEADS = Exercise(
    look="Cut the columns into halves, attend in each half, set the results side by side.",
    right=_two_heads,
    cases=((_Q, _K, _V), (_Q[:3], _K[:3], _V[:3])),
    wrong=(
        (
            lambda Q, K, V: _heads(Q, K, V, Q.shape[-1] ** 0.5),
            "The root is that of the whole width. Each head multiplies queries and keys of half"
            " the width: its root is that of d/2.",
        ),
        (lambda Q, K, V: _heads(Q, K, V, 1.0), "The root is missing."),
        (
            lambda Q, K, V: torch.cat(
                [
                    (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ V
                    for q, k in zip(Q.chunk(2, -1), K.chunk(2, -1), strict=True)
                ],
                -1,
            ),
            "You cut queries and keys, but not the values: each head hands over its own half.",
        ),
        (
            lambda Q, K, V: (Q @ K.T / Q.shape[-1] ** 0.5).softmax(-1) @ V,
            "That is one head over all columns.",
        ),
        (
            lambda Q, K, V: sum(_two_heads(Q, K, V).chunk(2, -1)),
            "The results of the heads are added. They stand side by side: torch.cat(…, -1).",
        ),
        (
            lambda Q, K, V: torch.cat(_two_heads(Q, K, V).chunk(2, -1), 0),
            "The heads stand below each other. They stand side by side: torch.cat(…, -1).",
        ),
        (
            lambda Q, K, V: torch.cat(
                [
                    (Q[:, n::2] @ K[:, n::2].T / (Q.shape[-1] // 2) ** 0.5).softmax(-1) @ V[:, n::2]
                    for n in (0, 1)
                ],
                -1,
            ),
            "You took every second column. A head has its columns next to each other: the first"
            " half, then the second.",
        ),
    ),
)
