"""A language model learns to see: a run in stages, reported on, and asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.scenes.stream import held_out_scenes
from mmlib.data.scenes.texts import BlockBatches, TextBatches, TextProcessor, asked
from mmlib.encoders.blocks import BlockEncoder
from mmlib.models.multimodal_lm import MultimodalLM
from mmlib.tasks.language import BlockTask, LanguageTask, build
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.language_report import (
    CAPTION_TOKENS,
    caption_truth,
    conversation_score,
    describe,
    generate_texts,
    report,
)
from mmlib.tasks.scene_run import read_scene
from mmlib.training.checkpoint import load_weights
from mmlib.training.config import Execution
from mmlib.training.fit import fit, is_main_process
from mmlib.training.interrupts import resumable
from mmlib.training.run_folder import RunFolder
from mmlib.training.task import Data, Task

REPORTED = 200  # test pictures of the report


def train_language(
    recipe: LanguageRecipe, out: Path, execution: Execution = Execution()
) -> dict[str, Any]:
    """Train into the run folder `out`, or go on with it, and report on what was learned.

    The folder gets recipe.json, a folder for each stage and report.json. Raises UserError where the
    folder holds a run of another recipe, another process is at work in it, or the weights of the
    language model are not to be found; Interrupted after Ctrl-C.
    """
    folder, writes = RunFolder(out), is_main_process(execution)
    with folder.claimed(recipe, writes), resumable(out):
        model, processor = build(recipe)
        seconds = train_stages(model, processor, recipe, out, execution)
        result = {
            **report(model, processor, held_out_scenes("test", REPORTED, recipe.objects)),
            "seconds": sum(seconds.values()), "seconds_by_stage": seconds,
            "recipe": recipe.to_json(),
        }  # fmt: skip
        if writes:
            folder.write_report(result)
    return result


def train_stages(
    model: MultimodalLM, processor: TextProcessor, recipe: LanguageRecipe, out: Path,
    execution: Execution = Execution(), validation: int = 40,
) -> dict[str, float]:  # fmt: skip
    """Train a model of `build` through the stages of its recipe; seconds of each stage.

    Each stage has its folder in `out`, and one that is finished only gives its weights. In the last
    stage every `evaluate_every` steps so many validation pictures are asked about and described:
    what the log then says is the curve of the record.
    """
    encoder = model.encoders["image"]
    assert isinstance(encoder, BlockEncoder)
    projector = [p for part in (encoder.proj, encoder.out) for p in part.parameters()]
    adapter = [p for name, p in model.language.named_parameters() if ".lora_" in name]
    seconds: dict[str, float] = {}
    texts = TextBatches(processor, recipe.seed, recipe.pictures, recipe.questions, recipe.objects)
    blocks = BlockBatches(recipe.seed, recipe.block_pictures, recipe.objects)
    drawn = held_out_scenes("validation", validation, recipe.objects, recipe.questions)

    def evaluate() -> dict[str, float]:
        told = describe(model, processor, [scene for scene, _ in drawn])
        truth = caption_truth(told, [scene for scene, _ in drawn])
        score = conversation_score(model, processor, drawn)
        return {**score, "captions": float(np.mean([t == "true" for t in truth]))}

    for name, config in recipe.stages().items():
        for p in adapter:
            p.requires_grad_(name == "whole")
        task: Task = LanguageTask(model)
        data: Data = texts
        if name == "blocks":
            task, data = BlockTask(encoder, model, processor), blocks
        state = fit(
            task, data, config, out / name, {"stage": name, **recipe.to_json()}, seed=recipe.seed,
            evaluate=evaluate if name == "whole" else None, execution=execution,
        )  # fmt: skip
        seconds[name] = round(state["seconds"], 1)
    for p in (*projector, *adapter):
        p.requires_grad_(True)
    model.eval()
    return seconds


def load_language_run(run: Path) -> tuple[LanguageRecipe, MultimodalLM, TextProcessor]:
    """The recipe of a run folder, its model with what it has learned, and what writes for it.

    Raises UserError where the run is not finished, or its weights do not fit.
    """
    recipe = LanguageRecipe.from_json(RunFolder(run).read_recipe())
    model, processor = build(recipe)
    load_weights(run / "whole" / "last", LanguageTask(model))
    return recipe, model.eval(), processor


def answer_about(model: MultimodalLM, processor: TextProcessor, picture: Path, text: str) -> str:
    """What the model writes after a question, or after "describe the picture:".

    picture: a file of the generated world, 64×64. Raises UserError for a file that is none.
    """
    prompt = text if text.endswith(("?", ":")) else asked(text)
    return generate_texts(model, processor, [prompt], [[read_scene(picture)]], CAPTION_TOKENS)[0]
