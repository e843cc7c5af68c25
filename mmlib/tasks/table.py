"""What is trained on a table: a fusion model above frozen backbones, and its loss.

The backbones are not part of it: it reads the features that they gave (`mmlib.data.features`), so
it holds, and a checkpoint of it holds, what is trained and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.data.frozen import FrozenColumn
from mmlib.models import FusionModel
from mmlib.tokens import Tokens
from mmlib.training.task import Batch, Task


class TableTask(Task):
    """A `FusionModel` that is given the backbones' tokens, and cross entropy weighted by class.

    absent {modality: Tokens [1, L, width]} stands for a modality that a batch does not have;
    class_weight [C] weighs the classes in the loss, all alike where it is not given.
    """

    class_weight: Tensor

    def __init__(
        self,
        model: FusionModel,
        absent: Mapping[str, Tokens],
        class_weight: Tensor,
    ):
        super().__init__()
        self.model = model
        self.register_buffer("class_weight", class_weight, persistent=False)
        for name, tokens in absent.items():
            self.register_buffer(f"absent_{name}", tokens.value.float(), persistent=False)
            self.register_buffer(f"absent_{name}_mask", tokens.mask, persistent=False)

    @classmethod
    def new(
        cls, columns: Mapping[str, FrozenColumn], d: int, heads: int, layers: int, fusion: str,
        dropout: float, class_weight: Tensor, seed: int,
    ) -> TableTask:  # fmt: skip
        """A task for these columns, of which the first asks; its weights are drawn from the seed.

        class_weight [C]. Raises UserError for an unknown fusion.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            encoders = {name: column.encoder(d) for name, column in columns.items()}
            model = FusionModel(encoders, d, heads, layers, fusion, len(class_weight), dropout)
        for encoder in encoders.values():
            encoder.backbone = nn.Identity()
        absent = {name: column.absent() for name, column in columns.items()}
        return cls(model, absent, class_weight)

    def logits(self, batch: Batch) -> Tensor:
        """[B, C] from {"value.M": [B, L, width], "mask.M": [B, L]}, a modality M or more."""
        size = next(len(x) for name, x in batch.items() if name.startswith("value."))
        tokens = {}
        for name in self.model.modalities:
            if f"value.{name}" in batch:
                given = Tokens(batch[f"value.{name}"], batch[f"mask.{name}"])
                tokens[name] = self._project(name, given)
            else:
                tokens[name] = self._absent(name, size)
        return self.model.fuse(tokens).logits

    def _project(self, name: str, tokens: Tokens) -> Tokens:
        return self.model.encoders[name].project(tokens)  # type: ignore[operator]

    def _absent(self, name: str, size: int) -> Tokens:
        """What stands for the modality, [size, L, d]; projected once for all rows."""
        value, mask = self.get_buffer(f"absent_{name}"), self.get_buffer(f"absent_{name}_mask")
        tokens = self._project(name, Tokens(value, mask))
        kept = max(1, int(mask.sum()))  # where nothing may be attended one token is enough
        return Tokens(
            tokens.value[:, :kept].expand(size, -1, -1), tokens.mask[:, :kept].expand(size, -1)
        )

    def forward(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """{"label": (Σ w_y · (−log p_y), Σ w_y)}, eq. (5.1) with a weight w for each class."""
        label = batch["label"]
        total = F.cross_entropy(
            self.logits(batch).float(), label, self.class_weight, reduction="sum"
        )
        return {"label": (total, self.class_weight[label].sum())}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """{"label": Σ w_y}."""
        return {"label": self.class_weight[batch["label"]].sum()}


def balanced_weights(target: Tensor, num_classes: int) -> Tensor:
    """N / (C · n_c) for each class [C], n_c its rows: rare classes count as much as frequent ones.

    target [N]. Source: scikit-learn's class_weight="balanced"; King & Zeng (2001).
    """
    counts = target.bincount(minlength=num_classes).clamp(min=1)
    return len(target) / (num_classes * counts)
