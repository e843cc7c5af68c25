"""The networks of pretrained pictures: what stands between an encoder's pictures and their weights.

Source: He et al. (2016) for ResNet; Tan and Le (2019) for EfficientNet; Lite0 is a variant of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from mmlib.encoders.image import resnet_grid, scale_pixels
from mmlib.errors import expected


class PictureGrid(nn.Module):
    """Pictures to a grid of vectors: [B, 3, h, w] to [B, width, h', w'], h' = h/32 rounded up.

    Pictures are uint8 from 0 to 255, or floating point from -1 to 1 as the encoders pass them. The
    network's own scaling, (x - mean) / scale a channel with x from 0 to 1, is part of this module,
    so that no caller can forget it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, width: int, mean: tuple[float, ...], scale: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.width = width
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, h, w] to [B, width, h', w']; raises UserError for another shape."""
        if pictures.dim() != 4 or pictures.shape[1] != 3:
            raise expected(
                "pictures of shape [B, 3, h, w]",
                list(pictures.shape),
                "convert them to RGB, channels first",
            )
        pictures = scale_pixels(pictures) if pictures.dtype == torch.uint8 else pictures
        return self.network(((pictures + 1) / 2 - self.mean) / self.scale)


class _EfficientNetBody(nn.Module):
    """The EfficientNet of its package without the classifier, under a plain forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net._fc = nn.Identity()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.extract_features(x)


def efficientnet_lite0(state: dict[str, Tensor], place: Path) -> PictureGrid:
    """EfficientNet-Lite0 with these weights, from its package: [B, 3, h, w] → [B, 1280, h', w'].

    Raises UserError where the weights, read from `place`, are not its own.
    """
    from efficientnet_lite_pytorch import EfficientNet

    # without an image size the padding follows the picture, so one network serves every size
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    _load_strictly(net, state, place)
    # the package's own scaling, (x - 127) / 128 on 0 to 255, written for 0 to 1
    grid = PictureGrid(_EfficientNetBody(net), 1280, (127 / 255,) * 3, (128 / 255,) * 3)
    return grid.eval().to(memory_format=torch.channels_last)


def resnet(state: dict[str, Tensor], place: Path) -> PictureGrid:
    """The ResNet that the tensors' names describe: blocks a stage, convolutions a block.

    Raises UserError where the weights, read from `place`, are not those of a ResNet.
    """
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    depths = [
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    if 0 in depths:
        raise expected(
            "a ResNet of four stages",
            f"{depths} blocks in {place}",
            "name the whole network's weights",
        )
    net = ResNet(block, depths, num_classes=len(state["fc.bias"]) if "fc.bias" in state else 1)
    if "fc.bias" not in state:
        net.fc = nn.Identity()
    _load_strictly(net, state, place)
    grid = PictureGrid(
        resnet_grid(net), 512 * block.expansion, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    return grid.eval().to(memory_format=torch.channels_last)


def _load_strictly(net: nn.Module, state: dict[str, Tensor], place: Path) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        what = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise expected(
            f"the weights of a {type(net).__name__}", f"{place}: {what[:160]}", "name another file"
        ) from None
