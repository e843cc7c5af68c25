"""What decides a run on the generated world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmlib.data.scenes.questions import check_reference
from mmlib.data.scenes.stage import Stage
from mmlib.data.scenes.world import check_objects
from mmlib.errors import expected
from mmlib.training.config import TrainingConfig, at_least, one_of
from mmlib.training.recipe import Recipe

EASY_KINDS = ("existence", "counting", "color", "shape", "location")
_TRAINING = TrainingConfig(
    steps=2400, lr=3e-3, warmup_steps=100, decay_from=0.75, lr_floor=0.0, optimizer="muon",
    muon_lr=3e-3, ema_decay=0.98,
)  # fmt: skip
# counting is the slowest of the easy kinds to come, color and shape the first
_MIXTURE = {
    "existence": 1.0, "counting": 3.0, "color": 0.4, "shape": 0.4, "comparison": 1.0,
    "location": 1.5, "relation": 1.5, "reference": 1.3,
}  # fmt: skip


@dataclass(frozen=True)
class SceneRecipe(Recipe):
    """One run on the generated world.

    pictures × questions a step; scenes of `objects` things. The questions come in stages, whose
    ends are shares of the steps: `curriculum` ends the easy kinds on 1 to 3 things, and from
    `focus` on relation and reference, then reference alone, are asked most. location weighs the
    location questions. dense and grounding weigh their losses (0 takes them away); coordinates and
    axes are how a cell knows its place (`GridEncoder`); modality "text" or "image" trains that one
    alone. reference is how a reference is asked (`sample_questions`): "outermost" as the world
    first did; of the "nearest", a share `plain` of the pictures is asked in the plain way.

    Each cause of success is one field, so that chapter 07 can take it away. Raises UserError where
    no batch can be made of these figures.
    """

    kind: ClassVar[str] = "scenes"

    preset: str = "small"
    seed: int = 0
    fusion: str = "merged"
    modality: str = "both"
    pictures: int = 32
    questions: int = 8
    objects: tuple[int, int] = (1, 6)
    reference: str = "nearest"
    plain: float = 0.5
    curriculum: float = 0.06
    focus: tuple[float, float] = (0.15, 0.35)
    dense: float = 1.0
    grounding: float = 0.0
    location: float = 1.5
    coordinates: bool = True
    axes: bool = True
    text_layers: int = 1
    dropout: float = 0.0
    training: TrainingConfig = _TRAINING

    def __post_init__(self) -> None:
        check_objects(self.objects)
        check_reference(self.reference)
        at_least("pictures questions", self, 1)
        at_least("seed plain curriculum dense grounding location text_layers dropout", self, 0)
        for name in ("curriculum", "dropout"):
            if getattr(self, name) >= 1:
                raise expected(f"{name} from 0 to below 1", getattr(self, name), "lower it")
        if not self.plain <= 1:
            raise expected("plain from 0 to 1", self.plain, "it is a share of the pictures")
        if not self.curriculum <= self.focus[0] <= self.focus[1]:
            raise expected(
                "focus in rising order, not before the end of curriculum",
                self.focus,
                "1 1 asks all kinds alike to the end",
            )
        one_of("modality", self, ("both", "text", "image"))
        if self.pictures % self.training.accumulate:
            raise expected(
                f"accumulate to divide {self.pictures} pictures", self.training.accumulate,
                "change either",
            )  # fmt: skip

    def stages(self) -> tuple[Stage, ...]:
        """What is asked when: easy kinds; all; relation and reference most; reference most."""
        few = (self.objects[0], min(3, self.objects[1]))
        weights = _MIXTURE | {"location": self.location}
        easy = {kind: float(weights[kind] > 0) for kind in EASY_KINDS}
        related = weights | {kind: 5 * weights[kind] for kind in ("relation", "reference")}
        referred = weights | {
            "reference": 8 * weights["reference"], "counting": 2 * weights["counting"],
        }  # fmt: skip
        begins = (0.0, self.curriculum, *self.focus)
        asked = ((few, easy), *((self.objects, w) for w in (weights, related, referred)))
        steps = self.training.steps
        return tuple(Stage(share * steps, *what) for share, what in zip(begins, asked, strict=True))
