"""Learning the generated world: the recipe, its batches, its losses, its report.

Each cause of success is one field of the recipe, so that chapter 07 can take it away: the number
of distinct pictures a step, dense supervision, grounding, location questions, coordinates and axes,
the curriculum, BERT's own layers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmlib.data.scenes import (
    ANSWERS,
    COLORS,
    KINDS,
    PIXELS,
    SHAPES,
    SIZES,
    WORDS,
    sample_questions,
)
from mmlib.data.scenes.batches import (
    LENGTH,
    blank_pictures,
    encode_questions,
    exchange_pictures,
    tensors,
    with_modality,
)
from mmlib.data.scenes.world import check_objects
from mmlib.encoders import scale_pixels
from mmlib.errors import expected
from mmlib.evaluation import accuracy_by_kind
from mmlib.files import write_whole
from mmlib.generation import predict
from mmlib.losses import cross_entropy, label_weight
from mmlib.models import FusionOutput, MultimodalBert, preset
from mmlib.training.checkpoint import load_weights
from mmlib.training.fit import Optimization, as_json, fit, key

CELL_CLASSES = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1)
EMPTY_WEIGHT = 0.05  # most cells are empty; at full weight "empty" is learned and nothing else
EASY_KINDS = ("existence", "counting", "color", "shape", "location")
STREAMS = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class SceneRecipe:
    """One run on the generated world; round-trips through JSON.

    pictures × questions a step; scenes of `objects` things, of 1 to 3 in the first `curriculum`
    share of the steps; dense and grounding weigh their losses (0 takes them away); location weighs
    the location questions in the mixture; coordinates and axes are how a cell knows its place
    (`GridEncoder`); modality "text" or "image" trains that one alone.
    """

    preset: str = "small"
    seed: int = 0
    fusion: str = "merged"
    modality: str = "both"
    pictures: int = 32
    questions: int = 8
    objects: tuple[int, int] = (1, 6)
    curriculum: float = 0.15
    dense: float = 1.0
    grounding: float = 0.5
    location: float = 1.5
    coordinates: bool = True
    axes: bool = True
    text_layers: int = 1
    dropout: float = 0.0
    optimization: Optimization = field(default_factory=Optimization)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SceneRecipe:
        """The recipe of a run's recipe.json. Raises UserError where a field is not known."""
        values, nested = dict(values), dict(values.get("optimization", {}))
        for kind, given in ((cls, values), (Optimization, nested)):
            known = {field.name for field in dataclasses.fields(kind)}
            if unknown := sorted(set(given) - known):
                raise expected(
                    f"a recipe of {', '.join(sorted(known))}", ", ".join(unknown),
                    "use the version of mmlib that wrote it",
                )  # fmt: skip
        if "objects" in values:
            values["objects"] = tuple(values["objects"])
        return cls(**values | {"optimization": Optimization(**nested)})

    def check(self) -> None:
        """Raises UserError where no batch can be made of these figures."""
        check_objects(self.objects)
        for name, least in (("seed", 0), ("pictures", 1), ("questions", 1)):
            if getattr(self, name) < least:
                raise expected(f"{name} of {least} or more", getattr(self, name), "raise it")
        if not 0 <= self.dropout < 1:
            raise expected("dropout from 0 to 1, without 1", self.dropout, "change it")
        if self.pictures % self.optimization.accumulate:
            raise expected(
                f"accumulate to divide {self.pictures} pictures", self.optimization.accumulate,
                "change either",
            )  # fmt: skip

    def mixture(self) -> dict[str, float]:
        """Weights of the kinds of question once the curriculum is over."""
        # counting is the slowest to come, colour and shape the first
        weights = dict.fromkeys(KINDS, 1.0) | {"color": 0.4, "shape": 0.4, "counting": 3.0}
        return weights | {"relation": 1.5, "reference": 1.3, "location": self.location}


class SceneSupervision(nn.Module):
    """The heads of the two extra losses, thrown away after training.

    cells says of each picture token [P, L_i, d] which colour, shape and size lies in its cell;
    point lets a word [B, L, d] name the cell of the thing it ends the phrase of.
    Source: Tan & Bansal (2019), LXMERT's detected-label losses, for the first.
    """

    def __init__(self, d: int):
        super().__init__()
        self.cells = nn.Linear(d, sum(CELL_CLASSES))
        self.ask, self.answer = nn.Linear(d, d), nn.Linear(d, d)

    def point(self, words: Tensor, image: Tensor) -> Tensor:
        """words [B, L, d], image [P, L_i, d] → scores [B, L, L_i], text b on picture b // (B/P)."""
        P, B, d = len(image), len(words), words.shape[-1]
        asking = self.ask(words).reshape(P, B // P * words.shape[1], d)
        scores = asking @ self.answer(image).transpose(1, 2) / d**0.5
        return scores.reshape(B, words.shape[1], -1)


class SceneTask:
    """What `fit` needs of the generated world: module, batches, losses, score.

    Raises UserError for a modality that is not "both", "text" or "image", for a grounding loss
    with a fusion that has no word states to ground, and as `SceneRecipe.check`.
    """

    def __init__(self, recipe: SceneRecipe):
        recipe.check()
        self.recipe, self.seed = recipe, recipe.seed
        if recipe.modality not in ("both", "text", "image"):
            raise expected("modality both, text or image", f"'{recipe.modality}'", "choose one")
        torch.manual_seed(key(recipe.seed))
        config = preset(
            recipe.preset, len(ANSWERS), len(WORDS), max_position_embeddings=LENGTH,
            fusion=recipe.fusion, coordinates=recipe.coordinates, axes=recipe.axes,
            text_layers=recipe.text_layers, dropout=recipe.dropout,
        )  # fmt: skip
        if config.image_size != 64:
            raise expected(
                "a preset for 64-pixel pictures: tiny, small", recipe.preset, "choose one"
            )
        self.model = MultimodalBert.from_config(config)
        if self.model.pooled and recipe.grounding:
            raise expected(
                "a token-level fusion with the grounding loss", f"'{recipe.fusion}'",
                "set grounding to 0",
            )  # fmt: skip
        self.supervision = SceneSupervision(config.d)
        self.module = nn.ModuleDict({"model": self.model, "supervision": self.supervision})
        # the second layer grounds: the first has gathered the words of a phrase, later ones use it.
        # Chapter 07 takes this loss away and asks what it was good for.
        self.grounding_layer = min(1, config.layers - 2)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The questions of one step, keyed by (seed, step)."""
        recipe = self.recipe
        rng = np.random.default_rng([STREAMS["train"], recipe.seed, step])
        easy = step < recipe.curriculum * recipe.optimization.steps
        objects = (recipe.objects[0], min(3, recipe.objects[1])) if easy else recipe.objects
        weights = recipe.mixture()
        if easy:
            weights = {kind: float(weights[kind] > 0) for kind in EASY_KINDS}
        pictures = [
            sample_questions(rng, objects, recipe.questions, weights)
            for _ in range(recipe.pictures)
        ]
        return with_modality(tensors(pictures), recipe.modality)

    def pieces(self, batch: dict[str, Tensor], number: int) -> list[dict[str, Tensor]]:
        """The batch in `number` pieces of whole pictures with their questions."""
        split = {name: x.chunk(number) for name, x in batch.items()}
        return [{name: parts[i] for name, parts in split.items()} for i in range(number)]

    def divisors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The labels of the batch, part by part of the loss."""
        found = {"answer": label_weight(batch["target"])}
        if self.recipe.dense:
            for name, target, weight in _cell_parts(batch["cells"]):
                found[name] = label_weight(target, weight)
        if self.recipe.grounding:
            found["grounding"] = label_weight(batch["phrases"].flatten())
        return found

    def losses(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The answer's loss, the cells' (dense supervision), the phrases' (grounding)."""
        recipe, supervision = self.recipe, self.supervision
        outputs = ask_model(self.model, batch)
        parts = {"answer": cross_entropy(outputs.logits, batch["target"])}
        if recipe.dense:
            cells = supervision.cells(outputs.tokens["image"].value).flatten(0, 1)
            logits = cells.split(CELL_CLASSES, -1)
            for (name, target, weight), out in zip(
                _cell_parts(batch["cells"]), logits, strict=True
            ):
                parts[name] = _weighted(recipe.dense, cross_entropy(out, target, weight))
        if recipe.grounding:
            words = outputs.hidden_states[self.grounding_layer].value
            scores = supervision.point(words, outputs.tokens["image"].value).flatten(0, 1)
            parts["grounding"] = _weighted(
                recipe.grounding, cross_entropy(scores, batch["phrases"].flatten())
            )
        return parts

    def score(self) -> dict[str, float]:
        """Accuracy overall and by kind on 100 validation pictures."""
        if not hasattr(self, "_validation"):
            self._validation = held_out_questions("validation", 100, self.recipe)
        answers = answer_questions(self.model, self._validation, self.recipe.modality)
        scores = accuracy_by_kind(*answers)
        return {name: value["mean"] for name, value in scores.items()}


def _cell_parts(cells: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    parts = []
    for number, (name, classes) in enumerate(
        zip(("cell_color", "cell_shape", "cell_size"), CELL_CLASSES, strict=True)
    ):
        weight = torch.ones(classes, device=cells.device)
        weight[0] = EMPTY_WEIGHT
        parts.append((name, cells[..., number].flatten(), weight))
    return parts


def _weighted(by: float, part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return by * part[0], part[1]


def ask_model(model: MultimodalBert, batch: Mapping[str, Tensor]) -> FusionOutput:
    """Run the model on a batch of `tensors`; pictures come as bytes [P, 64, 64, 3]."""
    pictures = scale_pixels(batch["pictures"], channels_last=True)
    text = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model.outputs(text, pictures, batch["image_mask"])


def held_out_questions(
    stream: str, pictures: int, recipe: SceneRecipe, combinations: str = "train"
) -> dict[str, Tensor]:
    """Questions that no training step saw: the same for each seed, kinds in equal shares."""
    rng = np.random.default_rng([STREAMS[stream], len(combinations)])
    drawn = [
        sample_questions(rng, recipe.objects, recipe.questions, combinations=combinations)
        for _ in range(pictures)
    ]
    return tensors(drawn)


def answer_questions(
    model: MultimodalBert, batch: Mapping[str, Tensor], modality: str = "both"
) -> tuple[list[int], list[int], list[str]]:
    """(prediction, target, kind) of each question [B], in pieces of 50 pictures."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    batch = with_modality(dict(batch), modality)
    each = len(batch["target"]) // len(batch["pictures"])
    predictions: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(batch["pictures"]), 50):
            piece = {
                name: x[start : start + 50] if len(x) == len(batch["pictures"])
                else x[start * each : (start + 50) * each]
                for name, x in batch.items()
            }  # fmt: skip
            piece = {name: x.to(device) for name, x in piece.items()}
            predictions += ask_model(model, piece).logits.argmax(-1).tolist()
    model.train(was_training)
    return predictions, batch["target"].tolist(), [KINDS[k] for k in batch["kind"].tolist()]


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


def report(task: SceneTask, pictures: int = 1000) -> dict[str, Any]:
    """What a run ends with: accuracy by kind on unseen scenes, its controls, and combinations of
    colour and shape that were never trained, with Wilson intervals over the questions."""
    recipe = task.recipe
    if pictures < 1:
        raise expected("pictures of 1 or more", pictures, "ask about some")
    scores = controls(task.model, held_out_questions("test", pictures, recipe))
    unseen = held_out_questions("test", max(50, pictures // 5), recipe, "held_out")
    return {
        "accuracy": scores["both"]["overall"],
        "by_kind": scores.pop("both"),
        "controls": scores,
        "held_out_combinations": accuracy_by_kind(*answer_questions(task.model, unseen)),
    }


def train_scenes(recipe: SceneRecipe, out: Path) -> dict[str, Any]:
    """Train into the run folder `out`, or go on with it, and report on its best weights.

    The folder gets recipe.json, log.jsonl, best/, last/ and report.json. Raises UserError where the
    folder holds a run of another recipe.
    """
    task, values = SceneTask(recipe), as_json(recipe)
    path = out / "recipe.json"
    if path.exists() and json.loads(path.read_text("utf8")) != values:
        raise expected(
            f"a folder for this recipe in {out}", "a run of another recipe",
            "choose a new --out, or go on with the old one by --resume",
        )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(values, indent=1).encode())
    state = fit(task, recipe.optimization, out, values)
    load_weights(out / "best", task.module)
    result = {**report(task), "seconds": round(state["seconds"], 1), "recipe": values}
    write_whole(out / "report.json", json.dumps(result, indent=1).encode())
    return result


def load_task(run: Path) -> SceneTask:
    """The task of a run folder with its best weights. Raises UserError where they do not fit."""
    values = json.loads((run / "recipe.json").read_text("utf8"))
    task = SceneTask(SceneRecipe.from_json(values))
    load_weights(run / "best", task.module)
    return task


def answer_about(task: SceneTask, picture: Path, text: str) -> str:
    """The model's answer to a question about a picture file of the generated world, 64×64.

    Raises UserError for a file that is no such picture and for words that the world does not know.
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
    image = scale_pixels(torch.from_numpy(pixels.copy())[None], channels_last=True)
    return ANSWERS[int(predict(task.model, encode_questions([text]), image))]
