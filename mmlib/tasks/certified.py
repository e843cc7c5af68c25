"""The certificate of a run: of the generated world and of a language model, which are asked anew,
and of a table, whose report holds what models that were trained on each side alone answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.data.scenes import ANSWERS, PIXELS, render
from mmlib.data.scenes.batches import encode_questions
from mmlib.data.scenes.stream import held_out_scenes
from mmlib.data.scenes.texts import TextProcessor, asked
from mmlib.encoders import scale_pixels
from mmlib.evaluation.certificate import NAMES, Certificate
from mmlib.evaluation.certify import certify
from mmlib.evaluation.controls import contents
from mmlib.evaluation.inference import evaluating
from mmlib.evaluation.intervals import Interval, fold_interval
from mmlib.evaluation.page import interval_chart, paragraph
from mmlib.evaluation.report import names_of, readable
from mmlib.evaluation.shapley import shapley_interactions, shapley_values
from mmlib.models import MultimodalBert
from mmlib.models.multimodal_lm import MultimodalLM
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.language_report import ANSWER_TOKENS, generate_texts
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tokens import Tokens

PRIOR = 2000  # scenes whose questions the best guess from the text is learned from
GROUND = 237  # of an empty picture, the middle of the grounds

Answer = Callable[[Sequence[str | None], Sequence[np.ndarray | None]], Tensor]


def scene_answers(model: MultimodalBert) -> Answer:
    """The model as `certify` asks: texts and pictures, uint8 [64, 64, 3], → p [n, C] of ANSWERS.

    None is a text or picture that is missing. Each distinct picture is encoded once.
    """

    def answer(texts: Sequence[str | None], images: Sequence[np.ndarray | None]) -> Tensor:
        device = next(model.parameters()).device
        index = contents(images)
        first = [int((index == i).nonzero()[0]) for i in range(int(index.max()) + 1)]
        empty = np.full((PIXELS, PIXELS, 3), GROUND, np.uint8)
        given = [images[i] for i in first]
        seen = torch.from_numpy(np.stack([empty if x is None else x for x in given])).to(device)
        there = torch.tensor([x is not None for x in given]).to(device)
        words = encode_questions([text or "" for text in texts])  # of "" [CLS] alone is left
        with evaluating(model):
            text = model.encoders["text"]({name: x.to(device) for name, x in words.items()}, None)
            image = model.encoders["image"](scale_pixels(seen, channels_last=True), there)
            rows = index.to(device)
            tokens = {"text": text, "image": Tokens(image.value[rows], image.mask[rows])}
            return model.fuse(tokens).logits.float().softmax(-1).cpu()

    return answer


def certify_scenes(model: MultimodalBert, recipe: SceneRecipe, pictures: int) -> Certificate:
    """The certificate of a model of the generated world, on as many unseen scenes as `report`'s.

    The best guess from the text is learned from the validation stream, which was drawn alike.
    """
    return _certify_world(scene_answers(model), recipe, pictures, recipe.reference, ANSWERS)


def _certify_world(
    answer: Callable[..., Any], recipe: SceneRecipe | LanguageRecipe, pictures: int,
    reference: str = "nearest", classes: Sequence[str] | None = None,
) -> Certificate:  # fmt: skip
    drawn, other = (
        held_out_scenes(stream, n, recipe.objects, recipe.questions, reference=reference)
        for stream, n in (("test", pictures), ("validation", PRIOR))
    )
    about = [(q, picture) for scene, qs in drawn for picture in [render(scene)] for q in qs]
    return certify(
        answer,
        [q.text for q, _ in about],
        [picture for _, picture in about],
        [q.answer for q, _ in about],
        classes=classes,
        groups=[number for number, (_, qs) in enumerate(drawn) for _ in qs],
        prior=[(q.text, q.answer) for _, qs in other for q in qs],
        blank_image=np.full((PIXELS, PIXELS, 3), GROUND, np.uint8),
        missing=True,
    )


def language_answers(model: MultimodalLM, processor: TextProcessor) -> Callable[..., list[str]]:
    """The model as `certify` asks: texts and pictures, uint8 [64, 64, 3], → what it writes.

    None is a text or picture that is missing: a question mark alone is asked, or nothing is seen.
    """

    def answer(texts: Sequence[str | None], images: Sequence[np.ndarray | None]) -> list[str]:
        prompts = [asked(text or "") for text in texts]
        seen = [[] if picture is None else [picture] for picture in images]
        return generate_texts(model, processor, prompts, seen, ANSWER_TOKENS)

    return answer


def certify_language(
    model: MultimodalLM, processor: TextProcessor, recipe: LanguageRecipe, pictures: int
) -> Certificate:
    """The certificate of a language model that reads scenes, on so many unseen ones.

    It writes its answers, so what needs probabilities is not measured.
    """
    return _certify_world(language_answers(model, processor), recipe, pictures)


def certify_table(report: Mapping[str, Any]) -> Certificate:
    """The certificate of a table's run, from its report: balanced accuracy over folds.

    Shapley's shares are of models that were trained on each set of modalities, and the most
    frequent label for none. Raises UserError where it is no report of text and picture.
    """
    with readable():
        balanced = report["folds"]["balanced_accuracy"]
        scores = {"all": report["balanced_accuracy"]}
        drops: dict[str, Interval] = {}
        kept = ["exchanged_image", "exchanged_text", "only_image", "only_text"]
        for name, key in [*zip(kept, kept, strict=True), ("guess_answers", "majority")]:
            scores[name], drops[name] = report["controls"][key], report["gain_over"][key]
        game = {
            frozenset(shown): np.asarray(balanced[name], float)
            for shown, name in (
                ((), "majority"), (("image",), "only_image"), (("text",), "only_text"),
                (("image", "text"), "all"),
            )
        }  # fmt: skip
        both = shapley_interactions(game)[frozenset({"image", "text"})]
        shares = {**shapley_values(game), "interaction": both}
        folds = len(balanced["all"])
        return Certificate(
            "balanced accuracy",
            f"{report['rows']} rows in {folds} folds, with models trained anew for each",
            {name: scores[name] for name in NAMES if name in scores},
            drops,
            shapley={name: fold_interval(x.tolist()) for name, x in shares.items()},
            not_measured={
                "best additive model": "the folds keep answers, and it needs probabilities",
                "blank and missing inputs": "models are trained without them instead",
                "calibration": "the folds keep answers, and it needs probabilities",
            },
        )


def table_parts(report: Mapping[str, Any]) -> list[str]:
    """What a table's page has besides the certificate: its sentence, all controls, its warnings.

    Raises UserError where it is no such report.
    """
    with readable():
        balanced = {"all": report["balanced_accuracy"], **report["controls"]}
        names = names_of(report["modalities"])
        rows = {words: balanced[key] for key, words in names.items() if key in balanced}
        warnings = [paragraph(f"Warning: {line}.") for line in report["warnings"]]
        chart = interval_chart("Balanced accuracy of all that was trained", rows, (0, 1))
        return [paragraph(report["sentence"]), chart, *warnings]
