"""What can be answered in the generated world with an input left unread, before any training.

A question that is to need the picture and each of its words should be hard to guess without any of
them. Here the best rules that leave one input unread are found by asking anew (`best_unread`),
about the first 2,000 of 10,000 pictures as the training draws them; beside them, on all, simple
rules for reference that pick a thing without reading the name, or without reading the side.
"nearest" is the world as it is, "outermost" the references as first made.

What it should show (written before it was run on 10,000 pictures; 400 had been looked at): a rule
that ignores the name of a reference, or its side, is right half of the time and no more, by
construction; as first made, the name could be left unread without any loss. No simple rule comes
above one half.

What is left as it is: one name of a relation or a comparison may go unread most of the time, since
both are transitive and no square of names exists; a color or a shape asked of few things has few
answers. To mend either, most scenes would have to be refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.scenes import RELATIONS, Question, Scene, Thing, sample_questions, sample_scene
from mmlib.data.scenes.priors import best_guess, best_unread
from mmlib.data.scenes.questions import View
from mmlib.data.scenes.stream import STREAMS

PICTURES = 10_000
ASKED = 2_000  # of these pictures, those of which fresh questions are drawn for the best rules
DRAWS = 128  # of each kind asked about a picture, to find the best rules
SCENES = 2_000
MIDDLE = 31.5  # pixels
Picture = tuple[Scene, list[Question]]
# What a rule picks: from the things of a scene and one word of the question, a thing.
Pick = Callable[[list[Thing], Any], Thing]


def pictures(reference: str, number: int) -> list[Picture]:
    """The first pictures of a stream that nothing else uses, eight questions each."""
    rng = np.random.default_rng([STREAMS["test"], 770])
    return [sample_questions(rng, reference=reference) for _ in range(number)]


def _toward(things: list[Thing], side: str) -> list[Thing]:
    """The things from the picture's edge on that side inward."""
    axis, sign = RELATIONS[side]
    return sorted(things, key=lambda thing: sign * getattr(thing, axis))


def _apart(thing: Thing, x: float, y: float) -> float:
    return (thing.x - x) ** 2 + (thing.y - y) ** 2


def _from(things: list[Thing], named: Thing) -> list[Thing]:
    """The other things, the nearest to the named one first."""
    return sorted(things, key=lambda thing: _apart(thing, named.x, named.y))[1:]


def _central(things: list[Thing]) -> Thing:
    return min(things, key=lambda thing: _apart(thing, MIDDLE, MIDDLE))


# Rules that know the side and not the name. A scene with too few things: the last of the order.
BY_SIDE: dict[str, Pick] = {
    "outermost on the side": lambda things, side: _toward(things, side)[0],
    "second from the edge": lambda things, side: _toward(things, side)[:2][-1],
    "third from the edge": lambda things, side: _toward(things, side)[:3][-1],
    "last from the edge": lambda things, side: _toward(things, side)[-1],
    "nearest to the middle of the picture": lambda things, side: _central(things),
}
# Rules that know the name and not the side.
BY_NAME: dict[str, Pick] = {
    "nearest to the named, on any side": lambda things, named: _from(things, named)[0],
    "second nearest to the named": lambda things, named: _from(things, named)[:2][-1],
    "farthest from the named": lambda things, named: _from(things, named)[-1],
    "other thing nearest to the middle": lambda things, named: _central(_from(things, named)),
}


def references(drawn: list[Picture]) -> Iterator[tuple[Scene, Question, str, str, Thing]]:
    """Each reference as (scene, question, what is asked, side, the named thing)."""
    for scene, questions in drawn:
        for question in questions:
            if question.kind == "reference":
                asked = question.text.split(" ")[1]
                (side,) = (side for side in RELATIONS if f" {side} " in question.text)
                cell = question.phrases[0][1]
                (named,) = (thing for thing in scene.things if thing.cell == cell)
                yield scene, question, asked, side, named


def word(thing: Thing, asked: str) -> str:
    """The thing's color or shape, as an answer says it."""
    return thing.name.split(" ")[asked == "shape"]


def simple_rules(drawn: list[Picture]) -> dict[str, dict[str, float]]:
    """Accuracy on the references of each rule that ignores the name, or the side."""
    right: dict[str, dict[str, float]] = {"name": defaultdict(float), "side": defaultdict(float)}
    total = 0
    for scene, question, asked, side, named in references(drawn):
        total += 1
        things = list(scene.things)
        others = [thing for thing in things if thing is not named]
        for unread, rules, known, among in (
            ("name", BY_SIDE, side, things), ("side", BY_NAME, named, others),
        ):  # fmt: skip
            for rule, pick in rules.items():
                right[unread][rule] += word(pick(things, known), asked) == question.answer
            words = Counter(word(thing, asked) for thing in among)
            right[unread]["commonest word in the picture"] += (
                max(words, key=words.__getitem__) == question.answer
            )
            right[unread]["any thing, drawn at random"] += words[question.answer] / len(among)
    return {
        unread: {rule: count / total for rule, count in counts.items()}
        for unread, counts in right.items()
    }


def measured(reference: str, number: int = PICTURES, draws: int = DRAWS) -> dict[str, Any]:
    """The best guess from the text, the best rules, and the simple rules, for one way of asking."""
    drawn = pictures(reference, number)
    kept = drawn
    if reference == "outermost":  # the other kinds are asked as they were
        kept = [(s, [q for q in questions if q.kind == "reference"]) for s, questions in drawn]
    return {
        "references": sum(1 for _ in references(drawn)),
        "text": best_guess(drawn, "text", reference=reference),
        "unread": best_unread(kept[:ASKED], draws, reference=reference),
        "rules": simple_rules(drawn),
    }


def supply(number: int = SCENES) -> dict[str, dict[str, float]]:
    """How many scenes, drawn without regard to questions, have well-posed references enough.

    names × sides: for so many names and sides each question has a clear answer, and it differs
    along each row and each column; then a rule that ignores the name is right at most once in as
    many times as there are names.
    """
    rng = np.random.default_rng([STREAMS["test"], 771])
    found: dict[str, dict[str, float]] = {}
    for count in (4, 5, 6):
        have: Counter[str] = Counter()
        for _ in range(number):
            view = View(sample_scene(rng, (count, count)), "train")
            for names, sides in ((2, 2), (3, 2), (3, 3)):
                have[f"{names} × {sides}"] += has_grid(view, names, sides)
        found[f"{count} things"] = {grid: have[grid] / number for grid in sorted(have)}
    return found


def has_grid(view: View, names: int, sides: int) -> bool:
    """Whether some names by some sides have answers that differ along each row and column."""
    for rows in combinations(view.nearest.values(), names):
        for chosen in combinations(set.intersection(*map(set, rows)), sides):
            for asked in ("color", "shape"):
                grid = [[getattr(row[side], asked) for side in chosen] for row in rows]
                lines = [*grid, *map(list, zip(*grid, strict=True))]
                if all(len(set(line)) == len(line) for line in lines):
                    return True
    return False


UNITS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "nearest": lambda folder: measured("nearest"),
    "outermost": lambda folder: measured("outermost"),
    "supply": lambda folder: supply(),
}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """By kind and input left unread, the best rule's accuracy; for reference in both worlds."""
    new, old = units["nearest"], units["outermost"]
    return {
        "title": "The generated world with an input left unread",
        "pictures": PICTURES,
        "pictures_asked_anew": ASKED,
        "references": {name: units[name]["references"] for name in ("nearest", "outermost")},
        "picture_unread": new["text"],
        "words_unread": new["unread"],
        "outermost": {"picture": old["text"]["reference"], **old["unread"]["reference"]},
        "rules": {"nearest": new["rules"], "outermost": old["rules"]},
        "supply": {key: value for key, value in units["supply"].items() if key != "seconds"},
    }
