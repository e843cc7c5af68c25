"""The floors that VOICE sets: each can fail, and the chapters that were rewritten keep to all."""

from pathlib import Path

import nbformat
import pytest
import voice
from voice import FLOORS, Cell

ROOT = Path(__file__).parents[1]
CHAPTERS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# The chapters that keep to VOICE already; the others are only measured.
REWRITTEN: tuple[str, ...] = (
    "03_attention", "04_fusion", "05_objectives", "06_multimodal_bert", "07_training",
    "08_generation",
    "09_evaluation",
)  # fmt: skip

PNG = {"image/png": "…"}
HTML = {"text/html": '<div class="mm-figure">'}
STUB = '''
from mmlib.book.exercises import check


def attend(scores):
    """Weights of the scores.

    [L] → [L], and they sum to one.
    """
    ...


check("3.A", attend)'''
SOLUTION = """\
#@title Solution of 3.A
def attend(scores):
    return scores.softmax(-1)


check("3.A", attend)"""


def read(chapter: str) -> list[Cell]:
    return nbformat.read(CHAPTERS[chapter], 4).cells


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor.__name__)
@pytest.mark.parametrize("chapter", REWRITTEN)
def test_a_rewritten_chapter_keeps_to_the_floor(chapter, floor):
    assert floor(read(chapter)) == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_each_chapter_can_be_measured(chapter, record_property):
    cells = read(chapter)
    assert len(voice.core(cells)) < len(cells), "no heading ## Exercises ends the core"
    below = {floor.__name__: len(floor(cells)) for floor in FLOORS}
    print(chapter, f"{voice.words(cells)} words", {k: v for k, v in below.items() if v})
    record_property("words of the core", voice.words(cells))


def test_exceptions_are_cells_that_exist():
    known = {cell["id"] for chapter in CHAPTERS for cell in read(chapter)}
    assert set(voice.LONG_CELLS) <= known


# --- each floor fails on a chapter that was made for it -------------------------------------------


def text(source: str, name: str = "words") -> Cell:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def code(source: str, *tags: str, shows: dict | None = None, says: str = "") -> Cell:
    outputs = [{"output_type": "display_data", "data": shows}] if shows else []
    outputs += [{"output_type": "stream", "text": says}] if says else []
    return {"cell_type": "code", "id": source[:9], "metadata": {"tags": list(tags)},
            "source": source, "outputs": outputs}  # fmt: skip


def your_turn(letter: str = "A") -> list[Cell]:
    name = f'"3.{letter}"'
    return [
        text(f"> **Your turn 3.{letter}.** Write the weights."),
        code(STUB.replace('"3.A"', name), says="Your turn 3.A: no answer yet."),
        code(
            SOLUTION.replace("3.A\n", f"3.{letter}\n").replace('"3.A"', name),
            "hide-cell",
            says="Your turn 3.A: right.",
        ),
    ]


def chapter(*more: Cell, sections: int = 5, figures: int = 3, deeper: str = "") -> list[Cell]:
    """A chapter that keeps to every floor, with some cells more before its exercises."""
    cells = [text("# 3. How does it attend?"), code("from x import figures\nfigures.setup('3')")]
    for n in range(sections):
        cells.append(text(f"## 3.{n + 1} A question\n\nOne sentence about $a + b$."))
        cells.append(code("show(x)", shows=PNG if n < figures else None))
    cells += [*your_turn("A"), *your_turn("B"), *more]
    return [*cells, text(f"Last.\n\n## Exercises\n\nMany words.\n\n{deeper}")]


LONG = "\n".join(f"x = {n}" for n in range(26))


def prediction(*after: Cell, below: str = "") -> list[Cell]:
    return [text(f"> **Predict before you run.** Which one\n> is larger?\n{below}"), *after]


def changed(n: int, old: str, new: str) -> list[Cell]:
    """A chapter with one Your turn, in whose cell n one thing is otherwise."""
    cells = your_turn("C")
    cell = cells[n]
    cells[n] = {**cell, "source": cell["source"].replace(old, new)}
    assert cells[n] != cell
    return chapter(*cells)


def silent(n: int) -> list[Cell]:
    """A chapter with a third Your turn, whose cell n has no output."""
    cells = your_turn("C")
    cells[n] = {**cells[n], "outputs": []}
    return chapter(*cells)


PLANTED = [
    (voice.core_is_short, chapter(text("word " * 4501)), "at most 4500"),
    (voice.core_is_short, chapter(text("> `a` " * 2300 + "**b** " * 2300)), "words"),
    (voice.core_has_five_to_seven_sections, chapter(sections=4), "has 4"),
    (voice.core_has_five_to_seven_sections, chapter(sections=8), "has 8"),
    (voice.core_is_looked_at, chapter(text("word " * 1600)), "3 figures for 16"),
    (voice.core_is_looked_at, chapter(text("a " * 1600), code("t", shows={"text/html": "<table>"})),
     "3 figures"),
    (voice.core_is_looked_at, chapter(text("a " * 1600), code("t", "hide-cell", shows=PNG)),
     "3 figures"),
    (voice.first_sections_have_figures, chapter(figures=2), "section 3.3 A question"),
    (voice.lesson_cells_are_short, chapter(code(LONG)), "has 26 lines"),
    (voice.lesson_cells_are_short, chapter(*[code(LONG[:60])] * 12), "median lesson cell has 10"),
    (voice.core_has_two_to_four_your_turns, chapter(*your_turn("C") * 3), "5 Your turn"),
    (voice.core_has_two_to_four_your_turns, chapter()[:-7], "0 Your turn"),
    (voice.your_turns_have_their_form, chapter(*your_turn("D")), "> **Your turn 3.C.** is due"),
    (voice.your_turns_have_their_form, changed(0, " 3.C.**", "**"), "is due"),
    (voice.your_turns_have_their_form, changed(1, '"3.C"', '"3.B"'), "does not end in check"),
    (voice.your_turns_have_their_form, changed(1, "attend)", "attend)\nprint()"), "not end in"),
    (voice.your_turns_have_their_form, changed(1, "...", "return 1"), "a docstring and ..."),
    (voice.your_turns_have_their_form, silent(1), '"no answer yet"'),
    (voice.your_turns_have_their_form, changed(2, "of 3.C", "of 3.CD"), "#@title Solution of 3.C"),
    (voice.your_turns_have_their_form, changed(2, "check(", "print("), "the check of its cell"),
    (voice.your_turns_have_their_form, silent(2), '"right."'),
    (voice.your_turns_have_their_form, [*chapter(), your_turn("C")[0]], "does not end in check"),
    (voice.answers_do_not_stand_below_predictions, chapter(*prediction(text("The first."))),
     "The first."),
    (voice.answers_do_not_stand_below_predictions, chapter(*prediction(below="\nThe first.")),
     "The first."),
    (voice.core_has_no_hollow_words, chapter(text("It is just\n\na sum.", "here")), "here: just"),
    (voice.core_has_no_hollow_words, chapter(text("Of course.")), "Of course"),
    (voice.visible_cells_make_what_they_use,
     chapter(code("one = 1", "hide-input"), code("print(one)")), "one is made in a folded cell"),
    (voice.visible_cells_make_what_they_use,
     chapter(code("one = 1", "hide-input"), code("def f(x):\n    return x + one")), "one is made"),
]  # fmt: skip


@pytest.mark.parametrize("floor, cells, why", PLANTED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_floor_fails_where_it_should(floor, cells, why):
    assert why in "\n".join(floor(cells))


KEPT = [
    chapter(),
    chapter(*your_turn("C"), *your_turn("D"), sections=7),
    chapter(text("word " * 1700), code("x", "hide-input", shows=HTML)),
    # what is folded, a comment, a formula or code is not read, and nor is what is Deeper
    chapter(text("<details>\n\n" + "just words " * 2000 + "\n\n</details>")),
    chapter(text("$$\n" + "a + b " * 2000 + "\n$$\n\n<!-- " + "word " * 3000 + "-->")),
    chapter(text("```python\n## 3.9 no heading\n" + "just = 1\n" * 3000 + "```")),
    chapter(deeper="## Deeper: just a proof\n\n" + "word " * 5000),
    # what draws is no lesson, nor is a solution
    chapter(code(LONG, "hide-input"), code(f"#@title Solution of 3.1\n{LONG}", "hide-cell")),
    chapter(code(LONG.removesuffix("\nx = 25"))),
    chapter(code("x = 1", "hide-input"), code("def f(x):\n    return x"), code("x = 2"), code("x")),
    chapter(*prediction(code("run()")), *prediction(text("## What goes wrong\n\nThe first."))),
    chapter(*prediction(below="\n<details><summary>Answer</summary>\n\nThe first.\n\n</details>")),
]


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor.__name__)
def test_a_floor_holds_where_it_should(floor):
    for n, cells in enumerate(KEPT):
        assert floor(cells) == [], n


def test_every_floor_was_seen_to_fail():
    assert {floor for floor, _, _ in PLANTED} == set(FLOORS)


def test_the_docstring_of_a_function_to_fill_is_no_line_of_a_lesson():
    assert voice.lines(code(STUB)) == 4
    assert voice.lines(code(STUB.replace("...", "return 1"))) == 7


def test_a_long_cell_may_be_excused(monkeypatch):
    cells = chapter(code(LONG))
    monkeypatch.setattr(voice, "LONG_CELLS", {code(LONG)["id"]: "its length is its subject"})
    assert voice.lesson_cells_are_short(cells) == []
