"""What chapter 05 judges by running it: a critic, by the information that it reports."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise
from mmlib.losses import info_nce

# 5.6: a critic for x, y of unit variance and correlation ρ
_RHO, _N, _BATCHES = 0.9, 64, 60


def _pairs() -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(55)
    x = torch.randn(_BATCHES, _N, generator=random, dtype=torch.float64)
    noise = torch.randn(_BATCHES, _N, generator=random, dtype=torch.float64)
    return list(zip(x, _RHO * x + math.sqrt(1 - _RHO**2) * noise, strict=True))


def _best_critic(x: Tensor, y: Tensor) -> Tensor:
    x, y = x[:, None], y[None]
    return -((y - _RHO * x) ** 2) / (2 * (1 - _RHO**2)) + y**2 / 2


def _report(scores: list[Tensor]) -> float:
    """ln N minus the loss: what InfoNCE reports of the mutual information, in nats."""
    losses = [info_nce(s)[0].double() / _N for s in scores]
    return math.log(_N) - float(torch.stack(losses).mean())


def _report_of_rows(scores: list[Tensor]) -> float:
    """The same of the rows alone."""
    return math.log(_N) + float(
        torch.stack([s.log_softmax(-1).diagonal().mean() for s in scores]).mean()
    )


def _judge_critic(answer: Any) -> str:
    """Run the reader's critic on drawn pairs, and compare with the best score and with mistakes.

    y is shuffled against x, and the columns of the scores are put back: who scores the place of a
    pair and not the pair is found out.
    """
    pairs = _pairs()
    shuffled = [
        torch.randperm(_N, generator=torch.Generator().manual_seed(n)) for n in range(_BATCHES)
    ]
    given = [answer(x, y[p]) for (x, y), p in zip(pairs, shuffled, strict=True)]
    shapes = {tuple(s.shape) if isinstance(s, Tensor) else () for s in given}
    if shapes != {(_N, _N)}:
        return (
            f"not yet. For x and y [{_N}] the scores are [{_N}, {_N}], row n the scores of x_n with"
            " every y; x[:, None] and y[None] broadcast to that."
        )
    if not all(bool(s.isfinite().all()) for s in given):
        return "not yet. There is a score that is not a finite number."
    back = [p.argsort() for p in shuffled]
    turned = _report([s.T[:, b] for s, b in zip(given, back, strict=True)])
    given = [s[:, b] for s, b in zip(given, back, strict=True)]
    right = [_best_critic(x, y) for x, y in pairs]
    best, found = _report(right), _report(given)
    if found > best - 0.005:
        return ""
    if abs(found - _report([answer(x, y) for x, y in pairs])) > 0.01:
        if turned > best - 0.005:
            return "not yet. Rows and columns are exchanged: row n has the scores of x_n."
        return "not yet. You scored the place of a pair in the list, not the pair."
    if abs(found) < 0.005:
        return "not yet. Every y gets the same score, so the report is zero: did x and y meet?"
    if _report_of_rows(given) > _report_of_rows(right) - 0.005:
        return (
            "not yet. Your rows are the best there are. What depends on x alone changes no row, but"
            " it changes the columns, in which each y looks for its x."
        )
    for critic, sentence in _CRITICS:
        if abs(found - _report([critic(x, y) for x, y in pairs])) < 0.002:
            return f"not yet. {sentence}"
    return (
        f"not yet. Your critic reports {found:.3f} nats, and more can be had. Write ln p(y | x) −"
        " ln p(y) with both densities."
    )


_CRITICS = (
    (
        lambda x, y: _best_critic(x, y) - y[None] ** 2 / 2,
        "That is ln p(y | x). The best score is divided by p(y): a y that is rare anyway is no"
        " stranger.",
    ),
    (
        lambda x, y: -_best_critic(x, y),
        "The sign is turned: the best partner has the lowest score.",
    ),
    (
        lambda x, y: -((y[None] - _RHO * x[:, None]) ** 2) / 2 + y[None] ** 2 / 2,
        "What is left of y when x is known has not the variance 1.",
    ),
    (
        lambda x, y: (
            -((y[None] - _RHO * x[:, None]) ** 2) / (2 * math.sqrt(1 - _RHO**2)) + y[None] ** 2 / 2
        ),
        "You divided by the standard deviation; the variance stands there.",
    ),
    (
        lambda x, y: -((y[None] - x[:, None]) ** 2) / (2 * (1 - _RHO**2)) + y[None] ** 2 / 2,
        "Given x, the mean of y is ρ x, not x.",
    ),
    (
        lambda x, y: _RHO * x[:, None] * y[None] / (1 - _RHO**2),
        "The product stands there with the right factor. The squares beside it are missing.",
    ),
    (
        lambda x, y: _best_critic(x, y).exp(),
        "That is the ratio p(y | x)/p(y). The softmax takes the exponential: return the logarithm.",
    ),
    (
        lambda x, y: 2 * _best_critic(x, y),
        "Twice the best score: is the 2 before the variance in your denominators?",
    ),
    (
        lambda x, y: x[:, None] * y[None],
        "A product has the right idea and the wrong scale. What stands before x y in the best"
        " score, and what beside it?",
    ),
)
CRITIC = Exercise(look="", judge=_judge_critic)
