"""Scenes: up to six colored shapes on a light ground, sampled, drawn, and described by cells.

Every random number is one call of `rng.random()`, so a seed gives the same scenes on every
machine. Coordinates are whole pixels, x to the right and y down; a thing's center lies in one of
8 × 8 cells, numbered 0 to 63 row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from mmlib.errors import expected

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (235, 205, 40),
    "purple": (140, 60, 170),
    "orange": (240, 130, 30),
    "cyan": (60, 200, 215),
    "gray": (130, 130, 130),
}
COLOR_NAMES = tuple(COLORS)
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
RADII = (6, 9)
KINDS = (
    *("existence", "counting", "color", "shape"),
    *("comparison", "location", "relation", "reference"),
)
PIXELS = 64
CELLS = 8
MOST = 6
GROUNDS = range(225, 250)
COLUMNS = tuple("abcdefgh")

# A relation holds where this axis of the other center, less that of the first, times the sign,
# is at least CLEAR pixels.
RELATIONS = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}
CLEAR = 4

# A number is one answer whether it counts things (0 to 6) or names a row (1 to 8).
ANSWERS = ("yes", "no", *map(str, range(9)), *COLOR_NAMES, *SHAPES, *COLUMNS)

# Each color lacks one shape and each shape two colors, and some exchange of names carries any
# trained combination to any other: so a combination alone says nothing about the answer.
HELD_OUT = frozenset((color, SHAPES[(i + 1) % 4]) for i, color in enumerate(COLOR_NAMES))

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")
# The words of questions, then those that only captions use, after BERT's four. No sentence says
# "one", and "nearest" has its place: the other words keep the rows of weights trained before.
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    *("is", "there", "a", "an", "how", "many", "are", "what", "which", "color", "shape"),
    *("column", "row", "in", "the", "more", "than", "left", "right", "of", "above", "below"),
    *("object", "objects", *SHAPES, *(shape + "s" for shape in SHAPES), *COLOR_NAMES),
    *("and", *SIZES, "no", "nearest", *NUMBER_WORDS[2:]),
)

Pair = tuple[int, int]
Choice = TypeVar("Choice")
_ALL = tuple((color, shape) for color in range(len(COLORS)) for shape in range(len(SHAPES)))
# For each name of `combinations`, the (color, shape) pairs a question may be about.
PAIRS: dict[str, tuple[Pair, ...]] = {
    "train": tuple(p for p in _ALL if (COLOR_NAMES[p[0]], SHAPES[p[1]]) not in HELD_OUT),
    "held_out": tuple(p for p in _ALL if (COLOR_NAMES[p[0]], SHAPES[p[1]]) in HELD_OUT),
    "all": _ALL,
}


@dataclass(frozen=True)
class Thing:
    """One thing: indices of its color, shape and size, and its center in pixels."""

    color: int
    shape: int
    size: int
    x: int
    y: int

    @property
    def radius(self) -> int:
        """Radius in pixels of the circle about (x, y) that holds the whole thing."""
        return RADII[self.size]

    @property
    def cell(self) -> int:
        """Index, 0 to 63 row by row, of the cell that holds the center."""
        side = PIXELS // CELLS
        return self.y // side * CELLS + self.x // side

    @property
    def name(self) -> str:
        """Color and shape, as in "red circle"."""
        return f"{COLOR_NAMES[self.color]} {SHAPES[self.shape]}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows: its things, and the gray of the ground (0 to 255)."""

    things: tuple[Thing, ...]
    ground: int


def choose(rng: Generator, options: Sequence[Choice]) -> Choice:
    """One of the options, each equally likely."""
    # rng.integers and rng.choice cost ten times as much a call
    return options[int(rng.random() * len(options))]


def article(word: str) -> str:
    """The indefinite article before a word of the vocabulary: "an" before a vowel."""
    return "an" if word[0] in "aeiou" else "a"


def check_objects(objects: tuple[int, int]) -> tuple[int, int]:
    """The range (least, most) of a scene's things; raises UserError where it leaves 1 to 6."""
    low, high = objects
    if not 1 <= low <= high <= MOST:
        raise expected(f"objects (least, most) within 1 to {MOST}", objects, "mend the range")
    return low, high


def check_combinations(combinations: str) -> str:
    """The name of a set of color-shape pairs; raises UserError where it is none of PAIRS."""
    if combinations not in PAIRS:
        raise expected("combinations " + " or ".join(PAIRS), combinations, "choose one of them")
    return combinations


def sample_scene(
    rng: Generator,
    objects: tuple[int, int] = (1, MOST),
    combinations: str = "train",
    names: int = 0,
) -> Scene:
    """A scene of objects[0] to objects[1] things, each number equally often, none touching.

    combinations: "train" (no thing of a HELD_OUT color and shape), "held_out" (at least one
    such thing) or "all". Each further thing takes the color of an earlier one, or the shape of
    an earlier one, or is anything, equally often: else counts above two would be rare.
    names: at least so many things have a color and shape that no other thing of the scene has.

    Raises UserError for a range outside 1 to 6, an unknown combinations, or more names than things.
    """
    low, high = check_objects(objects)
    count = low + int(rng.random() * (high - low + 1))
    if names > low:
        raise expected(f"names up to {low}, the least number of objects", names, "ask for fewer")
    first = PAIRS[check_combinations(combinations)]
    pool = "train" if combinations == "train" else "all"
    while True:
        pairs = [choose(rng, first)]
        while len(pairs) < count:
            pairs.append(choose(rng, choose(rng, _alternatives(pool, choose(rng, pairs)))))
        if not names or sum(pairs.count(pair) == 1 for pair in pairs) >= names:
            break
    # Six large things find no room in one try of about a hundred: begin again.
    for _ in range(1000):
        things = _place(rng, pairs)
        if things is not None:
            return Scene(things, choose(rng, GROUNDS))
    raise RuntimeError(f"no room for {count} things in a thousand tries")


@cache
def _alternatives(pool: str, like: Pair) -> tuple[tuple[Pair, ...], ...]:
    """What a new thing may be beside one like `like`: its color, its shape, or anything."""
    same_color = tuple(p for p in PAIRS[pool] if p[0] == like[0])
    same_shape = tuple(p for p in PAIRS[pool] if p[1] == like[1])
    return same_color, same_shape, PAIRS[pool]


def _place(rng: Generator, pairs: Sequence[Pair]) -> tuple[Thing, ...] | None:
    """Things of random sizes at random places, or None where one found no room in 50 tries."""
    things: list[Thing] = []
    taken: list[tuple[int, int, int]] = []
    for color, shape in pairs:
        size = int(rng.random() * 2)
        radius = RADII[size]
        width = PIXELS - 2 * radius
        for _ in range(50):
            x = radius + int(rng.random() * width)
            y = radius + int(rng.random() * width)
            for other_x, other_y, other_radius in taken:
                right, down, gap = other_x - x, other_y - y, radius + other_radius + 2
                if right * right + down * down <= gap * gap:
                    break
            else:
                things.append(Thing(color, shape, size, x, y))
                taken.append((x, y, radius))
                break
        else:
            return None
    return tuple(things)


def render(scene: Scene) -> np.ndarray:
    """The picture, uint8 [64, 64, 3]; shapes are drawn three times larger and reduced."""
    picture = np.full((PIXELS, PIXELS, 3), scene.ground, np.int16)
    for thing in scene.things:
        reach = thing.radius
        rows = slice(thing.y - reach, thing.y + reach + 1)
        columns = slice(thing.x - reach, thing.x + reach + 1)
        # A sum, not a copy: the squares around two things may overlap where the things do not.
        picture[rows, columns] += _stamp(thing.color, thing.shape, thing.size, scene.ground)
    return picture.astype(np.uint8)


@lru_cache(maxsize=4096)
def _stamp(color: int, shape: int, size: int, ground: int) -> np.ndarray:
    """What a thing adds to the ground, int16 [2r + 1, 2r + 1, 3]."""
    difference = np.array(COLORS[COLOR_NAMES[color]]) - ground
    return ((_coverage(shape, size)[..., None] * difference + 127) // 255).astype(np.int16)


@cache
def _coverage(shape: int, size: int) -> np.ndarray:
    """How much of each pixel the shape covers, 0 to 255, int64 [2r + 1, 2r + 1]."""
    scale, radius = 3, RADII[size]
    side, reach = scale * (2 * radius + 1), scale * radius
    middle = side // 2
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    if SHAPES[shape] == "circle":
        draw.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), fill=255)
    else:
        draw.polygon([(middle + x, middle + y) for x, y in corners(shape, reach)], fill=255)
    return np.asarray(image.reduce(scale)).astype(np.int64)


def corners(shape: int, reach: int) -> list[tuple[int, int]]:
    """Corners of a square, triangle or star about (0, 0), `reach` away but for rounding."""
    turns, inner = {
        "square": ((1 / 8, 3 / 8, 5 / 8, 7 / 8), 1.0),
        "triangle": ((0, 1 / 3, 2 / 3), 1.0),
        "star": (tuple(step / 10 for step in range(10)), 0.42),
    }[SHAPES[shape]]
    points = []
    for step, turn in enumerate(turns):
        length = reach * (inner if step % 2 else 1.0)
        x = length * math.sin(2 * math.pi * turn)
        y = -length * math.cos(2 * math.pi * turn)
        # A little less, so that no half (a large triangle's base) hangs on a machine's rounding.
        points.append((round(x - 1e-6), round(y - 1e-6)))
    return points


def cell_targets(scene: Scene) -> np.ndarray:
    """What lies in each cell, int64 [8, 8, 3]: color + 1, shape + 1, size + 1, or zeros.

    A cell holds at most one center: two centers are more than 13 pixels apart, and the farthest
    pixels of a cell 9.9.
    """
    target = np.zeros((CELLS * CELLS, 3), np.int64)
    for thing in scene.things:
        target[thing.cell] = thing.color + 1, thing.shape + 1, thing.size + 1
    return target.reshape(CELLS, CELLS, 3)
