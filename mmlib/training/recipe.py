"""Recipes: all that decides a run, as frozen dataclasses with one JSON dialect."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from mmlib.errors import expected


class Recipe:
    """What a frozen dataclass becomes a recipe by: its kind, and the way to JSON and back.

    `kind` stands in the JSON, so that a run folder says of itself what it is. A field is a bool,
    int, float or str, one of these or None, a tuple of so many of them, or a dataclass of such.
    """

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values, nested recipes as objects, with "kind" first."""
        return {"kind": self.kind, **_plain(self)}

    @classmethod
    def from_json(cls, values: object) -> Self:
        """The recipe that `to_json` wrote; a field that is not there has its default.

        Raises UserError for another kind, a field that is not known, a value of the wrong type.
        """
        if not isinstance(values, Mapping):
            raise expected("a recipe as a JSON object", type(values).__name__, "copy it anew")
        given = dict(values)
        kind = given.pop("kind", None)
        if kind != cls.kind:
            raise expected(f"a recipe of the kind {cls.kind}", f"'{kind}'", "name another run")
        return _built(cls, given)


def is_required(field: dataclasses.Field) -> bool:
    """Whether the field has no default."""
    return field.default is field.default_factory is dataclasses.MISSING


def without_none(hint: Any) -> Any:
    """X of the type `X | None`; another type as it is."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _built(cls: Any, given: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(given) - set(fields)):
        raise expected(
            f"fields of a {cls.__name__}", f"also {', '.join(unknown)}",
            "use the version of mmlib that wrote it",
        )  # fmt: skip
    for name, field in fields.items():
        if is_required(field) and name not in given:
            raise expected(f"the field {name} of a {cls.__name__}", "none", "train again")
    return cls(
        **{n: _value(n, hints[n], value, default_of(fields[n])) for n, value in given.items()}
    )


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field, made where a factory makes it; dataclasses.MISSING without one."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _value(name: str, hint: Any, value: Any, default: Any = dataclasses.MISSING) -> Any:
    """The JSON value as what the field holds; raises UserError where it cannot be that.

    What a nested object leaves out is as in `default`, whose recipe may know better than its class.
    """
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        if default is not dataclasses.MISSING:
            value = {**_plain(default), **value}
        return _built(hint, value)
    if value is None and type(None) in typing.get_args(hint):
        return None
    hint = without_none(hint)
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and isinstance(value, list) and len(parts) == len(value):
        pairs = zip(parts, value, strict=True)
        return tuple(_value(name, part, item) for part, item in pairs)
    # bool is an int to Python, and a whole number is written for a float
    allowed = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}.get(hint, ())
    if isinstance(value, allowed) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = str(hint) if parts else hint.__name__
    raise expected(f"{name} as {wanted}", repr(value)[:80], "mend the recipe, or train again")
