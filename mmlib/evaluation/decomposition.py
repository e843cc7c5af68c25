"""What two sources say about a target: the same, each its own, and what only both together say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag, null_space
from scipy.optimize import linprog

from mmlib.errors import expected

MOST = 512  # entries of a table; at 8 × 8 × 8 the solver takes about ten seconds
CENTERED = 1e-10  # weight of the barrier at the end, in nats
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Decomposition:
    """I(A, B; Y) as a sum of four parts, each in bits; `gap` bounds the error of each.

    redundant: what A and B both say of Y; unique_a, unique_b: what one of them alone says;
    synergistic: what neither says without the other.
    """

    redundant: float
    unique_a: float
    unique_b: float
    synergistic: float
    gap: float

    @property
    def total(self) -> float:
        """I(A, B; Y) in bits, the sum of the four."""
        return self.redundant + self.unique_a + self.unique_b + self.synergistic


def decompose(joint: ArrayLike) -> Decomposition:
    """The information of two sources about a target in four parts, from the joint table p(a, b, y).

    joint [A, B, Y]: probabilities or counts, at least 0; they are divided by their sum. Among the
    tables q with the marginals q(a, y) = p(a, y) and q(b, y) = p(b, y), the one with the least
    I_q(A, B; Y) has no synergy. What it still says is redundant or unique; synergy is the rest.

    The convex program is solved by a barrier and Newton's method, from the table in which A and B
    are independent given Y. `gap` is no guess: log q(y | a, b) is a subgradient, so that the least
    of Σ s log q(y | a, b) over all tables s that are allowed, a linear program, is a lower bound
    (solved to about 1e-7, so that a smaller gap says no more).

    A table that was estimated from N samples says more than the truth does, by about
    (entries − 1) / (2 N ln 2) bits in all; take many samples an entry.

    Raises UserError for a table of another form, or of more than MOST entries.
    Source: Bertschinger et al. (2014).
    """
    p = _checked(joint)
    A, B, Y = p.shape
    ay, by, y = p.sum(1), p.sum(0), p.sum((0, 1))
    allowed = (ay[:, None, :] > 0) & (by[None, :, :] > 0)
    least, gap = _least_informative(ay, by, y, allowed)
    with_a, with_b = _information(ay), _information(by)
    union, whole = _information(least.reshape(A * B, Y)), _information(p.reshape(A * B, Y))
    return Decomposition(
        with_a + with_b - union, union - with_b, union - with_a, whole - union, gap
    )


def _checked(joint: ArrayLike) -> Array:
    p = np.asarray(joint, dtype=float)
    if p.ndim != 3 or not np.isfinite(p).all() or p.min(initial=0) < 0 or not p.sum() > 0:
        raise expected(
            "a table [A, B, Y] of probabilities or counts", f"shape {list(p.shape)}"
            if p.ndim != 3 else "one with no weight, or with numbers below 0 or not finite",
            "count how often each a, b and y occur together",
        )  # fmt: skip
    if p.size > MOST:
        raise expected(
            f"a table of at most {MOST} entries", p.size, "join values into coarser ones"
        )
    return p / p.sum()


def _information(table: Array) -> float:
    """I(X; Y) in bits from p(x, y) [X, Y]."""
    independent = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    some = table > 0
    return float((table[some] * np.log2(table[some] / independent[some])).sum())


def _least_informative(
    ay: Array, by: Array, y: Array, allowed: NDArray[np.bool_]
) -> tuple[Array, float]:
    """The q [A, B, Y] with these marginals and the least I(A, B; Y), and the gap in bits."""
    start = ay[:, None, :] * by[None, :, :] / np.where(y > 0, y, 1)
    cell, target = np.nonzero(allowed.reshape(-1, len(y)))
    q = start.reshape(-1, len(y))[cell, target]
    free = _directions(allowed, cell, target)
    if free.shape[1]:
        for weight in np.geomspace(1e-1, CENTERED, 19):
            q = _centered(q, cell, free, weight)
    found = np.zeros((allowed.shape[0] * allowed.shape[1], len(y)))
    found[cell, target] = q
    slope = np.log(q / found.sum(1)[cell])
    lower = _lowest_sum(slope, cell, target, ay, by)
    return found.reshape(allowed.shape), max(0.0, float((q @ slope - lower) / np.log(2)))


def _directions(
    allowed: NDArray[np.bool_], cell: NDArray[np.int_], target: NDArray[np.int_]
) -> Array:
    """In which directions [n, free] the n allowed entries may move: no marginal changes.

    A basis for each y, for marginals of one y hold no entry of another.
    """
    B = allowed.shape[1]
    blocks, order = [], []
    for value in range(allowed.shape[2]):
        mine = np.flatnonzero(target == value)
        a, b = np.divmod(cell[mine], B)
        rows = np.concatenate([np.unique(a)[:, None] == a, np.unique(b)[:, None] == b])
        if len(mine):
            blocks.append(null_space(rows.astype(float)))
            order.append(mine)
    free = np.empty((len(cell), sum(block.shape[1] for block in blocks)))
    free[np.concatenate(order)] = block_diag(*blocks)
    return free


def _centered(q: Array, cell: NDArray[np.int_], free: Array, weight: float) -> Array:
    """Newton's method for Σ q log q(y | a, b) − weight · Σ log q from an inner point q."""

    def value(x: Array) -> float:
        return float(x @ np.log(x / np.bincount(cell, x)[cell]) - weight * np.log(x).sum())

    same = cell[:, None] == cell
    for _ in range(60):
        total = np.bincount(cell, q)[cell]
        slope = np.log(q / total) - weight / q
        curve = np.diag(1 / q + weight / q**2) - same / total
        reduced = free.T @ slope
        step = free @ np.linalg.lstsq(free.T @ curve @ free, -reduced, rcond=None)[0]
        descent = float(slope @ step)
        if -descent < 1e-3 * weight:
            break
        falls = step < 0
        length = min(1.0, 0.99 * float((q[falls] / -step[falls]).min(initial=np.inf)))
        now = value(q)
        while value(q + length * step) > now + 0.1 * length * descent and length > 1e-12:
            length /= 2
        q = q + length * step
    return q


def _lowest_sum(
    slope: Array, cell: NDArray[np.int_], target: NDArray[np.int_], ay: Array, by: Array
) -> float:
    """The least Σ s · slope over the tables s with the marginals ay and by, by y."""
    lowest = 0.0
    for value in range(ay.shape[1]):
        mine = target == value
        if not mine.any():
            continue
        a, b = np.divmod(cell[mine], len(by))
        rows = np.concatenate([np.arange(len(ay))[:, None] == a, np.arange(len(by))[:, None] == b])
        totals = np.concatenate([ay[:, value], by[:, value]])
        done = linprog(slope[mine], A_eq=rows.astype(float), b_eq=totals, method="highs")
        lowest += done.fun if done.success else -np.inf
    return lowest
