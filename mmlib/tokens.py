"""What every encoder returns and every fusion takes: a sequence of vectors and its mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmlib.errors import expected


@dataclass(frozen=True)
class Tokens:
    """A batch of sequences: value [B, L, d], mask [B, L], True where a token may be attended.

    Text, picture, sound and sensor rows all take this form. A modality that is missing in a
    sample is a row of the mask that is all False, never a special case.

    block [B, L] numbers the tokens in the order in which they may be seen, where there is one: a
    token sees those whose number is not greater (`attention_mask`). Causal: 0, 1, 2, …; a prefix:
    0 on it, then 1, 2, …. Without numbers all see all.

    Raises UserError where the mask is not boolean, the block numbers are not whole, or either does
    not fit the value.
    """

    value: Tensor
    mask: Tensor
    block: Tensor | None = None

    def __post_init__(self) -> None:
        if self.value.dim() != 3:
            raise expected(
                "tokens of shape [B, L, d]", list(self.value.shape), "add the axis that is missing"
            )
        shape = self.value.shape[:2]
        if self.mask.dtype != torch.bool or self.mask.shape != shape:
            raise expected(
                f"a boolean mask of shape {list(shape)}",
                f"{self.mask.dtype} {list(self.mask.shape)}",
                "pass one True or False a token",
            )
        if self.block is not None and (self.block.shape != shape or not is_whole(self.block)):
            raise expected(
                f"whole block numbers of shape {list(shape)}",
                f"{self.block.dtype} {list(self.block.shape)}",
                "number each token of each row",
            )

    @classmethod
    def all_visible(cls, value: Tensor, block: Tensor | None = None) -> Tokens:
        """Tokens without padding: value [B, L, d], every mask entry True."""
        mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
        return cls(value, mask, block)

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """The sequences one after the other, [B, ΣL, d].

        Where some have block numbers the others get 0: a picture is seen by each word.
        """
        block = None
        if any(part.block is not None for part in parts):
            numbers = [
                torch.zeros_like(p.mask).long() if p.block is None else p.block for p in parts
            ]
            block = torch.cat(numbers, 1)
        return cls(
            torch.cat([p.value for p in parts], 1), torch.cat([p.mask for p in parts], 1), block
        )

    def with_value(self, value: Tensor) -> Tokens:
        """Other vectors [B, L, …] under the same mask and block numbers."""
        return replace(self, value=value)

    def first(self, n: int | None) -> Tokens:
        """The first n tokens of each sequence, all of them where n is None."""
        if n is None:
            return self
        block = None if self.block is None else self.block[:, :n]
        return Tokens(self.value[:, :n], self.mask[:, :n], block)

    def absent(self) -> Tokens:
        """The same tokens with nothing to attend to: what a missing modality looks like."""
        return replace(self, mask=torch.zeros_like(self.mask))

    def visible(self) -> Tensor:
        """The value [B, L, d] with zeros at the masked tokens, whatever stood there.

        Padding may hold inf or NaN, which no weight of zero undoes: 0 · inf is NaN, in the result
        and in the gradient of each layer that has read it. So this comes before the first layer.
        """
        return torch.where(self.mask.unsqueeze(-1), self.value, 0)

    def through(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f of the visible tokens, back in their places: [B, L, w], zeros at the masked ones.

        f takes N tokens [N, d] to [N, w], each by itself: a linear map, a norm, a feed-forward
        part. Padding is neither read nor computed. Value and gradient are those of
        `f(self.value)` where the mask is True.
        """
        # A traced graph cannot depend on their number, and to ask an accelerator is to wait for it.
        if torch.compiler.is_compiling() or self.mask.device.type != "cpu":
            return torch.where(self.mask.unsqueeze(-1), f(self.visible()), 0)
        rows = self.mask.flatten().nonzero()[:, 0]
        if len(rows) == self.mask.numel():
            return f(self.value)
        y = f(self.value.flatten(0, 1).index_select(0, rows))
        out = y.new_zeros(self.mask.numel(), y.shape[-1]).index_copy_(0, rows, y)
        return out.view(*self.mask.shape, -1)

    def mean(self) -> Tensor:
        """Mean over the visible tokens [B, d]; a row with no visible token gives zeros."""
        count = self.mask.sum(1, keepdim=True).clamp(min=1)
        return self.visible().sum(1) / count.to(self.value.dtype)


def is_whole(x: Tensor) -> bool:
    """Whether x [...] holds whole numbers by its type; True and False are none."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
