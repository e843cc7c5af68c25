"""What decides a run on the generated world."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mmlib.data.scenes.questions import check_reference
from mmlib.data.scenes.world import KINDS, check_objects
from mmlib.errors import expected
from mmlib.training.config import TrainingConfig, at_least, one_of
from mmlib.training.recipe import Recipe


@dataclass(frozen=True)
class SceneRecipe(Recipe):
    """One run on the generated world.

    pictures × questions a step; scenes of `objects` things, of 1 to 3 in the first `curriculum`
    share of the steps; dense and grounding weigh their losses (0 takes them away); location weighs
    the location questions in the mixture; coordinates and axes are how a cell knows its place
    (`GridEncoder`); modality "text" or "image" trains that one alone. reference "outermost" asks
    references as the world first did, so that the name need not be read (`sample_questions`).

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
    curriculum: float = 0.15
    dense: float = 1.0
    grounding: float = 0.5
    location: float = 1.5
    coordinates: bool = True
    axes: bool = True
    text_layers: int = 1
    dropout: float = 0.0
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        check_objects(self.objects)
        check_reference(self.reference)
        at_least("pictures questions text_layers", self, 1)
        at_least("seed curriculum dense grounding location dropout", self, 0)
        for name in ("curriculum", "dropout"):
            if getattr(self, name) >= 1:
                raise expected(f"{name} from 0 to below 1", getattr(self, name), "lower it")
        one_of("modality", self, ("both", "text", "image"))
        if self.pictures % self.training.accumulate:
            raise expected(
                f"accumulate to divide {self.pictures} pictures", self.training.accumulate,
                "change either",
            )  # fmt: skip

    def mixture(self) -> dict[str, float]:
        """Weights of the kinds of question once the curriculum is over."""
        # counting is the slowest to come, color and shape the first
        weights = dict.fromkeys(KINDS, 1.0) | {"color": 0.4, "shape": 0.4, "counting": 3.0}
        return weights | {"relation": 1.5, "reference": 1.3, "location": self.location}
