"""What theory allows on chapter 04's tasks: the best that a model of some form can do."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.book.symbols import SymbolicTask
from mmlib.errors import expected

# What each method's answer can depend on, proved in sections 4.3 to 4.5 and tested on its weights.
FORM: dict[str, str] = {
    "late": "sum",
    "concat": "means",
    "bilinear": "product",
    "film": "product",
    **dict.fromkeys(("cross", "gated", "co", "merged", "bottleneck", "resampler"), "tokens"),
}


@dataclass(frozen=True)
class Limit:
    """The best that any model of a form can do: accuracy at most, loss (nats) at least."""

    accuracy: float
    loss: float


def limit(task: SymbolicTask, form: str) -> Limit:
    """What theory allows a model that sees the task only through `form`.

    "text", "picture": any function of one side. "sum": a linear logit of the mean text token plus
    one of the mean cell. "product": a logit bilinear in the two means. "means": any function of the
    two means. "tokens": any function of everything. Computed from the list of all inputs: loss and
    accuracy of the posterior where the function is free, a convex minimization where it is not.

    Raises UserError where the form is unknown.
    """
    T, P = task.answer.shape
    text, picture = task.texts.double().mean(1), task.pictures.double().mean(1)
    t, p = (x.unique(dim=0, return_inverse=True)[1] for x in (text, picture))
    if form == "tokens":
        t, p = torch.arange(T), torch.arange(P)
    elif form == "text":
        p = torch.zeros(P, dtype=torch.long)
    elif form == "picture":
        t = torch.zeros(T, dtype=torch.long)
    elif form not in ("sum", "product", "means"):
        raise expected(
            "a form of text, picture, sum, product, means, tokens", f"'{form}'", "choose one"
        )
    mass = torch.zeros(int(t.max()) + 1, int(p.max()) + 1, 2, dtype=torch.float64)
    mass.index_put_(
        (t[:, None].expand(T, P), p.expand(T, P), task.answer), task.weight, accumulate=True
    )
    if form not in ("sum", "product"):
        return Limit(float(mass.amax(-1).sum()), _conditional_entropy(mass))
    one = torch.ones(T, P, 1, dtype=torch.float64)
    sides = [one, text[:, None].expand(T, P, -1), picture.expand(T, P, -1)]
    if form == "product":
        sides.append(torch.einsum("tf,pg->tpfg", text, picture).flatten(2))
    loss = _least_logistic_loss(torch.cat(sides, -1), task.answer, task.weight)
    accuracy = _best_sum(mass) if form == "sum" else float(mass.amax(-1).sum())
    return Limit(accuracy, loss)


def _conditional_entropy(mass: Tensor) -> float:
    """H(y | cell) in nats of a table of joint probabilities [T, P, 2]."""
    given = mass.sum(-1, keepdim=True)
    return float(-torch.xlogy(mass, mass / given.clamp(min=1e-300)).sum())


def _best_sum(mass: Tensor) -> float:
    """The best accuracy of sign(f(t) + g(p)), by trying all of them.

    Order the texts by f. Then a picture can only choose where in that order the answer turns from
    0 to 1, so T! orders, and T + 1 cuts a picture, are all there is.
    """
    T = len(mass)
    best = 0.0
    for order in permutations(range(T)):
        zero, one = mass[list(order)].unbind(-1)
        cuts = torch.stack([zero[:c].sum(0) + one[c:].sum(0) for c in range(T + 1)])
        best = max(best, float(cuts.amax(0).sum()))
    return best


def _least_logistic_loss(features: Tensor, answer: Tensor, weight: Tensor) -> float:
    """min over w of the weighted loss of the logit w · features: convex, so a descent finds it."""
    w = torch.zeros(features.shape[-1], dtype=torch.float64, requires_grad=True)
    sign = 2 * answer.double() - 1
    descent = torch.optim.LBFGS([w], max_iter=2000, tolerance_grad=1e-10, tolerance_change=0,
                                line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        descent.zero_grad()
        value = (weight * F.softplus(-sign * (features @ w))).sum()
        value.backward()
        return value

    descent.step(loss)
    return float(loss().detach())
