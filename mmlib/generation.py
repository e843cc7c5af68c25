"""Generation: chapter 08. For now the document's `predict`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def predict(model: nn.Module, text_input: Mapping[str, Tensor], image_input: Tensor) -> Tensor:
    """The most probable class of each sample, [B]; the document's `predict`.

    text_input {"input_ids": [B, L], "attention_mask": [B, L]}, image_input [P, 3, size, size].
    The model is left in the mode in which it came. Source: the document, sec. 4.
    """
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        answer = model(text_input, image_input).argmax(dim=-1)
    model.train(was_training)
    return answer
