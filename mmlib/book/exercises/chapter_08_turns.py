"""What the reader of chapter 08 writes, and the mistakes it invites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmlib.book.exercises import Exercise

# --- 8.A: greedy decoding -------------------------------------------------------------------------

NextWord = Callable[[Sequence[str]], dict[str, float]]


def greedy(
    next_word: NextWord, most: int, *, best: bool = True, seen: str = "all", end: str = "left out",
    ends: bool = True, bound: int = 0, first: tuple[str, ...] = (),
) -> list[str]:  # fmt: skip
    """The most probable word again and again; what stands behind the star is to be got wrong."""
    words: list[str] = list(first)
    for _ in range(most + bound):
        shown = {"all": words, "last": words[-1:], "none": []}[seen]
        p = next_word(list(shown))
        word = (max if best else min)(p, key=p.__getitem__)
        if word == "[SEP]" and ends:
            return words if end == "left out" else [*words, word]
        words.append(word)
    return words


def _first_listed(next_word: NextWord, most: int) -> list[str]:
    return greedy(lambda words: dict.fromkeys(list(next_word(words))[:1], 1.0), most)


def _scripted(words: Sequence[str]) -> dict[str, float]:
    """Answers that depend on all words so far, the most probable not listed first."""
    if not words:
        return {"an": 0.2, "there": 0.7, "[SEP]": 0.1}
    if list(words) == ["there"]:
        return {"[SEP]": 0.3, "is": 0.6, "are": 0.1}
    if list(words) == ["there", "is"]:
        return {"is": 0.2, "a": 0.5, "there": 0.3}
    if list(words) == ["there", "is", "a"]:
        return {"square": 0.4, "star": 0.6}
    return {"is": 0.1, "[SEP]": 0.9}


def _endless(words: Sequence[str]) -> dict[str, float]:
    return {"[SEP]": 0.1, "and": 0.9}


_TEXTS: tuple[tuple[NextWord, int], ...] = ((_scripted, 9), (_endless, 4), (_scripted, 3))
GREEDY_MISTAKES: tuple[tuple[Callable[[NextWord, int], list[str]], str], ...] = (
    (
        lambda f, most: greedy(f, most, end="kept"),
        'The end, "[SEP]", stands in the text. Stop before you append it.',
    ),
    (
        lambda f, most: greedy(f, most, ends=False),
        'The text does not stop at "[SEP]".',
    ),
    (
        lambda f, most: greedy(f, most, seen="last"),
        "The model is shown the last word only. Show it all words so far.",
    ),
    (
        lambda f, most: greedy(f, most, seen="none"),
        "The model never sees what you wrote. Show it all words so far.",
    ),
    (
        lambda f, most: greedy(f, most, best=False),
        "That is the *least* probable word each time.",
    ),
    (
        _first_listed,
        "You take the word that is listed first. It need not be the most probable.",
    ),
    (
        lambda f, most: greedy(f, most, bound=1),
        "That is one word more than `most`.",
    ),
    (
        lambda f, most: greedy(f, most, bound=-1),
        "That is one word less than `most`.",
    ),
    (
        lambda f, most: greedy(f, most)[:1],
        "You return after the first word. The return stands behind the loop.",
    ),
)


def _judge_greedy(answer: Any) -> str:
    if not callable(answer):
        raise TypeError("a function is asked for")

    def texts(writer: Any) -> list[Any]:
        found = [writer(_bounded(f), most) for f, most in _TEXTS]
        return [list(x) if isinstance(x, list | tuple) else x for x in found]

    given, right = texts(answer), texts(greedy)
    if given == right:
        return ""
    for mistake, sentence in GREEDY_MISTAKES:
        if given == texts(mistake):
            return f"not yet. {sentence}"
    if [x.split() if isinstance(x, str) else None for x in given] == right:
        return "not yet. The words are right. A list of them is asked for, not one string."
    return "not yet. Ask next_word(words), take its most probable word, stop or append, repeat."


def _bounded(next_word: NextWord, most: int = 200) -> NextWord:
    """As next_word, but an endless loop is stopped."""
    asked = 0

    def bounded(words: Sequence[str]) -> dict[str, float]:
        nonlocal asked
        asked += 1
        if asked > most:
            raise RuntimeError(f"next_word was asked {most} times: the loop never ends")
        return next_word(words)

    return bounded


GREEDY = Exercise(look="", judge=_judge_greedy)

# --- 8.B: top-p -----------------------------------------------------------------------------------


def top_p(p: Tensor, bound: float, *, crossing: bool = True, scaled: bool = True) -> Tensor:
    """p [V] → [V], the fewest words that have `bound`; behind the star: to be got wrong."""
    ranked, order = p.sort(descending=True)
    before = ranked.cumsum(-1) - ranked
    kept = before < bound if crossing else ranked.cumsum(-1) <= bound
    q = torch.zeros_like(p)
    q[order[kept]] = ranked[kept]
    return q / q.sum() if scaled else q


def _above(p: Tensor, bound: float) -> Tensor:
    q = p * (p >= bound)
    return q / q.sum()


def _unsorted(p: Tensor, bound: float) -> Tensor:
    q = p * (p.cumsum(-1) - p < bound)
    return q / q.sum()


def _in_rank_order(p: Tensor, bound: float) -> Tensor:
    return top_p(p.sort(descending=True).values, bound)


def _least(p: Tensor, bound: float) -> Tensor:
    ranked, order = p.sort()
    q = torch.zeros_like(p)
    kept = ranked.cumsum(-1) - ranked < bound
    q[order[kept]] = ranked[kept]
    return q / q.sum()


def _again(p: Tensor, bound: float) -> Tensor:
    q = top_p(p, bound, scaled=False)
    return q.masked_fill(q == 0, -torch.inf).softmax(-1)


TOP_P = Exercise(
    right=top_p,
    wrong=(
        (
            lambda p, bound: top_p(p, bound, crossing=False),
            "The word that crosses the bound belongs to it: without it the kept words have less"
            " than the bound, and sometimes there is none.",
        ),
        (
            lambda p, bound: top_p(p, bound, scaled=False),
            "What is left does not add up to 1. Divide by its sum.",
        ),
        (
            _above,
            "You keep words that are more probable than the bound. It is a bound on their *sum*.",
        ),
        (_unsorted, "The words were not sorted: begin with the most probable one."),
        (
            _in_rank_order,
            "The probabilities come back sorted. Put each in its own word's place.",
        ),
        (_least, "You began with the least probable words."),
        (_again, "You took a softmax of probabilities. They only need to be divided by their sum."),
        (lambda p, bound: p, "Nothing was cut off."),
    ),
    cases=(
        (torch.tensor([0.125, 0.5, 0.25, 0.125]), 0.7),
        (torch.tensor([0.02, 0.9, 0.08]), 0.5),
        (torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.95),
        (torch.tensor([0.55, 0.05, 0.4]), 0.6),
        (torch.tensor([0.05, 0.2, 0.15, 0.6]), 0.3),
    ),
    look="Sort, and keep a word where those before it have less than the bound together.",
)

# --- 8.C: attention with a cache ------------------------------------------------------------------

Remembered = tuple[Tensor, Tensor, Tensor]


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, K: Tensor, V: Tensor, *, root: bool = True,
    itself: bool = True, order: str = "behind", keep: str = "all",
) -> Remembered:  # fmt: skip
    """q, k, v [d_k], K, V [n, d_k] → h [d_k], K, V [n + 1, d_k]; behind the star: to be wrong."""
    old_K, old_V = K, V
    pieces = ([K, k[None]], [V, v[None]]) if order == "behind" else ([k[None], K], [v[None], V])
    K, V = torch.cat(pieces[0]), torch.cat(pieces[1])
    seen_K, seen_V = (K, V) if itself or not len(old_K) else (old_K, old_V)
    scores = seen_K @ q / (q.shape[-1] ** 0.5 if root else 1)
    h = scores.softmax(-1) @ seen_V
    if keep == "old":
        return h, old_K, old_V
    if keep == "new":
        return h, k[None], v[None]
    return (h, V, K) if keep == "exchanged" else (h, K, V)


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


_STEPS = tuple(
    (_drawn(n, 4) * 2, _drawn(n + 10, 4), _drawn(n + 20, 4), _drawn(n + 30, n, 4),
     _drawn(n + 40, n, 4))
    for n in (0, 1, 5)
)  # fmt: skip
CACHE_MISTAKES: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"itself": False},
        "The new token does not see itself. Append its key and value first, then attend.",
    ),
    ({"root": False}, "The root of d_k is missing."),
    (
        {"keep": "old"},
        "You return the old K and V. The next token needs the new key and value too.",
    ),
    (
        {"keep": "new"},
        "You return the new key and value alone. What was read before is lost.",
    ),
    ({"keep": "exchanged"}, "K and V are exchanged: h, then K, then V."),
    (
        {"order": "before"},
        "The new key stands in front. The result h is the same, but the rows no longer stand in"
        " the order of the text.",
    ),
)


def _judge_cached(answer: Any) -> str:
    if not callable(answer):
        raise TypeError("a function is asked for")

    def steps(f: Any) -> list[Remembered]:
        return [f(*(x.clone() for x in case)) for case in _STEPS]

    def same(a: Any, b: Any) -> bool:
        return all(
            isinstance(x, Tensor) and x.shape == y.shape and torch.allclose(x, y, atol=1e-4)
            for step, other in zip(a, b, strict=True)
            for x, y in zip(step, other, strict=True)
        )

    given = steps(answer)
    if any(not isinstance(step, tuple | list) or len(step) != 3 for step in given):
        return "not yet. Three things are asked for: h, K, V."
    if same(given, steps(cached_attention)):
        return ""
    for wrong, sentence in CACHE_MISTAKES:
        if same(given, steps(lambda *case, wrong=wrong: cached_attention(*case, **wrong))):
            return f"not yet. {sentence}"
    shapes = [tuple(x.shape) for x in given[0] if isinstance(x, Tensor)]
    if shapes != [(4,), (1, 4), (1, 4)]:
        return f"not yet. With an empty cache and d_k = 4 the shapes were {shapes}."
    return "not yet. Append k to K and v to V, then one softmax over all keys, then their values."


CACHED = Exercise(look="", judge=_judge_cached)
