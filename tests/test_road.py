"""Chapter 06's drawings of verdicts say what the checks and a step of a loop say."""

import base64
import json
import re
from io import BytesIO

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from mmlib.book import checks, figures
from mmlib.book.road import CHANGES, COLOR, FREEZES, freezing, road, still_changes

PROGRAMS = ("first", "second", "third")


@pytest.fixture
def found():
    states = ("fails", "passes", "stops")
    return {(c, p): s for c in checks.CHECKS for p, s in zip(PROGRAMS, states, strict=True)}


def colors(png: bytes) -> set[tuple[int, int, int]]:
    picture = Image.open(BytesIO(png)).convert("RGB")
    return {color for count, color in picture.getcolors(1 << 20) if count > 500}


def near(state: str, seen: set[tuple[int, int, int]]) -> bool:
    wanted = [int(round(255 * x)) for x in plt.matplotlib.colors.to_rgb(COLOR[state])]
    return any(max(abs(a - b) for a, b in zip(wanted, s, strict=True)) < 8 for s in seen)


def test_the_road_shows_a_program_more_at_each_place_of_the_slider(found):
    figures.setup("06_multimodal_bert")
    page = road(found, PROGRAMS, dead_ends=("second",)).data
    data = json.loads(re.search(r"json\">(.*?)</script>", page, re.DOTALL)[1])
    assert data["labels"] == ["0: first", "1: second", "2: third"]
    seen = [colors(base64.b64decode(frame)) for frame in data["frames"]]
    for n, state in enumerate(("fails", "passes", "stops")):
        assert [near(state, s) for s in seen] == [m >= n for m in range(3)]
    assert data["alts"][1].startswith(f"second: {len(checks.CHECKS)} passes; 0 fails")


def test_few_checks_are_named_in_the_words_of_a_place(found):
    found["apart", "second"] = "blind"
    page = road(found, PROGRAMS).data
    data = json.loads(re.search(r"json\">(.*?)</script>", page, re.DOTALL)[1])
    assert "1 blind (apart)" in data["alts"][1] and "blind (" not in data["alts"][0]


@pytest.mark.parametrize(
    ("way", "changes"),
    [
        ("requires_grad_(False)", (False, True, True)),
        ("eval() once", (True, True, True)),
        ("freeze()", (False, False, False)),
    ],
)
def test_what_a_way_to_freeze_stops(way, changes):
    assert tuple(still_changes(FREEZES[way]).values()) == changes


def test_without_freezing_all_three_change():
    assert all(still_changes(lambda encoder: None).values())


def test_the_picture_of_freezing_says_yes_where_something_changes():
    figure, alt = freezing()
    says = [text.get_text() for text in figure.axes[0].texts]
    assert says == ["no", "yes", "no", "yes", "yes", "no", "yes", "yes", "no"]
    assert alt.count(CHANGES[0]) == 3 and "with requires_grad_(False) weights move: no" in alt
    plt.close(figure)


def test_every_check_has_its_section(capsys):
    assert [n for names in checks.SECTIONS.values() for n in names] == list(checks.CHECKS)
    checks.listed()
