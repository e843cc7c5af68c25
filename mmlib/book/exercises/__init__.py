"""The checker of the book's exercises: right, or the likely mistake, but never the answer.

An exercise is a right answer and the wrong ones that come of known mistakes, all of them computed
by the derivation that leads there, mistake included. Those of chapter 04 are in
`mmlib/book/exercises/chapter_04.py`, and so on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmlib.errors import expected

TOLERANCE = 2e-3  # answers on paper are given to three digits


@dataclass(frozen=True)
class Exercise:
    """What `check` knows of one exercise.

    right is the answer: a number, a mapping, or a function. wrong lists (what a mistake leads to,
    the sentence that names the mistake). cases are the arguments on which functions are compared.
    look is where to look again when the mistake is not a known one. judge, where given, replaces
    all of these: it takes the answer and returns "" where it is right, else the sentence.
    """

    look: str
    right: Any = None
    wrong: Sequence[tuple[Any, str]] = ()
    cases: Sequence[tuple] = field(default=((),))
    judge: Callable[[Any], str] | None = None


def find(name: str) -> Exercise:
    """The exercise "4.1"; raises UserError where there is none of that name."""
    chapter = name.split(".")[0]
    try:
        module = importlib.import_module(f"mmlib.book.exercises.chapter_{int(chapter):02d}")
    except (ValueError, ModuleNotFoundError):
        raise expected("the name of an exercise, like '4.1'", f"'{name}'", "look it up") from None
    if name not in module.EXERCISES:
        raise expected(f"an exercise of {', '.join(module.EXERCISES)}", f"'{name}'", "choose one")
    return module.EXERCISES[name]


def check(name: str, answer: Any) -> None:
    """Print whether the answer to exercise `name` is right, or else what the mistake may be.

    Raises UserError where there is no such exercise.
    """
    print(f"Exercise {name}: {_verdict(find(name), answer)}")


def _verdict(exercise: Exercise, answer: Any) -> str:
    if answer is None or answer is ...:
        return "no answer yet. Put yours in place of None and run the cell again."
    case: tuple = ()
    given = []
    try:
        if exercise.judge:
            problem = exercise.judge(answer)
            return problem or "right."
        for case in exercise.cases:
            given.append(_call(answer, case, exercise.right))
    except Exception as error:  # the reader's function may fail in any way
        first_line = (str(error).splitlines() or [""])[0]
        return f"it stops with {type(error).__name__}: {first_line}{_shapes(case)}"
    if any(value is None for value in given):
        return "no answer yet: your function returns None."
    if all(_same(a, b) for a, b in zip(given, _results(exercise.right, exercise), strict=True)):
        return "right."
    for mistake, sentence in exercise.wrong:
        if all(_same(a, b) for a, b in zip(given, _results(mistake, exercise), strict=True)):
            return f"not yet. {sentence}"
    return f"not yet. {_form(given, exercise) or exercise.look}"


def _call(answer: Any, case: tuple, right: Any) -> Any:
    if callable(right) and not callable(answer):
        raise TypeError("a function is asked for")
    return answer(*case) if callable(answer) else answer


def _shapes(case: tuple) -> str:
    """The shapes that a function of the reader was given when it failed."""
    shapes = [str(list(x.shape)) for x in case if isinstance(x, Tensor)]
    return f" (its arguments had the shapes {', '.join(shapes)})" if shapes else ""


def _results(value: Any, exercise: Exercise) -> list[Any]:
    return [value(*case) if callable(value) else value for case in exercise.cases]


def _form(given: list[Any], exercise: Exercise) -> str:
    """What is wrong with the shape or the finiteness of the answer, if anything."""
    for value, right in zip(given, _results(exercise.right, exercise), strict=True):
        if isinstance(right, Tensor) and isinstance(value, Tensor):
            if value.shape != right.shape:
                return f"The shape is {list(value.shape)}, {list(right.shape)} was asked for."
            if not value.isfinite().all():
                return "There is a value that is not a finite number."
    # a number found on paper, not what a function gives in one of its cases
    if isinstance(exercise.right, float) and isinstance(given[0], float):
        if abs(given[0] - exercise.right) < 6e-3:
            return "Right to two decimals; three are asked for."
    return ""


def _same(a: Any, b: Any) -> bool:
    """Equal to the digits that an answer is given with; NaN equals NaN."""
    if isinstance(b, Mapping):
        return isinstance(a, Mapping) and dict(a) == dict(b)
    try:
        x, y = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    except (TypeError, ValueError, RuntimeError):
        return False
    return x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=TOLERANCE, equal_nan=True)
