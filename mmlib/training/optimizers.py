"""Optimizers: which parameter gets which rate and decay, and the running mean of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.training.config import TrainingConfig
from mmlib.training.muon import Muon

BETAS = (0.9, 0.98)


def build_optimizers(task: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of all that requires a gradient, each parameter in one group of one of them.

    Decay holds parameters of two or more axes; a group's "peak_lr" is what the schedule scales.
    A parameter may carry `lr_scale`, which multiplies its rate (`scale_rates`). Under Muon are the
    matrices of the hidden layers, as `is_hidden_matrix` says.

    Source: Loshchilov & Hutter (2019); Jordan et al. (2024).
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, p in task.named_parameters():
        if p.requires_grad:
            muon = config.optimizer == "muon" and is_hidden_matrix(name, p)
            groups.setdefault((muon, p.dim() >= 2, getattr(p, "lr_scale", 1.0)), []).append(p)
    made: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for (muon, decays, scale), parameters in groups.items():
        peak = (config.muon_lr if muon else config.lr) * scale
        decay = config.weight_decay if decays else 0.0
        made[muon].append(
            {"params": parameters, "lr": peak, "peak_lr": peak, "weight_decay": decay}
        )
    optimizers: list[torch.optim.Optimizer] = []
    if made[False]:
        optimizers.append(torch.optim.AdamW(made[False], config.lr, BETAS))
    if made[True]:
        optimizers.append(Muon(made[True], config.muon_lr))
    return optimizers


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes it: a matrix [m, n] that is no embedding, no place and no head."""
    outer = ("embedding", "modality", "head", "supervision", "place", "row", "column", "cell")
    return parameter.dim() == 2 and not any(word in name for word in outer)


def scale_rates(module: nn.Module, scale: float) -> None:
    """Let a part learn at `scale` times the rate of the rest: a pretrained encoder at 0.1, say.

    Raises nothing; a scale of 0 stops it but still computes its gradient (freeze it instead).
    Source: Howard & Ruder (2018), discriminative fine-tuning.
    """
    for parameter in module.parameters():
        parameter.lr_scale = scale  # type: ignore[attr-defined]


class RunningMean:
    """The exponential moving average of a module's parameters: w̄ ← β w̄ + (1 − β) w.

    In its first steps β is (1 + t) / (10 + t), so that the start is forgotten.
    Source: Polyak & Juditsky (1992); Tarvainen & Valpola (2017).
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after that step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in module.named_parameters():
            self.values[name].lerp_(p, 1 - decay)

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """The mean stands in the module within the block; the weights come back after it."""
        parameters = dict(module.named_parameters())
        weights = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            _copy(self.values, parameters)
            yield
        finally:
            _copy(weights, parameters)


@torch.no_grad()
def _copy(values: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
