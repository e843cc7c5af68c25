"""Chapter 04's ten fusions as small diagrams: what each connects to what, drawn from one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmlib.book import drawing
from mmlib.errors import expected

Place = tuple[float, float]
# Inches within a panel: two words and three cells at the bottom, the word that asks at the top.
_AT: dict[str, Place] = {
    "t1": (0.24, 0.2), "t2": (0.56, 0.2), "i1": (1.3, 0.2), "i2": (1.62, 0.2), "i3": (1.94, 0.2),
    "left": (0.4, 0.72), "right": (1.62, 0.72), "middle": (1.05, 0.72),
    "z1": (0.9, 0.72), "z2": (1.22, 0.72), "top": (1.05, 1.24),
}  # fmt: skip
_TEXT, _IMAGE, _Z = ("t1", "t2"), ("i1", "i2", "i3"), ("z1", "z2")
_WIDTH, _HEIGHT = 2.3, 1.72


@dataclass(frozen=True)
class _Diagram:
    """One fusion: `boxes` (place, label) compute, `arrows` carry numbers from place to place,
    `attend` pairs are lines of attention (who attends, to what), `bends` the same for tokens that
    stand in one row; says tells it to those who do not see."""

    says: str
    boxes: Sequence[tuple[str, str]] = ()
    arrows: Sequence[tuple[str, str]] = ()
    attend: Sequence[tuple[str, str]] = ()
    bends: Sequence[tuple[str, str]] = ()
    tokens: Sequence[str] = ()


def _from(sources: Sequence[str], target: str) -> list[tuple[str, str]]:
    return [(source, target) for source in sources]


def _asks(asking: Sequence[str], keys: Sequence[str]) -> list[tuple[str, str]]:
    return [(query, key) for query in asking for key in keys]


_POOLED = [*_from(_TEXT, "left"), *_from(_IMAGE, "right")]


def _of_means(says: str, map_of: str, join: str) -> _Diagram:
    """Both sides are averaged, mapped by a matrix of their own where one is named, and joined."""
    left, right = (f"mean, {map_of}{m}" if map_of else "mean" for m in ("ₜ", "ᵢ"))
    return _Diagram(
        says,
        [("left", left), ("right", right), ("top", join)],
        [*_POOLED, ("left", "top"), ("right", "top")],
    )


FUSION_DIAGRAMS: dict[str, _Diagram] = {
    "late": _of_means("each side is averaged and mapped by itself, the two are added", "W", "+"),
    "concat": _of_means("both means, side by side, go through a network", "", "network"),
    "bilinear": _of_means("both means are mapped and multiplied number by number", "U", "×"),
    "film": _Diagram(
        "the picture's mean says by what to scale and shift the word",
        [("right", "γ, β"), ("top", "γ · word + β")],
        [*_from(_IMAGE, "right"), ("right", "top"), ("t1", "top")],
    ),
    "cross": _Diagram("the word attends to the cells alone", attend=_asks(["top"], _IMAGE)),
    "gated": _Diagram(
        "the word attends to the cells, and a learned gate, closed at first, lets the result in",
        [("middle", "tanh g")], attend=_asks(["middle"], _IMAGE), arrows=[("middle", "top")],
    ),
    "co": _Diagram(
        "the cells first attend to the words, then the word attends to the cells",
        attend=_asks(["top"], _IMAGE), bends=_asks(_IMAGE, ["t2"]),
    ),
    "merged": _Diagram(
        "the word attends to words and cells under one softmax",
        attend=_asks(["top"], [*_TEXT, *_IMAGE]),
    ),
    "bottleneck": _Diagram(
        "a few learned tokens attend to each side, the word attends to words and learned tokens",
        attend=[*_asks(_Z, [*_TEXT, *_IMAGE]), *_asks(["top"], [*_Z, *_TEXT])], tokens=_Z,
    ),
    "resampler": _Diagram(
        "a few learned tokens attend to everything, the word attends to them alone",
        attend=[*_asks(_Z, [*_TEXT, *_IMAGE]), *_asks(["top"], _Z)], tokens=_Z,
    ),
}  # fmt: skip


def _kind(place: str) -> str:
    return {"t": "text", "i": "image"}.get(place[0], "both") if place[1:].isdigit() else "both"


def _panel(axis: Axes, origin: Place, name: str) -> None:
    diagram = FUSION_DIAGRAMS[name]
    labels = dict(diagram.boxes)

    def at(place: str, lift: float = 0.0) -> Place:
        x, y = _AT[place]
        return origin[0] + x, origin[1] + y + lift

    axis.text(*at("top", 0.3), name, ha="center", va="center", fontsize=10, fontweight="bold")
    for asking, key in diagram.attend:
        drawing.line(axis, at(asking), at(key), 0.25, _kind(key))
    for asking, key in diagram.bends:
        drawing.bow(axis, at(asking, 0.13), at(key, 0.13), 0.25, _kind(key))
    for source, target in diagram.arrows:
        drawing.arrow(axis, at(source, 0.1), at(target, -0.14 if target in labels else -0.12))
    for place in (*_TEXT, *_IMAGE, *diagram.tokens):
        drawing.token(axis, at(place), "", _kind(place), 0.26)
    for place, label in diagram.boxes:
        wide = 1.1 if len(label) > 8 else 0.78
        drawing.box(axis, at(place), label, "both" if place == "top" else "none", wide, 0.28)
    if "top" not in labels:
        drawing.token(axis, at("top"), "word", "text", 0.66, strong=True)


def fusions(names: Sequence[str]) -> tuple[Figure, str]:
    """Diagrams of the named fusions, two in a row; words are blue, cells of the picture orange.

    Arrows carry numbers; a line is attention, from the token that attends to what it attends to.
    Returns the figure and its alternative text. Raises UserError for a name that is none.
    """
    unknown = [name for name in names if name not in FUSION_DIAGRAMS]
    if unknown or not names:
        raise expected(
            "fusions of " + ", ".join(FUSION_DIAGRAMS), ", ".join(unknown) or "none", "choose some"
        )
    rows = (len(names) + 1) // 2
    figure, axis = drawing.canvas(drawing.WIDEST, rows * _HEIGHT)
    for number, name in enumerate(names):
        row, column = divmod(number, 2)
        _panel(axis, (0.05 + column * (_WIDTH + 0.12), (rows - 1 - row) * _HEIGHT), name)
    return figure, "; ".join(f"{name}: {FUSION_DIAGRAMS[name].says}" for name in names) + "."
