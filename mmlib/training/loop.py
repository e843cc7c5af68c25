"""The document's loop: chapter 07's seven lines, with a word about a batch that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmlib.errors import UserError, expected
from mmlib.losses import check_labels


def train(
    model: nn.Module, dataloader: Iterable, optimizer: torch.optim.Optimizer, criterion: nn.Module
) -> list[float]:
    """One pass over the data, the document's signature; returns the loss of each batch.

    The dataloader gives (text_input, image_input, target): what `model` takes, and target [B].
    Raises UserError where a label is not a class, or the loss or its gradient is not finite; the
    weights are then those before the bad batch. Source: the document, sec. 4.
    """
    model.train()
    losses = []
    for number, (text_input, image_input, target) in enumerate(dataloader):
        optimizer.zero_grad()
        output = model(text_input, image_input)
        ignored = getattr(criterion, "ignore_index", -100)
        check_labels(target, output.shape[-1], ignored, f"batch {number}")
        loss = criterion(output, target)
        require_finite(loss, f"batch {number}")
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        require_finite(nn.utils.get_total_norm(gradients), f"batch {number}", "gradient")
        optimizer.step()
        losses.append(loss.item())
    return losses


def require_finite(value: Tensor, where: str, what: str = "loss") -> None:
    """Raises UserError where a scalar value is NaN or infinite, naming the batch."""
    if not torch.isfinite(value):
        raise expected(
            f"a finite {what}", f"{value.item()} at {where}",
            "look at that batch, or lower the learning rate",
        )  # fmt: skip


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Adds the place, as in "step 12 of seed 0", to a user error raised within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} ({where})") from error
