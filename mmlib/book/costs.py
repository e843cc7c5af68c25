"""Costs: chapter 07. What a training step computes and keeps, counted from the model's own sizes.

B questions of L_t tokens, none of them padding, on P pictures. A multiply-add is two floating-point
operations; what is linear in the tokens without a product of matrices (norms, softmax, GELU) is not
counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmlib.blocks import TransformerBlock
from mmlib.errors import expected
from mmlib.fusion import MergedAttention
from mmlib.models import MultimodalBert


class Convolution(NamedTuple):
    """A k × k convolution from c_in to c_out channels onto `area` places."""

    k: int
    c_in: int
    c_out: int
    area: int

    @property
    def flops(self) -> int:
        """Operations a picture, eq. (7.11)."""
        return 2 * self.k**2 * self.c_in * self.c_out * self.area


def _walk(backbone: nn.Module, size: int) -> list[tuple[nn.Module, int, int]]:
    """(layer, channels, places) of each output for pictures [P, 3, size, size], in running order.

    The network runs on the meta device, which computes shapes and nothing else.
    """
    found: list[tuple[nn.Module, int, int]] = []

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append((layer, output.shape[1], output.shape[2] * output.shape[3]))

    counted = [m for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.ReLU | nn.MaxPool2d)]
    hooks = [layer.register_forward_hook(note) for layer in counted]
    named = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    on_meta = {name: x.detach().to("meta") for name, x in named.items()}
    functional_call(backbone, on_meta, torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def convolutions(backbone: nn.Module, size: int) -> list[Convolution]:
    """Every convolution of a network for pictures [P, 3, size, size], in running order.

    Source: He et al. (2016), table 1.
    """
    return [
        Convolution(layer.kernel_size[0], layer.in_channels, channels, area)
        for layer, channels, area in _walk(backbone, size)
        if isinstance(layer, nn.Conv2d)
    ]


def kept_maps(backbone: nn.Module, size: int) -> int:
    """How many numbers a ResNet keeps of one picture [3, size, size], eq. (7.16).

    The picture, each convolution's output (its norm's input), each ReLU's output (the next layer's
    input), and of a pooling its output and where each maximum was, in 64 bits.
    """
    weights: dict[type, int] = {nn.MaxPool2d: 3}
    maps = _walk(backbone, size)
    return 3 * size**2 + sum(weights.get(type(layer), 1) * c * area for layer, c, area in maps)


class Sizes(NamedTuple):
    """The letters of the formulas, read off a model; N is the number of parameters."""

    d: int
    d_t: int
    H: int
    H_t: int
    text_layers: int
    layers: int
    width: int
    L_i: int
    C: int
    N: int

    @classmethod
    def of(cls, model: MultimodalBert) -> Sizes:
        """Raises UserError for a fusion other than merged attention."""
        blocks: list[Any] = list(model.fusion)
        for block in blocks:
            if not (
                isinstance(block, TransformerBlock) and isinstance(block.mixer, MergedAttention)
            ):
                raise expected("merged attention", "another fusion", "choose fusion='merged'")
        model_image: Any = model.encoders["image"]
        bert: Any = model.encoders["text"]
        head: Any = model.head
        return cls(
            head[1].in_features, bert.backbone.config.hidden_size, blocks[0].mixer.H,
            bert.backbone.config.num_attention_heads, bert.backbone.config.num_hidden_layers,
            len(blocks), model_image.proj.in_features, len(model_image.places),
            head[1].out_features, sum(p.numel() for p in model.parameters()),
        )  # fmt: skip


def layer_flops(d: int, L_t: int, L_i: int, n: int, B: int, P: int) -> int:
    """Operations of one fusion layer, eq. (7.13): n of L_t words ask L_t words and L_i cells.

    A picture's keys and values are computed once, P times in all, however many questions share it.
    """
    asking = 4 * n * d**2  # W_q and W_o
    keys = 4 * L_t * d**2  # W_k and W_v of the words
    attend = 4 * n * (L_t + L_i) * d  # scores and mixture
    feed = 16 * n * d**2
    return B * (asking + keys + attend + feed) + P * 4 * L_i * d**2


def forward_flops(model: MultimodalBert, B: int, P: int, L_t: int) -> dict[str, int]:
    """Operations of the forward pass by part of the model: text, image, fusion, head.

    B questions of L_t tokens on P pictures. Raises UserError as `Sizes.of`.
    Source: Kaplan et al. (2020), table 1, for the Transformer's.
    """
    s, image = Sizes.of(model), model.encoders["image"]
    bert_layer = layer_flops(s.d_t, L_t, 0, L_t, B, 0)
    asked = [L_t] * (s.layers - 1) + [1]  # the last layer computes [CLS] alone
    maps: Any = convolutions(image.backbone, image.image_size)  # type: ignore[arg-type]
    return {
        "text": s.text_layers * bert_layer + 2 * B * L_t * s.d_t * s.d,
        "image": P * (sum(c.flops for c in maps) + 2 * s.L_i * s.width * s.d) + _place(model),
        "fusion": sum(layer_flops(s.d, L_t, s.L_i, n, B, P) for n in asked),
        "head": 2 * B * s.d * s.C,
    }


def _place(model: MultimodalBert) -> int:
    """The linear map of the cells' coordinates, computed once a step."""
    s = Sizes.of(model)
    return 2 * s.L_i * 2 * s.d if model.encoders["image"].place is not None else 0


def step_flops(model: MultimodalBert, B: int, P: int, L_t: int) -> int:
    """Operations of forward and backward pass, eq. (7.14).

    The backward pass costs twice the forward one, but for what is computed from the input itself:
    the first convolution and the map of the coordinates pass no gradient on.
    Source: Kaplan et al. (2020), sec. 2.1.
    """
    image: Any = model.encoders["image"]
    first = convolutions(image.backbone, image.image_size)[0]
    return 3 * sum(forward_flops(model, B, P, L_t).values()) - P * first.flops - _place(model)


def kept_values(model: MultimodalBert, B: int, P: int, L_t: int) -> dict[str, int]:
    """How many numbers the forward pass keeps for the backward pass, eqs. (7.15) and (7.16).

    Counted are the inputs of linear layers, of norms, of GELU, and of attention q, k, v and the
    weights, which the plain products that serve P < B pictures keep. Not counted: masks and the
    norms' statistics, a percent or so.
    Source: Korthikanti et al. (2022), sec. 4, for the Transformer's.
    """
    s, image = Sizes.of(model), model.encoders["image"]
    maps = kept_maps(image.backbone, image.image_size)  # type: ignore[arg-type]
    asked = [L_t] * (s.layers - 1) + [1]
    bert_layer = B * L_t * (16 * s.d_t + s.H_t * L_t)
    layers = [kept_by_a_layer(s.d, s.H, L_t, s.L_i, n, B, P) for n in asked]
    return {
        "text": s.text_layers * bert_layer + 2 * B * L_t * s.d_t,
        "image": P * (maps + s.L_i * (s.width + s.d)),
        "fusion": sum(layers) + P * s.L_i * s.d,  # all layers read the same cells
    }


def kept_by_a_layer(d: int, H: int, L_t: int, L_i: int, n: int, B: int, P: int) -> int:
    """Numbers that one fusion layer keeps, eq. (7.15), beside the cells that it reads.

    n of L_t words, all or the first alone, ask L_t words and L_i cells of P < B pictures.
    """
    return B * d * (4 * L_t + 12 * n) + 2 * P * L_i * d + B * H * n * (L_t + L_i)


def step_bytes(model: MultimodalBert, B: int, P: int, L_t: int) -> dict[str, int]:
    """Bytes of a training step in fp32 with AdamW: weights, gradients, moments, activations.

    Sixteen a parameter, eq. (7.4), and four for each kept value.
    Source: Rajbhandari et al. (2020), sec. 3.1.
    """
    N = Sizes.of(model).N
    kept = sum(kept_values(model, B, P, L_t).values())
    return {"weights": 4 * N, "gradients": 4 * N, "moments": 8 * N, "activations": 4 * kept}


def saved_bytes(run: Callable[[], Any], module: nn.Module) -> int:
    """Bytes that autograd keeps when `run` is called, each storage once, module's own not counted.

    For a scalar or any other result of `run`. Source: PyTorch, `saved_tensors_hooks`.
    """
    own = {x.untyped_storage().data_ptr() for x in (*module.parameters(), *module.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x  # held, so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = run()
    del out
    return sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in own)
