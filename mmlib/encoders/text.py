"""Text: chapters 02 and 06. The word states of a BERT."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel

from mmlib.encoders.base import Encoder
from mmlib.errors import expected
from mmlib.tokens import Tokens

TOGETHER = 64  # so many texts are read at a time: few enough to be alike, enough to be fast


class TextEncoder(Encoder):
    """Word states of a BERT model as tokens [B, L, d].

    backbone is a Hugging Face `BertModel`; its last hidden state is used, not the pooled vector.
    Source: Devlin et al. (2019).
    """

    def __init__(self, backbone: BertModel, d: int):
        super().__init__(backbone, backbone.config.hidden_size, d)
        self.max_position_embeddings = backbone.config.max_position_embeddings

    def shape(self, inputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """B and L of {"input_ids": [B, L], "attention_mask": [B, L]}.

        Raises UserError where one of them is lacking or has another form, and where a text is
        longer than the positions.
        """
        if not isinstance(inputs, Mapping) or not {"input_ids", "attention_mask"} <= set(inputs):
            got = ", ".join(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise expected("input_ids and attention_mask", got, "pass what the tokenizer returns")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise expected(
                "input_ids of integers [B, L]", f"{ids.dtype} {list(ids.shape)}",
                "call the tokenizer with return_tensors='pt'",
            )  # fmt: skip
        if mask.shape != ids.shape or mask.is_floating_point():
            raise expected(
                f"an attention_mask of booleans or integers {list(ids.shape)}",
                f"{mask.dtype} {list(mask.shape)}", "pass one 0 or 1 a word piece",
            )  # fmt: skip
        if ids.shape[1] > self.max_position_embeddings:
            raise expected(
                f"at most {self.max_position_embeddings} word pieces a text",
                ids.shape[1],
                "cut the text in the tokenizer (truncation=True)",
            )
        return ids.shape[0], ids.shape[1]

    def read(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """{"input_ids": [B, L], "attention_mask": [B, L]} → last hidden states [B, L, width]."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        mask = mask.bool()
        if ids.device.type != "cpu":  # to ask for lengths would be to wait for the device
            read = self.backbone(input_ids=ids, attention_mask=mask)
            return Tokens(read.last_hidden_state, mask)
        # Texts of like length are read together, so that little padding is computed.
        lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        order = lengths.argsort(stable=True)
        states = []
        for rows in order.split(TOGETHER):
            L = max(1, int(lengths[rows[-1]]))
            read = self.backbone(input_ids=ids[rows, :L], attention_mask=mask[rows, :L])
            states.append(F.pad(read.last_hidden_state, (0, 0, 0, mask.shape[1] - L)))
        return Tokens(torch.cat(states)[order.argsort()], mask)


def small_bert(
    vocab_size: int, width: int, layers: int, heads: int, max_position_embeddings: int
) -> BertModel:
    """A BERT from its configuration, without pretrained weights and without the pooled head.

    width d, feed-forward width 4 d, max_position_embeddings the longest text in word pieces.
    Source: Devlin et al. (2019).
    """
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_position_embeddings,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    # for texts this short the fused kernel takes longer than the formula
    config._attn_implementation = "eager"
    return BertModel(config, add_pooling_layer=False)
