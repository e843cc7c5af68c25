"""Chapter 04's tasks: two words, four cells, so few inputs that every number about them is exact.

A text is two tokens; the first carries a symbol, the second is a filler. A picture is K cells. No
token has a position, so the order of the cells means nothing. Nothing is sampled: a task lists
every text, every picture, the answer to each pair and its probability.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.tokens import Tokens

K = 4  # cells in a picture


@dataclass(frozen=True)
class SymbolicTask:
    """All that can be asked: T texts, P pictures, and for each pair the answer and its weight.

    texts [T, 2, K + 1] and pictures [P, K, K + 2] are features, answer [T, P] holds 0 or 1,
    weight [T, P] is the probability of the pair (float64, sums to 1).
    """

    name: str
    asks: str
    texts: Tensor
    pictures: Tensor
    answer: Tensor
    weight: Tensor

    def pairs(self) -> tuple[Tokens, Tokens]:
        """Every text with every picture, T·P rows, text by text."""
        T, P = self.answer.shape
        texts = self.texts.repeat_interleave(P, 0)
        return Tokens.all_visible(texts), Tokens.all_visible(self.pictures.repeat(T, 1, 1))

    def averaged(self) -> SymbolicTask:
        """The same task with one vector a picture, the mean of its cells: [P, 1, K + 2]."""
        return replace(self, pictures=self.pictures.mean(1, keepdim=True))

    def digest(self) -> str:
        """SHA-256 of all that defines the task, the data hash of a record."""
        parts = (self.texts, self.pictures, self.answer, self.weight)
        return hashlib.sha256(b"".join(p.double().numpy().tobytes() for p in parts)).hexdigest()


def _texts(symbols: int, cells: int) -> Tensor:
    """Word 0 is a one-hot symbol, word 1 a filler that is the same in every text."""
    words = torch.zeros(symbols, 2, cells + 1)
    words[range(symbols), 0, range(symbols)] = 1
    words[:, 1, cells] = 1
    return words


def _bit_task(
    name: str, asks: str, answer: list[list[int]], weight: list[list[float]]
) -> SymbolicTask:
    """Text a and picture b are one bit each; b stands in one cell, the other cells are blank."""
    pictures = torch.zeros(2, K, K + 2)
    pictures[[0, 1], 0, [K, K + 1]] = 1
    probability = torch.tensor(weight, dtype=torch.float64)
    return SymbolicTask(name, asks, _texts(2, K), pictures, torch.tensor(answer), probability)


def reference(cells: int = K) -> SymbolicTask:
    """The text names a key; the answer is the value in the cell with that key.

    A cell is [one-hot key, one-hot value]. Every key stands in one cell, the values are fair bits:
    2^cells pictures, `cells` questions to each.
    """
    values = torch.tensor(list(product((0, 1), repeat=cells)))
    key = torch.eye(cells).expand(len(values), -1, -1)
    pictures = torch.cat([key, F.one_hot(values, 2).float()], -1)
    weight = torch.full((cells, len(values)), 1 / (cells * len(values)), dtype=torch.float64)
    asks = "the value in the cell that the text names"
    answer = values.T.contiguous()
    return SymbolicTask("reference", asks, _texts(cells, cells), pictures, answer, weight)


_EVEN = [[0.25, 0.25], [0.25, 0.25]]
TASKS: dict[str, SymbolicTask] = {
    task.name: task
    for task in (
        _bit_task("text_bit", "the text's bit a", [[0, 0], [1, 1]], _EVEN),
        _bit_task("image_bit", "the picture's bit b", [[0, 1], [0, 1]], _EVEN),
        # the answer off the diagonal is never asked for: a and b always agree
        _bit_task("redundant", "the bit that both carry", [[0, 0], [1, 1]], [[0.5, 0], [0, 0.5]]),
        _bit_task("xor", "whether a and b differ", [[0, 1], [1, 0]], _EVEN),
        reference(),
    )
}
