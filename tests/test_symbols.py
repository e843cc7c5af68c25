"""The symbolic tasks: what they ask, the limits computed for them, and that each fusion has the
form that its limit assumes."""

import math

import pytest
import torch

from mmlib.book.limits import FORM, limit
from mmlib.book.symbolic_model import SymbolicModel, expected_accuracy, expected_loss
from mmlib.book.symbols import TASKS, reference
from mmlib.errors import UserError
from mmlib.fusion import FUSIONS
from mmlib.tokens import Tokens

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
FORMS = ("text", "picture", "sum", "product", "means", "tokens")


def model(task, fusion, seed=0):
    torch.manual_seed(seed)
    return SymbolicModel(task, fusion).double()


def margins(network, texts, pictures):
    """The logit of every text with every picture, [T, P]."""
    T, P = len(texts), len(pictures)
    text = Tokens.all_visible(texts.double().repeat_interleave(P, 0))
    picture = Tokens.all_visible(pictures.double().repeat(T, 1, 1))
    with torch.no_grad():
        logits = network(text, picture)
    return (logits[:, 1] - logits[:, 0]).reshape(T, P)


# --- the tasks ------------------------------------------------------------------------------------


@each_task
def test_weights_are_a_distribution_and_answers_balanced(task):
    assert task.weight.sum().item() == pytest.approx(1)
    assert (task.weight >= 0).all()
    assert (task.weight * task.answer).sum().item() == pytest.approx(0.5)


def test_a_cell_says_its_key_and_value():
    task = reference()
    for t in range(len(task.texts)):
        key = int(task.texts[t, 0].argmax())
        for p, picture in enumerate(task.pictures):
            cell = picture[picture[:, key] == 1]
            assert len(cell) == 1
            assert task.answer[t, p] == cell[0, -2:].argmax()


def test_pairs_go_text_by_text():
    task = TASKS["reference"]
    texts, pictures = task.pairs()
    assert texts.value.shape == (64, 2, 5) and pictures.value.shape == (64, 4, 6)
    assert torch.equal(texts.value[17], task.texts[1])
    assert torch.equal(pictures.value[17], task.pictures[1])


def test_averaged_keeps_the_mean_of_the_picture():
    task = TASKS["reference"]
    assert torch.equal(task.averaged().pictures[:, 0], task.pictures.mean(1))
    assert torch.equal(task.averaged().answer, task.answer)


def test_digest_sees_a_changed_answer():
    task = reference()
    before = task.digest()
    assert before == reference().digest()
    task.answer[0, 0] = 1 - task.answer[0, 0]
    assert task.digest() != before


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", range(1, 6))
def test_means_of_reference_have_the_closed_form(cells):
    best = limit(reference(cells), "means")
    share = [math.comb(cells, n) / 2**cells for n in range(cells + 1)]
    accuracy = sum(w * max(n, cells - n) for n, w in enumerate(share)) / cells

    def entropy(x):
        return -sum(p * math.log(p) for p in (x, 1 - x) if p > 0)

    loss = sum(w * entropy(n / cells) for n, w in enumerate(share))
    assert best.accuracy == pytest.approx(accuracy)
    assert best.loss == pytest.approx(loss)
    assert limit(reference(cells), "picture").accuracy == pytest.approx(accuracy)


def test_a_sum_on_xor():
    best = limit(TASKS["xor"], "sum")
    assert best.accuracy == pytest.approx(0.75)
    assert best.loss == pytest.approx(math.log(2))


@each_task
def test_a_form_that_sees_more_is_never_worse(task):
    best = {form: limit(task, form) for form in FORMS}
    for less, more in (("text", "means"), ("picture", "means"), ("sum", "product"),
                       ("product", "means"), ("means", "tokens")):  # fmt: skip
        assert best[less].accuracy <= best[more].accuracy + 1e-12
        assert best[less].loss >= best[more].loss - 1e-6
    assert best["tokens"].accuracy == pytest.approx(1)


def test_limits_of_one_side():
    for name, text, picture in (("text_bit", 1, 0.5), ("image_bit", 0.5, 1),
                                ("redundant", 1, 1), ("xor", 0.5, 0.5)):  # fmt: skip
        assert limit(TASKS[name], "text").accuracy == pytest.approx(text)
        assert limit(TASKS[name], "picture").accuracy == pytest.approx(picture)


def test_unknown_form_is_named():
    with pytest.raises(UserError, match="expected a form of .*'everything'"):
        limit(TASKS["xor"], "everything")


# --- each fusion has its form ---------------------------------------------------------------------


def test_every_fusion_has_a_form():
    assert set(FORM) == set(FUSIONS)


def pictures_with_one_mean():
    """Two pictures whose cells differ and whose mean cell does not."""
    task = TASKS["reference"]
    return task.texts, task.pictures[[6, 9]]


@pytest.mark.parametrize("fusion", [f for f, form in FORM.items() if form != "tokens"])
def test_pooled_forms_see_the_mean_alone(fusion):
    both = margins(model(TASKS["reference"], fusion), *pictures_with_one_mean())
    torch.testing.assert_close(both[:, 0], both[:, 1])


@pytest.mark.parametrize("fusion", [f for f, form in FORM.items() if form == "tokens"])
def test_token_forms_see_more_than_the_mean(fusion):
    network = model(TASKS["reference"], fusion)
    if fusion == "gated":
        torch.nn.init.ones_(network.fusion.gate)
    both = margins(network, *pictures_with_one_mean())
    assert (both[:, 0] - both[:, 1]).abs().max() > 1e-9


@pytest.mark.parametrize("fusion, interacts", [("late", False), ("bilinear", True),
                                               ("film", True), ("concat", True)])  # fmt: skip
def test_only_late_is_a_sum(fusion, interacts):
    task = TASKS["xor"]
    m = margins(model(task, fusion), task.texts, task.pictures)
    assert bool((m[0, 0] + m[1, 1] - m[0, 1] - m[1, 0]).abs() > 1e-9) == interacts


def test_attention_to_one_key_is_a_sum():
    task = TASKS["xor"].averaged()
    with pytest.warns(UserWarning, match="got 1"):
        m = margins(model(task, "cross"), task.texts, task.pictures)
    torch.testing.assert_close(m[0, 0] + m[1, 1], m[0, 1] + m[1, 0])


@pytest.mark.parametrize("fusion, bends", [("late", False), ("bilinear", False), ("film", False),
                                           ("concat", True)])  # fmt: skip
def test_products_are_affine_in_the_mean_picture(fusion, bends):
    task = TASKS["reference"]
    ones = task.pictures[[0, 3, 15]]  # no, two, four ones: the second mean is halfway
    m = margins(model(task, fusion), task.texts, ones)
    assert bool((m[:, 0] + m[:, 2] - 2 * m[:, 1]).abs().max() > 1e-9) == bends


@pytest.mark.parametrize("fusion", FUSIONS)
def test_order_of_the_cells_means_nothing(fusion):
    task = TASKS["reference"]
    network = model(task, fusion)
    shuffled = task.pictures[:, [2, 0, 3, 1]]
    torch.testing.assert_close(
        margins(network, task.texts, task.pictures), margins(network, task.texts, shuffled)
    )


# --- exact scores ---------------------------------------------------------------------------------


def test_perfect_logits_score_one_and_a_shuffled_picture_chance():
    task = TASKS["xor"]
    logits = 20.0 * torch.nn.functional.one_hot(task.answer.flatten(), 2)
    assert expected_accuracy(logits, task) == pytest.approx(1)
    assert expected_accuracy(logits, task, "picture") == pytest.approx(0.5)
    assert expected_accuracy(logits, task, "text") == pytest.approx(0.5)
    assert float(expected_loss(logits, task)) < 1e-6


def test_shuffling_a_side_that_does_not_matter_costs_nothing():
    task = TASKS["text_bit"]
    logits = 20.0 * torch.nn.functional.one_hot(task.answer.flatten(), 2)
    assert expected_accuracy(logits, task, "picture") == pytest.approx(1)
    assert expected_accuracy(logits, task, "text") == pytest.approx(0.5)


def test_pairs_that_never_occur_do_not_count():
    task = TASKS["redundant"]
    wrong = torch.tensor([[20.0, 0], [0, 20], [20, 0], [0, 20]])  # follows the picture
    assert expected_accuracy(wrong, task) == pytest.approx(1)
    # with another picture, half of the time it is the wrong one
    assert expected_accuracy(wrong, task, "picture") == pytest.approx(0.5)


def test_a_tie_counts_half():
    task = TASKS["xor"]
    rounding = torch.tensor([[0, 1e-7], [1e-7, 0], [0, -1e-7], [0, 0]])
    assert expected_accuracy(rounding, task) == pytest.approx(0.5)
    assert float(expected_loss(rounding, task)) == pytest.approx(math.log(2), abs=1e-6)
