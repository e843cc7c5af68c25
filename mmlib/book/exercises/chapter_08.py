"""The exercises of chapter 08, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_08_turns import CACHED, GREEDY, TOP_P

# 8.1: two words; p of the first, and of the likeliest second one after it
_FIRST = {"a": 0.5, "b": 0.4, "c": 0.1}
_SECOND = {"a": 0.4, "b": 0.9, "c": 1.0}
_text = {word: _FIRST[word] * _SECOND[word] for word in _FIRST}
_greedy = max(_FIRST, key=_FIRST.__getitem__)
_best = max(_text, key=_text.__getitem__)
_best_over_greedy = Exercise(
    right=_text[_best] / _text[_greedy],
    wrong=(
        (_text[_best], "That is the probability of the best text. How often the greedy one?"),
        (_text[_greedy], "That is the probability of the greedy text."),
        (_text[_greedy] / _text[_best], "That is the greedy text over the best one."),
        (
            _FIRST[_greedy] / _FIRST[_best],
            "You compared first words. A text has the product of its words' probabilities.",
        ),
        (
            _SECOND[_best] / _SECOND[_greedy],
            "You compared second words. A text has the product of its words' probabilities.",
        ),
        (1.0, "Greedy takes *a* and cannot go back. Multiply out the text that begins with *b*."),
    ),
    look="Multiply along each of the three texts. Greedy chooses the first word by itself.",
)

# 8.2: two words of 0.9 and 0.1 at temperature 1; at which one of 0.75 and 0.25?
_ODDS, _WANTED = 0.9 / 0.1, 0.75 / 0.25
_temperature = Exercise(
    right=math.log(_ODDS) / math.log(_WANTED),
    wrong=(
        (
            math.log(_WANTED) / math.log(_ODDS),
            "That makes it colder, and the first word gains. Which logarithm is divided by T?",
        ),
        (
            _ODDS / _WANTED,
            "You divided the odds. It is their *logarithm* that is divided by T.",
        ),
        (0.9 / 0.75, "You divided the probability. The scores are divided, before the softmax."),
        (1.0, "That is where they are 0.9 and 0.1."),
        (
            (0.9 - 0.1) / math.log(_WANTED),
            "You took the probabilities for scores. The scores are their logarithms.",
        ),
    ),
    look="The odds go from 9 to 1 to 3 to 1. The logarithm of the first, divided by T, is that of"
    " the second.",
)


# 8.3: how many tokens are read while `new` are written after `prompt`
def _reads(prompt: int, new: int) -> tuple[int, int]:
    """(without a cache, with one): the last word is written and not read."""
    return sum(prompt + n for n in range(new)), prompt + new - 1


_tokens_read = Exercise(
    right=_reads,
    wrong=(
        (
            lambda prompt, new: (sum(prompt + n for n in range(new)), prompt + new),
            "With the cache: the last word is written, and nobody reads it.",
        ),
        (
            lambda prompt, new: (sum(prompt + n + 1 for n in range(new)), prompt + new - 1),
            "Without the cache: the first word is written after reading the prompt alone.",
        ),
        (
            lambda prompt, new: (sum(prompt + n + 1 for n in range(new)), prompt + new),
            "The first word is written after reading the prompt alone, and nobody reads the last.",
        ),
        (
            lambda prompt, new: (new * (prompt + new), prompt + new - 1),
            "Without the cache: early words are written after shorter texts than the last one.",
        ),
        (
            lambda prompt, new: (new * prompt, prompt + new - 1),
            "Without the cache: what was written is read again too.",
        ),
        (
            lambda prompt, new: (sum(prompt + n for n in range(new)), new),
            "With the cache the prompt is still read, once.",
        ),
        (
            lambda prompt, new: _reads(prompt, new)[::-1],
            "The number without a cache comes first.",
        ),
    ),
    cases=((5, 1), (20, 30), (3, 7)),
    look="To write word n (from 0), a model without a cache reads prompt + n tokens.",
)


# 8.4: top-k
def _top_k(logits: Tensor, k: int, *, ties: bool = True, below: float = -math.inf) -> Tensor:
    least = logits.sort(descending=True).values[k - 1]
    if not ties:
        kept = torch.zeros_like(logits, dtype=torch.bool)
        kept[logits.argsort(descending=True, stable=True)[:k]] = True
    else:
        kept = logits >= least
    return logits.masked_fill(~kept, below).softmax(-1)


def _cut_after(logits: Tensor, k: int) -> Tensor:
    p = logits.softmax(-1)
    return p * (logits >= logits.sort(descending=True).values[k - 1])


_keep_k = Exercise(
    right=_top_k,
    wrong=(
        (
            _cut_after,
            "What is left does not add up to 1: scale it, or cut before the softmax.",
        ),
        (
            lambda logits, k: _top_k(logits, k, ties=False),
            "Words as probable as the k-th stay too: which of them would you throw out?",
        ),
        (
            lambda logits, k: _top_k(logits, k, below=0.0),
            "A score of 0 is no probability of 0: e to the 0 is 1. Use minus infinity.",
        ),
        (
            lambda logits, k: _top_k(logits, min(k + 1, len(logits))),
            "That is one word too many.",
        ),
        (
            lambda logits, k: _top_k(-logits, k),
            "Those are the least probable ones.",
        ),
        (lambda logits, k: logits.softmax(-1), "Nothing was cut off."),
    ),
    cases=(
        (torch.tensor([1.0, 3.0, 2.0, -5.0]), 2),
        (torch.tensor([-1.0, -3.0, -2.0, -2.0, -9.0]), 2),
        (torch.tensor([0.5, 0.25, 4.0]), 1),
        (torch.tensor([0.5, 0.25, 4.0]), 3),
    ),
    look="Find the k-th largest score; what is below it becomes minus infinity; then softmax.",
)

# 8.5: the cache of SmolLM2-135M after a thousand tokens, in megabytes
_LAYERS, _KEYS, _QUERIES, _D_K, _BYTES = 30, 3, 9, 64, 2
_megabytes = 2 * _LAYERS * _KEYS * _D_K * _BYTES * 1000 / 1e6
_cache_size = Exercise(
    right=_megabytes,
    wrong=(
        (
            _megabytes / _KEYS * _QUERIES,
            "Nine heads ask, but only three have keys and values, and only these are kept.",
        ),
        (
            _megabytes / _BYTES,
            "Half of it: keys *and* values are kept, and each number takes two bytes.",
        ),
        (2 * _megabytes, "A number takes two bytes here, not four."),
        (_megabytes / _LAYERS, "That is one layer's. Each has keys and values of its own."),
        (_megabytes / 1000, "That is one token's."),
        (_megabytes / _KEYS, "Three heads have keys and values, not one."),
        (_megabytes * 1e6, "Those are bytes; megabytes were asked for."),
    ),
    look="Eq. (8.6) with three heads of keys and values, times two bytes a number.",
)

EXERCISES = {
    "8.A": GREEDY,
    "8.B": TOP_P,
    "8.C": CACHED,
    "8.1": _best_over_greedy,
    "8.2": _temperature,
    "8.3": _tokens_read,
    "8.4": _keep_k,
    "8.5": _cache_size,
}
