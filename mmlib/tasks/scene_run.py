"""A run on the generated world: trained into its folder, reported on, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmlib.data.scenes import ANSWERS, PIXELS
from mmlib.data.scenes.batches import encode_questions
from mmlib.data.scenes.stream import SceneBatches, held_out_questions
from mmlib.encoders import scale_pixels
from mmlib.errors import expected
from mmlib.generation import predict
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import report, validation_score
from mmlib.tasks.scenes import SceneTask
from mmlib.training.checkpoint import load_weights
from mmlib.training.config import Execution
from mmlib.training.fit import fit, is_main_process
from mmlib.training.run_folder import RunFolder


def batches(recipe: SceneRecipe) -> SceneBatches:
    """The training batches of a recipe."""
    return SceneBatches(
        recipe.seed, recipe.pictures, recipe.questions, recipe.stages(), recipe.modality,
        recipe.reference, recipe.plain,
    )  # fmt: skip


def train_scenes(
    recipe: SceneRecipe, out: Path, execution: Execution = Execution()
) -> dict[str, Any]:
    """Train into the run folder `out`, or go on with it, and report on its best weights.

    The folder gets recipe.json, log.jsonl, best/, last/ and report.json. Raises UserError where the
    folder holds a run of another recipe, or another process is at work in it.
    """
    folder, task = RunFolder(out), SceneTask.from_recipe(recipe)
    asked = held_out_questions(
        "validation", 100, recipe.objects, recipe.questions, reference=recipe.reference
    )

    def evaluate() -> dict[str, float]:
        return validation_score(task.model, asked, recipe.modality)

    writes = is_main_process(execution)
    with folder.claimed(recipe, writes):
        state = fit(
            task, batches(recipe), recipe.training, out, recipe.to_json(), seed=recipe.seed,
            evaluate=evaluate, execution=execution,
        )  # fmt: skip
        load_weights(folder.best, task)
        result = {
            **report(task.model, recipe), "seconds": round(state["seconds"], 1),
            "recipe": recipe.to_json(),
        }  # fmt: skip
        if writes:
            folder.write_report(result)
    return result


def load_run(run: Path) -> tuple[SceneRecipe, SceneTask]:
    """The recipe of a run folder, and its task with the best weights.

    Raises UserError where they do not fit.
    """
    folder = RunFolder(run)
    recipe = SceneRecipe.from_json(folder.read_recipe())
    task = SceneTask.from_recipe(recipe)
    load_weights(folder.best, task)
    return recipe, task


def read_scene(picture: Path) -> np.ndarray:
    """A picture file of the generated world as bytes [64, 64, 3].

    Raises UserError for a file that is no such picture.
    """
    try:
        with Image.open(picture) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise expected(
            f"a picture file {picture}", f"'{error}'", "draw one: mmlib.data.scenes"
        ) from error
    if pixels.shape != (PIXELS, PIXELS, 3):
        raise expected(
            f"a picture of {PIXELS} × {PIXELS} pixels", f"{pixels.shape[1]} × {pixels.shape[0]}",
            "resize it, or draw a scene with mmlib.data.scenes.render",
        )  # fmt: skip
    return pixels.copy()


def answer_about(task: SceneTask, picture: Path, text: str) -> str:
    """The model's answer to a question about a picture file of the generated world, 64×64.

    Raises UserError for a file that is no such picture and for words that the world does not know.
    """
    image = scale_pixels(torch.from_numpy(read_scene(picture))[None], channels_last=True)
    return ANSWERS[int(predict(task.model, encode_questions([text]), image))]
