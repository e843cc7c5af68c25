"""Questions about a scene: eight kinds, with answers that the text alone does not give away.

Where the answer is yes or no, it is drawn first, then a question that has it; a no is a near miss.

A reference asks for the color or shape of the nearest object on one side of a named one. It is one
of four questions about two names and two sides, such that another name alone, or another side
alone, changes the answer: without reading both, no rule is right more than half of the time.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, combinations
from math import sqrt

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
# Two names and two sides (places in RELATIONS), whose four questions are told apart by either.
Square = tuple[tuple[Thing, Thing], tuple[int, int]]
# The order of RELATIONS: along x this side then that, along y this side then that.
_RELATION = tuple(RELATIONS)
_YES_NO = ("no", "yes")
REFERENCES = ("nearest", "plain", "outermost")


class View:
    """A scene prepared for asking: its counts, and what a question about it may concern.

    reference: how a reference is asked, as in `sample_questions`.
    """

    def __init__(self, scene: Scene, combinations: str, reference: str = "nearest") -> None:
        self.things = scene.things
        self.combinations = combinations
        self.reference = reference
        self.colors = Counter([thing.color for thing in scene.things])
        self.shapes = Counter([thing.shape for thing in scene.things])
        self.pairs = Counter([(thing.color, thing.shape) for thing in scene.things])
        # the things that "the red circle" can name
        self.single = [t for t in scene.things if self.pairs[t.color, t.shape] == 1]

    def concerns(self, *things: Thing) -> bool:
        """Whether a question about these things belongs to the view's combinations."""
        if self.combinations == "all":
            return True
        for thing in things:  # any() over a generator takes three times as long
            if (thing.color, thing.shape) in _HELD:
                return self.combinations == "held_out"
        return self.combinations == "train"

    def ask(self, kind: str, rng: Generator) -> Question | None:
        """A question of this kind, or None where the scene cannot carry one."""
        how = self.reference if kind == "reference" else kind
        draft = _ASK[how](self, rng)
        return None if draft is None else Question(kind, *draft)

    @cached_property
    def nearest(self) -> dict[Thing, dict[int, Thing]]:
        """For each thing with a name, the nearest thing on each side (place in RELATIONS).

        A side is left out where a look could doubt its answer. Of all centers that lie to that
        side at all, the nearest must lie there by CLEAR pixels and be nearer than the second by
        CLEAR pixels; distances are from center to center.
        """
        found: dict[Thing, dict[int, Thing]] = {}
        for named in self.single:
            x, y = named.x, named.y
            # equal distances are never asked about, so their order is of no account
            others = sorted(
                [
                    (sqrt((x - t.x) * (x - t.x) + (y - t.y) * (y - t.y)), x - t.x, y - t.y, i)
                    for i, t in enumerate(self.things)
                    if t is not named
                ]
            )
            sides: dict[int, Thing] = {}
            for side, beside in enumerate(
                (
                    [(far, left, i) for far, left, _, i in others if left > 0],
                    [(far, -left, i) for far, left, _, i in others if left < 0],
                    [(far, up, i) for far, _, up, i in others if up > 0],
                    [(far, -up, i) for far, _, up, i in others if up < 0],
                )
            ):
                if not beside or beside[0][1] < CLEAR:
                    continue
                if len(beside) > 1 and beside[1][0] - beside[0][0] < CLEAR:
                    continue
                thing = self.things[beside[0][2]]
                if self.concerns(named, thing):
                    sides[side] = thing
            if sides:
                found[named] = sides
        return found

    @cached_property
    def squares(self) -> dict[str, list[Square]]:
        """The squares of questions for the color and for the shape."""
        found: dict[str, list[Square]] = {"color": [], "shape": []}
        for (one, here), (two, there) in combinations(self.nearest.items(), 2):
            shared = [side for side in here if side in there and here[side] is not there[side]]
            for a, b in combinations(shared, 2):
                four = here[a], there[a], there[b], here[b]  # around the square
                if all(four[i].color != four[i - 1].color for i in range(4)):
                    found["color"].append(((one, two), (a, b)))
                if all(four[i].shape != four[i - 1].shape for i in range(4)):
                    found["shape"].append(((one, two), (a, b)))
        return found


def _existence(view: View, rng: Generator) -> Draft | None:
    """A no names a color and a shape that are both there, but not together."""
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
    """The form first (of a color, of a shape, all), then the count, then what is counted."""
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
    # Few centers fit into the outer cells: where one does, it is asked about.
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


def _nearest(view: View, rng: Generator) -> Draft | None:
    """One of the four questions of a square, of shape three times in four where both can be."""
    asks = [asked for asked in ("color", "shape") if view.squares[asked]]
    if not asks:
        return None
    # squares of shapes are the rarer ones, since there are only four shapes
    asked = asks[rng.random() < 0.75] if len(asks) == 2 else asks[0]
    names, sides = choose(rng, view.squares[asked])
    named, side = choose(rng, names), choose(rng, sides)
    return _ask_nearest(asked, named, side, view.nearest[named][side])


def _plain(view: View, rng: Generator) -> Draft | None:
    """The nearest on any side of any named thing, as long as a look can tell it."""
    found = [(n, side, t) for n, sides in view.nearest.items() for side, t in sides.items()]
    if not found:
        return None
    return _ask_nearest("color" if rng.random() < 0.5 else "shape", *choose(rng, found))


def _ask_nearest(asked: str, named: Thing, side: int, thing: Thing) -> Draft:
    text = f"what {asked} is the nearest object {_RELATION[side]} the {named.name}"
    word = COLOR_NAMES[thing.color] if asked == "color" else SHAPES[thing.shape]
    return text, word, ((text.count(" "), named.cell),)


def _outermost(view: View, rng: Generator) -> Draft | None:
    """The reference of the world as first made: exactly one thing lies on that side of the named
    one, and none too near it to say. That thing is the outermost of the picture.
    """
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
    "nearest": _nearest,
    "plain": _plain,
    "outermost": _outermost,
}


def ask(
    scene: Scene,
    kind: str,
    rng: Generator,
    combinations: str = "train",
    reference: str = "nearest",
) -> Question | None:
    """A question of this kind about the scene, or None where the scene cannot carry one.

    combinations says what the question may concern: "train" (things of no held-out combination,
    and none is named), "held_out" (at least one such thing) or "all". Counting and comparison
    name no combination, so they are asked of all things. reference: as in `sample_questions`.

    Raises UserError for an unknown kind, combinations or reference.
    """
    if kind not in KINDS:
        raise expected("a kind of question: " + ", ".join(KINDS), kind, "choose one of them")
    view = View(scene, check_combinations(combinations), check_reference(reference))
    return view.ask(kind, rng)


def check_reference(reference: str) -> str:
    """How a reference is asked; raises UserError where it is none of REFERENCES."""
    if reference not in REFERENCES:
        raise expected("reference " + " or ".join(REFERENCES), reference, "choose one of them")
    return reference


def sample_questions(
    rng: Generator,
    objects: tuple[int, int] = (1, MOST),
    questions: int = 8,
    kinds: Mapping[str, float] | None = None,
    combinations: str = "train",
    reference: str = "nearest",
) -> tuple[Scene, list[Question]]:
    """A scene and questions about it, their kinds drawn with the given weights (None: equal).

    The number of things is drawn first, then the kinds, then scenes until one carries them all.
    So each number of things is equally frequent, and each kind has its share: what few things
    cannot carry (relation, reference) is asked the more of scenes of many.

    reference says how a reference is asked. "nearest": "what color is the nearest object left of
    the red circle", of four things and more. Few scenes carry such a question, and in those few
    things are alike; so references come several to a picture, and half of the pictures that could
    be asked for one are not: what else is asked of large scenes stays nearly as it is.
    "plain": the same question of three things and more, wherever it is clear. Few scenes must be
    thrown away for it, and rules that leave the name or the side unread are right more often, the
    more so the nearer they come to the right one: good to learn from, no good to be tested by.
    "outermost", as the world was first made: "what color is the object left of the red circle", of
    two things and more, where exactly one thing lies on that side; that thing is the outermost of
    the picture, so the name need not be read.

    Raises UserError for unknown kinds, combinations or reference, and where scenes of this size
    cannot carry the kinds.
    """
    low, high = check_objects(objects)
    weights = tuple((kinds or dict.fromkeys(KINDS, 1.0)).items())
    check_reference(reference)
    count = low + int(rng.random() * (high - low + 1))
    often, referring, other = _kind_tables(weights, (low, high), count, reference)
    if not referring[0] and not other[0]:  # only kinds that need more things: take more
        least = min(_least(kind, reference) for kind, weight in weights if weight > 0)
        count = least + int(rng.random() * (high - least + 1))
        often, referring, other = _kind_tables(weights, (low, high), count, reference)
    refers = often > 0 and rng.random() < often
    names, edges = referring if refers else other
    drawn = [names[_draw(rng, edges)] for _ in range(questions)]
    refers = refers and "reference" in drawn
    for _ in range(1000):
        scene = sample_scene(rng, (count, count), combinations, 4 if refers else 0)
        view = View(scene, combinations, reference)
        if refers and not any(view.squares.values()):
            continue
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


def _least(kind: str, reference: str) -> int:
    """The least number of things that a kind is asked of."""
    if kind == "reference":
        return {"nearest": 4, "plain": 3, "outermost": 2}[reference]
    return 2 if kind == "relation" else 1


# Kinds, and the running sums of their weights.
Table = tuple[tuple[str, ...], tuple[float, ...]]


@lru_cache(maxsize=256)
def _kind_tables(
    weights: tuple[tuple[str, float], ...], objects: tuple[int, int], count: int, reference: str
) -> tuple[float, Table, Table]:
    """How many pictures of `count` things ask for the nearest, and the kinds in them and in others.

    Half do, or more where references are more than half of the questions. Counting is left to the
    other pictures as far as the shares allow: high counts are rare where few things are alike.
    """
    shares = _shares(weights, objects, count, reference)
    share = shares.get("reference", 0.0)
    if reference != "nearest" or not share:
        return 0.0, _table(shares), _table(shares)
    often = max(0.5, share)
    beside = {k: v for k, v in shares.items() if k not in ("reference", "counting")}
    if sum(beside.values()) < often - share:
        beside = {k: v for k, v in shares.items() if k != "reference"}
    scale = (often - share) / (sum(beside.values()) or 1.0)
    asked = {"reference": share} | {kind: value * scale for kind, value in beside.items()}
    rest = {kind: value - asked.get(kind, 0.0) for kind, value in shares.items()}
    return often, _table(asked), _table(rest)


def _table(shares: Mapping[str, float]) -> Table:
    # what rounding leaves of a share is none
    table = {kind: share for kind, share in shares.items() if share > 1e-12}
    return tuple(table), tuple(accumulate(table.values()))


def _shares(
    weights: tuple[tuple[str, float], ...], objects: tuple[int, int], count: int, reference: str
) -> dict[str, float]:
    """The share of each kind in the questions about a scene of `count` things.

    Over all numbers of things in the range, each equally often, the shares are the weights given.
    """
    unknown = [kind for kind, _ in weights if kind not in KINDS]
    if unknown:
        raise expected("kinds among " + ", ".join(KINDS), ", ".join(unknown), "mend the names")
    total = sum(weight for _, weight in weights)
    if total <= 0 or min(weight for _, weight in weights) < 0:
        raise expected("weights of at least 0, not all 0", dict(weights), "mend the weights")
    groups: dict[int, dict[str, float]] = {}
    for kind, weight in weights:
        if weight:
            groups.setdefault(_least(kind, reference), {})[kind] = weight
    room = dict.fromkeys(range(objects[0], objects[1] + 1), 1.0)
    shares: dict[str, float] = {}
    # The kinds that need most things choose first; each then takes as evenly as the room allows.
    for least, group in sorted(groups.items(), reverse=True):
        able = [number for number in room if number >= least]
        if not able:
            raise expected(
                f"{least} objects for {' and '.join(group)}", objects, "allow more objects"
            )
        of_group = sum(group.values())
        level = _level([room[number] for number in able], of_group / total * len(room))
        for number in able:
            taken = min(room[number], level)
            room[number] -= taken
            if number == count:
                shares |= {kind: weight / of_group * taken for kind, weight in group.items()}
    # in the order of the weights given, on which the draws depend
    return {kind: shares[kind] for kind, _ in weights if kind in shares}


def _level(room: Sequence[float], amount: float) -> float:
    """The water level at which vessels of this room hold the amount (all full: infinite)."""
    for i, size in enumerate(ordered := sorted(room)):
        even = amount / (len(ordered) - i)
        if even <= size:
            return even
        amount -= size
    return float("inf")
