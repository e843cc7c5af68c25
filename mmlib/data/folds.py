"""Folds in which each label can be learned and tested, and no group is on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mmlib.errors import expected

TRIES = 100  # another try costs milliseconds; a fold without a class costs a whole run

Fold = tuple[np.ndarray, np.ndarray]


def split(labels: Sequence[str], groups: Sequence[str] | None, folds: int, seed: int) -> list[Fold]:
    """(training rows [n], test rows [m]) of each fold: labels in nearly equal shares.

    labels [N]; groups [N] names what stays on one side, None where rows may be divided at will.
    Every label is in the training rows and in the test rows of every fold: a balanced accuracy over
    fewer classes would be another measure. scikit-learn's folds do not promise that for groups;
    where they lack a label, groups are dealt out in other orders, up to `TRIES` times.

    Raises UserError where no such folds are found, with a label that a fold lacks.
    Source: scikit-learn's StratifiedKFold and StratifiedGroupKFold.
    """
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    made = kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
    found = list(made)
    lacking = _lacking(labels, found)
    rng = np.random.default_rng(seed)
    for _ in range(TRIES if groups is not None else 0):
        if not lacking:
            break
        found = _dealt(labels, groups or [], folds, rng)
        lacking = _lacking(labels, found)
    if lacking:
        raise expected(
            f"every label to train and to test on in each of {folds} folds",
            f"a fold without '{lacking[0]}'",
            "use fewer folds, or merge labels that few groups have",
        )
    return found


def _lacking(labels: Sequence[str], folds: Sequence[Fold]) -> list[str]:
    """The labels that some fold does not test; what all folds test is in all training rows too."""
    every = set(labels)
    return sorted({label for _, test in folds for label in every - {labels[i] for i in test}})


def _dealt(
    labels: Sequence[str], groups: Sequence[str], folds: int, rng: np.random.Generator
) -> list[Fold]:
    """Groups in a random order, each to the fold where label shares are then the most even."""
    classes, label = np.unique(labels, return_inverse=True)
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (group, label), 1)
    share = counts / counts.sum(0)  # of each label's rows, so that rare ones count as much
    have, fold_of = np.zeros((folds, len(classes))), np.zeros(len(names), dtype=int)
    for number in rng.permutation(len(names)):
        fold_of[number] = ((have + share[number]) ** 2 - have**2).sum(1).argmin()
        have[fold_of[number]] += share[number]
    of_row = fold_of[group]
    return [(np.flatnonzero(of_row != f), np.flatnonzero(of_row == f)) for f in range(folds)]
