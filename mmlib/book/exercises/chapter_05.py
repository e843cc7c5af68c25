"""The exercises of chapter 05, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_05_judged import CRITIC
from mmlib.book.exercises.chapter_05_turns import COPIES, ENTROPY, GRADIENT, NCE

# 5.1: the gradient for the logits ln 6, ln 3, 0, where the third answer is the label
_p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
_y = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
_z = torch.tensor([math.log(6), math.log(3), 0.0], dtype=torch.float64)
_pull = Exercise(
    right=_p - _y,
    wrong=(
        (_y - _p, "That is where the logits go. The gradient points the other way, uphill."),
        (_p, "These are the probabilities; the label has to enter."),
        (_y / -_p, "That is the derivative for the probabilities. The softmax comes after it."),
        ((_p - _y) / 3, "There is one sample with three answers: nothing is divided by three."),
        (_z - _y, "You compared the logits with the label. Make probabilities of them first."),
        (_p * (_p - _y), "There is a factor p too much: it cancels against the logarithm's 1/p."),
        (
            _p - torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
            "You took the likeliest answer for the label; the label is the third.",
        ),
        (
            _p - torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64),
            "You took the second answer for the label; the label is the third.",
        ),
        (_y, "That is the label alone; what the model said has to enter."),
        (_p.log(), "These are the logarithms of the probabilities, not a derivative."),
    ),
    look="Terms e^z first, then p, then eq. (5.3).",
)


def _floor(C: int, eps: float) -> float:
    return -(1 - eps) * math.log(1 - eps) - eps * math.log(eps / (C - 1))


_entropy = Exercise(
    right=_floor,
    wrong=(
        (
            lambda C, eps: -(1 - eps) * math.log(1 - eps) - eps * math.log(eps),
            "That would do if there were one wrong answer. Here ε is shared by C − 1 of them.",
        ),
        (
            lambda C, eps: -(1 - eps) * math.log(1 - eps) - eps * math.log(eps / C),
            "The wrong answer is one of how many?",
        ),
        (lambda C, eps: _floor(C, eps) / math.log(2), "That is in bits; losses here are in nats."),
        (lambda C, eps: math.exp(_floor(C, eps)), "That is the perplexity at the floor."),
        (
            lambda C, eps: -math.log(1 - eps),
            "That is the loss of the samples whose label is right.",
        ),
        (lambda C, eps: math.log(C), "That is where a model starts that knows nothing."),
        (lambda C, eps: eps, "That is the share of wrong labels, not the loss."),
        (lambda C, eps: -_floor(C, eps), "An entropy is not negative; look at the sign."),
    ),
    cases=tuple((C, eps) for C in (2, 3, 10) for eps in (0.1, 0.4)),
    look="Eq. (5.4): write p* of all C answers down, one of them 1 − ε.",
)


def _each(logits: Tensor, tokens: Tensor) -> Tensor:
    """−log p of each token under the row of its own position, [L]."""
    return -logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def _answer_loss(logits: Tensor, tokens: Tensor, answer: Tensor) -> Tensor:
    return _each(logits[:-1], tokens[1:])[answer[1:]].sum()


def _sequences() -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    random = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 6, 5, generator=random, dtype=torch.float64)
    tokens = torch.randint(5, (2, 6), generator=random)
    answer = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]).bool()
    return tuple(zip(logits, tokens, answer, strict=True))


_words = Exercise(
    right=_answer_loss,
    wrong=(
        (
            lambda z, t, a: _each(z, t)[a].sum(),
            "Not shifted: each row is asked for the token that it reads.",
        ),
        (
            lambda z, t, a: _each(z[1:], t[:-1])[a[:-1]].sum(),
            "Shifted the wrong way: row n is about token n + 1, not about the one before.",
        ),
        (
            lambda z, t, a: _each(z[:-1], t[1:])[a[:-1]].sum(),
            "Logits and tokens are shifted, `answer` is not: it belongs to the tokens.",
        ),
        (
            lambda z, t, a: _each(z[:-1], t[1:]).sum(),
            "Question and padding are in your sum. `answer` says what counts.",
        ),
        (
            lambda z, t, a: _each(z[:-1], t[1:])[a[1:]].mean(),
            "That is the mean over the answer's words; the probability of all of them is the sum.",
        ),
        (lambda z, t, a: -_answer_loss(z, t, a), "The sign: a loss is minus the logarithm."),
        (
            lambda z, t, a: -z[:-1].gather(-1, t[1:, None])[:, 0][a[1:]].sum(),
            "You added logits. They become probabilities by a softmax over the vocabulary.",
        ),
    ),
    cases=_sequences(),
    look="Eq. (5.6): which row of the logits is about token n?",
)

# 5.4: InfoNCE's floor in a batch whose captions occur three times, twice and once
_counts = [3, 3, 3, 2, 2, 1]
_by_heart = Exercise(
    right=sum(math.log(c) for c in _counts) / 6,
    wrong=(
        (
            (math.log(3) + math.log(2)) / 3,
            "That is the mean over the three captions. It runs over the six pairs.",
        ),
        (
            math.log(sum(_counts) / 6),
            "You took the logarithm of the mean count. The mean comes last.",
        ),
        (
            sum(math.log(c - 1) for c in _counts if c > 1) / 6,
            "You counted the copies beside the pair. The pair itself is in the sum as well.",
        ),
        (5 * math.log(2) / 6, "With three alike, how large is the share of each at most?"),
        (math.log(3), "That is what the worst rows pay. The loss is the mean over all rows."),
        (
            sum(math.log(c) for c in _counts),
            "That is the sum over the six rows. Divide it by their number.",
        ),
        (
            2 * sum(math.log(c) for c in _counts) / 6,
            "You added rows and columns. The loss is the mean of both directions.",
        ),
        (0.0, "That is the floor with the copies left out."),
        (math.log(6), "That is what a model pays that knows nothing."),
        (8 / 36, "That is the share of false zeros among the labels, not a loss."),
        (
            math.log(6) - sum(math.log(c) for c in _counts) / 6,
            "That is the last question, what is missing from ln 6. The floor comes first.",
        ),
        (
            sum(math.log2(c) for c in _counts) / 6,
            "That is in bits; losses here are in nats.",
        ),
    ),
    look="Eq. (5.9): how often does the caption of each of the six pairs occur?",
)


def _believed(pi: float, W: int, kept: float, drawn: float) -> float:
    right = pi * (kept + drawn / W)
    return right / (right + (1 - pi) * drawn / W)


_shown = Exercise(
    right=_believed,
    wrong=(
        (lambda p, W, k, d: _believed(p, W, d, k), "Kept and drawn are exchanged."),
        (lambda p, W, k, d: k / (k + d), "That forgets what the context says."),
        (
            lambda p, W, k, d: p * k / (p * k + (1 - p) * d / W),
            "Almost: a word that is drawn at random is the old one once in W times.",
        ),
        (lambda p, W, k, d: p * k / (p * k + (1 - p) * d), "It is drawn only once in W times."),
        (
            lambda p, W, k, d: p * k / (p * k + (1 - p) * d / (W - 1)),
            "You drew from the W − 1 other words; the list holds the old word too.",
        ),
        (lambda p, W, k, d: p * (k + d / W) / ((1 - p) * d / W), "These are the odds."),
        (
            lambda p, W, k, d: _believed(p, W, 0.1, 0.1),
            "The shares are arguments, not a tenth each.",
        ),
        (
            lambda p, W, k, d: p,
            "That is what the context says; that the word is shown says something as well.",
        ),
    ),
    cases=((0.3, 10, 0.1, 0.1), (0.01, 1000, 0.1, 0.1), (0.3, 10, 0.2, 0.05), (0.01, 50, 0, 0.2)),
    look="Bayes, as for eq. (5.13): in which two ways is the shown word the right one?",
)


def _siglip_floor(k: int) -> float:
    return math.log(k) + (k - 1) * math.log(k / (k - 1)) if k > 1 else 0.0


_copies = Exercise(
    right=_siglip_floor,
    wrong=(
        (lambda k: math.log(k), "That is InfoNCE's floor; here k pairs have one score."),
        (
            lambda k: _siglip_floor(k) / k,
            "That is the mean over the k pairs of a picture; eq. (5.18) divides by N only.",
        ),
        (lambda k: k * math.log(2), "That is for the score 0. Which score is best for 1 yes in k?"),
        (
            lambda k: math.log(k) + (k - 1) * math.log(k),
            "The k − 1 copies say no: their term is −ln(1 − p), not −ln p.",
        ),
        (
            lambda k: math.log(k) + (math.log(k / (k - 1)) if k > 1 else 0.0),
            "One of the copies is in your sum. How many are there beside the pair?",
        ),
        (lambda k: 0.0, "A pair and its copy have the same score but opposite labels."),
    ),
    cases=((1,), (2,), (3,), (8,)),
    look="One picture, k captions of one score, one labeled yes: which p is best for the sum?",
)


def _chances(scores: Tensor, ids: Tensor, kappa: float) -> Tensor:
    positive = ids[:, None] == ids
    return (kappa * scores).masked_fill(positive, -torch.inf).softmax(-1)


def _masked_after(scores: Tensor, ids: Tensor, kappa: float) -> Tensor:
    return (kappa * scores).softmax(-1).masked_fill(ids[:, None] == ids, 0.0)


def _negative_cases() -> tuple[tuple[Tensor, Tensor, float], ...]:
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ids = torch.tensor([0, 1, 0, 2])
    large = scores + 1000  # e^1000 is no number
    return (scores, ids, 1.0), (scores, ids, 3.0), (scores, ids, 0.0), (large, ids, 1.0)


_chosen = Exercise(
    right=_chances,
    wrong=(
        (
            lambda s, i, b: (b * s).softmax(-1),
            "A row may draw itself here. Its own column and its copies are no negatives.",
        ),
        (
            lambda s, i, b: _chances(s, torch.arange(len(s)), b),
            "The diagonal is out, but copies of another number are still drawn: use ids.",
        ),
        (
            _masked_after,
            "The rows do not sum to 1: you masked after the softmax. Take positives out before it.",
        ),
        (
            lambda s, i, b: (b * s).masked_fill(i[:, None] == i, 0.0).softmax(-1),
            "A score of 0 is not out: e^0 = 1 is drawn. What score has no chance?",
        ),
        (
            lambda s, i, b: _chances(s, i, 1.0),
            "κ is forgotten: at 0 all negatives should be equally likely.",
        ),
        (
            lambda s, i, b: _chances(s.T, i, b).T,
            "Your columns sum to 1; it is each row that draws.",
        ),
        (lambda s, i, b: _chances(s, i, -b), "The sign of κ: your likeliest one is the easiest."),
    ),
    cases=_negative_cases(),
    look="Which columns may row n draw? Only their terms are in the sum below.",
)


def _where_it_ends(lam: float, a: float) -> float:
    """The first loss at the minimum of (w − 1)² + λ (w − a)²."""
    return ((1 + lam * a) / (1 + lam) - 1) ** 2


_weights = Exercise(
    right=_where_it_ends,
    wrong=(
        (
            lambda lam, a: (1 + lam * a) / (1 + lam),
            "That is where the minimum lies. How large is the first loss there?",
        ),
        (
            lambda lam, a: _where_it_ends(lam, a) + lam * ((1 + lam * a) / (1 + lam) - a) ** 2,
            "That is the whole sum; the first loss alone was asked for.",
        ),
        (lambda lam, a: ((a + lam) / (1 + lam) - 1) ** 2, "You gave λ to the first loss."),
        (
            lambda lam, a: lam * (a - 1) / (1 + lam),
            "That is how far w is from 1; the loss is the square of it.",
        ),
        (
            lambda lam, a: ((1 + a) / 2 - 1) ** 2,
            "That is the middle between the two minima; λ draws w to one of them.",
        ),
        (
            lambda lam, a: ((1 + lam * a) / 2 - 1) ** 2,
            "The weights of the mean add up to 1 + λ, not to two.",
        ),
        (
            lambda lam, a: (lam * (1 - a)) ** 2,
            "The distance is λ/(1 + λ) of that between 1 and a, not λ of it.",
        ),
        (lambda lam, a: 0.0, "That is the minimum of the first loss alone."),
    ),
    cases=tuple((lam, a) for lam in (0.0, 0.5, 3.0) for a in (-1.0, 4.0)),
    look="Set the derivative of the sum to zero, solve for w, put it into (w − 1)².",
)

EXERCISES: dict[str, Exercise] = {
    "5.A": ENTROPY,
    "5.B": GRADIENT,
    "5.C": NCE,
    "5.D": COPIES,
    "5.E": _chosen,
    "5.1": _pull,
    "5.2": _entropy,
    "5.3": _words,
    "5.4": _by_heart,
    "5.5": _shown,
    "5.6": CRITIC,
    "5.7": _copies,
    "5.8": _weights,
}
