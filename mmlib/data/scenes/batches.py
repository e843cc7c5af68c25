"""The generated world as tensors: questions and scenes in, batches out, and one side taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmlib.data.scenes import ANSWERS, CELLS, KINDS, WORDS, Question, Scene, cell_targets, render
from mmlib.errors import expected
from mmlib.losses import IGNORE

LENGTH = 12  # [CLS] and the eleven words of the longest question
ANSWER_INDEX = {answer: index for index, answer in enumerate(ANSWERS)}
WORD_INDEX = {word: index for index, word in enumerate(WORDS)}


def encode_questions(texts: Sequence[str]) -> dict[str, Tensor]:
    """Questions as {"input_ids": [B, 12], "attention_mask": [B, 12]}: [CLS] and one id a word.

    Raises UserError for a word that the world does not know, or a question that is too long.
    """
    ids = torch.zeros(len(texts), LENGTH, dtype=torch.long)
    for row, text in enumerate(texts):
        words = ["[CLS]", *text.split()]
        if len(words) > LENGTH:
            raise expected(f"at most {LENGTH - 1} words a question", len(words) - 1, "ask shorter")
        unknown = [word for word in words if word not in WORD_INDEX]
        if unknown:
            raise expected(
                "words of the generated world", f"'{unknown[0]}'",
                "ask as in: what color is the object left of the red circle",
            )  # fmt: skip
        ids[row, : len(words)] = torch.tensor([WORD_INDEX[word] for word in words])
    return {"input_ids": ids, "attention_mask": ids != WORD_INDEX["[PAD]"]}


def collate(pictures: Sequence[tuple[Scene, Sequence[Question]]]) -> dict[str, Tensor]:
    """P scenes with their questions as a batch, B = P × questions.

    pictures [P, 64, 64, 3] bytes, image_mask [P], cells [P, 64, 3] (0 = empty), input_ids and
    attention_mask [B, 12], target [B], kind [B], phrases [B, 12]: a cell, or −100.
    """
    questions = [question for _, asked in pictures for question in asked]
    phrases = torch.full((len(questions), LENGTH), IGNORE)
    for row, question in enumerate(questions):
        for word, cell in question.phrases:
            phrases[row, word + 1] = cell  # [CLS] stands before the first word
    return {
        "pictures": torch.from_numpy(np.stack([render(scene) for scene, _ in pictures])),
        "image_mask": torch.ones(len(pictures), dtype=torch.bool),
        "cells": torch.from_numpy(
            np.stack([cell_targets(scene).reshape(CELLS * CELLS, 3) for scene, _ in pictures])
        ).long(),
        **encode_questions([question.text for question in questions]),
        "target": torch.tensor([ANSWER_INDEX[question.answer] for question in questions]),
        "kind": torch.tensor([KINDS.index(question.kind) for question in questions]),
        "phrases": phrases,
    }


def with_modality(batch: dict[str, Tensor], modality: str) -> dict[str, Tensor]:
    """The batch with the other modality missing: "text" hides the pictures, "image" the words.

    A hidden text keeps [CLS], which asks nothing; its phrases have no label then.
    """
    if modality == "text":
        return batch | {"image_mask": torch.zeros_like(batch["image_mask"])}
    if modality == "image":
        only_first = torch.zeros_like(batch["attention_mask"])
        only_first[:, 0] = True
        return batch | {
            "attention_mask": only_first, "input_ids": batch["input_ids"] * only_first,
            "phrases": torch.full_like(batch["phrases"], IGNORE),
        }  # fmt: skip
    return batch


def exchange_pictures(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same questions, each about the next picture: what is left is what the text gives away."""
    return dict(batch) | {"pictures": batch["pictures"].roll(1, 0)}


def blank_pictures(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same questions about an empty ground."""
    return dict(batch) | {"pictures": torch.full_like(batch["pictures"], 237)}
