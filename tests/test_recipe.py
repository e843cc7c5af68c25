"""Recipes: one JSON dialect, there and back, and a line for whatever else stands in a file."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import error_line

from mmlib.errors import UserError
from mmlib.tasks.recipes import RECIPES, read_recipe
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.training.config import TrainingConfig
from mmlib.training.recipe import Recipe


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int = 3


@dataclass(frozen=True)
class Whole(Recipe):
    kind: ClassVar[str] = "whole"

    name: str
    flag: bool = True
    pair: tuple[int, float] = (1, 2.0)
    group: str | None = None
    inner: Inner = field(default_factory=Inner)


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
inners = st.builds(Inner, numbers, st.integers())
wholes = st.builds(
    Whole, st.text(), st.booleans(), st.tuples(st.integers(), numbers),
    st.none() | st.text(), inners,
)  # fmt: skip


@given(wholes)
def test_a_recipe_comes_back_from_its_json(recipe):
    written = json.loads(json.dumps(recipe.to_json()))
    assert list(written)[0] == "kind" and written["kind"] == "whole"
    again = Whole.from_json(written)
    assert again == recipe and hash(again) == hash(recipe)
    assert again.to_json() == recipe.to_json()


def test_what_is_not_there_has_its_default():
    assert Whole.from_json({"kind": "whole", "name": "a"}) == Whole("a")
    assert Whole.from_json({"kind": "whole", "name": "a", "inner": {"steps": 5}}) == Whole(
        "a", inner=Inner(steps=5)
    )


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"kind": "other"}, ("kind whole", "'other'")),
        ({"kind": None}, ("kind whole", "'None'")),
        ({"speed": 1}, ("fields of a Whole", "also speed")),
        ({"inner": {"speed": 1}}, ("fields of a Inner", "also speed")),
        ({"inner": 3}, ("inner as Inner", "got 3")),
        ({"inner": None}, ("inner as Inner", "got None")),
        ({"inner": {"rate": "0.5"}}, ("rate as float", "got '0.5'")),
        ({"inner": {"steps": 3.0}}, ("steps as int", "got 3.0")),
        ({"inner": {"steps": True}}, ("steps as int", "got True")),
        ({"inner": {"rate": False}}, ("rate as float", "got False")),
        ({"name": None}, ("name as str", "got None")),
        ({"name": ["a"]}, ("name as str",)),
        ({"flag": 1}, ("flag as bool", "got 1")),
        ({"flag": "true"}, ("flag as bool", "got 'true'")),
        ({"group": 3}, ("group as str", "got 3")),
        ({"pair": [1]}, ("pair as tuple[int, float]", "got [1]")),
        ({"pair": [1, 2.0, 3]}, ("pair as tuple[int, float]",)),
        ({"pair": "12"}, ("pair as tuple[int, float]",)),
        ({"pair": [1.5, 2.0]}, ("pair as int", "got 1.5")),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_one_line(changes, parts):
    with pytest.raises(UserError) as error:
        Whole.from_json(Whole("a").to_json() | changes)
    error_line(error, *parts)


def test_a_field_without_a_default_is_asked_for():
    with pytest.raises(UserError) as error:
        Whole.from_json({"kind": "whole"})
    error_line(error, "the field name of a Whole", "got none")


@pytest.mark.parametrize("value", [[], 3, None, "{}"])
def test_what_is_no_object_is_one_line(value):
    with pytest.raises(UserError) as error:
        Whole.from_json(value)
    error_line(error, "a recipe as a JSON object")


# --- the kinds there are --------------------------------------------------------------------------


def example(kind: type[Recipe]) -> Recipe:
    """A recipe of that kind, its words given where they have no default."""
    hints = typing.get_type_hints(kind)
    required = {
        f.name: "a word" for f in dataclasses.fields(kind)
        if f.default is f.default_factory is dataclasses.MISSING
    }  # fmt: skip
    assert all(hints[name] is str for name in required)
    return kind(**required)


every_kind = pytest.mark.parametrize("kind", RECIPES)


@every_kind
def test_each_kind_is_a_frozen_dataclass_that_comes_back(kind):
    recipe = example(RECIPES[kind])
    assert recipe.kind == kind
    assert RECIPES[kind].from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # type: ignore[attr-defined]


@every_kind
def test_a_run_folder_says_its_kind(kind, tmp_path):
    recipe = example(RECIPES[kind])
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    assert read_recipe(tmp_path) == recipe


@pytest.mark.parametrize("kind", [None, "novel", 3, ["scenes"], {}])
def test_a_run_of_no_kind_is_one_line(kind, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"kind": kind, "data": "a.csv"}))
    with pytest.raises(UserError) as error:
        read_recipe(tmp_path)
    error_line(error, "a run of the kind scenes or table or language", str(tmp_path))


def test_what_a_nested_object_leaves_out_is_as_in_the_recipes_default():
    """A run may name its steps and keep the rest of what its kind trains with."""
    short = SceneRecipe.from_json({"kind": "scenes", "training": {"steps": 7}})
    assert short.training == dataclasses.replace(SceneRecipe().training, steps=7)
    assert short.training != TrainingConfig(steps=7)
