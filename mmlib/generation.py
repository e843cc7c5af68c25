"""Generation: chapter 08. For now the document's `predict`, and the mode in which one predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without gradients; afterwards as it came.

    Every module gets back its own mode: a BatchNorm that stood still in a model that trains does
    so again, and after an error too.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


def predict(model: nn.Module, *inputs: Any) -> Tensor:
    """The most probable class of each sample, [B]; the document's `predict`.

    inputs are the model's own, and go to its device: text_input {"input_ids": [B, L],
    "attention_mask": [B, L]} and image_input [P, 3, size, size] in the document's order, or
    {modality: input} and {modality: present} by name. The modes of the model's modules are left as
    they came. Source: the document, sec. 4.
    """
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    with evaluating(model):
        return model(*_to(inputs, device)).argmax(dim=-1)


def _to(x: Any, device: torch.device) -> Any:
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, Mapping):
        return {name: _to(value, device) for name, value in x.items()}
    return tuple(_to(value, device) for value in x) if isinstance(x, tuple) else x
