"""Losses: by hand and by loops, what bears no loss, pieces of a batch, pairs, two processes."""

import math
import multiprocessing

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import error_line, normal, seeds
from torch import nn

from mmlib.errors import UserError
from mmlib.losses import (
    LOG_SCALE,
    MOST_LOG_SCALE,
    SIGLIP_BIAS,
    SIGLIP_LOG_SCALE,
    WHOLE_BATCH,
    all_gather,
    check_labels,
    clamp_log_scale,
    corrupt,
    cross_entropy,
    hard_negatives,
    info_nce,
    label_weight,
    masked_lm,
    matching,
    prefix_lm,
    siglip,
    similarity,
)


def test_cross_entropy_by_hand():
    """Two labels with known probabilities 1/2 and 1/8, one that does not count."""
    logits = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [1 / 8, 5 / 8, 2 / 8], [0.7, 0.2, 0.1]]).log()
    total, divisor = cross_entropy(logits, torch.tensor([0, 0, -100]))
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
    target[target < 0] = -100
    target[0] = 0  # a mean needs a label
    weight = normal(seed + 1, C, dtype=torch.float32).abs() + 0.1 if weighted else None
    total, divisor = cross_entropy(logits, target, weight)
    mean = F.cross_entropy(logits, target, weight)  # its ignore_index is ours
    assert (total / divisor).item() == pytest.approx(mean.item(), rel=1e-5)


@pytest.mark.parametrize("C", [2, 3, 33])
def test_a_model_that_knows_nothing_starts_at_ln_C(C):
    total, divisor = cross_entropy(torch.zeros(4, C), torch.arange(4) % C)
    assert (total / divisor).item() == pytest.approx(math.log(C), rel=1e-6)


def test_an_ignored_label_leaves_no_gradient():
    logits = normal(0, 3, 4).requires_grad_()
    cross_entropy(logits, torch.tensor([1, -100, 2]))[0].backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(-1) > 0).tolist() == [True, False, True]


def test_without_labels_sum_and_divisor_are_zero():
    total, divisor = cross_entropy(normal(0, 2, 3), torch.tensor([-100, -100]))
    assert (total.item(), divisor.item()) == (0, 0)


def test_the_loss_is_computed_in_float32():
    """In bfloat16 the sum over a thousand labels would keep three digits."""
    logits = normal(0, 1000, 5, dtype=torch.bfloat16)
    target = torch.arange(1000) % 5
    total, _ = cross_entropy(logits, target)
    assert total.dtype == torch.float32
    exact = F.cross_entropy(logits.double(), target, reduction="sum")
    assert total.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("label", [-1, 3, 700])
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


def test_logits_and_labels_that_do_not_match_are_one_line():
    for logits, target in (
        (torch.zeros(3, 3), torch.zeros(2).long()),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4).long()),  # PyTorch would take classes second
    ):
        with pytest.raises(UserError) as error:
            cross_entropy(logits, target)
        error_line(error, "logits [N, C] and target [N]", str(list(logits.shape)))


def test_on_an_accelerator_no_loss_waits_for_a_value():
    """A tensor on "meta" has no values: whoever looks at one, or counts by it, fails."""
    logits, target = torch.zeros(4, 3, device="meta"), torch.zeros(4, device="meta").long()
    vectors, scalar = torch.zeros(4, 8, device="meta"), torch.zeros((), device="meta")
    scores = similarity(vectors, vectors, scalar)
    for total, divisor in (
        cross_entropy(logits, target),
        cross_entropy(logits, target, torch.ones(3, device="meta")),
        info_nce(scores),
        info_nce(scores, target),
        siglip(vectors, vectors, scalar, scalar, target),
        siglip(vectors, vectors, scalar, scalar, chunk=2),
        matching(logits[:, 0], logits[:, 1]),
    ):
        assert total.shape == divisor.shape == () and total.device.type == "meta"
        assert total.dtype == divisor.dtype == torch.float32 and divisor.device.type == "meta"


# --- words ----------------------------------------------------------------------------------------


def answers(seed, B=3, L=7, V=5):
    random = torch.Generator().manual_seed(seed)
    answer = torch.rand(B, L, generator=random) < 0.5
    answer[:, 0], answer[0, -1] = False, True
    return normal(seed, B, L, V), torch.randint(V, (B, L), generator=random), answer


@given(seed=seeds)
def test_prefix_lm_is_the_loop_over_answer_tokens(seed):
    logits, tokens, answer = answers(seed)
    by_hand, count = 0.0, 0
    for b in range(3):
        for n in range(7):
            if answer[b, n]:
                terms = [math.exp(z) for z in logits[b, n - 1].tolist()]
                by_hand -= math.log(terms[tokens[b, n]] / sum(terms))
                count += 1
    total, divisor = prefix_lm(logits, tokens, answer)
    assert total.item() == pytest.approx(by_hand, rel=1e-5)
    assert divisor.item() == count


def test_prefix_lm_is_the_probability_of_the_whole_answer():
    """Three answer tokens of probability 1/2, 1/4 and 1/8: the answer has 1/64."""
    tokens = torch.tensor([[0, 0, 1, 1, 1, 0]])
    p = torch.tensor([0.9, 1 / 2, 1 / 4, 1 / 8, 0.3, 0.3])
    logits = torch.stack([1 - p, p], -1).log()[None]
    answer = torch.tensor([[False, False, True, True, True, False]])
    total, _ = prefix_lm(logits, tokens, answer)
    assert total.item() == pytest.approx(math.log(64), rel=1e-5)


def test_no_loss_at_question_or_padding():
    logits, tokens, answer = answers(0)
    other = torch.where(answer, tokens, (tokens + 1) % 5)
    assert prefix_lm(logits, tokens, answer)[0] == prefix_lm(logits, other, answer)[0]
    logits.requires_grad_()
    prefix_lm(logits, tokens, answer)[0].backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(-1) > 0
    assert torch.equal(touched[:, :-1], answer[:, 1:]) and not touched[:, -1].any()


def test_an_answer_at_the_first_position_is_one_line():
    logits, tokens, answer = answers(0)
    answer[1, 0] = True
    with pytest.raises(UserError) as error:
        prefix_lm(logits, tokens, answer)
    error_line(error, "a token before the answer", "position 0")
    with pytest.raises(UserError) as error:
        prefix_lm(logits[:, 1:], tokens, answer)
    error_line(error, "[3, 7]", "[3, 6]")


@given(seed=seeds)
def test_head_at_labeled_positions_is_the_full_head(seed):
    """Value, and gradient of states and head."""
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, 9, (2, 5), generator=random)
    target[target < 0] = -100
    states = normal(seed, 2, 5, 4, dtype=torch.float32)
    weight = normal(seed + 1, 9, 4, dtype=torch.float32)
    results = []
    for full in (False, True):
        s, w = (x.clone().requires_grad_() for x in (states, weight))
        if full:
            loss = F.cross_entropy((s @ w.T).flatten(0, 1), target.flatten(), reduction="sum")
        else:
            loss = masked_lm(s, lambda h, w=w: h @ w.T, target)[0]
        loss.backward()
        results.append((loss.detach(), s.grad, w.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_head_sees_the_labeled_positions_only():
    rows = []
    target = torch.tensor([[-100, 3, -100], [0, -100, -100]])
    _, divisor = masked_lm(
        torch.zeros(2, 3, 4), lambda h: rows.append(len(h)) or torch.zeros(len(h), 7), target
    )
    assert rows == [2] and divisor.item() == 2
    total, divisor = masked_lm(torch.zeros(1, 3, 4), nn.Linear(4, 7), torch.full((1, 3), -100))
    assert (total.item(), divisor.item()) == (0, 0)


def test_pieces_of_a_batch_give_its_gradient():
    """Invariant 31: k pieces, divided once, are one big batch."""
    logits, tokens, answer = answers(3, B=6)
    states, head = normal(5, 6, 7, 4, dtype=torch.float32), nn.Linear(4, 5)
    target = torch.where(answer, tokens, -100)
    losses = {
        "prefix": lambda rows: prefix_lm(head(states[rows]), tokens[rows], answer[rows]),
        "masked": lambda rows: masked_lm(states[rows], head, target[rows]),
    }
    for loss in losses.values():
        head.zero_grad()
        total, divisor = loss(slice(None))
        (total / divisor).backward()
        whole = head.weight.grad.clone()
        head.zero_grad()
        for start in range(0, 6, 2):
            (loss(slice(start, start + 2))[0] / divisor).backward()
        torch.testing.assert_close(head.weight.grad, whole)


WORDS = torch.arange(4, 50)


def corrupted(N=200_000, seed=0):
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 50, (N // 100, 100), generator=random)
    may = torch.rand(tokens.shape, generator=random) < 0.7
    return tokens, may, *corrupt(tokens, may, 3, WORDS, random)


def test_of_the_chosen_eighty_in_a_hundred_are_masked_ten_random_ten_kept():
    tokens, may, read, target = corrupted()
    chosen = target != -100
    n = int(may.sum())
    assert float(chosen.sum() / n) == pytest.approx(0.15, abs=5 * math.sqrt(0.15 * 0.85 / n))
    of_chosen, m = read[chosen], int(chosen.sum())
    for share, found in (
        (0.8, of_chosen == 3),
        # a random word is the old one once in W
        (0.1 + 0.1 / 46, of_chosen == tokens[chosen]),
        (0.1 - 0.1 / 46, (of_chosen != 3) & (of_chosen != tokens[chosen])),
    ):
        width = 5 * math.sqrt(share * (1 - share) / m)
        assert float(found.float().mean()) == pytest.approx(share, abs=width)


def test_corruption_keeps_to_what_may_be_chosen():
    tokens, may, read, target = corrupted()
    chosen = target != -100
    assert not (chosen & ~may).any()
    assert torch.equal(read[~chosen], tokens[~chosen])
    assert torch.equal(target[chosen], tokens[chosen])
    drawn = read[chosen & (read != 3) & (read != tokens)]
    assert set(drawn.tolist()) == set(WORDS.tolist())


def test_corruption_comes_again_with_its_generator():
    for a, b in zip(corrupted(1000), corrupted(1000), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(corrupted(1000)[2], corrupted(1000, seed=1)[2])


def test_corruption_is_drawn_where_the_generator_is():
    """A generator on the CPU, tokens elsewhere: one seed, the same words on each device."""
    tokens, words = torch.zeros(2, 3, device="meta").long(), WORDS.to("meta")
    generator, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    read, target = corrupt(tokens, tokens == 0, 3, words, generator)
    assert read.device.type == target.device.type == "meta" and read.shape == (2, 3)
    corrupt(torch.zeros(2, 3).long(), torch.ones(2, 3).bool(), 3, WORDS, other)
    assert torch.equal(generator.get_state(), other.get_state()), "drawn from the generator"


@pytest.mark.parametrize(
    "call, parts",
    [
        # 0 and 1 as an index would pick rows 0 and 1
        (lambda logits, tokens, answer: prefix_lm(logits, tokens, answer.long()), ("`answer`",)),
        (
            lambda logits, tokens, answer: corrupt(
                tokens, answer.long(), 3, WORDS, torch.Generator()
            ),
            ("`may`",),
        ),
        (
            lambda logits, tokens, answer: masked_lm(logits, nn.Identity(), tokens[:, 1:]),
            ("target [B, L] of [3, 7]", "got [3, 6]"),
        ),
    ],
)
def test_words_that_do_not_fit_are_one_line(call, parts):
    with pytest.raises(UserError) as error:
        call(*answers(0))
    error_line(error, *parts)


# --- pairs ----------------------------------------------------------------------------------------


def info_nce_by_loop(scores, ids):
    """Term by term in float64; pairs of one id are no negatives of each other."""
    N, total = len(scores), 0.0
    for table in (scores.double(), scores.double().T):
        for n in range(N):
            kept = [m for m in range(N) if m == n or ids[m] != ids[n]]
            total += (table[n, kept].logsumexp(0) - table[n, n]).item() / 2
    return total


@given(seed=seeds, N=st.integers(1, 7), things=st.integers(1, 7))
def test_info_nce_is_the_loop_over_rows_and_columns(seed, N, things):
    scores = normal(seed, N, N)
    ids = torch.randint(things, (N,), generator=torch.Generator().manual_seed(seed))
    total, pairs = info_nce(scores, ids)
    assert pairs.item() == N
    assert total.item() == pytest.approx(info_nce_by_loop(scores, ids), rel=1e-4, abs=1e-5)
    plain = info_nce(scores)[0].item()
    assert plain == pytest.approx(info_nce_by_loop(scores, range(N)), rel=1e-4, abs=1e-5)


@given(seed=seeds, N=st.integers(1, 6))
def test_info_nce_is_symmetric(seed, N):
    scores = normal(seed, N, N)
    assert info_nce(scores)[0].item() == pytest.approx(info_nce(scores.T)[0].item(), rel=1e-5)


@pytest.mark.parametrize("N", [1, 2, 64])
def test_info_nce_is_ln_N_at_zero_scale(N):
    a, b = normal(0, N, 8), normal(1, N, 8)
    total, pairs = info_nce(similarity(a, b, torch.tensor(float("-inf"))))
    assert (total / pairs).item() == pytest.approx(math.log(N), abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_items_that_occur_k_times_leave_a_floor_of_ln_k_and_ids_take_it_away(k):
    same = torch.eye(6).repeat_interleave(k, 0)  # six things, k times each, told apart perfectly
    ids = torch.arange(6).repeat_interleave(k)
    scores = similarity(same, same, torch.tensor(MOST_LOG_SCALE))
    total, pairs = info_nce(scores)
    assert (total / pairs).item() == pytest.approx(math.log(k), abs=1e-5)
    total, pairs = info_nce(scores, ids)
    assert (total / pairs).item() == pytest.approx(0, abs=1e-5)


def test_similarity_is_the_scaled_cosine():
    a, b = normal(0, 3, 5), normal(1, 4, 5)
    scores = similarity(a, b, torch.tensor(math.log(7.0)))
    for n in range(3):
        for m in range(4):
            cosine = float(a[n] @ b[m]) / math.sqrt(float(a[n] @ a[n]) * float(b[m] @ b[m]))
            assert scores[n, m].item() == pytest.approx(7 * cosine, rel=1e-5)
    assert scores.dtype == torch.float32
    assert similarity(100 * a, b, torch.tensor(0.0)).abs().max() <= 1


def test_autocast_does_not_take_pairs_to_half_precision():
    """At scale 100 bfloat16 is off by a third, and so is the exponent."""
    a, b = (normal(seed, 16, 64, dtype=torch.float32).requires_grad_() for seed in (0, 1))
    scale, bias = torch.tensor(MOST_LOG_SCALE), torch.tensor(-1.0)
    plain, expected = similarity(a, b, scale), siglip(a, b, scale, bias)[0]
    clean = torch.autograd.grad(expected, (a, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ b.T).dtype == torch.bfloat16  # it is on
        assert torch.equal(similarity(a, b, scale), plain)
        assert torch.equal(info_nce(similarity(a, b, scale))[0], info_nce(plain)[0])
        for chunk in (None, 4):
            total = siglip(a, b, scale, bias, chunk=chunk)[0]
            assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, right in zip(torch.autograd.grad(total, (a, b)), clean, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def test_the_losses_that_need_the_whole_batch_are_those_whose_pieces_give_another_loss():
    """The sum over two halves, against the whole: equal, or named in WHOLE_BATCH."""
    a, b, target = normal(0, 8, 4).float(), normal(1, 8, 4).float(), torch.arange(8) % 4
    zero, answer = torch.tensor(0.0), (torch.arange(8) % 2 == 1).view(2, 4)
    losses = {
        cross_entropy: lambda n: cross_entropy(a[n], target[n])[0],
        masked_lm: lambda n: masked_lm(a[n], nn.Identity(), target[n])[0],
        matching: lambda n: matching(a[n, 0], b[n, 0])[0],
        prefix_lm: lambda n: prefix_lm(
            a[n].view(-1, 4, 4), target[n].view(-1, 4), answer[: len(a[n]) // 4]
        )[0],
        info_nce: lambda n: info_nce(similarity(a[n], b[n], zero))[0],
        siglip: lambda n: siglip(a[n], b[n], zero, zero)[0],
    }
    for loss, run in losses.items():
        whole, halves = run(slice(0, 8)), run(slice(0, 4)) + run(slice(4, 8))
        assert (loss in WHOLE_BATCH) == (not torch.allclose(whole, halves, rtol=1e-5)), loss
    # negatives are drawn, not summed: a half has fewer to draw from
    assert WHOLE_BATCH - set(losses) == {hard_negatives}


def test_the_scale_begins_at_clips_and_ends_at_a_hundred():
    assert math.exp(LOG_SCALE) == pytest.approx(1 / 0.07)
    scale = torch.tensor(9.0, requires_grad=True)
    clamp_log_scale(scale)
    assert scale.exp().item() == pytest.approx(100, rel=1e-6)
    small = torch.tensor(LOG_SCALE, requires_grad=True)
    clamp_log_scale(small)
    assert small.item() == pytest.approx(LOG_SCALE)
    # at the bound there is still a way back
    similarity(normal(0, 2, 3), normal(1, 2, 3), scale).sum().backward()
    assert scale.grad is not None and scale.grad.abs() > 0


@given(seed=seeds, N=st.integers(1, 6), things=st.integers(1, 6), chunk=st.integers(1, 7))
def test_siglip_in_chunks_is_siglip_is_the_loop(seed, N, things, chunk):
    """Invariant 28, gradients of all four inputs included."""
    ids = torch.randint(things, (N,), generator=torch.Generator().manual_seed(seed))
    inputs = (normal(seed, N, 4), normal(seed + 1, N, 4), torch.tensor(0.7), torch.tensor(-1.5))
    results = []
    for size in (None, chunk):
        leaves = [x.clone().float().requires_grad_() for x in inputs]
        total, pairs = siglip(*leaves, ids, size)
        total.backward()
        results.append((total.detach(), *(x.grad for x in leaves)))
        assert pairs.item() == N
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in inputs[:2])
    by_hand = 0.0
    for n in range(N):
        for m in range(N):
            if n == m or ids[n] != ids[m]:
                z = math.exp(0.7) * float(a[n] @ b[m]) - 1.5
                by_hand += math.log1p(math.exp(-z if n == m else z))
    assert results[0][0].item() == pytest.approx(by_hand, rel=1e-4)


def test_the_bias_of_siglip_takes_the_first_loss_from_hundreds_to_ten():
    """N = 1,024 pairs that know nothing: orthogonal, so that every cosine is 0."""
    a, b = torch.eye(2048)[:1024], torch.eye(2048)[1024:]
    scale = torch.tensor(SIGLIP_LOG_SCALE)
    for bias, expected in (
        (0.0, 1024 * math.log(2)),
        (SIGLIP_BIAS, math.log1p(math.exp(10)) + 1023 * math.log1p(math.exp(-10))),
    ):
        total, pairs = siglip(a, b, scale, torch.tensor(bias), chunk=256)
        assert (total / pairs).item() == pytest.approx(expected, rel=1e-4)


@given(seed=seeds, N=st.integers(2, 8), things=st.integers(2, 8))
def test_a_hard_negative_is_never_a_positive(seed, N, things):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(things, (N,), generator=random)
    ids[:2] = torch.tensor([0, 1])  # each row has a negative
    scores = 50 * torch.eye(N) + 20 * (ids[:, None] == ids)  # positives are the likeliest
    for _ in range(3):
        drawn = hard_negatives(scores, random, ids)
        assert (ids[drawn] != ids).all()
        assert (hard_negatives(scores, random) != torch.arange(N)).all()


def test_hard_negatives_are_drawn_as_their_scores_say():
    scores = torch.tensor([[9.0, math.log(1), math.log(3)], [0, 9, 0], [0, 0, 9]])
    random = torch.Generator().manual_seed(0)
    drawn = torch.stack([hard_negatives(scores, random) for _ in range(1000)])
    assert float((drawn[:, 0] == 2).float().mean()) == pytest.approx(0.75, abs=0.07)
    assert float((drawn[:, 1] == 2).float().mean()) == pytest.approx(0.5, abs=0.08)
    # as hard as can be: the best-scored other one
    assert (hard_negatives(1000 * scores, random)[0] == 2).all()


def test_matching_by_hand():
    total, divisor = matching(torch.tensor([math.log(3)]), torch.tensor([0.0, math.log(1 / 7)]))
    assert total.item() == pytest.approx(math.log(4 / 3) + math.log(2) + math.log(8 / 7))
    assert divisor.item() == 3


def test_scores_in_half_precision_are_added_in_float32():
    scores = 100 * torch.eye(300, dtype=torch.float16)
    assert info_nce(scores)[0].dtype == torch.float32
    logits = torch.full((9,), 30_000.0, dtype=torch.float16)
    assert matching(-logits, logits)[0].isfinite()


@pytest.mark.parametrize(
    "call, parts",
    [
        (lambda: info_nce(torch.zeros(2, 3)), ("columns as rows, 2", "got 3;")),
        (lambda: info_nce(torch.zeros(2, 2), torch.zeros(5)), ("ids", "got 2 and 5;")),
        (
            lambda: siglip(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(()), torch.zeros(())),
            ("columns as rows, 2", "got 4;"),
        ),
        (
            lambda: hard_negatives(torch.zeros(2, 2), torch.Generator(), torch.tensor([7, 7])),
            ("a negative for each row", "row 0"),
        ),
    ],
)
def test_pairs_that_do_not_fit_are_one_line(call, parts):
    with pytest.raises(UserError) as error:
        call()
    error_line(error, *parts)


# --- several processes ----------------------------------------------------------------------------


def contrast(rank, world, store, out):
    """One of `world` processes: losses and gradients of its share of six pairs, the mean saved."""
    torch.manual_seed(0)
    left, right = torch.randn(6, 5), torch.randn(6, 5)
    tower, log_scale = nn.Linear(5, 4), nn.Parameter(torch.tensor(LOG_SCALE))
    if world > 1:
        dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world)
    mine = slice(rank * 6 // world, (rank + 1) * 6 // world)
    a, b = all_gather(tower(left[mine])), all_gather(tower(right[mine]))
    found = {}
    for name, (total, pairs) in (
        ("info_nce", info_nce(similarity(a, b, log_scale))),
        ("siglip", siglip(a, b, log_scale, torch.tensor(-1.0))),
    ):
        leaves = [*tower.parameters(), log_scale]
        gradients = torch.autograd.grad(total / pairs, leaves, retain_graph=True)
        for gradient in gradients if world > 1 else ():
            dist.all_reduce(gradient)
            gradient /= world  # as DistributedDataParallel does
        found[name] = (total.detach(), *gradients)
    if rank == 0:
        torch.save(found, out)


def test_two_processes_give_the_gradient_of_one(tmp_path):
    """Invariant 30: after the mean over processes, not half of it (open_clip, issue 616)."""
    context = multiprocessing.get_context("forkserver")
    # nothing of mmlib: a process has one such server, and the tests of mutants fork from it too
    context.set_forkserver_preload(["torch", "pytest", "hypothesis"])
    arguments = (2, tmp_path / "store", tmp_path / "two")
    ranks = [context.Process(target=contrast, args=(rank, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0, 0]
    contrast(0, 1, None, tmp_path / "one")
    one, two = torch.load(tmp_path / "one"), torch.load(tmp_path / "two")
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            assert a.abs().max() > 1e-4
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_one_process_gathers_nothing():
    x = normal(0, 2, 3)
    assert all_gather(x) is x
