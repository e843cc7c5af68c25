"""Text: chapters 02 and 06. The word states of a BERT."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import BertConfig, BertModel

from mmlib.encoders.base import Encoder
from mmlib.errors import expected
from mmlib.tokens import Tokens


class TextEncoder(Encoder):
    """Word states of a BERT model as tokens [B, L, d].

    backbone is a Hugging Face `BertModel`; its last hidden state is used, not the pooled vector.
    Source: Devlin et al. (2019).
    """

    def __init__(self, backbone: BertModel, d: int):
        super().__init__(backbone, backbone.config.hidden_size, d)
        self.positions = backbone.config.max_position_embeddings

    def features(self, text: Mapping[str, Tensor]) -> Tokens:
        """{"input_ids": [B, L], "attention_mask": [B, L]} → Tokens [B, L, width].

        Raises UserError where a text is longer than the positions.
        """
        ids, mask = text["input_ids"], text["attention_mask"]
        if ids.shape[-1] > self.positions:
            raise expected(
                f"at most {self.positions} word pieces a text",
                ids.shape[-1],
                "cut the text in the tokenizer (truncation=True)",
            )
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return Tokens(states, mask.bool())

    def forward(self, text: Mapping[str, Tensor]) -> Tokens:
        """{"input_ids": [B, L], "attention_mask": [B, L]} → Tokens [B, L, d]."""
        return self.project(self.features(text))


def small_bert(vocabulary: int, width: int, layers: int, heads: int, positions: int) -> BertModel:
    """A BERT from its configuration, without pretrained weights and without the pooled head.

    width d, feed-forward width 4 d, positions = the longest text in word pieces.
    Source: Devlin et al. (2019).
    """
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)
