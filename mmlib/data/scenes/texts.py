"""Scenes as texts for a language model: a picture's place, questions with answers, a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mmlib.data.scenes.captions import caption
from mmlib.data.scenes.questions import sample_questions
from mmlib.data.scenes.stream import STREAMS
from mmlib.data.scenes.world import (
    CELLS,
    COLOR_NAMES,
    COLUMNS,
    SHAPES,
    SIZES,
    Scene,
    cell_targets,
    render,
)  # fmt: skip

# What is asked how often: what needs several things looked at is asked more.
KIND_WEIGHTS = {
    "existence": 1.5, "counting": 2.0, "color": 0.8, "shape": 0.6, "comparison": 1.5,
    "location": 1.0, "relation": 1.5, "reference": 1.2,
}  # fmt: skip
DESCRIBE = "describe the picture:"
END = "\n"  # an answer's last token: what it is told to stop at


def asked(question: str) -> str:
    """The text that stands before an answer: "is there a red circle?"."""
    return f"{question}?"


@dataclass(frozen=True)
class TextProcessor:
    """Texts as token ids, with `tokens` placeholders for a picture in front."""

    tokenizer: PreTrainedTokenizerBase
    placeholder: int
    tokens: int

    def prompt(self, text: str, pictures: int = 1) -> list[int]:
        """Token ids of so many pictures and a text that asks."""
        return [self.placeholder] * (self.tokens * pictures) + self.ids(text)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text alone."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, ids: Sequence[int]) -> str:
        """What token ids say, without the spaces around it."""
        return str(self.tokenizer.decode(list(ids))).strip()

    def conversation(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]]:
        """Token ids of a picture and (what asks, answer) pairs, and which of them are answers."""
        ids = [self.placeholder] * self.tokens
        answer = [False] * len(ids)
        for asks, answers in pairs:
            for text, counts in ((asks, False), (f" {answers}{END}", True)):
                new = self.ids(text)
                ids += new
                answer += [counts] * len(new)
        return ids, answer


@dataclass(frozen=True)
class TextBatches:
    """Training batches keyed by (seed, step): scenes with their texts, padded on the right."""

    processor: TextProcessor
    seed: int
    pictures: int
    questions: int
    objects: tuple[int, int]

    def batch(self, step: int) -> dict[str, Tensor]:
        """pictures [P, 64, 64, 3] bytes, ids, mask and answer [P, L]."""
        rng = np.random.default_rng([STREAMS["train"], self.seed, step])
        drawn = [
            sample_questions(rng, self.objects, self.questions, KIND_WEIGHTS)
            for _ in range(self.pictures)
        ]
        rows = []
        for scene, questions in drawn:
            pairs = [(asked(q.text), q.answer) for q in questions]
            # anywhere among the questions, so that it is learned alone and after them
            pairs.insert(int(rng.random() * (len(pairs) + 1)), (DESCRIBE, caption(scene, rng)))
            rows.append(self.processor.conversation(pairs))
        return {"pictures": pixels([scene for scene, _ in drawn]), **pad_right(rows)}


@dataclass(frozen=True)
class BlockBatches:
    """Training batches of the blocks' words: scenes alone, keyed by (seed, step)."""

    seed: int
    pictures: int
    objects: tuple[int, int]

    def batch(self, step: int) -> dict[str, Tensor]:
        """pictures [P, 64, 64, 3] bytes and cells [P, 64, 3], as `collate` gives them."""
        rng = np.random.default_rng([STREAMS["train"], self.seed, step, 1])
        scenes = [
            sample_questions(rng, self.objects, 1, {"existence": 1.0})[0]
            for _ in range(self.pictures)
        ]
        cells = np.stack([cell_targets(scene).reshape(CELLS * CELLS, 3) for scene in scenes])
        return {"pictures": pixels(scenes), "cells": torch.from_numpy(cells).long()}


def pixels(scenes: Sequence[Scene]) -> Tensor:
    """The scenes as bytes [P, 64, 64, 3]."""
    return torch.from_numpy(np.stack([render(scene) for scene in scenes]))


def pad_right(rows: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> dict[str, Tensor]:
    """ids, mask and answer [B, L] of rows (ids, which are answers), padding on the right."""
    length = max(len(ids) for ids, _ in rows)
    found = {
        "ids": torch.zeros(len(rows), length, dtype=torch.long),
        "mask": torch.zeros(len(rows), length, dtype=torch.bool),
        "answer": torch.zeros(len(rows), length, dtype=torch.bool),
    }
    for row, (ids, answer) in enumerate(rows):
        found["ids"][row, : len(ids)] = torch.tensor(ids)
        found["mask"][row, : len(ids)] = True
        found["answer"][row, : len(ids)] = torch.tensor(answer)
    return found


def block_words(embedding: Mapping[str, Tensor], cells: Tensor) -> tuple[Tensor, Tensor]:
    """What the two tokens of each block should be near, and whether something lies in it.

    embedding {word: [d]} of the words below; cells [P, 64, 3] of `cell_targets` → [P, 16, 2, d] and
    [P, 16]. The first token says color, half of the size and half of the column, the second shape
    and half of the row; two things in a block are a mean; of nothing both say "empty".
    """
    names = [
        torch.stack([torch.zeros_like(embedding["empty"]), *(embedding[w] for w in words)])
        for words in (COLOR_NAMES, SHAPES, SIZES)
    ]
    color, shape, size = (table[cells[..., n]] for n, table in enumerate(names))
    columns = torch.stack([embedding[w] for w in COLUMNS])
    rows = torch.stack([embedding[str(n + 1)] for n in range(CELLS)])
    place = torch.arange(CELLS * CELLS)
    first = color + 0.5 * size + 0.5 * columns[place % CELLS]
    second = shape + 0.5 * rows[place // CELLS]
    there = (cells[..., 0] > 0).float()
    both = torch.stack([first, second], 2) * there[..., None, None]  # [P, 64, 2, d]
    blocks, count = blocks_of(both).sum(2), blocks_of(there).sum(2)
    empty = embedding["empty"].expand_as(blocks)
    mean = blocks / count.clamp(min=1)[..., None, None]
    return torch.where((count > 0)[..., None, None], mean, empty), count > 0


def blocks_of(cells: Tensor) -> Tensor:
    """[P, 64, …] cell by cell → [P, 16, 4, …], the four cells of each 2 × 2 block."""
    half = CELLS // 2
    x = cells.reshape(len(cells), half, 2, half, 2, *cells.shape[2:]).transpose(2, 3)
    return x.reshape(len(cells), half * half, 4, *cells.shape[2:])


WORDS_OF_BLOCKS = (
    *COLOR_NAMES, *SHAPES, *SIZES, *COLUMNS, *(str(n + 1) for n in range(CELLS)), "empty",
)  # fmt: skip
