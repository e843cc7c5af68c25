"""A column's frozen network: what turns the inputs of one modality into features.

A new modality in a table is a class here with the five members of `FrozenColumn`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import BertModel, PreTrainedTokenizerBase

from mmlib.data.pictures import picture_array
from mmlib.encoders import Encoder, GridEncoder, TextEncoder, scale_pixels
from mmlib.encoders.networks import PictureGrid
from mmlib.errors import expected
from mmlib.tokens import Tokens


class FrozenColumn(Protocol):
    """What the features of one modality are computed with, and what is trained on top of them."""

    @property
    def backbone(self) -> nn.Module:
        """The frozen network."""

    def key(self) -> list[str]:
        """All that decides the features besides the input, for the names of cached files."""

    def encoder(self, d: int) -> Encoder:
        """The frozen backbone, and a projection to width d that is drawn here."""

    def sizes(self, inputs: Sequence[Any]) -> list[tuple[int, bool]]:
        """(tokens, whether it was cut) of each input."""

    def features(self, inputs: Sequence[Any]) -> Tensor:
        """Inputs that all have the same number of tokens → [B, L, width], half precision."""

    def absent(self) -> Tokens:
        """What stands for an input that is missing: Tokens [1, L, width], half precision."""


def fingerprint(backbone: nn.Module) -> str:
    """SHA-256 of the names and bytes of a network's tensors, on whatever device they lie."""
    digest = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FrozenText:
    """Texts through a frozen BERT; what is longer than `length` word pieces is cut at its end.

    Raises UserError where the network has fewer positions than that.
    """

    def __init__(self, backbone: BertModel, tokenizer: PreTrainedTokenizerBase, length: int):
        self.backbone, self.tokenizer, self.length = backbone.eval(), tokenizer, length
        self.tokenizer.truncation_side = "right"
        positions = backbone.config.max_position_embeddings
        if length > positions:
            raise expected(
                f"a text_length of at most {positions}, which the network has positions for",
                length,
                "shorten it",
            )
        self._reader = self.encoder(1)

    def key(self) -> list[str]:
        """The network's fingerprint and the longest text."""
        return ["text", fingerprint(self.backbone), str(self.length)]

    def encoder(self, d: int) -> TextEncoder:
        """A `TextEncoder` whose backbone is frozen."""
        encoder = TextEncoder(self.backbone, d)
        encoder.freeze()
        return encoder

    def sizes(self, inputs: Sequence[str]) -> list[tuple[int, bool]]:
        """(word pieces, whether there were more) of each text."""
        lengths = [len(ids) for ids in self.tokenizer(list(inputs), verbose=False)["input_ids"]]
        return [(min(n, self.length), n > self.length) for n in lengths]

    @torch.no_grad()
    def features(self, inputs: Sequence[str]) -> Tensor:
        """Texts of the same number of word pieces → [B, L, width]: none is padded."""
        batch = self.tokenizer(
            list(inputs), truncation=True, max_length=self.length, return_tensors="pt"
        )
        device = next(self.backbone.parameters()).device
        text = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        return self._reader.features(text).value.half().cpu()

    def absent(self) -> Tokens:
        """The empty text, of which only [CLS] is visible: the answer is read there."""
        return Tokens.all_visible(self.features([""])[:, :1])


class FrozenPicture:
    """Picture files through a frozen network that gives a grid, at image_size pixels a side."""

    def __init__(self, backbone: PictureGrid, image_size: int):
        self.backbone, self.image_size = backbone.eval(), image_size
        self._reader = self.encoder(1)

    def key(self) -> list[str]:
        """The network's fingerprint and the pictures' size."""
        return ["picture", fingerprint(self.backbone), str(self.image_size)]

    def encoder(self, d: int) -> GridEncoder:
        """A `GridEncoder` whose backbone is frozen."""
        encoder = GridEncoder(self.backbone, self.backbone.width, d, self.image_size)
        encoder.freeze()
        return encoder

    def sizes(self, inputs: Sequence[Path]) -> list[tuple[int, bool]]:
        """A whole grid for each picture, never cut; 0 stands for its number of cells."""
        return [(0, False)] * len(inputs)

    @torch.no_grad()
    def features(self, inputs: Sequence[Path]) -> Tensor:
        """Picture files → [B, h·w, width]."""
        arrays = [picture_array(path, self.image_size) for path in inputs]
        return self._cells(torch.stack([torch.from_numpy(array) for array in arrays]))

    def _cells(self, pixels: Tensor) -> Tensor:
        device = next(self.backbone.parameters()).device
        pictures = scale_pixels(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        return self._reader.features(pictures).value.half().cpu()

    @torch.no_grad()
    def absent(self) -> Tokens:
        """A grid of zeros without a visible cell: [1, h·w, width]."""
        blank = torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8)
        return Tokens.all_visible(torch.zeros_like(self._cells(blank))).absent()
