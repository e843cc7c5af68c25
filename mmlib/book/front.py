"""The three pictures of the front page that say what the reader will be able to build.

They are drawn from the book's own pieces, from the scene of the front page and from a record, so
they change when those do. tools/pictures.py writes them; a test draws them anew and compares.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmlib.attention import attention_weights
from mmlib.book import asking, drawing, figures
from mmlib.data.scenes import CELLS, COLORS, PIXELS, Scene, render

WIDTH, HEIGHT = 3.0, 2.5  # inches; a third of the page, and legible at the width of a phone
SHARP = 8.0  # the score of the cell that is fullest of the color asked for; 0 where there is none


def of_color(scene: Scene, color: str) -> np.ndarray:
    """How much of each cell is of a color, float64 [CELLS, CELLS]."""
    apart = np.abs(render(scene).astype(int) - np.array(COLORS[color])).max(-1) < 40
    side = PIXELS // CELLS
    return apart.reshape(CELLS, side, CELLS, side).mean((1, 3))


def paste(axis: Axes, scene: Scene, corner: drawing.Point, side: float, cells: bool) -> None:
    """The picture of a scene, its lower left corner given, with or without its cells' edges."""
    x, y = corner
    axis.imshow(render(scene), extent=(x, x + side, y, y + side), zorder=1.5, origin="upper")
    own = drawing.color_of("image")
    for n in range(CELLS + 1) if cells else (0, CELLS):
        at = n * side / CELLS
        width = 1.2 if n in (0, CELLS) else 0.3
        axis.plot((x, x + side), (y + at, y + at), color=own, lw=width, zorder=2)
        axis.plot((x + at, x + at), (y, y + side), color=own, lw=width, zorder=2)
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))


def attend(scene: Scene, relation: str, name: str) -> tuple[Figure, str]:
    """A word of the question attends to the cells of the picture.

    Its query is its own color. The key of a cell says how full of each color it is, beside the
    cell that is fullest of that color. Lines are as thick as the weights of `attention_weights`.
    """
    color = name.split()[0]
    colors = list(COLORS)
    full = np.stack([of_color(scene, c).ravel() for c in colors], -1)
    keys = torch.tensor(full / np.maximum(full.max(0), 1e-9))
    query = SHARP * torch.tensor([[float(c == color) for c in colors]], dtype=keys.dtype)
    scaled = query * len(colors) ** 0.5  # attention divides by the root of the width
    weights = attention_weights(scaled[None, None], keys[None, None])[0, 0, 0]
    figure, axis = drawing.canvas(WIDTH, HEIGHT)
    side, left, bottom = 1.6, 0.7, 0.08
    words = [*relation.split(), "the", *name.split()]
    widths = [0.16 + 0.085 * len(word) for word in words]
    free = (WIDTH - sum(widths)) / (len(words) + 1)
    x = free
    for word, width in zip(words, widths, strict=True):
        center = (x + width / 2, HEIGHT - 0.3)
        drawing.token(axis, center, word, width=width, strong=word == color)
        if word == color:
            start = center[0], center[1] - 0.15
        x += width + free
    paste(axis, scene, (left, bottom), side, cells=True)
    for cell, weight in enumerate(weights.tolist()):
        row, column = divmod(cell, CELLS)
        end = left + (column + 0.5) * side / CELLS, bottom + (CELLS - row - 0.5) * side / CELLS
        if weight >= 0.01:  # thinner than a hair of the picture
            axis.plot(
                *zip(start, end, strict=True), color=drawing.color_of("text"), zorder=3, alpha=0.75,
                linewidth=drawing.THICKEST * weight, solid_capstyle="butt",
            )  # fmt: skip
    share = sum(weights.tolist()[n] for n in np.flatnonzero(of_color(scene, color).ravel() > 0))
    count = {4: "Four", 5: "Five"}[len(words)]
    return figure, (
        f"{count} words above a picture cut into {CELLS} by {CELLS} cells. Lines lead from the "
        f"word “{color}” to the cells that show the {name}, which get {100 * share:.0f} % of its "
        "attention."
    )


def answer(scene: Scene, relation: str, name: str) -> tuple[Figure, str]:
    """A question and a picture go into one model, and a word comes out."""
    found = scene.things[int(asking.reply(scene, relation, name))].name.split()[0]
    figure, axis = drawing.canvas(WIDTH, HEIGHT)
    lines = ("what color", "is the nearest", f"object {relation}", f"the {name}?")
    for number, line in enumerate(lines):
        drawing.token(axis, (0.75, 2.24 - 0.3 * number), line, width=1.36)
    side = 0.98
    paste(axis, scene, (0.26, 0.06), side, cells=True)
    drawing.box(axis, (2.3, 1.2), "your model", "both", width=1.1, height=0.5)
    drawing.arrow(axis, (1.47, 1.75), (1.72, 1.4))
    drawing.arrow(axis, (1.3, 0.6), (1.72, 1.0))
    drawing.arrow(axis, (2.3, 0.93), (2.3, 0.62))
    drawing.token(axis, (2.3, 0.45), found, "both", width=0.8, strong=True)
    text = asking.question(relation, name)
    return figure, (
        f"The words of a question, “{text}?”, and a picture in cells; arrows lead from both into "
        f"one box, your model, and from it to the answer, “{found}”."
    )


def table(record: dict[str, Any]) -> tuple[Figure, str]:
    """What the report on a reader's own table compares: all together, and each modality alone."""
    rows = [
        ("picture and text", record["metrics"]["balanced_accuracy"], "both"),
        ("picture alone", record["controls"]["only_image"], "image"),
        ("text alone", record["controls"]["only_text"], "text"),
        ("most frequent label", record["controls"]["majority"], "none"),
    ]
    figure, axis = plt.subplots(figsize=(WIDTH, HEIGHT))
    told = []
    for number, (name, value, modality) in enumerate(rows):
        mean = value["mean"]
        axis.barh(number, mean, color=drawing.color_of(modality), height=0.42)
        axis.plot((value["low"], value["high"]), (number, number), color=drawing.INK, lw=1.6)
        axis.text(0, number - 0.3, name, va="bottom", fontsize=10)
        axis.text(
            max(mean, value["high"]) + 0.02, number, f"{100 * mean:.0f} %", va="center", fontsize=10
        )
        told.append(f"{name} {100 * mean:.0f} %")
    axis.set(xlim=(-0.03, 1.17), ylim=(len(rows) - 0.6, -0.75), yticks=[], xticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.grid(False)
    return figure, (
        f"Four bars, the balanced accuracy of a model on paintings of fruit: {'; '.join(told)}."
    )


def drawn(record: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Each picture by its name: the figure, and what is to be seen in it.

    record is that of a table, as pomology is: metrics and controls with their intervals.
    """
    with plt.rc_context(figures.STYLE):
        scene = asking.scene_of(asking.SEED)
        return {
            "attend": attend(scene, asking.SIDE, asking.NAME),
            "answer": answer(scene, asking.SIDE, asking.NAME),
            "table": table(record),
        }
