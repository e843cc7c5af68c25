"""Redundant, unique, synergistic: closed forms, identities, a brute force, and dit."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import error_line

from mmlib.errors import UserError
from mmlib.evaluation.decomposition import MOST, decompose


def table_of(rule: Callable[[int, int], object], a: int = 2, b: int = 2) -> np.ndarray:
    """The joint table of two independent uniform sources and what a rule makes of them."""
    said = [[rule(i, j) for j in range(b)] for i in range(a)]
    kinds = sorted({y for row in said for y in row}, key=str)
    return np.array([[[float(y == kind) for kind in kinds] for y in row] for row in said])


COPY = np.zeros((2, 2, 2))
COPY[0, 0, 0] = COPY[1, 1, 1] = 1
AND = 0.75 * math.log2(4 / 3)  # I(A; Y) = I(B; Y) of AND, all of it redundant


@pytest.mark.parametrize(
    "joint, redundant, unique_a, unique_b, synergistic",
    [
        (table_of(lambda a, b: a ^ b), 0, 0, 0, 1),
        (COPY, 1, 0, 0, 0),
        (table_of(lambda a, b: a), 0, 1, 0, 0),
        (table_of(lambda a, b: b), 0, 0, 1, 0),
        (table_of(lambda a, b: (a, b)), 0, 1, 1, 0),
        (table_of(lambda a, b: a & b), 0.311278, 0, 0, 0.5),
        (table_of(lambda a, b: a + b), 0.5, 0, 0, 1),
        (table_of(lambda a, b: 0), 0, 0, 0, 0),
    ],
    ids="xor copy first second both and sum constant".split(),
)
def test_known_cases(joint, redundant, unique_a, unique_b, synergistic):
    """As published: Bertschinger et al. (2014), examples and table 1."""
    found = decompose(joint)
    parts = (found.redundant, found.unique_a, found.unique_b, found.synergistic)
    assert parts == pytest.approx((redundant, unique_a, unique_b, synergistic), abs=1e-6)
    assert found.gap < 1e-6
    assert decompose(8 * joint) == found, "counts are divided by their sum"


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def told(p: np.ndarray, *sources: int) -> float:
    """I(sources; Y) in bits, from entropies."""
    rest = tuple({0, 1} - {*sources})
    with_y = p.sum(rest) if rest else p
    return entropy(with_y.sum(-1)) + entropy(p.sum((0, 1))) - entropy(with_y)


def random_table(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(math.prod(shape), 0.4)).reshape(shape)


sizes = st.integers(1, 4)


@given(sizes, sizes, sizes, st.integers(0, 2**31))
@settings(max_examples=25)
def test_the_parts_add_up_to_what_each_source_says(a, b, y, seed):
    p = random_table(seed, a, b, y)
    found = decompose(p)
    assert found.redundant + found.unique_a == pytest.approx(told(p, 0), abs=1e-9)
    assert found.redundant + found.unique_b == pytest.approx(told(p, 1), abs=1e-9)
    assert found.total == pytest.approx(told(p, 0, 1), abs=1e-9)
    parts = (found.redundant, found.unique_a, found.unique_b, found.synergistic)
    assert min(parts) > -1e-6 and found.gap < 1e-6


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_two_bits_by_brute_force(seed):
    """Of 2 × 2 × 2, the tables with these marginals have two free numbers: try a grid of them."""
    p = random_table(seed, 2, 2, 2)
    turn = np.array([[1.0, -1.0], [-1.0, 1.0]])
    lines = []
    for y in range(2):
        plus, minus = p[:, :, y][turn > 0].min(), p[:, :, y][turn < 0].min()
        lines.append(p[:, :, y] + np.linspace(-plus, minus, 201)[:, None, None] * turn)
    q = np.stack(
        [x.reshape(201, 201, 2, 2) for x in (
            np.repeat(lines[0], 201, 0), np.tile(lines[1], (201, 1, 1)),
        )], -1,
    ).clip(0)  # fmt: skip
    log = np.log2(np.where(q > 0, q, 1)) - np.log2(np.where(q > 0, q.sum(-1, keepdims=True), 1))
    least = (q * log).sum((2, 3, 4)).min() + entropy(p.sum((0, 1)))
    found = decompose(p)
    union = found.redundant + found.unique_a + found.unique_b
    assert union <= least + 1e-6, "no table of the grid says less"
    assert union == pytest.approx(least, abs=2e-3)


@pytest.mark.parametrize("seed, shape", [(0, (2, 2, 2)), (1, (2, 3, 2)), (2, (3, 3, 2))])
@pytest.mark.filterwarnings("ignore")
def test_it_is_dits(seed, shape):
    dit = pytest.importorskip("dit")
    from dit.pid import PID_BROJA

    p = random_table(seed, *shape)
    outcomes = ["".join(map(str, at)) for at in np.ndindex(*shape)]
    theirs = PID_BROJA(dit.Distribution(outcomes, p.ravel().tolist()), [[0], [1]], [2])
    found = decompose(p)
    # dit searches with a general optimizer, which stops short of the least information by up to
    # some hundredths of a bit, and elsewhere on another machine; all four parts move by as much
    short = found.redundant - theirs[((0,), (1,))]
    assert -1e-3 < short < 0.03, "no table of dit's says less"
    assert found.gap < 1e-4
    assert found.unique_a == pytest.approx(theirs[((0,),)] - short, abs=1e-3)
    assert found.unique_b == pytest.approx(theirs[((1,),)] - short, abs=1e-3)
    assert found.synergistic == pytest.approx(theirs[((0, 1),)] + short, abs=1e-3)


@pytest.mark.parametrize(
    "joint, got",
    [
        (np.ones((2, 2)), "shape [2, 2]"),
        (np.zeros((2, 2, 2)), "no weight"),
        (-np.ones((1, 1, 1)), "below 0"),
        (np.full((1, 1, 1), np.nan), "not finite"),
        (np.ones((MOST + 1, 1, 1)), f"got {MOST + 1}"),
    ],
)
def test_what_is_no_table_is_one_line(joint, got):
    with pytest.raises(UserError) as error:
        decompose(joint)
    error_line(error, got)
