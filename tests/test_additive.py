"""The additive projection of all pairs, what tells inputs apart, and what a blank picture is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import error_line, normal

from mmlib.errors import UserError
from mmlib.evaluation.additive import FLOOR, additive_part, emap
from mmlib.evaluation.controls import blank_picture, contents


def ask_of(logits: torch.Tensor):
    """A model of texts and pictures that are numbers: softmax of logits [T, P, C]; its calls."""
    rows: list[int] = []

    def ask(texts, images):
        rows.append(len(texts))
        return logits[texts, images].softmax(-1)

    return ask, rows


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=9),
    st.integers(0, 99),
)
def test_it_is_the_diagonal_of_the_table_of_all_pairs(pairs, seed):
    """Hessel & Lee's N² table, with repeated texts and pictures; asked of distinct ones alone."""
    logits = normal(seed, 4, 3, 5)
    texts, images = map(list, zip(*pairs, strict=True))
    ask, rows = ask_of(logits)
    found, cost = emap(ask, texts, images)
    whole = logits[texts][:, images].log_softmax(-1)
    diagonal = additive_part(whole).diagonal().T
    torch.testing.assert_close(found, diagonal)
    assert cost == sum(rows) == len(set(texts)) * len(set(images))


def test_from_probabilities_it_is_what_it_is_from_logits():
    """The normalizer is no sum of two parts, but it moves all classes of a pair alike."""
    logits = normal(3, 6, 6, 4)
    found, _ = emap(ask_of(logits)[0], list(range(6)), list(range(6)))
    from_logits = additive_part(logits).diagonal().T
    torch.testing.assert_close(found.softmax(-1), from_logits.softmax(-1))
    assert not torch.allclose(found, from_logits)


def test_each_class_has_its_own_sum():
    logits = normal(0, 3, 4, 5)
    together = additive_part(logits)
    for c in range(5):
        torch.testing.assert_close(together[..., c], additive_part(logits[..., c]))


def test_a_sum_stays_and_exclusive_or_goes():
    f, g = normal(0, 3, 1, 4), normal(1, 1, 3, 4)
    ids = [0, 1, 2]
    kept, _ = emap(ask_of(f + g)[0], ids, ids)
    torch.testing.assert_close(kept.softmax(-1), (f + g).diagonal().T.softmax(-1))
    xor = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]).double()
    flat, _ = emap(lambda t, i: xor[t, i], [0, 0, 1, 1], [0, 1, 0, 1])
    torch.testing.assert_close(flat, torch.full((4, 2), np.log(FLOOR) / 2, dtype=torch.float64))


def test_equal_inputs_have_equal_numbers():
    white, black = (Image.new("RGB", (2, 2), color) for color in ("white", "black"))
    assert contents([white, black, white.copy()]).tolist() == [0, 1, 0]
    assert contents([white, Image.new("RGB", (1, 4), "white")]).tolist() == [0, 1]
    assert contents([np.zeros(2), np.zeros(2), np.zeros(1), np.ones(2)]).tolist() == [0, 0, 1, 2]
    assert contents([torch.zeros(2), torch.zeros(2)]).tolist() == [0, 0]
    assert contents(["b", "a", "b", None, 1]).tolist() == [0, 1, 0, 2, 3]
    first, other = [], []
    assert contents([first, other, first]).tolist() == [0, 1, 0]
    assert contents([]).tolist() == []


def test_a_blank_picture_is_the_mean_color_of_all():
    """Of all, not of its own picture: else the blank would still say what color that was."""
    red, blue = (np.full((5, 5, 3), color, np.uint8) for color in ((200, 0, 0), (0, 0, 100)))
    for made in ([red, blue], [torch.from_numpy(x) for x in (red, blue)],
                 [Image.fromarray(x) for x in (red, blue)]):  # fmt: skip
        blank = blank_picture(made)
        assert type(blank) is type(made[0]) or isinstance(blank, Image.Image)
        assert np.asarray(blank).shape == (5, 5, 3)
        assert {tuple(p) for p in np.asarray(blank).reshape(-1, 3).tolist()} == {(100, 0, 50)}
    first = blank_picture([torch.from_numpy(x).permute(2, 0, 1).float() for x in (red, blue)])
    assert first.shape == (3, 5, 5) and first[:, 0, 0].tolist() == [100, 0, 50]
    assert blank_picture([np.array([[0.0, 2.0]] * 5)]).tolist() == [[1.0, 1.0]] * 5
    assert blank_picture([Image.new("L", (3, 2), 7)]).mode == "L"


@pytest.mark.parametrize("images", [["a.png"], [np.zeros(2), np.zeros(3)]])
def test_what_nobody_can_blank_is_one_line(images):
    with pytest.raises(UserError) as error:
        blank_picture(images)
    error_line(error, "pass blank_image")
