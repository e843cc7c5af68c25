"""What decides a run in which a language model learns to see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mmlib.data.scenes.world import check_objects
from mmlib.training.config import TrainingConfig, at_least
from mmlib.training.recipe import Recipe

_TRAINING = TrainingConfig(steps=2000, lr=4e-4, warmup_steps=50, lr_floor=0.0)
_BLOCKS = TrainingConfig(lr=2e-3, warmup_steps=50, lr_floor=0.0)
_PROJECTOR = TrainingConfig(warmup_steps=20, lr_floor=1.0)


@dataclass(frozen=True)
class LanguageRecipe(Recipe):
    """A language model with the picture tokens of the trained `small`, in three stages.

    The first, of block_steps, trains the projector without the language model: its tokens are drawn
    to the embeddings of the words that name what lies in their block. The second, of
    projector_steps, trains it with the language model frozen; the third, as `training` says, with
    LoRA of that rank beside all linear maps of the language model. A step takes `pictures` scenes
    of `objects` things, each with so many questions and a caption in one text; in the first stage,
    where nothing is asked, block_pictures.

    Raises UserError where no batch can be made of these figures.
    """

    kind: ClassVar[str] = "language"

    language: str
    seed: int = 0
    pictures: int = 4
    questions: int = 8
    block_pictures: int = 32
    objects: tuple[int, int] = (1, 6)
    rank: int = 16
    block_steps: int = 1500
    projector_steps: int = 100
    training: TrainingConfig = _TRAINING

    def __post_init__(self) -> None:
        check_objects(self.objects)
        at_least("pictures questions block_pictures rank", self, 1)
        at_least("seed block_steps projector_steps", self, 0)

    def stages(self) -> dict[str, TrainingConfig]:
        """The stages by name, in their order; one of 0 steps is left out."""
        found = {}
        if self.block_steps:
            found["blocks"] = replace(_BLOCKS, steps=self.block_steps)
        if self.projector_steps:
            lr = self.training.lr
            found["projector"] = replace(_PROJECTOR, steps=self.projector_steps, lr=lr)
        return {**found, "whole": self.training}
