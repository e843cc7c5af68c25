"""Frozen features: each picture and text goes through its backbone once, and is kept on disk.

A frozen backbone gives the same features in every epoch and every fold, so they are computed once
and cached in the run folder, in shards keyed by the content that they were computed from: after an
interruption, or with rows added, only what is new is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from mmlib.attention import repeat_rows
from mmlib.data.table import Row, picture_array
from mmlib.encoders import Encoder, GridEncoder, TextEncoder, scale_pixels
from mmlib.files import write_whole
from mmlib.models import MultimodalBert
from mmlib.tokens import Tokens

SHARD = 64
ABSENT = 0  # the row of the features that stands for a picture, or a text, that is not there


@dataclass(frozen=True)
class Features:
    """Features of N rows: image [1 + U, L_i, width] and text [1 + V, L_t, width], half precision.

    U different pictures, V different texts; image_index and text_index [N] say which belongs to a
    row. Entry ABSENT is a picture without a visible cell, and the empty text of which only [CLS] is
    visible, so a missing modality is an index and nothing else needs to know of it. cut is the
    number of texts that were longer than the limit.
    """

    image: Tensor
    image_index: Tensor
    text: Tensor
    text_mask: Tensor
    text_index: Tensor
    cut: int = 0

    def tokens(self, text_index: Tensor, image_index: Tensor) -> tuple[Tokens, Tokens]:
        """The backbones' tokens of a batch: text [B, L_t, width], image [B or 1, L_i, width]."""
        if not image_index.any():  # one absent picture serves all the texts (see `repeat_rows`)
            image_index = image_index[:1]
        image = self.image[image_index].float()
        present = (image_index != ABSENT)[:, None].expand(image.shape[:2])
        mask = self.text_mask[text_index]
        longest = int(mask.sum(1).max())  # texts are padded at their end
        text = Tokens(self.text[text_index, :longest].float(), mask[:, :longest])
        return text, Tokens(image, present)

    def pooled(self, image: bool, text: bool) -> Tensor:
        """Mean of each modality's tokens side by side [N, width or widths]; zeros where missing."""
        rows = torch.arange(len(self.image_index)).split(512)
        means = []
        for i in rows:
            text_tokens, image_tokens = self.tokens(self.text_index[i], self.image_index[i])
            image_mean = repeat_rows(image_tokens.mean(), len(i))
            means.append(torch.cat([image_mean] * image + [text_tokens.mean()] * text, 1))
        return torch.cat(means)


class FromFeatures(nn.Module):
    """A `MultimodalBert` that is given the numbers of its texts and pictures in `Features`.

    So `train` and `predict` of the document serve it as they serve the whole model.
    """

    def __init__(self, model: MultimodalBert, features: Features):
        super().__init__()
        self.model, self.features = model, features

    def forward(self, text_index: Tensor, image_index: Tensor) -> Tensor:
        """text_index [B], image_index [B], ABSENT for what is missing → logits [B, C]."""
        text, image = self.features.tokens(text_index, image_index)
        given = {"text": text, "image": image}
        encoders = {name: cast(Encoder, self.model.encoders[name]) for name in given}
        return self.model.fuse(
            {name: encoders[name].project(x) for name, x in given.items()}
        ).logits


def fingerprint(backbone: nn.Module) -> str:
    """SHA-256 of the names and bytes of a network's tensors."""
    digest = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def extract(
    text_encoder: TextEncoder,
    image_encoder: GridEncoder,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    length: int,
    folder: Path,
) -> Features:
    """The features of these rows by the encoders' backbones; finished shards come from `folder`.

    length is the longest text in word pieces; what is longer is cut at its end, and counted.
    """
    pictures = {row.digest: row.picture for row in rows if row.picture is not None}
    # texts of one length share a shard, so that little of it is padding
    texts = [
        "",
        *sorted({row.text for row in rows if row.text}, key=lambda text: (len(text), text)),
    ]
    image = _picture_features(image_encoder, pictures, folder)
    text, mask = _text_features(text_encoder, tokenizer, texts, length, folder)
    mask[ABSENT, 1:] = False
    picture_number = {digest: number for number, digest in enumerate(pictures, start=1)}
    text_number = {text: number for number, text in enumerate(texts)}
    return Features(
        image=image,
        image_index=torch.tensor([picture_number.get(row.digest, ABSENT) for row in rows]),
        text=text,
        text_mask=mask,
        text_index=torch.tensor([text_number[row.text] for row in rows]),
        cut=sum(len(ids) > length for ids in tokenizer(texts, verbose=False)["input_ids"]),
    )


def _picture_features(encoder: GridEncoder, pictures: dict[str, Path], folder: Path) -> Tensor:
    """[1 + U, L_i, width]; the first is zero: no cell of it is ever visible."""
    name = fingerprint(encoder.backbone)
    cells, width = cast(Tensor, encoder.places).shape[0], encoder.proj.in_features
    parts = [torch.zeros(1, cells, width, dtype=torch.float16)]
    for shard in _shards(list(pictures), "pictures"):

        @torch.inference_mode()
        def compute(shard: list[str] = shard) -> dict[str, Tensor]:
            arrays = [picture_array(pictures[digest], encoder.image_size) for digest in shard]
            batch = torch.stack([torch.from_numpy(array) for array in arrays])
            batch = scale_pixels(batch).contiguous(memory_format=torch.channels_last)
            return {"value": encoder.features(batch).value.half()}

        key = ["picture", name, str(encoder.image_size), *shard]
        parts.append(remembered(folder, key, compute)["value"])
    return torch.cat(parts)


def _text_features(
    encoder: TextEncoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    length: int,
    folder: Path,
) -> tuple[Tensor, Tensor]:
    """[1 + V, L_t, width] and the mask [1 + V, L_t], padded to the longest text."""
    name = fingerprint(encoder.backbone)
    parts = []
    for shard in _shards(texts, "texts"):

        @torch.inference_mode()
        def compute(shard: list[str] = shard) -> dict[str, Tensor]:
            batch = tokenizer(
                shard, padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            tokens = encoder.features(batch)
            return {"value": tokens.value.half(), "mask": tokens.mask}

        parts.append(remembered(folder, ["text", name, str(length), *shard], compute))
    longest = max(part["mask"].shape[1] for part in parts)
    value = [F.pad(p["value"], (0, 0, 0, longest - p["value"].shape[1])) for p in parts]
    mask = [F.pad(p["mask"], (0, longest - p["mask"].shape[1])) for p in parts]
    return torch.cat(value), torch.cat(mask)


def _shards(items: list[str], name: str) -> list[list[str]]:
    shards = [items[start : start + SHARD] for start in range(0, len(items), SHARD)]
    return tqdm(shards, desc=name, unit_scale=SHARD, unit=name[:-1], disable=None)


def remembered(
    folder: Path, key: Sequence[str], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What `compute` gives, from the file in `folder` that an earlier call with this key wrote.

    The file appears whole or not at all; one that was damaged later is computed again.
    """
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:24]
    file = folder / f"{digest}.safetensors"
    if file.is_file():
        try:
            return load_file(file)
        except SafetensorError:
            file.unlink()
    tensors = {name: value.contiguous() for name, value in compute().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(tensors))
    return tensors
