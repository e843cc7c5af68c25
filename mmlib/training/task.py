"""What is trained, as `fit` sees it: a module that gives its losses, data that gives batches."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmlib.errors import UserError, expected

Batch = dict[str, Tensor]


class Task(nn.Module):
    """A model with its losses: `forward(batch)` gives {part: (sum, count)}, each weight included.

    A part of the loss is its sum over all its count, once: k microbatches, or k processes, then
    give the gradient of one batch, where a mean of means would weigh a label by how few it shares
    its microbatch with. The counts must be known before the first backward pass, so `counts` gives
    them from the labels alone, and `forward` returns those same.

    by_sample is False for a loss that is no sum over samples (a contrastive one, which compares a
    batch's samples with each other): its pieces would be another loss, and `fit` refuses them.
    """

    by_sample: ClassVar[bool] = True

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """{part: (sum, count)} of a batch, or of a part of one."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """{part: count}, scalar tensors: what each part's sum is divided by."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after each step of the optimizer: the place for a bound on a parameter."""


class Data(Protocol):
    """Where the batches come from; a worker gets a copy, so it holds no model."""

    def batch(self, step: int) -> Batch:
        """The batch of that step, the same whenever and wherever it is asked for."""


class Share(Dataset):
    """The microbatches of one process by step, so that a loader may start anywhere.

    A batch is cut into processes · accumulate pieces; process r takes its `accumulate` of them.
    """

    def __init__(self, data: Data, processes: int, process: int, accumulate: int):
        self.data, self.accumulate = data, accumulate
        self.pieces = processes * accumulate
        self.first = process * accumulate

    def __getitem__(self, step: int) -> list[Batch] | UserError:
        try:
            pieces = split(self.data.batch(step), self.pieces)
        except UserError as error:  # raised in a worker it would come with a stack trace around it
            return error
        return pieces[self.first : self.first + self.accumulate]


def split(batch: Batch, pieces: int) -> list[Batch]:
    """A batch {name: [rows, …]} in pieces of whole pictures with all their questions.

    The tensors may differ in rows (B questions on P pictures), each a multiple of `pieces`.
    Raises UserError where one is not.
    """
    if pieces == 1:
        return [batch]
    for name, x in batch.items():
        if len(x) % pieces:
            raise expected(
                f"a batch that {pieces} pieces divide", f"{len(x)} rows of '{name}'",
                "change accumulate, the processes or the batch",
            )  # fmt: skip
    parts = {name: x.tensor_split(pieces) for name, x in batch.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(pieces)]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on that device; from pinned memory the copy runs beside the computation."""
    return {name: x.to(device, non_blocking=True) for name, x in batch.items()}
