"""What the tests of tables share: small pictures, CSV files, and backbones of random weights.

`Vectors` is a modality of its own: what it takes to add one to a table.
"""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import BertConfig, BertModel, BertTokenizer

from mmlib.encoders import Encoder
from mmlib.tokens import Tokens

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "day", "night"]


def tiny_bert(folder: Path) -> BertModel:
    """A BERT of random weights, with its tokenizer, in a folder as the hub lays it out."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    return model


def tiny_resnet(folder: Path, block: type = BasicBlock) -> ResNet:
    """A ResNet of random weights with one block a stage, as folder/model.safetensors."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    net = ResNet(block, [1, 1, 1, 1], num_classes=3).eval()
    save_file(net.state_dict(), folder / "model.safetensors")
    return net


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """A CSV with these rows, the first of which is the header."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def draw_table(folder: Path, rows: int, label: str, seed: int = 0) -> Path:
    """A CSV of colored squares with a word, image,text,label,group; two rows a group.

    label "both" depends on color and word together (exclusive or), "picture" on the color alone.
    Each picture has a gray level of its own, so that no two are byte-identical.
    """
    rng = random.Random(seed)
    table = [["image", "text", "label", "group"]]
    for number in range(rows):
        red, day = rng.random() < 0.5, rng.random() < 0.5
        first = red == day if label == "both" else red
        tone = 40 + number * 150 // rows
        color = (255, tone, tone) if red else (tone, tone, 255)
        picture = Image.new("RGB", (24, 24), color)
        picture.putpixel((number % 24, number // 24), (0, 0, 0))
        picture.save(folder / f"{number}.png")
        word = "day" if day else "night"
        table.append([f"{number}.png", word, "A" if first else "B", f"g{number // 2}"])
    return write_csv(folder / "table.csv", table)


class Vectors:
    """A column of sensor rows, lists of `width` numbers a moment, whose features they are."""

    def __init__(self, width: int, limit: int = 99):
        self.backbone, self.width, self.limit = nn.Identity(), width, limit

    def key(self) -> list[str]:
        return ["vectors", str(self.width), str(self.limit)]

    def encoder(self, d: int) -> Encoder:
        return Encoder(self.backbone, self.width, d).freeze()

    def sizes(self, inputs: Sequence[list[list[float]]]) -> list[tuple[int, bool]]:
        return [(min(len(x), self.limit), len(x) > self.limit) for x in inputs]

    def features(self, inputs: Sequence[list[list[float]]]) -> torch.Tensor:
        return torch.tensor([x[: self.limit] for x in inputs]).half()

    def absent(self) -> Tokens:
        return Tokens.all_visible(torch.zeros(1, 1, self.width).half())
