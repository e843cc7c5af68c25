"""Questions about a scene: eight kinds, with answers that the text alone does not give away.

Where the answer is yes or no, it is drawn first, then a question that has it; a no is a near miss.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, combinations

from numpy.random import Generator

from mmlib.data.scenes.world import (
    CELLS,
    CLEAR,
    COLOR_NAMES,
    COLORS,
    COLUMNS,
    KINDS,
    MOST,
    PAIRS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    article,
    check_combinations,
    check_objects,
    choose,
    sample_scene,
)
from mmlib.errors import expected


@dataclass(frozen=True)
class Question:
    """A question about a scene and its answer, a word of ANSWERS.

    phrases lists (word, cell) for each noun phrase in the singular that fits one thing: the index
    of the phrase's last word, and the cell of that thing. In "the object left of the red circle"
    only "the red circle" is listed: the outer phrase ends at the same word.
    """

    kind: str
    text: str
    answer: str
    phrases: tuple[tuple[int, int], ...]


Draft = tuple[str, str, tuple[tuple[int, int], ...]]
_HELD = frozenset(PAIRS["held_out"])
# The order of RELATIONS: along x this side then that, along y this side then that.
_RELATION = tuple(RELATIONS)
_YES_NO = ("no", "yes")


class View:
    """A scene prepared for asking: its counts, and what a question about it may concern."""

    def __init__(self, scene: Scene, combinations: str) -> None:
        self.things = scene.things
        self.combinations = combinations
        self.colors = Counter([thing.color for thing in scene.things])
        self.shapes = Counter([thing.shape for thing in scene.things])
        self.pairs = Counter([(thing.color, thing.shape) for thing in scene.things])
        # the things that "the red circle" can name
        self.single = [t for t in scene.things if self.pairs[t.color, t.shape] == 1]

    def concerns(self, *things: Thing) -> bool:
        """Whether a question about these things belongs to the view's combinations."""
        if self.combinations == "all":
            return True
        held_out = any((thing.color, thing.shape) in _HELD for thing in things)
        return held_out == (self.combinations == "held_out")

    def ask(self, kind: str, rng: Generator) -> Question | None:
        """A question of this kind, or None where the scene cannot carry one."""
        draft = _ASK[kind](self, rng)
        return None if draft is None else Question(kind, *draft)


def _existence(view: View, rng: Generator) -> Draft | None:
    """A no names a colour and a shape that are both there, but not together."""
    pool = PAIRS[view.combinations]
    present = [pair for pair in view.pairs if pair in pool]
    if not present:
        return None
    yes = rng.random() < 0.5
    if yes:
        color, shape = choose(rng, present)
    else:
        absent = [pair for pair in pool if pair not in view.pairs]
        half = [(c, s) for c, s in absent if c in view.colors or s in view.shapes]
        near = [(c, s) for c, s in half if c in view.colors and s in view.shapes]
        color, shape = choose(rng, near or half or absent)
    name = COLOR_NAMES[color]
    cells = [t.cell for t in view.things if (t.color, t.shape) == (color, shape)]
    phrases = ((4, cells[0]),) if len(cells) == 1 else ()
    return f"is there {article(name)} {name} {SHAPES[shape]}", _YES_NO[yes], phrases


# How much each count, 0 to 6, is preferred where a scene offers several. High counts are rarer,
# and this makes the answers to a form of question nearly as frequent as the scenes allow.
_COUNT_WEIGHT = (1.0, 1.0, 2.5, 6.0, 12.0, 24.0, 48.0)


def _counting(view: View, rng: Generator) -> Draft | None:
    """The form first (of a colour, of a shape, all), then the count, then what is counted."""
    form = rng.random()
    if form < 0.2:
        return "how many objects are there", str(len(view.things)), ()
    of_color = form < 0.6
    counts, size = (view.colors, len(COLORS)) if of_color else (view.shapes, len(SHAPES))
    having: dict[int, list[int]] = {}
    for index in range(size):
        having.setdefault(counts[index], []).append(index)
    offered = tuple(having)
    count = offered[_draw(rng, [*accumulate(_COUNT_WEIGHT[count] for count in offered)])]
    index = choose(rng, having[count])
    noun = f"{COLOR_NAMES[index]} objects" if of_color else f"{SHAPES[index]}s"
    return f"how many {noun} are there", str(count), ()


def _draw(rng: Generator, edges: Sequence[float]) -> int:
    """An index, drawn with the weights whose running sums are `edges`."""
    return bisect(edges, rng.random() * edges[-1], hi=len(edges) - 1)


def _color(view: View, rng: Generator) -> Draft | None:
    asked = [t for t in view.things if view.shapes[t.shape] == 1 and view.concerns(t)]
    if not asked:
        return None
    thing = choose(rng, asked)
    text = f"what color is the {SHAPES[thing.shape]}"
    return text, COLOR_NAMES[thing.color], ((4, thing.cell),)


def _shape(view: View, rng: Generator) -> Draft | None:
    asked = [t for t in view.things if view.colors[t.color] == 1 and view.concerns(t)]
    if not asked:
        return None
    thing = choose(rng, asked)
    text = f"what shape is the {COLOR_NAMES[thing.color]} object"
    return text, SHAPES[thing.shape], ((5, thing.cell),)


def _comparison(view: View, rng: Generator) -> Draft | None:
    """A no is a tie, or the swap of a question that could as well have been a yes."""
    yes = rng.random() < 0.5
    present = sorted(view.colors)
    both = [(a, b) for a in present for b in present if a != b]
    unequal = [(a, b) for a, b in both if view.colors[a] > view.colors[b]]
    ties = [(a, b) for a, b in both if view.colors[a] == view.colors[b]]
    if not yes and ties and rng.random() < 0.25:
        first, second = choose(rng, ties)
    else:
        if unequal and rng.random() < 0.9:
            first, second = choose(rng, unequal)
        else:
            first = choose(rng, present)
            second = choose(rng, [c for c in range(len(COLORS)) if c not in view.colors])
        if not yes:
            first, second = second, first
    text = f"are there more {COLOR_NAMES[first]} than {COLOR_NAMES[second]} objects"
    return text, _YES_NO[yes], ()


def _location(view: View, rng: Generator) -> Draft | None:
    asked = [t for t in view.single if view.concerns(t)]
    if not asked:
        return None
    of_column = rng.random() < 0.5
    lines = [t.cell % CELLS if of_column else t.cell // CELLS for t in asked]
    # Few centres fit into the outer cells: where one does, it is asked about.
    outer = [i for i, line in enumerate(lines) if line in (0, CELLS - 1)]
    index = choose(rng, outer or range(len(asked)))
    thing, line = asked[index], lines[index]
    text = f"which {'column' if of_column else 'row'} is the {thing.name} in"
    return text, COLUMNS[line] if of_column else str(line + 1), ((5, thing.cell),)


def _relation(view: View, rng: Generator) -> Draft | None:
    """Either order of the two things, and either relation along the axis, equally often."""
    clear = [
        (a, b, axis)
        for a, b in combinations(view.single, 2)
        if view.concerns(a, b)
        for axis in (0, 1)
        if abs(b.y - a.y if axis else b.x - a.x) >= CLEAR
    ]
    if not clear:
        return None
    a, b, axis = choose(rng, clear)
    if rng.random() < 0.5:
        a, b = b, a
    side = int(rng.random() * 2)
    text = f"is the {a.name} {_RELATION[2 * axis + side]} the {b.name}"
    distance = b.y - a.y if axis else b.x - a.x
    phrases = ((3, a.cell), (text.count(" "), b.cell))
    return text, _YES_NO[(distance < 0) == side], phrases


def _reference(view: View, rng: Generator) -> Draft | None:
    """Exactly one thing lies on that side of the named one, and none too near it to say."""
    found = []
    for named in view.single:
        for axis in (0, 1):
            sides: tuple[list[Thing], list[Thing]] = ([], [])
            for thing in view.things:
                distance = named.y - thing.y if axis else named.x - thing.x
                if abs(distance) >= CLEAR:
                    sides[distance < 0].append(thing)
                elif thing is not named:
                    break
            else:
                for side, things in enumerate(sides):
                    if len(things) == 1 and view.concerns(named, things[0]):
                        found.append((named, _RELATION[2 * axis + side], things[0]))
    if not found:
        return None
    named, relation, thing = choose(rng, found)
    of_color = rng.random() < 0.5
    asks = "color" if of_color else "shape"
    text = f"what {asks} is the object {relation} the {named.name}"
    word = COLOR_NAMES[thing.color] if of_color else SHAPES[thing.shape]
    return text, word, ((text.count(" "), named.cell),)


_ASK: dict[str, Callable[[View, Generator], Draft | None]] = {
    "existence": _existence,
    "counting": _counting,
    "color": _color,
    "shape": _shape,
    "comparison": _comparison,
    "location": _location,
    "relation": _relation,
    "reference": _reference,
}


def ask(scene: Scene, kind: str, rng: Generator, combinations: str = "train") -> Question | None:
    """A question of this kind about the scene, or None where the scene cannot carry one.

    combinations says what the question may concern: "train" (things of no held-out combination,
    and none is named), "held_out" (at least one such thing) or "all". Counting and comparison
    name no combination, so they are asked of all things.

    Raises UserError for an unknown kind or combinations.
    """
    if kind not in _ASK:
        raise expected("a kind of question: " + ", ".join(KINDS), kind, "choose one of them")
    return View(scene, check_combinations(combinations)).ask(kind, rng)


def sample_questions(
    rng: Generator,
    objects: tuple[int, int] = (1, MOST),
    questions: int = 8,
    kinds: Mapping[str, float] | None = None,
    combinations: str = "train",
) -> tuple[Scene, list[Question]]:
    """A scene and questions about it, their kinds drawn with the given weights (None: equal).

    The number of things is drawn first, then the kinds, then scenes until one carries them all.
    So each number of things is equally frequent, and each kind has its share: what one thing
    alone cannot carry (relation, reference) is asked the more of scenes of two and more.

    Raises UserError for unknown kinds, and where scenes of this size cannot carry the kinds.
    """
    low, high = check_objects(objects)
    weights = tuple((kinds or dict.fromkeys(KINDS, 1.0)).items())
    count = low + int(rng.random() * (high - low + 1))
    names, edges = _kind_table(weights, (low, high), count)
    if not names:  # weights of relation and reference alone, and one thing: take more
        count = 2 + int(rng.random() * (high - 1))
        names, edges = _kind_table(weights, (low, high), count)
    drawn = [names[_draw(rng, edges)] for _ in range(questions)]
    for _ in range(1000):
        scene = sample_scene(rng, (count, count), combinations)
        view = View(scene, combinations)
        asked = []
        for kind in drawn:
            question = view.ask(kind, rng)
            if question is None:
                break
            asked.append(question)
        else:
            return scene, asked
    raise expected(
        "kinds of question that one scene can carry",
        f"{', '.join(sorted(set(drawn)))} of {count} objects",
        "allow more objects or fewer kinds",
    )


_NEED_TWO = ("relation", "reference")


@lru_cache(maxsize=256)
def _kind_table(
    weights: tuple[tuple[str, float], ...], objects: tuple[int, int], count: int
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The kinds for a scene of `count` things, and the running sums of their weights.

    Over all numbers of things in the range, each equally often, the shares are the weights given.
    """
    unknown = [kind for kind, _ in weights if kind not in KINDS]
    if unknown:
        raise expected("kinds among " + ", ".join(KINDS), ", ".join(unknown), "mend the names")
    total = sum(weight for _, weight in weights)
    of_two = sum(weight for kind, weight in weights if kind in _NEED_TWO)
    if total <= 0 or min(weight for _, weight in weights) < 0:
        raise expected("weights of at least 0, not all 0", dict(weights), "mend the weights")
    if of_two and objects[1] == 1:
        raise expected("two objects for relation and reference", objects, "allow more objects")
    larger = (objects[1] - max(objects[0], 2) + 1) / (objects[1] - objects[0] + 1)
    share_of_two = min(1.0, of_two / total / larger) if count > 1 and of_two else 0.0
    table = {}
    for kind, weight in weights:
        if kind in _NEED_TWO:
            share = weight / of_two * share_of_two if of_two else 0.0
        else:
            share = weight / (total - of_two) * (1 - share_of_two) if total > of_two else 0.0
        if share > 0:
            table[kind] = share
    return tuple(table), tuple(accumulate(table.values()))
