"""What every encoder is: a backbone that reads its modality, and a linear map to width d.

A new encoder says two things of its inputs: `shape`, how many rows and tokens they make, and
`read`, what the backbone makes of them. Missing rows, freezing and projection are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.tokens import Tokens


class Encoder(nn.Module):
    """A backbone with a projection to width d; all of the backbone, or parts of it, may be frozen.

    `encoder(inputs, present)` gives Tokens [B, L, d]: `features` runs the backbone and returns its
    own Tokens [B, L, width] (to be cached where the backbone is frozen), `project` maps them.

    Rows that lack the modality never reach the backbone, so that whatever stands in them (NaN
    included) changes neither the other rows, through BatchNorm, nor any gradient.
    """

    def __init__(self, backbone: nn.Module, width: int, d: int):
        super().__init__()
        self.backbone = backbone
        self.proj = nn.Linear(width, d)
        self.frozen: tuple[str, ...] = ()  # names within the backbone; "" is the whole of it

    # --- what an encoder adds ---------------------------------------------------------------------

    def shape(self, inputs: Any) -> tuple[int, int]:
        """Rows B and tokens a row L that these inputs give: inputs [B, L, …] unless overridden.

        Raises UserError where the inputs have another form than the encoder reads.
        """
        return int(inputs.shape[0]), int(inputs.shape[1])

    def read(self, inputs: Any) -> Tokens:
        """What the backbone makes of B ≥ 1 rows that have the modality: Tokens [B, L, width]."""
        return Tokens.all_visible(self.backbone(inputs))

    # --- what all share ---------------------------------------------------------------------------

    def features(self, inputs: Any, present: Tensor | None = None) -> Tokens:
        """Inputs of B rows → the backbone's Tokens [B, L, width].

        present [B] is False where a sample lacks the modality: its tokens are zeros, none of which
        may be attended, and the backbone does not see the row. With no row left it does not run.

        Raises UserError as `shape`, for an empty batch, and where `present` is not boolean [B].
        """
        B, L = self.shape(inputs)
        if B < 1 or L < 1:
            raise expected(
                "one or more rows of one or more tokens", f"{B} of {L}", "leave empty batches out"
            )
        if present is None:
            return self.read(inputs)
        present = check_present(present, B, self.proj.weight.device)
        if present.all():
            return self.read(inputs)
        if not present.any():
            width = self.proj.in_features
            nothing = self.proj.weight.new_zeros(B, L, width)
            return Tokens(nothing, present[:, None].expand(B, L))
        found = self.read(_rows(inputs, present))
        value = found.value.new_zeros(B, *found.value.shape[1:])
        mask = found.mask.new_zeros(B, found.mask.shape[1])
        value[present], mask[present] = found.value, found.mask
        return Tokens(value, mask)

    def project(self, features: Tokens) -> Tokens:
        """Features of the backbone [B, L, width] → tokens [B, L, d]."""
        return Tokens(self.proj(features.value), features.mask)

    def forward(self, inputs: Any, present: Tensor | None = None) -> Tokens:
        """Inputs of B rows, present [B] → Tokens [B, L, d]; raises UserError as `features`."""
        return self.project(self.features(inputs, present))

    # --- freezing ---------------------------------------------------------------------------------

    def stages(self) -> list[str]:
        """The names of the backbone's parts with weights, from the input to the output.

        "conv1", "bn1", "layer1", … of a ResNet; "embeddings", "encoder.layer.0", … of a BERT. So
        `freeze(*encoder.stages()[:-1])` leaves the last stage to be trained.
        """
        return _stages(self.backbone)

    def freeze(self, *names: str) -> Encoder:
        """Stop the training of the backbone, or of the parts of it that are named (see `stages`).

        What is frozen gets no gradient, and stays in evaluation mode from now on, whatever
        `train()` says: otherwise its BatchNorm would go on moving its statistics, and dropout
        would blur features that nothing can adapt. Returns the encoder.

        Raises UserError for a part that the backbone does not have.
        Source: Yosinski et al. (2014) for training the later layers alone.
        """
        known = {name for name, _ in self.backbone.named_modules()}
        if unknown := [name for name in names if name not in known]:
            raise expected(
                f"parts of the backbone ({', '.join(self.stages())})", ", ".join(unknown),
                "choose among stages()",
            )  # fmt: skip
        self.frozen = tuple(dict.fromkeys((*self.frozen, *(names or ("",)))))
        for part in self._frozen_parts():
            part.requires_grad_(False).eval()
        return self

    def unfreeze(self) -> Encoder:
        """Let the whole backbone be trained again: gradients, and the mode of the encoder."""
        self.frozen = ()
        self.backbone.requires_grad_(True).train(self.training)
        return self

    def train(self, mode: bool = True) -> Encoder:
        """As in PyTorch, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        return [self.backbone.get_submodule(name) for name in self.frozen]


def check_present(present: Tensor, rows: int, device: torch.device) -> Tensor:
    """present [rows] on the device; raises UserError where it is another type or shape."""
    if not isinstance(present, Tensor) or present.dtype != torch.bool or present.shape != (rows,):
        got = (
            f"{present.dtype} {list(present.shape)}"
            if isinstance(present, Tensor)
            else type(present).__name__
        )
        raise expected(
            f"a boolean tensor of shape [{rows}] for what is present", got,
            "pass one True or False a row",
        )  # fmt: skip
    return present.to(device)


def _rows(inputs: Any, present: Tensor) -> Any:
    """The rows that are present, of a tensor or of each tensor of a mapping."""
    if isinstance(inputs, Mapping):
        return {name: _rows(x, present) for name, x in inputs.items()}
    return inputs[present.to(inputs.device)]


def _stages(module: nn.Module, prefix: str = "") -> list[str]:
    parts = [(n, m) for n, m in module.named_children() if any(True for _ in m.parameters())]
    names = []
    for name, part in parts:
        inner = [m for _, m in part.named_children()]
        holder = isinstance(part, nn.ModuleList) or len(parts) == 1 or len(inner) == 1
        opens = bool(inner) and holder and not (isinstance(part, nn.Sequential) and len(parts) > 1)
        names += _stages(part, f"{prefix}{name}.") if opens else [prefix + name]
    return names
