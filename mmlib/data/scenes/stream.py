"""The streams of questions: what a step trains on, and what no step ever saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmlib.data.scenes.batches import collate, with_modality
from mmlib.data.scenes.questions import Question, sample_questions
from mmlib.data.scenes.stage import Stage
from mmlib.data.scenes.world import Scene

STREAMS = {"train": 1, "validation": 2, "test": 3}


@dataclass(frozen=True)
class SceneBatches:
    """The training batches, keyed by (seed, step): pictures × questions of a step's stage.

    A step belongs to the last of `stages` that has begun; the first begins at 0. modality "text" or
    "image" hides the other one. reference is how a reference is asked (`sample_questions`); of the
    nearest, a share `plain` of the pictures is asked in the plain way.
    """

    seed: int
    pictures: int
    questions: int
    stages: tuple[Stage, ...]
    modality: str = "both"
    reference: str = "nearest"
    plain: float = 0.0

    def batch(self, step: int) -> dict[str, Tensor]:
        """The questions of one step as tensors (`collate`)."""
        rng = np.random.default_rng([STREAMS["train"], self.seed, step])
        stage = [stage for stage in self.stages if stage.first <= step][-1]
        drawn = []
        for _ in range(self.pictures):
            # nothing is drawn where all is asked in one way, as when the first world was recorded
            eased = self.reference == "nearest" and self.plain and rng.random() < self.plain
            reference = "plain" if eased else self.reference
            drawn.append(
                sample_questions(
                    rng, stage.objects, self.questions, stage.weights, reference=reference
                )
            )
        return with_modality(collate(drawn), self.modality)


def held_out_scenes(
    stream: str, pictures: int, objects: tuple[int, int] = (1, 6), questions: int = 8,
    combinations: str = "train", reference: str = "nearest",
) -> list[tuple[Scene, list[Question]]]:  # fmt: skip
    """Scenes with their questions that no training step saw: the same for each seed.

    stream is "validation" or "test"; the kinds are asked in equal shares; reference and
    combinations are those of `sample_questions`.
    """
    rng = np.random.default_rng([STREAMS[stream], len(combinations)])
    return [
        sample_questions(rng, objects, questions, None, combinations, reference)
        for _ in range(pictures)
    ]


def held_out_questions(
    stream: str, pictures: int, objects: tuple[int, int] = (1, 6), questions: int = 8,
    combinations: str = "train", reference: str = "nearest",
) -> dict[str, Tensor]:  # fmt: skip
    """The questions of `held_out_scenes` as tensors (`collate`)."""
    return collate(held_out_scenes(stream, pictures, objects, questions, combinations, reference))
