"""Each displayed equation of chapter 05, by loops, lists of all cases and closed forms."""

import math
from collections import Counter
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from strategies import normal, seeds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlib.attention import attention_mask
from mmlib.book.exercises import check
from mmlib.book.exercises.chapter_05 import EXERCISES
from mmlib.book.limits import limit
from mmlib.book.pairs import VOCABULARY, drawn_pairs
from mmlib.book.symbols import TASKS
from mmlib.data.scenes import is_true
from mmlib.losses import (
    SIGLIP_LOG_SCALE,
    corrupt,
    cross_entropy,
    hard_negatives,
    info_nce,
    masked_lm,
    matching,
    prefix_lm,
    siglip,
)


def softmax(row):
    terms = [math.exp(z) for z in row]
    return [e / sum(terms) for e in terms]


@given(seed=seeds, N=st.integers(1, 5))
def test_5_1_likelihood(seed, N):
    """exp(−sum) is the product of the probabilities."""
    logits = normal(seed, N, 4)
    target = torch.randint(4, (N,), generator=torch.Generator().manual_seed(seed))
    likelihood = math.prod(softmax(row)[y] for row, y in zip(logits, target, strict=True))
    total, labels = cross_entropy(logits, target)
    assert math.exp(-float(total)) == pytest.approx(likelihood, rel=1e-5)
    assert float(total / labels) == pytest.approx(-math.log(likelihood) / N, rel=1e-5)


@given(seed=seeds)
def test_5_2_cross_entropy(seed):
    z = normal(seed, 5)
    by_hand = math.log(sum(math.exp(x) for x in z)) - float(z[2])
    assert float(cross_entropy(z[None], torch.tensor([2]))[0]) == pytest.approx(by_hand, rel=1e-5)


@given(seed=seeds, y=st.integers(0, 5))
def test_5_3_gradient(seed, y):
    """Against differences of the loss, and against autograd."""
    z = normal(seed, 6)

    def loss(logits):
        return -math.log(softmax(logits)[y])

    p, step = softmax(z), 1e-6
    leaf = z.float().requires_grad_()
    cross_entropy(leaf[None], torch.tensor([y]))[0].backward()
    for c in range(6):
        moved = [z.clone(), z.clone()]
        moved[0][c] += step
        moved[1][c] -= step
        slope = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        assert p[c] - (c == y) == pytest.approx(slope, abs=1e-6)
        assert p[c] - (c == y) == pytest.approx(float(leaf.grad[c]), abs=1e-5)


@given(seed=seeds, C=st.integers(2, 6))
def test_5_4_floor(seed, C):
    true, model = softmax(normal(seed, C)), softmax(normal(seed + 1, C))
    expected = -sum(q * math.log(p) for q, p in zip(true, model, strict=True))
    entropy = -sum(q * math.log(q) for q in true)
    divergence = sum(q * math.log(q / p) for q, p in zip(true, model, strict=True))
    assert expected == pytest.approx(entropy + divergence)
    assert divergence >= -1e-12
    # the function on many samples in the proportions of `true`
    counted = sum(
        q * float(cross_entropy(torch.tensor([model]).log(), torch.tensor([y]))[0])
        for y, q in enumerate(true)
    )
    assert counted == pytest.approx(expected, rel=1e-5)


def test_5_4_the_entropy_of_reference_by_counting():
    """Given text and mean cell: n ones among four, the named one is one with probability n/4."""
    entropy = 0.0
    for n in range(1, 4):
        p = n / 4
        entropy -= math.comb(4, n) / 16 * (p * math.log(p) + (1 - p) * math.log(1 - p))
    assert limit(TASKS["reference"], "means").loss == pytest.approx(entropy)
    assert limit(TASKS["reference"], "tokens").loss == pytest.approx(0, abs=1e-9)
    assert limit(TASKS["reference"], "text").loss == pytest.approx(math.log(2))


@pytest.mark.parametrize("C", [1, 2, 7])
def test_5_5_uniform(C):
    total, _ = cross_entropy(torch.full((1, C), 3.0), torch.tensor([C - 1]))
    assert math.exp(float(total)) == pytest.approx(C, rel=1e-5)


def test_5_6_answer():
    """Over all answers of two words the probabilities add up to one: it is a distribution."""
    V = 3
    random = torch.Generator().manual_seed(0)
    first = torch.randn(V, generator=random)  # logits of the first word
    second = torch.randn(V, V, generator=random)  # of the second, given the first
    answer = torch.tensor([[False, True, True]])
    mass = 0.0
    for a, b in product(range(V), repeat=2):
        logits = torch.stack([first, second[a], torch.zeros(V)])[None]
        total, words = prefix_lm(logits, torch.tensor([[0, a, b]]), answer)
        assert math.exp(-float(total)) == pytest.approx(
            softmax(first)[a] * softmax(second[a])[b], rel=1e-5
        )
        assert words == 2
        mass += math.exp(-float(total))
    assert mass == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("P, m", [(0, 3), (1, 1), (4, 3)])
def test_5_7_mask(P, m):
    """The truth table: the prefix sees the prefix, an answer token the prefix and up to itself."""
    L = P + m
    block = torch.tensor([[0] * P + list(range(1, m + 1))])
    mask = attention_mask(torch.ones(1, L, dtype=torch.bool), block)[0, 0]
    for i in range(L):
        for j in range(L):
            assert bool(mask[i, j]) == (j < P or (i >= P and j <= i))


@given(seed=seeds, N=st.integers(1, 5))
def test_5_8_info_nce(seed, N):
    f = normal(seed, N, N)
    by_hand = sum(-math.log(softmax(f[n])[n]) - math.log(softmax(f[:, n])[n]) for n in range(N)) / (
        2 * N
    )
    total, pairs = info_nce(f)
    assert float(total / pairs) == pytest.approx(by_hand, rel=1e-4, abs=1e-5)


@settings(max_examples=20)
@given(seed=seeds, things=st.integers(1, 4))
def test_5_9_copies(seed, things):
    """No scores that treat copies alike go below; scores that tell all things apart reach it."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.cat([torch.arange(things), torch.randint(things, (4,), generator=random)])
    N = len(ids)
    floor = sum(math.log((ids == i).sum()) for i in ids) / N
    some = normal(seed, N, things)[:, ids] * 5
    assert float(info_nce(some)[0]) / N >= floor - 1e-5
    sure = 100.0 * (ids[:, None] == ids)
    assert float(info_nce(sure)[0]) / N == pytest.approx(floor, abs=1e-5)


@given(seed=seeds)
def test_5_10_first_order(seed):
    """What a step down the second loss does to the first: the rest is of second order in η."""
    A, B = normal(seed, 6, 3), normal(seed + 1, 6, 3)
    w = normal(seed + 2, 3)

    def first(w):
        return nn.functional.softplus(A @ w).mean()

    def other(w):
        return nn.functional.softplus(B @ w).mean()

    g1, g2 = (torch.func.grad(loss)(w) for loss in (first, other))
    rest = [
        float(first(w - eta * g2) - (first(w) - eta * g1 @ g2)) for eta in (1e-3, 1e-4)
    ]  # fmt: skip
    assert abs(rest[0]) < 1e-4 and abs(rest[1]) < 0.011 * abs(rest[0]) + 1e-12


def test_5_11_masked():
    states, head = normal(0, 2, 4, 3).float(), nn.Linear(3, 5)
    target = torch.tensor([[-100, 2, -100, 0], [4, -100, -100, -100]])
    by_hand = [
        -math.log(softmax(head(states[b, n]).detach())[target[b, n]])
        for b, n in ((0, 1), (0, 3), (1, 0))
    ]  # fmt: skip
    total, labels = masked_lm(states, head, target)
    assert (total / labels).item() == pytest.approx(sum(by_hand) / 3, rel=1e-5)


@pytest.mark.parametrize("m", [1, 5])
def test_5_12_flops(m):
    d, V = 8, 50
    states = torch.randn(2, 6, d, requires_grad=True)
    target = torch.full((2, 6), -100)
    target.view(-1)[:m] = 1
    with FlopCounterMode(display=False) as counter:
        masked_lm(states, nn.Linear(d, V, bias=False), target)[0].backward()
    assert counter.get_total_flops() == 6 * m * d * V


@pytest.mark.parametrize("W", [2, 5])
def test_5_13_shown(W):
    """By a list of all ways: which word was there, and whether it was kept or drawn."""
    context = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04])[:W]
    context = context / context.sum()
    for w in range(W):
        right = wrong = 0.0
        for there in range(W):
            ways = [(0.1, there)] + [(0.1 / W, drawn) for drawn in range(W)]
            seen = float(context[there]) * sum(chance for chance, shows in ways if shows == w)
            right, wrong = (right + seen, wrong) if there == w else (right, wrong + seen)
        pi = float(context[w])
        assert right / wrong == pytest.approx(pi / (1 - pi) * (W + 1))
        believed = EXERCISES["5.5"].right(pi, W, 0.1, 0.1)
        assert believed == pytest.approx(right / (right + wrong))


def test_5_13_counted():
    random = torch.Generator().manual_seed(0)
    text = (torch.rand(1, 200_000, generator=random) < 0.3).long()
    read, target = corrupt(
        text, torch.ones_like(text).bool(), 9, torch.arange(2), random
    )  # fmt: skip
    shown = (read == 1) & (target != -100)
    odds = float((target[shown] == 1).sum() / (target[shown] == 0).sum())
    assert odds == pytest.approx(0.3 / 0.7 * 3, rel=0.1)


def joint(seed, X=3, Y=3):
    """A random p(x, y) [X, Y] and its mutual information, eq. (5.14)."""
    p = normal(seed, X, Y).mul(1.5).flatten().softmax(0).view(X, Y)
    px, py = p.sum(1), p.sum(0)
    information = sum(
        float(p[x, y] * math.log(p[x, y] / (px[x] * py[y])))
        for x in range(X)
        for y in range(Y)
    )  # fmt: skip
    return p, px, py, information


@given(seed=seeds)
def test_5_14_information(seed):
    """H(y) − H(y | x), never negative, and zero where x and y are independent."""
    p, px, py, information = joint(seed)
    entropy = -sum(float(q) * math.log(q) for q in py)
    given_x = -sum(float(p[x, y]) * math.log(p[x, y] / px[x]) for x in range(3) for y in range(3))
    assert information == pytest.approx(entropy - given_x) and information >= -1e-12
    apart = torch.outer(px, py)
    assert float((apart * (apart / torch.outer(px, py)).log()).sum()) == pytest.approx(0, abs=1e-12)


def one_row(p, px, py, f, N):
    """Exactly, over all x, places n and lists Y: (expected loss of scores f, I(n; Y | x))."""
    loss = known = 0.0
    for x in range(len(px)):
        for Y in product(range(len(py)), repeat=N):
            chance = [
                math.prod(float(p[x, y] / px[x]) if m == n else float(py[y])
                          for m, y in enumerate(Y))
                for n in range(N)
            ]  # fmt: skip
            mixture = sum(chance) / N
            q = softmax([f[x][y] for y in Y])
            for n in range(N):
                weight = float(px[x]) * chance[n] / N
                loss -= weight * math.log(q[n])
                known += weight * math.log(chance[n] / mixture)
    return loss, known


@settings(max_examples=12)
@given(seed=seeds, N=st.integers(1, 4))
def test_5_15_bound(seed, N):
    p, px, py, information = joint(seed)
    loss, known = one_row(p, px, py, normal(seed + 1, 3, 3).tolist(), N)
    assert math.log(N) - loss <= known + 1e-12
    assert known <= min(information, math.log(N)) + 1e-12
    # equality in the first place for the best score, with any constant for each x
    best = (p / torch.outer(px, py)).log() + normal(seed + 2, 3, 1)
    loss, known = one_row(p, px, py, best.tolist(), N)
    assert math.log(N) - loss == pytest.approx(known, abs=1e-12)


@pytest.mark.parametrize("K, N, eps", [(2, 2, 0.1), (3, 3, 0.2), (3, 4, 0.05)])
def test_5_16_report(K, N, eps):
    p = torch.full((K, K), eps / (K - 1) / K, dtype=torch.float64)
    p.fill_diagonal_((1 - eps) / K)
    _, known = one_row(p, p.sum(1), p.sum(0), [[0.0] * K] * K, N)
    A, B = K * (1 - eps), K * eps / (K - 1)
    report = math.log(N)
    for J in range(N):
        R = J * A + (N - 1 - J) * B
        loss = (1 - eps) * math.log(1 + R / A) + eps * math.log(1 + R / B)
        report -= binom.pmf(J, N - 1, 1 / K) * loss
    assert report == pytest.approx(known)
    # the function, on all batches of the smallest case
    if (K, N) == (2, 2):
        mean = 0.0
        for xs in product(range(K), repeat=N):
            for ys in product(range(K), repeat=N):
                chance = math.prod(float(p[x, y]) for x, y in zip(xs, ys, strict=True))
                f = torch.tensor([[math.log(A if x == y else B) for y in ys] for x in xs])
                mean += chance * (math.log(N) - float(info_nce(f)[0]) / N)
        assert mean == pytest.approx(report, rel=1e-5)


@given(seed=seeds)
def test_5_17_no_ceiling(seed):
    p, px, py, information = joint(seed)
    apart = torch.outer(px, py)

    def bound(f):
        return float(1 + (p * f).sum() - (apart * f.exp()).sum())

    assert bound(normal(seed + 1, 3, 3)) <= information + 1e-12
    assert bound((p / apart).log()) == pytest.approx(information)


@given(seed=seeds, N=st.integers(1, 4))
def test_5_18_siglip(seed, N):
    a, b = normal(seed, N, 3), normal(seed + 1, N, 3)
    total = 0.0
    for n, m in product(range(N), repeat=2):
        z = 2 * float(a[n] @ b[m]) / float(a[n].norm() * b[m].norm()) - 1
        total += math.log(1 + math.exp(-z if n == m else z))
    found, pairs = siglip(a, b, torch.tensor(math.log(2)), torch.tensor(-1.0))
    assert float(found / pairs) == pytest.approx(total / N, rel=1e-4)
    # the three scores of the chapter: −ln(1/5 · 2/3 · 1/3)
    z = [math.log(4), math.log(2), math.log(2)]
    by_hand = math.log(1 + 4) + math.log(1 + math.exp(-z[1])) + math.log(1 + 2)
    assert by_hand == pytest.approx(math.log(5) + math.log(1.5) + math.log(3))


def of_all_pairs(p, px, py, z, N):
    """The expected loss of SigLIP with the logits z [X, Y] on fresh batches, by eq. (5.18)."""
    loss = 0.0
    for x, y in product(range(len(px)), range(len(py))):
        yes, no = float(p[x, y]), (N - 1) * float(px[x] * py[y])
        loss += yes * math.log(1 + math.exp(-z[x][y])) + no * math.log(1 + math.exp(z[x][y]))
    return loss


@settings(max_examples=20)
@given(seed=seeds, N=st.integers(2, 6))
def test_5_19_best_logit(seed, N):
    """No logits are below the floor on fresh pairs, and those of the equation reach it."""
    p, px, py, _ = joint(seed)
    best = (p / torch.outer(px, py)).log() - math.log(N - 1)
    w = p + (N - 1) * torch.outer(px, py)
    q = best.sigmoid()
    floor = float((w * -(q * q.log() + (1 - q) * (1 - q).log())).sum())
    assert of_all_pairs(p, px, py, best.tolist(), N) == pytest.approx(floor)
    for n in range(5):
        other = best + normal(seed + n, 3, 3)
        assert of_all_pairs(p, px, py, other.tolist(), N) >= floor - 1e-12


def test_5_19_floor_of_the_chapter():
    """K = 8, ε = 0.1, N = 64: a value found before by another hand, 3.633."""
    K, eps = 8, 0.1
    p = torch.full((K, K), eps / (K - 1) / K, dtype=torch.float64)
    p.fill_diagonal_((1 - eps) / K)
    px, py = p.sum(1), p.sum(0)
    best = (p / torch.outer(px, py)).log() - math.log(63)
    assert of_all_pairs(p, px, py, best.tolist(), 64) == pytest.approx(3.633, abs=5e-4)
    # on drawn batches, by the function: the mean of many is the expectation
    random = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(400):
        x = torch.randint(K, (64,), generator=random)
        wrong = torch.rand(64, generator=random) < eps
        y = torch.where(wrong, (x + torch.randint(1, K, (64,), generator=random)) % K, x)
        z = best[x][:, y]
        total += float(nn.functional.softplus(torch.where(torch.eye(64).bool(), -z, z)).sum()) / 64
    assert total / 400 == pytest.approx(3.633, abs=0.1)


def at_zero_cosine(N, bias):
    eye = torch.eye(2 * N)
    leaf = torch.tensor(bias, requires_grad=True)
    total, pairs = siglip(eye[:N], eye[N:], torch.tensor(SIGLIP_LOG_SCALE), leaf)
    (total / pairs).backward()
    return float(total.detach() / pairs), float(leaf.grad)


@pytest.mark.parametrize("N, bias", [(1, -10.0), (8, 0.0), (64, -10.0), (64, 1.5)])
def test_5_20_start(N, bias):
    formula = math.log(1 + math.exp(-bias)) + (N - 1) * math.log(1 + math.exp(bias))
    assert at_zero_cosine(N, bias)[0] == pytest.approx(formula, rel=1e-4)


@pytest.mark.parametrize("N", [2, 8, 64])
def test_5_21_balance(N):
    """At b = −ln(N − 1) pull and push cancel: the bias has gradient zero, and else its sign."""
    balance = -math.log(N - 1)
    assert at_zero_cosine(N, balance)[1] == pytest.approx(0, abs=1e-5)
    assert at_zero_cosine(N, balance + 0.1)[1] > 1e-3
    assert at_zero_cosine(N, balance - 0.1)[1] < -1e-3


@given(seed=seeds, P=st.integers(1, 4), M=st.integers(1, 4))
def test_5_22_matching(seed, P, M):
    yes, no = normal(seed, P), normal(seed + 1, M)
    by_hand = sum(math.log(1 + math.exp(-u)) for u in yes)
    by_hand += sum(math.log(1 + math.exp(u)) for u in no)
    total, logits = matching(yes, no)
    assert float(total / logits) == pytest.approx(by_hand / (P + M), rel=1e-5)


def test_5_23_hardness():
    """Drawn as often as the equation says, and as the reader's function does."""
    f = normal(0, 4, 4)
    ids = torch.tensor([0, 1, 0, 2])
    random = torch.Generator().manual_seed(0)
    for beta in (0.0, 2.0):
        drawn = torch.zeros(4, 4)
        for _ in range(1500):
            drawn[torch.arange(4), hard_negatives(beta * f, random, ids)] += 1 / 1500
        for n in range(4):
            terms = [math.exp(beta * f[n, m]) if ids[m] != ids[n] else 0.0 for m in range(4)]
            q = torch.tensor(terms) / sum(terms)
            assert (drawn[n] - q).abs().max() < 0.06
            right = EXERCISES["5.E"].right(f, ids, beta)[n]
            torch.testing.assert_close(right.float(), q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lam", [0.3, 3.0])
def test_5_24_opposite(lam):
    """At the minimum of two convex losses of shared weights, whatever they want of them."""
    X, y1 = normal(0, 40, 3), (normal(1, 40) > 0).double()
    y2 = (normal(2, 40) > 0).double()
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([w], max_iter=300, tolerance_grad=1e-12, tolerance_change=0)

    def losses():
        bce = nn.functional.binary_cross_entropy_with_logits
        return bce(X @ w, y1), bce(X @ w, y2)

    def step():
        descent.zero_grad()
        first, second = losses()
        (total := first + lam * second).backward()
        return total

    descent.step(step)
    g1, g2 = (torch.autograd.grad(loss, w)[0] for loss in losses())
    torch.testing.assert_close(g1, -lam * g2, rtol=1e-5, atol=1e-9)
    assert torch.cosine_similarity(g1, g2, dim=0) == pytest.approx(-1)
    assert g1.norm() > 1e-3


# --- what the chapter says beside its equations ---------------------------------------------------


def scale_floor(N, t):
    return math.log(1 + (N - 1) * math.exp(-t * N / (N - 1)))


@given(seed=seeds, N=st.integers(2, 5), t=st.floats(0, 8))
def test_no_embeddings_are_below_the_floor_of_the_scale(seed, N, t):
    a, b = normal(seed, N, 4), normal(seed + 1, N, 4)
    both = nn.functional.normalize(a, dim=-1) @ nn.functional.normalize(b, dim=-1).T
    assert float(info_nce(t * both)[0]) / N >= scale_floor(N, t) - 1e-5
    simplex = (N * torch.eye(N) - 1) / (N - 1)  # cosines: 1 on the diagonal, else −1/(N − 1)
    assert float(info_nce(t * simplex)[0]) / N == pytest.approx(scale_floor(N, t), abs=1e-5)


def test_one_set_of_weights_is_right_on_all_kinds_of_pairs():
    """The three weights of section 5.9 that are right on pairs and on all kinds of non-pairs."""
    w = torch.tensor([2.0, 2.0, -3.0])
    kinds = torch.tensor([[1.0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]])
    assert ((kinds @ w) > 0).tolist() == [True, False, False, False]


# --- exercises ------------------------------------------------------------------------------------


def said(capsys, name, answer):
    check(name, answer)
    return capsys.readouterr().out.strip()


RHO = 0.9


def best(x, y):
    return RHO * x[:, None] * y / (1 - RHO**2) - RHO**2 * (x[:, None] ** 2 + y**2) / (
        2 * (1 - RHO**2)
    )


@pytest.mark.parametrize(
    "critic, part",
    [
        (best, "right."),
        (lambda x, y: best(x, y) + 7, "right."),  # a constant changes no softmax
        (lambda x, y: -best(x, y), "sign"),
        (lambda x, y: -((y - RHO * x[:, None]) ** 2) / (2 * (1 - RHO**2)), "divided by p(y)"),
        (lambda x, y: x[:, None] * y, "wrong scale"),
        (lambda x, y: torch.zeros(len(x), len(y)), "Every y gets the same score"),
        (lambda x, y: -((y - RHO * x[:, None]) ** 2) / 2 + y**2 / 2, "not the variance 1"),
        (
            lambda x, y: -((y - x[:, None]) ** 2) / (2 * (1 - RHO**2)) + y**2 / 2,
            "mean of y is ρ x",
        ),
        (
            lambda x, y: -((y - RHO * x[:, None]) ** 2) / (2 * (1 - RHO**2) ** 0.5) + y**2 / 2,
            "the variance stands there",
        ),
        (lambda x, y: 0.3 * best(x, y), "more can be had"),
        (lambda x, y: RHO * x[:, None] * y / (1 - RHO**2), "The squares beside it"),
        (lambda x, y: best(x, y).exp(), "return the logarithm"),
        (lambda x, y: 2 * best(x, y), "Twice the best score"),
        (lambda x, y: best(x, y).T, "Rows and columns are exchanged"),
        (lambda x, y: best(x, y) + 0.5 * x[:, None], "changes the columns"),
        (lambda x, y: 20 * torch.eye(len(x)), "the place of a pair"),
        (lambda x, y: best(x, y) + torch.eye(len(x)), "the place of a pair"),
        (lambda x, y: x * y, "x[:, None]"),
        (lambda x, y: best(x, y) / 0, "not a finite number"),
        (lambda x, y: None, "returns None"),
    ],
)
def test_critics_are_run(critic, part, capsys):
    assert part in said(capsys, "5.6", critic)


def test_the_floors_of_5_2_and_5_7_by_search(capsys):
    """The floors of two exercises against a minimum found by trying."""
    for C, eps in ((2, 0.1), (5, 0.3)):
        true = torch.tensor([1 - eps] + [eps / (C - 1)] * (C - 1))
        tries = torch.linspace(0.05, 0.99, 2000)
        loss = -(true[0] * tries.log() + eps * ((1 - tries) / (C - 1)).log())
        assert EXERCISES["5.2"].right(C, eps) == pytest.approx(float(loss.min()), abs=1e-4)
    for k in (2, 5):
        p = torch.linspace(0.01, 0.99, 5000)
        loss = -p.log() - (k - 1) * (1 - p).log()
        assert EXERCISES["5.7"].right(k) == pytest.approx(float(loss.min()), abs=1e-4)
    for lam, a in ((0.5, 4.0), (3.0, -1.0)):
        w = torch.linspace(-5, 5, 200_001)
        at = w[((w - 1) ** 2 + lam * (w - a) ** 2).argmin()]
        assert EXERCISES["5.8"].right(lam, a) == pytest.approx(float((at - 1) ** 2), abs=1e-3)


def test_chances_without_a_stable_softmax(capsys):
    def naive(scores, ids, kappa):
        terms = (kappa * scores).exp() * (ids[:, None] != ids)
        return terms / terms.sum(-1, keepdim=True)

    assert "not a finite number" in said(capsys, "5.E", naive)


def test_5_4_by_a_sure_model(capsys):
    """The floor of the six pairs is what scores reach that tell the three captions apart."""
    ids = torch.tensor([0, 0, 0, 1, 1, 2])
    sure = float(info_nce(100.0 * (ids[:, None] == ids))[0]) / 6
    assert said(capsys, "5.4", sure) == "Exercise 5.4: right."
    entropy = -sum(p * math.log(p) for p in (3 / 6, 2 / 6, 1 / 6))
    assert math.log(6) - EXERCISES["5.4"].right == pytest.approx(entropy)


def test_a_function_without_a_case_for_no_copies_is_told_which(capsys):
    text = said(capsys, "5.7", lambda k: -math.log(1 / k) - (k - 1) * math.log(1 - 1 / k))
    assert "math domain error" in text and text.endswith("(it was called with 1)")


def test_drawn_pairs_are_true_and_told_apart():
    scenes, pictures, captions = drawn_pairs(40, seed=1)
    assert pictures.shape == (40, 768) and captions.shape == (40, 5)
    for scene, caption in zip(scenes, captions, strict=True):
        first, shape, above, second, other = (VOCABULARY[w] for w in caption)
        assert (above, first != second) == ("above", True)
        a, b = ("an" if color[0] in "aeiou" else "a" for color in (first, second))
        assert is_true(f"{a} {first} {shape} above {b} {second} {other}", scene)
        assert not is_true(f"{a} {first} {shape} below {b} {second} {other}", scene)
    again = drawn_pairs(40, seed=1)
    assert torch.equal(again[1], pictures) and torch.equal(again[2], captions)
    assert not torch.equal(drawn_pairs(40, seed=2)[2], captions)
    assert float(pictures.mean()) == pytest.approx(0, abs=1e-9)


def test_a_perfect_reader_of_bags_misses_little():
    """Section 5.5: one picture in seven has its words in another order in its batch."""
    captions = drawn_pairs(448, seed=3)[2]
    share = caught = 0.0
    for batch in captions.split(64):
        rows = [tuple(row) for row in batch.tolist()]
        for row in rows:
            alike = [other for other in rows if sorted(other) == sorted(row)]
            share += rows.count(row) / len(alike) / len(rows) / 7
            caught += any(other != row for other in alike) / len(rows) / 7
    assert 0.90 < share < 0.96 and 0.10 < caught < 0.18


def test_where_captions_vary_more_rivals_of_the_same_words_are_rarer():
    """Chance that another caption has the words of one's own in another order, from all captions.

    A caption's words make at most four captions.
    """
    chance = {}
    for colors, shapes in ((4, 2), (8, 4), (12, 6)):
        captions = [
            ((a, "color"), (s, "shape"), (b, "color"), (t, "shape"))
            for a, b in permutations(range(colors), 2)
            for s, t in product(range(shapes), repeat=2)
        ]
        sizes = Counter(tuple(sorted(words)) for words in captions)
        assert max(sizes.values()) == 4
        assert len(captions) == colors * (colors - 1) * shapes**2
        chance[colors] = sum(n * (n - 1) for n in sizes.values()) / len(captions) ** 2
    assert chance[4] > 3 * chance[8] > 9 * chance[12] / 2
    assert 0.10 < 1 - (1 - chance[8]) ** 63 < 0.21


@given(seed=seeds)
def test_what_copies_cost_a_row(seed):
    """ln(1 + (c - 1) p): own probability p without its copies, c copies with it in."""
    others = normal(seed, 4)
    for c in (1, 2, 5):
        p = softmax([0.5, *others])[0]
        with_copies = softmax([0.5] * c + others.tolist())[0]
        assert math.log(p / with_copies) == pytest.approx(math.log(1 + (c - 1) * p))


def test_what_copies_cost_a_column():
    """No such bound: two pictures with the scores 0 and 3 for one caption pay more than ln 2."""
    scores = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    own = torch.arange(2)
    columns = [float(cross_entropy(scores.T[n, None], own[n, None])[0]) for n in range(2)]
    assert [f"{x:.2f}" for x in columns] == ["3.05", "0.05"]
    assert sum(columns) / 2 > math.log(2)
    left_out = float(info_nce(scores, torch.zeros(2, dtype=torch.long))[0])
    assert float(info_nce(scores)[0]) - left_out > 2 * math.log(2)  # the sum of two pairs


# --- what the reader writes -----------------------------------------------------------------------

TURNS = [
    (name, n)
    for name in ("5.A", "5.B", "5.C", "5.D", "5.E")
    for n in range(len(EXERCISES[name].wrong))
]  # fmt: skip


@pytest.mark.parametrize("name, n", TURNS)
def test_each_wrong_turn_is_named(name, n, capsys):
    mistake, sentence = EXERCISES[name].wrong[n]
    assert said(capsys, name, mistake) == f"Your turn {name}: not yet. {sentence}"


def test_turns(capsys):
    """Written as a reader would, by loops or with the numbers of a row at a time."""

    def entropy(logits, target):
        each = []
        for row, y in zip(logits.tolist(), target.tolist(), strict=True):
            row = [z - max(row) for z in row]
            each.append(math.log(sum(math.exp(z) for z in row)) - row[y])
        return sum(each) / len(each)

    def gradient(logits, target):
        p = logits.softmax(-1)
        p[torch.arange(len(p)), target] -= 1
        return p

    def nce(scores):
        own = range(len(scores))
        rows = [-math.log(softmax(scores[n].tolist())[n]) for n in own]
        columns = [-math.log(softmax(scores[:, n].tolist())[n]) for n in own]
        return sum(rows + columns) / len(rows + columns)

    def chances(scores, ids, kappa):
        rows = []
        for n, row in enumerate(scores.tolist()):
            most = max(row)  # of any column: it cancels
            others = [ids[m] != ids[n] for m in range(len(row))]
            terms = [
                math.exp(kappa * (f - most)) if other else 0.0
                for f, other in zip(row, others, strict=True)
            ]
            rows.append([term / sum(terms) for term in terms])
        return torch.tensor(rows)

    def copies(captions):
        rows = [tuple(row) for row in captions.tolist()]
        return sum(math.log(rows.count(row)) for row in rows) / len(rows)

    written = (
        ("5.A", entropy), ("5.B", gradient), ("5.C", nce), ("5.D", copies), ("5.E", chances),
    )  # fmt: skip
    for name, answer in written:
        assert said(capsys, name, answer) == f"Your turn {name}: right."
    assert "returns None" in said(capsys, "5.C", lambda scores: None)
