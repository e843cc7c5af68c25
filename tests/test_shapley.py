"""Shapley values and interactions, against all orders and against shapiq."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import error_line

from mmlib.errors import UserError
from mmlib.evaluation.shapley import shapley_interactions, shapley_values, subsets

scores = st.floats(-1, 1)


def worth_of(players: str, values: list[float]) -> dict[frozenset[str], float]:
    return dict(zip(subsets(players), values, strict=True))


def test_two_modalities_by_hand():
    """Picture alone 30, text alone 20, neither 10, both 90."""
    worth = worth_of("it", [10.0, 30.0, 20.0, 90.0])
    assert shapley_values(worth) == {"i": 45.0, "t": 35.0}
    assert shapley_interactions(worth) == {frozenset("it"): 50.0}


@given(st.sampled_from(["a", "ab", "abc", "abcd"]), st.lists(scores, min_size=16, max_size=16))
def test_a_value_is_the_mean_gain_over_all_orders(players, values):
    """Shapley's own definition: players come one after the other, in each order once."""
    worth = worth_of(players, values[: 2 ** len(players)])
    gains = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            gains[player] += (worth[before | {player}] - worth[before]) / len(orders)
    assert shapley_values(worth) == pytest.approx(gains, abs=1e-12)
    whole = worth[frozenset(players)] - worth[frozenset()]
    assert sum(gains.values()) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("players", ["ab", "abc", "abcd"])
def test_values_and_interactions_are_those_of_shapiq(players):
    shapiq = pytest.importorskip("shapiq")
    k = len(players)
    worth = worth_of(players, np.random.default_rng(k).random(2**k).tolist())

    def game(rows):
        return np.array([worth[frozenset(np.array(list(players))[row])] for row in rows])

    exact = shapiq.ExactComputer(game, n_players=k)
    values, pairs = exact("SV", order=1), exact("SII", order=2)
    for place, player in enumerate(players):
        assert shapley_values(worth)[player] == pytest.approx(values[(place,)], abs=1e-9)
    for pair, index in shapley_interactions(worth).items():
        places = tuple(sorted(players.index(player) for player in pair))
        assert index == pytest.approx(pairs[places], abs=1e-9)


def test_values_are_given_question_by_question_where_scores_are():
    rng = np.random.default_rng(0)
    worth = {s: rng.random(5) for s in subsets("it")}
    whole = shapley_values(worth)
    for question in range(5):
        one = shapley_values({s: v[question] for s, v in worth.items()})
        assert one == pytest.approx({player: v[question] for player, v in whole.items()})


def test_a_sum_has_no_interaction_and_exclusive_or_is_shared():
    assert shapley_interactions(worth_of("ab", [0, 1, 2, 3])) == {frozenset("ab"): 0}
    assert shapley_values(worth_of("ab", [0.5, 0.5, 0.5, 1.0])) == {"a": 0.25, "b": 0.25}


def test_a_set_without_a_score_is_named():
    with pytest.raises(UserError) as error:
        shapley_values({frozenset("i"): 1.0, frozenset("it"): 2.0})
    error_line(error, "no modality; t")
