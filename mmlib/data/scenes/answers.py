"""What is the answer, and how much of it can be guessed: the oracle, and the best guesses.

The oracle reads a question's text and looks at the scene; it shares no code with the making of
questions, so that each checks the other.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmlib.data.scenes.questions import Question, View
from mmlib.data.scenes.world import (
    CELLS,
    CLEAR,
    COLOR_NAMES,
    COLUMNS,
    KINDS,
    PIXELS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
)
from mmlib.errors import expected

_COLOR = "(" + "|".join(COLOR_NAMES) + ")"
_SHAPE = "(" + "|".join(SHAPES) + ")"
_RELATION = "(" + "|".join(RELATIONS) + ")"


def answer(scene: Scene, text: str) -> str:
    """The answer to a question about the scene: a word of ANSWERS.

    Raises UserError for a text outside the grammar, and for a question that presumes what is not
    so ("what color is the circle" where there are two).
    """
    for pattern, reply in _FORMS:
        match = pattern.fullmatch(text)
        if match:
            return reply(scene, *match.groups())
    raise expected(
        'a question such as "is there a red circle" or "how many objects are there"',
        repr(text),
        "see the forms in mmlib.data.scenes.questions",
    )


def _named(scene: Scene, color: str | None, shape: str | None) -> list[Thing]:
    return [
        thing
        for thing in scene.things
        if color in (None, COLOR_NAMES[thing.color]) and shape in (None, SHAPES[thing.shape])
    ]


def _the(scene: Scene, color: str | None, shape: str | None) -> Thing:
    things = _named(scene, color, shape)
    if len(things) != 1:
        name = " ".join((color or "", shape or "object")).strip()
        raise expected(f"one {name} in the scene", len(things), "ask about what is there once")
    return things[0]


def _is(first: Thing, relation: str, second: Thing) -> bool:
    return {
        "left of": second.x - first.x,
        "right of": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }[relation] >= CLEAR


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _count(scene: Scene, color: str | None, shape: str | None) -> str:
    return str(len(_named(scene, color, shape)))


def _compare(scene: Scene, first: str, second: str) -> str:
    return _yes(len(_named(scene, first, None)) > len(_named(scene, second, None)))


def _locate(scene: Scene, line: str, color: str, shape: str) -> str:
    thing = _the(scene, color, shape)
    side = PIXELS // CELLS
    return COLUMNS[thing.x // side] if line == "column" else str(thing.y // side + 1)


def _relate(scene: Scene, *words: str) -> str:
    return _yes(_is(_the(scene, *words[:2]), words[2], _the(scene, *words[3:])))


def _refer(scene: Scene, asked: str, relation: str, color: str, shape: str) -> str:
    named = _the(scene, color, shape)
    things = [thing for thing in scene.things if _is(thing, relation, named)]
    if len(things) != 1:
        what = f"one object {relation} the {color} {shape}"
        raise expected(what, len(things), "ask about what is there once")
    return COLOR_NAMES[things[0].color] if asked == "color" else SHAPES[things[0].shape]


_FORMS: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = tuple(
    (re.compile(pattern), reply)
    for pattern, reply in (
        (
            f"is there (?:a (?![aeiou])|an (?=[aeiou])){_COLOR} {_SHAPE}",
            lambda scene, *name: _yes(bool(_named(scene, *name))),
        ),
        (f"how many (?:{_COLOR} )?objects are there", lambda scene, c: _count(scene, c, None)),
        (f"how many {_SHAPE}s are there", lambda scene, s: _count(scene, None, s)),
        (
            f"what color is the {_SHAPE}",
            lambda scene, s: COLOR_NAMES[_the(scene, None, s).color],
        ),
        (
            f"what shape is the {_COLOR} object",
            lambda scene, c: SHAPES[_the(scene, c, None).shape],
        ),
        (f"are there more {_COLOR} than {_COLOR} objects", _compare),
        (f"which (column|row) is the {_COLOR} {_SHAPE} in", _locate),
        (f"is the {_COLOR} {_SHAPE} {_RELATION} the {_COLOR} {_SHAPE}", _relate),
        (f"what (color|shape) is the object {_RELATION} the {_COLOR} {_SHAPE}", _refer),
    )
)

Picture = tuple[Scene, Sequence[Question]]


def best_guess(
    pictures: Sequence[Picture], by: str, combinations: str = "train"
) -> dict[str, float]:
    """Accuracy, by kind and "overall", of the best guess that sees one side alone.

    by "text": for each question's exact text the answer it most often has, counted on the even
    pictures and tested on the odd, and the other way round. A text's counts are smoothed by those
    of its form (names of colours and shapes left out), so that rare texts do not mislead. Take
    thousands of pictures: the guess is as good as its counts.

    by "objects": the guess knows the scene, but not the question. "overall" is the accuracy of
    one answer a scene, the most probable one over all kinds (their shares as in `pictures` for as
    many things). A kind's own figure is a bound: the most probable answer where the kind is known,
    so that no guess without the question does better on that kind. Probabilities come from 64
    fresh questions of each kind about each scene.

    pictures are what `sample_questions` returns, combinations what it was given.
    Raises UserError for another `by`, or fewer than two pictures.
    """
    if by not in ("text", "objects"):
        raise expected('by "text" or "objects"', by, "choose one of them")
    if len(pictures) < 2:
        raise expected("two pictures or more", len(pictures), "sample thousands")
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    guesses = _by_text(pictures) if by == "text" else _by_objects(pictures, combinations)
    for question, of_kind, of_all in guesses:
        asked.update((question.kind, "overall"))
        right[question.kind] += of_kind == question.answer
        right["overall"] += of_all == question.answer
    return {kind: right[kind] / asked[kind] for kind in (*KINDS, "overall") if asked[kind]}


# A question, the best guess of its answer where its kind is known, and where it is not.
Guess = tuple[Question, str, str]
_NAMES = re.compile(rf"\b(?:{'|'.join(COLOR_NAMES)}|(?:{'|'.join(SHAPES)})s?)\b")
_SMOOTHING = 5.0


def _by_text(pictures: Sequence[Picture]) -> Iterator[Guess]:
    for half in (0, 1):
        texts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        forms: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for _, questions in pictures[1 - half :: 2]:
            for question in questions:
                texts[question.text][question.answer] += 1
                forms[_NAMES.sub("*", question.text)][question.answer] += 1
        for _, questions in pictures[half::2]:
            for question in questions:
                form = forms[_NAMES.sub("*", question.text)]
                total = form.total() or 1
                score = {word: _SMOOTHING * count / total for word, count in form.items()}
                for word, count in texts[question.text].items():
                    score[word] += count
                guess = max(score, key=score.__getitem__, default="")
                yield question, guess, guess


def _by_objects(pictures: Sequence[Picture], combinations: str) -> Iterator[Guess]:
    rng = np.random.default_rng(0)
    shares: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for scene, questions in pictures:
        shares[len(scene.things)].update(question.kind for question in questions)
    for scene, questions in pictures:
        view = View(scene, combinations)
        overall: Counter[str] = Counter()
        best = {}
        for kind, share in shares[len(scene.things)].items():
            fresh = [question for _ in range(64) if (question := view.ask(kind, rng))]
            answers = Counter(question.answer for question in fresh)
            for word, count in answers.items():
                overall[word] += share * count
            best[kind] = max(answers, key=answers.__getitem__, default="")
        guess = max(overall, key=overall.__getitem__)
        for question in questions:
            yield question, best[question.kind], guess
