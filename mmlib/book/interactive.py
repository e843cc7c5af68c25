"""Figures a reader operates without a kernel: plain HTML whose numbers were all computed before.

(Only `softmax` computes in the page: its sliders have too many positions to list.)

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

import torch
from IPython.display import HTML
from matplotlib.colors import to_hex
from torch import Tensor

from mmlib.book import drawing
from mmlib.book.figures import BOTH, IMAGE, MUTED, TEXT
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


def _told(text: str) -> str:
    """What the figure shows, in words: a screen reader speaks it when it changes."""
    return f'<output style="display:block;margin-top:6px">{html.escape(text)}</output>'


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
        + _told(first["says"])
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
    color = {"t": TEXT, "i": IMAGE, "h": BOTH}
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
                f'<circle cx="{x}" cy="{y}" r="4" fill="none" stroke="{color[name]}" '
                'stroke-width="1.5"/>'
            )
    moving = "".join(
        f'<g data-part="{name}" transform="translate({s[name][0]},{s[name][1]})">'
        f'<circle r="{9 if name == "h" else 7}" fill="{color[name]}"/>'
        f'<text x="13" y="{20 if name == "h" else -8}" font-size="17" font-weight="bold" '
        f'fill="{color[name]}">{label[name]}</text></g>'
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


_ATTENDS_JS = """
document.querySelectorAll('[data-mm="KEY"]:not([data-ready])').forEach((root) => {
  root.dataset.ready = '1';
  const d = JSON.parse(root.querySelector('script').textContent);
  const all = (name) => root.querySelectorAll('[data-part="' + name + '"]');
  const lines = all('line'), numbers = all('number'), [cell] = all('cell'), [asks] = all('asks');
  // one word, or one head, is no choice: there is nothing to check then
  const at = (name) => Math.max([...all(name)].findIndex((radio) => radio.checked), 0);
  root.onchange = () => {
    const q = at('query'), s = d.states[at('head')][q];
    s.widths.forEach((width, k) => lines[k].setAttribute('stroke-width', width));
    s.numbers.forEach((number, k) => { numbers[k].textContent = number; });
    cell.setAttribute('fill', d.colors[q]); asks.textContent = d.words[q];
    root.querySelector('output').value = s.says;
    root.querySelector('svg').setAttribute('aria-label', s.says);
  };
  root.querySelector('[hidden]').hidden = false;
});
"""


def attends(
    words: Sequence[str],
    weights: Sequence | Tensor,
    name: str,
    keys: Sequence[str] = (),
    modality: Sequence[str] | str = "text",
    asks: Sequence[str] | str = "text",
    start: int = 0,
) -> HTML:
    """Pick a word, and a head where there are several, and see what it attends to.

    weights [L_q, L_k] or [H, L_q, L_k], drawn as `drawing.attends` draws them; name the title. The
    words attend to each other, or to keys where those are given: picture cells, say. modality is
    that of what is attended to, asks that of the words where they attend to keys; each is one name
    or one a token. start is the word that asks first.

    Raises UserError where words, keys, weights and modalities do not fit each other.
    """
    kinds = drawing.kinds_of(modality, len(keys or words))
    asking = drawing.kinds_of(asks, len(words)) if keys else kinds
    keys = keys or words
    table = torch.as_tensor(weights)
    heads = len(table) if table.ndim == 3 else 1
    shares = drawing.shares_of(
        table if table.ndim == 3 else table[None], (heads, len(words), len(keys))
    ).tolist()
    if not 0 <= start < len(words):
        raise expected(f"a word's place, 0 … {len(words) - 1}", start, "pass start=0")
    states = [
        [
            {
                "widths": [round(drawing.THICKEST * w, 2) for w in row],
                "numbers": [f"{w:.2f}" for w in row],
                "says": (f"Head {h + 1}: " if heads > 1 else "")
                + drawing.in_words(words[q], keys, row),
            }
            for q, row in enumerate(head)
        ]
        for h, head in enumerate(shares)
    ]
    colors = [drawing.color_of(kind) for kind in asking]
    data = json.dumps(
        {"states": states, "words": list(words), "colors": colors}, ensure_ascii=False
    )
    first = states[0][start]

    def choice(part: str, label: str, options: Sequence[str], tints: Sequence[str], at: int) -> str:
        radios = "".join(
            f'<label style="border:1.5px solid {tint};border-radius:8px;padding:3px 9px 3px 6px;'
            f'margin:0;display:flex;gap:5px;align-items:center;background:#fff">'
            f'<input type="radio" name="{key}-{part}" value="{n}" data-part="{part}" '
            f'autocomplete="off" style="margin:0;accent-color:{tint}"'
            f"{' checked' if n == at else ''}>{html.escape(option)}</label>"
            for n, (option, tint) in enumerate(zip(options, tints, strict=True))
        )
        return (
            f'<div role="radiogroup" aria-label="{label}" style="{_ROW}">'
            f'<span style="min-width:3em">{label}</span>{radios}</div>'
        )

    key = _key(name + data + str(start))
    inside = (
        f'<div style="font-weight:bold">{html.escape(name)}</div>'
        + _fan(keys, kinds, words, words[start], colors[start], first)
        + "<div hidden>"
        + (choice("query", "asks", words, colors, start) if len(words) > 1 else "")
        + (
            choice("head", "head", [str(h + 1) for h in range(heads)], [MUTED] * heads, 0)
            if heads > 1
            else ""
        )
        + f"</div>{_told(str(first['says']))}"
    )
    return _page(key, inside, data, _ATTENDS_JS)


def _fan(
    keys: Sequence[str],
    kinds: Sequence[str],
    words: Sequence[str],
    asking: str,
    color: str,
    state: dict,
) -> str:
    """The keys in a row, the query below, a line to each key, as SVG; a long row scrolls."""
    letter, gap = 7.4, 12  # a unit is a pixel where the figure is 360 wide
    step = max(letter * max(map(len, keys)) + gap, 34, 360 / len(keys))
    width, query = step * len(keys), letter * max(map(len, words)) + gap + 8
    middle = width / 2
    lines, cells, numbers = [], [], []
    for k, (name, kind) in enumerate(zip(keys, kinds, strict=True)):
        x, own = step * (k + 0.5), drawing.color_of(kind)
        wide = min(step - 5, letter * len(name) + gap + 8)
        lines.append(
            f'<line data-part="line" x1="{middle:.1f}" y1="132" x2="{x:.1f}" y2="40" '
            f'stroke="{own}" stroke-opacity="0.75" stroke-width="{state["widths"][k]}"/>'
        )
        cells.append(
            f'<rect x="{x - wide / 2:.1f}" y="22" width="{wide:.1f}" height="28" rx="9" '
            f'fill="{to_hex(drawing.tint(own, 0.12))}" stroke="{own}" stroke-width="1.4"/>'
            f'<text x="{x:.1f}" y="40.5">{html.escape(name)}</text>'
        )
        numbers.append(
            f'<text data-part="number" x="{x:.1f}" y="15" font-size="12" fill="{MUTED}">'
            f"{state['numbers'][k]}</text>"
        )
    least = 0.7 * width
    scrolls = ' tabindex="0" role="group" aria-label="attention"' if least > 280 else ""
    return (
        f'<div style="overflow-x:auto"{scrolls}><svg role="img" '
        f'viewBox="0 0 {width:.1f} 152" aria-label="{html.escape(state["says"])}" '
        f'style="width:100%;min-width:{least:.0f}px;max-width:{1.5 * width:.0f}px;'
        'height:auto;display:block;margin:auto" '
        f'font-family="sans-serif" font-size="13.5" fill="{drawing.INK}" text-anchor="middle">'
        f"{''.join(lines)}{''.join(cells)}{''.join(numbers)}"
        f'<rect data-part="cell" x="{middle - query / 2:.1f}" y="118" width="{query:.1f}" '
        f'height="28" rx="9" fill="{color}"/>'
        f'<text data-part="asks" x="{middle:.1f}" y="136.5" fill="#fff">'
        f"{html.escape(asking)}</text>"
        f'<text x="{middle + query / 2 + 8:.1f}" y="136.5" text-anchor="start" font-size="12" '
        f'fill="{MUTED}">asks</text></svg></div>'
    )


_SOFTMAX_JS = """
document.querySelectorAll('[data-mm="KEY"]:not([data-ready])').forEach((root) => {
  root.dataset.ready = '1';
  const d = JSON.parse(root.querySelector('script').textContent), n = d.names.length;
  const all = (name) => root.querySelectorAll('[data-part="' + name + '"]');
  const ranges = root.querySelectorAll('input'), beside = all('at');
  const bars = all('bar'), given = all('score'), numbers = all('number');
  const written = (number, digits) => number.toFixed(digits).replace('-', '\\u2212');
  root.oninput = () => {
    ranges.forEach((range, k) => {
      beside[k].textContent = written(+range.value, 1);
      range.setAttribute('aria-valuetext', beside[k].textContent);
    });
    const [c, beta] = [+ranges[n].value, +ranges[n + 1].value];
    const scores = d.names.map((_, k) => beta * (+ranges[k].value + c));
    const powers = scores.map((score) => Math.exp(score - Math.max(...scores)));
    const sum = powers.reduce((a, b) => a + b);
    const says = d.names.map((name, k) => {
      const share = powers[k] / sum, told = share.toFixed(3);
      bars[k].setAttribute('width', (d.width * share).toFixed(1));
      given[k].textContent = written(scores[k], 2); numbers[k].textContent = told;
      return name + ' ' + told;
    }).join(', ');
    root.querySelector('output').value = d.says + says + '.';
    root.querySelector('svg').setAttribute('aria-label', d.says + says + '.');
  };
  root.querySelector('[hidden]').hidden = false;
});
"""
_BAR = 130  # units of the bar of a weight of 1


def softmax(names: Sequence[str], scores: Sequence[float] | Tensor, modality: str = "text") -> HTML:
    """The softmax of β(s + c), whose scores s [L_k], shift c and factor β the reader moves.

    A slider a score (−4 … 4 in halves), one that adds c to all, which moves no bar, and one that
    multiplies all by β (0 … 4). The page computes exponentials and sum; Python the first state.

    Raises UserError where names and scores are not one for each, or a slider has no such place.
    """
    start = [float(score) for score in scores]
    if len(start) != len(names) or not start:
        raise expected(f"a score for each of {len(names)} names", len(start), "pass one for each")
    off = [score for score in start if abs(score) > 4 or score * 2 != round(score * 2)]
    if off:
        raise expected("scores within −4 … 4 in halves", off[0], "round them")
    shares = torch.tensor(start, dtype=torch.float64).softmax(0).tolist()
    color, before = drawing.color_of(modality), "Weights: "
    told = ", ".join(f"{name} {share:.3f}" for name, share in zip(names, shares, strict=True))
    says = f"{before}{told}."
    data = json.dumps({"names": list(names), "width": _BAR, "says": before}, ensure_ascii=False)

    def slider(label: str, low: int, value: float) -> str:
        return (
            f'<label style="{_ROW};width:100%">'
            f'<span style="flex:1 1 8em">{html.escape(label)}</span>'
            f'<input type="range" min="{low}" max="4" step="0.5" value="{value:g}" '
            f'aria-valuetext="{_signed(value, 1)}" autocomplete="off" '
            f'style="flex:2 1 9em;min-width:6em;accent-color:{color}">'
            f'<span data-part="at" style="min-width:2.5em">{_signed(value, 1)}</span></label>'
        )

    rows = []
    for k, (name, score, share) in enumerate(zip(names, start, shares, strict=True)):
        y = 26 + 26 * k
        rows.append(
            f'<text x="4" y="{y + 13}">{html.escape(name)}</text>'
            f'<text data-part="score" x="168" y="{y + 13}" text-anchor="end">'
            f"{_signed(score, 2)}</text>"
            f'<rect x="180" y="{y}" width="{_BAR}" height="18" '
            f'fill="{to_hex(drawing.tint(color, 0.12))}"/>'
            f'<rect data-part="bar" x="180" y="{y}" width="{_BAR * share:.1f}" height="18" '
            f'fill="{color}"/>'
            f'<text data-part="number" x="356" y="{y + 13}" text-anchor="end">{share:.3f}</text>'
        )
    inside = (
        f'<svg viewBox="0 0 360 {28 + 26 * len(names)}" role="img" '
        f'aria-label="{html.escape(says)}" '
        'style="width:100%;max-width:540px;height:auto;display:block;margin:auto" '
        f'font-family="sans-serif" font-size="13.5" fill="{drawing.INK}">'
        f'<g font-size="12" fill="{MUTED}"><text x="168" y="15" text-anchor="end">β(s + c)</text>'
        '<text x="356" y="15" text-anchor="end">weight</text></g>'
        f"{''.join(rows)}</svg><div hidden>"
        + "".join(slider(f"score s of {n}", -4, s) for n, s in zip(names, start, strict=True))
        + slider("all scores + c", -4, 0.0)
        + slider("all scores × β", 0, 1.0)
        + f"</div>{_told(says)}"
    )
    return _page(_key(data + says), inside, data, _SOFTMAX_JS)


def _signed(number: float, digits: int) -> str:
    """A number as the page's script writes it, with a minus sign."""
    return f"{number + 0.0:.{digits}f}".replace("-", "−")
