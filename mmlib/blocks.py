"""The Transformer block: chapter 03. Attention or any fusion, then a feed-forward part."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmlib.tokens import Tokens


class TransformerBlock(nn.Module):
    """One layer: x ← x + mix(x), x ← x + W_2 gelu(W_1 x), with a LayerNorm at each step.

    `mix` is any fusion of `mmlib.fusion`: merged attention over the text alone makes this a layer
    of BERT, over text and picture a layer of `MultimodalBert`. `norm_first=False` is the layer of
    the paper and of BERT (norm after the sum), True the layer that trains without care.

    d width, hidden width of the feed-forward part 4 d.
    Source: Vaswani et al. (2017), sec. 3.1; Xiong et al. (2020) for the place of the norm.
    """

    def __init__(self, mix: nn.Module, d: int, norm_first: bool = True, dropout: float = 0.0):
        super().__init__()
        self.mix, self.norm_first = mix, norm_first
        # 1e-12 is BERT's; with PyTorch's 1e-5 its weights would not give its output
        self.norm_mix, self.norm_feed = (nn.LayerNorm(d, eps=1e-12) for _ in range(2))
        self.feed = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tokens,
        streams: Mapping[str, Tokens],
        own: str = "text",
        queries: int | None = None,
    ) -> Tokens:
        """x [B, L, d] → [B, L, d], or [B, queries, d] where only the first tokens are wanted.

        streams are the other modalities; x itself joins them under the name `own`, after the norm
        where that comes first.
        """
        asking, streams = self.mixed(x, streams, own, queries)
        h = x.value[:, :queries] + self.dropout(self.mix(asking, streams))
        if self.norm_first:
            h = h + self.dropout(self.feed(self.norm_feed(h)))
        else:
            h = self.norm_mix(h)
            h = self.norm_feed(h + self.dropout(self.feed(h)))
        return Tokens(h, asking.mask)

    def mixed(
        self,
        x: Tokens,
        streams: Mapping[str, Tokens],
        own: str = "text",
        queries: int | None = None,
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """What `mix` is given: x [B, L, d] → who asks [B, L or queries, d], and all the streams."""
        y = Tokens(self.norm_mix(x.value), x.mask) if self.norm_first else x
        return Tokens(y.value[:, :queries], y.mask[:, :queries]), {**streams, own: y}
