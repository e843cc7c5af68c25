"""Rules that read a part of a reference: what a model that is half right may follow (chapter 07).

"What color is the nearest object left of the red circle": each rule picks a thing of the scene, and
the answer is its color or shape. Only `NEAREST_ON_SIDE` reads all of the question.
"""

from __future__ import annotations

from collections.abc import Callable
from math import hypot

from mmlib.data.scenes.controls import other_name, other_side
from mmlib.data.scenes.world import Scene, Thing
from mmlib.errors import expected

# side -> (0 along x, 1 along y; which way)
_SIDES = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}

Rule = Callable[[Scene, str, Thing], list[Thing]]


def beside(thing: Thing, side: str) -> float:
    """How far to a side a thing lies, in pixels; larger is further out."""
    axis, way = _SIDES[side]
    return way * (thing.y if axis else thing.x)


def _others(scene: Scene, named: Thing) -> list[Thing]:
    return [thing for thing in scene.things if thing is not named]


def _on_side(scene: Scene, side: str, named: Thing) -> list[Thing]:
    """The things on that side of the named one; all others where there is none."""
    others = _others(scene, named)
    there = [t for t in others if beside(t, side) > beside(named, side)]
    return there or others


def _nearest(things: list[Thing], named: Thing) -> list[Thing]:
    return [min(things, key=lambda t: hypot(t.x - named.x, t.y - named.y))]


# name -> rule(scene, side, named thing) -> the things of which it would answer any
RULES: dict[str, Rule] = {
    "nearest on that side": lambda scene, side, named: _nearest(
        _on_side(scene, side, named), named
    ),
    "nearest on any side": lambda scene, side, named: _nearest(_others(scene, named), named),
    "outermost on that side": lambda scene, side, named: [
        max(scene.things, key=lambda t: beside(t, side))
    ],
    "any on that side": _on_side,
    "any but the named": lambda scene, side, named: _others(scene, named),
}


def follow(rule: str, scene: Scene, text: str) -> dict[str, float]:
    """{answer: probability} of a rule of RULES on a reference about a scene.

    Raises UserError for an unknown rule, and where no thing or several have the name.
    """
    if rule not in RULES:
        raise expected(f"a rule of {', '.join(RULES)}", f"'{rule}'", "choose one")
    words = text.split(" ")
    named = [thing for thing in scene.things if thing.name == " ".join(words[-2:])]
    if len(named) != 1:
        raise expected("one thing of the name", f"{len(named)} in '{text}'", "ask about another")
    side = next(word for word in words if word in _SIDES)
    picked = RULES[rule](scene, side, named[0])
    found: dict[str, float] = {}
    for thing in picked:
        word = thing.name.split(" ")[words[1] == "shape"]
        found[word] = found.get(word, 0.0) + 1 / len(picked)
    return found


def fingerprint(rule: str, asked: list[tuple[Scene, str, str]]) -> dict[str, float]:
    """How a rule shows itself on references (scene, text, answer): the shares that are right, and
    that stay with another present name and with the opposite side.

    Where a rule picks one of several things, two askings pick independently.
    """
    sums: dict[str, list[float]] = {"right": [], "other name": [], "other side": []}
    for scene, text, answer in asked:
        before = follow(rule, scene, text)
        sums["right"].append(before.get(answer, 0.0))
        texts = {"other name": other_name(scene, text, True), "other side": other_side(text)}
        for what, changed in texts.items():
            if changed is not None:
                after = follow(rule, scene, changed)
                sums[what].append(sum(p * after.get(word, 0.0) for word, p in before.items()))
    return {what: sum(values) / len(values) for what, values in sums.items()}
