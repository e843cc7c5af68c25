"""Attention against its closed form, PyTorch's two versions and a layer of BERT (chapter 03)."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from shapes import check_shapes, public_functions, undocumented
from strategies import (
    HOSTILE,
    batches,
    error_line,
    head_widths,
    heads,
    heads_of_attention,
    lengths,
    masks,
    normal,
    seeds,
    tokens,
)
from torch import Tensor, nn

import mmlib.attention
from mmlib.attention import (
    KeyValueCache,
    MultiHeadAttention,
    attention,
    attention_mask,
    attention_to_shared,
    attention_weights,
    join_heads,
    repeat_rows,
    split_heads,
)
from mmlib.blocks import TransformerBlock
from mmlib.errors import UserError
from mmlib.fusion import CrossAttention, MergedAttention
from mmlib.tokens import Tokens

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def one_query(q: list[float], K: list[list[float]], V: list[list[float]]) -> list[float]:
    """Equation (3.1) for one query, with Python's own numbers."""
    scores = [sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for k in K]
    terms = [math.exp(s - max(scores)) for s in scores]
    weights = [t / sum(terms) for t in terms]
    return [sum(w * v[c] for w, v in zip(weights, V, strict=True)) for c in range(len(V[0]))]


def loops(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Equation (3.1), one query at a time over the keys it may see; zeros where there are none."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        seen = mask[b, 0, i if mask.shape[2] > 1 else 0].nonzero()[:, 0]
        if len(seen):
            row = one_query(q[b, h, i].tolist(), k[b, h, seen].tolist(), v[b, h, seen].tolist())
            out[b, h, i] = torch.tensor(row, dtype=q.dtype)
    return out


def gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a weighted sum of `out` whose weights differ, so that nothing cancels."""
    return torch.autograd.grad((out * normal(7, *out.shape, dtype=out.dtype)).sum(), inputs)


# --- several sources under one softmax ----------------------------------------------------------


@given(st.sampled_from([(1, 4), (2, 4), (2, 2), (4, 4)]), heads, lengths, lengths, seeds, st.data())
def test_shared_sources_equal_the_same_sources_repeated(counts, H, L_q, L, seed, data):
    """Output and gradients, with rows that see nothing; where none is shared as well."""
    B, (few, many) = 4, counts
    q = normal(seed, B, H, L_q, 3).requires_grad_()
    leaves, sources = [q], []
    for P, length in ((many, L), (few, L + 2)):
        k, v = (normal(seed + i, P, H, length, 3).requires_grad_() for i in (P, P + 9))
        sources.append((k, v, data.draw(masks(P, length))))
        leaves += [k, v]
    k, v, mask = (
        torch.cat([repeat_rows(source[i], B) for source in sources], 2 if i < 2 else 1)
        for i in range(3)
    )
    expected = attention(q, k, v, attention_mask(mask))
    out = attention_to_shared(q, sources)
    assert close(out, expected)
    found, wanted = gradients(out, *leaves), gradients(expected, *leaves)
    assert all(close(a, b, 1e-11) for a, b in zip(found, wanted, strict=True))


def test_rows_that_do_not_divide_are_one_line():
    q, k = normal(0, 6, 1, 2, 3), normal(1, 4, 1, 2, 3)
    mask = torch.ones(4, 2, dtype=torch.bool)
    with pytest.raises(UserError) as error:
        attention_to_shared(q, [(k, k, mask)])
    error_line(error, "6", "4")
    with pytest.raises(UserError) as error:
        attention_to_shared(q[:4], [(k[:2, ..., :2], k[:2], mask[:2])])
    error_line(error, "3", "2")


# --- the function -------------------------------------------------------------------------------


@given(heads_of_attention())
def test_attention_is_the_equation(case):
    assert close(attention(*case), loops(*case))


@given(heads_of_attention())
def test_attention_equals_torch_where_each_query_has_a_key(case):
    q, k, v, mask = case
    assert close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
    open_mask = mask | ~mask.any(-1, keepdim=True)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=open_mask)
    assert close(attention(q, k, v, open_mask), theirs)


@given(heads_of_attention(), st.booleans())
def test_weights_times_values_is_the_fused_path_with_gradients(case, with_mask):
    q, k, v = (x.requires_grad_() for x in case[:3])
    mask = case[3] if with_mask else None
    fused, explicit = attention(q, k, v, mask), attention_weights(q, k, mask) @ v
    assert close(fused, explicit)
    for a, b in zip(gradients(fused, q, k, v), gradients(explicit, q, k, v), strict=True):
        assert close(a, b)


@given(heads_of_attention())
def test_weights_are_a_distribution_over_the_visible_keys(case):
    q, k, _, mask = case
    weights = attention_weights(q, k, mask)
    assert (weights >= 0).all()
    assert not weights.masked_select(~mask.expand_as(weights)).any()
    assert close(weights.sum(-1), mask.any(-1).double().expand(weights.shape[:-1]))


@pytest.mark.parametrize("length", [1, 3])
def test_gradcheck_of_attention_with_a_row_that_sees_nothing(length):
    q, k, v = (normal(s, 2, 2, length, 3).requires_grad_() for s in range(3))
    mask = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    mask[1, :, 0] = False
    assert torch.autograd.gradcheck(attention, (q, k, v, mask))
    assert torch.autograd.gradcheck(attention_weights, (q, k, mask))


def test_a_query_that_sees_nothing_gets_zero_and_leaves_the_batch_alone():
    inputs = [normal(s, 3, 2, 4, 5).requires_grad_() for s in range(3)]
    mask = torch.ones(3, 1, 1, 4, dtype=torch.bool)
    mask[1] = False
    for function in (attention, lambda q, k, v, m: attention_weights(q, k, m) @ v):
        out = function(*inputs, mask)
        assert not out[1].any()
        got = gradients(out, *inputs)
        rest = [x.detach()[[0, 2]].requires_grad_() for x in inputs]
        weight = normal(7, *out.shape)[[0, 2]]
        alone = torch.autograd.grad((attention(*rest) * weight).sum(), rest)
        for gradient, expected in zip(got, alone, strict=True):
            assert not gradient[1].any()
            assert close(gradient[[0, 2]], expected)


@given(heads_of_attention(), st.sampled_from([torch.float32, torch.float64]))
def test_masked_keys_have_no_influence_even_at_1e10(case, dtype):
    q, k, v, mask = (*(x.to(dtype) for x in case[:3]), case[3][:, :, :1])
    hidden = ~mask.transpose(2, 3)
    big = [k.masked_fill(hidden, 1e10), v.masked_fill(hidden, -1e10)]
    for x in (q, *big):
        x.requires_grad_()
    out = attention(q, *big, mask)
    assert torch.equal(out, attention(q, k, v, mask))
    assert torch.equal(attention_weights(q, big[0], mask), attention_weights(q, k, mask))
    for gradient in gradients(out, *big):
        assert gradient.isfinite().all()
        assert not gradient.masked_select(hidden.expand_as(gradient)).any()


def test_a_single_key_leaves_nothing_to_choose():
    q = normal(0, 2, 2, 5, 3).requires_grad_()
    k, v = (normal(s, 2, 2, 1, 3).requires_grad_() for s in (1, 2))
    for out in (attention(q, k, v), attention_weights(q, k) @ v):
        of_q, of_k, of_v = gradients(out, q, k, v)
        assert torch.equal(out, v.expand_as(out))
        # zero but for the rounding of a difference of equal sums
        assert of_q.abs().max() < 1e-12 and of_k.abs().max() < 1e-12
        assert of_v.abs().min() > 0


@given(heads_of_attention(), st.randoms(use_true_random=False))
def test_attention_does_not_see_the_order_of_the_keys(case, random):
    q, k, v, mask = case
    order = list(range(k.shape[2]))
    random.shuffle(order)
    shuffled = attention(q, k[:, :, order], v[:, :, order], mask[..., order])
    assert close(shuffled, attention(q, k, v, mask))


@given(heads_of_attention(), st.randoms(use_true_random=False))
def test_the_answers_follow_the_order_of_the_queries(case, random):
    q, k, v, mask = case
    order = list(range(q.shape[2]))
    random.shuffle(order)
    assert close(attention(q[:, :, order], k, v, mask[:, :, order]), attention(*case)[:, :, order])


@pytest.mark.parametrize("d_k", [4, 16, 64, 256])
def test_variance_of_q_dot_k_is_the_width_and_one_after_scaling(d_k):
    n = 10_000
    q, k = normal(d_k, n, 1, 1, d_k), normal(d_k + 1, n, 1, 2, d_k)
    raw = (q * k[:, :, :1]).sum(-1).flatten()
    # What attention divides by is read off its weights: ln(w_1 / w_2) = (s_1 − s_2) / √d_k, and
    # the difference of two scores has twice the variance of one.
    weights = attention_weights(q, k)
    scaled = (weights[..., 0].log() - weights[..., 1].log()).flatten() / math.sqrt(2)
    # A score is a sum of d_k products of normals with excess kurtosis 6, so its own is 6 / d_k,
    # and the sample variance of n scores has relative standard error √((2 + 6 / d_k) / n).
    # Five of these: a right formula fails once in 1.7 million draws.
    bound = 5 * math.sqrt((2 + 6 / d_k) / n)
    assert raw.var().item() == pytest.approx(d_k, rel=bound)
    assert scaled.var().item() == pytest.approx(1, rel=bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_keeps_the_dtype(dtype):
    q = normal(0, 2, 2, 3, 4, dtype=dtype)
    mask = torch.tensor([[[[True, False, True]]], [[[False] * 3]]])
    for out in (attention(q, q, q), attention(q, q, q, mask), attention_weights(q, q, mask)):
        assert out.dtype == dtype and out.isfinite().all()


def test_widths_and_lengths_that_do_not_fit_are_named():
    q, k = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 5)
    for call in (lambda: attention(q, k, k), lambda: attention_weights(q, k)):
        with pytest.raises(UserError) as error:
            call()
        error_line(error, "4", "got 5")
    with pytest.raises(UserError) as error:
        attention(k, k, k[:, :, :2])
    error_line(error, "3 values", "got 2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_do_not_overflow_where_attention_does_not(dtype):
    """q · k is 230,400, past float16's 65,504; q · k / √d_k is 28,800."""
    q = torch.full((1, 1, 2, 64), 60.0, dtype=dtype)
    k = torch.cat([q, -q], 2)
    v = normal(0, 1, 1, 4, 3, dtype=dtype)
    weights = attention_weights(q, k)
    assert weights[0, 0].tolist() == [[0.5, 0.5, 0, 0]] * 2
    assert torch.allclose(weights @ v, attention(q, k, v), atol=1e-3)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(2, 1, 1, 3),  # added to the scores by PyTorch's kernel
        torch.ones(2, 1, 1, 3).long(),
        torch.ones(2, 1, 1, 1, dtype=torch.bool),  # would be stretched over the keys
        torch.ones(2, 1, 2, 3, dtype=torch.bool),
        torch.ones(3, 1, 1, 3, dtype=torch.bool),
        torch.ones(2, 1, 1, 4, dtype=torch.bool),
        torch.ones(2, 3, dtype=torch.bool),
    ],
)
def test_a_mask_that_does_not_fit_is_named(mask):
    q, k = torch.zeros(2, 2, 5, 4), torch.zeros(2, 2, 3, 4)
    module = MultiHeadAttention(8, 2)
    x, key = torch.zeros(2, 5, 8), Tokens.all_visible(torch.zeros(2, 3, 8))
    for call in (
        lambda: attention(q, k, k, mask),
        lambda: attention_weights(q, k, mask),
        lambda: module(x, key, mask),
        lambda: module.weights(x, key, mask),
    ):
        with pytest.raises(UserError) as error:
            call()
        error_line(error, "a boolean mask that fits [2, 2, 5, 3]", f"got {mask.dtype}")


# --- masks: one rule ----------------------------------------------------------------------------

PADDED = torch.tensor([[True, True, True, False]])


CAUSAL = attention_mask(PADDED, torch.arange(4)[None])


def table(*rows: str) -> Tensor:
    return torch.tensor([[[[c == "1" for c in row] for row in rows]]])


def test_padding_mask():
    assert torch.equal(attention_mask(PADDED), table("1110"))


def test_causal_mask_with_padding():
    causal = attention_mask(PADDED, torch.arange(4)[None])
    assert torch.equal(causal, table("1000", "1100", "1110", "1110"))


def test_prefix_mask_with_padding():
    prefix = attention_mask(PADDED, torch.tensor([[0, 0, 1, 2]]))
    assert torch.equal(prefix, table("1100", "1100", "1110", "1110"))


def test_no_block_undoes_padding():
    # The token in front is padding (left padding), and the prefix would show it to all.
    left = torch.tensor([[False, True, True, True]])
    assert torch.equal(
        attention_mask(left, torch.tensor([[0, 0, 1, 2]])), table("0100", "0100", "0110", "0111")
    )


@given(st.data(), batches, lengths)
def test_one_rule_for_all_masks(data, B, L):
    mask = data.draw(masks(B, L))
    block = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=B * L, max_size=B * L)))
    block = block.view(B, L)
    visible = attention_mask(mask, block)
    for b in range(B):
        for i in range(L):
            for j in range(L):
                rule = bool(mask[b, j]) and bool(block[b, j] <= block[b, i])
                assert bool(visible[b, 0, i, j]) == rule
    one_block = attention_mask(mask, torch.zeros_like(block))
    assert torch.equal(one_block, attention_mask(mask).expand_as(one_block))


@given(st.data(), batches, lengths, lengths)
def test_the_same_rule_where_those_who_ask_are_others(data, B, L_q, L_k):
    numbers = st.integers(0, 3)
    mask = data.draw(masks(B, L_k))
    block, queries = (
        torch.tensor(data.draw(st.lists(numbers, min_size=B * L, max_size=B * L))).view(B, L)
        for L in (L_k, L_q)
    )
    rule = mask[:, None] & (queries[:, :, None] - block[:, None] >= 0)
    assert torch.equal(attention_mask(mask, block, queries)[:, 0], rule)
    square = attention_mask(mask, block)
    assert torch.equal(attention_mask(mask, block, block[:, -1:]), square[:, :, -1:])
    for row in (block[:1], queries[:1]):
        assert attention_mask(mask, block[:1], row).shape == (B, 1, row.shape[1], L_k)


WHOLE = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    "given, parts",
    [
        ((WHOLE.float(),), ("a boolean mask [B, L]", "got torch.float32")),
        ((WHOLE.long(),), ("a boolean mask [B, L]", "got torch.int64")),
        ((WHOLE[0],), ("a boolean mask [B, L]", "[3]")),
        ((WHOLE, torch.zeros(2, 1).long()), ("block numbers of shape [2, 3]", "[2, 1]")),
        ((WHOLE, torch.zeros(2, 4).long()), ("block numbers of shape [2, 3]", "[2, 4]")),
        ((WHOLE, torch.zeros(3).long()), ("block numbers of shape [2, 3]", "[3]")),
        ((WHOLE, torch.zeros(2, 3)), ("whole block numbers", "torch.float32")),
        ((WHOLE, WHOLE), ("whole block numbers", "torch.bool")),
        ((WHOLE, WHOLE.long(), torch.zeros(3, 1).long()), ("of shape [2, 1]", "[3, 1]")),
    ],
)
def test_a_padding_mask_or_numbers_that_do_not_fit_are_named(given, parts):
    with pytest.raises(UserError) as error:
        attention_mask(*given)
    error_line(error, *parts)


# --- heads and rows -----------------------------------------------------------------------------


@given(batches, lengths, heads, head_widths, seeds)
def test_heads_are_blocks_of_columns_and_join_again(B, L, H, d_k, seed):
    x = normal(seed, B, L, H * d_k)
    split = split_heads(x, H)
    for h in range(H):
        assert torch.equal(split[:, h], x[..., h * d_k : (h + 1) * d_k])
    assert torch.equal(join_heads(split), x)


@given(st.integers(1, 4), st.integers(1, 3))
def test_row_b_belongs_to_picture_b_over_questions(P, questions):
    x = normal(0, P, 2).requires_grad_()
    repeated = repeat_rows(x, P * questions)
    assert torch.equal(repeated, torch.stack([x[b // questions] for b in range(P * questions)]))
    repeated.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, questions))


@pytest.mark.parametrize("P, B", [(2, 3), (4, 2), (0, 2)])
def test_pictures_that_do_not_divide_the_batch_are_named(P, B):
    with pytest.raises(UserError) as error:
        repeat_rows(torch.zeros(P, 1), B)
    error_line(error, f"batch {B}", f"got {P}")


# --- multi-head attention -----------------------------------------------------------------------


def with_torchs_weights(theirs: nn.MultiheadAttention) -> MultiHeadAttention:
    """Our module with the weights of PyTorch's, which keeps W_q, W_k, W_v as rows of one matrix."""
    ours = MultiHeadAttention(theirs.embed_dim, theirs.num_heads).double()
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    for linear, weight, bias in zip((ours.W_q, ours.W_k, ours.W_v), weights, biases, strict=True):
        linear.load_state_dict({"weight": weight, "bias": bias})
    ours.W_o.load_state_dict(theirs.out_proj.state_dict())
    return ours


def torchs(d: int, H: int) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(d, H, batch_first=True).double()
    for i, parameter in enumerate(theirs.parameters()):  # its biases start at zero, and hide
        parameter.data = normal(i, *parameter.shape)
    return theirs


@given(st.data(), batches, lengths, lengths, heads, st.booleans(), st.booleans())
def test_equals_torchs_multihead_attention(data, B, L_q, L_k, H, padded, causal_like):
    d = H * data.draw(head_widths)
    theirs = torchs(d, H)
    ours = with_torchs_weights(theirs)
    query, value = normal(1, B, L_q, d).requires_grad_(), normal(2, B, L_k, d)
    padding = data.draw(masks(B, L_k)) if padded else torch.ones(B, L_k, dtype=torch.bool)
    who = data.draw(masks(L_q, L_k)) if causal_like else torch.ones(L_q, L_k, dtype=torch.bool)
    # Each query sees key 0: where one sees nothing PyTorch's gives NaN, and ours is tested above.
    padding[:, 0] = who[:, 0] = True
    key = Tokens(value, padding)
    expected, weights = theirs(
        query, value, value, key_padding_mask=~padding, attn_mask=~who, average_attn_weights=False
    )
    mask = attention_mask(padding) & who if causal_like else None
    out = ours(query, key, mask)
    assert close(out, expected) and close(ours.weights(query, key, mask), weights)
    projections = [W.weight for W in (ours.W_q, ours.W_k, ours.W_v)]
    of_query, of_out, *of_in = gradients(out, query, ours.W_o.weight, *projections)
    targets = (query, theirs.out_proj.weight, theirs.in_proj_weight)
    for a, b in zip(
        (of_query, of_out, torch.cat(of_in)), gradients(expected, *targets), strict=True
    ):
        assert close(a, b)


def test_gradcheck_of_multihead_attention_with_padding_and_a_missing_row():
    module = MultiHeadAttention(4, 2).double()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    query, value = normal(0, 2, 2, 4).requires_grad_(), normal(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, v: module(q, Tokens(v, mask)), (query, value))


@given(st.data(), batches, lengths, st.sampled_from(HOSTILE))
def test_padding_has_no_influence_whatever_it_holds(data, B, L, hostile):
    module = MultiHeadAttention(4, 2).double()
    key, query = data.draw(tokens(B, L, 4)), normal(0, B, 3, 4)
    key.value.requires_grad_()
    filled = key.value.masked_fill(~key.mask.unsqueeze(-1), hostile).detach().requires_grad_()
    expected, out = module(query, key), module(query, Tokens(filled, key.mask))
    assert torch.equal(out, expected)
    inputs = (filled, *module.parameters())
    clean = (key.value, *module.parameters())
    for a, b in zip(gradients(out, *inputs), gradients(expected, *clean), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(module.weights(query, Tokens(filled, key.mask)), module.weights(query, key))


def test_a_missing_sequence_gives_the_bias_of_the_output_map():
    module = MultiHeadAttention(4, 2).double()
    out = module(normal(0, 2, 3, 4), Tokens.all_visible(normal(1, 2, 3, 4)).absent())
    assert torch.equal(out, module.W_o.bias.expand_as(out))


def test_a_given_mask_cannot_undo_the_padding():
    """A causal mask built of the order alone: what the padding holds stays without influence."""
    module, x = MultiHeadAttention(4, 2).double(), normal(0, 1, 4, 4)
    everyone = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    hostile = x.masked_fill(~PADDED.unsqueeze(-1), float("nan"))
    for mask, both in ((everyone, attention_mask(PADDED)), (everyone.tril(), CAUSAL)):
        out = module(x, Tokens(hostile, PADDED), mask)
        q, k, v = (split_heads(W(x), 2) for W in (module.W_q, module.W_k, module.W_v))
        assert close(out, module.W_o(join_heads(attention(q, k, v, both))))
        weights = module.weights(x, Tokens(hostile, PADDED), mask)
        assert close(weights, attention_weights(q, k, both))
        assert not weights[..., 3].any()


def test_a_given_mask_takes_away_what_the_padding_shows():
    module, x = MultiHeadAttention(4, 2).double(), normal(0, 1, 4, 4)
    out = module(x, Tokens.all_visible(x), CAUSAL)
    later = x.clone()
    later[:, 2:] += 1  # token 1 cannot know what comes after it
    assert torch.equal(module(later, Tokens.all_visible(later), CAUSAL)[:, :2], out[:, :2])
    assert not close(module(later, Tokens.all_visible(later), CAUSAL)[:, 2:], out[:, 2:])


@pytest.mark.parametrize("H", [4, 0, -2])
def test_heads_that_do_not_divide_the_width_are_named(H):
    for call in (lambda: MultiHeadAttention(6, H), lambda: split_heads(torch.zeros(1, 2, 6), H)):
        with pytest.raises(UserError) as error:
            call()
        error_line(error, "width 6", f"got {H}")


def test_keys_with_numbers_need_queries_with_numbers():
    module, x, block = MultiHeadAttention(4, 2), normal(0, 1, 4, 4).float(), torch.arange(4)[None]
    causal = module(x, Tokens(x, PADDED, block), block=block)
    assert close(causal, module(x, Tokens(x, PADDED), CAUSAL), 1e-6)
    for call in (module, module.weights):
        with pytest.raises(UserError) as error:
            call(x, Tokens(x, PADDED, block))
        error_line(error, "block numbers for the queries")


# --- the cache ----------------------------------------------------------------------------------


@st.composite
def prompts(draw) -> tuple[Tensor, Tensor, list[int]]:
    """Padding [B, L] of prompts and of what follows them, block numbers, where the calls begin.

    Prompts are padded at the left or at the right, row by row; the first call reads the prefix,
    where there is one.
    """
    B, P, new = draw(batches), draw(lengths), draw(lengths)
    mask = torch.ones(B, P + new, dtype=torch.bool)
    for row in mask:
        hidden = draw(st.integers(0, P - 1))
        row[slice(0, hidden) if draw(st.booleans()) else slice(P - hidden, P)] = False
    prefix = draw(st.integers(0, P))
    block = (torch.arange(P + new) - prefix + 1).clamp(min=0).expand(B, -1)
    cuts = draw(st.sets(st.integers(max(prefix, 1), P + new - 1))) if P + new > prefix else set()
    return mask, block, [0, *sorted(cuts), P + new]


@given(prompts(), st.booleans())
def test_a_cached_attention_equals_the_whole_at_each_position(case, narrowed):
    mask, block, calls = case
    module, x = MultiHeadAttention(4, 2).double(), normal(0, *mask.shape, 4)
    hostile = x.masked_fill(~mask.unsqueeze(-1), float("inf"))
    L = mask.shape[1]
    # a custom mask speaks of all keys, cached ones first: here it hides the second token
    narrow = (torch.arange(L) != 1).expand(1, 1, L, L) if narrowed else None
    whole = module(x, Tokens(hostile, mask, block), narrow, block)
    cache, parts = KeyValueCache(), []
    for begin, end in itertools.pairwise(calls):
        at = slice(begin, end)
        parts.append(
            module(
                x[:, at], Tokens(hostile[:, at], mask[:, at], block[:, at]),
                None if narrow is None else narrow[:, :, at, :end], block[:, at], cache,
            )
        )  # fmt: skip
        assert cache.length == end
    assert close(torch.cat(parts, 1), whole)


def decoder(layers: int = 2) -> nn.ModuleList:
    return nn.ModuleList(
        TransformerBlock(MergedAttention(8, ["text", "image"], 2), 8) for _ in range(layers)
    ).double()


@given(prompts(), st.integers(1, 3), st.sampled_from(HOSTILE))
def test_a_decoder_with_a_cache_is_the_decoder_without(case, L_i, hostile):
    """Two blocks over words and a picture that all rows share; the picture is read once."""
    mask, block, calls = case
    value = normal(0, *mask.shape, 8).masked_fill(~mask.unsqueeze(-1), hostile)
    blocks, picture = decoder(), Tokens.all_visible(normal(1, 1, L_i, 8))

    def run(words: Tokens, streams: dict[str, Tokens], caches: list) -> Tensor:
        for layer, cache in zip(blocks, caches, strict=True):
            words = layer(words, streams, cache=cache)
        return words.value

    whole = run(Tokens(value, mask, block), {"image": picture}, [None, None])
    caches = [KeyValueCache(), KeyValueCache()]
    parts = []
    for begin, end in itertools.pairwise(calls):
        at = slice(begin, end)
        words = Tokens(value[:, at], mask[:, at], block[:, at])
        parts.append(run(words, {} if begin else {"image": picture}, caches))
    assert close(torch.cat(parts, 1)[mask], whole[mask], 1e-9)
    for b, row in enumerate(mask):  # a row alone, without padding, is the row in the batch
        words = Tokens.all_visible(value[b : b + 1, row], block[b : b + 1, row])
        alone = run(words, {"image": picture}, [None, None])
        assert close(alone[0], whole[b, row], 1e-9)


def test_a_word_does_not_know_what_comes_after_it_and_knows_picture_and_prefix():
    blocks, block = decoder(), torch.tensor([[0, 0, 1, 2]])

    def run(x: Tensor, picture: Tensor) -> Tensor:
        words = Tokens.all_visible(x, block)
        for layer in blocks:
            words = layer(words, {"image": Tokens.all_visible(picture)})
            assert words.block is block
        return words.value

    x, picture = normal(0, 1, 4, 8), normal(1, 1, 3, 8)
    before = run(x, picture)
    for place, sees in ((0, [0, 1, 2, 3]), (1, [0, 1, 2, 3]), (2, [2, 3]), (3, [3])):
        other = x.clone()
        other[:, place] += normal(2, 8)
        moved = (run(other, picture) - before).abs().amax((0, 2)) > 1e-6
        assert moved.nonzero()[:, 0].tolist() == sees
    assert ((run(x, picture + 1) - before).abs().amax((0, 2)) > 1e-6).all()


def test_what_a_cache_cannot_take_is_named():
    module, x = MultiHeadAttention(8, 2), torch.zeros(2, 3, 8)
    cache = KeyValueCache()
    module(x, Tokens.all_visible(x), cache=cache)
    with pytest.raises(UserError) as error:
        module(x[:1], Tokens.all_visible(x[:1]), cache=cache)
    error_line(error, "[2, 2, 'L', 4], as in the cache", "got [1, 2, 3, 4]")
    block = TransformerBlock(CrossAttention(8, ["text", "image"], 2), 8)
    with pytest.raises(UserError) as error:
        block(Tokens.all_visible(x), {"image": Tokens.all_visible(x)}, cache=KeyValueCache())
    error_line(error, "a mixer that keeps a cache", "CrossAttention")


# --- the block, and BERT ------------------------------------------------------------------------

NAMES_IN_BERT = {
    "mixer.W_q": "attention.self.query",
    "mixer.W_k.text": "attention.self.key",
    "mixer.W_v.text": "attention.self.value",
    "mixer.W_o": "attention.output.dense",
    "norm_mixer": "attention.output.LayerNorm",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
    "norm_mlp": "output.LayerNorm",
}


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_block_with_berts_weights_is_berts_layer(kernel):
    from transformers import BertConfig  # here, for the other tests need not wait for it
    from transformers.models.bert.modeling_bert import BertLayer

    d, H, B, L = 24, 3, 3, 7
    config = BertConfig(hidden_size=d, num_attention_heads=H, intermediate_size=4 * d)
    config._attn_implementation = kernel
    layer = BertLayer(config).double().eval()
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = normal(i, *parameter.shape)
    block = TransformerBlock(MergedAttention(d, ["text"], H), d, norm_first=False).double()
    theirs = layer.state_dict()
    block.load_state_dict(
        {
            f"{ours}.{kind}": theirs.pop(f"{bert}.{kind}")
            for ours, bert in NAMES_IN_BERT.items()
            for kind in ("weight", "bias")
        }
    )
    assert not theirs  # no weight of BERT's is left over
    x = normal(50, B, L, d).requires_grad_()
    mask = torch.arange(L) < torch.tensor([[L], [4], [1]])
    bias = torch.zeros(B, 1, 1, L).double().masked_fill(~mask[:, None, None], -torch.inf)
    # What stands at padding is read by none of the words; ours is zero before the layer.
    expected = layer(x, attention_mask=bias)[mask]
    out = block(Tokens(x, mask), {}).value[mask]
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-11)
    assert torch.allclose(*gradients(out, x), *gradients(expected, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_is_its_two_sums(norm_first):
    d = 4
    block = TransformerBlock(MergedAttention(d, ["text"], 2), d, norm_first).double()
    x = Tokens.all_visible(normal(0, 2, 3, d))

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / h.std(-1, correction=0, keepdim=True)

    def mix(h: Tensor) -> Tensor:
        stream = Tokens.all_visible(h)
        return block.mixer(stream, {"text": stream})

    if norm_first:
        h = x.value + mix(norm(x.value))
        expected = h + block.mlp(norm(h))
    else:
        h = norm(x.value + mix(x.value))
        expected = norm(h + block.mlp(h))
    assert torch.allclose(block(x, {}).value, expected, atol=1e-9)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_padding_of_the_blocks_own_words_leaves_gradients_clean(hostile, norm_first):
    block = TransformerBlock(MergedAttention(8, ["text"], 2), 8, norm_first)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = normal(0, 2, 3, 8, dtype=torch.float32)
    found = []
    for value in (clean, clean.masked_fill(~mask.unsqueeze(-1), hostile)):
        value.requires_grad_()
        out = block(Tokens(value, mask), {}).value[:, :1]
        found.append((out, *gradients(out, value, *block.parameters())))
        assert not found[-1][1][~mask].any()
    for a, b in zip(*found, strict=True):
        assert b.isfinite().all() and torch.equal(a, b)


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda mixer: TransformerBlock(mixer, 4), ("a mixer of width 4", "got 8")),
        (lambda mixer: TransformerBlock(mixer, 8, dropout=1.5), ("dropout", "got 1.5")),
        (lambda mixer: TransformerBlock(mixer, 8, dropout=-0.1), ("dropout", "got -0.1")),
        (
            lambda mixer: TransformerBlock(mixer, 8)(
                Tokens.all_visible(torch.zeros(1, 2, 8)), {}, queries=0
            ),
            ("1 or more queries", "got 0"),
        ),
    ],
)
def test_what_a_block_cannot_be_is_named(call, parts):
    with pytest.raises(UserError) as error:
        call(MergedAttention(8, ["text"], 2))
    error_line(error, *parts)


@pytest.mark.parametrize("norm_first", [False, True])
def test_fewer_queries_give_the_first_tokens_of_the_whole(norm_first):
    block = TransformerBlock(MergedAttention(8, ["text", "image"], 2), 8, norm_first).double()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x, image = Tokens(normal(0, 2, 3, 8), mask), Tokens.all_visible(normal(1, 2, 5, 8))
    whole, first = block(x, {"image": image}), block(x, {"image": image}, queries=1)
    assert close(first.value, whole.value[:, :1]) and torch.equal(first.mask, mask[:, :1])


def test_the_block_does_not_see_order_until_positions_are_added():
    block = TransformerBlock(MergedAttention(8, ["text"], 2), 8).double()
    x, positions, order = normal(0, 2, 5, 8), normal(1, 5, 8), torch.tensor([3, 0, 4, 1, 2])

    def run(value: Tensor) -> Tensor:
        return block(Tokens.all_visible(value), {}).value

    assert close(run(x[:, order]), run(x)[:, order])
    moved = run(x[:, order] + positions) - run(x + positions)[:, order]
    assert moved.abs().max() > 0.1


def test_the_picture_may_be_the_blocks_own_stream():
    block = TransformerBlock(MergedAttention(8, ["image", "text"], 2), 8).double()
    text, image = (Tokens.all_visible(normal(s, 2, 3, 8)) for s in (0, 1))
    out = block(image, {"text": text}).value
    other = block(image, {"text": Tokens.all_visible(text.value + 1)}).value
    assert out.shape == (2, 3, 8) and not close(out, other)


def test_dropout_acts_in_training_only():
    block = TransformerBlock(MergedAttention(8, ["text"], 2), 8, dropout=0.5).double()
    x = Tokens.all_visible(normal(0, 2, 3, 8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not close(block.train()(x, {}).value, block(x, {}).value)
    assert torch.equal(block.eval()(x, {}).value, block(x, {}).value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm_first", [False, True])
def test_the_block_keeps_the_dtype(dtype, norm_first):
    block = TransformerBlock(MergedAttention(8, ["text"], 2), 8, norm_first).to(dtype)
    out = block(Tokens.all_visible(normal(0, 2, 3, 8, dtype=dtype)), {})
    assert out.value.dtype == dtype and out.value.isfinite().all()


# --- docstrings ---------------------------------------------------------------------------------


@functools.wraps(KeyValueCache.append)
def append(k: Tensor, v: Tensor, mask: Tensor, block: Tensor) -> tuple:
    """Five tokens more in a cache of four; L_k is nine (tests/shapes.py)."""
    cache = KeyValueCache()
    cache.append(k[:, :, :4], v[:, :, :4], mask[:, :4])
    return cache.append(k, v, mask, block)


def test_the_shapes_in_the_docstrings_are_true():
    block = TransformerBlock(MergedAttention(8, ["text"], 2), 8)
    module = MultiHeadAttention(8, 2)
    checked = {
        attention: [{}, {"mask": None}],
        attention_weights: [{}, {"mask": None}],
        attention_mask: [{}, {"block": None}, {"queries": None}],
        split_heads: [{"H": 2}],
        join_heads: [{}],
        repeat_rows: [{"B": 6}],
        module.forward: [{}, {"mask": None}],
        module.weights: [{}],
        append: [{}],
        block.forward: [{"streams": {}}, {"streams": {}, "queries": 3}],
        block.mixed: [{"streams": {}}, {"streams": {}, "queries": 3}],
    }
    for function, calls in checked.items():
        check_shapes(function, *calls)
    names = {function.__qualname__ for function in checked}
    for function in public_functions(mmlib.attention):
        assert function.__qualname__ in names
        assert not undocumented(function), function.__qualname__
