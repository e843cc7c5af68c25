"""The picture on the front page: a scene, a question, the model's answer, and where it looked.

The scene is chosen by a rule, `choose`: it is the first of the test stream whose question can be
followed at a glance (three or four things; the named thing is there, and once; the answer lies
within 30 degrees of straight to the side that is asked for) and that the model answers rightly,
its probability at least MARGIN above that of any other answer. How many were passed over stands in
the record. The model is the one of the package, asked as it was trained (`reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from mmlib.book import figures
from mmlib.book.asking import MOST, at_a_glance
from mmlib.data.scenes import ANSWERS, CELLS, Question, Scene, sample_questions
from mmlib.data.scenes.batches import collate
from mmlib.data.scenes.stream import STREAMS
from mmlib.encoders import scale_pixels
from mmlib.files import write_whole
from mmlib.fusion import modality_share
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.small import ASSET, load_small
from mmlib.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SIDE = 8  # pixels of a cell
MARGIN = 0.5  # of the right answer's probability above the next
LOOKED_AT = 5000  # scenes at most


def asked(reference: str) -> Iterator[tuple[Scene, Question]]:
    """References from the test stream, each about a scene of few things."""
    rng = np.random.default_rng([STREAMS["test"], 0])
    few = (4 if reference == "nearest" else 3, MOST)
    while True:
        scene, (question,) = sample_questions(rng, few, 1, {"reference": 1.0}, reference=reference)
        yield scene, question


def choose(
    scenes: Iterator[tuple[Scene, Question]], judge: Callable[[Scene, Question], Tensor]
) -> tuple[Scene, Question, dict[str, int]]:
    """The first scene that keeps to the rule of the module, and how many were passed over.

    judge gives the probabilities [A] of ANSWERS. Raises RuntimeError where LOOKED_AT have none.
    """
    passed = {"not_at_a_glance": 0, "wrong": 0, "unsure": 0}
    for scene, question in islice(scenes, LOOKED_AT):
        if at_a_glance(scene, question.text) is None:
            passed["not_at_a_glance"] += 1
            continue
        (first, second), (best, _) = judge(scene, question).topk(2)
        if ANSWERS[int(best)] != question.answer:
            passed["wrong"] += 1
        elif first - second < MARGIN:
            passed["unsure"] += 1
        else:
            return scene, question, passed
    raise RuntimeError(f"no scene of {LOOKED_AT} keeps to the rule: {passed}")


def draw(folder: Path) -> dict[str, Any]:
    """Ask the model, draw the picture into book/_static/front.png, return what it shows."""
    model = load_small().model
    recipe = SceneRecipe.from_json(read_checkpoint(ASSET)[1])

    def inputs(scene: Scene, question: Question) -> tuple[dict[str, Tensor], Tensor]:
        batch = collate([(scene, [question])])
        text = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return text, scale_pixels(batch["pictures"], channels_last=True)

    def judge(scene: Scene, question: Question) -> Tensor:
        with torch.inference_mode():
            return model(*inputs(scene, question))[0].softmax(-1)

    scene, question, passed = choose(asked(recipe.reference), judge)
    probability = judge(scene, question)
    with torch.inference_mode():
        looking = model.weights(*inputs(scene, question))
    answer = ANSWERS[int(probability.argmax())]
    # the first query of the last layer is the one whose state the answer is read from
    looked = looking[-1]["image"][0, :, 0].mean(0)
    share = float(modality_share(looking[-1])["image"][0, :, 0].mean())
    _, named = question.phrases[0]
    picture = collate([(scene, [question])])["pictures"][0].numpy()

    plt.rcParams.update(figures.STYLE)
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.5))
    for axis, title in zip(axes, ("What it was shown", "Where it looked"), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    heat = np.kron((looked / looked.max()).reshape(CELLS, CELLS).numpy(), np.ones((SIDE, SIDE)))
    veil = np.zeros((*heat.shape, 4))
    veil[..., 3] = 0.72 * (1 - heat)  # what is not looked at is dark
    axes[1].imshow(veil, interpolation="nearest")
    corner = (named % CELLS * SIDE - 0.5, named // CELLS * SIDE - 0.5)
    axes[1].add_patch(Rectangle(corner, SIDE, SIDE, fill=False, lw=2, ec=figures.IMAGE))
    figure.suptitle(f"{question.text}?  →  {answer}", fontsize=11, fontweight="bold")
    png = figures.png_bytes(figure)
    write_whole(ROOT / "book" / "_static" / "front.png", png)
    thing = " ".join(question.text.split()[-2:])
    count = {3: "Three", 4: "Four"}[len(scene.things)]
    return {
        "question": question.text,
        "reference": recipe.reference,
        "truth": question.answer,
        "answer": answer,
        "probability": float(probability.max()),
        "share_of_picture": share,
        "named": thing,
        "passed_over": passed,
        "alt": f"{count} colored shapes, and beside them the same picture with everything dark but "
        f"the cells that the model attended to. Asked “{question.text}?” it answers “{answer}”; "
        f"a frame marks the cell that holds the center of the {thing}.",
    }


UNITS = {"picture": draw}


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": "seed 0 of scenes_small", **units["picture"]}
