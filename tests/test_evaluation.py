"""Scores and their intervals, against closed forms and other implementations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from strategies import error_line

from mmlib.errors import UserError
from mmlib.evaluation import (
    accuracy_by_kind,
    accuracy_interval,
    balanced_accuracy,
    interval,
    paired_interval,
)

answers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_interval_by_hand():
    """1, 2, 3: mean 2, deviation 1; Student's t with 2 degrees of freedom at 97.5 % in closed form.

    For 2 degrees the quantile of p is (2p − 1) √(2 / (4 p (1 − p))) (Shaw 2006).
    """
    p = 0.975
    t = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    found = interval([1, 2, 3])
    assert found["mean"] == 2 and found["n"] == 3
    assert found["high"] - 2 == pytest.approx(t / math.sqrt(3), rel=1e-9)
    assert 2 - found["low"] == pytest.approx(t / math.sqrt(3), rel=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95]))
def test_interval_is_scipys(values, level):
    found = interval(values, level)
    error = stats.sem(values)
    if error == 0:
        assert found["low"] == found["mean"] == found["high"]
        return
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), error)
    assert found["low"] == pytest.approx(low, rel=1e-7, abs=1e-9)
    assert found["high"] == pytest.approx(high, rel=1e-7, abs=1e-9)


def test_one_value_has_no_interval_and_says_so():
    assert interval([0.7]) == {"mean": 0.7, "low": 0.7, "high": 0.7, "n": 1}


def test_no_value_is_one_line():
    with pytest.raises(UserError) as error:
        interval([])
    error_line(error, "got 0")


def test_a_paired_interval_is_narrow_where_the_difference_is_steady():
    """Folds of unequal difficulty: apart the two cannot be told, paired they can."""
    a, b = [0.500, 0.700, 0.900], [0.490, 0.688, 0.889]
    found = paired_interval(a, b)
    assert found == interval([x - y for x, y in zip(a, b, strict=True)])
    assert found["low"] > 0
    assert interval(a)["low"] < interval(b)["mean"]


def test_pairs_that_are_none_are_one_line():
    with pytest.raises(UserError) as error:
        paired_interval([1.0, 2.0], [1.0])
    error_line(error, "2 paired values", "got 1")


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilsons_interval_is_its_formula(total, share):
    """Wilson (1927): (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    correct = round(share * total)
    p, z = correct / total, stats.norm.ppf(0.975)
    middle = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    found = accuracy_interval(correct, total)
    assert found["mean"] == p and found["n"] == total
    assert found["low"] == pytest.approx((middle - half) / (1 + z * z / total), abs=1e-9)
    assert found["high"] == pytest.approx((middle + half) / (1 + z * z / total), abs=1e-9)


def test_all_right_is_not_certain():
    """The plain interval p ± z √(p(1−p)/n) would have no width at 10 of 10."""
    assert accuracy_interval(10, 10)["low"] < 0.75


def test_no_answer_is_one_line():
    with pytest.raises(UserError) as error:
        accuracy_interval(0, 0)
    error_line(error, "got 0")


@given(answers)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_balanced_accuracy_is_scikit_learns(pairs):
    prediction, target = zip(*pairs, strict=True)
    expected = balanced_accuracy_score(target, prediction)
    assert balanced_accuracy(prediction, target) == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_of_the_most_frequent_answer_is_chance():
    assert balanced_accuracy([0] * 100, [0] * 98 + [1, 2]) == pytest.approx(1 / 3)


@given(answers)
def test_accuracy_by_kind_counts_each_kind_alone(pairs):
    prediction, target = zip(*pairs, strict=True)
    kind = [f"kind {i % 3}" for i in range(len(pairs))]
    found = accuracy_by_kind(prediction, target, kind)
    right = [p == t for p, t in pairs]
    assert found.pop("overall") == accuracy_interval(sum(right), len(right))
    assert found == {
        name: accuracy_interval(
            sum(r for r, k in zip(right, kind, strict=True) if k == name), kind.count(name)
        )
        for name in dict.fromkeys(kind)
    }
