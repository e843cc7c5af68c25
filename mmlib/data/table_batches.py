"""The batches of a table: features and labels of rows in an order that is new in each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmlib.data.features import Features
from mmlib.training.seeds import derive_seed


def batch_of(
    features: Features,
    rows: Tensor,
    shown: Sequence[str],
    exchanged: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """{"value.M": [B, L, width], "mask.M": [B, L]} of these rows [B] for each modality M shown.

    exchanged {modality: rows [B]} names other rows from which a modality is taken instead. What is
    not shown is not in the batch.
    """
    batch = {}
    for name, tokens in features.tokens(rows, shown, exchanged).items():
        batch[f"value.{name}"], batch[f"mask.{name}"] = tokens.value, tokens.mask
    return batch


@dataclass(frozen=True)
class TableBatches:
    """The training batches of rows [n] with the modalities that are shown, for `fit`.

    target [N] are the classes of all rows. An epoch is ⌈n / batch_size⌉ steps in an order keyed by
    (seed, epoch), in which every row occurs once; its last batch may be smaller.
    """

    features: Features
    target: Tensor
    rows: Tensor
    shown: tuple[str, ...]
    batch_size: int
    seed: int

    def steps(self, epochs: int) -> int:
        """How many steps so many epochs are."""
        return -(-len(self.rows) // self.batch_size) * epochs

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of that step: `batch_of` its rows, and "label" [B]."""
        epoch, place = divmod(step, self.steps(1))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        order = torch.randperm(len(self.rows), generator=generator)
        rows = self.rows[order.split(self.batch_size)[place]]
        return {**batch_of(self.features, rows, self.shown), "label": self.target[rows]}
