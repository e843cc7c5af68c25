"""What a language model that reads scenes can say, what could refute it, what it has kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.plain import QUESTIONS, TEXT, holds
from mmlib.data.scenes.captions import is_true
from mmlib.data.scenes.questions import Question
from mmlib.data.scenes.texts import DESCRIBE, END, TextProcessor, asked, pad_right
from mmlib.data.scenes.world import Scene, render
from mmlib.encoders import scale_pixels
from mmlib.errors import UserError
from mmlib.evaluation import accuracy_by_kind, accuracy_interval
from mmlib.evaluation.inference import evaluating
from mmlib.generation import generate
from mmlib.models.multimodal_lm import MultimodalLM

AT_A_TIME = 16  # prompts a batch
ANSWER_TOKENS = 6  # an answer is a word, and the end of its line
CAPTION_TOKENS = 24  # more than any caption has
Drawn = Sequence[tuple[Scene, Sequence[Question]]]


def generate_texts(
    model: MultimodalLM, processor: TextProcessor, prompts: Sequence[str],
    pictures: Sequence[Sequence[np.ndarray]], max_new_tokens: int,
) -> list[str]:  # fmt: skip
    """What the model writes, greedily, after each prompt about its pictures, bytes [64, 64, 3].

    A prompt has one picture, none or several before it. The text ends before the end of its line,
    or after so many tokens.
    """
    stop, said = [processor.ids(END)], []
    for start in range(0, len(prompts), AT_A_TIME):
        some = list(zip(prompts, pictures, strict=True))[start : start + AT_A_TIME]
        ids = [processor.prompt(text, len(seen)) for text, seen in some]
        shown = [picture for _, seen in some for picture in seen]
        inputs = {"image": _scaled(shown)} if shown else {}
        for tokens in generate(model, ids, inputs, max_new_tokens=max_new_tokens, stop=stop):
            said.append(processor.text(tokens))
    return said


def answer_texts(
    model: MultimodalLM, processor: TextProcessor, drawn: Drawn, shown: Sequence[Sequence[Scene]]
) -> list[str]:
    """What is said to each question of `drawn`, each by itself, about the scenes that are shown.

    shown[n] are the pictures in front of each question about the n-th scene.
    """
    prompts = [asked(q.text) for _, questions in drawn for q in questions]
    seen = [[render(scene) for scene in scenes] for scenes in shown]
    each = [those for (_, questions), those in zip(drawn, seen, strict=True) for _ in questions]
    return generate_texts(model, processor, prompts, each, ANSWER_TOKENS)


def describe(model: MultimodalLM, processor: TextProcessor, scenes: Sequence[Scene]) -> list[str]:
    """A caption of each scene."""
    pictures = [[render(scene)] for scene in scenes]
    return generate_texts(model, processor, [DESCRIBE] * len(scenes), pictures, CAPTION_TOKENS)


def caption_truth(captions: Sequence[str], scenes: Sequence[Scene]) -> list[str]:
    """Of each caption: "true" or "false" of its scene, or "no sentence" of the grammar."""
    found = []
    for text, scene in zip(captions, scenes, strict=True):
        try:
            found.append("true" if is_true(text, scene) else "false")
        except UserError:
            found.append("no sentence")
    return found


def conversation_score(
    model: MultimodalLM, processor: TextProcessor, drawn: Drawn
) -> dict[str, float]:
    """Share of answers, "overall" and by kind, of which each token is the most probable one.

    All questions about a picture stand in one text, the right answers before each: quicker than
    asking one by one, and a little easier.
    """
    given: list[int] = []
    kinds = [q.kind for _, questions in drawn for q in questions]
    with evaluating(model):
        for start in range(0, len(drawn), AT_A_TIME // 4):
            some = drawn[start : start + AT_A_TIME // 4]
            rows = [
                processor.conversation([(asked(q.text), q.answer) for q in questions])
                for _, questions in some
            ]
            batch = pad_right(rows)
            inputs = {"image": _scaled([render(scene) for scene, _ in some])}
            given += _right(model, batch, inputs)
    scores = accuracy_by_kind(given, [1] * len(given), kinds)
    return {name: value["mean"] for name, value in scores.items()}


def _right(model: MultimodalLM, batch: dict[str, Tensor], inputs: dict[str, Any]) -> list[int]:
    """1 for each answer of a batch, in order, that is right in all of its tokens."""
    answer, ids = batch["answer"][:, 1:], batch["ids"][:, 1:]
    states = model.states(batch["ids"], batch["mask"], inputs)[:, :-1]
    right = torch.ones_like(answer)
    right[answer] = model.head(states[answer]).argmax(-1) == ids[answer]
    begins = answer & ~F.pad(answer[:, :-1], (1, 0))
    number = begins.flatten().cumsum(0)[answer.flatten()] - 1
    each = torch.ones(int(begins.sum()), dtype=torch.long)
    return each.scatter_reduce(0, number, right[answer].long(), "amin").tolist()


def report(model: MultimodalLM, processor: TextProcessor, drawn: Drawn) -> dict[str, Any]:
    """Answers by kind, captions, and controls on the same questions, with Wilson intervals.

    "accuracy" is of all, "by_kind" of each kind. Controls: shuffled, another scene's picture; none,
    no picture at all; two, the right picture behind another one. "captions" are judged by the
    parser, and once against another scene.
    """
    scenes = [scene for scene, _ in drawn]
    others = [*scenes[1:], scenes[0]]
    shown: dict[str, list[list[Scene]]] = {
        "by_kind": [[s] for s in scenes],
        "shuffled": [[s] for s in others],
        "none": [[] for _ in scenes],
        "two": [[other, s] for other, s in zip(others, scenes, strict=True)],
    }
    target = [q.answer for _, questions in drawn for q in questions]
    kinds = [q.kind for _, questions in drawn for q in questions]
    answers = {}
    for name, pictures in shown.items():
        said = answer_texts(model, processor, drawn, pictures)
        right = [int(text == wanted) for text, wanted in zip(said, target, strict=True)]
        answers[name] = accuracy_by_kind(right, [1] * len(right), kinds)
    told = describe(model, processor, scenes)
    captions = {
        name: {
            how: accuracy_interval(sum(t == how for t in truth), len(truth))
            for how in ("true", "false", "no sentence")
        }
        for name, truth in (
            ("seen", caption_truth(told, scenes)), ("shuffled", caption_truth(told, others)),
        )
    }  # fmt: skip
    examples = [
        {"caption": text, "truth": truth}
        for text, truth in zip(told[:8], caption_truth(told[:8], scenes[:8]), strict=True)
    ]
    by_kind = answers.pop("by_kind")
    return {
        "accuracy": by_kind["overall"], "by_kind": by_kind, "controls": answers,
        "captions": captions, "examples": examples,
    }  # fmt: skip


def _scaled(pictures: Sequence[np.ndarray]) -> Tensor:
    return scale_pixels(torch.from_numpy(np.stack(pictures)), channels_last=True)


def kept_language(model: MultimodalLM, processor: TextProcessor) -> dict[str, Any]:
    """Perplexity of a fixed text, and how many of forty plain questions are answered rightly.

    The questions are asked in the model's own chat form; an answer is right where it holds the
    word that is wanted.
    """
    ids = torch.tensor([processor.ids(TEXT)])
    with evaluating(model):
        logits = model(ids)[0, :-1]
    loss = F.cross_entropy(logits, ids[0, 1:])
    end = processor.ids("<|im_end|>")
    prompts = [_chat(processor, question) for question, _ in QUESTIONS]
    answers = []
    for start in range(0, len(prompts), AT_A_TIME):
        some = generate(model, prompts[start : start + AT_A_TIME], max_new_tokens=24, stop=[end])
        answers += [processor.text(tokens) for tokens in some]
    right = [holds(text, wanted) for text, (_, wanted) in zip(answers, QUESTIONS, strict=True)]
    return {
        "perplexity": math.exp(float(loss)), "tokens": ids.shape[1],
        "plain_questions": accuracy_interval(sum(right), len(right)), "answers": answers,
    }  # fmt: skip


def _chat(processor: TextProcessor, question: str) -> list[int]:
    said = [{"role": "user", "content": question}]
    text = processor.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return processor.ids(str(text))
