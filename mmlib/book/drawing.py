"""The book's visual language: the pieces that every diagram is drawn from.

A color a modality, a token a rounded cell, attention a line as thick as its weight, a tensor a grid
with its shape written above it. Lengths are inches of the page. A function that draws a whole
figure returns it with the words that say what is to be seen, computed from the same numbers, as
`figures.show` takes them: `figures.show(*attends(words, weights, asking=1))`.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from mmlib.book.figures import BOTH, IMAGE, MUTED, SENSORS, SOUND, TEXT
from mmlib.errors import expected

MODALITY = {
    "text": TEXT, "image": IMAGE, "audio": SOUND, "sensors": SENSORS, "both": BOTH, "none": MUTED,
}  # fmt: skip
WIDEST = 4.8  # what a phone shows without scrolling
INK = "#1b1b1b"
THICKEST = 9.0  # points of a line that carries all the weight
Point = tuple[float, float]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty sheet of that many inches, (0, 0) at the lower left."""
    figure = plt.figure(figsize=(width, height), layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.axis("off")
    return figure, axis


def color_of(modality: str) -> str:
    """The color of a modality. Raises UserError where the book has none of that name."""
    if modality not in MODALITY:
        raise expected(f"a modality out of {', '.join(MODALITY)}", modality, "pass one of them")
    return MODALITY[modality]


def tint(color: str, share: float) -> tuple[float, float, float]:
    """The color on white, from 0 (white) to 1 (itself)."""
    red, green, blue = (1 + (part - 1) * share for part in to_rgb(color))
    return red, green, blue


def token(
    axis: Axes, center: Point, label: str, modality: str = "text", width: float = 0.8,
    strong: bool = False,
) -> None:  # fmt: skip
    """A token: a rounded cell in its modality's color, filled where it is the one spoken of."""
    x, y = center
    color = color_of(modality)
    face = color if strong else tint(color, 0.12)
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.06, y - 0.1),
            width - 0.12,
            0.2,
            "round,pad=0.06,rounding_size=0.1",
            facecolor=face,
            edgecolor=color,
            linewidth=1.2,
            zorder=3,
        )  # fmt: skip
    )
    ink = "white" if strong else INK
    axis.text(x, y - 0.01, label, ha="center", va="center", color=ink, fontsize=10, zorder=4)


def line(axis: Axes, start: Point, end: Point, weight: float, modality: str = "text") -> None:
    """Attention from one token to another: as thick as its weight, none where that is zero."""
    if weight > 0:
        axis.plot(
            *zip(start, end, strict=True), color=color_of(modality), zorder=1,
            linewidth=THICKEST * weight, solid_capstyle="butt", alpha=0.75,
        )  # fmt: skip


def bow(axis: Axes, start: Point, end: Point, weight: float, modality: str = "text") -> None:
    """As `line`, in a bow above the tokens of one row."""
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-",
            color=color_of(modality),
            linewidth=THICKEST * weight,
            shrinkA=0,
            shrinkB=0,
            connectionstyle="arc3,rad=0.25",
            zorder=1,
            alpha=0.75,
        )  # fmt: skip
    )


def arrow(axis: Axes, start: Point, end: Point, bend: float = 0.0) -> None:
    """The way of a value from one piece of a diagram to the next; bend turns it aside."""
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=10,
            color=MUTED,
            linewidth=1.2,
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
            zorder=2,
        )  # fmt: skip
    )


def box(
    axis: Axes, center: Point, label: str, modality: str = "none", width: float = 1.2,
    height: float = 0.34,
) -> None:  # fmt: skip
    """A part of a model that computes: a box with square corners."""
    x, y = center
    axis.add_patch(
        Rectangle(
            (x - width / 2, y - height / 2),
            width,
            height,
            zorder=3,
            linewidth=1.2,
            facecolor=tint(color_of(modality), 0.12),
            edgecolor=color_of(modality),
        )  # fmt: skip
    )
    axis.text(x, y - 0.01, label, ha="center", va="center", fontsize=9, zorder=4)


def grid(
    axis: Axes, corner: Point, values: Tensor | Sequence[Sequence[float]], name: str = "",
    modality: str = "text", rows: Sequence[str] = (), columns: Sequence[str] = (),
    side: float = 0.36, form: str = "{:g}", hidden: Tensor | None = None, shape: bool = True,
    largest: float = 0.0,
) -> Point:  # fmt: skip
    """A tensor [rows, columns] as a grid, its upper left corner given; returns its lower right one.

    The darker, the farther from zero, gray below it; each number as `form` writes it ("" leaves
    them out). The darkest is `largest`, or the largest value where that is more: grids with the
    same `largest` can be compared. Cells where `hidden` is True are crossed out. Above it stand
    the name and, unless told not to, the shape.

    Raises UserError where values have not two axes, or labels or `hidden` do not fit them.
    """
    table = _table(values, rows, columns)
    height, width = table.shape
    if hidden is not None and hidden.shape != table.shape:
        raise expected(
            f"a mask of shape {list(table.shape)}", f"{list(hidden.shape)}", "pass a cell for each"
        )
    own = color_of(modality)
    left, top = corner
    most = max(largest, float(table.abs().max())) or 1.0
    for i in range(height):
        for j in range(width):
            x, y, value = left + j * side, top - (i + 1) * side, float(table[i, j])
            out = hidden is not None and bool(hidden[i, j])
            share = 0.0 if out else 0.7 * abs(value) / most  # ink on it keeps 4.5:1
            color = own if value >= 0 else MODALITY["none"]
            axis.add_patch(
                Rectangle(
                    (x, y),
                    side,
                    side,
                    facecolor=tint(color, share),
                    edgecolor="white",
                    linewidth=1.0,
                    zorder=2,
                )  # fmt: skip
            )
            if out:
                axis.plot(
                    (x + 0.08, x + side - 0.08), (y + 0.08, y + side - 0.08), color=MUTED, lw=1
                )
            elif form:
                number = form.format(value)
                if float(number) == 0:
                    number = number.removeprefix("-")
                axis.text(
                    x + side / 2, y + side / 2, number, ha="center", va="center", fontsize=8,
                    color=INK, zorder=3,
                )  # fmt: skip
    axis.add_patch(
        Rectangle(
            (left, top - height * side),
            width * side,
            height * side,
            fill=False,
            edgecolor=own,
            linewidth=1.2,
            zorder=4,
        )  # fmt: skip
    )
    for i, label in enumerate(rows):
        axis.text(left - 0.06, top - (i + 0.5) * side, label, ha="right", va="center", fontsize=9)
    # a letter is about 0.09 inches wide: where one label is too wide for its column, all are tilted
    tilted = any(0.09 * len(label) > side for label in columns)
    for j, label in enumerate(columns):
        axis.text(
            left + (j + 0.5) * side, top + 0.05, label, ha="left" if tilted else "center",
            va="bottom", fontsize=9, rotation=40 if tilted else 0, rotation_mode="anchor",
        )  # fmt: skip
    title = f"{name} [{height}, {width}]".strip() if shape else name
    if title:
        longest = max(map(len, columns), default=0)
        above = 0.2 + 0.06 * longest if tilted else 0.24 if columns else 0.08
        axis.text(
            left + width * side / 2, top + above, title, ha="center", va="bottom", fontsize=9,
            color=own, fontweight="bold",
        )  # fmt: skip
    return left + width * side, top - height * side


def _table(
    values: Tensor | Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]
) -> Tensor:
    """Values [rows, columns] as float64; a UserError where the labels given do not fit them."""
    table = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if table.ndim != 2:
        raise expected("a tensor of two axes", f"{list(table.shape)}", "pick one head, one text")
    for labels, count, what in zip((rows, columns), table.shape, ("row", "column"), strict=True):
        if labels and len(labels) != count:
            raise expected(f"{count} {what} labels", len(labels), f"pass one a {what}")
    return table


def attends(
    keys: Sequence[str], weights: Sequence[float] | Tensor, asking: str,
    modality: Sequence[str] | str = "text", asks: str = "text",
) -> tuple[Figure, str]:  # fmt: skip
    """What one query attends to: the keys in a row, the query below, a line to each key.

    weights [L_k], each written above its key's token; modality is that of all keys or of each, asks
    that of the query. Returns the figure and its alternative text.

    Raises UserError where keys, weights and modalities are not one for each, or a weight is none.
    """
    shares = shares_of(weights, (len(keys),)).tolist()
    step = WIDEST / len(keys)
    figure, axis = canvas(WIDEST, 2.0)
    below = (WIDEST / 2, 0.25)
    for number, (key, weight, kind) in enumerate(
        zip(keys, shares, kinds_of(modality, len(keys)), strict=True)
    ):
        x = step * (number + 0.5)
        line(axis, (below[0], below[1] + 0.15), (x, 1.35), weight, kind)
        token(axis, (x, 1.5), key, kind, min(0.86, step - 0.06))
        axis.text(x, 1.74, f"{weight:.2f}", ha="center", va="bottom", fontsize=9, color=MUTED)
    token(axis, below, asking, asks, strong=True)
    axis.text(below[0] + 0.5, below[1], "asks", va="center", fontsize=9, color=MUTED)
    return figure, in_words(asking, keys, shares)


def shares_of(weights: Sequence | Tensor, shape: tuple[int, ...]) -> Tensor:
    """Weights of that shape, [L_k] or [H, L_q, L_k], as float64; a UserError outside 0 … 1."""
    shares = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    if tuple(shares.shape) != shape or 0 in shape:
        raise expected(
            f"weights of shape {list(shape)}", f"{list(shares.shape)}", "pass one for each key"
        )
    outside = shares[~((shares >= 0) & (shares <= 1 + 1e-6))]
    if len(outside):
        raise expected("weights within 0 … 1", f"{outside[0]:g}", "pass softmax(scores)")
    return shares


def kinds_of(modality: Sequence[str] | str, count: int) -> list[str]:
    """The modality of each token, where one is given for all or one for each."""
    kinds = [modality] * count if isinstance(modality, str) else list(modality)
    if len(kinds) != count:
        raise expected(f"one modality, or one for each of {count}", len(kinds), "pass one for each")
    return kinds


def in_words(asking: str, keys: Sequence[str], shares: Sequence[float]) -> str:
    """What a query attends to, as a sentence, the largest weight first."""
    return f"{asking} attends to {_listed(keys, shares)}."


def _listed(keys: Sequence[str], shares: Sequence[float]) -> str:
    order = sorted(range(len(keys)), key=lambda n: (-round(shares[n], 2), n))
    return ", ".join(f"{keys[n]} {shares[n]:.2f}" for n in order) or "nothing"


def weights(
    table: Tensor | Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str],
    name: str = "weights", mask: Tensor | None = None, modality: str = "text", form: str = "{:.2f}",
) -> tuple[Figure, str]:  # fmt: skip
    """The weights of all queries (rows) on all keys (columns); crossed out where mask is False.

    table [L_q, L_k], mask [L_q, L_k]. Raises UserError where labels or mask do not fit the table.
    """
    table = _table(table, rows, columns)
    side = min(0.62, 3.9 / len(columns))
    figure, axis = canvas(WIDEST, side * len(rows) + 0.95)
    hidden = None if mask is None else ~mask
    left = (WIDEST - side * len(columns)) / 2 + 0.3
    grid(
        axis, (left, side * len(rows) + 0.05), table, name, modality, rows, columns, side, form,
        hidden,
    )  # fmt: skip
    told = []
    for row, shares, number in zip(rows, table, range(len(rows)), strict=True):
        seen = [n for n in range(len(columns)) if hidden is None or not hidden[number, n]]
        told.append(
            f"{row}: {_listed([columns[n] for n in seen], [float(shares[n]) for n in seen])}"
        )
    return figure, f"A grid of {name}. " + "; ".join(told) + "."


def bars(
    groups: Sequence[tuple[str, Sequence[float]]], labels: Sequence[str], name: str,
    modality: str = "text",
) -> tuple[Figure, str]:  # fmt: skip
    """Weights over the same keys, one row of bars a group: what a change does to them.

    groups: (title, weights) each. Raises UserError where a group has not one weight a label.
    """
    rows = [(title, shares_of(shares, (len(labels),)).tolist()) for title, shares in groups]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(WIDEST, 0.5 + 0.8 * len(groups)), sharex=True, squeeze=False
    )
    told = []
    for axis, (title, values) in zip(axes[:, 0], rows, strict=True):
        axis.bar(np.arange(len(labels)), values, color=color_of(modality), width=0.6)
        axis.set(ylim=(0, 1), yticks=(0, 1))
        axis.set_title(title, loc="left", fontsize=9, pad=2)
        axis.grid(False)
        told.append(f"{title}: {_listed(labels, values)}")
    axes[-1, 0].set_xticks(np.arange(len(labels)), labels)
    return figure, f"{name}. " + "; ".join(told) + "."
