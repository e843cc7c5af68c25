"""The visual language: a line as thick as its weight, and words that hold the numbers drawn."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch, Rectangle

from mmlib.book import drawing, figures
from mmlib.errors import UserError

KEYS = ["red", "circle", "blue"]
SHARES = torch.tensor([0.615, 0.005, 0.38])
TABLE = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.2, 0.3, 0.5]])
CAUSAL = torch.ones(3, 3, dtype=torch.bool).tril()


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def axis_of(figure):
    (axis,) = figure.axes
    return axis


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def luminance(color):
    """Relative luminance, WCAG 2.1."""
    parts = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color))
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_modalities_differ_and_stand_out_on_white():
    assert len(set(drawing.MODALITY.values())) == len(drawing.MODALITY)
    for color in drawing.MODALITY.values():
        assert contrast(color, "white") >= 3


@pytest.mark.parametrize("modality", drawing.MODALITY)
def test_the_number_on_the_darkest_cell_is_legible(modality):
    figure, axis = drawing.canvas(1, 1)
    drawing.grid(axis, (0.2, 0.7), [[1.0]], modality=modality)
    (cell, _) = axis.patches
    (number, _) = axis.texts
    assert contrast(number.get_color(), cell.get_facecolor()[:3]) >= 4.5


def test_attends_draws_lines_in_proportion_and_says_the_numbers():
    figure, alt = drawing.attends(KEYS, SHARES, "circle", ["text", "image", "text"])
    widths = torch.tensor([line.get_linewidth() for line in axis_of(figure).lines])
    torch.testing.assert_close(widths, drawing.THICKEST * SHARES)
    assert [line.get_color() for line in axis_of(figure).lines] == [
        figures.TEXT, figures.IMAGE, figures.TEXT,
    ]  # fmt: skip
    shown = [f"{float(w):.2f}" for w in SHARES]
    assert [text for text in texts(figure) if text in shown] == shown
    assert alt == f"circle attends to red {shown[0]}, blue {shown[2]}, circle {shown[1]}."


def test_attends_draws_no_line_without_weight():
    figure, alt = drawing.attends(KEYS, [0, 1, 0], "circle")
    (line,) = axis_of(figure).lines
    assert line.get_linewidth() == drawing.THICKEST
    assert alt == "circle attends to circle 1.00, red 0.00, blue 0.00."


def test_weights_cross_out_what_is_hidden_and_write_no_number_there():
    figure, alt = drawing.weights(TABLE, KEYS, KEYS, mask=CAUSAL)
    written = [text for text in texts(figure) if text[0].isdigit()]
    assert written == [f"{float(w):.2f}" for w in TABLE[CAUSAL]]
    crossed = [[float(sum(ends) / 2) for ends in line.get_data()] for line in axis_of(figure).lines]
    cells = [p for p in axis_of(figure).patches if isinstance(p, Rectangle) and p.get_fill()]
    hidden = [list(map(float, cells[n].get_center())) for n in (~CAUSAL).flatten().nonzero()[:, 0]]
    torch.testing.assert_close(torch.tensor(crossed), torch.tensor(hidden))
    assert alt == (
        "A grid of weights. red: red 1.00; circle: circle 0.75, red 0.25; "
        "blue: blue 0.50, circle 0.30, red 0.20."
    )
    assert "weights [3, 3]" in texts(figure)


def test_a_query_that_may_attend_to_nothing_is_said():
    _, alt = drawing.weights(TABLE, KEYS, KEYS, mask=torch.zeros(3, 3, dtype=torch.bool))
    assert alt == "A grid of weights. red: nothing; circle: nothing; blue: nothing."


def test_grid_returns_its_lower_right_corner_and_darkens_with_the_value():
    _, axis = drawing.canvas(2, 2)
    corner = drawing.grid(axis, (0.5, 1.5), [[0.0, 1.0], [2.0, -2.0]], side=0.4)
    assert corner == pytest.approx((1.3, 0.7))
    light = [luminance(cell.get_facecolor()[:3]) for cell in axis.patches[:4]]
    assert light[0] == pytest.approx(1) and light[0] > light[1] > light[2]
    assert [text.get_text() for text in axis.texts] == ["0", "1", "2", "-2", "[2, 2]"]


def test_grids_with_one_largest_have_one_scale():
    _, axis = drawing.canvas(2, 2)
    colors = []
    for values in ([[3.0, -1.0]], [[-1.0, 0.5]], [[0.5, 3.0]]):
        before = len(axis.patches)
        drawing.grid(axis, (0.5, 1.5), values, largest=3)
        colors.append([cell.get_facecolor() for cell in axis.patches[before : before + 2]])
    (high, low), (alike, small), (same, top) = colors
    assert low == alike and small == same and high == top != small


def test_bars_are_as_high_as_their_weights():
    figure, alt = drawing.bars([("β = 1", SHARES), ("β = 0", [1 / 3] * 3)], KEYS, "Softmax")
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert heights[0] == pytest.approx(SHARES.tolist()) and heights[1] == [1 / 3] * 3
    assert alt == (
        f"Softmax. β = 1: red {SHARES[0]:.2f}, blue 0.38, circle {SHARES[1]:.2f}; "
        "β = 0: red 0.33, circle 0.33, blue 0.33."
    )


def test_the_token_spoken_of_is_filled():
    _, axis = drawing.canvas(2, 1)
    drawing.token(axis, (0.5, 0.5), "red")
    drawing.token(axis, (1.5, 0.5), "cell", "image", strong=True)
    plain, strong = (p for p in axis.patches if isinstance(p, FancyBboxPatch))
    assert strong.get_facecolor()[:3] == to_rgb(figures.IMAGE)
    assert plain.get_edgecolor()[:3] == to_rgb(figures.TEXT) != plain.get_facecolor()[:3]


def diagram():
    figure, axis = drawing.canvas(3, 1)
    drawing.box(axis, (0.8, 0.5), "attention", "both")
    drawing.arrow(axis, (1.5, 0.5), (2.2, 0.5), bend=0.2)
    drawing.token(axis, (2.6, 0.5), "red")
    return figure, "A box, an arrow, a token."


DRAWN = [
    lambda: drawing.attends(KEYS, SHARES, "circle"),
    lambda: drawing.weights(TABLE, KEYS, KEYS, mask=CAUSAL),
    lambda: drawing.bars([("", SHARES)], KEYS, "Softmax"),
    diagram,
]


@pytest.mark.parametrize("draw", DRAWN, ids=["attends", "weights", "bars", "diagram"])
def test_the_same_bytes_twice(draw):
    assert figures.png_bytes(draw()[0]) == figures.png_bytes(draw()[0])


@pytest.mark.parametrize(
    "draw, line",
    [
        (lambda: drawing.attends(KEYS, SHARES[:2], "red"), "weights of shape .3., got .2."),
        (lambda: drawing.attends([], [], "red"), "expected weights of shape .0."),
        (lambda: drawing.attends(KEYS, [2.0, -1, 0], "red"), "expected weights within 0 … 1, got"),
        (lambda: drawing.attends(KEYS, SHARES * torch.nan, "red"), "expected weights within"),
        (lambda: drawing.attends(KEYS, SHARES, "red", ["text"]), "expected one modality, or one"),
        (lambda: drawing.attends(KEYS, SHARES, "red", "smell"), "expected a modality out of text"),
        (lambda: drawing.weights(TABLE, KEYS[:2], KEYS), "expected 3 row labels, got 2"),
        (lambda: drawing.weights(TABLE, KEYS, KEYS[:2]), "expected 3 column labels, got 2"),
        (lambda: drawing.weights(TABLE[None], KEYS, KEYS), "expected a tensor of two axes"),
        (lambda: drawing.weights(TABLE, KEYS, KEYS, mask=CAUSAL[:2]), "expected a mask of shape"),
        (lambda: drawing.bars([("", SHARES[:2])], KEYS, ""), "expected weights of shape .3."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(draw, line):
    with pytest.raises(UserError, match=line) as error:
        draw()
    assert "\n" not in str(error.value)
