"""The exercises of chapter 09, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_09_turns import ABSTAIN, BEST_SUM, EXCHANGE, SHAPLEY
from mmlib.evaluation.certificate import VERDICTS, Certificate

# 9.1: the share of the picture, from the scores of neither, the words, the picture, and both
_NONE, _WORDS, _PICTURE, _BOTH = 20.0, 60.0, 45.0, 80.0
_share = Exercise(
    right=((_PICTURE - _NONE) + (_BOTH - _WORDS)) / 2,
    wrong=(
        (_PICTURE - _NONE, "That is what the picture brings alone, without the words."),
        (_BOTH - _WORDS, "That is what the picture adds to the words. It is one of two gains."),
        (
            ((_WORDS - _NONE) + (_BOTH - _PICTURE)) / 2,
            "That is the share of the words.",
        ),
        (
            (_PICTURE - _NONE) + (_BOTH - _WORDS),
            "You added the two gains; their mean was asked for.",
        ),
        (
            (_PICTURE + (_BOTH - _WORDS)) / 2,
            "The score of neither is missing: a guess is right now and then without the picture.",
        ),
        (
            _BOTH - _WORDS - _PICTURE + _NONE,
            "That is the interaction, which the two share.",
        ),
    ),
    look="Two gains of the picture: from nothing, and beside the words. Their mean is its share.",
)

# 9.2: the best sum in a table of two texts (rows) and two pictures (columns)
_LOGITS = np.array([[5.0, 1.0], [1.0, 3.0]])
_row, _column, _all = _LOGITS[0].mean(), _LOGITS[:, 0].mean(), _LOGITS.mean()
_corner = Exercise(
    right=float(_row + _column - _all),
    wrong=(
        (float(_row + _column), "Take the mean of the whole table off: it is in both means."),
        (
            float((_row + _column) / 2),
            "That is the mean of the two means. The parts are added.",
        ),
        (
            float(_LOGITS[0, 0] - (_row + _column - _all)),
            "That is the interaction in this corner: the logit less the sum that was asked for.",
        ),
        (float(_all), "That is the mean of the whole table."),
    ),
    look="The mean of its row, plus the mean of its column, less the mean of all four.",
)

# 9.3: verdicts from readings, in points: (mean, low, high) of what each control costs
READINGS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "A": {
        "pictures": (31.0, 24.0, 38.0), "texts": (40.0, 33.0, 46.0), "sum": (1.0, -2.1, 4.0),
    },
    "B": {
        "pictures": (4.1, -3.0, 11.0), "texts": (22.0, 15.0, 29.0), "sum": (2.0, -4.0, 8.0),
    },
    "C": {
        "pictures": (0.4, -1.2, 2.1), "texts": (22.0, 16.0, 28.0), "sum": (0.2, -1.0, 1.5),
    },
    "D": {
        "pictures": (12.0, 5.0, 19.0), "texts": (30.0, 23.0, 37.0), "sum": (9.0, 2.0, 16.0),
    },
}  # fmt: skip
_WHY = {
    "A": "both inputs cost something that counts. Which line says whether a sum would do as well?",
    "B": "the interval of the pictures holds zero, and it also holds eleven points, which would"
    " count.",
    "C": "the whole interval of the pictures lies below the margin of five points.",
    "D": "all three intervals lie above zero, and none of them below the margin as a whole.",
}


def verdict(reading: Mapping[str, tuple[float, float, float]]) -> str:
    """What a certificate with these costs, in points, says."""
    names = {"pictures": "exchanged_image", "texts": "exchanged_text", "sum": "additive"}
    drops = {
        names[key]: {"mean": mean / 100, "low": low / 100, "high": high / 100, "n": 400}
        for key, (mean, low, high) in reading.items()
    }
    return Certificate("accuracy", "400 questions", {}, drops).verdict


def _judge_verdicts(answer: Any) -> str:
    if not isinstance(answer, Mapping) or set(answer) != set(READINGS):
        return f"not yet. A dictionary with the keys {', '.join(READINGS)} is asked for."
    for said in answer.values():
        if said not in VERDICTS:
            return f"not yet. A verdict is one of {', '.join(VERDICTS)}; '{said}' is none."
    for name, said in answer.items():
        if said != verdict(READINGS[name]):
            return f"not yet. Think again about {name}: {_WHY[name]}"
    return ""


_verdicts = Exercise(
    look="An input is used where the interval of its cost lies above 0 and not wholly below 5.",
    judge=_judge_verdicts,
)

# 9.4: the standard error over groups, the root of (9.6), by that of independent questions
Groups = Sequence[int]


def _summed(values: Sequence[float], groups: Groups) -> np.ndarray:
    x, group = np.asarray(values, float), np.asarray(groups)
    return np.array([(x - x.mean())[group == g].sum() for g in np.unique(group)])


def _clustered(values: Sequence[float], groups: Groups) -> float:
    sums = _summed(values, groups)
    G = len(sums)
    return float((G / (G - 1) * (sums**2).sum()) ** 0.5 / len(values))


def _alone(values: Sequence[float], ddof: int = 1) -> float:
    return float(np.std(values, ddof=ddof) / len(values) ** 0.5)


def _wider(values: Sequence[float], groups: Groups) -> float:
    return _clustered(values, groups) / _alone(values)


def _of_means(values: Sequence[float], groups: Groups) -> float:
    x, group = np.asarray(values, float), np.asarray(groups)
    means = [x[group == g].mean() for g in np.unique(group)]
    return float(np.std(means, ddof=1) / len(means) ** 0.5) / _alone(values)


def _without_factor(values: Sequence[float], groups: Groups) -> float:
    return float((_summed(values, groups) ** 2).sum() ** 0.5 / len(values)) / _alone(values)


_error = Exercise(
    look="Divide the root of (9.6) by the usual standard error of a mean. With one question a"
    " group the two are the same.",
    right=_wider,
    cases=(
        ([1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]),
        ([1.0, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 2, 3]),
        ([1.0, 0, 0, 1], [0, 1, 2, 3]),
    ),
    wrong=(
        (
            _clustered,
            "That is the standard error over groups. Divide it by the usual one.",
        ),
        (
            _of_means,
            "You averaged the groups' means, so that a picture with one question weighs as much as"
            " one with three.",
        ),
        (_without_factor, "The factor G / (G - 1) is missing."),
        (lambda x, g: _wider(x, g) ** 2, "That is the ratio of the variances. Take its root."),
        (lambda x, g: 1 / _wider(x, g), "That is how much *narrower* the usual one is."),
        (
            lambda x, g: _clustered(x, g) / _alone(x, 0),
            "With one question a group the two errors must be the same: divide the usual variance"
            " by N - 1.",
        ),
    ),
)


# 9.5: a model that is right in a share a, judged by yes-or-no labels of which a share ε is wrong
def _measured(a: float, eps: float) -> float:
    return a * (1 - eps) + (1 - a) * eps


_labels = Exercise(
    look="It is counted right where it is right and the label too, and where both are wrong.",
    right=_measured,
    cases=((1.0, 0.1), (0.9, 0.1), (0.5, 0.2), (0.0, 0.3)),
    wrong=(
        (
            lambda a, eps: a * (1 - eps),
            "There are two answers: where model *and* label are wrong they agree, and that counts"
            " as right.",
        ),
        (lambda a, eps: a - eps, "Not each wrong label costs a point: see where the model errs."),
        (lambda a, eps: a * (1 - eps) + eps, "A wrong label helps only where the model is wrong."),
        (
            lambda a, eps: a * eps + (1 - a) * (1 - eps),
            "That is the share that is counted wrong.",
        ),
    ),
)

EXERCISES = {
    "9.1": _share, "9.2": _corner, "9.3": _verdicts, "9.4": _error, "9.5": _labels,
    "9.A": EXCHANGE, "9.B": BEST_SUM, "9.C": SHAPLEY, "9.D": ABSTAIN,
}  # fmt: skip
