"""What the reader of chapter 07 writes, and the mistakes it invites."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlib.book.exercises import Exercise

# --- 7.A: one step of AdamW on one weight ---------------------------------------------------------

_B1, _B2, _DECAY, _EPS = 0.9, 0.98, 0.01, 1e-8
Moved = tuple[float, float, float]


def _adamw(
    theta: float, g: float, m: float, v: float, t: int, eta: float, *, decay: str = "apart",
    betas: tuple[float, float] = (_B1, _B2), corrected: str = "mv", root: bool = True,
    apart: bool = True, square: bool = True, keep: str = "raw",
    new: tuple[float, float] = (1 - _B1, 1 - _B2),
) -> Moved:  # fmt: skip
    """Eq. (7.2); what stands behind the star is there to be got wrong."""
    if decay == "in the gradient":
        g = g + _DECAY * theta
    m = betas[0] * m + new[0] * g
    v = betas[1] * v + new[1] * (g * g if square else g)
    m_hat = m / (1 - betas[0] ** t) if "m" in corrected else m
    v_hat = v / (1 - betas[1] ** t) if "v" in corrected else v
    if decay == "apart":
        theta = theta - eta * _DECAY * theta
    elif decay == "without the rate":
        theta = theta - _DECAY * theta
    below = (abs(v_hat) ** 0.5 if root else v_hat) + _EPS
    if not apart:
        below = (v_hat + _EPS) ** 0.5
    theta = theta - eta * m_hat / below
    return (theta, m, v) if keep == "raw" else (theta, m_hat, v_hat)


def _but(**wrong: Any) -> Callable[..., Moved]:
    def step(theta: float, g: float, m: float, v: float, t: int, eta: float) -> Moved:
        return _adamw(theta, g, m, v, t, eta, **wrong)

    return step


def _uphill(theta: float, g: float, m: float, v: float, t: int, eta: float) -> Moved:
    moved, m, v = _adamw(theta, g, m, v, t, eta)
    return 2 * (theta - eta * _DECAY * theta) - moved, m, v


ADAMW = Exercise(
    look="Write the three lines of eq. (7.2) in their order: m, v, then the weight, with m̂ and v̂.",
    right=_adamw,
    cases=(
        (1.0, 6.0, 0.0, 0.0, 1, 0.1),
        (100.0, 3.0, 0.5, 2.0, 3, 0.1),
        (-50.0, -0.6, 1.0, 0.3, 10, 0.5),
        (1.0, 1e-6, 0.0, 0.0, 1, 0.1),  # so small a gradient that ε counts
    ),
    wrong=(
        (
            _but(corrected=""),
            "You took m and v as they are. They begin at 0, so early ones are too small: m̂ and v̂"
            " divide by 1 - β^t.",
        ),
        (_but(corrected="m"), "v̂ is missing: v is divided by 1 - β₂^t, as m is by 1 - β₁^t."),
        (_but(corrected="v"), "m̂ is missing: m is divided by 1 - β₁^t, as v is by 1 - β₂^t."),
        (
            _but(keep="hat"),
            "You hand m̂ and v̂ on. The next step needs m and v themselves.",
        ),
        (_but(betas=(_B2, _B1), new=(1 - _B2, 1 - _B1)), "The two betas are exchanged."),
        (
            _but(new=(1.0, 1.0)),
            "The new gradient enters m and v whole. Its share is 1 - β, so that they are means.",
        ),
        (_but(square=False), "v is the mean of the *squared* gradients."),
        (_but(root=False), "The root of v̂ is missing: the step would be in other units."),
        (
            _but(apart=False),
            "ε stands under the root. Beside it, as in eq. (7.2), it bounds the step where v̂ is"
            " tiny; within it is ten thousand times as large.",
        ),
        (
            _but(decay="none"),
            "The decay is missing: the weight also shrinks by ηλ of itself.",
        ),
        (
            _but(decay="in the gradient"),
            "You added λθ to the gradient. Then it is divided by the root of v̂ as well; in AdamW"
            " the decay stands apart.",
        ),
        (
            _but(decay="without the rate"),
            "The weight shrinks by ηλ of itself, not by λ: the decay follows the rate.",
        ),
        (_uphill, "The sign: the step goes against the gradient."),
    ),
)

# --- 7.B: the schedule ----------------------------------------------------------------------------


def _schedule(
    step: int, steps: int, warmup: int, hold: int, floor: float, *, falls: str = "after",
    first: int = 1, shape: str = "cosine", over: str = "rest", ends: str = "mixed",
) -> float:  # fmt: skip
    """Eq. (7.6); what stands behind the star is there to be got wrong."""
    if step < warmup:
        return (step + first) / warmup
    begin = {"after": warmup + hold, "at the warm-up": warmup, "at once": 0}[falls]
    if falls == "at the warm-up" and step < warmup + hold:
        return 1.0
    length = {"rest": steps - begin, "all": steps, "one less": steps - begin - 1}[over]
    through = max(0, step - begin) / max(1, length)
    share = 1 - through if shape == "line" else (1 + math.cos(math.pi * through)) / 2
    if shape == "twice":
        share = 1 + math.cos(math.pi * through)
    return {"mixed": floor + (1 - floor) * share, "none": share, "max": max(floor, share)}[ends]


def _rate(**wrong: Any) -> Callable[..., float]:
    def share(step: int, steps: int, warmup: int, hold: int, floor: float) -> float:
        return _schedule(step, steps, warmup, hold, floor, **wrong)

    return share


def _never_warm(step: int, steps: int, warmup: int, hold: int, floor: float) -> float:
    return _schedule(max(step, warmup), steps, warmup, hold, floor)


def _no_hold(step: int, steps: int, warmup: int, hold: int, floor: float) -> float:
    return _schedule(step, steps, warmup, 0, floor)


SCHEDULE = Exercise(
    look="Three cases: below warmup, the next hold steps, and the rest, whose share of the way goes"
    " from 0 to 1.",
    right=_schedule,
    cases=tuple(
        (step, 100, warmup, hold, floor)
        for warmup, hold, floor in ((10, 40, 0.1), (20, 0, 0.0), (0, 30, 0.25))
        for step in (0, 5, 9, 10, 19, 30, 49, 50, 75, 99)
    ),
    wrong=(
        (
            _rate(first=0),
            "Your step 0 has the rate 0 and does nothing: during warm-up the share is"
            " (step + 1) / warmup.",
        ),
        (_never_warm, "The warm-up is missing: the first steps rise in a line."),
        (_no_hold, "After the warm-up the rate stays at 1 for hold steps before it falls."),
        (
            _rate(falls="at the warm-up"),
            "The cosine begins where the hold ends. Counted from the warm-up, the rate jumps down"
            " when the hold is over.",
        ),
        (
            _rate(falls="at once"),
            "You count the cosine from step 0. It begins where warm-up and hold are over.",
        ),
        (
            _rate(over="all"),
            "The way down is the rest of the steps, steps - warmup - hold, not all of them.",
        ),
        (
            _rate(over="one less"),
            "It reaches the floor one step early: at step `steps`, which is no longer taken, it is"
            " there.",
        ),
        (_rate(shape="line"), "That falls in a line; a cosine was asked for."),
        (_rate(shape="twice"), "1 + cos goes from 2 to 0. Take half of it."),
        (_rate(ends="none"), "The floor is missing: at the end the share is floor, not 0."),
        (
            _rate(ends="max"),
            "You cut the cosine off at the floor. It should end there: floor + (1 - floor) times"
            " the half cosine.",
        ),
    ),
)

# --- 7.C: a step whose batch comes in pieces ------------------------------------------------------

Piece = tuple[Tensor, Tensor]


def _pieces(sizes: tuple[int, ...]) -> list[Piece]:
    random = torch.Generator().manual_seed(7)
    return [
        (3 * torch.randn(n, 4, generator=random), torch.randint(3, (n,), generator=random))
        for n in sizes
    ]


_CASES = ((_pieces((3, 60)), 100.0), (_pieces((3, 60, 1)), 0.3), (_pieces((8,)), 0.3))


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model that another step has used: its gradient is not zero."""
    torch.manual_seed(7)
    model = nn.Linear(4, 3)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.7)
    return model, torch.optim.SGD(model.parameters(), 1.0)


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, pieces: list[Piece], bound: float, *,
    zero: str = "once", divide: str = "labels", clip: str = "once", step: str = "once",
    says: str = "batch",
) -> float:  # fmt: skip
    """The step that is asked for; what stands behind the star is there to be got wrong."""
    if zero != "never":
        optimizer.zero_grad()
    labels, total = sum(len(y) for _, y in pieces), 0.0
    last = 0.0
    for x, y in pieces:
        if zero == "each":
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, reduction="sum")
        by = {"labels": labels, "means": len(y) * len(pieces), "own": len(y), "nothing": 1,
              "pieces": len(pieces)}[divide]  # fmt: skip
        (loss / by).backward()
        total += float(loss.detach()) / by
        last = float(loss.detach()) / by
        if clip == "each":
            nn.utils.clip_grad_norm_(model.parameters(), bound)
        if step == "each":
            optimizer.step()
    if clip == "once":
        nn.utils.clip_grad_norm_(model.parameters(), bound)
    if step == "once":
        optimizer.step()
    return {"batch": total, "last": last, "sum": total * labels}[says]


def _outcome(answer: Callable, n: int) -> tuple[Tensor, Any]:
    """Weights and loss after the step of case n."""
    model, optimizer = _model()
    pieces, bound = _CASES[n]
    said = answer(model, optimizer, pieces, bound)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), said


STEP_MISTAKES: tuple[tuple[dict[str, str], str], ...] = (
    ({"zero": "never"}, "The gradient of the step before is still there. Zero it first."),
    (
        {"zero": "each"},
        "You zero the gradient before each piece, so that only the last one is left. Zero it once.",
    ),
    (
        {"divide": "means"},
        "That is a mean of means: the three labels of the small piece speak as loudly as the sixty"
        " of the large one. Divide each sum by the labels of *all* pieces.",
    ),
    (
        {"divide": "own"},
        "You add up the means of the pieces. Divide each sum by the labels of *all* pieces.",
    ),
    ({"divide": "nothing"}, "The sums are never divided by the number of labels."),
    (
        {"divide": "pieces"},
        "You divide by the number of pieces. Divide by the number of labels in all of them.",
    ),
    (
        {"clip": "each"},
        "You clip after each piece, which turns the direction. Clip once, after the last.",
    ),
    ({"clip": "never"}, "The gradient of the step is not clipped at `bound`."),
    (
        {"step": "each"},
        "You step after each piece. Add the pieces' gradients up, and step once.",
    ),
    ({"step": "never"}, "The optimizer never steps."),
)


def _judge_step(answer: Any) -> str:
    if not callable(answer):
        raise TypeError("a function is asked for")
    given = [_outcome(answer, n) for n in range(len(_CASES))]

    def alike(**wrong: str) -> bool:
        ours = [
            _outcome(lambda *a: training_step(*a, **wrong), n)[0]  # type: ignore[arg-type]
            for n in range(len(_CASES))
        ]
        return all(torch.allclose(w, o, atol=1e-4) for (w, _), o in zip(given, ours, strict=True))

    if not alike():
        for wrong, sentence in STEP_MISTAKES:
            if alike(**wrong):
                return f"not yet. {sentence}"
        return (
            "not yet. In order: zero the gradient; each piece's sum divided by all labels, and"
            " backward; clip; step."
        )
    for (_, said), n in zip(given, range(len(_CASES)), strict=True):
        right = _outcome(training_step, n)[1]
        if not isinstance(said, float | Tensor) or abs(float(said) - right) > 1e-3:
            return (
                "not yet. The weights are right. The loss to return is that of the whole batch:"
                " all sums over all labels."
            )
    return ""


STEP = Exercise(look="", judge=_judge_step)
