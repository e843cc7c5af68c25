"""The page of results: whole, quiet, readable in both themes, its plots told in words."""

import re
from html.parser import HTMLParser

import pytest

from mmlib.evaluation.certificate import Certificate
from mmlib.evaluation.page import interval_chart, page, paragraph, table

VOID = {"meta", "link", "br", "img"}


class Reader(HTMLParser):
    """Collects the elements, and finds one that is not closed."""

    def __init__(self, source: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def at(mean: float, low: float, high: float) -> dict:
    return {"mean": mean, "low": low, "high": high, "n": 5}


def certificate() -> Certificate:
    drops = {"exchanged_image": at(0.3, 0.2, 0.4), "exchanged_text": at(-0.1, -0.3, 0.1)}
    return Certificate(
        "accuracy", "9 questions", {"all": at(0.6, 0.5, 0.7)}, drops,
        shapley={"image": at(0.1, 0.0, 0.2), "text": at(0.1, 0.0, 0.2)},
        reliability=[{"low": 0.8, "high": 0.9, "n": 9, "confidence": 0.85, "accuracy": 0.6}],
        not_measured={"attention": "nobody <looked> & saw"},
    )  # fmt: skip


def test_a_page_is_whole_and_asks_no_other_host():
    source = certificate().to_html("A & B", paragraph("more"))
    reader = Reader(source)
    tags = [tag for tag, _ in reader.found]
    assert tags[:2] == ["html", "head"] and tags.count("svg") == 3 and tags.count("table") == 2
    assert dict(reader.found)["html"] == {"lang": "en"}
    assert not re.search(r"https?:|//|@import|url\(|<script", source)
    assert "<h1>A &amp; B</h1>" in source and "nobody &lt;looked&gt; &amp; saw" in source
    assert source.rstrip().endswith("</html>") and "<p>more</p>" in source
    assert "<p>" + str(certificate()) in source


def test_it_reads_in_light_and_dark():
    source = page("t", [])
    light, dark = re.findall(r"--ground: (#\w+); --ink: (#\w+)", source)
    assert "prefers-color-scheme: dark" in source

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for pair in (light, dark):
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) > 7


def test_the_alternative_text_of_a_plot_has_its_figures():
    chart = interval_chart("Scores", {"a": at(0.5, 0.4, 0.6), "b < c": at(0.7, 0.6, 0.8)}, (0, 1))
    ((_, svg),) = [found for found in Reader(chart).found if found[0] == "svg"]
    assert svg["role"] == "img"
    assert svg["aria-label"] == "Scores: a 50.0 [40.0, 60.0]; b < c 70.0 [60.0, 80.0]."


def test_dots_and_lines_stand_where_the_figures_are():
    """The scale is straight: 0.2 of it is a fifth of its width."""
    chart = interval_chart("t", {"a": at(0.5, 0.5, 0.7), "b": at(0.7, 0.0, 1.0)}, (0, 1))
    spans = re.findall(r'class="span" x1="([\d.]+)" x2="([\d.]+)"', chart)
    (a_low, a_high), (b_low, b_high) = [tuple(map(float, pair)) for pair in spans]
    assert a_high - a_low == pytest.approx(0.2 * (b_high - b_low), abs=0.11)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', chart)]
    assert dots == [a_low, a_high]
    signed = interval_chart("t", {"a": at(-0.1, -0.2, 0.0), "b": at(0.3, 0.2, 0.4)}, zero=True)
    zero = float(re.findall(r'class="axis" x1="([\d.]+)"', signed)[0])
    first, second = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', signed))
    assert zero - first == pytest.approx((second - zero) / 3, abs=0.11)
    assert "-10.0 [-20.0, +0.0]" in signed
    assert interval_chart("none differs", {"a": at(0, 0, 0)}, zero=True)


def test_a_table_names_its_columns():
    found = Reader(table("T", ["a", "b"], [["1", "2"]])).found
    assert [attributes for tag, attributes in found if tag == "th"] == [{"scope": "col"}] * 2
