"""Each displayed equation of chapter 03, its worked example, and the checker of its exercises."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch.utils.flop_counter import FlopCounterMode

from mmlib.attention import (
    MultiHeadAttention,
    attention,
    attention_mask,
    attention_weights,
    join_heads,
    split_heads,
)
from mmlib.book.exercises import check
from mmlib.book.exercises.chapter_03 import EXERCISES
from mmlib.book.exercises.chapter_03_judged import _BLOCKS, _STEPS
from mmlib.tokens import Tokens

lengths = st.integers(1, 6)

# red, circle, above, blue, square; columns red, blue, circle, square
X = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
W_Q = [[-2, -2, 4, 4], [-2, -2, 4, 4], [4, 4, -2, -2], [4, 4, -2, -2]]


def example():
    """Q, K, V of section 3.4, [5, 4] each."""
    x = torch.tensor(X, dtype=torch.float64)
    return math.log(2) * x @ torch.tensor(W_Q, dtype=torch.float64), x, x.clone()


def alone(function, *inputs):
    """attention or attention_weights for one sample and one head."""
    return function(*(t[None, None] for t in inputs))[0, 0]


def row(q, K):
    """One row of weights, by Python's own numbers."""
    terms = [math.exp(sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q))) for k in K]
    return [term / sum(terms) for term in terms]


def random_case(L, seed, d=3):
    return [normal(seed + n, L, d) for n in range(4)]


def close(a, b, tolerance=1e-10):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=0, atol=tolerance)


def slopes(function, at, step=1e-6):
    """Central differences of a function with one number as its result, by each entry of `at`."""
    found = torch.zeros_like(at)
    for n in range(at.numel()):
        moved = torch.zeros_like(at).flatten()
        moved[n] = step
        moved = moved.view_as(at)
        found.view(-1)[n] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


# --- equations ----------------------------------------------------------------------------------


@given(lengths, seeds)
def test_3_1_softmax(n, seed):
    """Shares of e^s by Python's own numbers; what is added to all scores moves nothing."""
    s = normal(seed, n)
    w = alone(attention_weights, torch.ones(1, 1).double(), s[:, None])[0]
    terms = [math.exp(float(x)) for x in s]
    assert close(w, [term / sum(terms) for term in terms])
    assert close(alone(attention_weights, torch.ones(1, 1).double(), s[:, None] + 700)[0], w)


def test_3_2_attention_without_the_root():
    """Section 3.1's query and pencil; a query longer by the root undoes the root of (3.4)."""
    query = math.log(2) * torch.tensor([[2.0, 2, -1, -1]]).double()
    tokens = torch.tensor(X).double()
    by_hand = (query @ tokens.T).softmax(-1) @ tokens
    assert close(by_hand, [[0.4, 0.4, 0.05, 0.05]])
    assert close(alone(attention, 2 * query, tokens, tokens), by_hand)


@pytest.mark.parametrize("d_k", [1, 3, 16, 200])
def test_3_3_root(d_k):
    """By enumeration where it is exact (signs), by simulation for what attention divides by."""
    if d_k <= 3:
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * (2 * d_k))
        products = (signs[:, :d_k] * signs[:, d_k:]).sum(1)
        assert float(products.mean()) == 0 and float(products.square().mean()) == d_k
    n = 20_000
    q, k = normal(d_k, n, 1, 1, d_k), normal(d_k + 1, n, 1, 2, d_k)
    weights = attention_weights(q, k)[:, 0, 0]
    difference = (weights[:, 0] / weights[:, 1]).log()  # of two scores that share q: variance 2
    # fourth moment of q·(k − k') for normals is 12 d (d + 2), its variance 2 d
    allowed = 5 * math.sqrt((3 * (d_k + 2) / d_k - 1) / n)
    assert float(difference.var()) / 2 == pytest.approx(1, rel=allowed)


def test_3_4_attention():
    """The pencil's numbers, and loops on random ones."""
    Q, K, V = example()
    colors, shapes = [0.05, 0.05, 0.4, 0.4], [0.4, 0.4, 0.05, 0.05]  # what each of them receives
    assert close(alone(attention, Q, K, V), [colors, shapes, [0.2] * 4, colors, shapes])
    assert close(alone(attention_weights, Q, K)[1], [0.4, 0.05, 0.1, 0.4, 0.05])
    for seed in range(5):
        q, k, v, _ = random_case(4, seed)
        by_loop = [
            [sum(w * x for w, x in zip(row(i, k.tolist()), c, strict=True)) for c in v.T.tolist()]
            for i in q.tolist()
        ]
        assert close(alone(attention, q, k, v), by_loop)


def test_3_5_masks():
    """Section 3.5: what circle and square receive, by the terms that are seen."""
    Q, K, V = (t[None, None] for t in example())
    there = torch.ones(1, 5, dtype=torch.bool)
    causal = attention(Q, K, V, attention_mask(there, torch.arange(5)[None]))[0, 0]
    assert close(causal[1], [8 / 9, 0, 1 / 9, 0])
    assert close(causal[4], [0.4, 0.4, 0.05, 0.05])
    prefix = attention(Q, K, V, attention_mask(there, torch.tensor([[0, 0, 0, 1, 2]])))[0, 0]
    assert close(prefix[1], [4 / 5.5, 0, 0.5 / 5.5, 0])


@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.data())
def test_3_5_of_two_tokens_one_sees_the_other(block, data):
    L = len(block)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=L, max_size=L)))
    seen = attention_mask(mask[None], torch.tensor([block]))[0, 0]
    for i in range(L):
        for j in range(L):
            assert bool(seen[i, j]) == (bool(mask[j]) and block[j] <= block[i])
            assert seen[i, j] or seen[j, i] or not (mask[i] and mask[j])


def test_3_6_without_positions_two_sentences_cancel():
    """The two sentences of section 3.6 pull W_q in opposite directions, whatever W_q is."""
    x, W = torch.tensor(X, dtype=torch.float64), normal(0, 4, 4).requires_grad_()
    loss = 0.0
    for order, sign in (([0, 1, 2, 3, 4], 1), ([3, 1, 2, 0, 4], -1)):
        h = alone(attention, x[order] @ W, x[order], x[order])[1]
        loss = loss + sign * (h[1] - h[0])
    assert torch.autograd.grad(loss, W)[0].abs().max() < 1e-12


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_3_6_order(order):
    Q, K, V, _ = random_case(3, 1)
    turned = list(order)
    assert close(alone(attention, Q[turned], K[turned], V[turned]),
                 alone(attention, Q, K, V)[turned])  # fmt: skip
    Q, K, V = example()
    exchanged = [3, 1, 2, 0, 4]
    other = alone(attention, Q[exchanged], K[exchanged], V[exchanged])
    assert close(other[1], alone(attention, Q, K, V)[1])


@given(st.sampled_from([1, 2, 4]), seeds)
def test_3_7_heads(H, seed):
    """The heads one by one, each with its rows of W_o, added."""
    torch.manual_seed(seed)
    layer, x, y = (
        MultiHeadAttention(8, H).double(),
        normal(seed, 1, 3, 8),
        normal(seed + 1, 1, 4, 8),
    )
    total = layer.W_o.bias.expand(3, 8)
    for h in range(H):
        columns = slice(h * 8 // H, (h + 1) * 8 // H)
        q, k, v = (
            t[0] @ W.weight[columns].T + W.bias[columns]
            for t, W in ((x, layer.W_q), (y, layer.W_k), (y, layer.W_v))
        )
        weights = torch.tensor([row(i, k.tolist()) for i in q.tolist()], dtype=torch.float64)
        total = total + weights @ v @ layer.W_o.weight[:, columns].T
    assert close(layer(x, Tokens.all_visible(y))[0], total)


GROWING = {
    "exp": (math.exp, True),
    "exp2": (lambda s: 3 * 2**s, True),
    "softplus": (lambda s: math.log1p(math.exp(s)), False),
    "sigmoid": (lambda s: 1 / (1 + math.exp(-s)), False),
    "gauss": (lambda s: math.exp(-s * s), False),
}


@pytest.mark.parametrize("name", GROWING)
def test_3_8_shift(name):
    """g(s + c) / g(c) = g(s) / g(0) holds for exponentials and for no other of the functions."""
    g, holds = GROWING[name]
    points = [(s, c) for s in (-1.0, 0.5, 2.0) for c in (-0.7, 1.0)]
    agree = all(math.isclose(g(s + c) * g(0.0), g(s) * g(c), rel_tol=1e-9) for s, c in points)
    assert agree == holds
    scores = normal(0, 1, 1, 4, 4)
    eye = torch.eye(4).double()[None, None]
    # what is added to a whole row of scores does not move attention
    assert close(attention_weights(scores + 5 * normal(1, 1, 1, 4, 1), 2 * eye),
                 attention_weights(scores, 2 * eye))  # fmt: skip


@given(lengths, seeds)
def test_3_9_entropy(n, seed):
    """No weights beat the softmax, and what they lack is the divergence from it."""
    q, k = normal(seed, 1, 4), normal(seed + 1, n, 4)
    scores = [float(q[0] @ key) / 2 for key in k]
    w = alone(attention_weights, q, k)[0].tolist()
    log_Z = math.log(sum(math.exp(s) for s in scores))

    def worth(p):
        return sum(a * s - a * math.log(a) for a, s in zip(p, scores, strict=True))

    assert worth(w) == pytest.approx(log_Z)
    p = normal(seed + 2, n).softmax(0).tolist()
    lack = sum(a * math.log(a / b) for a, b in zip(p, w, strict=True))
    assert lack >= -1e-12 and worth(p) == pytest.approx(log_Z - lack)


@given(lengths, seeds)
def test_3_10_nearness(n, seed):
    q, k, *_ = random_case(n, seed, 5)
    for i in range(n):
        for j in range(n):
            distance = sum((a - b) ** 2 for a, b in zip(q[i].tolist(), k[j].tolist(), strict=True))
            parts = float(q[i] @ k[j] - q[i] @ q[i] / 2 - k[j] @ k[j] / 2)
            assert -distance / 2 == pytest.approx(parts, abs=1e-9)
    same_length = k / k.norm(dim=-1, keepdim=True)
    near = (-torch.cdist(q, same_length).square() / 2 / 5**0.5).softmax(-1)
    assert close(alone(attention_weights, q, same_length), near)


@given(lengths, seeds)
def test_3_11_jacobian(n, seed):
    """By central differences, entry by entry."""
    scores = normal(seed, n)
    w = scores.softmax(0)
    for j in range(n):
        by_differences = slopes(lambda s, j=j: s.softmax(0)[j], scores)
        formula = [float(w[j]) * ((j == m) - float(w[m])) for m in range(n)]
        assert close(by_differences, formula, 1e-8)


@given(lengths, seeds)
def test_3_12_variance(n, seed):
    w, u = normal(seed, n).softmax(0), normal(seed + 1, n)
    J = torch.diag(w) - torch.outer(w, w)
    pairs = list(zip(w.tolist(), u.tolist(), strict=True))
    mean = sum(a * b for a, b in pairs)
    assert close(J @ u, [a * (b - mean) for a, b in pairs])
    assert float(u @ J @ u) == pytest.approx(sum(a * (b - mean) ** 2 for a, b in pairs), abs=1e-12)
    assert float(J.trace()) == pytest.approx(1 - sum(a * a for a, _ in pairs), abs=1e-12)
    assert close(J.sum(0), torch.zeros(n)) and torch.linalg.eigvalsh(J).min() > -1e-12
    left = 1 - float(w.max())
    assert float(J.trace()) <= 2 * left + 1e-12


def test_3_12_the_bias_of_the_keys_has_no_gradient():
    layer, x = MultiHeadAttention(4, 2).double(), normal(0, 2, 5, 4)
    layer(x, Tokens.all_visible(x)).square().sum().backward()
    assert layer.W_k.bias.grad.abs().max() < 1e-12 < layer.W_k.weight.grad.abs().max()
    assert layer.W_q.bias.grad.abs().max() > 1e-6 < layer.W_v.bias.grad.abs().max()


def test_3_12_rotary_positions_give_it_one():
    """Each query and key turned by an angle that grows with its place: b is no constant then."""
    angles = torch.arange(5).double()
    turn = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], 1).view(5, 2, 2)
    q, k, v = (normal(seed, 5, 2) for seed in range(3))
    b = normal(3, 2).requires_grad_()
    rotated = [torch.einsum("lab,lb->la", turn, t) for t in (q, k + b)]
    for pair, has in ((rotated, True), ((q, k + b), False)):
        h = alone(attention, *pair, v)
        (of_b,) = torch.autograd.grad(h.square().sum(), b, retain_graph=True)
        assert (of_b.abs().max() > 1e-3) == has


@given(lengths, seeds)
def test_3_13_gradients(n, seed):
    """The loops of (3.13) against central differences, and autograd against the loops."""
    Q, K, V, G = random_case(n, seed)
    root, d = math.sqrt(3), range(3)
    w = alone(attention_weights, Q, K)
    h = w @ V
    of_s = [[float(w[i, j] * (G[i] @ (V[j] - h[i]))) for j in range(n)] for i in range(n)]
    by_hand = (
        [[sum(of_s[i][j] * float(K[j, c]) for j in range(n)) / root for c in d] for i in range(n)],
        [[sum(of_s[i][j] * float(Q[i, c]) for i in range(n)) / root for c in d] for j in range(n)],
        [[sum(float(w[i, j] * G[i, c]) for i in range(n)) for c in d] for j in range(n)],
    )
    leaves = [t.clone().requires_grad_() for t in (Q, K, V)]
    by_autograd = torch.autograd.grad((alone(attention, *leaves) * G).sum(), leaves)
    for position, (hand, auto) in enumerate(zip(by_hand, by_autograd, strict=True)):

        def loss(t, position=position):
            inputs = [Q, K, V]
            inputs[position] = t
            return float((alone(attention, *inputs) * G).sum())

        assert close(auto, hand)
        assert close(slopes(loss, (Q, K, V)[position]), hand, 1e-6)


def test_3_13_on_paper():
    """Circle wants to receive more of red: the numbers of the section on learning."""
    leaves = [t.requires_grad_() for t in example()]
    of_q, of_k, of_v = torch.autograd.grad(-alone(attention, *leaves)[1, 0], leaves)
    assert close(of_q[1], [-0.12, 0.08, 0.01, 0.01])
    assert close(of_k[2], [0.02 * math.log(2) * n for n in (4, 4, -2, -2)])
    assert close(of_v[0], [-0.4, 0, 0, 0])


@given(lengths, seeds)
def test_3_14_covariance(n, seed):
    Q, K, V, G = random_case(n, seed)
    q = Q.clone().requires_grad_()
    (got,) = torch.autograd.grad((alone(attention, q, K, V) * G).sum(), q)
    for i in range(n):
        w = row(Q[i].tolist(), K.tolist())
        useful = [float(G[i] @ v) for v in V]
        mean = sum(a * b for a, b in zip(w, useful, strict=True))
        for c in range(3):
            key = [float(k[c]) for k in K]
            middle = sum(a * b for a, b in zip(w, key, strict=True))
            cov = sum(a * (b - middle) * (u - mean) for a, b, u in zip(w, key, useful, strict=True))
            assert float(got[i, c]) == pytest.approx(cov / math.sqrt(3), abs=1e-10)


@given(lengths, seeds, st.data())
def test_3_15_linear(n, seed, data):
    """Linear in the values, rows that see nothing included; so such a row can only be zero."""
    Q, K, V, _ = (t[None, None] for t in random_case(n, seed))
    A = normal(seed + 9, 3, 3)
    bits = data.draw(st.lists(st.booleans(), min_size=n * n, max_size=n * n))
    mask = torch.tensor(bits).view(1, 1, n, n)
    out = attention(Q, K, V, mask)
    assert close(attention(Q, K, V @ A, mask), out @ A)
    assert not out.masked_select(~mask.any(-1, keepdim=True)).any()


@given(st.integers(1, 4), st.integers(1, 4), seeds)
def test_3_16_places(m, H, seed):
    """No heads do better than 1 − H/m; heads that look at one place each do as well."""
    n = 4
    P = torch.eye(n).double()[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:m]]
    bound = max(0.0, 1 - H / m)
    weights = attention_weights(9 * normal(seed, 1, H, 1, 2), normal(seed + 1, 1, H, n, 2))
    weights = weights[0, :, 0]  # [H, n]
    # the best u for these weights, by least squares
    u = torch.linalg.lstsq(weights.T, P.T, driver="gelsd").solution
    error = float((u.T @ weights - P).square().sum()) / m
    assert error >= bound - 1e-9
    looking = sum(torch.outer(torch.eye(m).double()[r], P[r]) for r in range(min(H, m)))
    assert float((looking - P).square().sum()) / m == pytest.approx(bound)


@pytest.mark.parametrize("m, H", [(2, 1), (3, 1), (3, 2), (4, 2), (3, 3)])
def test_3_16_values_that_know_their_place(m, H):
    """One order can be answered by one head; over all orders the bound stands."""
    own = 2 * torch.eye(2).double()  # place j writes twice its number to answer j
    assert close(own * torch.full((1, 2), 0.5), torch.eye(2))
    u, errors = normal(1, m, m, H), []  # [places, answers, heads]
    for named in permutations(range(m)):
        target = torch.eye(m).double()[list(named)]  # column j: to which answer place j belongs
        best = [u[j] @ torch.linalg.lstsq(u[j], target[:, j]).solution for j in range(m)]
        errors.append(float((torch.stack(best, 1) - target).square().sum()) / m)
    assert sum(errors) / len(errors) == pytest.approx(1 - H / m, abs=1e-9)


@pytest.mark.parametrize("L, d, H", [(4, 8, 2), (16, 8, 1), (32, 16, 4)])
def test_3_17_cost(L, d, H):
    layer, x = MultiHeadAttention(d, H), torch.randn(1, L, d)
    with FlopCounterMode(display=False) as counter:
        q, k, v = (split_heads(W(x), H) for W in (layer.W_q, layer.W_k, layer.W_v))
        layer.W_o(join_heads(attention_weights(q, k) @ v))
    one_map, one_head = 2 * L * d * d, 2 * L * L * (d // H)  # a product [m, n] [n, p] is 2 m n p
    assert (
        counter.get_total_flops() == 4 * one_map + 2 * H * one_head == 8 * L * d**2 + 4 * L**2 * d
    )


# --- the checker --------------------------------------------------------------------------------


def said(capsys, name, answer):
    check(name, answer)
    return capsys.readouterr().out.strip()


def test_answers_on_paper():
    """By brute force: 3.1 and 3.5 from the words, 3.6 by search, 3.4 by enumeration."""
    Q, K, V = example()
    causal = attention_mask(torch.ones(1, 5, dtype=torch.bool), torch.arange(5)[None])
    Q = Q.index_copy(0, torch.tensor([3]), math.log(2) * torch.tensor([[-2.0, -2, 6, 2]]).double())
    received = attention(Q[None, None], K[None, None], V[None, None], causal)[0, 0, 3, 2]
    assert EXERCISES["3.1"].right == pytest.approx(float(received))
    q = Q.clone().requires_grad_()
    (of_q,) = torch.autograd.grad(alone(attention, q, K, V)[2, 1], q)
    assert close(of_q[2], EXERCISES["3.5"].right)
    for n in (1, 2, 5):
        drawn = torch.cat([normal(n, 500, n).softmax(-1), torch.full((1, n), 1 / n).double()])
        assert float((1 - drawn.square().sum(-1)).max()) == pytest.approx(EXERCISES["3.6"].right(n))
    for a, b in ((0.0, 0.0), (0.5, -2.0), (1.0, 1.0)):
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
        product = (a + signs) @ (b + signs).T  # all queries, all keys
        whole, left = EXERCISES["3.4"].right(3, a, b)
        assert float(product.var(correction=0)) == pytest.approx(whole)
        assert float(product.var(1, correction=0).mean()) == pytest.approx(left)


def test_packing_is_no_row_of_blocks():
    """3.2: no blocks from 0 to 3 give the two samples; the right answer is the rule within each."""
    segment, block = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    wanted = EXERCISES["3.2"].right(segment, block)
    alone_ = torch.tensor([[1, 0], [1, 1]]).bool()
    assert torch.equal(wanted, torch.block_diag(alone_, alone_).bool())
    there = torch.ones(1, 4, dtype=torch.bool)
    for blocks in torch.cartesian_prod(*[torch.arange(4)] * 4):
        assert not torch.equal(attention_mask(there, blocks[None])[0, 0], wanted)


@pytest.mark.parametrize("n", range(len(_STEPS)))
def test_each_wrong_step_is_named(n, capsys):
    step, sentence = _STEPS[n]
    assert said(capsys, "3.8", step) == f"Exercise 3.8: not yet. {sentence}"


def test_a_step_is_judged_by_what_it_does(capsys):
    def right(state, s, v):
        m, Z, a = state
        largest = max(m, s.max())
        terms = (s - largest).exp()
        factor = (m - largest).exp()
        return largest, Z * factor + terms.sum(), a * factor + (terms[:, None] * v).sum(0)

    assert said(capsys, "3.8", right).endswith("right.")
    assert "three parts" in said(capsys, "3.8", lambda state, s, v: (s, v))
    assert "returns None" in said(capsys, "3.8", lambda state, s, v: None)
    assert "A function" in said(capsys, "3.8", 3)
    assert "IndexError" in said(capsys, "3.8", lambda state, s, v: state[7])
    assert "one sum" in said(capsys, "3.8", lambda state, s, v: state[:1] + (state[1] + 1, v[0]))


@pytest.mark.parametrize("n", range(len(_BLOCKS)))
def test_each_wrong_row_of_blocks_is_named(n, capsys):
    block, sentence = _BLOCKS[n]
    assert said(capsys, "3.3", block) == f"Exercise 3.3: not yet. {sentence}"
    assert said(capsys, "3.3", [7 + 3 * b for b in block]).endswith(sentence)


def test_any_increasing_numbers_will_do(capsys):
    assert said(capsys, "3.3", [-3, 0, 5, 5, 5, 8, 100]).endswith("right.")
    assert "yours are 6" in said(capsys, "3.3", [0, 1, 2, 2, 2, 3])
    assert "both ways" in said(capsys, "3.3", [0, 1, 2, 2, 3, 4, 5])


VARIANTS = {
    "tied": False,
    "hidden layer": False,
    "two queries": True,
    "sum": True,
    "difference": False,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_each_wrong_prediction_is_reasoned_about(name, capsys):
    assert f"about {name}:" in said(capsys, "3.7", {**VARIANTS, name: not VARIANTS[name]})


def test_variants(capsys):
    assert said(capsys, "3.7", VARIANTS).endswith("right.")
    assert "the keys tied" in said(capsys, "3.7", {"tied": False})


TURNS = [
    (name, n) for name in ("3.A", "3.B", "3.C", "3.D") for n in range(len(EXERCISES[name].wrong))
]


@pytest.mark.parametrize("name, n", TURNS)
def test_each_wrong_turn_is_named(name, n, capsys):
    mistake, sentence = EXERCISES[name].wrong[n]
    assert said(capsys, name, mistake) == f"Your turn {name}: not yet. {sentence}"


def test_turns(capsys):
    """Written as a reader would, by the library's own functions or by loops."""

    def two_heads(Q, K, V):
        halves = (slice(0, Q.shape[1] // 2), slice(Q.shape[1] // 2, None))
        return torch.cat([alone(attention, *(t[:, part] for t in (Q, K, V))) for part in halves], 1)

    def masked(scores, mask):
        return torch.where(mask, scores, -math.inf).softmax(-1)

    def attend(Q, K, V):
        rows = [row([n * math.sqrt(len(q)) for n in q], K.tolist()) for q in Q.tolist()]
        return torch.tensor(rows) @ V

    for name, answer in (("3.A", lambda s: s.softmax(-1)), ("3.B", attend), ("3.D", two_heads)):
        assert said(capsys, name, answer).endswith("right."), name
    assert said(capsys, "3.C", masked).endswith("right.")
