"""The same question with one input exchanged: does a model's answer follow what the text says?

A model that reads the name gives another answer where another name has another answer. So each
exchange says what the right answer becomes, where there is one.
"""

from __future__ import annotations

from mmlib.data.scenes.answers import answer
from mmlib.data.scenes.world import COLOR_NAMES, SHAPES, Scene
from mmlib.errors import UserError, expected

_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def other_name(scene: Scene, text: str, present: bool) -> str | None:
    """The question about another name, with an answer of its own (present) or with none.

    text ends in the name, as that of a reference or relation does. present=True: a name of
    one thing in the scene, such that the question is well posed (the oracle can answer it) and its
    answer is another one; the first in the scene's order, None where there is none. Every
    reference of the kind "nearest" has one. present=False: a name of nothing in the scene, the
    first in the world's order whose color and shape the scene shows, though not together, or else
    the first that is absent; a model can find no such thing, and should not keep its answer.

    Raises UserError where the text does not end in a color and a shape.
    """
    *words, color, shape = ["", "", *text.split(" ")]
    if color not in COLOR_NAMES or shape not in SHAPES:
        raise expected("a question that ends in a name", f"'{text}'", "ask a reference")
    there = [thing.name for thing in scene.things]
    start = " ".join(words[2:])
    if present:
        own = answer(scene, text)
        for name in there:
            if answer_or_none(scene, f"{start} {name}") not in (own, None):
                return f"{start} {name}"
        return None
    absent = [f"{c} {s}" for c in COLOR_NAMES for s in SHAPES if f"{c} {s}" not in there]
    seen = {word for name in there for word in name.split(" ")}
    near = [name for name in absent if seen.issuperset(name.split(" "))]
    return f"{start} {(near or absent)[0]}"


def other_side(text: str) -> str:
    """The question about the opposite side, which need not be well posed.

    Raises UserError where the text names no side.
    """
    words = text.split(" ")
    if not set(words) & set(_OPPOSITE):
        raise expected("a question that names a side", f"'{text}'", "ask a reference or relation")
    return " ".join(_OPPOSITE.get(word, word) for word in words)


def answer_or_none(scene: Scene, text: str) -> str | None:
    """The oracle's answer, or None where it has none."""
    try:
        return answer(scene, text)
    except UserError:
        return None
