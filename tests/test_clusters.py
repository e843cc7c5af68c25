"""Intervals over groups: closed forms where groups are alike, and how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import error_line

from mmlib.errors import UserError
from mmlib.evaluation.clusters import cluster_accuracy, cluster_difference, cluster_interval
from mmlib.evaluation.intervals import accuracy_interval, interval

values = st.lists(st.floats(-1, 1), min_size=2, max_size=20)


def test_one_value_a_group_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=17)
    assert cluster_interval(x, range(17)) == pytest.approx(interval(x))


@given(values, st.integers(1, 4))
def test_groups_of_one_size_are_their_means(means, size):
    """However the rows of a group differ, its mean is what counts."""
    spread = np.linspace(-0.3, 0.3, size) if size > 1 else np.zeros(1)
    x = (np.array(means)[:, None] + spread).ravel()
    groups = [f"g{i}" for i in range(len(means)) for _ in range(size)]
    found = cluster_interval(x, groups)
    want = interval(means)
    assert found["n"] == len(x)
    assert [found[k] for k in ("mean", "low", "high")] == pytest.approx(
        [want[k] for k in ("mean", "low", "high")], abs=1e-9
    )


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_one_answer_a_group_is_wilsons_interval(right):
    found = cluster_accuracy(right, range(len(right)))
    assert found == pytest.approx(accuracy_interval(sum(right), len(right)), abs=1e-9)


def test_answers_that_go_together_count_once():
    """Ten questions a picture, all right or all wrong: as many answers as pictures."""
    right = np.random.default_rng(0).random(50) < 0.7
    found = cluster_accuracy(np.repeat(right, 10), np.repeat(np.arange(50), 10).tolist())
    want = accuracy_interval(right.sum(), 50)
    assert found["n"] == 500 and found["mean"] == want["mean"]
    assert found["low"] == pytest.approx(want["low"], abs=2e-3)
    assert found["high"] == pytest.approx(want["high"], abs=2e-3)
    all_right = cluster_accuracy(np.ones(500), np.repeat(np.arange(50), 10).tolist())
    assert all_right == pytest.approx({**accuracy_interval(50, 50), "n": 500})


def test_the_interval_holds_the_truth_as_often_as_it_says_and_the_plain_one_does_not():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 8).tolist()
    held = np.zeros(2)
    for _ in range(400):
        right = rng.random(480) < np.repeat(rng.choice([0.3, 0.9], 60), 8)
        for i, found in enumerate(
            (cluster_accuracy(right, groups), accuracy_interval(right.sum(), 480))
        ):
            held[i] += found["low"] <= 0.6 <= found["high"]
    assert 0.92 <= held[0] / 400 <= 0.98 and held[1] / 400 < 0.85


def test_a_difference_that_never_occurred_has_a_width():
    same = cluster_difference([1, 0] * 50, [1, 0] * 50, range(100))
    assert same["mean"] == 0 and 0 < same["high"] == -same["low"] < 0.04
    few = cluster_difference([1, 0] * 5, [1, 0] * 5, range(10))
    assert few["high"] > 0.2


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_a_difference_is_bonett_and_prices(pairs):
    """One row a group: the t interval of the differences with a +1 and a −1 among them."""
    a, b = zip(*pairs, strict=True)
    difference = [x - y for x, y in zip(map(int, a), map(int, b), strict=True)]
    want, found = interval([*difference, 1, -1]), cluster_difference(a, b, range(len(a)))
    assert found["mean"] == pytest.approx(np.mean(difference))
    assert found["low"] == pytest.approx(max(-1, want["low"]))
    assert found["high"] == pytest.approx(min(1, want["high"]))


@pytest.mark.parametrize(
    "call, got",
    [
        (lambda: cluster_interval([1.0], [1, 2]), "shape [1] and 2 groups"),
        (lambda: cluster_accuracy([], []), "shape [0]"),
        (lambda: cluster_difference([1, 0], [1], [1, 2]), "got 1"),
    ],
)
def test_what_does_not_fit_is_one_line(call, got):
    with pytest.raises(UserError) as error:
        call()
    error_line(error, got)
