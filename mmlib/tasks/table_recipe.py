"""What decides a run on a table; it loads no torch, so that the command line can ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmlib.errors import expected
from mmlib.training.config import at_least
from mmlib.training.recipe import Recipe


@dataclass(frozen=True)
class TableRecipe(Recipe):
    """All that decides a run on a table; round-trips through JSON.

    data is the CSV; group_column names what must stay on one side of a split (a name, a shop, a
    day). image_size is a picture's in pixels, text_length the longest text in word pieces. The
    defaults of the last three lines were chosen on a part of one training fold of pomology.

    Raises UserError for a figure with which nothing can be trained.
    """

    kind: ClassVar[str] = "table"

    data: str
    image_column: str
    text_column: str
    label_column: str
    group_column: str | None = None
    seed: int = 0
    folds: int = 5
    text_encoder: str = "all-MiniLM-L6-v2"
    image_encoder: str = "efficientnet-lite0"
    image_size: int = 160
    text_length: int = 64
    fusion: str = "merged"
    d: int = 128
    heads: int = 4
    layers: int = 1
    dropout: float = 0.3
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        at_least("folds", self, 2)  # one is tested, the others train
        at_least("d heads layers epochs batch_size", self, 1)
        at_least("seed dropout weight_decay learning_rate", self, 0)
        at_least("text_length", self, 3)  # [CLS], a word, [SEP]
        at_least("image_size", self, 32)  # one cell of a network that divides by 32
        if self.learning_rate == 0:
            raise expected("learning_rate above 0", 0, "0.001 is usual")
        if self.dropout >= 1:
            raise expected("dropout from 0 to below 1", self.dropout, "lower it")
        if self.d % self.heads:
            raise expected(
                f"heads that divide the width d = {self.d}", self.heads, "change one of the two"
            )

    @property
    def inputs(self) -> dict[str, str]:
        """{modality: its column}, in the order in which reports name them."""
        return {"image": self.image_column, "text": self.text_column}
