"""The checker of the book's exercises: right, or the likely mistake, but never the answer.

An exercise is a right answer and the wrong ones that come of known mistakes, all of them computed
by the derivation that leads there, mistake included. Those of chapter 04 are in
`mmlib/book/exercises/chapter_04.py`, and so on.
"""

from __future__ import annotations

import functools
import importlib
import inspect
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
    all of these: it takes the answer and returns "" where it is right, else the sentence. A judge
    need not ask whether a function was filled: one that it refuses, and that gave None each time,
    is no answer yet, unless in_place says that it may answer by changing what it is given.
    """

    look: str
    right: Any = None
    wrong: Sequence[tuple[Any, str]] = ()
    cases: Sequence[tuple] = field(default=((),))
    judge: Callable[[Any], str] | None = None
    in_place: bool = False


def find(name: str) -> Exercise:
    """The exercise "4.1" or the Your turn "3.A"; raises UserError where there is none so named."""
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
    what = "Your turn" if name[-1].isalpha() else "Exercise"
    print(f"{what} {name}: {_verdict(find(name), answer)}")


def _verdict(exercise: Exercise, answer: Any) -> str:
    if _is_nothing(answer):
        return "no answer yet. Replace None with yours and run again."
    case: tuple = ()
    given: list[Any] = []
    try:
        if exercise.judge:
            problem = exercise.judge(_noting(answer, given))
            unfilled = "" if exercise.in_place else _unfilled(given)
            return (unfilled or problem) if problem else "right."
        for case in exercise.cases:
            given.append(_call(answer, case, exercise.right))
    except Exception as error:  # the reader's function may fail in any way
        first_line = (str(error).splitlines() or [""])[0]
        stopped = f"it stops with {type(error).__name__}: {first_line}{_shapes(case)}"
        return _unfilled(given) or stopped
    if nothing := [value for value in given if _is_nothing(value)]:
        return _unfilled(nothing)
    if all(_same(a, b) for a, b in zip(given, _results(exercise.right, exercise), strict=True)):
        return "right."
    for mistake, sentence in exercise.wrong:
        if all(_same(a, b) for a, b in zip(given, _results(mistake, exercise), strict=True)):
            return f"not yet. {sentence}"
    return f"not yet. {_form(given, exercise) or exercise.look}"


def _noting(answer: Any, given: list[Any]) -> Any:
    """The reader's function, which also appends each of its results to given."""
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def noted(*args: Any, **kwargs: Any) -> Any:
        given.append(answer(*args, **kwargs))
        return given[-1]

    return noted


def _is_nothing(value: Any) -> bool:
    return value is None or value is ...


def _unfilled(given: list[Any]) -> str:
    """What to say to a function that gave nothing each time it was asked; "" to any other."""
    if given and all(map(_is_nothing, given)):
        return f"no answer yet: your function returns {given[0]}."
    return ""


def _call(answer: Any, case: tuple, right: Any) -> Any:
    if callable(right) and not callable(answer):
        raise TypeError("a function is asked for")
    return answer(*case) if callable(answer) else answer


def _shapes(case: tuple) -> str:
    """What a function of the reader was given when it failed: shapes, or else the numbers."""
    shapes = [str(list(x.shape)) for x in case if isinstance(x, Tensor)]
    if shapes:
        return f" (its arguments had the shapes {', '.join(shapes)})"
    return f" (it was called with {', '.join(map(str, case))})" if case else ""


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
