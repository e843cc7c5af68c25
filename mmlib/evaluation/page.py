"""A page of results that stands alone: one file, no request to any host, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from mmlib.evaluation.intervals import Interval, format_interval

STYLE = """
:root { color-scheme: light dark; --ground: #fffefb; --ink: #1b1b1b; --line: #c9c6bc;
  --mark: #1f5c99; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #15181c; --ink: #e6e9ed; --line: #4a525b; --mark: #8ab8e8; } }
body { background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif;
  max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
figure, .wide { margin: 0; overflow-x: auto; }
svg { width: 100%; min-width: 26rem; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .axis { stroke: var(--line); }
svg .span { stroke: var(--mark); stroke-width: 3; } svg circle { fill: var(--mark); }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
"""
WIDTH, LEFT, RIGHT, ROW = 700, 190, 520, 24


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML document of parts that the functions below make."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A heading and a table of plain texts."""
    first = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return (
        f'<h2>{escape(title)}</h2>\n<div class="wide" tabindex="0"><table>\n'
        f"<tr>{first}</tr>\n{lines}</table></div>"
    )


def interval_chart(
    title: str,
    rows: Mapping[str, Interval],
    ends: tuple[float, float] | None = None,
    zero: bool = False,
) -> str:
    """A heading and a drawing of intervals, a row each: the mean as a dot, a line from low to high.

    The figures are shares and written in percent, with a sign where `zero` is True, which draws a
    line at 0 as well. The scale goes from ends[0] to ends[1], or as far as the intervals do. The
    alternative text holds all the figures.
    """
    low = min([0.0, *(found["low"] for found in rows.values())])
    high = max([0.0, *(found["high"] for found in rows.values())])
    low, high = ends or (low, high if high > low else low + 1)

    def x(value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low)
        return f"{LEFT + share * (RIGHT - LEFT):.1f}"

    height = ROW * (len(rows) + 1)
    drawn = []
    for at in [0.0] if zero else [low, high]:
        drawn.append(f'<line class="axis" x1="{x(at)}" x2="{x(at)}" y1="4" y2="{height - ROW}"/>')
        label = format_interval({"mean": at, "low": at, "high": at}, 0).split(" ")[0]
        drawn.append(f'<text x="{x(at)}" y="{height - 6}" text-anchor="middle">{label}</text>')
    said = []
    for number, (name, found) in enumerate(rows.items()):
        y, words = ROW * (number + 0.5) + 4, format_interval(found, sign=zero)
        left, dot, right = (x(found[end]) for end in ("low", "mean", "high"))
        said.append(f"{name} {words}")
        drawn += [
            f'<text x="0" y="{y + 4}">{escape(name)}</text>',
            f'<line class="span" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>',
            f'<circle cx="{dot}" cy="{y}" r="5"/>',
            f'<text x="{WIDTH}" y="{y + 4}" text-anchor="end">{words}</text>',
        ]
    alt = escape(f"{title}: {'; '.join(said)}.", quote=True)
    return (
        f"<h2>{escape(title)}</h2>\n<figure><svg viewBox='0 0 {WIDTH} {height}' role='img' "
        f'aria-label="{alt}">' + "".join(drawn) + "</svg></figure>"
    )
