"""The model of chapter 04's tasks, and its exact scores: expectations over all inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.book.symbols import SymbolicTask
from mmlib.fusion import build_fusion
from mmlib.tokens import Tokens

TIE = 1e-3  # logits closer than this are equal


class SymbolicModel(nn.Module):
    """One linear map a modality, one fusion, one linear head: nothing else could make the answer.

    logits = W_head (q + fuse(q, streams))[first word], q the text tokens at width d.
    """

    def __init__(self, task: SymbolicTask, fusion: str, d: int = 16, H: int = 4):
        super().__init__()
        self.text = nn.Linear(task.texts.shape[-1], d)
        self.image = nn.Linear(task.pictures.shape[-1], d)
        self.fusion = build_fusion(fusion, d, ("text", "image"), H)
        self.head = nn.Linear(d, 2)

    def streams(self, texts: Tokens, pictures: Tokens) -> dict[str, Tokens]:
        """Both sides at width d: {"text": [B, 2, d], "image": [B, K, d]}."""
        return {
            "text": Tokens(self.text(texts.value), texts.mask),
            "image": Tokens(self.image(pictures.value), pictures.mask),
        }

    def forward(self, texts: Tokens, pictures: Tokens) -> Tensor:
        """texts [B, 2, K + 1], pictures [B, K, K + 2] → logits [B, 2]."""
        streams = self.streams(texts, pictures)
        q = streams["text"]
        return self.head((q.value + self.fusion(q, streams))[:, 0])


def expected_loss(logits: Tensor, task: SymbolicTask) -> Tensor:
    """Expected cross-entropy over all pairs, nats; logits [T·P, 2] as `Task.pairs` orders them."""
    each = F.cross_entropy(logits, task.answer.flatten(), reduction="none")
    return (each * task.weight.flatten().to(each.dtype)).sum()


def expected_accuracy(logits: Tensor, task: SymbolicTask, exchange: str = "") -> float:
    """The exact accuracy over all pairs; logits [T·P, 2] as `Task.pairs` orders them.

    exchange "picture" ("text") asks each question with the picture (text) of an independent draw:
    the control that shows what the model makes of that side. Logits closer than `TIE` are a tie and
    count half: what separates them is the rounding of a sum, which knows the order of its terms.
    """
    T, P = task.answer.shape
    first, second = logits.double().reshape(T, P, 2).unbind(-1)
    tie = (first - second).abs() < TIE
    says_one = torch.where(tie, 0.5, (second > first).double())  # P(prediction = 1)
    w = task.weight
    if exchange == "picture":
        says_one = (says_one @ w.sum(0))[:, None].expand(T, P)
    elif exchange == "text":
        says_one = (w.sum(1) @ says_one).expand(T, P)
    right = torch.where(task.answer == 1, says_one, 1 - says_one)
    return float((w * right).sum())
