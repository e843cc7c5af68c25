"""What a chapter shows: the same bytes on each run, with words for those who do not see it."""

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
import test_site
import torch
from IPython.display import HTML, Image, Markdown
from PIL import Image as Picture

from mmlib.attention import attention
from mmlib.book import drawing, figures, interactive
from mmlib.errors import UserError

browser = test_site.browser


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    things: list = []
    monkeypatch.setattr(figures, "display", things.append)
    return things


def plotted():
    figure, axis = plt.subplots()
    axis.plot([0, 1, 2], [1, 0, 2])
    return figure


class Elements(HTMLParser):
    """(name, attributes) of each element, and that each is closed."""

    EMPTY = {"img", "input", "path", "circle", "line", "rect"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_setup_fixes_seeds_and_style():
    figures.setup("04_fusion")
    first = torch.randn(3)
    figures.setup("04_fusion")
    assert torch.equal(torch.randn(3), first)
    figures.setup("05_objectives")
    assert not torch.equal(torch.randn(3), first)
    assert plt.rcParams["figure.facecolor"] == "white"


def test_time_spent_counts_from_setup(capsys):
    figures.setup("04_fusion")
    figures.time_spent()
    assert re.fullmatch(r"This chapter ran in [01] seconds\.\n", capsys.readouterr().out)


def test_png_is_the_same_twice_small_and_without_versions():
    first, second = figures.png_bytes(plotted()), figures.png_bytes(plotted())
    assert first == second
    assert b"Software" not in first and b"matplotlib" not in first.lower()
    assert Picture.open(io.BytesIO(first)).mode == "P"
    assert plt.get_fignums() == []


def test_show_keeps_the_alternative_text_where_the_site_reads_it(shown):
    figures.show(plotted(), "A line that falls and rises.")
    (image,) = shown
    assert isinstance(image, Image)
    data, metadata = image._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "A line that falls and rises."
    assert "image/png" in data
    with pytest.raises(UserError, match="expected a sentence"):
        figures.show(plotted(), "  ")


def test_table_scrolls_names_its_rows_and_escapes(shown):
    figures.table(("row", "value"), [("a < b", 1), ("c", "2")], "Two & two")
    (page,) = shown
    assert isinstance(page, HTML)
    elements = Elements(page.data)
    assert [th["scope"] for th in elements.of("th")] == ["col", "col", "row", "row"]
    assert "overflow-x:auto" in elements.of("div")[0]["style"]
    assert "a &lt; b" in page.data and "<caption>Two &amp; two</caption>" in page.data


def test_finding_is_marked(shown):
    figures.finding("It moves by 0.00.")
    assert isinstance(shown[0], Markdown)
    assert shown[0].data == "**Finding.** It moves by 0.00."


def test_listing_is_the_source_that_runs(shown):
    figures.listing(attention)
    text = shown[0].data
    assert text.startswith("```python\n# mmlib/attention.py\ndef attention(")
    source = text.removeprefix("```python\n").removesuffix("\n```")
    names: dict = {}
    exec(compile(source, "listing", "exec"), dict(vars(sys.modules["mmlib.attention"])), names)
    q = torch.randn(1, 1, 2, 4)
    assert torch.equal(names["attention"](q, q, q), attention(q, q, q))


def test_record_in_the_repository():
    assert figures.record("fusion_table")["seeds"]


class Installed:
    """A distribution as pip leaves it."""

    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.origin


def test_record_without_the_repository_comes_from_the_commit_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "__file__", str(tmp_path / "site-packages/mmlib/book/figures.py"))
    origin = {"url": "https://github.com/OWNER/mmlib-book.git", "vcs_info": {"commit_id": "abc"}}
    monkeypatch.setattr(
        figures.metadata, "distribution", lambda name: Installed(json.dumps(origin))
    )
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        return io.BytesIO(b'{"seeds": [0]}')

    monkeypatch.setattr(figures.urllib.request, "urlopen", urlopen)
    assert figures.record("fusion_table") == {"seeds": [0]}
    assert asked == [
        "https://github.com/OWNER/mmlib-book/raw/abc/book/results/fusion_table.json"
    ]  # fmt: skip


def test_record_that_is_nowhere(monkeypatch):
    monkeypatch.setattr(figures.metadata, "distribution", lambda name: Installed(None))
    with pytest.raises(UserError, match="expected the record nothing.*make record NAME=nothing"):
        figures.record("nothing")


def test_percent():
    assert figures.percent(0.6875) == "68.8 %"
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert figures.percent(interval) == "50.0 % [40.0, 60.0]"


def test_number():
    assert figures.number({"mean": 0.5472, "low": 0.5431, "high": 0.5519}) == "0.547 [0.543, 0.552]"
    assert figures.number({"mean": 0.6931, "low": 0.6931, "high": 0.6932}) == "0.693"
    assert figures.number({"mean": 1e-6, "low": -1e-6, "high": 2e-6}) == "0.000"
    bounded = {"mean": 0.99, "low": 0.97, "high": 1.01}
    assert figures.number(bounded, 2, (0, 1)) == "0.99 [0.97, 1.00]"


# --- figures to operate ---------------------------------------------------------------------------


def data_of(page):
    text = re.search(r'<script type="application/json">(.*?)</script>', page.data, re.DOTALL)[1]
    return json.loads(text)


def test_frames():
    pngs = [figures.png_bytes(plotted()) for _ in range(2)]
    page = interactive.frames(pngs, ["one", "two"], "step", ["First </script>.", "Second."])
    elements = Elements(page.data)
    (image,) = elements.of("img")
    assert image["alt"] == "First </script>."
    (slider,) = elements.of("input")
    assert slider["max"] == "1" and slider["aria-valuetext"] == "one"
    assert data_of(page)["alts"] == ["First </script>.", "Second."]
    assert "http" not in page.data
    assert (
        page.data
        == interactive.frames(pngs, ["one", "two"], "step", ["First </script>.", "Second."]).data
    )


def test_frames_without_words_are_refused():
    png = figures.png_bytes(plotted())
    with pytest.raises(UserError, match="expected a label and an alternative text for each of 1"):
        interactive.frames([png], ["one"], "step", [])
    with pytest.raises(UserError):
        interactive.frames([], [], "step", [])


STATE = {"alpha": 1 / 3, "t": [2, 1], "i": [1, 4], "h": [4 / 3, 3]}
CUT = {"alpha": 0.5, "t": [2, 1], "i": [1, 4], "h": [1.5, 2.5]}


def mixture(states):
    return interactive.mixture(
        states, ["× 1"], ["1 piece", "2 pieces"], {"t": [[3, 0]], "i": [[0, 6], [6, 0]]}
    )


def test_mixture_draws_h_on_the_segment():
    page = mixture([[STATE, CUT]])
    elements = Elements(page.data)
    (svg,) = elements.of("svg")
    assert svg["role"] == "img"
    assert "α = 0.33 on the text, 0.67 on the picture; h = (1.33, 3.00)" in svg["aria-label"]
    state = data_of(page)["states"][0][0]
    line = next(e for e in elements.of("line") if e.get("data-part") == "line")
    ends = [float(line[k]) for k in ("x1", "y1", "x2", "y2")]
    for axis in (0, 1):
        mixed = STATE["alpha"] * ends[axis] + (1 - STATE["alpha"]) * ends[2 + axis]
        assert state["h"][axis] == pytest.approx(mixed, abs=0.1)
    assert state["bar"] == pytest.approx(interactive._WIDTH / 3, abs=0.1)
    assert len(elements.of("input")) == 2 and "http" not in page.data


def test_each_state_of_the_mixture_says_what_it_shows():
    alts = [s["alt"] for s in data_of(mixture([[STATE, CUT]]))["states"][0]]
    assert "nearer to h_i" in alts[0] and "halfway" in alts[1]
    assert alts[1].startswith("Scores × 1, each cell cut into 2 pieces: α = 0.50")


def test_mixture_without_all_states_is_refused():
    with pytest.raises(UserError, match="expected 1 × 2 states"):
        mixture([[STATE]])
    with pytest.raises(UserError):
        mixture([])


WORDS = ["red", "circle", "<b>", "blue"]
HEADS = torch.tensor([[8.0, 1, 1, 2], [3, 1, 1, 3], [0, 1, 0, 0], [1, 1, 1, 1]])
HEADS = torch.stack([HEADS, HEADS.flip(1)])
HEADS = HEADS / HEADS.sum(-1, keepdim=True)


def parts(page, name):
    return [a for _, a in Elements(page.data).found if a.get("data-part") == name]


def test_attends_starts_as_the_drawing_and_says_the_same():
    page = interactive.attends(WORDS, HEADS[0], "Who asks whom", start=1)
    _, alt = drawing.attends(WORDS, HEADS[0, 1], "circle")
    (svg,) = Elements(page.data).of("svg")
    assert (
        svg["aria-label"] == alt == "circle attends to red 0.38, blue 0.38, circle 0.12, <b> 0.12."
    )
    widths = [float(line["stroke-width"]) for line in parts(page, "line")]
    assert widths == pytest.approx(
        [drawing.THICKEST * float(w) for w in HEADS[0, 1]], abs=0.005
    )  # fmt: skip
    assert ["checked" in a for a in parts(page, "query")] == [False, True, False, False]
    assert parts(page, "head") == [] and "<b>" not in page.data.split("<script")[0]
    assert "http" not in page.data
    assert page.data == interactive.attends(WORDS, HEADS[0], "Who asks whom", start=1).data


def test_attends_holds_each_head_and_word():
    states = data_of(interactive.attends(WORDS, HEADS, "Two heads"))["states"]
    assert [[len(s["widths"]) for s in head] for head in states] == [[4] * 4] * 2
    assert states[1][0]["numbers"] == ["0.17", "0.08", "0.08", "0.67"]
    assert states[1][0]["says"].startswith("Head 2: red attends to blue 0.67, red 0.17")


def test_words_may_ask_picture_cells():
    page = interactive.attends(
        ["red", "circle"], [[0.9, 0.1, 0], [0, 0, 1]], "Where", ["a", "b", "c"], "image"
    )
    assert {line["stroke"] for line in parts(page, "line")} == {figures.IMAGE}
    assert parts(page, "cell")[0]["fill"] == figures.TEXT
    mixed = interactive.attends(["red", "a"], torch.eye(2), "Both", modality=["text", "image"])
    assert data_of(mixed)["colors"] == [figures.TEXT, figures.IMAGE]


@pytest.mark.parametrize(
    "wrong, line",
    [
        (dict(weights=HEADS[0, 0]), "expected weights of shape .1, 4, 4."),
        (dict(weights=HEADS[0] - 1), "expected weights within 0 … 1.*softmax"),
        (dict(keys=["a", "b"]), "expected weights of shape .1, 4, 2."),
        (dict(modality=["text"]), "expected one modality, or one for each of 4"),
        (dict(modality="smell"), "expected a modality out of text, image"),
        (dict(start=4), "expected a word's place, 0 … 3"),
    ],
)
def test_attends_refuses_what_does_not_fit(wrong, line):
    with pytest.raises(UserError, match=line):
        interactive.attends(**{"words": WORDS, "weights": HEADS[0], "name": "x", **wrong})


def test_softmax_starts_with_torch_s():
    page = interactive.softmax(["red", "blue"], [1.5, -0.5])
    (svg,) = Elements(page.data).of("svg")
    assert svg["aria-label"] == "Weights: red 0.881, blue 0.119."
    sliders = Elements(page.data).of("input")
    assert [(s["min"], s["max"], s["value"]) for s in sliders] == [
        ("-4", "4", "1.5"), ("-4", "4", "-0.5"), ("-4", "4", "0"), ("0", "4", "1"),
    ]  # fmt: skip
    assert page.data == interactive.softmax(["red", "blue"], torch.tensor([1.5, -0.5])).data


@pytest.mark.parametrize("scores", [[1.0], [], [1.0, 5.0], [1.0, 0.3]])
def test_softmax_refuses_scores_that_no_slider_shows(scores):
    with pytest.raises(UserError, match="expected (a score for each|scores within)"):
        interactive.softmax(["red", "blue"], scores)


def operated(pages, steps, folder, browser):
    """What the browser shows after each step, all figures on one page; axe-core finds nothing."""
    body = "\n".join(page.data for page in pages)
    (folder / "figures.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figures</title>'
        f'<meta name="viewport" content="width=device-width"></head><body><main><h1>Figures</h1>'
        f"{body}</main></body></html>"
    )
    environment = {**os.environ, "BROWSER": browser}

    def node(*command):
        done = subprocess.run(
            ["node", *map(str, command)],
            cwd=test_site.ROOT, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    node("tools/axe.mjs", folder)
    result = json.loads(node("tools/operate.mjs", folder / "figures.html", json.dumps(steps)))
    assert result["faults"] == []
    return result["seen"]


@pytest.mark.browser
def test_a_word_and_a_head_are_picked_by_keyboard(browser, tmp_path):
    pages = [interactive.attends(WORDS, HEADS[0], "One"), interactive.attends(WORDS, HEADS, "Two")]
    press = ["ArrowRight"]
    steps = [
        {"figure": 0, "input": 0, "keys": press},
        {"figure": 1, "input": 4, "keys": press},
        {"figure": 1, "input": 0, "keys": press * 2},
    ]
    for (h, q), seen in zip(
        [(0, 1), (1, 0), (1, 2)], operated(pages, steps, tmp_path, browser), strict=True
    ):
        shares = HEADS[h, q].tolist()
        told = drawing.in_words(WORDS[q], WORDS, shares)
        assert seen["says"] == seen["alt"] and seen["says"].removeprefix("Head 2: ") == told
        assert seen["numbers"] == [f"{w:.2f}" for w in shares] and seen["asks"] == [WORDS[q]]
        assert seen["widths"] == pytest.approx([drawing.THICKEST * w for w in shares], abs=0.005)


@pytest.mark.browser
def test_the_page_s_softmax_is_torch_s(browser, tmp_path):
    names, scores = ["red", "circle", "blue"], torch.tensor([2.0, -0.5, 1.0], dtype=torch.float64)
    right, left = ["ArrowRight"], ["ArrowLeft"]
    steps = [
        {"figure": 0, "input": 1, "keys": right * 3},
        {"figure": 0, "input": 3, "keys": left * 5},
        {"figure": 0, "input": 4, "keys": right * 4},
        {"figure": 0, "input": 4, "keys": ["Home"]},
        {"figure": 0, "input": 4, "keys": ["End"]},
    ]
    scores_then = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    seen = operated([interactive.softmax(names, scores)], steps, tmp_path, browser)
    moved = [(0, 1), (-2.5, 1), (-2.5, 3), (-2.5, 0), (-2.5, 4)]
    for there, (c, beta) in zip(seen, moved, strict=True):
        given = beta * (scores_then + c)
        shares = given.softmax(0).tolist()
        assert there["scores"] == [f"{x + 0.0:.2f}".replace("-", "−") for x in given.tolist()]
        assert there["numbers"] == [f"{w:.3f}" for w in shares]
        assert there["bars"] == pytest.approx([interactive._BAR * w for w in shares], abs=0.051)
        told = ", ".join(f"{n} {w:.3f}" for n, w in zip(names, shares, strict=True))
        assert there["says"] == there["alt"] == f"Weights: {told}."
    assert seen[0]["numbers"] == seen[1]["numbers"] and seen[0]["bars"] == seen[1]["bars"]


def test_one_word_that_asks_is_no_choice_but_its_heads_are():
    """A group of one radio button would be a control that does nothing."""
    weights = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    page = interactive.attends(["above"], weights, "What it attends to", keys=["circle", "square"])
    radios = [x["data-part"] for x in Elements(page.data).of("input")]
    assert radios == ["head", "head"]
