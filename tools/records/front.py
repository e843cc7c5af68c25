"""The picture on the front page: a scene, a question, the model's answer, and where it looked.

The scene is the first of the test stream that has six things and a question of reference, so it is
not chosen for its answer. The model is the one of the package, seed 0 of the record scenes_small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from mmlib.book import figures
from mmlib.data.scenes import ANSWERS, CELLS, sample_questions
from mmlib.data.scenes.batches import collate
from mmlib.data.scenes.stream import STREAMS
from mmlib.encoders import scale_pixels
from mmlib.files import write_whole
from mmlib.fusion import modality_share
from mmlib.tasks.small import load_small

ROOT = Path(__file__).resolve().parents[2]
SIDE = 8  # pixels of a cell


def draw(folder: Path) -> dict[str, Any]:
    """Ask the model, draw the picture into book/_static/front.png, return what it shows."""
    model = load_small().model
    rng = np.random.default_rng([STREAMS["test"], 0])
    scene, asked = sample_questions(rng, (6, 6), 1, {"reference": 1.0})
    question, batch = asked[0], collate([(scene, asked)])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    pixels = scale_pixels(batch["pictures"], channels_last=True)
    with torch.inference_mode():
        probability = model(text, pixels)[0].softmax(-1)
        looking = model.weights(text, pixels)
    answer = ANSWERS[int(probability.argmax())]
    # the first query of the last layer is the one whose state the answer is read from
    looked = looking[-1]["image"][0, :, 0].mean(0)
    share = float(modality_share(looking[-1])["image"][0, :, 0].mean())
    _, named = question.phrases[0]

    plt.rcParams.update(figures.STYLE)
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.5))
    for axis, title in zip(axes, ("What it was shown", "Where it looked"), strict=True):
        axis.imshow(batch["pictures"][0].numpy(), interpolation="nearest")
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
    thing = question.text.split(" the ")[-1]
    return {
        "question": question.text,
        "truth": question.answer,
        "answer": answer,
        "probability": float(probability.max()),
        "share_of_picture": share,
        "named": thing,
        "alt": "Six colored shapes, and beside them the same picture with everything dark but "
        f"the cells that the model attended to. Asked “{question.text}?” it answers “{answer}”; "
        f"a frame marks the {thing}.",
    }


UNITS = {"picture": draw}


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": "seed 0 of scenes_small", **units["picture"]}
