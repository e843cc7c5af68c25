"""Tokens, and the one form of every user error."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import HOSTILE, batches, error_line, lengths, normal, tokens

from mmlib.errors import UserError, expected
from mmlib.tokens import Tokens

sequences = st.builds(lambda B, L, d: (B, L, d), batches, lengths, st.integers(1, 4)).flatmap(
    lambda shape: tokens(*shape)
)


@given(sequences)
def test_mean_is_the_mean_over_visible_tokens(x: Tokens):
    rows = [
        v[m].mean(0) if m.any() else torch.zeros(v.shape[1])
        for v, m in zip(x.value, x.mask, strict=True)
    ]
    assert torch.allclose(x.mean(), torch.stack(rows).double(), atol=1e-15)


@given(sequences, st.sampled_from(HOSTILE))
def test_masked_values_have_no_influence_on_the_mean_nor_on_its_gradient(x: Tokens, hostile):
    filled = x.value.masked_fill(~x.mask.unsqueeze(-1), hostile).requires_grad_()
    mean = Tokens(filled, x.mask).mean()
    assert torch.equal(mean, x.mean())
    mean.sum().backward()
    share = x.mask / x.mask.sum(1, keepdim=True).clamp(min=1)
    assert torch.allclose(filled.grad, share.unsqueeze(-1).expand_as(filled).double())


@given(sequences)
def test_visible_keeps_what_is_visible_and_zeroes_the_rest(x: Tokens):
    visible = x.visible()
    assert torch.equal(visible[x.mask], x.value[x.mask])
    assert not visible[~x.mask].any()


@given(sequences)
def test_absent_tokens_keep_their_shape_and_have_mean_zero(x: Tokens):
    absent = x.absent()
    assert torch.equal(absent.value, x.value) and absent.mask.shape == x.mask.shape
    assert not absent.mask.any() and not absent.mean().any()


@given(sequences, st.sampled_from(HOSTILE))
def test_through_is_the_function_of_the_visible_tokens(x: Tokens, hostile):
    """Value and gradients, of a map with a bias, whatever stands in the padding; also traced."""
    linear = torch.nn.Linear(x.value.shape[-1], 3).double()
    filled = x.value.masked_fill(~x.mask.unsqueeze(-1), hostile).requires_grad_()
    out = Tokens(filled, x.mask).through(linear)
    assert out.shape == (*x.mask.shape, 3) and not out[~x.mask].any()
    assert torch.allclose(out[x.mask], linear(x.value[x.mask]), atol=1e-12)
    at = (filled, linear.weight, linear.bias)
    found = torch.autograd.grad(out.square().sum(), at)
    assert not found[0][~x.mask].any()
    expected = torch.autograd.grad(linear(filled[x.mask]).square().sum(), at)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))


def test_through_can_be_exported():
    class Map(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, value, mask):
            return Tokens(value, mask).through(self.linear)

    value, mask = normal(0, 2, 3, 4).float(), torch.tensor([[True, True, False], [True] * 3])
    exported = torch.export.export(Map().eval(), (value, mask)).module()
    other = ~mask
    with torch.no_grad():
        out = exported(value, other)
    assert not out[mask].any() and out[other].all(-1).all()


def test_all_visible_hides_nothing():
    value = normal(0, 2, 3, 4)
    x = Tokens.all_visible(value)
    assert x.mask.dtype == torch.bool and x.mask.all()
    assert torch.allclose(x.mean(), value.mean(1), atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_keeps_the_dtype(dtype):
    x = Tokens(normal(0, 2, 3, 4, dtype=dtype), torch.tensor([[True, True, False], [False] * 3]))
    assert x.mean().dtype == dtype and x.visible().dtype == dtype


def test_tokens_cannot_be_changed_in_place():
    x = Tokens.all_visible(normal(0, 2, 3, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        x.mask = ~x.mask


def test_a_value_without_the_token_axis_is_named():
    with pytest.raises(UserError) as error:
        Tokens.all_visible(torch.zeros(2, 4))
    error_line(error, "[B, L, d]", "[2, 4]")


@pytest.mark.parametrize(
    "mask, got",
    [
        (torch.ones(2, 3), "torch.float32 [2, 3]"),
        (torch.ones(2, 4, dtype=torch.bool), "torch.bool [2, 4]"),
        (torch.ones(3, dtype=torch.bool), "torch.bool [3]"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(mask, got):
    with pytest.raises(UserError) as error:
        Tokens(torch.zeros(2, 3, 4), mask)
    error_line(error, "boolean", "[2, 3]", got)


def test_an_error_is_a_value_error_of_one_line():
    error = expected("a cat", "a dog", "ask the vet")
    assert isinstance(error, ValueError)
    assert str(error) == "expected a cat, got a dog; ask the vet"


# --- block numbers ------------------------------------------------------------------------------


def test_block_numbers_stay_with_their_tokens():
    block = torch.tensor([[0, 0, 1], [0, 1, 2]])
    x = Tokens.all_visible(normal(0, 2, 3, 4), block)
    for same in (x.absent(), x.with_value(normal(1, 2, 3, 5)), x.first(None)):
        assert torch.equal(same.block, block)
    assert torch.equal(x.first(2).block, block[:, :2])
    assert torch.equal(x.first(2).value, x.value[:, :2]) and x.first(2).mask.shape == (2, 2)
    plain = Tokens.all_visible(x.value)
    assert plain.block is None and plain.first(2).block is None


def test_in_a_concatenation_what_has_no_number_is_seen_by_all():
    block = torch.tensor([[3, 4, 5]])
    words, cells = (
        Tokens.all_visible(normal(0, 1, 3, 4), block),
        Tokens(normal(1, 1, 2, 4), torch.tensor([[True, False]])),
    )
    for parts, numbers in (((words, cells), [3, 4, 5, 0, 0]), ((cells, words), [0, 0, 3, 4, 5])):
        both = Tokens.concatenate(parts)
        assert both.block.tolist() == [numbers]
        assert torch.equal(both.value, torch.cat([part.value for part in parts], 1))
        assert torch.equal(both.mask, torch.cat([part.mask for part in parts], 1))
    assert Tokens.concatenate([cells, cells]).block is None


@pytest.mark.parametrize(
    "block", [torch.zeros(2, 3), torch.zeros(1, 3).long(), torch.ones(2, 3, dtype=torch.bool)]
)
def test_block_numbers_that_do_not_fit_are_named(block):
    with pytest.raises(UserError) as error:
        Tokens.all_visible(torch.zeros(2, 3, 4), block)
    error_line(error, "whole block numbers of shape [2, 3]", str(block.dtype))
