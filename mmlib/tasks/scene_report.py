"""What a model of the generated world can do, and the controls that could refute it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmlib.data.scenes.batches import blank_pictures, exchange_pictures, with_modality
from mmlib.data.scenes.stream import held_out_questions
from mmlib.data.scenes.world import KINDS
from mmlib.errors import expected
from mmlib.evaluation import accuracy_by_kind
from mmlib.evaluation.inference import evaluating
from mmlib.models import MultimodalBert
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scenes import ask_model
from mmlib.training.task import to_device

PICTURES_AT_A_TIME = 50


def answer_questions(
    model: MultimodalBert, batch: Mapping[str, Tensor], modality: str = "both"
) -> tuple[list[int], list[int], list[str]]:
    """(prediction, target, kind) of each question [B] of a batch of `collate`."""
    device = next(model.parameters()).device
    batch = with_modality(dict(batch), modality)
    each = len(batch["target"]) // len(batch["pictures"])
    predictions: list[int] = []
    with evaluating(model):
        for start in range(0, len(batch["pictures"]), PICTURES_AT_A_TIME):
            stop = start + PICTURES_AT_A_TIME
            piece = {
                name: x[start:stop] if len(x) == len(batch["pictures"])
                else x[start * each : stop * each]
                for name, x in batch.items()
            }  # fmt: skip
            answers = ask_model(model, to_device(piece, device)).logits.argmax(-1)
            predictions += answers.tolist()
    return predictions, batch["target"].tolist(), [KINDS[k] for k in batch["kind"].tolist()]


def validation_score(model: MultimodalBert, batch: Mapping[str, Tensor], modality: str = "both"):
    """{"overall" and each kind: accuracy} on a batch of `collate`: what `fit` chooses by."""
    scores = accuracy_by_kind(*answer_questions(model, batch, modality))
    return {name: value["mean"] for name, value in scores.items()}


def controls(model: MultimodalBert, batch: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The score and what could refute it, on the same questions, each overall and by kind.

    both: the model as it is; text_only and image_only: one side missing; shuffled: another
    picture; blank: an empty picture.
    """
    variants = {
        "both": (batch, "both"),
        "text_only": (batch, "text"),
        "image_only": (batch, "image"),
        "shuffled": (exchange_pictures(batch), "both"),
        "blank": (blank_pictures(batch), "both"),
    }
    return {
        name: accuracy_by_kind(*answer_questions(model, variant, modality))
        for name, (variant, modality) in variants.items()
    }


def report(model: MultimodalBert, recipe: SceneRecipe, pictures: int = 1000) -> dict[str, Any]:
    """What a run ends with: accuracy by kind on unseen scenes, its controls, and combinations of
    color and shape that were never trained, with Wilson intervals over the questions."""
    if pictures < 1:
        raise expected("pictures of 1 or more", pictures, "ask about some")
    asked = (recipe.objects, recipe.questions)
    scores = controls(model, held_out_questions("test", pictures, *asked))
    unseen = held_out_questions("test", max(50, pictures // 5), *asked, "held_out")
    return {
        "accuracy": scores["both"]["overall"],
        "by_kind": scores.pop("both"),
        "controls": scores,
        "held_out_combinations": accuracy_by_kind(*answer_questions(model, unseen)),
    }
