"""Calibration and abstention, against loops, closed forms and a calibrated model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import error_line

from mmlib.errors import UserError
from mmlib.evaluation.calibration import (
    calibration_error,
    calibration_floor,
    reliability,
    risk_coverage,
)

# tenths, so that answers share bins, edges and confidences
answers = st.lists(
    st.tuples(st.integers(0, 10).map(lambda n: n / 10), st.booleans()), min_size=1, max_size=40
)


@given(answers, st.integers(1, 12))
def test_the_error_is_its_definition(pairs, bins):
    """Each bin (low, high] by a loop over answers; the first holds 0."""
    sure, right = map(list, zip(*pairs, strict=True))
    total, rows = 0.0, []
    edges = np.linspace(0, 1, bins + 1)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mine = [(c, r) for c, r in pairs if low < c <= high or c == low == 0]
        if mine:
            confidence = sum(c for c, _ in mine) / len(mine)
            accuracy = sum(r for _, r in mine) / len(mine)
            total += len(mine) / len(pairs) * abs(confidence - accuracy)
            rows.append((low, high, len(mine), confidence, accuracy))
    assert calibration_error(sure, right, bins) == pytest.approx(total, abs=1e-12)
    found = [tuple(row.values()) for row in reliability(sure, right, bins)]
    assert np.array(found) == pytest.approx(np.array(rows))


def test_the_error_of_a_calibrated_model_is_not_0_and_its_floor_says_so():
    rng = np.random.default_rng(1)
    sure = rng.uniform(0.2, 1, 300)
    floor = calibration_floor(sure)
    found = [calibration_error(sure, rng.random(300) < sure) for _ in range(100)]
    assert np.mean(found) > 0.03
    assert floor["mean"] == pytest.approx(np.mean(found), abs=0.005)
    assert 0.88 < np.mean(np.array(found) < floor["high"]) <= 1
    assert calibration_floor(sure) == floor
    assert calibration_error(np.full(300, 0.95), rng.random(300) < 0.6) > 0.3 > floor["high"]


@given(answers)
def test_risk_is_counted_at_each_threshold(pairs):
    sure, right = map(np.array, zip(*pairs, strict=True))
    curve = risk_coverage(sure, right)
    thresholds = sorted(set(sure.tolist()), reverse=True)
    assert curve["threshold"].tolist() == thresholds
    for threshold, coverage, risk in zip(thresholds, curve["coverage"], curve["risk"], strict=True):
        given_ = sure >= threshold
        assert coverage == pytest.approx(given_.mean())
        assert risk == pytest.approx(1 - right[given_].mean())
    assert curve["coverage"][-1] == 1 and curve["risk"][-1] == pytest.approx(1 - right.mean())


@pytest.mark.parametrize(
    "sure, right, got",
    [
        ([0.5], [1, 0], "shapes [1] and [2]"),
        ([], [], "shapes [0] and [0]"),
        ([3.2], [1], "pass probabilities, not logits"),
    ],
)
def test_what_does_not_fit_is_one_line(sure, right, got):
    with pytest.raises(UserError) as error:
        calibration_error(sure, right)
    error_line(error, got)
