"""A language model learns to see: trained in stages, each of which goes on where it was cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmlib.data.scenes.stream import held_out_scenes
from mmlib.data.scenes.texts import BlockBatches, TextBatches, TextProcessor
from mmlib.encoders.blocks import BlockEncoder
from mmlib.models.multimodal_lm import MultimodalLM
from mmlib.tasks.language import BlockTask, LanguageTask
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.language_report import caption_truth, conversation_score, describe
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.task import Data, Task

STAGES = ("blocks", "projector", "whole")


def train_stages(
    model: MultimodalLM, processor: TextProcessor, recipe: LanguageRecipe, out: Path,
    execution: Execution = Execution(), validation: int = 40,
) -> dict[str, float]:  # fmt: skip
    """Train a model of `build` through the stages of its recipe; seconds of each stage.

    Each stage has its folder in `out`, and one that is finished only gives its weights. A stage of
    0 steps is left out. In the last stage every `evaluate_every` steps so many validation pictures
    are asked about and described: what the log then says is the curve of the record.
    """
    encoder = model.encoders["image"]
    assert isinstance(encoder, BlockEncoder)
    projector = [p for part in (encoder.proj, encoder.out) for p in part.parameters()]
    adapter = [p for name, p in model.language.named_parameters() if ".lora_" in name]
    seconds: dict[str, float] = {}
    texts = TextBatches(processor, recipe.seed, recipe.pictures, recipe.questions, recipe.objects)
    blocks = BlockBatches(recipe.seed, recipe.block_pictures, recipe.objects)
    asked = held_out_scenes("validation", validation, recipe.objects, recipe.questions)

    def evaluate() -> dict[str, float]:
        told = describe(model, processor, [scene for scene, _ in asked])
        truth = caption_truth(told, [scene for scene, _ in asked])
        score = conversation_score(model, processor, asked)
        return {**score, "captions": float(np.mean([t == "true" for t in truth]))}

    for name in STAGES:
        config: TrainingConfig = getattr(recipe, name)
        if not config.steps:
            continue
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
