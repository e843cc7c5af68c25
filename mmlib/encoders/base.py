"""What every encoder is: a backbone that reads its modality, and a linear map to width d.

Every encoder has the same three parts: `features` runs the backbone and returns its own Tokens
(to be cached where the backbone is frozen), `project` maps them to width d, the call does both.
"""

from __future__ import annotations

from torch import nn

from mmlib.tokens import Tokens


class Encoder(nn.Module):
    """A backbone with a projection to width d; the backbone may be frozen.

    A frozen backbone stays in evaluation mode whatever `train()` says: otherwise its BatchNorm
    would go on moving its statistics, and dropout would blur features that nothing can adapt.
    """

    def __init__(self, backbone: nn.Module, width: int, d: int):
        super().__init__()
        self.backbone, self.frozen = backbone, False
        self.to_d = nn.Linear(width, d)

    def freeze(self) -> Encoder:
        """Stop the backbone's training: no gradient, and evaluation mode for good."""
        self.frozen = True
        self.backbone.requires_grad_(False).eval()
        return self

    def train(self, mode: bool = True) -> Encoder:
        """As in PyTorch, but a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def project(self, features: Tokens) -> Tokens:
        """Features of the backbone [B, L, width] → tokens [B, L, d]."""
        return Tokens(self.to_d(features.value), features.mask)
