"""The streams of questions: what a step trains on, and what no step ever saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmlib.data.scenes.batches import tensors, with_modality
from mmlib.data.scenes.questions import sample_questions

STREAMS = {"train": 1, "validation": 2, "test": 3}
EASY_KINDS = ("existence", "counting", "color", "shape", "location")


@dataclass(frozen=True)
class SceneBatches:
    """The training batches, keyed by (seed, step): pictures × questions of `mixture`'s kinds.

    In the first easy_steps steps scenes have at most three things, and `EASY_KINDS` are asked in
    equal shares. modality "text" or "image" hides the other one; reference is how a reference is
    asked (`sample_questions`).
    """

    seed: int
    pictures: int
    questions: int
    objects: tuple[int, int]
    mixture: dict[str, float]
    easy_steps: float = 0.0
    modality: str = "both"
    reference: str = "nearest"

    def batch(self, step: int) -> dict[str, Tensor]:
        """The questions of one step as tensors (`collate`)."""
        rng = np.random.default_rng([STREAMS["train"], self.seed, step])
        objects, weights = self.objects, self.mixture
        if step < self.easy_steps:
            objects = (objects[0], min(3, objects[1]))
            weights = {kind: float(weights[kind] > 0) for kind in EASY_KINDS}
        drawn = [
            sample_questions(rng, objects, self.questions, weights, reference=self.reference)
            for _ in range(self.pictures)
        ]
        return with_modality(tensors(drawn), self.modality)


def held_out_questions(
    stream: str, pictures: int, objects: tuple[int, int] = (1, 6), questions: int = 8,
    combinations: str = "train", reference: str = "nearest",
) -> dict[str, Tensor]:  # fmt: skip
    """Questions that no training step saw: the same for each seed, kinds in equal shares.

    stream is "validation" or "test"; the tensors are those of `collate`.
    """
    rng = np.random.default_rng([STREAMS[stream], len(combinations)])
    drawn = [
        sample_questions(rng, objects, questions, None, combinations, reference)
        for _ in range(pictures)
    ]
    return tensors(drawn)
