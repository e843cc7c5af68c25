"""What decides a run in which a language model learns to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmlib.data.scenes.world import check_objects
from mmlib.training.config import TrainingConfig, at_least
from mmlib.training.recipe import Recipe

_BLOCKS = TrainingConfig(steps=1500, lr=2e-3, warmup_steps=50, lr_floor=0.0)
_PROJECTOR = TrainingConfig(steps=100, lr=4e-4, warmup_steps=20, lr_floor=1.0)
_WHOLE = TrainingConfig(steps=2000, lr=4e-4, warmup_steps=50, lr_floor=0.0)


@dataclass(frozen=True)
class LanguageRecipe(Recipe):
    """A language model with the picture tokens of the trained `small`, in three stages.

    blocks trains the projector without the language model: its tokens are drawn to the embeddings
    of the words that name what lies in their block. projector trains it with the language model
    frozen, whole with LoRA of that rank beside all its linear maps. A step takes `pictures` scenes
    of `objects` things, each with so many questions and a caption in one text; at `blocks`, where
    nothing is asked, block_pictures.

    Raises UserError where no batch can be made of these figures.
    """

    kind: ClassVar[str] = "language"

    language: str = "smollm2-135m-instruct"
    seed: int = 0
    pictures: int = 4
    questions: int = 8
    block_pictures: int = 32
    objects: tuple[int, int] = (1, 6)
    rank: int = 16
    blocks: TrainingConfig = _BLOCKS
    projector: TrainingConfig = _PROJECTOR
    whole: TrainingConfig = _WHOLE

    def __post_init__(self) -> None:
        check_objects(self.objects)
        at_least("pictures questions block_pictures rank", self, 1)
        at_least("seed", self, 0)
