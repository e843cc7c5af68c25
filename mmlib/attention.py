"""Attention: chapter 03. One function and one rule for masks, used by all we write."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.tokens import Tokens


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, eq. (3.1): softmax(q kᵀ / √d_k) v.

    q [B, H, L_q, d_k], k [B, H, L_k, d_k], v [B, H, L_k, d_v]; mask [B, 1, L_q or 1, L_k], True
    where a key may be attended. Returns [B, H, L_q, d_v]; a query that may attend to nothing gets
    zeros, and zero gradient (PyTorch's layer gives NaN on some of its paths). Masked keys and
    values must be finite: `Tokens.visible` sees to it wherever `mmlib` calls this.

    Raises UserError where the widths of q and k, or the lengths of k and v, differ.
    Source: Vaswani et al. (2017), eq. 1.
    """
    _check(q, k)
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

    Raises UserError where the widths of q and k differ. Source: Vaswani et al. (2017), eq. 1.
    """
    _check(q, k)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if mask is None:
        return scores.softmax(-1)
    reachable = mask.any(-1, keepdim=True)
    weights = scores.masked_fill(~(mask | ~reachable), float("-inf")).softmax(-1)
    return weights.masked_fill(~reachable, 0.0)


def _check(q: Tensor, k: Tensor) -> None:
    if q.shape[-1] != k.shape[-1]:
        raise expected(
            f"keys as wide as the queries, {q.shape[-1]}", k.shape[-1], "project both to one d_k"
        )


def attention_mask(mask: Tensor, block: Tensor | None = None) -> Tensor:
    """Who may look at whom: query i sees key j iff mask[j] and block[j] ≤ block[i].

    mask [B, L], True at real tokens → [B, 1, 1, L], padding alone. With block [B, L], which numbers
    the tokens in the order in which they may be seen, → [B, 1, L, L]. Causal: block = 0, 1, 2, …;
    prefix: 0 on the prefix, then 1, 2, …. Padding is applied last, so no block can undo it.

    Source: the cumulative-sum masks of big_vision (Beyer et al., 2022), `make_attn_mask`.
    """
    visible = mask[:, None, None, :]
    if block is None:
        return visible
    return (block[:, None, None, :] <= block[:, None, :, None]) & visible


def split_heads(x: Tensor, H: int) -> Tensor:
    """x [B, L, d] → [B, H, L, d_k] with d_k = d / H. Source: Vaswani et al. (2017), sec. 3.2.2."""
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
    if B % P:
        raise expected(
            f"a number of rows that divides the batch {B}", P, "give each picture as many texts"
        )
    return x.repeat_interleave(B // P, 0)


class MultiHeadAttention(nn.Module):
    """H attentions side by side: concat(head_1 … head_H) W_o.

    Each is head = attention(x W_q, y W_k, y W_v) in its own d_k of the d columns.

    Width d, heads H, d_k = d / H. The same weights give the same output as
    `torch.nn.MultiheadAttention(d, H, batch_first=True)`.

    Raises UserError where H does not divide d. Source: Vaswani et al. (2017), sec. 3.2.2.
    """

    def __init__(self, d: int, H: int):
        super().__init__()
        if d % H:
            raise expected(f"a number of heads that divides the width {d}", H, "change H or d")
        self.H = H
        self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, query: Tensor, key: Tokens, mask: Tensor | None = None) -> Tensor:
        """query [B, L_q, d] asks key [B, L_k, d]; returns [B, L_q, d].

        mask [B, 1, L_q, L_k] replaces the padding mask of `key` (causal and prefix attention).
        """
        q, k, v, mask = self._project(query, key, mask)
        return self.W_o(join_heads(attention(q, k, v, mask)))

    def weights(self, query: Tensor, key: Tokens, mask: Tensor | None = None) -> Tensor:
        """What `forward` weighs with: query [B, L_q, d], key [B, L_k, d] → [B, H, L_q, L_k]."""
        q, k, _, mask = self._project(query, key, mask)
        return attention_weights(q, k, mask)

    def _project(
        self, query: Tensor, key: Tokens, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = key.visible()
        q, k, v = (
            split_heads(W(x), self.H) for W, x in ((self.W_q, query), (self.W_k, y), (self.W_v, y))
        )
        return q, k, v, attention_mask(key.mask) if mask is None else mask
