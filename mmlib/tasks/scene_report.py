"""What a model of the generated world can do, and the controls that could refute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmlib.data.scenes import Question, Scene, answer, other_name, other_side
from mmlib.data.scenes.batches import (
    ANSWER_INDEX,
    blank_pictures,
    collate,
    encode_questions,
    exchange_pictures,
    with_modality,
)
from mmlib.data.scenes.stream import held_out_questions, held_out_scenes
from mmlib.data.scenes.world import KINDS
from mmlib.errors import expected
from mmlib.evaluation import Interval, accuracy_by_kind, accuracy_interval
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


def reference_control(
    model: MultimodalBert, drawn: Sequence[tuple[Scene, Sequence[Question]]]
) -> dict[str, Any]:
    """Does the answer to a reference question follow the name and the side that the text says?

    drawn: scenes with their questions, of which the references are asked as they are, and with one
    thing exchanged: the name for that of another thing of the scene, which has another answer
    (present_name), or of none (absent_name), and the side for the opposite one (`controls`).

    Returns {"accuracy": as asked, "accuracy_present_name": by the other name's own answer, "stay":
    {exchange: share of answers that stay}} with Wilson intervals, or {} where no reference is asked
    of these scenes. Where no present name has another answer the question is left out there.
    """
    asked = [(scene, q) for scene, questions in drawn for q in questions if q.kind == "reference"]
    if not asked:
        return {}
    batch = collate([(scene, [question]) for scene, question in asked])
    given, target, _ = answer_questions(model, batch)
    found: dict[str, Any] = {"accuracy": _share(given, target), "stay": {}}
    exchanges: dict[str, list[str | None]] = {
        "present_name": [other_name(scene, q.text, present=True) for scene, q in asked],
        "absent_name": [other_name(scene, q.text, present=False) for scene, q in asked],
        "side": [other_side(q.text) for _, q in asked],
    }
    for name, texts in exchanges.items():
        rows = [row for row, text in enumerate(texts) if text is not None]
        if not rows:
            continue
        there = [(asked[row][0], text) for row, text in enumerate(texts) if text is not None]
        exchanged = {key: x[rows] for key, x in batch.items()}
        exchanged |= encode_questions([text for _, text in there])
        then, _, _ = answer_questions(model, exchanged)
        found["stay"][name] = _share(then, [given[row] for row in rows])
        if name == "present_name":
            right = [ANSWER_INDEX[answer(scene, text)] for scene, text in there]
            found["accuracy_present_name"] = _share(then, right)
    return found


def _share(given: Sequence[int], wanted: Sequence[int]) -> Interval:
    equal = sum(a == b for a, b in zip(given, wanted, strict=True))
    return accuracy_interval(equal, len(given))


def report(model: MultimodalBert, recipe: SceneRecipe, pictures: int = 1000) -> dict[str, Any]:
    """What a run ends with: accuracy by kind on unseen scenes, its controls, the references with
    another name or side (`reference_control`), and combinations of color and shape that were never
    trained, with Wilson intervals over the questions.

    Raises UserError where no picture is asked for.
    """
    if pictures < 1:
        raise expected("pictures of 1 or more", pictures, "ask about some")
    drawn = held_out_scenes(
        "test", pictures, recipe.objects, recipe.questions, reference=recipe.reference
    )
    scores = controls(model, collate(drawn))
    unseen = held_out_questions(
        "test", max(50, pictures // 5), recipe.objects, recipe.questions, "held_out",
        recipe.reference,
    )  # fmt: skip
    return {
        "accuracy": scores["both"]["overall"],
        "by_kind": scores.pop("both"),
        "controls": scores,
        "reference": reference_control(model, drawn),
        "held_out_combinations": accuracy_by_kind(*answer_questions(model, unseen)),
    }
