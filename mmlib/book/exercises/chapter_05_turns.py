"""What the reader of chapter 05 writes, and the mistakes it invites."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.book.exercises import Exercise

_LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.5, 1.0, 3.0], [-0.5, 0.0, 2.5]])
_TARGET = torch.tensor([1, 0, 2, 0])
_LARGE = torch.tensor([[1000.0, 999.0, 998.0], [-1000.0, -1001.0, -999.0]])
_ROWS = (
    (_LOGITS, _TARGET),
    (torch.tensor([[4.0, 2.0, 2.0], [2.0, 4.0, 1.0]]).log(), torch.tensor([1, 2])),
    (_LARGE[:1], torch.tensor([1])),
    (_LARGE, torch.tensor([1, 0])),
)


def _own(x: Tensor, target: Tensor) -> Tensor:
    """From each row of x [N, C] the column of its label: [N]."""
    return x[torch.arange(len(target)), target]


def _terms_of(logits: Tensor, largest: Tensor | float) -> Tensor:
    terms = (logits - largest).exp()
    return terms / terms.sum(-1, keepdim=True)


def _truth(logits: Tensor, target: Tensor) -> Tensor:
    return F.one_hot(target, logits.shape[-1]).to(logits.dtype)


ENTROPY = Exercise(
    look="Of each row: the logarithm of the sum of e^z, minus the logit of the label. Then the"
    " mean.",
    right=F.cross_entropy,
    cases=_ROWS,
    wrong=(
        (
            lambda z, y: -_own(_terms_of(z, 0.0), y).log().mean(),
            "Right for small logits, but e^1000 is infinite. Subtract each row's largest logit"
            " first; it cancels.",
        ),
        (
            lambda z, y: (z.exp().sum(-1).log() - _own(z, y)).mean(),
            "Right for small logits, but e^1000 is infinite. Subtract each row's largest logit"
            " first; it cancels.",
        ),
        (
            lambda z, y: -_own(_terms_of(z, z.max()), y).log().mean(),
            "You subtract the largest logit of the whole batch. A row far below it then has only"
            " zeros: take each row's own largest.",
        ),
        (
            lambda z, y: F.cross_entropy(z, y, reduction="sum"),
            "That is the sum over the rows. Divide it by their number.",
        ),
        (
            lambda z, y: F.cross_entropy(z, y, reduction="none"),
            "Those are the losses of the rows. Their mean was asked for.",
        ),
        (lambda z, y: -F.cross_entropy(z, y), "The sign: a loss is minus the logarithm."),
        (
            lambda z, y: F.cross_entropy(z, y) / math.log(2),
            "That is in bits. The natural logarithm was asked for.",
        ),
        (
            lambda z, y: _own(z.softmax(-1), y).mean(),
            "Those are the probabilities of the labels. Their minus logarithm is missing.",
        ),
        (
            lambda z, y: -_own(z.softmax(-1), y).mean().log(),
            "You took the logarithm of the mean probability. The mean comes last.",
        ),
        (
            lambda z, y: -_own(z, y).mean(),
            "You took the logits themselves. They become probabilities by a softmax.",
        ),
        (
            lambda z, y: -_own(z.log_softmax(0), y).mean(),
            "The softmax runs down the columns. The answers of one sample stand in a row.",
        ),
        (
            lambda z, y: -z.log_softmax(-1).mean(),
            "That is the mean over all answers. Only the label's counts.",
        ),
        (
            lambda z, y: -z.log_softmax(-1).max(-1).values.mean(),
            "You took the likeliest answer of each row for its label.",
        ),
    ),
)

GRADIENT = Exercise(
    look="Prediction minus truth: the softmax of each row, minus one at its label.",
    right=lambda z, y: z.softmax(-1) - _truth(z, y),
    cases=_ROWS,
    wrong=(
        (
            lambda z, y: _truth(z, y) - z.softmax(-1),
            "That is where the logits go. The gradient points the other way, uphill.",
        ),
        (lambda z, y: z.softmax(-1), "These are the predictions. The truth has to be taken off."),
        (
            lambda z, y: (z.softmax(-1) - _truth(z, y)) / len(z),
            "That is the gradient of the mean. Of each row's own loss it is not divided.",
        ),
        (
            lambda z, y: z - _truth(z, y),
            "You took the logits for the prediction. Make probabilities of them first.",
        ),
        (
            lambda z, y: _terms_of(z, 0.0) - _truth(z, y),
            "Right for small logits, but e^1000 is infinite. Use a softmax that subtracts the"
            " largest logit, as in 5.A.",
        ),
        (
            lambda z, y: z.softmax(0) - _truth(z, y),
            "The softmax runs down the columns. The answers of one sample stand in a row.",
        ),
        (
            lambda z, y: z.softmax(-1) * (z.softmax(-1) - _truth(z, y)),
            "There is a factor p too much: it cancels against the 1/p of the logarithm.",
        ),
        (
            lambda z, y: -_truth(z, y) / z.softmax(-1),
            "That is the derivative with respect to the probabilities. The softmax comes after it.",
        ),
        (
            lambda z, y: _own(z.softmax(-1), y) - 1,
            "That is the entry of the label alone. The other answers are pushed, too.",
        ),
        (
            lambda z, y: (z.softmax(-1) - _truth(z, y)).mean(0),
            "You averaged over the rows. One row a sample was asked for.",
        ),
        (
            lambda z, y: z.softmax(-1) - 1,
            "One is taken off everywhere. The truth is one at the label only.",
        ),
    ),
)


def _pairs() -> tuple[tuple[Tensor], ...]:
    random = torch.Generator().manual_seed(5)
    return tuple((3 * torch.randn(N, N, generator=random),) for N in (1, 3, 5))


def _rows(f: Tensor) -> Tensor:
    return -f.log_softmax(-1).diagonal()


def _without_own(f: Tensor) -> Tensor:
    """The rows' losses with the true pair left out of the denominators."""
    others = f.masked_fill(torch.eye(len(f), dtype=torch.bool), -torch.inf)
    return others.logsumexp(-1) - f.diagonal()


NCE = Exercise(
    look="Cross entropy of the rows and of the columns; the label of row n is n.",
    right=lambda f: (_rows(f) + _rows(f.T)).mean() / 2,
    cases=_pairs(),
    wrong=(
        (
            lambda f: _rows(f).mean(),
            "Those are the rows: each picture looks for its caption. The captions look for their"
            " pictures, too.",
        ),
        (
            lambda f: _rows(f.T).mean(),
            "Those are the columns: each caption looks for its picture. The pictures look for"
            " their captions, too.",
        ),
        (
            lambda f: (_rows(f) + _rows(f.T)).mean(),
            "That is the sum of both directions. The mean was asked for: divide by two.",
        ),
        (
            lambda f: (_rows(f) + _rows(f.T)).sum() / 2,
            "That is summed over the pairs. Divide it by N.",
        ),
        (
            lambda f: (_rows(f) + _rows(f.T)).mean() / 2 / len(f),
            "That is divided by N² in the end; there are only N questions in each direction.",
        ),
        (
            lambda f: -(_rows(f) + _rows(f.T)).mean() / 2,
            "The sign: a loss is minus the logarithm.",
        ),
        (
            lambda f: (_without_own(f) + _without_own(f.T)).mean() / 2,
            "You left the true pair out of the sum below. It is one of the N answers.",
        ),
        (
            lambda f: -f.flatten().log_softmax(0).view_as(f).diagonal().mean(),
            "One softmax over all N² scores. Each row is a question of its own, and each column.",
        ),
        (
            lambda f: F.cross_entropy(f, torch.zeros(len(f), dtype=torch.long)),
            "Every row got the label 0. The own caption of row n stands in column n.",
        ),
        (
            lambda f: (
                F.binary_cross_entropy_with_logits(f, torch.eye(len(f)), reduction="sum") / len(f)
            ),
            "That asks every pair for a yes or no. Here each row chooses one of N.",
        ),
        (lambda f: -f.diagonal().mean(), "The wrong answers are missing: the sum below."),
    ),
)


def _same(captions: Tensor) -> Tensor:
    """Which captions read alike, [N, N]."""
    return (captions[:, None] == captions).all(-1)


def _count(same: Tensor) -> Tensor:
    return same.sum(1).double()


# a caption thrice, one twice, the first with its words exchanged, and one of the first's words
_CAPTIONS = torch.tensor(
    [[0, 8, 1], [0, 8, 1], [0, 8, 1], [2, 9, 3], [2, 9, 3], [1, 8, 0], [0, 9, 4]]
)

COPIES = Exercise(
    look="Of each pair: in how many rows does its caption stand, its own included? Then the"
    " logarithm, then the mean.",
    right=lambda c: _count(_same(c)).log().mean(),
    cases=((_CAPTIONS,), (_CAPTIONS[:5],), (_CAPTIONS[2:6],)),
    wrong=(
        (
            lambda c: _count(_same(c)).mean().log(),
            "You took the logarithm of the mean count. The mean comes last.",
        ),
        (lambda c: _count(_same(c)).log().sum(), "That is the sum. Divide it by N."),
        (lambda c: _count(_same(c)).log(), "Those are the rows. Their mean was asked for."),
        (lambda c: _count(_same(c)).mean(), "The logarithm of each count is missing."),
        (
            lambda c: (_count(_same(c)) - 1).log().mean(),
            "You counted the copies beside the pair. The pair itself is in the sum as well.",
        ),
        (
            lambda c: _count((c[:, None] == c).any(-1)).log().mean(),
            "You counted captions that share a word at some place. All words must agree.",
        ),
        (
            lambda c: _count(_same(c.sort(-1).values)).log().mean(),
            "You counted captions with the same words in any order. A sentence has one order.",
        ),
        (
            lambda c: c.unique(dim=0, return_counts=True)[1].double().log().mean(),
            "That is the mean over the different captions. It runs over the N pairs.",
        ),
        (
            lambda c: _count(_same(c)).log2().mean(),
            "That is in bits; losses here are in nats.",
        ),
        (
            lambda c: math.log(len(c)) - _count(_same(c)).log().mean(),
            "That is what the captions still tell: ln N minus the floor.",
        ),
        (lambda c: -_count(_same(c)).log().mean(), "A floor is not negative; look at the sign."),
    ),
)
