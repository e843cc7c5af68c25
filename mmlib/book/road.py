"""Chapter 06: what its checks say, drawn: from program to program, and of three ways to freeze."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from io import BytesIO
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image as Picture
from torch import nn

from mmlib.book import checks, figures, interactive
from mmlib.data.scenes import ANSWERS, WORDS
from mmlib.models import MultimodalBert, preset

COLOR = {"passes": figures.BOTH, "fails": figures.IMAGE, "blind": "#a07800", "stops": "#e5e7eb"}
SIGN = {"passes": "✓", "fails": "×", "blind": "?", "stops": "–"}
Found = Mapping[tuple[str, str], str]  # (check, program) -> passes, fails, blind or stops


def board(
    found: Found, rows: Sequence[str], columns: Sequence[str], size: tuple[float, float]
) -> tuple[Figure, Axes]:
    """A cell for each row and column, in the color and with the sign of what was found there."""
    figure, axis = plt.subplots(figsize=size)
    axis.imshow([[to_rgb(COLOR[found[r, c]]) for c in columns] for r in rows], aspect="auto")
    for (y, r), (x, c) in product(enumerate(rows), enumerate(columns)):
        axis.text(
            x, y, SIGN[found[r, c]], ha="center", va="center", fontsize=8,
            color="black" if found[r, c] == "stops" else "white",
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), rows, fontsize=9)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    for x in range(1, len(columns)):
        axis.axvline(x - 0.5, color="white", linewidth=1)
    for y in range(1, len(rows)):
        axis.axhline(y - 0.5, color="white", linewidth=1)
    return figure, axis


def road(found: Found, programs: Sequence[str], dead_ends: Collection[str] = ()) -> HTML:
    """A slider over the programs: the board of all checks, blank from the next program on.

    The name of a dead end stands in brackets.
    """
    rows = list(checks.CHECKS)
    figure, axis = board(found, rows, programs, (4.8, 5.0))
    names = [f"({p})" if p in dead_ends else p for p in programs]
    axis.set_xticks(range(len(programs)), names, rotation=90, fontsize=8)
    axis.set_xlabel("   ".join(f"{SIGN[s]} {s}" for s in SIGN), fontsize=9)
    figure.canvas.draw()
    corners = axis.transData.transform([(x + 0.5, len(rows) - 0.5) for x in range(len(programs))])
    top = axis.transData.transform((0, -0.5))[1]
    dpi = plt.rcParams["savefig.dpi"]
    scale = (figure.dpi if dpi == "figure" else dpi) / figure.dpi  # of a saved pixel to one here
    height = figure.get_size_inches()[1] * scale * figure.dpi
    whole = Picture.open(BytesIO(figures.png_bytes(figure)))
    pngs, alts, last = [], [], round(corners[-1][0] * scale)
    for (right, bottom), name in zip(corners * scale, programs, strict=True):
        frame, packed = whole.copy(), BytesIO()
        if round(right) < last:  # what is still to come is blank
            upper, lower = round(height - top * scale) - 3, round(height - bottom) + 3
            frame.paste(
                frame.crop((0, 0, 1, 1)).resize((last + 3 - round(right), lower - upper)),
                (round(right), upper),
            )
        frame.save(packed, "PNG", optimize=True)
        pngs.append(packed.getvalue())
        alts.append(f"{name}: {_counted(found, name)}.")
    labels = [f"{n}: {p}" for n, p in enumerate(programs)]
    return interactive.frames(pngs, labels, "program", alts)


def _counted(found: Found, program: str) -> str:
    """How many checks say what of a program; few are named."""
    states = {s: [c for c in checks.CHECKS if found[c, program] == s] for s in SIGN}
    return "; ".join(
        f"{len(cs)} {s}" + (f" ({', '.join(cs)})" if 0 < len(cs) < 6 else "")
        for s, cs in states.items()
    )


# --- what freezes a pretrained part ---------------------------------------------------------------

FREEZES: dict[str, Callable[[Any], object]] = {
    "requires_grad_(False)": lambda encoder: encoder.backbone.requires_grad_(False),
    "eval() once": lambda encoder: encoder.backbone.eval(),
    "freeze()": lambda encoder: encoder.freeze(),
}
CHANGES = ("weights move", "running means move", "dropout draws")


def still_changes(freeze: Callable[[Any], object]) -> dict[str, bool]:
    """Which of CHANGES befall the two encoders, once frozen so, in one step of a training loop."""
    torch.manual_seed(6)
    config = preset("tiny", len(ANSWERS), len(WORDS))
    model, given = MultimodalBert.from_config(config), checks.batch()
    text: Any = model.encoders["text"]
    image: Any = model.encoders["image"]
    for part in text.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1  # what a pretrained BERT comes with
    for encoder in (text, image):
        freeze(encoder)
    model.train()  # the first line of the loop
    weights = [p for encoder in (text, image) for p in encoder.backbone.parameters()]
    means = [b for b in image.backbone.buffers() if b.is_floating_point()]
    before = [[x.detach().clone() for x in kept] for kept in (weights, means)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nn.functional.cross_entropy(model(given.text, given.image), given.target).backward()
    optimizer.step()
    moved = [
        any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(before, (weights, means), strict=True)
    ]
    with torch.no_grad():
        once, again = (text.backbone(**given.text).last_hidden_state for _ in range(2))
    return dict(zip(CHANGES, (*moved, not torch.equal(once, again)), strict=True))


def freezing() -> tuple[Figure, str]:
    """Three ways to freeze and what still changes after the loop's train(): a figure, its words."""
    ways = {name: still_changes(freeze) for name, freeze in FREEZES.items()}
    found = {
        (what, name): "fails" if changes else "passes"
        for name, by in ways.items() for what, changes in by.items()
    }  # fmt: skip
    figure, axis = board(found, CHANGES, list(ways), (4.8, 1.8))
    for text in axis.texts:
        text.set(text="yes" if text.get_text() == SIGN["fails"] else "no", fontsize=10)
    axis.set_xticks(range(len(ways)), list(ways), fontsize=8.5)
    told = (
        f"with {name} " + ", ".join(f"{what}: {'yes' if by[what] else 'no'}" for what in CHANGES)
        for name, by in ways.items()
    )
    return figure, f"After the loop's train(): {'; '.join(told)}."
