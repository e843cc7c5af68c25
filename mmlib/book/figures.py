"""What a chapter shows: figures, tables, listings and findings, the same bytes on every machine."""

from __future__ import annotations

import html
import inspect
import io
import json
import random
import textwrap
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from IPython.display import HTML, Image, Markdown, display
from matplotlib.figure import Figure
from PIL import Image as Picture

from mmlib.errors import expected

# Okabe and Ito's colors, darkened where text or a line on white needs the contrast.
TEXT, IMAGE, BOTH, MUTED = "#0b5fa5", "#b3470f", "#1a7a4c", "#6b7280"
SOUND, SENSORS = "#8e3b8a", "#a07800"
COLORS = (TEXT, IMAGE, BOTH, SOUND, SENSORS, "#1b1b1b", MUTED)
STYLE: Any = {
    "figure.figsize": (4.8, 3.0), "figure.dpi": 192, "savefig.dpi": 192,  # legible on a phone
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "figure.constrained_layout.use": True, "font.family": "DejaVu Sans", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e5e7eb", "axes.axisbelow": True, "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLORS),
}  # fmt: skip

_started = time.perf_counter()


def setup(chapter: str) -> None:
    """Begin a chapter: the style of its figures, the seeds of its numbers, the start of its clock.

    chapter is the notebook's name without its ending, "04_fusion".
    """
    global _started
    _started = time.perf_counter()
    plt.rcParams.update(STYLE)
    number = int(chapter.split("_")[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def time_spent() -> None:
    """Print how long the chapter took; for its last cell, tagged nbval-ignore-output."""
    print(f"This chapter ran in {time.perf_counter() - _started:.0f} seconds.")


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG of at most 256 colors, the same bytes on each run; closes the figure."""
    raw, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})  # else Matplotlib's version
    plt.close(figure)
    picture = Picture.open(raw).convert("RGB")
    picture = picture.quantize(256, method=Picture.Quantize.MEDIANCUT, dither=Picture.Dither.NONE)
    picture.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alternative text: what one should see in it, in words.

    Raises UserError where the text is empty.
    """
    if not alt.strip():
        raise expected("a sentence that says what the figure shows", "nothing", "pass alt")
    size = figure.get_size_inches() * 100
    # Colab's IPython 7 has no Image(alt=); the site reads the text from the metadata
    display(Image(png_bytes(figure), width=round(size[0]), metadata={"alt": alt}))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
    """Display a table; the first column names the row, the others are as given, in words.

    A wide table scrolls by itself, so the page need not.
    """
    cells = "".join(f'<th scope="col">{html.escape(str(x))}</th>' for x in head)
    lines = [f"<thead><tr>{cells}</tr></thead>", "<tbody>"]
    for name, *values in rows:
        first = f'<th scope="row">{html.escape(str(name))}</th>'
        lines.append(
            f"<tr>{first}{''.join(f'<td>{html.escape(str(v))}</td>' for v in values)}</tr>"
        )
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    # a group, no region: that is a landmark, and a page may hold two tables of one name
    display(
        HTML(
            '<div class="mm-table" style="overflow-x:auto" tabindex="0" role="group" '
            f'aria-label="{html.escape(caption or head[0])}"><table class="table">{title}'
            f"{body}</tbody></table></div>"
        )
    )


def finding(text: str) -> None:
    """Display the sentence that a cell computed from its numbers."""
    display(Markdown(f"**Finding.** {text}"))


def listing(*parts: Callable | type) -> None:
    """Display the tested source of functions or classes of mmlib, under the name of their file."""
    for part in parts:
        module = part.__module__.replace(".", "/")
        source = textwrap.dedent(inspect.getsource(part)).rstrip()
        display(Markdown(f"```python\n# {module}.py\n{source}\n```"))


def record(name: str) -> dict[str, Any]:
    """The record book/results/NAME.json: from the repository, or in Colab from its address.

    The package is installed there without the book; pip notes the address and the commit it came
    from, so the record fetched is the one that belongs to the code.

    Raises UserError where there is neither.
    """
    local = Path(__file__).resolve().parents[2] / "book" / "results" / f"{name}.json"
    if local.exists():
        return json.loads(local.read_text("utf8"))
    origin = json.loads(metadata.distribution("mmlib").read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id")
    if not commit:
        raise expected(f"the record {name}", "no such file", f"run make record NAME={name}")
    address = origin["url"].removesuffix(".git") + f"/raw/{commit}/book/results/{name}.json"
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.loads(answer.read())


def number(
    value: dict[str, float], digits: int = 3, within: tuple[float, float] = (-np.inf, np.inf)
) -> str:
    """An interval as text: {mean, low, high} → "0.547 [0.543, 0.552]".

    Where all three read the same, the mean alone. `within` is the range of values that can occur:
    a t interval knows nothing of it, and is cut there.
    """
    mean, low, high = (
        f"{np.clip(value[k], *within) + 0.0:.{digits}f}" for k in ("mean", "low", "high")
    )
    mean, low, high = (x.removeprefix("-") if float(x) == 0 else x for x in (mean, low, high))
    return mean if mean == low == high else f"{mean} [{low}, {high}]"


def percent(value: float | dict[str, float]) -> str:
    """A share as text: 0.6875 → "68.8 %"; {mean, low, high} → "68.8 % [68.1, 69.4]"."""
    if isinstance(value, dict):
        return f"{percent(value['mean'])} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    return f"{100 * value:.1f} %"
