"""The kinds of run, by the word that recipe.json holds; it loads no torch."""

from __future__ import annotations

from pathlib import Path

from mmlib.errors import expected
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.recipe import Recipe
from mmlib.training.run_folder import RunFolder

RECIPES: dict[str, type[Recipe]] = {
    cls.kind: cls for cls in (SceneRecipe, TableRecipe, LanguageRecipe)
}


def read_recipe(run: Path) -> Recipe:
    """The recipe of a run folder, of whatever kind the folder says it is.

    Raises UserError where there is none, or of a kind or with fields that are not known.
    """
    folder = RunFolder(run)
    saved = folder.read_recipe()
    kind = saved.get("kind")
    if not isinstance(kind, str) or kind not in RECIPES:
        raise expected(
            f"a run of the kind {' or '.join(RECIPES)} in {folder.recipe}", f"'{kind}'",
            "use the version of mmlib that wrote it",
        )  # fmt: skip
    return RECIPES[kind].from_json(saved)
