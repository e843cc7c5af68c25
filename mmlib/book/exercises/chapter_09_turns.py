"""What the reader of chapter 09 writes, and the mistakes it invites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise

# --- 9.A: which row's picture each question gets --------------------------------------------------

_PICTURES: tuple[tuple[int, ...], ...] = (
    (0, 0, 0, 1, 1, 1, 2, 2, 2),  # three questions a picture, in runs
    (4, 1, 3, 0, 2, 5, 6),
    (7, 3, 7, 3, 3, 7),  # each picture on half of the rows
    (0, 1, 1, 2, 2, 2, 2, 3, 4),
)
Exchange = Callable[[list[int]], Any]


def exchange(pictures: Sequence[int]) -> list[int]:
    """Rows laid out picture by picture and moved on by the largest number of rows of one."""
    order = sorted(range(len(pictures)), key=lambda row: pictures[row])
    most = max(pictures.count(p) for p in pictures)
    other = [0] * len(pictures)
    for place, row in enumerate(order):
        other[row] = order[(place + most) % len(order)]
    return other


def _judge_exchange(answer: Exchange) -> str:
    for pictures in _PICTURES:
        other = answer(list(pictures))
        try:
            rows = [int(row) for row in other]
        except (TypeError, ValueError):
            return "not yet. Return a list with a row number for each question."
        N = len(pictures)
        if len(rows) != N:
            return f"not yet. {N} questions need {N} row numbers; you gave {len(rows)}."
        if not all(0 <= row < N for row in rows):
            return (
                "not yet. Return the numbers of *rows*, from 0 to N - 1, not of pictures: the"
                " question of row n is asked with the picture of row other[n]."
            )
        if len(set(rows)) < N:
            return (
                "not yet. Some rows are taken twice and others never, so that some pictures become"
                " more frequent than they were. Use each row once."
            )
        if rows == list(range(N)):
            return "not yet. Every question keeps its own row."
        kept = sum(pictures[rows[n]] == pictures[n] for n in range(N))
        if kept:
            return (
                f"not yet. With pictures {list(pictures)}, {kept} of {N} questions still get the"
                " picture they had: another row may show the same one."
            )
    return ""


EXCHANGE = Exercise(
    look="Sort the rows by picture; then move all of them on by the largest number of rows that"
    " one picture has.",
    judge=_judge_exchange,
)

# --- 9.B: the best sum ----------------------------------------------------------------------------


def _table(seed: int, N: int, C: int) -> Tensor:
    return 3 * torch.randn(N, N, C, generator=torch.Generator().manual_seed(seed)).double()


def _best_sum(table: Tensor) -> Tensor:
    """Eq. (9.2): [N, N, C] → [N, C]."""
    return table.mean(1) + table.mean(0) - table.mean((0, 1))


def _diagonal(table: Tensor) -> Tensor:
    return table.diagonal(dim1=0, dim2=1).T


def _whole(table: Tensor) -> Tensor:
    return table.mean(1, keepdim=True) + table.mean(0, keepdim=True) - table.mean((0, 1))


def _softmaxed(table: Tensor) -> Tensor:
    return _best_sum(table.softmax(-1))


BEST_SUM = Exercise(
    look="The mean over all pictures of the text's row, plus the mean over all texts of the"
    " picture's column, less the mean of the whole table; classes stay apart.",
    right=_best_sum,
    cases=((_table(0, 4, 3),), (_table(1, 5, 2),)),
    wrong=(
        (
            lambda table: table.mean(1) + table.mean(0),
            "Both means hold what all pairs have in common, so it is in your sum twice. Take the"
            " mean of the whole table off once.",
        ),
        (
            lambda table: table.mean(1) + table.mean(0) - table.mean(),
            "You took off one number for all classes. Each class has its own mean.",
        ),
        (
            lambda table: (table.mean(1) + table.mean(0)) / 2,
            "That is the mean of the two means. The parts are added, less the mean of all.",
        ),
        (
            lambda table: _diagonal(table) - _best_sum(table),
            "That is what is left without the sum, the interaction. The sum was asked for.",
        ),
        (_diagonal, "Those are the model's own logits for the pairs, its interaction included."),
        (
            _whole,
            "That is the sum for each text with each picture, [N, N, C]. Question n has text n and"
            " picture n.",
        ),
        (_softmaxed, "You averaged probabilities. A sum of opinions is a sum of *logits*."),
        (
            lambda table: table.mean(1),
            "That is what the text says alone. The picture's part is missing.",
        ),
        (
            lambda table: table.mean(0),
            "That is what the picture says alone. The text's part is missing.",
        ),
    ),
)

# --- 9.C: Shapley's shares of two -----------------------------------------------------------------

Shares = tuple[float, float, float]


def _shapley(none: float, text: float, image: float, both: float) -> Shares:
    """Eqs. (9.3) and (9.4): of the text, of the picture, and the interaction."""
    phi_t = ((text - none) + (both - image)) / 2
    phi_i = ((image - none) + (both - text)) / 2
    return phi_t, phi_i, both - text - image + none


SHAPLEY = Exercise(
    look="A share is the mean of two gains: of joining when nobody is there, and of joining when"
    " the other is there already.",
    right=_shapley,
    cases=((25.0, 40.0, 35.0, 90.0), (10.0, 60.0, 50.0, 70.0), (0.0, 0.5, 0.25, 1.0)),
    wrong=(
        (
            lambda n, t, i, b: (t - n, i - n, b - t - i + n),
            "You took what each brings alone. It is half of the story: average it with what each"
            " adds to the other.",
        ),
        (
            lambda n, t, i, b: (b - i, b - t, b - t - i + n),
            "You took what is lost without each. Average it with what each brings alone.",
        ),
        (
            lambda n, t, i, b: (*_shapley(n, t, i, b)[1::-1], b - t - i + n),
            "Text and picture are exchanged.",
        ),
        (
            lambda n, t, i, b: (2 * _shapley(n, t, i, b)[0], 2 * _shapley(n, t, i, b)[1],
                                b - t - i + n),
            "You added the two gains. Their mean was asked for, so that the shares sum to the"
            " gain of both over neither.",
        ),
        (
            lambda n, t, i, b: (*_shapley(n, t, i, b)[:2], b - t - i),
            "In your interaction the score of neither is missing: each of the two alone contains"
            " it, and it was taken off once too often.",
        ),
        (
            lambda n, t, i, b: (*_shapley(n, t, i, b)[:2], -(b - t - i + n)),
            "The sign of the interaction: above zero where the two complete each other.",
        ),
        (
            lambda n, t, i, b: (*_shapley(n, t, i, b)[:2], b - n),
            "Your third number is the whole gain. What only the two *together* bring was asked"
            " for.",
        ),
        (
            lambda n, t, i, b: (*_shapley(0, t, i, b)[:2], b - t - i + n),
            "In your shares the score of neither is missing.",
        ),
    ),
)  # fmt: skip

# --- 9.D: how much may be answered ----------------------------------------------------------------


def _coverage(
    confidence: Sequence[float], right: Sequence[int], risk: float, *, ties: str = "together",
    stop: str = "last", below: str = "all", order: int = -1,
) -> float:  # fmt: skip
    """The largest share of questions, the surest first, of which at most `risk` are wrong."""
    rows = sorted(zip(confidence, right, strict=True), key=lambda row: order * row[0])
    best, wrong = 0.0, 0
    for given, (sure, hit) in enumerate(rows, 1):
        wrong += 1 - hit
        tied = given < len(rows) and rows[given][0] == sure
        if tied and ties == "together":
            continue
        of = {"all": given, "every": len(rows)}[below]
        if wrong / of <= risk:
            best = given / len(rows)
        elif stop == "first":
            return best
    return best


def _cut(**wrong: Any) -> Callable[..., float]:
    def coverage(confidence: Sequence[float], right: Sequence[int], risk: float) -> float:
        return _coverage(confidence, right, risk, **wrong)

    return coverage


def _by_confidence(confidence: Sequence[float], right: Sequence[int], risk: float) -> float:
    return sum(sure >= 1 - risk for sure in confidence) / len(confidence)


ABSTAIN = Exercise(
    look="Sort by confidence, the surest first. For each place where the confidence changes, count"
    " the wrong ones among the answers given so far.",
    right=_coverage,
    cases=(
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 0.25),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 0.4),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1], 0.25),
        ([0.5, 0.9, 0.9, 0.9, 0.6], [0, 1, 0, 1, 1], 0.0),
        ([0.5, 0.9, 0.9, 0.9, 0.6], [0, 1, 0, 1, 1], 0.25),
        ([0.2, 0.99, 0.95, 0.6], [0, 0, 1, 1], 0.05),
        ([0.99, 0.6, 0.55], [1, 1, 1], 0.1),
    ),
    wrong=(
        (
            _cut(ties="apart"),
            "Equal confidences must be given or withheld together: which of them comes first is an"
            " accident of the order of the rows.",
        ),
        (
            _cut(stop="first"),
            "You stop at the first place that has too many wrong. Further on the share of wrong"
            " answers may be small enough again; the largest coverage was asked for.",
        ),
        (
            _cut(below="every"),
            "You divide the wrong answers by all questions. The risk is their share of the answers"
            " that are *given*.",
        ),
        (_cut(order=1), "You give the least sure answers first."),
        (
            _by_confidence,
            "You believed the confidences. Count what is right: a model may be surer than it should"
            " be.",
        ),
    ),
)
