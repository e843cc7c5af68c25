"""Attention: chapter 03. One function and one rule for masks, used by all we write."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.tokens import Tokens, is_whole


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, eq. (3.4): softmax(q kᵀ / √d_k) v.

    q [B, H, L_q, d_k], k [B, H, L_k, d_k], v [B, H, L_k, d_v]; mask [B, 1, L_q or 1, L_k], True
    where a key may be attended. Returns [B, H, L_q, d_v]; a query that may attend to nothing gets
    zeros, and zero gradient (PyTorch's layer gives NaN on some of its paths). Masked keys and
    values must be finite: `Tokens.visible` sees to it wherever `mmlib` calls this.

    Raises UserError where the widths of q and k, or the lengths of k and v, differ, and where the
    mask is not boolean or does not fit: a mask of one key is not stretched over all.
    Source: Vaswani et al. (2017), eq. 1.
    """
    _check(q, k, mask)
    if k.shape[-2] != v.shape[-2]:
        raise expected(
            f"{k.shape[-2]} values, one a key", v.shape[-2], "pass k and v of one source"
        )
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    # A row without any key would be 0/0. It is opened for the kernel and its result then dropped.
    reachable = mask.any(-1, keepdim=True)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask | ~reachable)
    return out.masked_fill(~reachable, 0.0)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """The weights of `attention`: softmax(q kᵀ / √d_k).

    q [B, H, L_q, d_k], k [B, H, L_k, d_k], mask [B, 1, L_q or 1, L_k] → [B, H, L_q, L_k]. Each row
    sums to 1 and is exactly 0 at a masked key; a row that may attend to nothing is 0.
    `attention_weights(q, k, mask) @ v` equals `attention(q, k, v, mask)`, gradients included.

    Raises UserError where the widths of q and k differ, or the mask does not fit.
    Source: Vaswani et al. (2017), eq. 1.
    """
    _check(q, k, mask)
    # divided before the product: q kᵀ alone can leave the range of float16, which ends at 65,504
    scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-2, -1)
    if mask is None:
        return scores.softmax(-1)
    reachable = mask.any(-1, keepdim=True)
    weights = scores.masked_fill(~(mask | ~reachable), float("-inf")).softmax(-1)
    return weights.masked_fill(~reachable, 0.0)


def attention_to_shared(q: Tensor, sources: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """`attention` to the tokens of several sources under one softmax, none of them repeated.

    q [B, H, L_q, d_k]; each source is k [P, H, L, d_k], v [P, H, L, d_v] and a mask [P, L], True
    where a key may be attended. P divides B, and row b of q belongs to row b // (B / P): the B / P
    texts on one picture are to it one long query. Returns [B, H, L_q, d_v], equal to `attention`
    with every source repeated to B rows and set side by side, gradients included.

    Raises UserError as `attention`, and where P does not divide B.
    Source: the document, sec. 3.2.
    """
    B, H, L_q, d_k = q.shape
    P = math.gcd(B, *(len(k) for k, _, _ in sources))
    if P == B:  # nothing is shared: the fused kernel
        parts = [[repeat_rows(x, B) for x in source] for source in sources]
        ks, vs, masks = (list(column) for column in zip(*parts, strict=True))
        return attention(q, torch.cat(ks, 2), torch.cat(vs, 2), attention_mask(torch.cat(masks, 1)))

    def rows(x: Tensor) -> Tensor:  # [P · c, H, L, d] → [P, H, c, L, d]: c rows to each of P
        return x.unflatten(0, (P, -1)).transpose(1, 2)

    q = (rows(q) / d_k**0.5).contiguous()
    scores, reachable = [], torch.zeros(B, dtype=torch.bool, device=q.device)
    for key, _, mask in sources:
        _check(q, key, None)
        reachable = reachable | repeat_rows(mask.any(1), B)
        k = rows(key)
        score = q.view(P, H, k.shape[2], -1, d_k) @ k.transpose(-2, -1)
        # the least number, not −∞: a row without any key would be NaN before it is dropped below
        score = score.masked_fill(~rows(attention_mask(mask)), torch.finfo(score.dtype).min)
        scores.append(score.view(*q.shape[:-1], -1))
    weights = torch.cat(scores, -1).softmax(-1).split([s.shape[-1] for s in scores], -1)
    out = q.new_zeros(())
    for weight, (_, value, _) in zip(weights, sources, strict=True):
        v = rows(value)
        part = weight.reshape(P, H, v.shape[2], -1, v.shape[3]) @ v
        out = out + part.view(*q.shape[:-1], -1)
    out = out.permute(0, 2, 3, 1, 4).flatten(0, 1).transpose(1, 2)
    return out.masked_fill(~reachable[:, None, None, None], 0.0)


def _check(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
    if q.shape[-1] != k.shape[-1]:
        raise expected(
            f"keys as wide as the queries, {q.shape[-1]}", k.shape[-1], "project both to one d_k"
        )
    if mask is None:
        return
    *rows, L_q, L_k = *q.shape[:-1], k.shape[-2]
    fits = mask.dim() == q.dim() and mask.shape[-1] == L_k and mask.shape[-2] in (1, L_q)
    if mask.dtype != torch.bool or not fits or any(
        n not in (1, m) for n, m in zip(mask.shape, rows, strict=False)
    ):  # fmt: skip
        raise expected(
            f"a boolean mask that fits {[*rows, L_q, L_k]}",
            f"{mask.dtype} {list(mask.shape)}",
            "build it with attention_mask, from one True or False a key",
        )


def attention_mask(
    mask: Tensor, block: Tensor | None = None, queries: Tensor | None = None
) -> Tensor:
    """Who may look at whom: query i sees key j iff mask[j] and block[j] ≤ queries[i].

    mask [B, L_k], True at real tokens → [B, 1, 1, L_k], padding alone. With block [B or 1, L_k],
    which numbers the keys in the order in which they may be seen, and queries [B or 1, L_q], the
    numbers of those who ask → [B, 1, L_q, L_k]; where they are left out keys and queries are the
    same tokens → [B, 1, L_k, L_k]. Causal: block = 0, 1, 2, …; prefix: 0 on the prefix, then 1, 2,
    …; a cached decode: the keys' numbers in block, those of the few new tokens in queries. Padding
    is applied last, so no block can undo it.

    Raises UserError where the mask is not boolean, numbers are not whole, or shapes do not fit.
    Source: the cumulative-sum masks of big_vision (Beyer et al., 2022), `make_attn_mask`.
    """
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise expected(
            "a boolean mask [B, L]", f"{mask.dtype} {list(mask.shape)}", "one True or False a token"
        )
    visible = mask[:, None, None, :]
    if block is None:
        return visible
    queries = block if queries is None else queries
    for numbers, L in ((block, mask.shape[1]), (queries, queries.shape[-1])):
        if not is_whole(numbers) or numbers.shape not in ((len(mask), L), (1, L)):
            raise expected(
                f"whole block numbers of shape {[len(mask), L]}",
                f"{numbers.dtype} {list(numbers.shape)}",
                "number each token of each row",
            )
    return (block[:, None, None, :] <= queries[:, None, :, None]) & visible


def check_heads(d: int, H: int) -> None:
    """Raises UserError where H heads cannot divide the width d."""
    if H < 1 or d < 1 or d % H:
        raise expected(f"a number of heads that divides the width {d}", H, "change H or d")


def split_heads(x: Tensor, H: int) -> Tensor:
    """x [B, L, d] → [B, H, L, d_k] with d_k = d / H.

    Raises UserError where H does not divide d. Source: Vaswani et al. (2017), sec. 3.2.2.
    """
    check_heads(x.shape[-1], H)
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """x [B, H, L, d_k] → [B, L, d], the inverse of `split_heads`.

    Source: Vaswani et al. (2017), sec. 3.2.2.
    """
    return x.transpose(1, 2).flatten(2)


def repeat_rows(x: Tensor, B: int) -> Tensor:
    """Repeat each of P rows B / P times: B questions on P pictures share what is per picture.

    x [P, …] → [B, …]; row b of the result is row b // (B / P) of x.
    Raises UserError where B is not a multiple of P.
    """
    P = x.shape[0]
    if P == B:
        return x
    if P == 0 or B % P:
        raise expected(
            f"a number of rows that divides the batch {B}", P, "give each row as many queries"
        )
    return x.repeat_interleave(B // P, 0)


class KeyValueCache:
    """What one attention layer has read: keys and values [B, H, L, d_k], padding, block numbers.

    Begins empty. A layer that is given one appends the keys of its call and attends to all of them,
    so each token is projected once. One a layer and a batch; take another for another prompt.
    A prompt may come in several calls where it is causal; a prefix whose tokens all see each other
    comes in one, for a call sees nothing of the next. Gradients pass through it while they are
    recorded: decode under `torch.no_grad()`.

    Source: Shazeer (2019), sec. 2.3, incremental attention.
    """

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self.mask: Tensor | None = None
        self.block: Tensor | None = None

    @property
    def length(self) -> int:
        """How many tokens it holds, padding included."""
        return 0 if self.mask is None else self.mask.shape[1]

    def append(
        self, k: Tensor, v: Tensor, mask: Tensor, block: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All keys [B, H, L_k, d_k], values, padding and block numbers, these included.

        k [B, H, L, d_k], v [B, H, L, d_k], mask [B, L] and block [B, L] are of the new tokens.
        Where only some calls gave block numbers the others' are 0, as in `Tokens.concatenate`.
        Raises UserError where the batch, the heads or the width are others than before.
        """
        if self.k is None or self.v is None or self.mask is None:
            self.k, self.v, self.mask, self.block = k, v, mask, block
            return k, v, mask, block
        B, H, _, d_k = self.k.shape
        if (k.shape[0], k.shape[1], k.shape[3]) != (B, H, d_k):
            raise expected(
                f"keys of shape {[B, H, 'L', d_k]}, as in the cache",
                list(k.shape),
                "keep one cache a layer and a batch",
            )
        if self.block is not None or block is not None:
            old = torch.zeros_like(self.mask).long() if self.block is None else self.block
            new = torch.zeros_like(mask).long() if block is None else block
            self.block = torch.cat([old, new], 1)
        self.k, self.v = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2)
        self.mask = torch.cat([self.mask, mask], 1)
        return self.k, self.v, self.mask, self.block


class MultiHeadAttention(nn.Module):
    """H attentions side by side: concat(head_1 … head_H) W_o.

    Each is head = attention(x W_q, y W_k, y W_v) in its own d_k of the d columns.

    Width d, heads H, d_k = d / H. The same weights give the same output as
    `torch.nn.MultiheadAttention(d, H, batch_first=True)`.

    Raises UserError where H does not divide d. Source: Vaswani et al. (2017), sec. 3.2.2.
    """

    def __init__(self, d: int, H: int):
        super().__init__()
        check_heads(d, H)
        self.H = H
        self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(d, d) for _ in range(4))

    def forward(
        self,
        query: Tensor,
        key: Tokens,
        mask: Tensor | None = None,
        block: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """query [B, L_q, d] asks key [B, L_k, d]; returns [B, L_q, d].

        block [B, L_q] are the queries' block numbers, where the keys have some (`Tokens.block`);
        mask [B, 1, L_q or 1, L_k] takes away more. Neither can show what the padding of `key`
        hides. With a cache `key` holds the new tokens alone, and mask speaks of all keys, cached
        ones first.

        Raises UserError where keys have block numbers and queries none, or the mask does not fit.
        """
        q, k, v, mask = self._project(query, key, mask, block, cache)
        return self.W_o(join_heads(attention(q, k, v, mask)))

    def weights(
        self, query: Tensor, key: Tokens, mask: Tensor | None = None, block: Tensor | None = None
    ) -> Tensor:
        """What `forward` weighs with: query [B, L_q, d], key [B, L_k, d] → [B, H, L_q, L_k]."""
        q, k, _, mask = self._project(query, key, mask, block)
        return attention_weights(q, k, mask)

    def _project(
        self, query: Tensor, key: Tokens, mask: Tensor | None, block: Tensor | None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        y = key.visible()
        q, k, v = (
            split_heads(W(x), self.H) for W, x in ((self.W_q, query), (self.W_k, y), (self.W_v, y))
        )
        there, numbers = key.mask, key.block
        if cache is not None:
            k, v, there, numbers = cache.append(k, v, there, numbers)
        if numbers is not None and block is None:
            raise expected(
                "block numbers for the queries", "numbers for the keys alone", "pass block=…"
            )
        visible = attention_mask(there, numbers, block)
        if mask is None:
            return q, k, v, visible
        _check(q, k, mask)  # before the two are joined: & would stretch a mask of one key
        return q, k, v, visible & mask
