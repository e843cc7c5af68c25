"""Encoders: chapters 02 and 06. A backbone reads its modality; a linear map brings it to width d.

Every encoder has the same three parts: `features` runs the backbone and returns its own Tokens
(to be cached where the backbone is frozen), `project` maps them to width d, the call does both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from transformers import BertConfig, BertModel

from mmlib.errors import expected
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


class TextEncoder(Encoder):
    """Word states of a BERT model as tokens [B, L, d].

    backbone is a Hugging Face `BertModel`; its last hidden state is used, not the pooled vector.
    Source: Devlin et al. (2019).
    """

    def __init__(self, backbone: BertModel, d: int):
        super().__init__(backbone, backbone.config.hidden_size, d)
        self.positions = backbone.config.max_position_embeddings

    def features(self, text: Mapping[str, Tensor]) -> Tokens:
        """{"input_ids": [B, L], "attention_mask": [B, L]} → Tokens [B, L, width].

        Raises UserError where a text is longer than the positions.
        """
        ids, mask = text["input_ids"], text["attention_mask"]
        if ids.shape[-1] > self.positions:
            raise expected(
                f"at most {self.positions} word pieces a text",
                ids.shape[-1],
                "cut the text in the tokenizer (truncation=True)",
            )
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return Tokens(states, mask.bool())

    def forward(self, text: Mapping[str, Tensor]) -> Tokens:
        """{"input_ids": [B, L], "attention_mask": [B, L]} → Tokens [B, L, d]."""
        return self.project(self.features(text))


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


def small_bert(vocabulary: int, width: int, layers: int, heads: int, positions: int) -> BertModel:
    """A BERT from its configuration, without pretrained weights and without the pooled head.

    width d, feed-forward width 4 d, positions = the longest text in word pieces.
    Source: Devlin et al. (2019).
    """
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


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
