"""With a kernel a slider redraws; where outputs are stored there is one picture, the same twice."""

import re

import matplotlib.pyplot as plt
import pytest
import torch

from mmlib.book import drawing, explore, figures
from mmlib.errors import UserError
from tools.run_notebooks import ENVIRONMENT

SCORES = torch.tensor([2.0, 1.0, 0.0])
BETA = (0.0, 4.0, 0.5)


def sharper(beta=1.0):
    shares = (beta * SCORES).softmax(0)
    return drawing.bars([(f"β = {beta:g}", shares)], ["red", "blue", "above"], "Softmax")


@pytest.fixture
def shown(monkeypatch):
    """What is displayed to a reader with a kernel."""
    things: list = []
    plt.close("all")
    monkeypatch.delenv("MMLIB_STORED")
    monkeypatch.setattr(explore, "display", things.append)
    return things


def alt(page):
    return re.search(r'alt="([^"]*)"', page)[1]


def test_a_slider_changes_the_argument_and_the_picture(shown):
    explore.explore(sharper, beta=BETA)
    slider, picture = shown[0].children
    assert (slider.min, slider.max, slider.step, slider.description) == (*BETA, "beta")
    assert slider.value == 1.0  # the function's default
    before = picture.value
    assert alt(before) == sharper(1.0)[1]
    slider.value = 0.0
    assert picture.value != before
    assert "red 0.33, blue 0.33, above 0.33" in alt(picture.value)
    assert plt.get_fignums() == [1]  # the one that this test drew itself


def test_each_kind_of_control_starts_at_its_first_setting(shown):
    asked = []

    def note(layer, word, causal):
        asked.append((layer, word, causal))
        return drawing.attends(["a"], [1.0], "b")

    explore.explore(note, layer=(2, 5, 1), word=["red", "blue"], causal=True)
    layer, word, causal, _ = shown[0].children
    layer.value, word.value, causal.value = 4, "blue", False
    assert asked == [
        (2, "red", True), (4, "red", True), (4, "blue", True), (4, "blue", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "function, line",
    [
        (lambda beta: drawing.attends(["a"], [beta - 1], "b"), "expected weights within 0 … 1"),
        (lambda beta: torch.ones(2) @ torch.ones(3), "RuntimeError: "),
        (lambda beta: drawing.canvas(1, 1)[0], "TypeError: "),
    ],
)
def test_an_error_of_the_reader_is_one_line_and_leaves_no_figure(shown, function, line):
    explore.explore(function, beta=BETA)
    page = shown[0].children[-1].value
    assert re.fullmatch(r'<p role="alert">[^\n]+</p>', page) and line in page
    assert plt.get_fignums() == []


def test_a_stored_output_is_one_picture_the_same_twice(monkeypatch):
    things: list = []
    monkeypatch.setattr(figures, "display", things.append)
    monkeypatch.setattr(explore, "display", None)
    assert ENVIRONMENT["MMLIB_STORED"] == "1"  # the runner's switches, under which tests run too
    explore.explore(sharper, beta=BETA)
    explore.explore(sharper, beta=BETA)
    first, second = (image._repr_mimebundle_() for image in things)
    assert first == second
    data, metadata = first
    assert "image/png" in data
    assert metadata["image/png"]["alt"] == sharper(1.0)[1]


@pytest.mark.parametrize("control", [(0.0, 4.0), "red", [], ("a", "b", "c"), 1.0])
def test_a_control_that_is_none_is_refused(control):
    with pytest.raises(UserError, match="expected .low, high, step., a list or a bool for beta"):
        explore.explore(sharper, beta=control)
