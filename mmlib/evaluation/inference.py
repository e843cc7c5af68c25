"""The one way to ask a model without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the block `module` is in evaluation mode and no gradient is kept.

    Afterwards each part is in the mode in which it came: `train()` at the end would wake dropout
    and BatchNorm in a part that its owner had put to rest.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
