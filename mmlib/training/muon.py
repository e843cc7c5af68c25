"""Muon: momentum whose every direction gets the same length, for the matrices of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@torch.no_grad()
def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with singular values near 1: U V^T of U S V^T, for each of [N, m, n].

    Five steps of a quintic Newton–Schulz iteration, in float32 and batched: `torch.optim.Muon` runs
    them in bfloat16, which a processor without such units imitates slowly. The singular values come
    out between about 0.7 and 1.2, which the optimizer does not mind.

    Source: Jordan et al. (2024); the coefficients are theirs.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """w ← (1 − lr · decay) w − lr · 0.2 √max(m, n) · orthogonalize(momentum of the gradient).

    The factor gives the step the size of AdamW's (0.2 an entry, root mean square), so that one
    schedule and one weight decay serve both. Matrices of one shape are orthogonalized in one
    batched product. The state of a parameter is its momentum buffer.

    Raises ValueError for a parameter that is no matrix.
    Source: Jordan et al. (2024); Liu et al. (2025), sec. 2.2, for the factor.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() != 2:
                    raise ValueError(f"expected matrices, got {list(p.shape)}; give it to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step on all matrices that have a gradient [m, n]."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for (m, n), parameters in by_shape.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                buffers = [self._buffer(p) for p in parameters]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                # Nesterov: look one step ahead along the momentum
                ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
                updates = orthogonalize(torch.stack(ahead)).unbind()
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(m, n) ** 0.5
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * size)

    def _buffer(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state["momentum_buffer"]
