"""What the tests of tables share: small pictures, CSV files, and backbones of random weights."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import BertConfig, BertModel, BertTokenizer

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
    """A CSV of coloured squares with a word, image,text,label,group; two rows a group.

    label "both" depends on colour and word together (exclusive or), "picture" on the colour alone.
    Each picture has a grey level of its own, so that no two are byte-identical.
    """
    rng = random.Random(seed)
    table = [["image", "text", "label", "group"]]
    for number in range(rows):
        red, day = rng.random() < 0.5, rng.random() < 0.5
        first = red == day if label == "both" else red
        tone = 40 + number * 150 // rows
        colour = (255, tone, tone) if red else (tone, tone, 255)
        picture = Image.new("RGB", (24, 24), colour)
        picture.putpixel((number % 24, number // 24), (0, 0, 0))
        picture.save(folder / f"{number}.png")
        word = "day" if day else "night"
        table.append([f"{number}.png", word, "A" if first else "B", f"g{number // 2}"])
    return write_csv(folder / "table.csv", table)
