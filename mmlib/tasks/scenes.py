"""Learning the generated world: the model, its two helping losses, and what they add up to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmlib.data.scenes.batches import LENGTH
from mmlib.data.scenes.world import ANSWERS, COLORS, SHAPES, SIZES, WORDS
from mmlib.encoders import scale_pixels
from mmlib.errors import expected
from mmlib.losses import cross_entropy, label_weight
from mmlib.models import FusionOutput, MultimodalBert, preset
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.training.seeds import derive_seed
from mmlib.training.task import Task

CELL_CLASSES = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1)
EMPTY_WEIGHT = 0.05  # most cells are empty; at full weight "empty" is learned and nothing else


class SceneSupervision(nn.Module):
    """The heads of the two helping losses, thrown away after training.

    cells says of each picture token [P, L_i, d] which color, shape and size lies in its cell;
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


class SceneTask(Task):
    """`MultimodalBert` on questions about scenes: the answer's loss, the cells', the phrases'.

    dense weighs the loss of what lies in each cell, grounding that of where a phrase points; where
    one is 0 it is not computed.

    Raises UserError for a grounding loss with a fusion that has no word states to ground.
    """

    def __init__(self, model: MultimodalBert, d: int, dense: float, grounding: float):
        super().__init__()
        if model.pooled and grounding:
            raise expected(
                "a token-level fusion with the grounding loss", "a pooled one", "set grounding to 0"
            )
        self.model, self.dense, self.grounding = model, dense, grounding
        self.supervision = SceneSupervision(d)
        # the second layer grounds: the first has gathered the words of a phrase, later ones use it.
        # Chapter 07 takes this loss away and asks what it was good for.
        self.grounding_layer = min(1, len(model.fusion) - 2)

    @classmethod
    def from_recipe(cls, recipe: SceneRecipe) -> SceneTask:
        """The task of a recipe with weights drawn from its seed.

        Raises UserError for a preset that does not read pictures of 64 pixels.
        """
        torch.manual_seed(derive_seed(recipe.seed))
        config = preset(
            recipe.preset, len(ANSWERS), len(WORDS), max_position_embeddings=LENGTH,
            fusion=recipe.fusion, coordinates=recipe.coordinates, axes=recipe.axes,
            text_layers=recipe.text_layers, dropout=recipe.dropout,
        )  # fmt: skip
        if config.image_size != 64:
            raise expected(
                "a preset for 64-pixel pictures: tiny, small", recipe.preset, "choose one"
            )
        model = MultimodalBert.from_config(config)
        return cls(model, config.d, recipe.dense, recipe.grounding)

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The labels of a batch of `collate`, part by part of the loss."""
        found = {"answer": label_weight(batch["target"])}
        if self.dense:
            for name, target, weight in _cell_parts(batch["cells"]):
                found[name] = label_weight(target, weight)
        if self.grounding:
            found["grounding"] = label_weight(batch["phrases"].flatten())
        return found

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The parts of the loss of a batch of `collate`, each with its weight in the sum."""
        outputs = ask_model(self.model, batch)
        image = outputs.tokens["image"].value
        parts = {"answer": cross_entropy(outputs.logits, batch["target"])}
        if self.dense:
            logits = self.supervision.cells(image).flatten(0, 1).split(CELL_CLASSES, -1)
            for (name, target, weight), out in zip(
                _cell_parts(batch["cells"]), logits, strict=True
            ):
                parts[name] = _weighted(self.dense, cross_entropy(out, target, weight))
        if self.grounding:
            words = outputs.hidden_states[self.grounding_layer].value
            scores = self.supervision.point(words, image).flatten(0, 1)
            parts["grounding"] = _weighted(
                self.grounding, cross_entropy(scores, batch["phrases"].flatten())
            )
        return parts


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
    """Run the model on a batch of `collate`; pictures come as bytes [P, 64, 64, 3]."""
    pictures = scale_pixels(batch["pictures"], channels_last=True)
    text = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model.outputs(text, pictures, batch["image_mask"])
