"""Each displayed equation of chapter 04, and the record that its table shows."""

import json
import math
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

from mmlib.attention import attention, attention_weights, join_heads, split_heads
from mmlib.book.exercises import check
from mmlib.book.exercises.chapter_04 import EXERCISES
from mmlib.book.limits import limit
from mmlib.book.symbolic_model import SymbolicModel, expected_loss
from mmlib.book.symbols import TASKS, reference
from mmlib.evaluation.additive import additive_part
from mmlib.fusion import (
    CrossAttention,
    GatedCrossAttention,
    LateFusion,
    MergedAttention,
    modality_share,
)
from mmlib.tokens import Tokens

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import record as runner  # noqa: E402

RESULT = json.loads((ROOT / "book/results/fusion_table.json").read_text("utf8"))
TABLE = runner.load("fusion_table")

lengths = st.tuples(st.integers(1, 6), st.integers(1, 6))
seeds = st.integers(0, 2**16)


def example(L_t, L_i, seed):
    """q [d_k], keys and values of two modalities, by float64 loops rather than by mmlib."""
    random = torch.Generator().manual_seed(seed)
    q, *rest = (
        torch.randn(shape, generator=random, dtype=torch.float64)
        for shape in ((3,), (L_t, 3), (L_i, 3), (L_t, 2), (L_i, 2))
    )
    return q, *rest


def parts(q, k, v):
    """Z_m and h_m of eq. (4.1), term by term."""
    terms = [math.exp(float(q @ key) / math.sqrt(len(q))) for key in k]
    Z = sum(terms)
    return Z, sum(e * value for e, value in zip(terms, v, strict=True)) / Z


@settings(deadline=None, max_examples=25)
@given(lengths, seeds)
def test_4_1_parts(L, seed):
    q, k_t, k_i, v_t, v_i = example(*L, seed)
    (Z_t, h_t), (Z_i, h_i) = parts(q, k_t, v_t), parts(q, k_i, v_i)
    joint = attention(
        q[None, None, None],
        torch.cat([k_t, k_i])[None, None],
        torch.cat([v_t, v_i])[None, None],
    )[0, 0, 0]
    torch.testing.assert_close(joint, (Z_t * h_t + Z_i * h_i) / (Z_t + Z_i))


@settings(deadline=None, max_examples=25)
@given(lengths, seeds)
def test_4_2_share(L, seed):
    q, k_t, k_i, v_t, v_i = example(*L, seed)
    weights = attention_weights(q[None, None, None], torch.cat([k_t, k_i])[None, None])
    share = modality_share({"text": weights[..., : L[0]], "image": weights[..., L[0] :]})
    Z_t, Z_i = parts(q, k_t, v_t)[0], parts(q, k_i, v_i)[0]
    assert float(share["text"]) == pytest.approx(Z_t / (Z_t + Z_i))
    assert float(share["text"] + share["image"]) == pytest.approx(1)


def random_layer(L_t, L_i, seed, d=12, H=3):
    torch.manual_seed(seed)
    layer = MergedAttention(d, ("text", "image"), H).double()
    streams = {
        name: Tokens.all_visible(torch.randn(2, L, d).double())
        for name, L in (("text", L_t), ("image", L_i))
    }
    return layer, streams


@settings(deadline=None, max_examples=25)
@given(lengths, seeds)
def test_4_3_mixture(L, seed):
    layer, streams = random_layer(*L, seed)
    text = streams["text"]

    def alone(m):
        q = split_heads(layer.W_q(text.value), 3)
        k, v = (
            split_heads(W[m](streams[m].value), 3) for W in (layer.W_k, layer.W_v)
        )  # fmt: skip
        return attention(q, k, v)

    alpha = modality_share(layer.weights(text, streams))["text"].unsqueeze(-1)
    mixture = alpha * alone("text") + (1 - alpha) * alone("image")
    torch.testing.assert_close(layer.W_o(join_heads(mixture)), layer(text, streams))


@settings(deadline=None, max_examples=25)
@given(lengths, seeds)
def test_4_4_equal_scores(L, seed):
    layer, streams = random_layer(*L, seed)
    nn.init.zeros_(layer.W_q.weight)
    nn.init.zeros_(layer.W_q.bias)
    share = modality_share(layer.weights(streams["text"], streams))["text"]
    torch.testing.assert_close(share, torch.full_like(share, L[0] / sum(L)))


@pytest.mark.filterwarnings("ignore:expected two or more keys")
@pytest.mark.parametrize("keys, learns", [(1, False), (2, True)])
def test_4_5_one_key(keys, learns):
    torch.manual_seed(0)
    layer = CrossAttention(16, ("text", "image"), 4).double()
    text, picture = (Tokens.all_visible(torch.randn(2, n, 16).double()) for n in (5, keys))
    weights = layer.attend.weights(text.value, picture)
    layer(text, {"text": text, "image": picture}).square().sum().backward()
    gradients = [layer.attend.W_q.weight.grad, layer.attend.W_k.weight.grad]
    if learns:
        assert all(g.abs().max() > 1e-3 for g in gradients)
    else:
        assert (weights == 1).all()
        # zero but for the rounding of a difference of equal sums
        assert all(g.abs().max() < 1e-12 for g in gradients)
    assert layer.attend.W_v.weight.grad.abs().max() > 1e-3


def test_4_5_the_comparison_of_gradients_finds_one_fault_only():
    """With words among the keys it passes, although the picture is empty."""
    torch.manual_seed(3)
    words = torch.randn(1, 5, 32).double()
    keys = torch.cat([words, torch.zeros(1, 4, 32).double()], 1)
    attend = nn.MultiheadAttention(32, 4, batch_first=True).double()
    attend(words, keys, keys)[0].square().mean().backward()
    of_q, _, of_v = attend.in_proj_weight.grad.chunk(3)
    assert of_q.norm() > 0.1 * of_v.norm()


def test_a_closed_gate_passes_nothing_back():
    """So the comparison of gradients comes after one step of training."""
    torch.manual_seed(0)
    layer = GatedCrossAttention(16, ("text", "image"), 4).double()
    text, picture = (Tokens.all_visible(torch.randn(2, 5, 16).double()) for _ in range(2))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    attend, found = layer.cross.attend, []
    for _ in range(2):
        optimizer.zero_grad()
        (layer(text, {"text": text, "image": picture}) - 1).square().sum().backward()
        found.append([float(m.weight.grad.norm()) for m in (attend.W_q, attend.W_v)])
        optimizer.step()
    assert found[0] == [0, 0] and min(found[1]) > 1e-6


def table_of(fusion, seed=0, T=3, P=4, d=8):
    """The logit of `fusion` with a linear head for T texts and P pictures, [T, P]."""
    torch.manual_seed(seed)
    layer, head = fusion.double(), nn.Linear(d, 1).double()
    text, picture = torch.randn(T, 2, d).double(), torch.randn(P, 5, d).double()
    q = Tokens.all_visible(text.repeat_interleave(P, 0))
    streams = {"text": q, "image": Tokens.all_visible(picture.repeat(T, 1, 1))}
    with torch.no_grad():
        return head((q.value + layer(q, streams))[:, 0]).reshape(T, P)


def test_4_6_sum():
    table = table_of(LateFusion(8, ("text", "image")))
    torch.testing.assert_close(additive_part(table), table)
    other = table_of(MergedAttention(8, ("text", "image")))
    assert (additive_part(other) - other).abs().max() > 1e-4


def test_4_7_exchange():
    table = table_of(LateFusion(8, ("text", "image")))
    for t, u in product(range(3), repeat=2):
        for i, j in product(range(4), repeat=2):
            assert float(table[t, i] + table[u, j]) == pytest.approx(
                float(table[t, j] + table[u, i]), abs=1e-12
            )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-8, 8), min_size=4, max_size=4))
def test_4_10_xor(parts_of_sum):
    f, g = torch.tensor(parts_of_sum, dtype=torch.float64).reshape(2, 2)
    logit = (f[:, None] + g).flatten()
    logits = torch.stack([torch.zeros_like(logit), logit], -1)
    assert float(expected_loss(logits, TASKS["xor"])) >= math.log(2) - 1e-12
    said = (logit > 0).long() == TASKS["xor"].answer.flatten()
    assert said.double().mean() <= 0.75
    assert limit(TASKS["xor"], "sum").loss == pytest.approx(math.log(2))


def test_the_matrix_and_not_the_sum_stops_late_on_reference():
    """Free numbers f [T] and g [P] come down to the limit of the means; a line in n does not."""
    task = TASKS["reference"]
    f, g = (torch.zeros(shape).double().requires_grad_() for shape in ((4, 1), (1, 16)))
    descent = torch.optim.LBFGS([f, g], max_iter=500, line_search_fn="strong_wolfe")
    sign = 2 * task.answer.double() - 1

    def loss():
        descent.zero_grad()
        value = (task.weight * nn.functional.softplus(-sign * (f + g))).sum()
        value.backward()
        return value

    descent.step(loss)
    means = limit(task, "means").loss
    assert float(loss().detach()) == pytest.approx(means, abs=1e-3)
    assert limit(task, "sum").loss > means + 0.01


def test_4_11_nearest_sum():
    torch.manual_seed(0)
    table = torch.randn(3, 5).double()
    # least squares over all f [3] and g [5], by the normal equations
    design = torch.cat([torch.eye(3).repeat_interleave(5, 0), torch.eye(5).repeat(3, 1)], 1)
    fit = torch.linalg.lstsq(design.double(), table.flatten()[:, None], driver="gelsd").solution
    nearest = (design.double() @ fit).reshape(3, 5)
    torch.testing.assert_close(additive_part(table), nearest)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), seeds)
def test_4_8_linear_mean(L, seed):
    torch.manual_seed(seed)
    linear, bent = nn.Linear(4, 3).double(), nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    cells = torch.randn(2, L + 1, 4).double()
    mean = Tokens.all_visible(cells).mean()
    torch.testing.assert_close(Tokens.all_visible(linear(cells)).mean(), linear(mean))
    if seed == 0:  # the control: with a nonlinear map it does not hold
        assert (Tokens.all_visible(bent(cells)).mean() - bent(mean)).abs().max() > 1e-3


@pytest.mark.parametrize("K", range(1, 6))
def test_4_9_means(K):
    """By brute force: for each picture the best answer that only knows its number of ones."""
    right = 0
    for picture in product((0, 1), repeat=K):
        n = sum(picture)
        guess = int(2 * n > K)
        right += sum(value == guess for value in picture)
    bound = sum(math.comb(K, n) * max(n, K - n) for n in range(K + 1)) / 2**K / K
    assert right / (K * 2**K) == pytest.approx(bound)
    assert limit(reference(K), "means").accuracy == pytest.approx(bound)
    # the least loss: to each picture, whatever is asked, the share of its ones as probability
    paid = 0.0
    for picture in product((0, 1), repeat=K):
        p = sum(picture) / K
        paid -= sum(math.log(p if value else 1 - p) for value in picture) / K / 2**K
    assert limit(reference(K), "means").loss == pytest.approx(paid, abs=1e-9)
    if K == 4:
        assert f"{paid:.3f}" == "0.541"
    assert EXERCISES["4.5"].right(K) == pytest.approx(bound)
    # exercise 4.5, by brute force: ones with probability p, the best answer for each number of them
    for p in (0.2, 0.9):
        score = 0.0
        for picture in product((0, 1), repeat=K):
            n = sum(picture)
            score += p**n * (1 - p) ** (K - n) * sum(v == int(2 * n > K) for v in picture) / K
        assert EXERCISES["4.5"].right(K, p) == pytest.approx(score)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), seeds)
def test_4_12_width(K, seed):
    """All 2^K pictures right ⟺ strictly diagonally dominant ⟹ of rank K."""
    random = torch.Generator().manual_seed(seed)
    M = torch.randn(K, K, generator=random, dtype=torch.float64) + 1.5 * torch.eye(K)
    c = 0.3 * torch.randn(K, generator=random, dtype=torch.float64)
    s = torch.tensor(list(product((-1.0, 1.0), repeat=K)), dtype=torch.float64)
    all_right = bool((s * (s @ M.T + c) > 0).all())
    diagonal = M.diagonal()
    rest = M.abs().sum(1) - diagonal.abs()
    dominant = bool((diagonal > rest + c.abs()).all())
    assert all_right == dominant
    if dominant:
        assert torch.linalg.matrix_rank(M) == K


def test_4_12_a_narrow_sum_cannot():
    """Three vectors of width two: no readout of the third value exists, by linear programming."""
    K, d = 3, 2
    u = torch.randn(K, d, generator=torch.Generator().manual_seed(0)).double()
    s = torch.tensor(list(product((-1.0, 1.0), repeat=K))).double()

    def readable(question, vectors):
        # is there (a, c) with s_k (a · Σ_j s_j u_j + c) ≥ 1 on all pictures?
        sums = torch.cat([s @ vectors, torch.ones(len(s), 1).double()], 1)
        constraint = -(s[:, question, None] * sums).numpy()
        width = sums.shape[1]
        found = linprog([0] * width, constraint, [-1] * len(s), bounds=[(None, None)] * width)
        return found.status == 0

    assert not all(readable(k, u) for k in range(K))
    assert all(readable(k, torch.eye(K).double()) for k in range(K))


def test_4_11_of_three_modalities():
    torch.manual_seed(0)
    f, g, a = (torch.randn(n).double() for n in (2, 3, 4))
    table = f[:, None, None] + g[:, None] + a
    right = EXERCISES["4.8"].right
    torch.testing.assert_close(right(table), table)
    other = torch.randn(2, 3, 4).double()
    left = other - right(other)  # orthogonal to every sum
    for axes in ((0, 1), (0, 2), (1, 2)):
        torch.testing.assert_close(left.sum(axes), torch.zeros_like(left.sum(axes)))


# --- the record -----------------------------------------------------------------------------------


def test_record_is_of_these_tasks_and_rows():
    assert RESULT["data"] == {name: task.digest() for name, task in TASKS.items()}
    for name, row in TABLE.ROWS.items():
        kept = dict(RESULT["rows"][name])
        assert kept.pop("parameters") == TABLE.parameters(row.fusion, row.d)
        assert kept == json.loads(json.dumps(row._asdict()))


def test_predictions_in_the_record_are_what_theory_computes():
    for row in ("late", "cross_one_key", "bilinear", "concat", "merged"):
        for name, task in TASKS.items():
            kept = RESULT["cells"][row][name]["prediction"]
            assert kept == pytest.approx(TABLE.prediction(TABLE.ROWS[row], task), abs=1e-5)


@pytest.mark.filterwarnings("ignore:expected two or more keys")
@pytest.mark.parametrize(
    "row, task", [("late", "xor"), ("cross_one_key", "xor"), ("merged", "reference"),
                  ("bottleneck", "reference"), ("picture_alone", "image_bit")]
)  # fmt: skip
def test_first_losses_of_the_record_come_again(row, task):
    """One seed trained alone, without vmap: the seeds of the record did not touch each other."""
    spec, seed = TABLE.ROWS[row], 2
    torch.manual_seed(seed)
    model = SymbolicModel(TASKS[task], spec.fusion, spec.d, TABLE.HEADS)
    optimizer = torch.optim.Adam(model.parameters(), lr=TABLE.RATE)
    seen, losses = TABLE.inputs(spec, TASKS[task]), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = expected_loss(model(*seen), TASKS[task])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(RESULT["cells"][row][task]["first_losses"][seed], abs=1e-4)


def test_verdicts_follow_from_the_losses():
    assert TABLE.verdict([0.70, 0.71], 0.6931) == "agrees"
    assert TABLE.verdict([0.70, 0.80], 0.6931) == "falls short"
    assert TABLE.verdict([0.70, 0.69], 0.6931) == "refutes theory"
    counted = dict.fromkeys(RESULT["agreement"], 0)
    for tasks in RESULT["cells"].values():
        for cell in tasks.values():
            verdict = TABLE.verdict(cell["loss"], cell["prediction"]["loss"])
            assert verdict == cell["verdict"]
            counted[verdict] += 1
    assert counted == RESULT["agreement"]


def test_a_row_with_one_side_cannot_see_the_other():
    texts, pictures = TABLE.inputs(TABLE.ROWS["picture_alone"], TASKS["reference"])
    assert not texts.mask.any() and not texts.value.any()
    assert pictures.mask.all()
    texts, pictures = TABLE.inputs(TABLE.ROWS["text_alone"], TASKS["reference"])
    assert texts.mask.all() and not pictures.mask.any()


TURNS = [(name, n) for name in ("4.A", "4.B", "4.C") for n in range(len(EXERCISES[name].wrong))]


@pytest.mark.parametrize("name, n", TURNS)
def test_each_wrong_turn_is_named(name, n, capsys):
    mistake, sentence = EXERCISES[name].wrong[n]
    check(name, mistake)
    assert capsys.readouterr().out.strip().endswith(f"not yet. {sentence}")
