"""Who earned the score: Shapley values of modalities, from the scores of all their sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from math import factorial
from typing import Any

from mmlib.errors import expected

Worth = Mapping[frozenset[str], Any]


def subsets(players: Iterable[str]) -> list[frozenset[str]]:
    """All sets of the players, the smallest first: 2ᵏ of k."""
    names = tuple(players)
    return [frozenset(s) for size in range(len(names) + 1) for s in combinations(names, size)]


def shapley_values(worth: Worth) -> dict[str, Any]:
    """φ_i = Σ_S |S|! (k − |S| − 1)! / k! · (v(S ∪ i) − v(S)), S the sets without i: {player: φ_i}.

    worth {set of players: v}, with an entry for each of the 2ᵏ sets. v is the model's score when it
    is shown these modalities alone: a number, or an array [N] with an entry a question, whose
    values are then given question by question. The values sum to v(all) − v(none), in v's units.

    Raises UserError where the score of a set is lacking, which it names.
    Source: Shapley (1953).
    """
    everyone = _players(worth)
    k = len(everyone)
    values = {}
    for player in sorted(everyone):
        values[player] = sum(
            factorial(len(s)) * factorial(k - len(s) - 1) / factorial(k)
            * (worth[s | {player}] - worth[s])
            for s in subsets(everyone - {player})
        )  # fmt: skip
    return values


def shapley_interactions(worth: Worth) -> dict[frozenset[str], Any]:
    """What two players are worth together beyond what each is worth alone: {pair: index}.

    I_ij = Σ_S |S|! (k − |S| − 2)! / (k − 1)! · (v(S ∪ ij) − v(S ∪ i) − v(S ∪ j) + v(S)), S the sets
    without i and j; of two players v(both) − v(one) − v(other) + v(none). Above 0 they complete
    each other, below 0 they say the same; 0 where the score is a sum. worth, units and errors as in
    `shapley_values`.

    Source: Grabisch and Roubens (1999), the Shapley interaction index of pairs.
    """
    everyone = _players(worth)
    k = len(everyone)
    indices = {}
    for pair in combinations(sorted(everyone), 2):
        i, j = ({player} for player in pair)
        indices[frozenset(pair)] = sum(
            factorial(len(s)) * factorial(k - len(s) - 2) / factorial(k - 1)
            * (worth[s | i | j] - worth[s | i] - worth[s | j] + worth[s])
            for s in subsets(everyone - {*pair})
        )  # fmt: skip
    return indices


def _players(worth: Worth) -> frozenset[str]:
    everyone = frozenset().union(*worth)
    if lacking := [s for s in subsets(sorted(everyone)) if s not in worth]:
        named = "; ".join(" and ".join(sorted(s)) or "no modality" for s in lacking)
        raise expected("a score for each set of modalities", f"none of {named}", "measure it too")
    return everyone
