"""A task for `fit` that takes milliseconds: three classes of points in the plane, with dropout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.losses import cross_entropy, label_weight
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.seeds import derive_seed
from mmlib.training.task import Task

CONFIG = TrainingConfig(steps=12, lr=0.05, warmup_steps=3, accumulate=2, evaluate_every=4)
IGNORED = -100  # no label
EXECUTION = Execution(workers=0, checkpoint_every=5, device="cpu")


def nothing(step: int) -> None:
    """What happens before a batch where a test wants nothing."""


@dataclass
class Points:
    """Eight points a step, labeled by how many of x and y are positive; few labels in the first
    microbatch and many in the last. before_batch(step) is called first, so that a test can pull the
    plug there.
    """

    seed: int = 0
    before_batch: Any = nothing

    def batch(self, step: int) -> dict[str, Tensor]:
        self.before_batch(step)
        rng = np.random.default_rng([7, self.seed, step])
        x = torch.from_numpy(rng.standard_normal((8, 2))).float()
        target = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        target[1:4] = IGNORED
        return {"x": x, "target": target}


class Toy(Task):
    """A small network with two parts of a loss."""

    def __init__(self, seed: int = 0, dropout: float = 0.3):
        super().__init__()
        torch.manual_seed(derive_seed(seed))
        self.net = nn.Sequential(nn.Linear(2, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))

    def counts(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "answer": label_weight(batch["target"]),
            "size": torch.tensor(float(len(batch["x"]))),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        logits = self.net(batch["x"])
        return {
            "answer": cross_entropy(logits, batch["target"]),
            "size": (0.01 * logits.square().sum(), torch.tensor(float(len(logits)))),
        }

    def score(self) -> dict[str, float]:
        was_training = self.training
        self.eval()
        x = torch.linspace(-1, 1, 20).view(10, 2)
        right = self.net(x).argmax(-1) == (x > 0).sum(-1)
        self.train(was_training)
        return {"overall": right.float().mean().item()}


def run(
    out: Path, config: TrainingConfig = CONFIG, execution: Execution = EXECUTION, seed: int = 0,
    dropout: float = 0.3, before_batch: Any = nothing,
) -> tuple[dict[str, Tensor], Toy]:  # fmt: skip
    """Train a toy into `out`; its weights at the end, and the task."""
    task = Toy(seed, dropout)
    fit(
        task, Points(seed, before_batch), config, out, {"toy": seed}, seed=seed,
        evaluate=task.score, execution=execution,
    )  # fmt: skip
    return {name: x.clone() for name, x in task.state_dict().items()}, task


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bitwise equality of two state dicts."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
