"""A model over any modalities: chapters 06, 14. An encoder a name, fusion layers, a head.

The first name is the one whose tokens ask: they are the queries of every fusion layer, and the
answer is read at the first of them. A new modality is an encoder and a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmlib.blocks import TransformerBlock
from mmlib.errors import expected
from mmlib.fusion import FUSIONS, MergedAttention, build_fusion
from mmlib.tokens import Tokens


@dataclass(frozen=True)
class FusionOutput:
    """What a forward pass computed, for training signals and for looking inside.

    logits [B, C]; hidden_states[l] the asking tokens [B, L, d] after fusion layer l (the last one
    holds only the first token); tokens {modality: [B or P, L_m, d]} as they enter the fusion.
    """

    logits: Tensor
    hidden_states: tuple[Tokens, ...]
    tokens: dict[str, Tokens]


class FusionModel(nn.Module):
    """Encoders by name, fusion layers whose queries are the first one's tokens, a head.

    encoders {modality: encoder}: `encoder(inputs, present)` returns Tokens [rows, L, d], see
    `mmlib.encoders.Encoder`. A token-level fusion stands in `layers` pre-norm Transformer blocks; a
    pooled one is applied once, without residual or norm, so that late fusion with this linear head
    stays a sum of logits.

    Raises UserError for an unknown fusion, too few modalities and a name that cannot be one.
    Source: the document, sec. 4, with the repairs of chapter 06, for more than two modalities.
    """

    def __init__(
        self, encoders: Mapping[str, nn.Module], d: int, heads: int, layers: int, fusion: str,
        num_classes: int, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.modalities = tuple(encoders)
        for name in self.modalities:
            if "." in name or not name or hasattr(nn.ModuleDict(), name):
                raise expected(
                    "names of modalities without a dot, none of them a name of PyTorch's own",
                    f"'{name}'", "choose another name",
                )  # fmt: skip
        self.encoders = nn.ModuleDict(encoders)
        self.modality = nn.Embedding(len(self.modalities), d)
        nn.init.normal_(self.modality.weight, std=0.02)
        self.pooled = fusion in FUSIONS and FUSIONS[fusion].pooled
        methods = [
            build_fusion(fusion, d, self.modalities, heads)
            for _ in range(1 if self.pooled else layers)
        ]
        if self.pooled:
            self.fusion = nn.ModuleList(methods)
            self.head: nn.Module = nn.Linear(d, num_classes)
        else:
            self.fusion = nn.ModuleList(TransformerBlock(m, d, dropout=dropout) for m in methods)
            self.head = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, num_classes))

    def forward(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Logits [B, C] of inputs {modality: what its encoder reads}.

        The first modality has B rows; another may have P of them, B a multiple of P: row b belongs
        to row b // (B / P), as B questions on P pictures do. present {modality: [rows]} is False
        where a sample lacks the modality; what is not named there is present.

        Raises UserError where inputs or `present` do not fit the modalities.
        """
        return self.outputs(inputs, present).logits

    def outputs(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> FusionOutput:
        """As `forward`, with the states in between."""
        present = present or {}
        self._check_names(inputs, "inputs")
        if unknown := sorted(set(present) - set(self.modalities)):
            raise expected(
                f"presence of {', '.join(self.modalities)}", ", ".join(unknown), "check the names"
            )
        return self.fuse(
            {name: self.encoders[name](inputs[name], present.get(name)) for name in self.modalities}
        )

    def fuse(self, tokens: Mapping[str, Tokens]) -> FusionOutput:
        """The model above its encoders: tokens {modality: [rows, L_m, d]} as these return them.

        Raises UserError where a modality is lacking, unknown, or of another width.
        """
        self._check_names(tokens, "tokens")
        # zeros where nothing may be attended: what stands in the padding touches no gradient
        entering = {
            name: Tokens(tokens[name].visible() + vector, tokens[name].mask)
            for name, vector in zip(self.modalities, self.modality.weight, strict=True)
        }
        asking = self.modalities[0]
        states = entering[asking]
        if self.pooled:
            first = Tokens(states.value[:, :1], states.mask[:, :1])
            h = Tokens(self.fusion[0](first, entering), first.mask)
            return FusionOutput(self.head(h.value[:, 0]), (h,), entering)
        others = {name: x for name, x in entering.items() if name != asking}
        hidden_states: list[Tokens] = []
        for number, block in enumerate(self.fusion):
            # the head reads only the first token, so the last layer computes no other
            queries = 1 if number == len(self.fusion) - 1 else None
            states = block(states, others, queries=queries)
            hidden_states.append(states)
        return FusionOutput(self.head(states.value[:, 0]), tuple(hidden_states), entering)

    def weights(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> list[dict[str, Tensor]]:
        """Where each layer of merged attention looks: {modality: [B, H, L_q, L_m]} a layer.

        The first query of the last layer is the one that answers. Raises UserError for another
        fusion. A weight says what was mixed, not what decided (chapter 09).
        """
        asking, looking = self.modalities[0], []
        out = self.outputs(inputs, present)
        others = {name: x for name, x in out.tokens.items() if name != asking}
        asked = (out.tokens[asking], *out.hidden_states[:-1])
        for block, states in zip(self.fusion, asked, strict=True):
            mixer = getattr(block, "mixer", None)
            if not isinstance(block, TransformerBlock) or not isinstance(mixer, MergedAttention):
                raise expected("merged attention", "another fusion", "choose fusion='merged'")
            looking.append(mixer.weights(*block.mixed(states, others)))
        return looking

    def _check_names(self, given: Mapping[str, Any], what: str) -> None:
        if set(given) != set(self.modalities):
            raise expected(
                f"{what} of {', '.join(self.modalities)}",
                ", ".join(given) or "none",
                "pass a modality that no sample has too, with `present` all False",
            )
