"""The one way to ask a model without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Within the block `module` is in evaluation mode and no gradient is kept.

    Afterwards, and after an error too, each part is in the mode in which it came: `train()` would
    wake dropout and BatchNorm in a part that its owner had put to rest. What is computed may serve
    as a target of training, which inference mode would forbid.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield module
    finally:
        for part, training in modes.items():
            part.training = training
