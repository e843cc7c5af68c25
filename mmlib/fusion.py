"""Fusion: chapters 04 and 14. Ten ways for one sequence to take in the others, one signature.

Every method is `fuse(query, streams) -> [B, L_q, d]`: what the query's tokens [B, L_q, d] take from
the streams {modality: Tokens [B, L, d]}. The first modality is the query's own (the text); its
stream is passed with the others. A missing modality is a mask without a True. A stream of P < B
rows is shared: row b of the query belongs to row b // (B / P) of the stream. What stands in masked
positions, of the query or of a stream, changes no result that is read, and no gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmlib.attention import (
    KeyValueCache,
    MultiHeadAttention,
    attention,
    attention_mask,
    attention_to_shared,
    attention_weights,
    check_heads,
    join_heads,
    repeat_rows,
    split_heads,
)
from mmlib.errors import expected
from mmlib.tokens import Tokens

Streams = Mapping[str, Tokens]


class Fusion(nn.Module):
    """What the methods share: the names of the modalities, the width d, the number of heads H.

    `pooled` methods read the mean of each stream [B, d]; the others read its tokens. Methods that
    are not `alone` are made of what the query takes from others, so they need two modalities.
    `ordered` methods keep to block numbers (`Tokens.block`), so they can stand in a decoder; the
    others, by which a word would hear of later words, refuse them. `cached` ones can keep a
    `KeyValueCache`.

    Raises UserError where there are too few modalities, one is named twice, or H does not divide d.
    Source: Baltrušaitis et al. (2019) for the division into early, late and hybrid fusion.
    """

    pooled: ClassVar[bool] = False
    alone: ClassVar[bool] = True
    ordered: ClassVar[bool] = False
    cached: ClassVar[bool] = False

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__()
        check_heads(d, 1 if self.pooled else H)
        self.d, self.H, self.modalities = d, H, tuple(modalities)
        least = 1 if self.alone else 2
        if len(set(self.modalities)) < max(least, len(self.modalities)):
            raise expected(
                f"{least} or more different modalities for {type(self).__name__}",
                list(self.modalities),
                "name the query's own first, then the others",
            )
        self.own, self.others = self.modalities[0], self.modalities[1:]

    def concatenate(self, streams: Streams, names: Sequence[str], B: int) -> Tokens:
        """The named streams as one sequence [B, ΣL_m, d], in that order, zeros where masked."""
        return Tokens.concatenate([_shared(streams[m], streams[m].visible(), B) for m in names])

    def means(self, streams: Streams, B: int) -> dict[str, Tensor]:
        """The mean of each stream, {modality: [B, d]}; zeros where the modality is missing."""
        return {m: repeat_rows(streams[m].mean(), B) for m in self.modalities}

    def check(self, query: Tokens, streams: Streams, some: bool = False) -> None:
        """Whether query [B, L_q, d] and streams fit; with `some`, streams may be left out.

        Raises UserError where a stream is lacking, unknown, or not of width d, and where block
        numbers would not be kept to.
        """
        if not set(streams) <= set(self.modalities) or len(streams) < (
            1 if some else len(self.modalities)
        ):
            raise expected(
                f"streams {list(self.modalities)}",
                list(streams),
                "pass Tokens.absent() for a modality that is missing",
            )
        for name, stream in {"the query": query, **streams}.items():
            if stream.value.shape[-1] != self.d:
                raise expected(
                    f"tokens of width {self.d} in '{name}'",
                    stream.value.shape[-1],
                    "project them with the encoder",
                )
        numbered = [m for m, stream in streams.items() if stream.block is not None]
        if query.block is None and numbered:
            raise expected("block numbers in the query", f"some in {numbered}", "number both")
        if query.block is not None and self.own in streams and self.own not in numbered:
            raise expected(
                f"block numbers in '{self.own}'", "some in the query alone", "number both"
            )
        if query.block is not None and not self.ordered:
            able = [name for name, kind in FUSIONS.items() if kind.ordered]
            raise expected(
                f"a fusion that keeps to block numbers ({', '.join(able)})",
                type(self).__name__,
                "choose one of these, or leave the numbers out",
            )


def _shared(stream: Tokens, value: Tensor, B: int) -> Tokens:
    """The stream's rows repeated for B queries, with another value."""
    block = None if stream.block is None else repeat_rows(stream.block, B)
    return Tokens(repeat_rows(value, B), repeat_rows(stream.mask, B), block)


def warn_of_one_key(keys: Tokens) -> None:
    """Warns where keys [B, 1, d] leave softmax nothing to choose, so W_q and W_k learn nothing.

    Their gradient is zero in exact numbers. In float32 the fused kernel leaves some rounding, and
    an optimizer that divides by the gradient's size, as Adam does, makes steps of it.
    """
    if keys.value.shape[1] == 1:
        warnings.warn(
            "expected two or more keys, got 1; its weight is 1 for every query, so what the query"
            " says is ignored: pass the tokens of a picture, not its mean",
            stacklevel=3,
        )


class LateFusion(Fusion):
    """Each modality gives its opinion, the opinions are added: Σ_m W_m mean(m) + b, eq. (4.6).

    With a linear head this is a sum of logits, so no answer can depend on how the modalities
    combine. A missing modality adds nothing. Source: Baltrušaitis et al. (2019), sec. 6.1.
    """

    pooled = True

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.maps = nn.ModuleDict({m: nn.Linear(d, d, bias=False) for m in modalities})
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d], the same for every token of the query."""
        self.check(query, streams)
        means = self.means(streams, len(query.value))
        total = torch.stack([self.maps[m](x) for m, x in means.items()]).sum(0) + self.bias
        return total.unsqueeze(1).expand_as(query.value)


class ConcatMLP(Fusion):
    """The means side by side through one hidden layer: W_2 gelu(W_1 [mean(1); …; mean(M)]).

    Hidden width M d. A missing modality is a block of zeros.
    Source: Ngiam et al. (2011), the shared representation.
    """

    pooled = True

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        wide = d * len(self.modalities)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, d))

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d], the same for every token of the query."""
        self.check(query, streams)
        means = self.means(streams, len(query.value))
        return self.mlp(torch.cat(list(means.values()), -1)).unsqueeze(1).expand_as(query.value)


class LowRankBilinear(Fusion):
    """A product of one factor per modality: W_o ⊙_m (U_m mean(m) + b_m).

    For two modalities this is the bilinear form Σ_r W_o[·, r] (U_t t)_r (U_i i)_r, a tensor of
    rank d. A missing modality has the factor 1.
    Source: Kim et al. (2017), eq. 5; Liu et al. (2018), eq. 7 for more than two.
    """

    pooled = True

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.factors = nn.ModuleDict({m: nn.Linear(d, d) for m in modalities})
        self.W_o = nn.Linear(d, d)
        for factor in self.factors.values():
            # the product starts near a sum, so each factor gets gradient
            nn.init.ones_(factor.bias)  # type: ignore[arg-type]

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d], the same for every token of the query."""
        self.check(query, streams)
        B, product = len(query.value), None
        for m, x in self.means(streams, B).items():
            present = repeat_rows(streams[m].mask.any(-1, keepdim=True), B)
            factor = torch.where(present, self.factors[m](x), 1.0)
            product = factor if product is None else product * factor
        return self.W_o(product).unsqueeze(1).expand_as(query.value)


class FiLM(Fusion):
    """The others scale and shift each token of the query: γ ⊙ query + β.

    γ = 1 + Σ_m G_m mean(m), β = Σ_m S_m mean(m) over the other modalities. Where all of them are
    missing γ = 1 and β = 0, so the query is returned as it is. Source: Perez et al. (2018), eq. 2.
    """

    pooled = True
    alone = False

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.scale, self.shift = (
            nn.ModuleDict({m: nn.Linear(d, d, bias=False) for m in self.others}) for _ in range(2)
        )

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d], each token changed in the same way."""
        self.check(query, streams)
        means = self.means(streams, len(query.value))
        gamma = 1 + sum(self.scale[m](means[m]) for m in self.others)
        beta = sum(self.shift[m](means[m]) for m in self.others)
        return gamma.unsqueeze(1) * query.visible() + beta.unsqueeze(1)


class CrossAttention(Fusion):
    """Each token of the query attends to the tokens of the other modalities.

    Where all of them are missing the result is the bias of W_o. A single key has the weight 1
    whatever the query says (section 4.3), which raises a warning: what W_q and W_k get then is no
    signal, but zero or the rounding of zero. Source: Vaswani et al. (2017), sec. 3.2.3.
    """

    alone = False
    ordered = True

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.attend = MultiHeadAttention(d, H)

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d]."""
        self.check(query, streams)
        keys = self.concatenate(streams, self.others, len(query.value))
        warn_of_one_key(keys)
        return self.attend(query.visible(), keys, block=query.block)


class GatedCrossAttention(Fusion):
    """Cross-attention behind a gate: tanh(g) · CrossAttention(query, streams), g = 0 at the start.

    Inside a residual layer a closed gate leaves the language model exactly as it was, and the
    gate's gradient is not zero. Source: Alayrac et al. (2022), sec. 2.2.
    """

    alone = False
    ordered = True

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.cross = CrossAttention(d, modalities, H)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d]; zeros while the gate is closed."""
        return self.gate.tanh() * self.cross(query, streams)


class CoAttention(Fusion):
    """The others read the query's own stream first, then the query reads the others.

    o′ = o + MHA(o, own); result MHA(query, o′). Where all others are missing: the bias of W_o.
    Source: Lu et al. (2016), alternating co-attention; Lu et al. (2019) for two streams.
    """

    alone = False

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.read_own, self.read_others = MultiHeadAttention(d, H), MultiHeadAttention(d, H)

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d]."""
        self.check(query, streams)
        others, own = (
            self.concatenate(streams, names, len(query.value))
            for names in (self.others, [self.own])
        )
        warn_of_one_key(others)
        informed = Tokens(others.value + self.read_own(others.value, own), others.mask)
        return self.read_others(query.visible(), informed)


class MergedAttention(Fusion):
    """The document's fusion: h = Attention(Q, [K_t, K_i], [V_t, V_i]).

    One softmax over the keys of all modalities, each with its own W_k and W_v. The result is the
    mixture Σ_m α_m h_m of what each modality alone would answer, with α_m its share of the
    attention (eq. 4.2, `modality_share`). A missing modality has share 0. With the text alone this
    is multi-head self-attention, with block numbers the attention of a decoder.
    Source: the document, sec. 3.2; Hendricks et al. (2021), "merged attention".
    """

    ordered = True
    cached = True

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4):
        super().__init__(d, modalities, H)
        self.W_q, self.W_o = nn.Linear(d, d), nn.Linear(d, d)
        self.W_k, self.W_v = (
            nn.ModuleDict({m: nn.Linear(d, d) for m in modalities}) for _ in range(2)
        )

    def forward(
        self, query: Tokens, streams: Streams, cache: KeyValueCache | None = None
    ) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d].

        With a cache the streams are what it has not read yet; one that has nothing new is left out.
        """
        if cache is None and self._shared_and_unordered(query, streams):
            return self._attend_shared(query, streams)
        q, k, v, mask = self._project(query, streams, cache)
        return self.W_o(join_heads(attention(q, k, v, mask)))

    def weights(self, query: Tokens, streams: Streams) -> dict[str, Tensor]:
        """query [B, L_q, d] → its attention on each modality's tokens {modality: [B, H, L_q, L_m]}.

        A query's weights sum to 1 over all modalities.
        """
        q, k, _, mask = self._project(query, streams)
        lengths = [streams[m].value.shape[1] for m in self.modalities]
        parts = attention_weights(q, k, mask).split(lengths, -1)
        return dict(zip(self.modalities, parts, strict=True))

    def _shared_and_unordered(self, query: Tokens, streams: Streams) -> bool:
        """Whether several rows of the query share a row of a stream, and no order is to be kept."""
        shared = any(len(x.value) < len(query.value) for x in streams.values())
        return shared and all(x.block is None for x in (query, *streams.values()))

    def _attend_shared(self, query: Tokens, streams: Streams) -> Tensor:
        """As `forward`: nothing is repeated, no padding computed; masked queries get zeros."""
        self.check(query, streams)
        q = split_heads(query.through(self.W_q), self.H)
        sources = []
        for m in self.modalities:
            x = streams[m]
            k, v = (split_heads(x.through(W[m]), self.H) for W in (self.W_k, self.W_v))
            sources.append((k, v, x.mask))
        h = join_heads(attention_to_shared(q, sources))
        return query.with_value(h).through(self.W_o)

    def _project(
        self, query: Tokens, streams: Streams, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.check(query, streams, some=cache is not None)
        B, names = len(query.value), [m for m in self.modalities if m in streams]
        seen = {m: streams[m].visible() for m in names}
        # projected before it is repeated: a picture's keys are computed once for all its questions
        keys, values = (
            Tokens.concatenate([_shared(streams[m], W[m](seen[m]), B) for m in names])
            for W in (self.W_k, self.W_v)
        )
        q, k, v = (
            split_heads(x, self.H) for x in (self.W_q(query.visible()), keys.value, values.value)
        )
        mask, block = keys.mask, keys.block
        if cache is not None:
            k, v, mask, block = cache.append(k, v, mask, block)
        return q, k, v, attention_mask(mask, block, query.block)


class BottleneckTokens(Fusion):
    """The modalities meet only in n learned tokens z.

    Each modality m writes z_m = MHA_m(z, m); z′ = z + the mean of z_m over the modalities that are
    there; the query then attends to its own stream and z′. Where all others are missing z′ is
    masked, and the query reads its own stream alone. Source: Nagrani et al. (2021), sec. 3.2.
    """

    alone = False

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4, n: int = 4):
        super().__init__(d, modalities, H)
        if n < 1:
            raise expected("1 or more learned tokens", n, "4 is the default")
        self.z = nn.Parameter(torch.randn(n, d))
        self.write = nn.ModuleDict({m: MultiHeadAttention(d, H) for m in modalities})
        self.read = MultiHeadAttention(d, H)

    def summary(self, streams: Streams, B: int) -> Tokens:
        """What the modalities leave in the shared tokens, [B, n, d]."""
        z = self.z.expand(B, -1, -1)
        present, total = {}, torch.zeros_like(z)
        for m in self.modalities:
            stream = self.concatenate(streams, [m], B)
            present[m] = stream.mask.any(-1)
            written = self.write[m](z, stream)
            total = total + torch.where(present[m][:, None, None], written, 0.0)
        count = torch.stack(list(present.values())).sum(0).clamp(min=1)[:, None, None]
        exchange = torch.stack([present[m] for m in self.others]).any(0)
        return Tokens(z + total / count, exchange[:, None].expand(B, len(self.z)))

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d]."""
        self.check(query, streams)
        B = len(query.value)
        own, shared = self.concatenate(streams, [self.own], B), self.summary(streams, B)
        return self.read(query.visible(), Tokens.concatenate([own, shared]))


class Resampler(Fusion):
    """n learned tokens attend to all modalities; the query attends to what they bring back.

    z′ = z + MHA(z, [streams]); result MHA(query, z′). The query sees n tokens however long the
    inputs are. Where everything is missing z′ = z plus the bias of W_o.
    Source: Jaegle et al. (2021), sec. 3.1; Alayrac et al. (2022), sec. 2.1.
    """

    def __init__(self, d: int, modalities: Sequence[str], H: int = 4, n: int = 4):
        super().__init__(d, modalities, H)
        if n < 1:
            raise expected("1 or more learned tokens", n, "4 is the default")
        self.z = nn.Parameter(torch.randn(n, d))
        self.collect, self.read = MultiHeadAttention(d, H), MultiHeadAttention(d, H)

    def resample(self, streams: Streams, B: int) -> Tokens:
        """All streams reduced to n tokens, [B, n, d]."""
        z = self.z.expand(B, -1, -1)
        return Tokens.all_visible(
            z + self.collect(z, self.concatenate(streams, self.modalities, B))
        )

    def forward(self, query: Tokens, streams: Streams) -> Tensor:
        """query [B, L_q, d] → [B, L_q, d]."""
        self.check(query, streams)
        return self.read(query.visible(), self.resample(streams, len(query.value)))


FUSIONS: dict[str, type[Fusion]] = {
    "late": LateFusion,
    "concat": ConcatMLP,
    "bilinear": LowRankBilinear,
    "film": FiLM,
    "cross": CrossAttention,
    "gated": GatedCrossAttention,
    "co": CoAttention,
    "merged": MergedAttention,
    "bottleneck": BottleneckTokens,
    "resampler": Resampler,
}


def build_fusion(name: str, d: int, modalities: Sequence[str], H: int = 4) -> Fusion:
    """The fusion method of that name, for tokens of width d.

    Raises UserError where the name is unknown. Source: the table of chapter 04.
    """
    if name not in FUSIONS:
        raise expected(f"a fusion of {', '.join(FUSIONS)}", f"'{name}'", "choose one of these")
    return FUSIONS[name](d, modalities, H)


def modality_share(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much of its attention each query gives to each modality, eq. (4.2): α_m = Z_m / Σ Z.

    weights {modality: [B, H, L_q, L_m]} as `MergedAttention.weights` gives them →
    {modality: [B, H, L_q]}, which sum to 1 (to 0 where everything is missing).
    Source: the document, sec. 3.2; derivation in chapter 04.
    """
    return {m: w.sum(-1) for m, w in weights.items()}
