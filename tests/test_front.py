"""The front pages: the picture one asks about, the pictures of what one builds, the letters."""

import io
import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from test_figures import Elements

from mmlib.book import asking, figures, front
from mmlib.data.scenes import ANSWERS, COLORS, RELATIONS, SHAPES, Question, Scene, Thing, render
from mmlib.errors import UserError
from mmlib.tasks.small import load_small
from tools import fill_pages, record

ROOT = Path(__file__).resolve().parents[1]


def thing(name: str, x: int, y: int, size: int = 0) -> Thing:
    color, shape = name.split()
    return Thing(list(COLORS).index(color), SHAPES.index(shape), size, x, y)


def scene(*things: Thing) -> Scene:
    return Scene(things, 235)


# --- at a glance: the rule by which a scene is shown ----------------------------------------------

LEFT = "what color is the nearest object left of the red circle"
PLAIN = (thing("red circle", 40, 32), thing("blue square", 16, 32), thing("green star", 40, 10))


def test_a_plain_reference_gives_what_it_names_and_what_answers_it():
    assert asking.at_a_glance(scene(*PLAIN), LEFT) == (PLAIN[0], PLAIN[1])
    older = LEFT.replace("nearest ", "")
    assert asking.at_a_glance(scene(*PLAIN), older) == (PLAIN[0], PLAIN[1])


@pytest.mark.parametrize(
    "things, text, why",
    [
        (PLAIN[1:], LEFT, "the named thing is not there"),
        ((*PLAIN, thing("red circle", 56, 56)), LEFT, "it is there twice"),
        ((PLAIN[0], thing("blue square", 16, 10)), LEFT, "more above than left"),
        ((PLAIN[0], PLAIN[1], thing("green star", 17, 46)), LEFT, "two are about as near"),
        ((PLAIN[0], PLAIN[2]), LEFT, "nothing is on that side"),
        (
            (*PLAIN, thing("gray star", 56, 56), thing("cyan square", 8, 56)),
            LEFT,
            "more things than one takes in",
        ),
        (PLAIN, "what color is the square", "no reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_plain_is_passed_over(things, text, why):
    assert asking.at_a_glance(scene(*things), text) is None, why


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_bound_on_the_direction_is_thirty_degrees_on_every_side(relation):
    for degrees, plain in ((0, True), (28, True), (32, False), (60, False)):
        ahead, aside = (22 * f(math.radians(degrees)) for f in (math.cos, math.sin))
        x, y = {"left of": (-ahead, aside), "right of": (ahead, -aside),
                "above": (aside, -ahead), "below": (-aside, ahead)}[relation]  # fmt: skip
        at = scene(thing("red circle", 32, 32), thing("blue square", round(32 + x), round(32 + y)))
        text = f"what color is the nearest object {relation} the red circle"
        assert (asking.at_a_glance(at, text) is not None) == plain, (relation, degrees)


# --- the record's choice --------------------------------------------------------------------------


def probabilities(word: str, margin: float) -> torch.Tensor:
    """A model that is so much surer of a word than of the next best."""
    values = torch.zeros(len(ANSWERS))
    values[ANSWERS.index(word)] = 0.5 + margin / 2
    values[ANSWERS.index("gray")] = 0.5 - margin / 2
    return values


def test_the_front_picture_is_the_first_that_is_plain_and_surely_right():
    chosen = record.load("front")
    crooked = scene(PLAIN[0], thing("blue square", 16, 10))
    good = [scene(*PLAIN), scene(*(replace(t, y=t.y + 1) for t in PLAIN)),
            scene(*(replace(t, y=t.y + 2) for t in PLAIN))]  # fmt: skip
    judged = {
        good[0]: probabilities("green", 0.9),  # wrong
        good[1]: probabilities("blue", chosen.MARGIN - 0.1),  # right, but hardly
        good[2]: probabilities("blue", chosen.MARGIN + 0.1),
    }
    stream = [(at, Question("reference", LEFT, "blue", ())) for at in (crooked, *good)]
    found, question, passed = chosen.choose(iter(stream), lambda at, question: judged[at])
    assert found is good[2] and question.text == LEFT
    assert passed == {"not_at_a_glance": 1, "wrong": 1, "unsure": 1}
    with pytest.raises(RuntimeError, match="keeps to the rule"):
        chosen.choose(iter(stream[:3]), lambda at, question: judged[at])


@pytest.mark.parametrize("reference, least", [("nearest", 4), ("outermost", 3)])
def test_the_front_picture_is_sought_among_scenes_of_few_things(reference, least):
    stream = record.load("front").asked(reference)
    drawn = [next(stream) for _ in range(20)]
    assert {len(at.things) for at, _ in drawn} <= set(range(least, asking.MOST + 1))
    assert all(("nearest" in question.text) == (reference == "nearest") for _, question in drawn)


def test_the_caption_says_what_to_see_and_the_record_how_it_was_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(fill_pages, "RESULTS", tmp_path)
    shown = {
        "alt": "A scene.", "question": LEFT, "answer": "blue", "truth": "blue",
        "named": "red circle", "passed_over": {"not_at_a_glance": 9, "wrong": 2, "unsure": 1},
    }  # fmt: skip
    (tmp_path / "front.json").write_text(json.dumps(shown))
    caption = fill_pages.front_block()
    assert "which is right" in caption and "frame marks the red circle" in caption
    told = fill_pages.front_choice(shown)
    assert "Before it 3 pictures" in told and "and 9 because" in told
    (tmp_path / "front.json").write_text(json.dumps(shown | {"answer": "gray"}))
    assert "which is wrong" in fill_pages.front_block()


# --- the picture that the reader asks about -------------------------------------------------------


@pytest.fixture(scope="module")
def front_scene() -> tuple[Scene, Thing]:
    at = asking.scene_of(asking.SEED)
    moves = asking.to_move(at, asking.SIDE, asking.NAME)
    assert moves is not None, "the scene of the front page does not keep to its rule"
    return at, moves


@pytest.fixture(scope="module")
def page(front_scene) -> str:
    return asking.picture_question(*front_scene, asking.SIDE, asking.NAME)


def by_hand(things: list[tuple[int, int]], side: str, named: int) -> str:
    """The rule of the world, written anew: nearest center on the side, by four pixels or unsure.

    Where it is unsure, a letter for the rivals: A and one for thing 0, two for thing 1, …
    """
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[side]
    here = things[named]
    beside = sorted(
        (math.dist(at, here), n)
        for n, at in enumerate(things)
        if sign * (at[axis] - here[axis]) > 0
    )
    if not beside:
        return "-"
    least, first = beside[0]
    close = [n for distance, n in beside if distance - least < 4]
    if len(close) == 1 and sign * (things[first][axis] - here[axis]) >= 4:
        return str(first)
    return "ABCDEFGH"[sum(2**n for n in close)]


def test_every_answer_of_the_page_is_that_of_the_picture(page):
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    at = [tuple(p) for p in data["at"]]
    expected = ""
    for place in data["places"]:
        things = [tuple(place) if n == data["moves"] else p for n, p in enumerate(at)]
        expected += "".join(
            by_hand(things, side, n) for n in range(len(things)) for side in data["sides"]
        )
    assert data["answers"] == expected
    assert data["places"][data["start"]] == list(at[data["moves"]])


def test_neither_the_words_nor_the_picture_hold_the_answer(front_scene):
    """What the page says of itself: each of the two alone leaves more than one answer."""
    at, moves = front_scene
    replies = {asking.reply(s, asking.SIDE, asking.NAME) for s in asking.moved(at, moves)}
    assert sum(map(str.isdigit, replies)) == 2
    first, second = asking.at_a_glance(at, asking.question(asking.SIDE, asking.NAME))
    between = [
        s
        for (x, y), s in zip(asking.places(at, moves), asking.moved(at, moves), strict=True)
        if math.dist((x, y), ((first.x + second.x) / 2, (first.y + second.y) / 2)) < 8
    ]  # where the page tells the reader to move it
    own = str(at.things.index(moves))
    assert between
    assert all(asking.reply(s, asking.SIDE, asking.NAME) == own for s in between)


def test_most_questions_about_the_first_picture_have_an_answer(front_scene):
    """Of three things one lies outermost on each side; every other question is plain."""
    at, _ = front_scene
    replies = [asking.reply(at, side, t.name) for t in at.things for side in RELATIONS]
    assert sum(map(str.isdigit, replies)) == 8 and replies.count(asking.NOBODY) == 4
    assert {r for r in replies if r.isdigit()} == {"0", "1", "2"}


def test_a_doubtful_thing_is_doubtful_whatever_else_is_there():
    """The star, three pixels higher than the triangle, is never simply not above it."""
    triangle, star = thing("purple triangle", 9, 48), thing("green star", 43, 45)
    alone = scene(triangle, star, thing("orange circle", 57, 57))
    beside = scene(triangle, star, thing("orange circle", 15, 17))
    assert asking.rivals(alone, "above", "purple triangle") == [1]
    assert asking.rivals(beside, "above", "purple triangle") == [1, 2]
    assert asking.reply(alone, "above", "purple triangle") == "C"
    assert asking.reply(beside, "above", "purple triangle") == "G"
    assert asking.reply(alone, "above", "green star") == asking.NOBODY


def test_the_thing_moves_to_every_column_and_touches_nothing(front_scene):
    at, moves = front_scene
    free = asking.places(at, moves)
    assert (moves.x, moves.y) in free
    for x, y in free:
        for other in at.things:
            gap = math.dist((x, y), (other.x, other.y)) - moves.radius - other.radius
            assert other == moves or gap > 2
    for column in (0, 1):  # a slider's place that no center had would move the other slider far
        values = sorted({place[column] for place in free})
        assert {b - a for a, b in zip(values, values[1:], strict=False)} == {asking.STEP}


def test_the_first_state_stands_without_a_script(page, front_scene):
    at = front_scene[0]
    elements = Elements(page.replace("<polygon", "<circle").replace("</polygon>", ""))
    svg = elements.of("svg")[0]
    assert svg["role"] == "img"
    found = asking.at_a_glance(at, asking.question(asking.SIDE, asking.NAME))[1]
    assert f'<b data-part="answer">{found.name.split()[0]}</b>' in page
    assert f"{asking.SIDE} the {asking.NAME}</span>" in page
    assert all(f"{t.name} at {t.x} across and {t.y} down" in svg["aria-label"] for t in at.things)
    assert all(select["aria-label"] for select in elements.of("select"))
    assert "\n\n" not in page, "Markdown would end the HTML there"


def test_the_question_stands_first_and_the_answer_is_folded(page):
    """For eyes, for the keyboard and for a screen reader: it is no part of the picture's name."""
    order = [page.index(part) for part in ("mm-ask-question", "<svg", "<details>", "<output>")]
    assert order == sorted(order)
    folded = re.search(r"<details><summary>Show the answer</summary>(.*?)</details>", page)[1]
    assert folded.startswith("<output>") and folded.endswith("</output>")
    assert "nearest" not in re.search(r'aria-label="(A picture[^"]*)"', page)[1]


def test_the_answer_is_asked_for_and_the_thing_goes_back_to_its_row(page, tmp_path):
    """By the keyboard, in a browser: the answer unfolds, and what is blocked comes back."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if not (browser and (ROOT / "tools/node_modules/playwright-core").exists()):
        pytest.skip("no Chromium")
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    x, y = data["places"][data["start"]]
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><meta charset=utf-8>{page}", "utf8")
    left = [["ArrowLeft"]] * ((x - 6) // asking.STEP)
    steps = [{"figure": 0, "input": 1, "keys": keys} for keys in left]
    steps += [{"figure": 0, "input": "summary", "keys": ["Enter"]}]
    done = subprocess.run(
        ["node", "tools/operate.mjs", str(file), json.dumps(steps)],
        cwd=ROOT, env={**os.environ, "BROWSER": browser}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    places = [tuple(map(int, state["moves"])) for state in result["seen"]]
    wanted = [tuple(map(int, state["wanted"])) for state in result["seen"]]
    blocked = [state["blocked"] for state in result["seen"]]
    assert wanted[:-1] == [(x - asking.STEP * n, y) for n in range(1, len(left) + 1)]
    assert blocked == [place != want for place, want in zip(places, wanted, strict=True)]
    assert any(blocked), "something is in the way of that row"
    assert not blocked[-1] and places[-1][1] == y, "it does not come back to its row"
    before, after = result["seen"][-2:]
    assert "nearest" not in before["alt"] and "words pick out" in after["alt"]


def test_a_picture_that_cannot_be_asked_about_is_refused():
    two = scene(thing("red circle", 40, 32), thing("red star", 16, 32))
    with pytest.raises(UserError, match="different colors"):
        asking.picture_question(two, two.things[1], "left of", "red circle")
    with pytest.raises(UserError, match="with an answer"):
        asking.picture_question(scene(*PLAIN), PLAIN[2], "right of", "red circle")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_drawn_as_the_world_draws_it(shape):
    """Its corners lie on the picture's pixels that are not ground."""
    own = thing(f"blue {shape}", 32, 32, size=1)
    ink = np.abs(render(scene(own)).astype(int) - 235).sum(-1) > 30
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", asking.outline(own))
    assert (shape == "circle") == (not points)
    for x, y in points:
        column, row = (round(32 + 0.85 * float(v)) for v in (x, y))
        assert ink[row, column], (x, y)


# --- the pictures of what one builds --------------------------------------------------------------


def test_the_pictures_of_the_page_are_those_that_the_code_draws():
    """Where they are not, run python tools/pictures.py."""
    result = json.loads((ROOT / "book" / "results" / "pomology.json").read_text("utf8"))
    for name, (figure, alt) in front.drawn(result).items():
        with Image.open(ROOT / "book" / "_static" / f"build_{name}.png") as kept:
            old = np.asarray(kept.convert("RGB"), dtype=float)
        drawn = Image.open(io.BytesIO(figures.png_bytes(figure))).convert("RGB")
        new = np.asarray(drawn, dtype=float)
        assert new.shape == old.shape, name
        assert np.abs(new - old).mean() < 1, f"{name} is drawn otherwise now"
        assert alt in (ROOT / "book" / "index.md").read_text("utf8"), name
    plt.close("all")


def test_the_page_says_of_the_table_what_its_record_says(monkeypatch):
    """Where the words helped, the card would not say that they add nothing."""
    load = fill_pages.load
    assert "add nothing that we can tell" in fill_pages.build_block()
    gains = {"only_image": {"mean": 0.05, "low": 0.01, "high": 0.09}}
    changed = load("pomology") | {"gain_over": gains}
    monkeypatch.setattr(
        fill_pages, "load", lambda name: changed if name == "pomology" else load(name)
    )
    assert "Here the names help" in fill_pages.build_block()


def test_the_size_that_the_pages_name_is_that_of_the_package():
    needs = json.loads((ROOT / "book" / "results" / "needs.json").read_text("utf8"))
    small = load_small().model
    assert needs["model"]["parameters"] == sum(p.numel() for p in small.parameters())
    assert needs["model"]["answers"] == len(ANSWERS)
    disk = needs["disk"]
    assert 0 < disk["site"] < disk["without_cuda"] <= disk["with_cuda"]


def test_the_cells_of_a_color_hold_its_pixels():
    ink = front.of_color(scene(thing("blue square", 32, 32, size=1)), "blue")
    assert 0.5 < ink.max() <= 1 and 100 < 64 * ink.sum() < 200  # about 12 by 12 pixels
    assert front.of_color(scene(thing("red square", 32, 32)), "blue").sum() == 0


def test_the_word_attends_to_the_cells_of_its_color(front_scene):
    alt = front.attend(front_scene[0], asking.SIDE, asking.NAME)[1]
    plt.close("all")
    assert int(re.search(r"get (\d+) %", alt)[1]) > 90


# --- notation: each letter once, in the chapter that brings it ------------------------------------

NOTATION = ROOT / "book" / "notation.md"


def tables() -> dict[str, list[list[str]]]:
    """{heading of book/notation.md: rows of its table, as cells}."""
    found: dict[str, list[list[str]]] = {}
    for part in re.split(r"^## ", NOTATION.read_text("utf8"), flags=re.MULTILINE)[1:]:
        rows = [line.strip("|").split(" | ") for line in part.splitlines() if line[:3] == "| $"]
        found[part.splitlines()[0]] = [[cell.strip(" |") for cell in row] for row in rows]
    return found


def letters(cell: str) -> list[str]:
    """The letters that the first cell of a row names."""
    return re.findall(r"\$([^$]+)\$", cell)


def chapters() -> dict[int, list[str]]:
    """{chapter: the letters it brings}."""
    return {
        int(found[1]): [letter for row in rows for letter in letters(row[0])]
        for heading, rows in tables().items()
        if (found := re.match(r"From chapter (\d+)", heading))
    }


def second_meanings() -> dict[str, list[int]]:
    """{letter: chapters in which it means something else}."""
    return {
        letter: [int(n) for n in re.findall(r"\d", row[1])]
        for row in tables()["Letters with a second meaning"]
        for letter in letters(row[0])
    }


def sources(chapter: int, kind: str) -> str:
    """All cells of a chapter that are of one kind."""
    (path,) = (ROOT / "notebooks").glob(f"{chapter:02}_*.ipynb")
    cells = json.loads(path.read_text("utf8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == kind)


def mathematics(chapter: int) -> str:
    """The formulas of a chapter's prose."""
    text = sources(chapter, "markdown")
    pairs = re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text, re.DOTALL)
    return "\n".join(displayed or inline for displayed, inline in pairs)


def shapes(chapter: int) -> str:
    """What stands in square brackets in its text and code: shapes, among other things."""
    text = sources(chapter, "markdown") + sources(chapter, "code")
    return "\n".join(re.findall(r"\[[\w, /]+\]", text))


def uses(text: str, letter: str) -> bool:
    """Whether a letter stands in a text by itself, not as a part of another or under it."""
    if letter.startswith("p("):
        return "p(y" in text.replace(r"\big", "")
    text = re.sub(r"\\(?:mathrm|operatorname\*?|text)\{[^}]*\}|\\tag\{[^}]*\}", " ", text)
    return bool(re.search(rf"(?<![\\\w]){re.escape(letter)}(?![\w(])", text))


def test_notation_names_each_letter_once():
    named = [letter for own in chapters().values() for letter in own]
    assert len(named) > 25
    assert not {letter for letter in named if named.count(letter) > 1}


def test_notation_grows_with_the_chapters():
    order = list(chapters())
    assert order == sorted(order) and order[0] == 3
    headings = list(tables())
    assert headings.index("Letters with a second meaning") > headings.index(
        next(h for h in headings if h.startswith(f"From chapter {order[-1]}"))
    )


def test_second_meanings_are_of_letters_that_have_a_first():
    named = {letter for own in chapters().values() for letter in own}
    assert set(second_meanings()) <= named


@pytest.mark.parametrize("chapter", chapters())
def test_a_chapter_uses_the_letters_that_it_brings_and_no_earlier_one_does(chapter):
    brought = chapters()[chapter]
    own = mathematics(chapter) + "\n" + shapes(chapter)
    assert not [letter for letter in brought if not uses(own, letter)], "not in this chapter"
    earlier = [n for n in range(3, chapter)]
    told = second_meanings()
    early = [
        (letter, n)
        for letter in brought
        for n in earlier
        if n not in told.get(letter, []) and uses(mathematics(n), letter)
    ]
    assert not early, "used before the chapter that brings it, and no second meaning is told"


def test_a_row_of_notation_has_a_shape_and_a_sentence():
    for heading, rows in tables().items():
        for row in rows:
            assert len(row) == 3 and row[2].endswith("."), (heading, row)
