"""Captions: sentences from a small grammar, and a parser that decides whether one is true.

    sentence: "there is" phrase | "there are" number nouns | phrase
            | phrase "and" phrase | phrase relation phrase
    phrase:   article [size] [color] noun        nouns: [size] [color] noun in the plural
    noun:     a shape or "object"                number: "no", "two" to "six"

"there are two green stars" is true of exactly two; "a circle and a star" needs two things.
"""

from __future__ import annotations

import re
from itertools import permutations

from numpy.random import Generator

from mmlib.data.scenes.world import (
    CLEAR,
    COLOR_NAMES,
    NUMBER_WORDS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    article,
    choose,
)
from mmlib.errors import UserError, expected

Phrase = tuple[str, str, str]


def _either(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(words) + ")"


_NOUN = rf"(?:({_either(SIZES)}) )?(?:({_either(COLOR_NAMES)}) )?({_either((*SHAPES, 'object'))})"
_PHRASE = re.compile(rf"(?:a (?![aeiou])|an (?=[aeiou])){_NOUN}")
_COUNT = re.compile(rf"there are ({_either(('no', *NUMBER_WORDS[2:]))}) {_NOUN}s")
_LINK = re.compile(rf" (and|{_either(tuple(RELATIONS))}) ")


def caption(scene: Scene, rng: Generator) -> str:
    """A sentence of the grammar that is true of the scene."""
    form = rng.random()
    first = choose(rng, scene.things)
    if form < 0.2:
        return "there is " + _describe(first, rng)
    if form < 0.5:
        # size and color are each left out half of the time, so that counts above one occur
        size, color, noun = _words(first, rng)
        count = sum(_fits(thing, (size, color, noun)) for thing in scene.things)
        if count > 1:
            return f"there are {NUMBER_WORDS[count]} {_join(size, color, noun)}s"
        return f"there is {_indefinite(_join(size, color, noun))}"
    others = [thing for thing in scene.things if thing is not first]
    if not others:
        return _describe(first, rng)
    second = choose(rng, others)
    relations = [name for name in RELATIONS if related(first, name, second)]
    link = "and" if form < 0.6 or not relations else choose(rng, relations)
    return f"{_describe(first, rng)} {link} {_describe(second, rng)}"


def is_true(sentence: str, scene: Scene) -> bool:
    """Whether the sentence is true of the scene; raises UserError outside the grammar."""
    counted = _COUNT.fullmatch(sentence)
    if counted:
        number, *words = (group or "" for group in counted.groups())
        count = sum(_fits(thing, tuple(words)) for thing in scene.things)
        return count == NUMBER_WORDS.index(number)
    parts = _LINK.split(sentence.removeprefix("there is "))
    if len(parts) == 1:
        phrase = _parse(parts[0], sentence)
        return any(_fits(thing, phrase) for thing in scene.things)
    if len(parts) != 3 or sentence.startswith("there is "):
        raise _outside(sentence)
    first, second = _parse(parts[0], sentence), _parse(parts[2], sentence)
    return any(
        _fits(a, first) and _fits(b, second) and (parts[1] == "and" or related(a, parts[1], b))
        for a, b in permutations(scene.things, 2)
    )


def related(first: Thing, relation: str, second: Thing) -> bool:
    """Whether the relation, a key of RELATIONS, holds by at least CLEAR pixels."""
    axis, sign = RELATIONS[relation]
    return sign * (getattr(second, axis) - getattr(first, axis)) >= CLEAR


def _words(thing: Thing, rng: Generator) -> Phrase:
    """Size, color and noun; each is left out (the noun: said as "object") at times."""
    size = SIZES[thing.size] if rng.random() < 0.5 else ""
    color = COLOR_NAMES[thing.color] if rng.random() < 0.5 else ""
    return size, color, SHAPES[thing.shape] if rng.random() < 0.75 else "object"


def _describe(thing: Thing, rng: Generator) -> str:
    """A phrase with color and shape, and the size half of the time."""
    return _indefinite(_join(SIZES[thing.size] if rng.random() < 0.5 else "", thing.name))


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _indefinite(words: str) -> str:
    return f"{article(words)} {words}"


def _fits(thing: Thing, phrase: tuple[str, ...]) -> bool:
    size, color, noun = phrase
    return (
        size in ("", SIZES[thing.size])
        and color in ("", COLOR_NAMES[thing.color])
        and noun in ("object", SHAPES[thing.shape])
    )


def _parse(text: str, sentence: str) -> Phrase:
    match = _PHRASE.fullmatch(text)
    if match is None:
        raise _outside(sentence)
    return match[1] or "", match[2] or "", match[3]


def _outside(sentence: str) -> UserError:
    return expected(
        'a caption such as "a large red circle left of a blue square" or "there are two stars"',
        repr(sentence),
        "use the grammar of mmlib.data.scenes.captions",
    )
