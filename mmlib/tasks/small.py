"""The trained `small`, which comes with the package: seed 0 of the record scenes_small."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path

from mmlib.errors import expected
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_run import load_run
from mmlib.tasks.scenes import SceneTask
from mmlib.training.checkpoint import load_weights, read_checkpoint, save_checkpoint

ASSET = Path(__file__).resolve().parents[1] / "assets" / "small"


def load_small() -> SceneTask:
    """The task of the record scenes_small, seed 0, with its trained weights, in evaluation mode.

    They are stored in half precision and computed with in float32. What it can do, and what it was
    trained on, says the card beside them, mmlib/assets/small/README.md.

    Raises UserError where the weights are missing, or are not those of the card.
    """
    card = ASSET / "README.md"
    if not card.is_file() or (found := digest(ASSET)) not in card.read_text("utf8"):
        raise expected(
            f"the weights that {card} names", found[:12] if card.is_file() else "no card",
            "install mmlib anew",
        )  # fmt: skip
    task = SceneTask.from_recipe(SceneRecipe.from_json(read_checkpoint(ASSET)[1]))
    load_weights(ASSET, task)
    return task.eval()


def write_small(run: Path, to: Path = ASSET) -> str:
    """Write the best weights of a run folder, halved, into the folder `to`; returns their digest.

    Raises UserError where the run is not finished.
    """
    recipe, task = load_run(run)
    save_checkpoint(to, deepcopy(task).half(), recipe=recipe.to_json())
    return digest(to)


def digest(folder: Path) -> str:
    """SHA-256 of the weights in a folder, in hexadecimal."""
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
