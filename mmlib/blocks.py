"""The Transformer block: chapter 03. Attention or any fusion, then a feed-forward part."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmlib.attention import KeyValueCache
from mmlib.errors import expected
from mmlib.fusion import Fusion
from mmlib.tokens import Tokens


class TransformerBlock(nn.Module):
    """One layer: x ← x + mixer(x), x ← x + W_2 gelu(W_1 x), with a LayerNorm at each step.

    `mixer` is any fusion of `mmlib.fusion`: merged attention over the text alone makes this a layer
    of BERT, over text and picture a layer of `MultimodalBert`; with block numbers in x
    (`Tokens.block`) it is a layer of a decoder. `norm_first=False` is the layer of the paper and of
    BERT (norm after the sum), True the layer that trains without care.

    d width, hidden width of the feed-forward part 4 d.
    Raises UserError where the mixer has another width, or dropout is no probability.
    Source: Vaswani et al. (2017), sec. 3.1; Xiong et al. (2020) for the place of the norm.
    """

    def __init__(self, mixer: Fusion, d: int, norm_first: bool = True, dropout: float = 0.0):
        super().__init__()
        if mixer.d != d:
            raise expected(f"a mixer of width {d}", mixer.d, "give both one width")
        if not 0 <= dropout < 1:
            raise expected("dropout from 0 to below 1", dropout, "0.1 is usual")
        self.mixer, self.norm_first = mixer, norm_first
        # 1e-12 is BERT's; with PyTorch's 1e-5 its weights would not give its output
        self.norm_mixer, self.norm_mlp = (nn.LayerNorm(d, eps=1e-12) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tokens,
        streams: Mapping[str, Tokens],
        queries: int | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tokens:
        """x [B, L, d] → [B, L, d], or [B, queries, d] where only the first tokens are wanted.

        streams are the other modalities; x itself joins them under the name of the mixer's own
        modality, after the norm where that comes first. With a cache x holds the new tokens alone,
        and streams only what the cache has not read yet. Padding is not read but zeroed.

        Raises UserError where the mixer keeps no cache, or queries is below 1.
        """
        if cache is not None and not self.mixer.cached:
            raise expected(
                "a mixer that keeps a cache", type(self.mixer).__name__, "use MergedAttention"
            )
        asking, streams = self.mixed(x, streams, queries)
        remembered = {} if cache is None else {"cache": cache}
        h = x.value[:, :queries] + self.dropout(self.mixer(asking, streams, **remembered))
        return asking.with_value(asking.with_value(h).through(self._mlp))

    def _mlp(self, h: Tensor) -> Tensor:
        """The second half of the layer, token by token: h [N, d] → [N, d]."""
        if self.norm_first:
            return h + self.dropout(self.mlp(self.norm_mlp(h)))
        h = self.norm_mixer(h)
        return self.norm_mlp(h + self.dropout(self.mlp(h)))

    def mixed(
        self, x: Tokens, streams: Mapping[str, Tokens], queries: int | None = None
    ) -> tuple[Tokens, dict[str, Tokens]]:
        """What `mixer` gets: x [B, L, d] → who asks [B, L or queries, d], and all the streams."""
        if queries is not None and queries < 1:
            raise expected("1 or more queries", queries, "leave it out for all of them")
        y = x.with_value(x.through(self.norm_mixer)) if self.norm_first else x
        return y.first(queries), {**streams, self.mixer.own: y}
