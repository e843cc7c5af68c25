"""The document's model: chapters 06, 07. Text and picture, from one configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from mmlib.encoders import (
    GridEncoder,
    TextEncoder,
    resnet50_grid,
    resnet_for_small_pictures,
    small_bert,
)
from mmlib.errors import expected
from mmlib.models.fusion_model import FusionModel, FusionOutput


@dataclass(frozen=True)
class ModelConfig:
    """All that decides the shape of a `MultimodalBert`; round-trips through JSON.

    d width, heads H, layers of fusion; text_layers of BERT below them (width text_width);
    image "small" (64-pixel ResNet, 8×8 cells) or "resnet50" (7×7 cells at 224 pixels).
    """

    num_classes: int
    vocab_size: int
    max_position_embeddings: int = 32
    d: int = 128
    heads: int = 4
    layers: int = 4
    fusion: str = "merged"
    text_width: int = 128
    text_layers: int = 1
    text_heads: int = 4
    image: str = "small"
    image_size: int = 64
    coordinates: bool = True
    axes: bool = True
    dropout: float = 0.0


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(d=32, heads=2, layers=2, text_width=32, text_layers=1, text_heads=2),
    "small": dict(d=128, heads=4, layers=4, text_width=128, text_layers=1, text_heads=4),
    "base": dict(
        d=768, heads=8, layers=1, text_width=768, text_layers=12, text_heads=12,
        max_position_embeddings=512, image="resnet50", image_size=224,
    ),
}  # fmt: skip


def preset(name: str, num_classes: int, vocab_size: int, **changes: Any) -> ModelConfig:
    """The configuration of that size: "tiny" (seconds), "small" (minutes), "base" (the document's).

    `base` has BERT-base, ResNet-50, width 768 and 8 heads. Raises UserError for another name.
    """
    if name not in PRESETS:
        raise expected(f"a preset of {', '.join(PRESETS)}", f"'{name}'", "choose one of these")
    return replace(ModelConfig(num_classes, vocab_size, **PRESETS[name]), **changes)


class MultimodalBert(FusionModel):
    """The document's model: `FusionModel` of a text that asks (BERT) and an image (a ResNet grid).

    The answer is read at the first text token ([CLS]). It takes its inputs by name, as every
    `FusionModel`, or in the document's order: text_input, image_input, image_mask.

    Source: the document, sec. 4, with the repairs of chapter 06.
    """

    def __init__(
        self, text: nn.Module, image: nn.Module, d: int, heads: int, layers: int, fusion: str,
        num_classes: int, dropout: float = 0.0,
    ):  # fmt: skip
        encoders = {"text": text, "image": image}
        super().__init__(encoders, d, heads, layers, fusion, num_classes, dropout)

    @classmethod
    def from_config(cls, config: ModelConfig) -> MultimodalBert:
        """Build it from random weights. Raises UserError for an unknown fusion or image encoder."""
        bodies = {"small": (resnet_for_small_pictures, 128), "resnet50": (resnet50_grid, 2048)}
        if config.image not in bodies:
            raise expected(
                f"an image encoder of {', '.join(bodies)}", f"'{config.image}'", "choose one"
            )
        body, width = bodies[config.image]
        bert = small_bert(
            config.vocab_size, config.text_width, config.text_layers, config.text_heads,
            config.max_position_embeddings,
        )  # fmt: skip
        return cls(
            TextEncoder(bert, config.d),
            GridEncoder(
                body(), width, config.d, config.image_size, config.coordinates, config.axes
            ),
            config.d, config.heads, config.layers, config.fusion,
            config.num_classes, config.dropout,
        )  # fmt: skip

    def forward(
        self,
        inputs: Mapping[str, Any],
        present: Mapping[str, Tensor] | Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, C] of B texts about P pictures, B a multiple of P.

        `model(text_input, image_input, image_mask)`: text_input {"input_ids": [B, L],
        "attention_mask": [B, L]}; text b belongs to picture b // (B / P). image_input
        [P, 3, size, size], float in [−1, 1] or uint8; image_mask [P], False where there is no
        picture. A missing text is an attention_mask that is True at [CLS] alone.

        `model({"text": text_input, "image": image_input}, {"image": image_mask})` is the same.
        """
        return self.outputs(inputs, present, image_mask).logits

    def outputs(
        self,
        inputs: Mapping[str, Any],
        present: Mapping[str, Tensor] | Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> FusionOutput:
        """As `forward`, with the states in between."""
        return super().outputs(*_by_name(inputs, present, image_mask))

    def weights(
        self,
        inputs: Mapping[str, Any],
        present: Mapping[str, Tensor] | Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> list[dict[str, Tensor]]:
        """As in `FusionModel`, {"text": [B, H, L_q, L_t], "image": [B, H, L_q, L_i]} a layer."""
        return super().weights(*_by_name(inputs, present, image_mask))


def _by_name(
    inputs: Mapping[str, Any],
    present: Mapping[str, Tensor] | Tensor | None,
    image_mask: Tensor | None,
) -> tuple[Mapping[str, Any], Mapping[str, Tensor] | None]:
    """Inputs and presence by name, from either order; the document's second input is a tensor."""
    if not isinstance(present, Tensor):
        if image_mask is not None:
            raise expected(
                'inputs by name with {"image": mask}', "a third input", "pass two mappings"
            )
        return inputs, present
    return {"text": inputs, "image": present}, {} if image_mask is None else {"image": image_mask}
