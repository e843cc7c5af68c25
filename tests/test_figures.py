"""What a chapter shows: the same bytes on each run, with words for those who do not see it."""

import io
import json
import re
import sys
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
import torch
from IPython.display import HTML, Image, Markdown
from PIL import Image as Picture

from mmlib.attention import attention
from mmlib.book import figures, interactive
from mmlib.errors import UserError


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    things: list = []
    monkeypatch.setattr(figures, "display", things.append)
    return things


def drawing():
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
    first, second = figures.png_bytes(drawing()), figures.png_bytes(drawing())
    assert first == second
    assert b"Software" not in first and b"matplotlib" not in first.lower()
    assert Picture.open(io.BytesIO(first)).mode == "P"
    assert plt.get_fignums() == []


def test_show_keeps_the_alternative_text_where_the_site_reads_it(shown):
    figures.show(drawing(), "A line that falls and rises.")
    (image,) = shown
    assert isinstance(image, Image)
    data, metadata = image._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == "A line that falls and rises."
    assert "image/png" in data
    with pytest.raises(UserError, match="expected a sentence"):
        figures.show(drawing(), "  ")


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
    pngs = [figures.png_bytes(drawing()) for _ in range(2)]
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
    png = figures.png_bytes(drawing())
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
