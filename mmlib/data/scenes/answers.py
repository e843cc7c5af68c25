"""What is the answer: an oracle that reads a question's text and looks at the scene.

It shares no code with the making of questions, so that each checks the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from mmlib.data.scenes.world import (
    CELLS,
    CLEAR,
    COLOR_NAMES,
    COLUMNS,
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


def _side(thing: Thing, relation: str, named: Thing) -> int:
    """How many pixels the thing's center lies to that side of the named one's."""
    x, y = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}[relation]
    return x * (thing.x - named.x) + y * (thing.y - named.y)


def _nearest(scene: Scene, asked: str, relation: str, color: str, shape: str) -> str:
    named = _the(scene, color, shape)
    beside = [thing for thing in scene.things if _side(thing, relation, named) > 0]
    far = {thing: math.dist((thing.x, thing.y), (named.x, named.y)) for thing in beside}
    close = [thing for thing in beside if far[thing] < min(far.values()) + CLEAR]
    what = f"one nearest object {relation} the {color} {shape}, by {CLEAR} pixels"
    if len(close) != 1 or not _is(close[0], relation, named):
        raise expected(what, f"{len(close)} to choose from", "ask where a look decides")
    return COLOR_NAMES[close[0].color] if asked == "color" else SHAPES[close[0].shape]


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
        (f"what (color|shape) is the nearest object {_RELATION} the {_COLOR} {_SHAPE}", _nearest),
        (f"what (color|shape) is the object {_RELATION} the {_COLOR} {_SHAPE}", _refer),
    )
)
