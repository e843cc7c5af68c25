"""How the steps of a run are taken (`TrainingConfig`) and how it is executed (`Execution`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmlib.errors import expected


@dataclass(frozen=True)
class TrainingConfig:
    """How the steps are taken; every schedule counts steps, never the clock.

    steps of the optimizer; lr is reached after warmup_steps, held until the share decay_from of the
    steps is over, and then follows a cosine down to lr_floor · lr; weight_decay holds weights of
    two or more axes (matrices, kernels), not biases, norms or single vectors; max_grad_norm bounds
    the gradient's norm; accumulate splits a batch into so many microbatches; evaluate_every counts
    steps; precision is "no" or "bf16". optimizer is "adamw", or "muon" for the matrices of the
    hidden layers (at muon_lr) with AdamW for the rest. ema_decay above 0 evaluates, and keeps as
    the best, a running mean of the weights.

    Raises UserError for a figure with which no step can be taken.
    Source: Loshchilov & Hutter (2017; 2019); Jordan et al. (2024) for Muon.
    """

    steps: int = 2400
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_from: float = 0.0
    lr_floor: float = 0.03
    max_grad_norm: float = 1.0
    accumulate: int = 1
    evaluate_every: int = 100
    precision: str = "no"
    optimizer: str = "adamw"
    muon_lr: float = 2e-3
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        at_least("steps accumulate evaluate_every", self, 1)
        at_least("warmup_steps decay_from lr weight_decay lr_floor muon_lr ema_decay", self, 0)
        if not 0 < self.max_grad_norm:
            remedy = "name a bound, 1.0 say: 0 would leave no gradient"
            raise expected("max_grad_norm above 0", self.max_grad_norm, remedy)
        if not self.decay_from <= 1:
            raise expected("decay_from up to 1", self.decay_from, "name a share of the steps")
        if not self.ema_decay < 1:
            raise expected("ema_decay below 1", self.ema_decay, "0 turns it off, 0.99 is usual")
        one_of("precision", self, ("no", "bf16"))
        one_of("optimizer", self, ("adamw", "muon"))

    def schedule(self, step: int) -> float:
        """The share of lr at that step, counted from 0: linear warm-up, 1, then a cosine.

        It is 1 from the end of the warm-up until decay_from · steps, if that is later, and lr_floor
        after the last step.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        falls = max(self.warmup_steps, round(self.decay_from * self.steps))
        through = max(0, step - falls) / max(1, self.steps - falls)
        return self.lr_floor + (1 - self.lr_floor) * 0.5 * (1 + math.cos(math.pi * through))


@dataclass(frozen=True)
class Execution:
    """How a run is executed, which changes neither what it computes nor whether it may go on.

    workers make batches beside the training; checkpoint_every so many steps the run is saved;
    device "auto" takes a GPU where there is one, "cpu" does not.

    Raises UserError for figures with which no step can be taken.
    """

    workers: int = 1
    checkpoint_every: int = 100
    device: str = "auto"

    def __post_init__(self) -> None:
        at_least("workers", self, 0)
        at_least("checkpoint_every", self, 1)
        one_of("device", self, ("auto", "cpu"))


def at_least(names: str, values: object, bound: float) -> None:
    """Raises UserError where one of the named fields is below the bound, or is not finite."""
    for name in names.split():
        value = getattr(values, name)
        # not "<": a NaN is refused as well
        if not bound <= value < math.inf:
            raise expected(f"{name} of {bound} or more", value, "choose a number in that range")


def one_of(name: str, values: object, allowed: tuple[str, ...]) -> None:
    """Raises UserError where the named field is none of the words allowed."""
    value = getattr(values, name)
    if value not in allowed:
        raise expected(f"{name} {' or '.join(allowed)}", f"'{value}'", "choose one")
