"""Pictures: chapters 02 and 06. The grid of a ResNet, each cell with its place."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.func import functional_call
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

    places: Tensor

    def __init__(
        self, backbone: nn.Module, width: int, d: int, image_size: int, coordinates: bool = True,
        axes: bool = True,
    ):  # fmt: skip
        super().__init__(backbone, width, d)
        self.image_size = image_size
        h, w = map_size(backbone, image_size)
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

    def shape(self, inputs: Tensor) -> tuple[int, int]:
        """P and h·w of pictures [P, 3, image_size, image_size], float in [−1, 1] or uint8.

        Raises UserError where they have another shape or type.
        """
        size = self.image_size
        if inputs.dim() != 4 or inputs.shape[1:] != (3, size, size):
            raise expected(
                f"pictures of shape [B, 3, {size}, {size}]",
                list(inputs.shape),
                "resize them, channels first",
            )
        if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
            raise expected(
                "pictures in float or uint8", inputs.dtype, "scale them with scale_pixels"
            )
        return inputs.shape[0], self.places.shape[0]

    def read(self, inputs: Tensor) -> Tokens:
        """Pictures [P, 3, image_size, image_size] → Tokens [P, h·w, width], row by row."""
        pictures = scale_pixels(inputs) if inputs.dtype == torch.uint8 else inputs
        return Tokens.all_visible(self.backbone(pictures).flatten(2).transpose(1, 2))

    def project(self, features: Tokens) -> Tokens:
        """Features [B, h·w, width] → tokens [B, h·w, d] that carry their place."""
        learned = self.row + self.column if self.axes else self.cell
        x = self.proj(features.value) + learned.flatten(0, 1)
        if self.place is not None:
            x = x + self.place(self.places)
        return Tokens(self.norm(x), features.mask)


def scale_pixels(pixels: Tensor, channels_last: bool = False) -> Tensor:
    """Pixels from 0 to 255 (uint8) as the encoders read them: float from −1 to 1, channels first.

    pixels [..., 3, h, w], or [..., h, w, 3] where channels_last → [..., 3, h, w].
    Raises UserError for another type (a float has been scaled, no one knows how) or shape.
    """
    channels = -1 if channels_last else -3
    if pixels.dtype != torch.uint8 or pixels.dim() < 3 or pixels.shape[channels] != 3:
        raise expected(
            f"pixels in uint8 of shape {'[..., h, w, 3]' if channels_last else '[..., 3, h, w]'}",
            f"{pixels.dtype} {list(pixels.shape)}",
            "convert the picture to RGB, and say where the channels stand",
        )
    return (pixels.movedim(-1, -3) if channels_last else pixels).float() / 127.5 - 1


def map_size(backbone: nn.Module, image_size: int) -> tuple[int, int]:
    """Height and width of the map of a convolutional network for pictures of image_size pixels.

    It runs on the meta device, which computes shapes and nothing else, so that neither the modes
    nor the statistics of its BatchNorm are touched.
    """
    named = [*backbone.named_parameters(), *backbone.named_buffers()]
    on_meta = {name: x.detach().to("meta") for name, x in named}
    # two pictures: BatchNorm in training mode refuses a single value a channel
    pictures = torch.empty(2, 3, image_size, image_size, device="meta")
    h, w = functional_call(backbone, on_meta, pictures).shape[-2:]
    return int(h), int(w)


def resnet_grid(resnet: ResNet) -> nn.Sequential:
    """torchvision's ResNet without pooling and classifier: [B, 3, h, w] → [B, 2048, h/32, w/32].

    A ResNet of basic blocks has 512 channels instead. Source: He et al. (2016).
    """
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))


def resnet_for_small_pictures() -> nn.Sequential:
    """A ResNet for 64-pixel pictures, cut at stride 8: [B, 3, 64, 64] → [B, 128, 8, 8].

    torchvision's blocks with a 3×3 stem; one block a stage, two stages.
    Source: He et al. (2016), sec. 4.2, the small-picture form.
    """
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    resnet.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    return nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))


def resnet50_grid() -> nn.Sequential:
    """ResNet-50 without pretrained weights as a grid: [B, 3, 224, 224] → [B, 2048, 7, 7].

    Source: He et al. (2016).
    """
    return resnet_grid(ResNet(Bottleneck, [3, 4, 6, 3]))
