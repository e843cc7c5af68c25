"""Losses: by hand, class weights, labels that do not count, and labels that are no class."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import error_line, normal, seeds

from mmlib.errors import UserError
from mmlib.losses import check_labels, cross_entropy, label_weight


def test_cross_entropy_by_hand():
    """Two labels with known probabilities 1/2 and 1/8, one that does not count."""
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [1 / 8, 5 / 8, 2 / 8], [0.7, 0.2, 0.1]]).log()
    total, divisor = cross_entropy(logits, torch.tensor([0, 0, -1]))
    assert total.item() == pytest.approx(math.log(2) + math.log(8), rel=1e-6)
    assert divisor.item() == 2


def test_class_weights_count_in_sum_and_divisor():
    logits = torch.tensor([[1 / 2, 1 / 2], [1 / 4, 3 / 4]]).log()
    total, divisor = cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([0.05, 1.0]))
    assert total.item() == pytest.approx(0.05 * math.log(2) + math.log(4 / 3), rel=1e-6)
    assert divisor.item() == pytest.approx(1.05)


@given(seed=seeds, N=st.integers(1, 9), C=st.integers(1, 7), weighted=st.booleans())
def test_sum_over_divisor_is_pytorchs_mean(seed, N, C, weighted):
    logits = normal(seed, N, C, dtype=torch.float32)
    target = torch.randint(-1, C, (N,), generator=torch.Generator().manual_seed(seed))
    target[0] = 0  # a mean needs a label
    weight = normal(seed + 1, C, dtype=torch.float32).abs() + 0.1 if weighted else None
    total, divisor = cross_entropy(logits, target, weight)
    mean = F.cross_entropy(logits, target, weight, ignore_index=-1)
    assert (total / divisor).item() == pytest.approx(mean.item(), rel=1e-5)


@pytest.mark.parametrize("C", [2, 3, 33])
def test_a_model_that_knows_nothing_starts_at_ln_C(C):
    total, divisor = cross_entropy(torch.zeros(4, C), torch.arange(4) % C)
    assert (total / divisor).item() == pytest.approx(math.log(C), rel=1e-6)


def test_an_ignored_label_leaves_no_gradient():
    logits = normal(0, 3, 4).requires_grad_()
    cross_entropy(logits, torch.tensor([1, -1, 2]))[0].backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(-1) > 0).tolist() == [True, False, True]


def test_without_labels_sum_and_divisor_are_zero():
    total, divisor = cross_entropy(normal(0, 2, 3), torch.tensor([-1, -1]))
    assert (total.item(), divisor.item()) == (0, 0)


def test_the_loss_is_computed_in_float32():
    """In bfloat16 the sum over a thousand labels would keep three digits."""
    logits = normal(0, 1000, 5, dtype=torch.bfloat16)
    target = torch.arange(1000) % 5
    total, _ = cross_entropy(logits, target)
    assert total.dtype == torch.float32
    exact = F.cross_entropy(logits.double(), target, reduction="sum")
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("label", [-2, 3, 700])
def test_a_label_that_is_no_class_is_one_line(label):
    target = torch.tensor([0, label, 2])
    for call in (
        lambda: cross_entropy(torch.zeros(3, 3), target),
        lambda: cross_entropy(torch.zeros(3, 3), target, torch.ones(3)),
        lambda: check_labels(target, 3),
        # the divisor is computed before the loss, so it must not fail in another way
        lambda: label_weight(target, torch.ones(3)),
    ):
        with pytest.raises(UserError) as error:
            call()
        error_line(error, "labels from 0 to 2", f"got {label};")


def test_the_place_of_a_wrong_label_is_named():
    with pytest.raises(UserError) as error:
        check_labels(torch.tensor([9]), 3, where="batch 7")
    error_line(error, "got 9 at batch 7")
