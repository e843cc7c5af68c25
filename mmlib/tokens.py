"""What every encoder returns and every fusion takes: a sequence of vectors and its mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlib.errors import expected


@dataclass(frozen=True)
class Tokens:
    """A batch of sequences: value [B, L, d], mask [B, L], True where a token may be attended.

    Text, picture, sound and sensor rows all take this form. A modality that is missing in a
    sample is a row of the mask that is all False, never a special case.

    Raises UserError where the mask is not boolean or does not fit the value.
    """

    value: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.value.dim() != 3:
            raise expected(
                "tokens of shape [B, L, d]", list(self.value.shape), "add the axis that is missing"
            )
        if self.mask.dtype != torch.bool or self.mask.shape != self.value.shape[:2]:
            raise expected(
                f"a boolean mask of shape {list(self.value.shape[:2])}",
                f"{self.mask.dtype} {list(self.mask.shape)}",
                "pass one True or False a token",
            )

    @classmethod
    def all_visible(cls, value: Tensor) -> Tokens:
        """Tokens without padding: value [B, L, d], every mask entry True."""
        return cls(value, torch.ones(value.shape[:2], dtype=torch.bool, device=value.device))

    def absent(self) -> Tokens:
        """The same tokens with nothing to attend to: what a missing modality looks like."""
        return Tokens(self.value, torch.zeros_like(self.mask))

    def visible(self) -> Tensor:
        """The value [B, L, d] with zeros at the masked tokens, whatever stood there.

        Padding may hold inf or NaN, which no weight of zero undoes: 0 · inf is NaN.
        """
        return torch.where(self.mask.unsqueeze(-1), self.value, 0)

    def mean(self) -> Tensor:
        """Mean over the visible tokens [B, d]; a row with no visible token gives zeros."""
        count = self.mask.sum(1, keepdim=True).clamp(min=1)
        return self.visible().sum(1) / count.to(self.value.dtype)
