"""What the reader of chapter 04 writes, and the mistakes it invites."""

from __future__ import annotations

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise


def _joint(Q: Tensor, K_t: Tensor, K_i: Tensor, V_t: Tensor, V_i: Tensor) -> Tensor:
    return _over(Q, torch.cat([K_t, K_i]), torch.cat([V_t, V_i]), Q.shape[-1] ** 0.5)


def _over(Q: Tensor, K: Tensor, V: Tensor, root: float) -> Tensor:
    return (Q @ K.T / root).softmax(-1) @ V


def _share(t: Tensor, i: Tensor) -> Tensor:
    return torch.cat([t, i]).softmax(-1)[: len(t)].sum()


def _late(words: Tensor, cells: Tensor, W_t: Tensor, W_i: Tensor) -> Tensor:
    return words.mean(0) @ W_t + cells.mean(0) @ W_i


_draw = torch.Generator().manual_seed(4)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_draw)


JOINT = Exercise(
    look="Keys of both in one matrix, values of both in one matrix, then attention as ever.",
    right=_joint,
    cases=(
        (_random(3, 4), _random(2, 4), _random(5, 4), _random(2, 6), _random(5, 6)),
        (_random(1, 4), _random(4, 4), _random(2, 4), _random(4, 3), _random(2, 3)),
    ),
    wrong=(
        (
            lambda Q, K_t, K_i, V_t, V_i: (
                _over(Q, K_t, V_t, Q.shape[-1] ** 0.5) + _over(Q, K_i, V_i, Q.shape[-1] ** 0.5)
            ),
            "Those are two attentions, added: each has a softmax of its own. All tokens share one.",
        ),
        (
            lambda Q, K_t, K_i, V_t, V_i: (
                (_over(Q, K_t, V_t, Q.shape[-1] ** 0.5) + _over(Q, K_i, V_i, Q.shape[-1] ** 0.5))
                / 2
            ),
            "That gives each modality half of the say. Under one softmax the scores decide.",
        ),
        (
            lambda Q, K_t, K_i, V_t, V_i: _over(
                Q, torch.cat([K_t, K_i]), torch.cat([V_t, V_i]), 1.0
            ),
            "The root of d_k is missing.",
        ),
        (
            lambda Q, K_t, K_i, V_t, V_i: _over(
                Q, torch.cat([K_t, K_i]), torch.cat([V_i, V_t]), Q.shape[-1] ** 0.5
            ),
            "Keys and values stand in different orders: the weight of a word goes to a cell.",
        ),
        (
            lambda Q, K_t, K_i, V_t, V_i: (
                (Q @ torch.cat([K_t, K_i]).T / Q.shape[-1] ** 0.5).softmax(0)
                @ torch.cat([V_t, V_i])
            ),
            "The softmax runs over the queries. Each query spreads its attention over the keys.",
        ),
        (
            lambda Q, K_t, K_i, V_t, V_i: _over(Q, K_i, V_i, Q.shape[-1] ** 0.5),
            "That attends to the picture alone.",
        ),
        (
            lambda Q, K_t, K_i, V_t, V_i: _over(Q, K_t, V_t, Q.shape[-1] ** 0.5),
            "That attends to the text alone.",
        ),
    ),
)

SHARE = Exercise(
    look="Add up e^score over the words, and divide by the sum over all tokens.",
    right=_share,
    cases=(
        (torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0, -1.0])),
        (torch.tensor([0.5]), torch.tensor([0.5, 0.5, 0.5])),
        (torch.tensor([1000.0, 999.0]), torch.tensor([1001.0])),
    ),
    wrong=(
        (
            lambda t, i: t.exp().sum() / (t.exp().sum() + i.exp().sum()),
            "Right for small scores, but e^1000 is infinite. Take the largest score off first, or"
            " let one softmax do it.",
        ),
        (lambda t, i: 1 - _share(t, i), "That is the share of the picture."),
        (
            lambda t, i: (
                (t - t.max()).exp().sum() / ((t - t.max()).exp().sum() + (i - i.max()).exp().sum())
            ),
            "You take each side's own largest score off, so the sides are no longer compared. Take"
            " off the largest of all.",
        ),
        (
            lambda t, i: (torch.cat([t, i]) * 0.6931471805599453).softmax(-1)[: len(t)].sum(),
            "Those are points, where one more doubles the share. A score is an exponent of e.",
        ),
        (
            lambda t, i: torch.tensor(len(t) / (len(t) + len(i))),
            "That counts tokens. It holds only where all scores are equal.",
        ),
        (
            lambda t, i: torch.stack([t.sum(), i.sum()]).softmax(0)[0],
            "You added scores. The softmax adds their exponentials.",
        ),
        (
            lambda t, i: torch.stack([t.max(), i.max()]).softmax(0)[0],
            "You took the largest score of each side; all of them are in the sum.",
        ),
        (
            lambda t, i: torch.stack([t.mean(), i.mean()]).softmax(0)[0],
            "You averaged each side's scores, so the number of tokens no longer counts.",
        ),
        (
            lambda t, i: torch.cat([t, i]).softmax(-1)[: len(t)].mean(),
            "That is the mean weight of a word. The share is what all words have together.",
        ),
        (
            lambda t, i: torch.cat([t, i]).softmax(-1)[: len(t)],
            "Those are the weights of the words. Add them up.",
        ),
    ),
)

LATE = Exercise(
    look="A mean over the tokens of each side, a matrix for each, and a sum.",
    right=_late,
    cases=(
        (_random(2, 4), _random(5, 4), _random(4, 3), _random(4, 3)),
        (_random(3, 4), _random(3, 4), _random(4, 2), _random(4, 2)),
    ),
    wrong=(
        (
            lambda t, i, W_t, W_i: t.sum(0) @ W_t + i.sum(0) @ W_i,
            "You summed the tokens. The mean does not grow with their number.",
        ),
        (
            lambda t, i, W_t, W_i: t.mean(-1).sum() * W_t.sum(0) + i.mean(-1).sum() * W_i.sum(0),
            "The mean runs over the tokens, the first axis, not over the d numbers of a token.",
        ),
        (
            lambda t, i, W_t, W_i: (t.mean(0) @ W_t) * (i.mean(0) @ W_i),
            "You multiplied the two opinions. Late fusion adds them.",
        ),
        (
            lambda t, i, W_t, W_i: t.mean(0) @ W_i + i.mean(0) @ W_t,
            "The matrices are exchanged: the words went through the picture's.",
        ),
        (
            lambda t, i, W_t, W_i: _late(t, i, W_t, W_i) / 2,
            "You averaged the two opinions. Late fusion adds them.",
        ),
        (
            lambda t, i, W_t, W_i: (t.mean(0) + i.mean(0)) @ (W_t + W_i),
            "You added the means before the matrices, so each went through both.",
        ),
        (
            lambda t, i, W_t, W_i: torch.cat([t, i]).mean(0) @ (W_t + W_i),
            "You averaged words and cells together; each side has a mean and a matrix of its own.",
        ),
        (
            lambda t, i, W_t, W_i: torch.cat([t.mean(0) @ W_t, i.mean(0) @ W_i]),
            "The opinions stand side by side. Add them.",
        ),
    ),
)
