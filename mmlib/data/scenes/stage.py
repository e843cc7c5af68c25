"""A stage of training on the generated world: what is asked from one step on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """From step `first` on: pictures of so many things [low, high], and weights of the kinds."""

    first: float
    objects: tuple[int, int]
    weights: dict[str, float]
