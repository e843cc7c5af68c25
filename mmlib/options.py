"""Options of the command line from the fields of dataclasses, and the way back."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mmlib.errors import expected
from mmlib.training.recipe import Recipe, default_of, without_none


def leaves(record: type) -> dict[str, tuple[Any, Any]]:
    """{field: (type, default)} of a dataclass, the fields of a nested one among them.

    The default of a field that must be given is dataclasses.MISSING.
    """
    hints = typing.get_type_hints(record)
    found: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(record):
        default = default_of(field)
        if dataclasses.is_dataclass(hints[field.name]):
            nested = leaves(typing.cast(type, hints[field.name]))
            found |= {name: (hint, getattr(default, name)) for name, (hint, _) in nested.items()}
        else:
            found[field.name] = (hints[field.name], default)
    return found


def option(name: str) -> str:
    """The option of a field: --text-layers of text_layers."""
    return "--" + name.replace("_", "-")


def add_options(parser: argparse.ArgumentParser, groups: Mapping[str, type]) -> None:
    """One option a field, in groups {title: dataclass}; what is not given is not in the result.

    A field of several dataclasses is one option, in the group of the first, with all defaults.
    """
    made: dict[str, argparse.Action] = {}
    for title, record in groups.items():
        group = parser.add_argument_group(title)
        for name, (hint, default) in leaves(record).items():
            shown = "" if default in (None, dataclasses.MISSING) else f"default {default}"
            if name in made:
                also = f"; {title}: {shown}" if shown and shown != made[name].help else ""
                made[name].help = f"{made[name].help}{also}"
            else:
                made[name] = group.add_argument(
                    option(name), default=argparse.SUPPRESS, help=shown, **_reading(hint)
                )


def _reading(hint: Any) -> dict[str, Any]:
    """How argparse reads a word as this type."""
    hint = without_none(hint)
    if parts := typing.get_args(hint):
        return {"nargs": len(parts), "type": parts[0], "metavar": ("LOW", "HIGH")}
    if hint is bool:
        return {"type": _truth, "metavar": "true|false"}
    return {"type": hint, "metavar": hint.__name__.upper()}


def _truth(word: str) -> bool:
    """true or false: `bool("false")` would be true."""
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {word}")
    return word.lower() == "true"


def refuse_others(given: Iterable[str], allowed: Iterable[str], what: str, remedy: str) -> None:
    """Raises UserError where options were given that do not belong to `what`."""
    if others := sorted(option(name) for name in set(given) - set(allowed)):
        raise expected(f"options of {what} only", ", ".join(others), remedy)


def recipe_of(kind: type[Recipe], given: Mapping[str, Any]) -> Recipe:
    """The recipe of the options given. Raises UserError where one is missing or out of range."""
    for name, (_, default) in leaves(kind).items():
        if default is dataclasses.MISSING and name not in given:
            raise expected(
                f"{option(name)} for a run on a {kind.kind}", "none", f"add {option(name)} NAME"
            )
    return kind.from_json({"kind": kind.kind, **_nested(kind, given)})


def _nested(record: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of these fields, each in its place."""
    hints, found = typing.get_type_hints(record), {}
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found[field.name] = _nested(typing.cast(type, hint), given)
        elif field.name in given:
            found[field.name] = given[field.name]
    return found
