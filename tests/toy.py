"""A task for `fit` that takes milliseconds: three classes of points in the plane, with dropout."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.losses import cross_entropy, label_weight
from mmlib.training.fit import Optimization, fit, key

HOW = Optimization(
    steps=12, learning_rate=0.05, warmup=3, accumulate=2, workers=0, checkpoint_every=5,
    evaluate_every=4,
)  # fmt: skip


def nothing(step: int) -> None:
    """What happens before a batch where a test wants nothing."""


class Toy:
    """Two parts of a loss; the labels are few in the first piece of a batch and many in the last.

    before_batch(step) is called first, so that a test can pull the plug there.
    """

    def __init__(self, seed: int = 0, dropout: float = 0.3, before_batch=nothing):
        self.seed, self.before_batch = seed, before_batch
        torch.manual_seed(key(seed))
        self.module = nn.Sequential(
            nn.Linear(2, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3)
        )

    def batch(self, step: int) -> dict[str, Tensor]:
        self.before_batch(step)
        rng = np.random.default_rng([7, self.seed, step])
        x = torch.from_numpy(rng.standard_normal((8, 2))).float()
        target = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        target[1:4] = -1
        return {"x": x, "target": target}

    def pieces(self, batch: dict[str, Tensor], number: int) -> list[dict[str, Tensor]]:
        split = {name: x.chunk(number) for name, x in batch.items()}
        return [{name: parts[i] for name, parts in split.items()} for i in range(number)]

    def losses(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        logits = self.module(batch["x"])
        return {
            "answer": cross_entropy(logits, batch["target"]),
            "size": (0.01 * logits.square().sum(), torch.tensor(float(len(logits)))),
        }

    def divisors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "answer": label_weight(batch["target"]),
            "size": torch.tensor(float(len(batch["x"]))),
        }

    def score(self) -> dict[str, float]:
        was_training = self.module.training
        self.module.eval()
        x = torch.linspace(-1, 1, 20).view(10, 2)
        right = self.module(x).argmax(-1) == (x > 0).sum(-1)
        self.module.train(was_training)
        return {"overall": right.float().mean().item()}


def run(out: Path, how: Optimization = HOW, **arguments: Any) -> tuple[dict[str, Tensor], Toy]:
    """Train a toy into `out`; its weights at the end, and the task."""
    task = Toy(**arguments)
    fit(task, how, out, {"toy": task.seed})
    return {name: x.clone() for name, x in task.module.state_dict().items()}, task


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bitwise equality of two state dicts."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
