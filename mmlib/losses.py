"""Losses: chapter 05. Each returns (sum, divisor), so that a batch in pieces is divided once.

That is enough where each row's loss is its own. It is not for the losses of WHOLE_BATCH, in which
the other rows are the wrong answers: there the sum over pieces is another loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmlib.errors import expected

IGNORE = -100  # "no label", as in PyTorch and transformers
LOG_SCALE = math.log(1 / 0.07)  # CLIP's first temperature, as the logarithm of its inverse
MOST_LOG_SCALE = math.log(100)
SIGLIP_LOG_SCALE, SIGLIP_BIAS = math.log(10), -10.0  # SigLIP's first scale and bias


def cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """−log p(y | x_t, x_i; θ), eq. (5.2), summed over the labeled positions, and its divisor.

    logits [N, C], target [N] with classes 0 … C − 1, or `ignore_index` where there is no label;
    weight [C] counts a class more or less. Returns (sum, divisor): the sum in nats and the summed
    weight of the labels. They are returned apart because a batch that is computed in pieces must be
    divided once, by the labels of all pieces.

    Raises UserError where a label is not a class. On an accelerator this is not looked at, for the
    answer would have to be waited for until all queued work is done: run `check_labels` on a batch
    before it is moved there. (CUDA's own kernel then stops at such a label, with a worse message.)
    Source: the document, sec. 3.3.
    """
    if logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise expected(
            "logits [N, C] and target [N]",
            f"{list(logits.shape)} and {list(target.shape)}",
            "flatten both to one row a label",
        )
    if target.device.type == "cpu":
        check_labels(target, logits.shape[-1], ignore_index)
    total = F.cross_entropy(
        logits.float(), target, weight=weight, ignore_index=ignore_index, reduction="sum"
    )
    return total, label_weight(target, weight, ignore_index)


def label_weight(
    target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE
) -> Tensor:
    """The divisor of a mean loss: the labels in target [N], each at its class weight [C].

    Raises UserError where a label has no weight; on an accelerator it does not look
    (`cross_entropy`).
    """
    labeled = target != ignore_index
    if weight is None:
        return labeled.sum().float()
    if target.device.type == "cpu":
        check_labels(target, len(weight), ignore_index)
    return torch.where(labeled, weight[target.clamp(0, len(weight) - 1)], 0).sum()


def check_labels(target: Tensor, classes: int, ignore_index: int = IGNORE, where: str = "") -> None:
    """Raises UserError where target [N] holds neither a class, 0 to C − 1, nor `ignore_index`.

    where, as in "batch 3", is named in the message. It waits for the tensor, once: free on a CPU.
    """
    wrong = (target != ignore_index) & ((target < 0) | (target >= classes))
    if wrong.any():
        raise expected(
            f"labels from 0 to {classes - 1}",
            f"{int(target[wrong][0])}{where and f' at {where}'}",
            "number the classes from 0, or build the head with more classes",
        )


# --- words ----------------------------------------------------------------------------------------


def prefix_lm(logits: Tensor, tokens: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """−log p(y | x_t, x_i; θ) of an answer of several words, eq. (5.6): (sum, answer tokens).

    logits [B, L, V] as the model gives them, the row at n − 1 about token n; tokens [B, L];
    answer [B, L], True at the tokens of y. The shift by one happens here and nowhere else. Question
    and padding are False in `answer` and bear no loss.

    Raises UserError where the shapes disagree, `answer` is not boolean, or a sequence begins with
    an answer token: no row of the logits is about it.
    Source: the document, sec. 3.3; Raffel et al. (2020), sec. 3.2.
    """
    if logits.shape[:2] != tokens.shape or tokens.shape != answer.shape:
        raise expected(
            f"logits, tokens and answer of one [B, L], {list(tokens.shape)}",
            f"{list(logits.shape[:2])} and {list(answer.shape)}",
            "pass the logits of the text's positions only",
        )
    _boolean(answer, "answer")
    if answer[:, 0].any():
        raise expected(
            "a token before the answer", "an answer at position 0", "begin with a start token"
        )
    labeled = answer[:, 1:].nonzero(as_tuple=True)  # once: an accelerator is waited for here
    return cross_entropy(logits[:, :-1][labeled], tokens[:, 1:][labeled])


def masked_lm(
    states: Tensor, head: Callable[[Tensor], Tensor], target: Tensor, ignore_index: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """−Σ log p(token | the corrupted rest), eq. (5.11): (sum, labels), the head where it is needed.

    states [B, L, d], target [B, L] with `ignore_index` where there is no label, head [N, d] →
    [N, V]. Value and gradient are those of the head at all B·L positions; its cost is that of the
    labels.

    Raises UserError where states and target differ in [B, L].
    Source: Devlin et al. (2019), sec. 3.1.
    """
    if states.shape[:-1] != target.shape:
        raise expected(
            f"a target [B, L] of {list(states.shape[:-1])}",
            list(target.shape),
            "label each position",
        )
    labeled = (target != ignore_index).nonzero(as_tuple=True)
    return cross_entropy(head(states[labeled]), target[labeled], ignore_index=ignore_index)


def corrupt(
    tokens: Tensor, may: Tensor, mask_token: int, words: Tensor, generator: torch.Generator,
    share: float = 0.15, ignore_index: int = IGNORE,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What masked LM reads and what it must say: (corrupted, target), both [B, L].

    tokens [B, L]; may [B, L], True where a token may be chosen (not padding, [CLS], [SEP]);
    words [W], the tokens that a random one is drawn from. Each token is chosen with probability
    `share`; of the chosen, 80 % become mask_token, 10 % a random word, and 10 % stay. target holds
    the original at the chosen ones and `ignore_index` elsewhere. What is random is drawn where the
    generator is, so that one seed means the same on each device.

    Raises UserError where `may` is not boolean. Source: Devlin et al. (2019), sec. 3.1.
    """
    _boolean(may, "may")

    def uniform() -> Tensor:
        drawn = torch.rand(tokens.shape, generator=generator, device=generator.device)
        return drawn.to(tokens.device)

    chosen = may & (uniform() < share)
    fate = uniform()
    drawn = words[(uniform() * len(words)).long()]
    corrupted = torch.where(chosen & (fate < 0.8), mask_token, tokens)
    corrupted = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), drawn, corrupted)
    return corrupted, torch.where(chosen, tokens, ignore_index)


def _boolean(mask: Tensor, name: str) -> None:
    # as an index 0 and 1 would pick rows
    if mask.dtype != torch.bool:
        raise expected(f"True or False in `{name}`", mask.dtype, "compare it, as in mask != 0")


# --- pairs ----------------------------------------------------------------------------------------


def _float32(x: Tensor) -> AbstractContextManager:
    """Where x is: no autocast, which takes even float32 matrices to half precision."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def similarity(a: Tensor, b: Tensor, log_scale: Tensor) -> Tensor:
    """Scores e^log_scale · cos(a_n, b_m) of a [N, d] and b [M, d]: [N, M] in float32.

    Under autocast as well: bfloat16 keeps three digits, which at scale 100 is an error of a third.
    log_scale is the scalar parameter that begins at LOG_SCALE and is kept below MOST_LOG_SCALE by
    `clamp_log_scale`. Source: Radford et al. (2021), fig. 3.
    """
    with _float32(a):
        a, b = (F.normalize(x.float(), dim=-1) for x in (a, b))
        return log_scale.float().exp() * a @ b.T


@torch.no_grad()
def clamp_log_scale(log_scale: Tensor) -> None:
    """Take the scalar log_scale back to MOST_LOG_SCALE, in place; for after the optimizer's step.

    A clamp inside the loss would have gradient zero beyond the bound, and so no way back.
    Source: Radford et al. (2021), sec. 2.5.
    """
    log_scale.clamp_(max=MOST_LOG_SCALE)


def info_nce(scores: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Which of N belongs to me? Cross-entropy of rows and columns, eq. (5.8): (sum, pairs).

    scores [N, N], the true pairs on the diagonal, as from `similarity`. ids [N] names what pair n
    is about: pairs of one id are no negatives of each other, and are left out of the denominators.
    The sum is over pairs, the mean of both directions.

    The rows of a batch are each other's wrong answers, so the sum over microbatches is another loss
    (fewer negatives): accumulate embeddings, not this (WHOLE_BATCH). Over processes: `all_gather`.

    Raises UserError where the scores are not square.
    Source: van den Oord et al. (2018), eq. 4; in both directions Radford et al. (2021).
    """
    own = _square(len(scores), scores.shape[-1], ids, scores.device)
    scores = scores.float().masked_fill(_repeated(own, own, ids), float("-inf"))
    rows, pairs = cross_entropy(scores, own)
    columns, _ = cross_entropy(scores.T, own)
    return (rows + columns) / 2, pairs


def siglip(
    a: Tensor, b: Tensor, log_scale: Tensor, bias: Tensor,
    ids: Tensor | None = None, chunk: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Does n belong to m? Asked of each of the N² pairs, eq. (5.18): (sum over all, N).

    a, b [N, d]; log_scale and bias are scalar parameters that begin at SIGLIP_LOG_SCALE and
    SIGLIP_BIAS. ids [N] as in `info_nce`: the same thing twice is left out. With `chunk`, so many
    rows of the N × N scores are in memory at a time, and are computed again for the gradient: that
    is the whole loss, while the sum over microbatches is another one (WHOLE_BATCH).

    Raises UserError where there are not as many a as b. Source: Zhai et al. (2023), eq. 1.
    """
    own = _square(len(a), len(b), ids, a.device)

    def part(rows: Tensor, n: Tensor) -> Tensor:
        z = similarity(rows, b, log_scale) + bias
        each = F.softplus(torch.where(n[:, None] == own, -z, z))
        return each.masked_fill(_repeated(n, own, ids), 0.0).sum()

    pairs = torch.full((), float(len(own)), device=a.device)
    if chunk is None:
        return part(a, own), pairs
    pieces = zip(a.split(chunk), own.split(chunk), strict=True)
    total: Any = sum(checkpoint(part, *piece, use_reentrant=False) for piece in pieces)
    return total, pairs


def hard_negatives(scores: Tensor, generator: torch.Generator, ids: Tensor | None = None) -> Tensor:
    """For each row a column that is not its pair, drawn with probability ∝ e^score: [N] indices.

    scores [N, N], of which the diagonal is never drawn, nor a column of the row's id (ids [N]).
    Multiply the scores to make negatives harder; at zero all are equally likely. Drawn where the
    generator is.

    Eq. (5.23). Raises UserError where a row has no negative. Source: Li et al. (2021), sec. 3.2.
    """
    own = _square(len(scores), scores.shape[-1], ids, scores.device)
    positive = (own[:, None] == own) | _repeated(own, own, ids)
    if positive.all(1).any():
        row = int(positive.all(1).nonzero()[0])
        raise expected(
            "a negative for each row", f"none for row {row}", "batch more than one thing"
        )
    chance = scores.detach().float().masked_fill(positive, float("-inf")).softmax(-1)
    drawn = torch.multinomial(chance.to(generator.device), 1, generator=generator)
    return drawn[:, 0].to(scores.device)


def matching(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Do these two belong together? Yes for positive, no for negative, eq. (5.22): (sum, logits).

    positive [N] and negative [M] are a fusion's logits of true pairs and of `hard_negatives`.
    Source: Li et al. (2021), sec. 3.2.
    """
    each = torch.cat([F.softplus(-positive.float()), F.softplus(negative.float())])
    return each.sum(), each.new_full((), len(each))


# Losses whose sum over the pieces of a batch is another loss, for the rows compare with each other:
# a trainer that accumulates must refuse them, or compute them once from all embeddings.
WHOLE_BATCH = frozenset({info_nce, siglip, hard_negatives})


def _square(N: int, M: int, ids: Tensor | None, device: torch.device) -> Tensor:
    """The numbers 0 … N − 1 of N pairs. Raises UserError where rows, columns and ids differ."""
    if N != M or (ids is not None and len(ids) != N):
        raise expected(
            f"as many columns as rows, {N}" + (", and as many ids" if ids is not None else ""),
            f"{M}" + (f" and {len(ids)}" if ids is not None else ""),
            "put the true pairs on the diagonal",
        )
    return torch.arange(N, device=device)


def _repeated(rows: Tensor, own: Tensor, ids: Tensor | None) -> Tensor:
    """[n, N], True where row n and another column are about one thing."""
    other = rows[:, None] != own
    return other & (ids[rows][:, None] == ids) if ids is not None else torch.zeros_like(other)


# --- several processes ----------------------------------------------------------------------------


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # every process computes the whole loss, so its own rows' gradient is complete; the factor
        # undoes the mean over processes that DistributedDataParallel takes
        world = dist.get_world_size()
        return world * gradients[0].chunk(world)[dist.get_rank()]


def all_gather(x: Tensor) -> Tensor:
    """The rows x [n, d] of all W processes, [W·n, d], with gradient; x itself where there is one.

    Give `info_nce` or `siglip` gathered embeddings on each process: after the mean over processes
    that DistributedDataParallel takes, the gradient is that of one process with the whole batch.
    Each process must hold as many rows. On that factor: open_clip, issue 616.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return x
    return _AllGather.apply(x)
