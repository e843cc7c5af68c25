"""Models: chapters 06, 08, 10, 16. Encoders, a stack of fusion layers, a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from mmlib.blocks import TransformerBlock
from mmlib.encoders import (
    GridEncoder,
    TextEncoder,
    resnet50_grid,
    resnet_for_small_pictures,
    small_bert,
)
from mmlib.errors import expected
from mmlib.fusion import FUSIONS, MergedAttention, build_fusion
from mmlib.tokens import Tokens

MODALITIES = ("text", "image")


@dataclass(frozen=True)
class ModelConfig:
    """All that decides the shape of a `MultimodalBert`; round-trips through JSON.

    d width, heads H, layers of fusion; text_layers of BERT below them (width text_width);
    image "small" (64-pixel ResNet, 8×8 cells) or "resnet50" (7×7 cells at 224 pixels).
    """

    classes: int
    vocabulary: int
    positions: int = 32
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
        positions=512, image="resnet50", image_size=224,
    ),
}  # fmt: skip


def preset(name: str, classes: int, vocabulary: int, **changes: Any) -> ModelConfig:
    """The configuration of that size: "tiny" (seconds), "small" (minutes), "base" (the document's).

    `base` has BERT-base, ResNet-50, width 768 and 8 heads. Raises UserError for another name.
    """
    if name not in PRESETS:
        raise expected(f"a preset of {', '.join(PRESETS)}", f"'{name}'", "choose one of these")
    return replace(ModelConfig(classes, vocabulary, **PRESETS[name]), **changes)


@dataclass(frozen=True)
class Trace:
    """What a forward pass computed, for training signals and for looking inside.

    logits [B, C]; layers[l] the query tokens [B, L, d] after fusion layer l (the last one holds
    only the first token); text [B, L, d] and image [P, L_i, d] the tokens as they enter fusion.
    """

    logits: Tensor
    layers: tuple[Tokens, ...]
    text: Tokens
    image: Tokens


class MultimodalBert(nn.Module):
    """The document's model: BERT, a ResNet grid, fusion layers whose queries are the text, a head.

    The answer is read at the first text token ([CLS]). A token-level fusion stands in `layers`
    pre-norm Transformer blocks; a pooled one is applied once, without residual or norm, so that
    late fusion with this linear head stays a sum of logits.

    Source: the document, sec. 4, with the repairs of chapter 06.
    """

    def __init__(
        self, text: nn.Module, image: nn.Module, d: int, heads: int, layers: int, fusion: str,
        classes: int, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.text, self.image = text, image
        self.modality = nn.Embedding(len(MODALITIES), d)
        nn.init.normal_(self.modality.weight, std=0.02)
        pooled = fusion in FUSIONS and FUSIONS[fusion].pooled
        methods = [
            build_fusion(fusion, d, MODALITIES, heads) for _ in range(1 if pooled else layers)
        ]
        if pooled:
            self.fusion = nn.ModuleList(methods)
            self.head: nn.Module = nn.Linear(d, classes)
        else:
            self.fusion = nn.ModuleList(TransformerBlock(m, d, dropout=dropout) for m in methods)
            self.head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, classes))
        self.pooled = pooled

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
            config.vocabulary, config.text_width, config.text_layers, config.text_heads,
            config.positions,
        )  # fmt: skip
        return cls(
            TextEncoder(bert, config.d),
            GridEncoder(
                body(), width, config.d, config.image_size, config.coordinates, config.axes
            ),
            config.d, config.heads, config.layers, config.fusion, config.classes, config.dropout,
        )  # fmt: skip

    def forward(
        self,
        text_input: Mapping[str, Tensor],
        image_input: Tensor,
        image_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, C] of B texts about P pictures, B a multiple of P.

        text_input {"input_ids": [B, L], "attention_mask": [B, L]}; text b belongs to picture
        b // (B / P). image_input [P, 3, size, size], float in [−1, 1]; image_mask [P], False where
        there is no picture. A missing text is an attention_mask that is True at [CLS] alone.
        """
        return self.trace(text_input, image_input, image_mask).logits

    def trace(
        self,
        text_input: Mapping[str, Tensor],
        image_input: Tensor,
        image_mask: Tensor | None = None,
    ) -> Trace:
        """As `forward`, with the states in between."""
        return self.fuse(self.text(text_input), self.image(image_input, image_mask))

    def fuse(self, text: Tokens, image: Tokens) -> Trace:
        """The model above its encoders: text [B, L_t, d], image [P, L_i, d], both projected."""
        entering = text = Tokens(text.value + self.modality.weight[0], text.mask)
        image = Tokens(image.value + self.modality.weight[1], image.mask)
        if self.pooled:
            first = Tokens(text.value[:, :1], text.mask[:, :1])
            h = Tokens(self.fusion[0](first, {"text": text, "image": image}), first.mask)
            return Trace(self.head(h.value[:, 0]), (h,), entering, image)
        states: list[Tokens] = []
        for number, block in enumerate(self.fusion):
            # the head reads only the first token, so the last layer computes no other
            queries = 1 if number == len(self.fusion) - 1 else None
            text = block(text, {"image": image}, queries=queries)
            states.append(text)
        return Trace(self.head(text.value[:, 0]), tuple(states), entering, image)

    def weights(
        self, text_input: Mapping[str, Tensor], image_input: Tensor
    ) -> list[dict[str, Tensor]]:
        """Where each layer of merged attention looks: {modality: [B, H, L_q, L_m]} a layer.

        The first query of the last layer is the one that answers. Raises UserError for another
        fusion. A weight says what was mixed, not what decided (chapter 09).
        """
        looking = []
        trace = self.trace(text_input, image_input)
        asked = (trace.text, *trace.layers[:-1])
        for block, text in zip(self.fusion, asked, strict=True):
            mixer = getattr(block, "mixer", None)
            if not isinstance(block, TransformerBlock) or not isinstance(mixer, MergedAttention):
                raise expected("merged attention", "another fusion", "choose fusion='merged'")
            looking.append(mixer.weights(*block.mixed(text, {"image": trace.image})))
        return looking
