"""Reads the shapes in a docstring, such as `query [B, L_q, d] → [B, L_q, d]`, and holds a call to
them.

A shape that follows the name of a parameter is that input's; each other one is a result's.
"""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from mmlib.tokens import Tokens

# All different, so that a wrong letter cannot fit by chance; Σ L_m is that of two streams.
SIZES = {"B": 6, "P": 3, "L": 5, "L_m": 5, "ΣL_m": 10, "L_q": 7, "L_k": 9, "d": 8, "H": 2}
SIZES |= {"d_k": 4, "d_v": 11, "n": 12, "queries": 3}
SHAPE = re.compile(r"(?:(\w+) )?(?:\{modality: )?(?<!\w)\[([^\]]+)\]")


def documented(function: Callable) -> tuple[dict[str, list[str]], set[tuple[str, ...]]]:
    """The shapes of the inputs {name: letters} and all shapes that a result may have."""
    parameters = inspect.signature(function).parameters
    inputs: dict[str, list[str]] = {}
    results = set()
    for name, letters in SHAPE.findall(function.__doc__ or ""):
        if name in parameters:
            inputs[name] = letters.split(", ")
        else:
            results.add(tuple(letters.split(", ")))
    return inputs, results


def sizes(letters: tuple[str, ...] | list[str], alternative: int = 0) -> tuple[int, ...]:
    """The sizes that letters stand for; `L_q or 1` has two, `…` stands for any axes, here one."""
    choices = [x.split(" or ") for x in letters]
    chosen = [choice[min(alternative, len(choice) - 1)] for choice in choices]
    return tuple(3 if x == "…" else SIZES[x] if x in SIZES else int(x) for x in chosen)


def shapes_of(result: Any) -> set[tuple[int, ...]]:
    if isinstance(result, dict):
        return {shape for value in result.values() for shape in shapes_of(value)}
    if isinstance(result, tuple):  # of several results a docstring names the shape of the first
        result = result[0]
    return {tuple((result.value if isinstance(result, Tokens) else result).shape)}


def build(kind: str, shape: tuple[int, ...], name: str) -> Any:
    if name == "mask":
        return torch.ones(shape, dtype=torch.bool)
    if name in ("block", "queries"):
        return torch.zeros(shape, dtype=torch.long)
    value = torch.randn(shape)
    if "Mapping" in kind:
        return {"text": value, "image": value}
    return Tokens.all_visible(value) if kind == "Tokens" else value


def check_shapes(function: Callable, *calls: dict[str, Any]) -> None:
    """The calls (arguments beyond those with a documented shape; None leaves one out) return the
    shapes that the docstring names, and all of them.
    """
    inputs, results = documented(function)
    parameters = inspect.signature(function).parameters
    assert results, f"{function.__qualname__} names no shape for its result"
    found = set()
    for extra, alternative in itertools.product(calls or ({},), (0, 1)):
        arguments = {
            name: build(str(parameters[name].annotation), sizes(letters, alternative), name)
            for name, letters in inputs.items()
        }
        given = {k: v for k, v in (arguments | extra).items() if v is not None}
        found |= shapes_of(function(**given))
    named = {sizes(letters, choice) for letters in results for choice in (0, 1)}
    assert found == named, function.__qualname__


def public_functions(module: ModuleType) -> Iterator[Callable]:
    """Functions and methods that a module defines and that return tensors or tokens."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        members = vars(item).values() if inspect.isclass(item) else [item]
        for function in members:
            if not inspect.isfunction(function) or function.__name__.startswith("_"):
                continue
            kind = str(inspect.signature(function).return_annotation)
            if "Tensor" in kind or "Tokens" in kind:
                yield function


def undocumented(function: Callable) -> set[str]:
    """Tensors and tokens that a function requires and whose shape its docstring does not name."""
    required = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty
        and str(parameter.annotation) in ("Tensor", "Tokens")
    }
    return required - set(documented(function)[0])
