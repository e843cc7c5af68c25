"""Chapter 04's tasks: two words, four cells, so few inputs that every number about them is exact.

A text is two tokens; the first carries a symbol, the second is a filler. A picture is K cells. No
token has a position, so the order of the cells means nothing. Nothing is sampled: a task lists
every text, every picture, the answer to each pair and its probability.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.fusion import build_fusion
from mmlib.tokens import Tokens

K = 4  # cells in a picture
TIE = 1e-3  # logits closer than this are equal


@dataclass(frozen=True)
class Task:
    """All that can be asked: T texts, P pictures, and for each pair the answer and its weight.

    texts [T, 2, K + 1] and pictures [P, K, K + 2] are features, answer [T, P] holds 0 or 1,
    weight [T, P] is the probability of the pair (float64, sums to 1).
    """

    name: str
    asks: str
    texts: Tensor
    pictures: Tensor
    answer: Tensor
    weight: Tensor

    def pairs(self) -> tuple[Tokens, Tokens]:
        """Every text with every picture, T·P rows, text by text."""
        T, P = self.answer.shape
        texts = self.texts.repeat_interleave(P, 0)
        return Tokens.all_visible(texts), Tokens.all_visible(self.pictures.repeat(T, 1, 1))

    def averaged(self) -> Task:
        """The same task with one vector a picture, the mean of its cells: [P, 1, K + 2]."""
        return replace(self, pictures=self.pictures.mean(1, keepdim=True))

    def digest(self) -> str:
        """SHA-256 of all that defines the task, the data hash of a record."""
        parts = (self.texts, self.pictures, self.answer, self.weight)
        return hashlib.sha256(b"".join(p.double().numpy().tobytes() for p in parts)).hexdigest()


def _texts(symbols: int, cells: int) -> Tensor:
    """Word 0 is a one-hot symbol, word 1 a filler that is the same in every text."""
    words = torch.zeros(symbols, 2, cells + 1)
    words[range(symbols), 0, range(symbols)] = 1
    words[:, 1, cells] = 1
    return words


def _bit_task(name: str, asks: str, answer: list[list[int]], weight: list[list[float]]) -> Task:
    """Text a and picture b are one bit each; b stands in one cell, the other cells are blank."""
    pictures = torch.zeros(2, K, K + 2)
    pictures[[0, 1], 0, [K, K + 1]] = 1
    probability = torch.tensor(weight, dtype=torch.float64)
    return Task(name, asks, _texts(2, K), pictures, torch.tensor(answer), probability)


def reference(cells: int = K) -> Task:
    """The text names a key; the answer is the value in the cell with that key.

    A cell is [one-hot key, one-hot value]. Every key stands in one cell, the values are fair bits:
    2^cells pictures, `cells` questions to each.
    """
    values = torch.tensor(list(product((0, 1), repeat=cells)))
    key = torch.eye(cells).expand(len(values), -1, -1)
    pictures = torch.cat([key, F.one_hot(values, 2).float()], -1)
    weight = torch.full((cells, len(values)), 1 / (cells * len(values)), dtype=torch.float64)
    asks = "the value in the cell that the text names"
    return Task("reference", asks, _texts(cells, cells), pictures, values.T.contiguous(), weight)


_EVEN = [[0.25, 0.25], [0.25, 0.25]]
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _bit_task("text_bit", "the text's bit a", [[0, 0], [1, 1]], _EVEN),
        _bit_task("image_bit", "the picture's bit b", [[0, 1], [0, 1]], _EVEN),
        # the answer off the diagonal is never asked for: a and b always agree
        _bit_task("redundant", "the bit that both carry", [[0, 0], [1, 1]], [[0.5, 0], [0, 0.5]]),
        _bit_task("xor", "whether a and b differ", [[0, 1], [1, 0]], _EVEN),
        reference(),
    )
}

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


def limit(task: Task, form: str) -> Limit:
    """What theory allows a model that sees the task only through `form`.

    "text", "picture": any function of one side. "sum": a linear logit of the mean text token plus
    one of the mean cell. "product": a logit bilinear in the two means. "means": any function of the
    two means. "tokens": any function of everything. Computed from the list of all inputs: loss and
    accuracy of the posterior where the function is free, a convex minimisation where it is not.

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


class SymbolicModel(nn.Module):
    """One linear map a modality, one fusion, one linear head: nothing else could make the answer.

    logits = W_head (q + fuse(q, streams))[first word], q the text tokens at width d.
    """

    def __init__(self, task: Task, fusion: str, d: int = 16, H: int = 4):
        super().__init__()
        self.text = nn.Linear(task.texts.shape[-1], d)
        self.image = nn.Linear(task.pictures.shape[-1], d)
        self.fusion = build_fusion(fusion, d, ("text", "image"), H)
        self.head = nn.Linear(d, 2)

    def streams(self, texts: Tokens, pictures: Tokens) -> dict[str, Tokens]:
        """Both sides at width d: {"text": [B, 2, d], "image": [B, K, d]}."""
        return {
            "text": Tokens(self.text(texts.value), texts.mask),
            "image": Tokens(self.image(pictures.value), pictures.mask),
        }

    def forward(self, texts: Tokens, pictures: Tokens) -> Tensor:
        """texts [B, 2, K + 1], pictures [B, K, K + 2] → logits [B, 2]."""
        streams = self.streams(texts, pictures)
        q = streams["text"]
        return self.head((q.value + self.fusion(q, streams))[:, 0])


def expected_loss(logits: Tensor, task: Task) -> Tensor:
    """Expected cross-entropy over all pairs, nats; logits [T·P, 2] as `Task.pairs` orders them."""
    each = F.cross_entropy(logits, task.answer.flatten(), reduction="none")
    return (each * task.weight.flatten().to(each.dtype)).sum()


def additive_part(table: Tensor) -> Tensor:
    """The sum f(text) + g(picture) nearest to a table [T, P] of logits, eq. (4.9).

    Source: Hessel and Lee (2020), EMAP.
    """
    f, g = table.mean(1, keepdim=True), table.mean(0, keepdim=True)
    return f + g - table.mean()  # both hold the overall mean


def expected_accuracy(logits: Tensor, task: Task, exchange: str = "") -> float:
    """The exact accuracy over all pairs; logits [T·P, 2] as `Task.pairs` orders them.

    exchange "picture" ("text") asks each question with the picture (text) of an independent draw:
    the control that shows what the model makes of that side. Logits closer than `TIE` are a tie and
    count half: what separates them is the rounding of a sum, which knows the order of its terms.
    """
    T, P = task.answer.shape
    first, second = logits.double().reshape(T, P, 2).unbind(-1)
    tie = (first - second).abs() < TIE
    says_one = torch.where(tie, 0.5, (second > first).double())  # P(prediction = 1)
    w = task.weight
    if exchange == "picture":
        says_one = (says_one @ w.sum(0))[:, None].expand(T, P)
    elif exchange == "text":
        says_one = (w.sum(1) @ says_one).expand(T, P)
    right = torch.where(task.answer == 1, says_one, 1 - says_one)
    return float((w * right).sum())
