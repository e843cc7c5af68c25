"""Losses: chapter 05."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmlib.errors import expected


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore: int = -1
) -> tuple[Tensor, Tensor]:
    """−log p(y | x_t, x_i; θ), eq. (3.3), summed over the labelled positions, and its divisor.

    logits [N, C], target [N] with classes 0 … C − 1, or `ignore` where there is no label; weight
    [C] counts a class more or less. Returns (sum, divisor): the sum in nats and the summed weight
    of the labels. They are returned apart because a batch that is computed in pieces must be
    divided once, by the labels of all pieces.

    Raises UserError where a label is not a class. Source: the document, sec. 3.3.
    """
    check_labels(target, logits.shape[-1], ignore)
    total = F.cross_entropy(
        logits.float(), target, weight=weight, ignore_index=ignore, reduction="sum"
    )
    return total, label_weight(target, weight, ignore)


def label_weight(target: Tensor, weight: Tensor | None = None, ignore: int = -1) -> Tensor:
    """The divisor of a mean loss: the labels in target [N], each at its class weight [C]."""
    labels = target[target != ignore]
    if weight is not None:
        check_labels(labels, len(weight), ignore)
    return weight[labels].sum() if weight is not None else labels.new_tensor(len(labels)).float()


def check_labels(target: Tensor, classes: int, ignore: int = -1, where: str = "") -> None:
    """Raises UserError where target [N] holds what is neither a class, 0 to C − 1, nor `ignore`.

    where, as in "batch 3", is named in the message.
    """
    wrong = target[(target != ignore) & ((target < 0) | (target >= classes))]
    if len(wrong):
        raise expected(
            f"labels from 0 to {classes - 1}",
            f"{int(wrong[0])}{where and f' at {where}'}",
            "number the classes from 0, or build the head with more classes",
        )
