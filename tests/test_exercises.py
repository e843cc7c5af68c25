"""The checker: right answers pass, known wrong ones are named, and no answer is given away."""

import ast
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch

import mmlib.book.exercises
from mmlib.book.exercises import Exercise, check, find
from mmlib.errors import UserError

ROOT = Path(__file__).parents[1]
CHAPTERS: dict[str, dict[str, Exercise]] = {
    module.name: import_module(f"mmlib.book.exercises.{module.name}").EXERCISES
    for module in pkgutil.iter_modules(mmlib.book.exercises.__path__)
    if re.fullmatch(r"chapter_\d\d", module.name)
}
EXERCISES = {name: exercise for found in CHAPTERS.values() for name, exercise in found.items()}
LISTED = [(name, n) for name, e in EXERCISES.items() for n in range(len(e.wrong))]


def title(name):
    return f"Your turn {name}" if name[-1].isalpha() else f"Exercise {name}"


def said(capsys, name, answer):
    check(name, answer)
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", [n for n, e in EXERCISES.items() if not e.judge])
def test_right_answers_are_right(name, capsys):
    assert said(capsys, name, EXERCISES[name].right) == f"{title(name)}: right."


@pytest.mark.parametrize("name, n", LISTED)
def test_each_known_mistake_is_named(name, n, capsys):
    wrong, sentence = EXERCISES[name].wrong[n]
    text = said(capsys, name, wrong)
    assert text == f"{title(name)}: not yet. {sentence}"


@pytest.mark.parametrize("name", EXERCISES)
def test_without_an_answer_it_asks_for_one(name, capsys):
    assert "no answer yet" in said(capsys, name, None)


def test_hints_do_not_give_the_answer_away():
    for name, exercise in EXERCISES.items():
        if isinstance(exercise.right, float):
            for _, sentence in exercise.wrong:
                assert f"{exercise.right:.2f}" not in sentence, name


def test_two_decimals_are_not_three(capsys):
    text = said(capsys, "4.1", round(EXERCISES["4.1"].right, 2))
    assert text.endswith("Right to two decimals; three are asked for.")
    # a function that comes near in one case is not nearly right
    near_once = said(capsys, "4.5", lambda K, p: 1.0 if K == 1 else 7.0)
    assert near_once.endswith(EXERCISES["4.5"].look)


def test_an_unknown_mistake_is_told_where_to_look(capsys):
    assert said(capsys, "4.1", 0.123).endswith(EXERCISES["4.1"].look)
    assert "eq. (4.3)" in said(capsys, "4.3", lambda h_t, s_t, h_i, s_i: 7 * h_t)


def test_a_function_that_fails_or_forgets_its_return(capsys):
    text = said(capsys, "4.5", lambda K, p: 1 / 0)
    assert "ZeroDivisionError" in text and text.endswith("(it was called with 1, 0.5)")
    assert "returns None" in said(capsys, "4.8", lambda logits: None)
    assert "a function is asked for" in said(capsys, "4.5", 0.6875)
    assert "KeyError" in said(capsys, "4.5", lambda K, p: {}[K])


def test_a_function_that_was_not_filled_is_no_answer_yet(capsys):
    def to_fill(logits):
        """A docstring."""
        ...

    assert said(capsys, "4.8", to_fill).endswith("no answer yet: your function returns None.")
    assert "no answer yet" in said(capsys, "4.8", lambda logits: ...)
    # one branch without its return
    assert "returns None" in said(capsys, "4.5", lambda K, p: None if K == 1 else 0.5)


@pytest.fixture
def planted(monkeypatch):
    """Puts a judge, and what else an exercise takes, under the name of a Your turn, "4.A"."""
    exercises = import_module("mmlib.book.exercises.chapter_04").EXERCISES

    def plant(judge, **more):
        monkeypatch.setitem(exercises, "4.A", Exercise(look="", judge=judge, **more))

    return plant


def test_a_judge_need_not_ask_whether_a_function_was_filled(planted, capsys):
    planted(lambda answer: "" if answer(3) + answer(x=4) == 14 else "not yet. Twice.")
    assert said(capsys, "4.A", lambda x: 2 * x) == "Your turn 4.A: right."
    assert said(capsys, "4.A", lambda x: x).endswith("not yet. Twice.")
    # the judge's own arithmetic stops at None
    assert "no answer yet" in said(capsys, "4.A", lambda x: None)
    assert "TypeError" in said(capsys, "4.A", lambda x: 2 * x if x == 3 else None)
    assert "TypeError" in said(capsys, "4.A", 0.5)


def test_a_function_that_answers_in_place_may_return_nothing(planted, capsys):
    def judge(answer):
        given = [1]
        answer(given)
        return "not yet. It is not empty." if given else ""

    planted(judge, in_place=True)
    assert "It is not empty." in said(capsys, "4.A", lambda given: None)
    assert "right." in said(capsys, "4.A", lambda given: given.clear())
    planted(judge)
    assert "no answer yet" in said(capsys, "4.A", lambda given: None)


def test_a_function_that_fails_is_told_the_shapes_it_was_given(capsys):
    text = said(capsys, "4.3", lambda h_t, s_t, h_i, s_i: s_t * h_t)
    assert "RuntimeError" in text
    assert text.endswith("(its arguments had the shapes [3, 2], [3], [3, 2], [3])")


def test_a_wrong_shape_is_named_by_its_shape(capsys):
    text = said(capsys, "4.8", lambda logits: logits.mean())
    assert "The shape is []" in text


def test_not_finite_is_said(capsys):
    text = said(capsys, "4.8", lambda logits: logits / 0)
    assert "not a finite number" in text


def test_one_maximum_for_all_rows_is_not_enough(capsys):
    def merged(h_t, s_t, h_i, s_i, most):
        Z_t, Z_i = (s_t - most).exp(), (s_i - most).exp()
        return (Z_t[..., None] * h_t + Z_i[..., None] * h_i) / (Z_t + Z_i)[..., None]

    def by_row(h_t, s_t, h_i, s_i):
        return merged(h_t, s_t, h_i, s_i, torch.maximum(s_t, s_i))

    def at_once(h_t, s_t, h_i, s_i):
        return merged(h_t, s_t, h_i, s_i, max(s_t.max(), s_i.max()))

    assert "right." in said(capsys, "4.3", by_row)
    assert "One maximum for all rows" in said(capsys, "4.3", at_once)


def test_unknown_names():
    for name in ("4.99", "99.1", "first"):
        with pytest.raises(UserError, match="expected"):
            find(name)


# --- the two exercises that are judged by what they do --------------------------------------------


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def head(scale=20.0, sign=1.0):
    W_q, W_k = torch.zeros(5, 4), torch.zeros(6, 4)
    W_q[:4], W_k[:4] = scale * torch.eye(4), torch.eye(4)
    return W_q, W_k, column(0, 0, 0, 0, -sign, sign)


@pytest.mark.parametrize(
    "answer, part",
    [
        (head(), "right."),
        (head(scale=0.0), "All four weights are 1/4"),
        (head(scale=0.2), "half of the attention or less"),
        (head(sign=-1.0), "opposite"),
        ((head()[0], head()[1], torch.ones(6, 1)), "the same value"),
        ((head()[0], head()[1], column(1, 0, 0, -1, 0, 0)), "what W_v reads"),
        ((head()[0], head()[1], column(0, 0, 0, 0, 0, 1)), "no result is below zero"),
        (head(scale=-20.0), "the sign of the product"),
        ((head()[0][:4], *head()[1:]), "[4, 4]; [5, r] is asked for"),
        ((head()[0][:, :3], *head()[1:]), "the same number of columns"),
    ],
)
def test_weights_by_hand_are_run(answer, part, capsys):
    assert part in said(capsys, "4.6", answer)


PARITY = {"late": False, "concat": True, "bilinear": True, "film": False}


@pytest.mark.parametrize("name", PARITY)
def test_each_wrong_prediction_of_parity_is_reasoned_about(name, capsys):
    text = said(capsys, "4.7", {**PARITY, name: not PARITY[name]})
    assert f"about {name}:" in text


def test_parity(capsys):
    assert said(capsys, "4.7", PARITY).endswith("right.")
    assert "keys late, concat" in said(capsys, "4.7", True)
    assert "True (it can)" in said(capsys, "4.7", {**PARITY, "film": "False"})


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_chapter_checks_each_exercise_and_its_solution(chapter):
    (path,) = (ROOT / "notebooks").glob(f"{chapter.removeprefix('chapter_')}_*.ipynb")
    notebook = nbformat.read(path, 4)
    asked, solved = set(), set()
    for cell in notebook.cells:
        if cell.cell_type != "code" or "check(" not in cell.source:
            continue
        calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
        names = {c.args[0].value for c in calls if getattr(c.func, "id", "") == "check"}
        is_solution = "#@title Solution" in cell.source
        (solved if is_solution else asked).update(names)
        text = "".join(o.get("text", "") for o in cell.outputs)
        assert ("right." in text) == is_solution, cell.id
    assert asked == solved == set(CHAPTERS[chapter])
