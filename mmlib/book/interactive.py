"""Figures a reader operates without a kernel: plain HTML whose numbers were all computed before.

They run from a file, offline, with the keyboard, on a phone. Where scripts do not run (GitHub, an
untrusted notebook) the first state shows and the controls stay hidden. Each part names itself by a
hash of its content, so the output is the same on each run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence

from IPython.display import HTML

from mmlib.book.figures import BOTH, IMAGE, TEXT
from mmlib.errors import expected

_CARD = (
    "max-width:640px;background:#fff;color:#1b1b1b;border:1px solid #d1d5db;border-radius:6px;"
    "padding:10px;font:15px/1.45 sans-serif;box-sizing:border-box"
)
_ROW = "display:flex;flex-wrap:wrap;gap:4px 10px;align-items:center;margin-top:6px"

_FRAMES_JS = """
document.querySelectorAll('[data-mm="KEY"]:not([data-ready])').forEach((root) => {
  root.dataset.ready = '1';
  const img = root.querySelector('img'), range = root.querySelector('input');
  const out = root.querySelector('output'), button = root.querySelector('button');
  const d = JSON.parse(root.querySelector('script').textContent);
  let timer = null;
  const show = (i) => {
    img.src = 'data:image/png;base64,' + d.frames[i];
    img.alt = d.alts[i]; out.value = d.labels[i];
    range.setAttribute('aria-valuetext', d.labels[i]);
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = 'Play'; };
  range.oninput = () => { stop(); show(+range.value); };
  button.onclick = () => {
    if (timer) return stop();
    button.textContent = 'Pause';
    if (+range.value === d.frames.length - 1) { range.value = 0; show(0); }
    timer = setInterval(() => {
      range.value = +range.value + 1; show(+range.value);
      if (+range.value === d.frames.length - 1) stop();
    }, d.ms);
  };
  root.querySelector('[hidden]').hidden = false;
});
"""


def _key(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()[:10]


def _page(key: str, inside: str, data: str, script: str) -> HTML:
    # "</" inside a script element would end it
    data = data.replace("</", "<\\/")
    return HTML(
        f'<div data-mm="{key}" class="mm-figure" style="{_CARD}">{inside}'
        f'<script type="application/json">{data}</script></div>'
        f"<script>{script.replace('KEY', key)}</script>"
    )


def frames(
    pngs: Sequence[bytes], labels: Sequence[str], name: str, alts: Sequence[str], ms: int = 600
) -> HTML:
    """A slider, and a button that plays it, over pictures drawn beforehand.

    pngs one picture a step, labels what stands beside the slider, name what the slider changes,
    alts what is to be seen in each picture, ms the milliseconds a step plays.

    Raises UserError where there are not as many labels and alternative texts as pictures.
    """
    if not len(pngs) == len(labels) == len(alts) or not pngs:
        raise expected(
            f"a label and an alternative text for each of {len(pngs)} pictures",
            f"{len(labels)} and {len(alts)}",
            "pass one of each a picture",
        )
    coded = [base64.b64encode(png).decode() for png in pngs]
    data = json.dumps(
        {"frames": coded, "labels": list(labels), "alts": list(alts), "ms": ms}, ensure_ascii=False
    )
    e = html.escape
    inside = (
        f'<img src="data:image/png;base64,{coded[0]}" alt="{e(alts[0])}" '
        'style="width:100%;height:auto;display:block">'
        f'<div hidden><div style="{_ROW}"><button type="button" style="min-width:5em">Play</button>'
        f'<label style="flex:1 1 14em;display:flex;gap:8px;align-items:center">{e(name)}'
        f'<input type="range" min="0" max="{len(coded) - 1}" step="1" value="0" '
        f'aria-valuetext="{e(labels[0])}" style="flex:1;min-width:6em"></label>'
        f'<output style="min-width:5em">{e(labels[0])}</output></div></div>'
    )
    return _page(_key(data), inside, data, _FRAMES_JS)


_MIXTURE_JS = """
document.querySelectorAll('[data-mm="KEY"]:not([data-ready])').forEach((root) => {
  root.dataset.ready = '1';
  const d = JSON.parse(root.querySelector('script').textContent);
  const part = (name) => root.querySelector('[data-part="' + name + '"]');
  const [scale, count] = root.querySelectorAll('input');
  const [atScale, atCount, says] = root.querySelectorAll('output');
  const put = (node, at) => Object.keys(at).forEach((k) => node.setAttribute(k, at[k]));
  const move = (name, p) => put(part(name), {transform: 'translate(' + p + ')'});
  const show = () => {
    const s = d.states[+scale.value][+count.value];
    ['t', 'i', 'h'].forEach((name) => move(name, s[name]));
    put(part('line'), {x1: s.t[0], y1: s.t[1], x2: s.i[0], y2: s.i[1]});
    put(part('share'), {width: s.bar});
    atScale.value = d.scales[+scale.value]; atCount.value = d.counts[+count.value];
    scale.setAttribute('aria-valuetext', atScale.value);
    count.setAttribute('aria-valuetext', atCount.value);
    says.value = s.says;
    root.querySelector('svg').setAttribute('aria-label', s.alt);
  };
  scale.oninput = count.oninput = show;
  root.querySelector('[hidden]').hidden = false;
});
"""
_LEFT, _WIDTH, _UNIT = 44, 300, 50  # pixels: left edge of the axes, width of the bar, of one unit


def _pixel(point: Sequence[float]) -> list[float]:
    """Plane to drawing: x to the right, y up, 0 … 6 on both axes."""
    return [round(_LEFT + _UNIT * point[0], 1), round(330 - _UNIT * point[1], 1)]


def mixture(
    states: Sequence[Sequence[dict]],
    scales: Sequence[str],
    counts: Sequence[str],
    values: dict[str, Sequence[Sequence[float]]],
    start: tuple[int, int] = (0, 0),
) -> HTML:
    """Two sliders move h along the segment from h_t to h_i, eq. (4.3).

    states[scale][count] = {"alpha": share of the text, "t": h_t, "i": h_i, "h": h}, points of the
    plane within 0 … 6, computed beforehand; scales and counts name the positions of the sliders;
    values {"t": …, "i": …} are the value vectors, drawn small; start is the first position.

    Raises UserError where a state is missing.
    """
    if len(states) != len(scales) or any(len(line) != len(counts) for line in states):
        raise expected(
            f"{len(scales)} × {len(counts)} states",
            f"{len(states)} × {len(states[0]) if states else 0}",
            "compute one state for each pair of positions",
        )
    drawn = [
        [_state(s, scales[a], counts[b]) for b, s in enumerate(line)]
        for a, line in enumerate(states)
    ]
    first = drawn[start[0]][start[1]]
    data = json.dumps(
        {"states": drawn, "scales": list(scales), "counts": list(counts)}, ensure_ascii=False
    )

    def slider(name: str, labels: Sequence[str], at: int) -> str:
        return (
            f'<label style="{_ROW};width:100%"><span style="flex:1 1 11em">{name}</span>'
            f'<input type="range" min="0" max="{len(labels) - 1}" step="1" value="{at}" '
            f'aria-valuetext="{labels[at]}" style="flex:2 1 9em;min-width:6em">'
            f'<output style="min-width:4.5em">{labels[at]}</output></label>'
        )

    inside = (
        _drawing(first, values)
        + "<div hidden>"
        + slider("scores multiplied by", scales, start[0])
        + slider("each cell cut into", counts, start[1])
        + "</div>"
        + f'<output style="display:block;margin-top:6px">{first["says"]}</output>'
    )
    return _page(_key(data), inside, data, _MIXTURE_JS)


def _state(s: dict, scale: str, count: str) -> dict:
    alpha, h = s["alpha"], s["h"]
    says = (
        f"α = {alpha:.2f} on the text, {1 - alpha:.2f} on the picture; h = ({h[0]:.2f}, {h[1]:.2f})"
    )
    where = "halfway between h_t and h_i"
    if abs(alpha - 0.5) > 0.02:
        where = f"{'nearer to h_t' if alpha > 0.5 else 'nearer to h_i'} on the segment between them"
    alt = f"Scores {scale}, each cell cut into {count}: {says}, {where}."
    points = {name: _pixel(s[name]) for name in "tih"}
    return {**points, "bar": round(_WIDTH * alpha, 1), "says": says, "alt": alt}


def _drawing(s: dict, values: dict[str, Sequence[Sequence[float]]]) -> str:
    """The plane, the segment with its three points, and the bar of shares, as SVG."""
    colour = {"t": TEXT, "i": IMAGE, "h": BOTH}
    label = {"t": "h<tspan dy='4' font-size='11'>t</tspan>",
             "i": "h<tspan dy='4' font-size='11'>i</tspan>", "h": "h"}  # fmt: skip
    grid, marks = [], []
    for n in range(7):
        x, y = _pixel((n, n))
        grid.append(f'<path d="M{x} 330V30M{_LEFT} {y}H344" stroke="#e5e7eb"/>')
        marks.append(f'<text x="{x}" y="348" text-anchor="middle">{n}</text>')
        marks.append(f'<text x="34" y="{y + 4}" text-anchor="end">{n}</text>')
    for name, points in values.items():
        for point in points:
            x, y = _pixel(point)
            marks.append(
                f'<circle cx="{x}" cy="{y}" r="4" fill="none" stroke="{colour[name]}" '
                'stroke-width="1.5"/>'
            )
    moving = "".join(
        f'<g data-part="{name}" transform="translate({s[name][0]},{s[name][1]})">'
        f'<circle r="{9 if name == "h" else 7}" fill="{colour[name]}"/>'
        f'<text x="13" y="{20 if name == "h" else -8}" font-size="17" font-weight="bold" '
        f'fill="{colour[name]}">{label[name]}</text></g>'
        for name in "tih"
    )
    return (
        f'<svg viewBox="0 0 400 408" role="img" aria-label="{html.escape(s["alt"])}" '
        'style="width:100%;max-width:480px;height:auto;display:block;margin:auto" '
        'font-family="sans-serif" font-size="12" fill="#374151">'
        f"{''.join(grid)}{''.join(marks)}"
        f'<line data-part="line" x1="{s["t"][0]}" y1="{s["t"][1]}" x2="{s["i"][0]}" '
        f'y2="{s["i"][1]}" stroke="#6b7280" stroke-width="2" stroke-dasharray="5 4"/>{moving}'
        f'<rect x="{_LEFT}" y="380" width="{_WIDTH}" height="18" fill="{IMAGE}"/>'
        f'<rect data-part="share" x="{_LEFT}" y="380" width="{s["bar"]}" height="18" '
        f'fill="{TEXT}"/><text x="{_LEFT}" y="374">share of the text, α</text>'
        '<text x="344" y="374" text-anchor="end">share of the picture</text></svg>'
    )
