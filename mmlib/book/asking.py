"""A picture that the reader asks about: one object to move, a name and a side to change.

The page computes nothing: the oracle of the generated world answers every question about every
place beforehand, and the script looks the answer up.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mmlib.data.scenes import (
    COLORS,
    PIXELS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    sample_scene,
)
from mmlib.data.scenes.controls import answer_or_none
from mmlib.data.scenes.world import CLEAR, COLOR_NAMES, corners
from mmlib.errors import expected

MOST = 4  # objects of a picture that is taken in at one look
DEGREES = 30  # between straight to the side and the way to the answer
STEP = 3  # pixels from one place of the object that moves to the next
NOBODY = "-"  # nothing lies on that side
# The front page's scene and its first question: the least seed whose scene keeps to `to_move`.
SEED, SIDE, NAME = 43, "below", "purple star"
_AXES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_REFERENCE = re.compile(
    rf"what (?:color|shape) is the (?:nearest )?object ({'|'.join(RELATIONS)}) the (\w+ \w+)"
)


def at_a_glance(scene: Scene, text: str) -> tuple[Thing, Thing] | None:
    """The thing that a reference names and the thing that answers it, where one look is enough.

    One look is enough where all of this holds: the picture has at most MOST things; the oracle
    has an answer, so the named thing is there, and once; the way from its center to that of the
    answer is within DEGREES degrees of straight left, right, up or down, as the text says. Else,
    and for a text that is no reference, None.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or len(scene.things) > MOST or answer_or_none(scene, text) is None:
        return None
    relation, name = match.groups()
    (named,) = [thing for thing in scene.things if thing.name == name]
    found = _nearest(scene, named, relation)
    ahead, aside = _along(named, found, relation)
    return (named, found) if math.degrees(math.atan2(abs(aside), ahead)) <= DEGREES else None


def _along(named: Thing, other: Thing, relation: str) -> tuple[int, int]:
    """How far the other's center lies to that side of the named one's, and how far aside."""
    x, y = _AXES[relation]
    right, down = other.x - named.x, other.y - named.y
    return x * right + y * down, y * right + x * down


def _nearest(scene: Scene, named: Thing, relation: str) -> Thing:
    """The nearest thing whose center lies to that side; the oracle has said that there is one."""
    beside = [thing for thing in scene.things if _along(named, thing, relation)[0] > 0]
    return min(beside, key=lambda thing: math.dist((thing.x, thing.y), (named.x, named.y)))


def question(relation: str, name: str) -> str:
    """The question for the color of the nearest object on that side of the named one."""
    return f"what color is the nearest object {relation} the {name}"


def places(scene: Scene, moves: Thing) -> list[tuple[int, int]]:
    """The centers, STEP pixels apart, at which a thing of the scene touches no other one."""
    others = [thing for thing in scene.things if thing != moves]
    reach = moves.radius

    def steps(start: int) -> range:
        return range(reach + (start - reach) % STEP, PIXELS - reach, STEP)

    def free(x: int, y: int) -> bool:
        return all(
            math.dist((x, y), (other.x, other.y)) > reach + other.radius + 2 for other in others
        )

    return [(x, y) for y in steps(moves.y) for x in steps(moves.x) if free(x, y)]


def scene_of(seed: int) -> Scene:
    """The scene of three things that a seed gives."""
    return sample_scene(np.random.default_rng(seed), (3, 3))


def to_move(scene: Scene, relation: str, name: str) -> Thing | None:
    """The circle to be moved where the scene shows at one look what a question asks, else None.

    No two things are alike in color or shape. As many questions as can be have an answer: on each
    side only the outermost thing has nothing beside it, and nothing is too close to call. What is
    named and what answers are plain `at_a_glance`; the third thing is a circle, and at a fifth of
    its places or more it answers instead.
    """
    colors, shapes = ({getattr(t, k) for t in scene.things} for k in ("color", "shape"))
    if not len(colors) == len(shapes) == len(scene.things):
        return None
    replies = [reply(scene, side, thing.name) for side in RELATIONS for thing in scene.things]
    if sum(map(str.isdigit, replies)) < len(RELATIONS) * (len(scene.things) - 1):
        return None
    plain = at_a_glance(scene, question(relation, name))
    others = [thing for thing in scene.things if thing not in (plain or ())]
    if plain is None or [SHAPES[thing.shape] for thing in others] != ["circle"]:
        return None
    own = str(scene.things.index(others[0]))
    replies = [reply(at, relation, name) for at in moved(scene, others[0])]
    return others[0] if replies.count(own) * 5 >= len(replies) else None


def moved(scene: Scene, moves: Thing) -> Iterator[Scene]:
    """The scene with a thing at each of its `places`."""
    for x, y in places(scene, moves):
        at = replace(moves, x=x, y=y)
        yield replace(scene, things=tuple(at if t == moves else t for t in scene.things))


def reply(scene: Scene, relation: str, name: str) -> str:
    """One sign: the number of the thing that answers, NOBODY, or a letter for `rivals`.

    The scene's colors all differ, so the oracle's color names a thing.
    """
    color = answer_or_none(scene, question(relation, name))
    if color is not None:
        return str([COLOR_NAMES[thing.color] for thing in scene.things].index(color))
    close = rivals(scene, relation, name)
    return chr(ord("A") + sum(1 << number for number in close)) if close else NOBODY


def rivals(scene: Scene, relation: str, name: str) -> list[int]:
    """The numbers of the things on that side of which none is nearer than another by CLEAR pixels.

    One alone that is not the answer lies barely on that side.
    """
    (named,) = [thing for thing in scene.things if thing.name == name]
    far = {
        number: math.dist((thing.x, thing.y), (named.x, named.y))
        for number, thing in enumerate(scene.things)
        if _along(named, thing, relation)[0] > 0
    }
    return [number for number in far if far[number] < min(far.values()) + CLEAR]


def answers(scene: Scene, moves: Thing) -> str:
    """The reply to each question at each place: a sign for each, by place, name and side."""
    return "".join(
        reply(at, relation, thing.name)
        for at in moved(scene, moves)
        for thing in scene.things
        for relation in RELATIONS
    )


_SCRIPT = """
document.querySelectorAll('[data-mm="KEY"]:not([data-ready])').forEach((root) => {
  root.dataset.ready = '1';
  const d = JSON.parse(root.querySelector('script').textContent);
  const part = (name) => root.querySelector('[data-part="' + name + '"]');
  const [down, across] = root.querySelectorAll('input'), svg = root.querySelector('svg');
  const put = (node, at) => Object.keys(at).forEach((k) => node.setAttribute(k, at[k]));
  const asked = root.querySelector('details'), moves = part('moves');
  let place = d.start, want = d.places[place];  // where it is, and where the reader wants it
  const free = ([x, y]) => {  // the free place that is nearest to a wanted one
    let best = 0, least = Infinity;
    d.places.forEach(([a, b], k) => {
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least) { least = far; best = k; }
    });
    return best;
  };
  const show = () => {
    const at = d.at.map((p, k) => k === d.moves ? d.places[place] : p);
    const name = +part('name').value, side = +part('side').value;
    const reply = d.answers[(place * d.names.length + name) * d.sides.length + side];
    const found = d.names[reply], [x, y] = at[name], to = found ? at[reply] : at[name];
    const rivals = d.names.filter((_, k) => (reply.charCodeAt() - 65) >> k & 1);
    const [says, why] = found ? [found.split(' ')[0], d.why]
      : d.none[reply === '-' ? 0 : Math.min(rivals.length, 2)];
    const words = [d.sides[side], d.names[name], found ?? rivals.join(' or the '), d.beside[side]];
    put(moves, {transform: 'translate(' + at[d.moves] + ')'});
    put(part('named'), {cx: x, cy: y, r: d.rings[name]});
    put(part('found'), {cx: to[0], cy: to[1], r: found ? d.rings[reply] : 0});
    const far = Math.hypot(to[0] - x, to[1] - y) || 1, cut = (k) => d.rings[k] / far;
    const along = (share) => [0, 1].map((n) => at[name][n] + share * (to[n] - at[name][n]));
    const [a, b] = found ? [along(cut(name)), along(1 - cut(reply))] : [[x, y], [x, y]];
    put(part('way'), {x1: a[0], y1: a[1], x2: b[0], y2: b[1]});
    part('answer').textContent = says;
    part('why').textContent = why.replace(/\\{(\\d)\\}/g, (_, k) => words[k]);
    asked.querySelector('summary').textContent = d.summary[+asked.open];
    const each = d.names.map((n, k) => n + ' at ' + at[k][0] + ' across and ' + at[k][1] + ' down');
    put(svg, {'aria-label': d.shows + each.join(', ') + '.'
      + (asked.open ? ' ' + part('why').textContent : '')});
    const blocked = '' + want !== '' + d.places[place];
    const seen = blocked ? 'visible' : 'hidden';
    put(part('wanted'), {transform: 'translate(' + want + ')', visibility: seen});
    [[across, 'from the left'], [down, 'from the top']].forEach(([range, from], n) => {
      range.value = want[n];
      range.setAttribute('aria-valuetext', want[n] + ' of ' + d.pixels + ' ' + from
        + (blocked ? '; something is in the way, it waits at ' + d.places[place][n] : ''));
    });
  };
  const go = (to) => { want = to; place = free(to); show(); };
  across.oninput = () => go([+across.value, want[1]]);
  down.oninput = () => go([want[0], +down.value]);
  part('name').onchange = part('side').onchange = asked.ontoggle = show;
  let grip = [0, 0];  // from the finger to the middle of what it holds
  const pointed = (event) => {
    const box = svg.getBoundingClientRect(), unit = d.pixels / box.width;
    return [(event.clientX - box.left) * unit, (event.clientY - box.top) * unit];
  };
  moves.onpointerdown = (event) => {
    moves.setPointerCapture(event.pointerId);
    event.preventDefault();
    grip = pointed(event).map((at, n) => d.places[place][n] - at);
  };
  moves.onpointermove = (event) => {
    if (!moves.hasPointerCapture(event.pointerId)) return;
    go(pointed(event).map((at, n) => {
      const {min, max, step} = [across, down][n], steps = Math.round((at + grip[n] - min) / step);
      return Math.min(+max, Math.max(+min, +min + steps * step));
    }));
  };
  moves.onpointerup = moves.onpointercancel = () => go(d.places[place]);
  // or the page would scroll under the finger: touch-action has no effect on a part of an SVG
  moves.addEventListener('touchstart', (event) => event.preventDefault(), {passive: false});
  root.querySelectorAll('[hidden]').forEach((node) => { node.hidden = false; });
  part('static').hidden = true;
  root.querySelectorAll('select').forEach((select) => {
    select.selectedIndex = [...select.options].findIndex((option) => option.defaultSelected);
  });
  show();
});
"""
_BESIDE = {
    "left of": "on its left", "right of": "on its right",
    "above": "above it", "below": "below it",
}  # fmt: skip
_WHY = "The words pick out the {1}. The picture shows what is nearest {3}: the {2}."
_NONE = (  # by how many things rival
    ("nothing", "The words pick out the {1}. The picture shows nothing {3}."),
    ("too close to call", "The words pick out the {1}. The {2} lies barely {3}."),
    (
        "too close to call",
        "The words pick out the {1}. Nearest {3} is the {2}: they are about as far away.",
    ),
)
_SUMMARY = ("Show the answer", "Hide the answer")


def picture_question(scene: Scene, moves: Thing, relation: str, name: str) -> str:
    """HTML: a question whose side and name the reader chooses, the scene, and the answer, folded.

    moves is the thing that the reader drags, or moves by two sliders; relation and name are of the
    question that is asked first, which must have an answer.

    Raises UserError where two things have one color, or the first question has no answer.
    """
    names = [thing.name for thing in scene.things]
    if len({thing.color for thing in scene.things}) < len(names):
        raise expected("things of different colors", ", ".join(names), "take another scene")
    first = reply(scene, relation, name)
    if not first.isdigit():
        raise expected("a first question with an answer", question(relation, name), "ask another")
    free = places(scene, moves)
    sides = list(RELATIONS)
    rings = [thing.radius + 1 for thing in scene.things]
    shows = f"A picture, {PIXELS} across and {PIXELS} down: "
    each = [f"{thing.name} at {thing.x} across and {thing.y} down" for thing in scene.things]
    data = json.dumps(
        {
            "at": [[thing.x, thing.y] for thing in scene.things],
            "names": names,
            "sides": sides,
            "beside": [_BESIDE[side] for side in sides],
            "moves": scene.things.index(moves),
            "places": free,
            "start": free.index((moves.x, moves.y)),
            "answers": answers(scene, moves),
            "rings": rings,
            "pixels": PIXELS,
            "why": _WHY,
            "none": _NONE,
            "shows": shows,
            "summary": _SUMMARY,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    named, found = scene.things[names.index(name)], scene.things[int(first)]
    why = _fill(_WHY, relation, name, found.name)
    inside = (
        '<p class="mm-ask-question">What color is the nearest object '
        f'<span data-part="static">{relation} the {name}</span><span hidden>'
        f"{_choice('side', 'side', sides, sides.index(relation))} the "
        f"{_choice('name', 'name', names, names.index(name))}</span>?</p>"
        + _drawing(scene, moves, named, found, f"{shows}{', '.join(each)}.")
        + f'<div class="mm-ask-rest"><details><summary>{_SUMMARY[0]}</summary>'
        f'<output><b data-part="answer">{COLOR_NAMES[found.color]}</b> '
        f'<span data-part="why">{html.escape(why)}</span></output></details>'
        f'<div hidden class="mm-ask-move">Move the {moves.name}: drag it, or use the sliders. '
        "A thin outline shows where you want it while something is in the way."
        f"{_slider('down', [y for _, y in free], moves.y)}"
        f"{_slider('across', [x for x, _ in free], moves.x)}</div></div>"
    )
    key = hashlib.sha256(data.encode()).hexdigest()[:10]
    data = data.replace("</", "<\\/")  # or it would end the element
    return (
        f'<div data-mm="{key}" class="mm-ask">{inside}'
        f'<script type="application/json">{data}</script></div>'
        f"<script>{_SCRIPT.replace('KEY', key)}</script>"
    )


def _fill(text: str, *words: str) -> str:
    """The sentence of a state as the page's script writes it: side, name, what was found."""
    return text.format(*words, _BESIDE[words[0]])


def _choice(part: str, label: str, options: list[str], at: int) -> str:
    inside = "".join(
        f'<option value="{n}"{" selected" if n == at else ""}>{html.escape(option)}</option>'
        for n, option in enumerate(options)
    )
    return f'<select data-part="{part}" aria-label="{label}" autocomplete="off">{inside}</select>'


def _slider(name: str, values: list[int], at: int) -> str:
    return (
        f'<label><span>{name}</span><input type="range" min="{min(values)}" max="{max(values)}" '
        f'step="{STEP}" value="{at}" autocomplete="off"></label>'
    )


def outline(thing: Thing) -> str:
    """The shape of a thing about (0, 0) as SVG, one unit a pixel of the picture."""
    color = "#{:02x}{:02x}{:02x}".format(*COLORS[COLOR_NAMES[thing.color]])
    if SHAPES[thing.shape] == "circle":
        return f'<circle r="{thing.radius}" fill="{color}"/>'
    points = " ".join(f"{x / 3:.2f},{y / 3:.2f}" for x, y in corners(thing.shape, 3 * thing.radius))
    return f'<polygon points="{points}" fill="{color}"/>'


def _drawing(scene: Scene, moves: Thing, named: Thing, found: Thing, alt: str) -> str:
    """The scene; a ring around what is named, another around the answer, a line between.

    The stylesheet hides rings and line until the answer is asked for. An outline shows where the
    thing that moves is wanted and cannot be.
    """
    ground = f"rgb({scene.ground},{scene.ground},{scene.ground})"
    far = math.dist((named.x, named.y), (found.x, found.y))
    step = ((found.x - named.x) / far, (found.y - named.y) / far)
    start, end = named.radius + 1, far - found.radius - 1
    part = {moves: 'data-part="moves" '}
    shapes = "".join(
        f'<g {part.get(thing, "")}transform="translate({thing.x},{thing.y})">{outline(thing)}</g>'
        for thing in scene.things
    )
    return (
        f'<svg viewBox="0 0 {PIXELS} {PIXELS}" role="img" aria-label="{html.escape(alt)}">'
        f'<rect width="{PIXELS}" height="{PIXELS}" fill="{ground}"/>'
        f'<line data-part="way" x1="{named.x + start * step[0]:.2f}" '
        f'y1="{named.y + start * step[1]:.2f}" x2="{named.x + end * step[0]:.2f}" '
        f'y2="{named.y + end * step[1]:.2f}"/>{shapes}'
        f'<g data-part="wanted" visibility="hidden">{outline(moves)}</g>'
        f'<circle data-part="named" cx="{named.x}" cy="{named.y}" r="{named.radius + 1}"/>'
        f'<circle data-part="found" cx="{found.x}" cy="{found.y}" r="{found.radius + 1}"/></svg>'
    )
