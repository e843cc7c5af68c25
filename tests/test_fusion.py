"""The ten fusion methods: what all share, each one's formula, what each can express (ch. 04)."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import check_shapes, public_functions, undocumented
from strategies import HOSTILE, NAMES, error_line, lengths, normal, seeds, tokens
from torch import Tensor, nn

import mmlib.fusion
from mmlib.attention import MultiHeadAttention, attention, split_heads
from mmlib.blocks import TransformerBlock
from mmlib.errors import UserError
from mmlib.fusion import FUSIONS, Fusion, MergedAttention, build_fusion, modality_share
from mmlib.tokens import Tokens

d, H, n = 8, 2, 4  # width, heads, learned tokens of bottleneck and resampler
ALONE = [name for name in FUSIONS if FUSIONS[name].alone]
CASES = [(name, M) for name in FUSIONS for M in (1, 2, 3) if M > 1 or name in ALONE]
every_case = pytest.mark.parametrize("name, M", CASES)
every_pair = pytest.mark.parametrize("name", FUSIONS)

# Which inputs a method reads. The rest must have no influence; that is tested as well.
READS_QUERY = set(FUSIONS) - {"late", "concat", "bilinear"}
READS_OWN_STREAM = set(FUSIONS) - {"film", "cross", "gated"}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def fusion(name: str, M: int = 2, seed: int = 0) -> Fusion:
    """A method in float64 with random weights everywhere, biases and gate included."""
    module = build_fusion(name, d, NAMES[:M], H).double()
    for i, parameter in enumerate(module.parameters()):
        parameter.data = 0.5 * normal(seed + i, *parameter.shape)
    return module


def inputs(M: int = 2, B: int = 3, L: int = 4) -> tuple[Tokens, dict[str, Tokens]]:
    """A query of three tokens and M streams, each shorter than the last, none with padding."""
    streams = {m: Tokens.all_visible(normal(20 + i, B, L - i, d)) for i, m in enumerate(NAMES[:M])}
    return Tokens.all_visible(normal(10, B, 3, d)), streams


def leaves(query: Tokens, streams: dict[str, Tokens]) -> dict[str, Tensor]:
    return {"query": query.value} | {m: x.value for m, x in streams.items()}


def gradients(out: Tensor, *at: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a weighted sum of `out`; zeros for what it does not depend on."""
    total = (out * normal(7, *out.shape, dtype=out.dtype)).sum()
    return torch.autograd.grad(total, at, allow_unused=True, materialize_grads=True)


# --- what all ten share -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@every_case
def test_shape_and_dtype(name, M, dtype):
    module = build_fusion(name, d, NAMES[:M], H).to(dtype)
    query, streams = inputs(M)
    query = Tokens(query.value.to(dtype), query.mask)
    streams = {m: Tokens(x.value.to(dtype), x.mask) for m, x in streams.items()}
    streams[NAMES[M - 1]] = streams[NAMES[M - 1]].absent()
    out = module(query, streams)
    assert out.shape == query.value.shape and out.dtype == dtype and out.isfinite().all()


@every_case
def test_what_it_reads_has_gradient_and_what_it_does_not_has_none(name, M):
    module, (query, streams) = fusion(name, M), inputs(M)
    at = {m: x.requires_grad_() for m, x in leaves(query, streams).items()}
    out = module(query, streams)
    found = dict(zip(at, gradients(out, *at.values()), strict=True))
    reads = {"query": name in READS_QUERY, "text": name in READS_OWN_STREAM}
    for m, gradient in found.items():
        per_sample = gradient.abs().amax((1, 2))
        if reads.get(m, True):
            assert (per_sample > 1e-6).all(), m
        else:
            assert not per_sample.any(), m


@every_pair
def test_output_depends_on_text_and_on_picture(name):
    """As it is used: the query is the text. (A closed gate lets nothing through: tested below.)"""
    module, (_, streams) = fusion(name), inputs()
    text, image = (streams[m].value.requires_grad_() for m in NAMES[:2])
    of_text, of_image = gradients(module(streams["text"], streams), text, image)
    assert (of_text.abs().amax((1, 2)) > 1e-6).all()
    assert (of_image.abs().amax((1, 2)) > 1e-6).all()


@every_case
def test_samples_do_not_meet(name, M):
    module, (query, streams) = fusion(name, M), inputs(M)
    out, order = module(query, streams), torch.tensor([2, 0, 1])
    permuted = module(
        Tokens(query.value[order], query.mask[order]),
        {m: Tokens(x.value[order], x.mask[order]) for m, x in streams.items()},
    )
    assert close(permuted, out[order])
    at = [x.requires_grad_() for x in leaves(query, streams).values()]
    for gradient in gradients(module(query, streams)[:1], *at):
        assert not gradient[1:].any()


@every_case
@given(data=st.data(), extra=lengths, hostile=st.sampled_from(HOSTILE))
@settings(max_examples=6)
def test_length_and_content_of_the_padding_are_irrelevant(name, M, data, extra, hostile):
    module, query = fusion(name, M), Tokens.all_visible(normal(10, 2, 3, d))
    short = {m: data.draw(tokens(2, 3, d)) for m in NAMES[:M]}
    long = {}
    for m, x in short.items():
        value = x.value.masked_fill(~x.mask.unsqueeze(-1), hostile)
        value = torch.cat([value, torch.full((2, extra, d), hostile, dtype=value.dtype)], 1)
        mask = torch.cat([x.mask, torch.zeros(2, extra, dtype=torch.bool)], 1)
        long[m] = Tokens(value.requires_grad_(), mask)
    out, expected = module(query, long), module(query, short)
    assert close(out, expected)
    padded = [x.value for x in long.values()]
    parameters = list(module.parameters())
    of_padded = gradients(out, *padded, *parameters)
    for x, gradient in zip(long.values(), of_padded[:M], strict=True):
        assert not gradient[~x.mask].any()
    for a, b in zip(of_padded[M:], gradients(expected, *parameters), strict=True):
        assert close(a, b)


@every_case
def test_the_order_of_the_streams_tokens_is_irrelevant(name, M):
    module, (query, streams) = fusion(name, M), inputs(M)
    turned = {m: Tokens(x.value.flip(1), x.mask.flip(1)) for m, x in streams.items()}
    assert close(module(query, turned), module(query, streams))


@every_case
def test_gradcheck_where_some_rows_are_missing(name, M):
    module, (query, streams) = fusion(name, M), inputs(M, B=2, L=3)
    last = streams[NAMES[M - 1]].mask
    last[1] = False
    masks = [x.mask for x in streams.values()]

    def run(q: Tensor, *values: Tensor) -> Tensor:
        pairs = zip(NAMES, values, masks, strict=False)
        return module(Tokens(q, query.mask), {m: Tokens(v, mask) for m, v, mask in pairs})

    at = [x.requires_grad_() for x in leaves(query, streams).values()]
    assert torch.autograd.gradcheck(run, at, fast_mode=True)


PARAMETERS = {  # d² + d for a linear map with bias, four of them in an attention
    "late": lambda M: M * d**2 + d,
    "concat": lambda M: (M * d) ** 2 + M * d + M * d**2 + d,
    "bilinear": lambda M: (M + 1) * (d**2 + d),
    "film": lambda M: 2 * (M - 1) * d**2,
    "cross": lambda M: 4 * (d**2 + d),
    "gated": lambda M: 4 * (d**2 + d) + 1,
    "co": lambda M: 8 * (d**2 + d),
    "merged": lambda M: (2 + 2 * M) * (d**2 + d),
    "bottleneck": lambda M: n * d + 4 * (M + 1) * (d**2 + d),
    "resampler": lambda M: n * d + 8 * (d**2 + d),
}


@every_case
def test_every_parameter_is_registered_and_learns(name, M):
    module, (query, streams) = fusion(name, M), inputs(M)
    parameters = dict(module.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == PARAMETERS[name](M)
    found = gradients(module(query, streams), *parameters.values())
    for parameter, gradient in zip(parameters, found, strict=True):
        key_bias = "W_k." in parameter and parameter.endswith("bias")
        if key_bias and (name != "merged" or M == 1):
            # One bias for all keys adds the same to each score of a query, and softmax does not
            # see it. (In merged attention each modality has its own, and from two on they learn.)
            assert gradient.abs().max() < 1e-12, parameter
        else:
            assert gradient.abs().max() > 1e-6, parameter


@every_pair
def test_questions_on_one_picture_share_it(name):
    module, (query, streams) = fusion(name), inputs(B=6)
    shared = normal(30, 2, 5, d).requires_grad_()
    repeated = shared.detach().repeat_interleave(3, 0).requires_grad_()
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    pictures = Tokens(shared, mask), Tokens(repeated, mask.repeat_interleave(3, 0))
    out, expected = (module(query, streams | {"image": picture}) for picture in pictures)
    assert close(out, expected)
    of_shared, of_repeated = gradients(out, shared)[0], gradients(expected, repeated)[0]
    assert close(of_shared, of_repeated.unflatten(0, (2, 3)).sum(1))


# --- a modality that is missing -----------------------------------------------------------------


def mean(x: Tokens) -> Tensor:
    return x.value.mean(1, keepdim=True)


def linear_without_bias(linear: nn.Module, x: Tensor) -> Tensor:
    return x @ linear.weight.T


FALLBACK = {  # what a method gives without the picture, by its docstring
    "late": lambda f, q, t: linear_without_bias(f.maps["text"], mean(t)) + f.bias,
    "concat": lambda f, q, t: f.mlp(torch.cat([mean(t), torch.zeros_like(mean(t))], -1)),
    "bilinear": lambda f, q, t: f.W_o(f.factors["text"](mean(t))),
    "film": lambda f, q, t: q.value,
    "cross": lambda f, q, t: f.attend.W_o.bias,
    "gated": lambda f, q, t: f.gate.tanh() * f.cross.attend.W_o.bias,
    "co": lambda f, q, t: f.read_others.W_o.bias,
    "merged": lambda f, q, t: multihead(f, "text")(q.value, t),
    "bottleneck": lambda f, q, t: f.read(q.value, t),
    "resampler": lambda f, q, t: f.read(
        q.value, Tokens.all_visible(f.z + f.collect(f.z.expand(len(t.value), -1, -1), t))
    ),
}


def multihead(merged: MergedAttention, m: str) -> MultiHeadAttention:
    """Multi-head attention with the weights that merged attention has for one modality."""
    module = MultiHeadAttention(d, H).double()
    pairs = [(module.W_q, merged.W_q), (module.W_k, merged.W_k[m])]
    for ours, theirs in [*pairs, (module.W_v, merged.W_v[m]), (module.W_o, merged.W_o)]:
        ours.load_state_dict(theirs.state_dict())
    return module


@every_pair
def test_a_missing_picture_gives_the_declared_fallback(name):
    module, (query, streams) = fusion(name), inputs()
    expected = FALLBACK[name](module, query, streams["text"]).expand_as(query.value)
    out = module(query, streams | {"image": streams["image"].absent()})
    assert close(out, expected)
    mixed = Tokens(streams["image"].value, streams["image"].mask.clone())
    mixed.mask[1] = False  # missing in one sample of three: the others are as with it
    out = module(query, streams | {"image": mixed})
    assert close(out[1], expected[1])
    assert close(out[[0, 2]], module(query, streams)[[0, 2]])


@every_case
def test_with_everything_missing_output_and_gradients_are_finite(name, M):
    module, (query, streams) = fusion(name, M), inputs(M)
    streams = {m: x.absent() for m, x in streams.items()}
    for x in streams.values():
        x.value.requires_grad_()
    out = module(query, streams)
    assert out.isfinite().all()
    of_all = gradients(out, *(x.value for x in streams.values()), *module.parameters())
    assert not any(gradient.any() for gradient in of_all[:M])
    assert all(gradient.isfinite().all() for gradient in of_all[M:])


@pytest.mark.parametrize("name", sorted(set(ALONE) - {"concat"}))
def test_a_second_modality_that_is_missing_is_as_none(name):
    """Concat has other weights for one modality: its hidden layer grows with their number."""
    two, (query, streams) = fusion(name), inputs()
    one = fusion(name, 1)
    one.load_state_dict({k: v for k, v in two.state_dict().items() if "image" not in k})
    without = one(query, {"text": streams["text"]})
    assert close(two(query, streams | {"image": streams["image"].absent()}), without)


# --- each one's formula -------------------------------------------------------------------------


@pytest.mark.parametrize("M", [1, 2, 3])
def test_late_is_a_sum_of_opinions(M):
    module, (query, streams) = fusion("late", M), inputs(M)
    out = module(query, streams)
    opinions = [mean(x) @ module.maps[m].weight.T for m, x in streams.items()]
    assert close(out, (sum(opinions) + module.bias).expand_as(out))


def test_late_cannot_let_one_modality_change_what_the_other_says():
    module, (query, streams) = fusion("late"), inputs()
    text, image = ([x, Tokens.all_visible(x.value + 1)] for x in streams.values())
    (a, b), (c, e) = ([module(query, {"text": t, "image": i}) for i in image] for t in text)
    assert close(a + e, b + c) and not close(a, b) and not close(a, c)


@pytest.mark.parametrize("M", [2, 3])
def test_concat_is_one_hidden_layer_over_the_means(M):
    module, (query, streams) = fusion("concat", M), inputs(M)
    out = module(query, streams)
    means = torch.cat([mean(x) for x in streams.values()], -1)
    assert close(out, module.mlp[2](F.gelu(module.mlp[0](means))).expand_as(out))


def test_bilinear_is_an_einsum_over_a_tensor_of_rank_d():
    module, (query, streams) = fusion("bilinear"), inputs()
    U = {m: torch.cat([f.weight, f.bias[:, None]], 1) for m, f in module.factors.items()}
    x = {m: torch.cat([s.value.mean(1), torch.ones(3, 1)], 1) for m, s in streams.items()}
    W = torch.einsum("or,ra,rb->oab", module.W_o.weight, U["text"], U["image"])
    expected = torch.einsum("oab,na,nb->no", W, x["text"], x["image"]) + module.W_o.bias
    out = module(query, streams)
    assert close(out, expected[:, None].expand_as(out))


def test_bilinear_of_three_is_the_product_of_three_factors():
    module, (query, streams) = fusion("bilinear", 3), inputs(3)
    factors = [module.factors[m](mean(x)) for m, x in streams.items()]
    out = module(query, streams)
    assert close(out, module.W_o(factors[0] * factors[1] * factors[2]).expand_as(out))


def test_film_is_scale_and_shift_and_the_identity_at_one_and_zero():
    module, (query, streams) = fusion("film", 3), inputs(3)
    gamma = 1 + sum(module.scale[m](mean(streams[m])) for m in NAMES[1:])
    beta = sum(module.shift[m](mean(streams[m])) for m in NAMES[1:])
    assert close(module(query, streams), gamma * query.value + beta)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert torch.equal(module(query, streams), query.value)


def test_cross_attention_asks_with_the_query_and_answers_from_the_others():
    module, (query, streams) = fusion("cross", 3), inputs(3)
    others = Tokens.all_visible(torch.cat([streams["image"].value, streams["audio"].value], 1))
    assert close(module(query, streams), module.attend(query.value, others))


def test_a_closed_gate_lets_nothing_through_and_still_learns():
    module, (query, streams) = build_fusion("gated", d, NAMES[:2], H).double(), inputs()
    assert not module.gate.any()  # closed at the start
    block = TransformerBlock(module, d).double()
    shouting = {"image": Tokens.all_visible(1e3 * streams["image"].value)}
    quiet = block(query, shouting).value
    assert torch.equal(quiet, query.value + block.mlp(block.norm_mlp(query.value)))
    at = streams["image"].value.requires_grad_()
    out = module(query, streams)
    of_gate, of_image = gradients(out, module.gate, at)
    assert not out.any() and not of_image.any()
    # d/dg tanh(g) · h at g = 0 is h: the gate hears what the picture would have said
    assert close(of_gate, (module.cross(query, streams) * normal(7, *out.shape)).sum())
    assert of_gate.abs() > 1e-6
    module.gate.data.fill_(0.3)
    assert close(module(query, streams), math.tanh(0.3) * module.cross(query, streams))


def test_co_attention_lets_the_others_read_the_text_first():
    module, (query, streams) = fusion("co"), inputs()
    image = streams["image"].value
    informed = Tokens.all_visible(image + module.read_own(image, streams["text"]))
    assert close(module(query, streams), module.read_others(query.value, informed))


def hand_built(module: MergedAttention, query: Tokens, streams: dict[str, Tokens]) -> Tensor:
    """Softmax over [K_t; K_i] times [V_t; V_i], head by head and sample by sample."""
    width = d // H
    out = torch.zeros_like(query.value)
    for b, h in itertools.product(range(len(out)), range(H)):
        columns = slice(h * width, (h + 1) * width)
        seen = {m: x.value[b][x.mask[b]] for m, x in streams.items()}
        Q = module.W_q(query.value[b])[:, columns]
        K = torch.cat([module.W_k[m](x)[:, columns] for m, x in seen.items()])
        V = torch.cat([module.W_v[m](x)[:, columns] for m, x in seen.items()])
        terms = (Q @ K.T / math.sqrt(width)).exp()
        out[b, :, columns] = terms / terms.sum(1, keepdim=True) @ V
    return module.W_o(out)


@pytest.mark.parametrize("M", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=10)
def test_merged_attention_is_one_softmax_over_all_keys(M, data):
    module, query = fusion("merged", M), Tokens.all_visible(normal(10, 2, 3, d))
    streams = {m: data.draw(tokens(2, data.draw(lengths), d, some=True)) for m in NAMES[:M]}
    assert close(module(query, streams), hand_built(module, query, streams))
    weights = module.weights(query, streams)
    values = {m: split_heads(module.W_v[m](x.value), H) for m, x in streams.items()}
    h = sum(weights[m] @ values[m] for m in streams)
    assert close(module(query, streams), module.W_o(h.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("M", [2, 3])
@given(data=st.data())
@settings(max_examples=10)
def test_merged_attention_is_a_mixture_of_what_each_modality_would_answer(M, data):
    """h = Σ_m α_m h_m; for two, α h_t + (1 − α) h_i."""
    module, query = fusion("merged", M), Tokens.all_visible(normal(10, 2, 3, d))
    streams = {m: data.draw(tokens(2, data.draw(lengths), d, some=True)) for m in NAMES[:M]}
    share = modality_share(module.weights(query, streams))
    assert close(sum(share.values()), torch.ones(2, H, 3, dtype=torch.float64))
    q = split_heads(module.W_q(query.value), H)
    h, masses = 0, {}
    for m, x in streams.items():
        k, v = (split_heads(W[m](x.value), H) for W in (module.W_k, module.W_v))
        h = h + share[m][..., None] * attention(q, k, v, x.mask[:, None, None])
        scores = q @ k.transpose(2, 3) / math.sqrt(d / H)
        masses[m] = (scores.exp() * x.mask[:, None, None]).sum(-1)  # Z_m
    assert close(module.W_o(h.transpose(1, 2).flatten(2)), module(query, streams))
    for m, mass in masses.items():
        assert close(share[m], mass / sum(masses.values()))


def test_the_share_of_a_missing_modality_is_zero():
    module, (query, streams) = fusion("merged"), inputs()
    share = modality_share(module.weights(query, streams | {"image": streams["image"].absent()}))
    assert not share["image"].any() and close(share["text"], torch.ones_like(share["text"]))
    nothing = module.weights(query, {m: x.absent() for m, x in streams.items()})
    assert not any(x.any() for x in modality_share(nothing).values())


def test_with_masked_bottleneck_tokens_the_modalities_exchange_exactly_nothing(monkeypatch):
    module, (query, streams) = fusion("bottleneck"), inputs()
    other = streams | {"image": Tokens.all_visible(streams["image"].value + 1)}
    assert not close(module(query, other), module(query, streams))
    summary = module.summary
    monkeypatch.setattr(module, "summary", lambda *given: summary(*given).absent())
    image = streams["image"].value.requires_grad_()
    out = module(query, streams)
    assert torch.equal(module(query, other), out)
    assert not gradients(out, image)[0].any()
    assert close(out, module.read(query.value, streams["text"]))


def test_bottleneck_tokens_collect_the_mean_of_what_the_present_modalities_write():
    module, (query, streams) = fusion("bottleneck", 3), inputs(3)
    z = module.z.expand(3, -1, -1)
    written = {m: module.write[m](z, x) for m, x in streams.items()}
    assert close(module.summary(streams, 3).value, z + sum(written.values()) / 3)
    missing = streams | {"audio": streams["audio"].absent()}
    expected = z + (written["text"] + written["image"]) / 2
    shared = module.summary(missing, 3)
    assert close(shared.value, expected) and shared.mask.all()
    both = Tokens.all_visible(torch.cat([streams["text"].value, expected], 1))
    assert close(module(query, missing), module.read(query.value, both))
    gone = missing | {"image": streams["image"].absent()}
    assert not module.summary(gone, 3).mask.any()


@pytest.mark.parametrize("length", [1, 3, 40])
def test_the_resampler_brings_back_n_tokens_whatever_the_length(length):
    module, (query, streams) = fusion("resampler"), inputs()
    streams["image"] = Tokens.all_visible(normal(40, 3, length, d))
    brought = module.resample(streams, 3)
    assert brought.value.shape == (3, n, d) and brought.mask.all()
    assert close(module(query, streams), module.read(query.value, brought))


# --- one key ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross", "gated", "co"])
def test_one_key_warns_and_the_query_has_no_influence(name):
    module, (query, streams) = fusion(name), inputs()
    streams["image"] = Tokens.all_visible(normal(40, 3, 1, d))
    query.value.requires_grad_()
    with pytest.warns(UserWarning, match="expected two or more keys, got 1; "):
        out = module(query, streams)
    reading = {"cross": "attend", "gated": "cross.attend", "co": "read_others"}[name]
    attend = module.get_submodule(reading)
    parts = [W.weight for W in (attend.W_q, attend.W_k, attend.W_v)]
    of_query, of_q, of_k, of_v = gradients(out, query.value, *parts)
    # zero but for the rounding of a difference of equal sums, which some CPUs' kernels leave
    assert all(gradient.abs().max() < 1e-12 for gradient in (of_query, of_q, of_k))
    assert of_v.abs().max() > 1e-6


@pytest.mark.filterwarnings("error")
@every_case
def test_more_keys_do_not_warn(name, M):
    query, streams = inputs(M)
    fusion(name, M)(query, streams)


# --- XOR: what a method can express -------------------------------------------------------------

BITS = torch.tensor(list(itertools.product((0, 1), repeat=2)))  # every (text bit, image bit)
XOR = BITS.sum(1) % 2


class BitReader(nn.Module):
    """A bit a modality, in one token of three; a method; a linear head on the first text token.

    Without feed-forward part: what interacts is the method.
    """

    def __init__(self, name: str):
        super().__init__()
        self.fusion = build_fusion(name, d, NAMES[:2], H)
        self.embed = nn.ModuleDict({m: nn.Embedding(4, d) for m in NAMES[:2]})
        self.head = nn.Linear(d, 2)

    def forward(self) -> Tensor:
        constant = torch.tensor([2, 3]).expand(len(BITS), -1)
        streams = {
            m: Tokens.all_visible(self.embed[m](torch.cat([BITS[:, [i]], constant], 1)))
            for i, m in enumerate(NAMES[:2])
        }
        text = streams["text"]
        return self.head((text.value + self.fusion(text, streams))[:, 0])


def loss_after(name: str, steps: int) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BitReader(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(), XOR).backward()
        optimizer.step()
    return F.cross_entropy(model(), XOR).item()


@pytest.mark.parametrize("name", sorted(set(FUSIONS) - {"late"}))
def test_methods_that_interact_learn_xor(name):
    assert loss_after(name, 300) < 0.1


def test_late_fusion_ends_at_ln_2_on_xor():
    """The four cells are the whole population, so this loss is the expected one.

    Margins f(text) + g(image), residual included, have s₀₀ + s₁₁ = s₀₁ + s₁₀, so the signed
    margins of XOR sum to zero, and by convexity the mean of ln(1 + e^−s) is at least ln 2.
    """
    assert loss_after("late", 300) == pytest.approx(math.log(2), abs=1e-3)


@given(seeds, st.floats(0.01, 10))
def test_no_weights_of_late_fusion_do_better_than_ln_2_on_xor(seed, scale):
    model = BitReader("late").double()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = scale * normal(seed + i, *parameter.shape)
    logits = model()
    assert F.cross_entropy(logits, XOR).item() >= math.log(2) - 1e-12
    assert (logits.argmax(1) == XOR).sum() <= 3


# --- errors and docstrings ----------------------------------------------------------------------


def test_an_unknown_fusion_is_named():
    with pytest.raises(UserError) as error:
        build_fusion("magic", d, NAMES[:2], H)
    error_line(error, *FUSIONS, "got 'magic'")


@pytest.mark.parametrize(
    "name, M", [(name, M) for name in FUSIONS for M in (0, 1) if (name, M) not in CASES]
)
def test_too_few_modalities_are_named(name, M):
    with pytest.raises(UserError) as error:
        build_fusion(name, d, NAMES[:M], H)
    error_line(error, FUSIONS[name].__name__, f"got {list(NAMES[:M])}")


@pytest.mark.parametrize("name", ["cross", "gated", "co", "merged", "bottleneck", "resampler"])
def test_heads_that_do_not_divide_the_width_are_named(name):
    with pytest.raises(UserError) as error:
        build_fusion(name, 6, NAMES[:2], 4)
    error_line(error, "width 6", "got 4")


@every_pair
def test_streams_that_do_not_fit_are_named(name):
    module, (query, streams) = fusion(name), inputs()
    with pytest.raises(UserError) as error:
        module(query, {"text": streams["text"]})
    error_line(error, "['text', 'image']", "got ['text']")
    with pytest.raises(UserError) as error:
        module(query, streams | {"audio": streams["text"]})
    error_line(error, "'audio'")
    with pytest.raises(UserError) as error:
        module(query, streams | {"image": Tokens.all_visible(torch.zeros(3, 2, d + 1))})
    error_line(error, f"width {d} in 'image'", f"got {d + 1}")
    with pytest.raises(UserError) as error:
        module(query, streams | {"image": Tokens.all_visible(torch.zeros(2, 2, d).double())})
    error_line(error, "batch 3", "got 2")


def test_the_shapes_in_the_docstrings_are_true():
    streams = {m: Tokens.all_visible(torch.randn(6, 5, 8)) for m in NAMES[:2]}
    modules = {name: build_fusion(name, 8, NAMES[:2], 2) for name in FUSIONS}
    checked = {module.forward: {"streams": streams} for module in modules.values()}
    checked[modules["late"].concatenate] = {"streams": streams, "names": NAMES[:2], "B": 6}
    checked[modules["late"].means] = {"streams": streams, "B": 6}
    checked[modules["merged"].weights] = {"streams": streams}
    for name, method in (("bottleneck", "summary"), ("resampler", "resample")):
        twelve = FUSIONS[name](8, NAMES[:2], 2, n=12)
        checked[getattr(twelve, method)] = {"streams": streams, "B": 6}
    checked[modality_share] = {}
    for function, extra in checked.items():
        check_shapes(function, extra)
    names = {function.__qualname__ for function in checked}
    for function in public_functions(mmlib.fusion):
        assert function.__qualname__ in names
        assert not undocumented(function), function.__qualname__
