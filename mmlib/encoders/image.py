"""Pictures: chapters 02 and 06. The grid of a ResNet, each cell with its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from mmlib.encoders.base import Encoder
from mmlib.errors import expected
from mmlib.tokens import Tokens


class GridEncoder(Encoder):
    """The cells of a convolutional network's last map as tokens [B, h·w, d], row by row.

    backbone maps pictures [B, 3, height, width] to a map [B, width, h, w]. The cells keep their
    places: a learned vector for each row and each column (without `axes` one for each cell) and,
    with `coordinates`, a linear map of x and y in [−1, 1], so that "left of" is a difference and
    need not be learned cell by cell.

    Source: He et al. (2016) for ResNet; the document keeps one pooled vector instead (section 4.3).
    """

    def __init__(
        self, backbone: nn.Module, width: int, d: int, size: int, coordinates: bool = True,
        axes: bool = True,
    ):  # fmt: skip
        super().__init__(backbone, width, d)
        self.size = size
        with torch.no_grad():
            probe = self._map(torch.zeros(1, 3, size, size))
        h, w = probe.shape[-2:]
        self.axes = axes
        if axes:
            self.row = nn.Parameter(torch.randn(h, 1, d) * 0.3)
            self.column = nn.Parameter(torch.randn(1, w, d) * 0.3)
        else:
            self.cell = nn.Parameter(torch.randn(h, w, d) * 0.3)
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        self.register_buffer("places", torch.stack([x, y], -1).flatten(0, 1), persistent=False)
        self.place = nn.Linear(2, d, bias=False) if coordinates else None
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.7)
        self.norm = nn.LayerNorm(d)

    def _map(self, pictures: Tensor) -> Tensor:
        was_training = self.backbone.training
        self.backbone.eval()  # the probe must not touch BatchNorm's statistics
        out = self.backbone(pictures)
        self.backbone.train(was_training)
        return out

    def features(self, pictures: Tensor, mask: Tensor | None = None) -> Tokens:
        """Pictures [B, 3, size, size], float in [−1, 1] → Tokens [B, h·w, width].

        mask [B] is False where a sample has no picture: none of its cells may be attended then.
        Raises UserError where the pictures have another shape.
        """
        if pictures.dim() != 4 or pictures.shape[1:] != (3, self.size, self.size):
            raise expected(
                f"pictures of shape [B, 3, {self.size}, {self.size}]",
                list(pictures.shape),
                "resize them, channels first",
            )
        cells = self.backbone(pictures).flatten(2).transpose(1, 2)
        present = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
        present = present if mask is None else mask
        return Tokens(cells, present[:, None].expand(cells.shape[:2]))

    def project(self, features: Tokens) -> Tokens:
        """Features [B, h·w, width] → tokens [B, h·w, d] that carry their place."""
        learned = self.row + self.column if self.axes else self.cell
        x = self.to_d(features.value) + learned.flatten(0, 1)
        if self.place is not None:
            x = x + self.place(self.places)
        return Tokens(self.norm(x), features.mask)

    def forward(self, pictures: Tensor, mask: Tensor | None = None) -> Tokens:
        """Pictures [B, 3, size, size], float in [−1, 1], mask [B] → Tokens [B, h·w, d]."""
        return self.project(self.features(pictures, mask))


def resnet_grid(resnet: ResNet) -> nn.Sequential:
    """torchvision's ResNet without pooling and classifier: [B, 3, h, w] → [B, 2048, h/32, w/32].

    A ResNet of basic blocks has 512 channels instead. Source: He et al. (2016).
    """
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(*(getattr(resnet, name) for name in names))


def resnet_for_small_pictures() -> nn.Sequential:
    """A ResNet for 64-pixel pictures, cut at stride 8: [B, 3, 64, 64] → [B, 128, 8, 8].

    torchvision's blocks with a 3×3 stem; one block a stage, two stages.
    Source: He et al. (2016), sec. 4.2, the small-picture form.
    """
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    resnet.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    return nn.Sequential(*(getattr(resnet, name) for name in names))


def resnet50_grid() -> nn.Sequential:
    """ResNet-50 without pretrained weights as a grid: [B, 3, 224, 224] → [B, 2048, 7, 7].

    Source: He et al. (2016).
    """
    return resnet_grid(ResNet(Bottleneck, [3, 4, 6, 3]))
