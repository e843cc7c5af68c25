"""Chapter 09: intervals drawn beside each other, with the words for those who do not see them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mmlib.book.drawing import INK, WIDEST, color_of, tint
from mmlib.errors import expected
from mmlib.evaluation.intervals import Interval, format_interval


def spans(
    rows: Sequence[tuple[str, Interval, str]], name: str, ends: tuple[float, float] = (0, 100),
    margin: float | None = None, factor: float = 100.0, digits: int = 1,
) -> tuple[Figure, str]:  # fmt: skip
    """One row an interval: a dot at the mean, a line from low to high, the figures at the right.

    rows (label, interval, modality whose color it has), the first at the top; the scale goes from
    ends[0] to ends[1], in units of factor times the figure. margin shades what does not count, from
    −margin to margin. Returns the figure and its alternative text.

    Raises UserError where there is no row.
    """
    if not rows:
        raise expected("at least one interval", 0, "pass (label, interval, modality)")
    figure, axis = plt.subplots(figsize=(WIDEST, 0.75 + 0.28 * len(rows)))
    if margin is not None:
        axis.axvspan(-factor * margin, factor * margin, color=tint(color_of("none"), 0.18), lw=0)
    told = []
    for y, (label, found, kind) in enumerate(rows):
        low, mean, high = (factor * found[end] for end in ("low", "mean", "high"))
        axis.plot((low, high), (y, y), color=color_of(kind), linewidth=2.5, solid_capstyle="butt")
        axis.plot(mean, y, "o", color=color_of(kind), markersize=6)
        words = format_interval(found, digits, factor)
        axis.annotate(
            words, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK
        )
        told.append(f"{label} {words}")
    axis.set(xlim=ends, ylim=(len(rows) - 0.5, -0.5), xlabel=name)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.grid(axis="y", visible=False)
    return figure, f"{name}: {'; '.join(told)}."
