"""What the reader of chapter 06 writes, and the mistakes it invites, each derived."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmlib.book.exercises import Exercise

# 6.A: models that read neighbors, one that does not, one that reads nothing
Model = Callable[[Tensor, Tensor], Tensor]


def _check_models() -> dict[str, Model]:
    """Small models text [B, 3], image [B, 3] → [B, 2] that a check of independence must judge."""
    random = torch.Generator().manual_seed(6)
    W_t, W_i = (torch.randn(3, 2, generator=random) for _ in range(2))

    def sound(text: Tensor, image: Tensor) -> Tensor:
        # a kernel for another batch size rounds otherwise
        return (text @ W_t) * (image @ W_i) + 1e-7 * len(text)

    def mean(text: Tensor, image: Tensor) -> Tensor:
        return sound(text, image) + 0.1 * sound(text, image).mean(0, keepdim=True)

    def before(text: Tensor, image: Tensor) -> Tensor:
        out = sound(text, image)
        return torch.cat([out[:1], out[1:] + 0.1 * out[:-1]])  # the first has no one to read

    def first(text: Tensor, image: Tensor) -> Tensor:
        out = sound(text, image)
        return torch.cat([out[:1] + 0.1 * out[-1:], out[1:]])

    def deaf(text: Tensor, image: Tensor) -> Tensor:
        return torch.ones(len(text), 2)

    return {"sound": sound, "mean": mean, "before": before, "first": first, "deaf": deaf}


_SAYS = {
    "sound": (
        True,
        "The second model treats every sample by itself; only its last digits depend on the size"
        " of the batch. Ask for a small change, not for none.",
    ),
    "mean": (
        False,
        "It does not find a model that adds the mean of the batch to each sample. Another order of"
        " the batch leaves that mean as it is: compare with the sample alone, or change a"
        " neighbor.",
    ),
    "before": (
        False,
        "It does not find a model in which each sample but the first reads the one before it. Whom"
        " did you change, and whom did you look at?",
    ),
    "first": (False, "It does not find a model in which the first sample alone reads another."),
    "deaf": (
        None,
        "It says that a model is sound whose output is a constant. Which control would have moved"
        " a model that reads its input? Return None where it does not.",
    ),
}


def _judge_check(answer: Any) -> str:
    """Run the reader's check on a sound model, on three that read neighbors, on a deaf one."""
    random = torch.Generator().manual_seed(7)
    text, image = (torch.randn(4, 3, generator=random) for _ in range(2))
    models = _check_models()
    # the faults first: a check that always says no must not be told about rounding
    verdicts = {name: answer(models[name], text.clone(), image.clone()) for name in models}
    if all(verdict is not None and not verdict for verdict in verdicts.values()):
        return "not yet. It refuses every model, the sound one included."
    if all(verdict is not None and bool(verdict) for verdict in verdicts.values()):
        return "not yet. It calls every model sound, those that read their neighbors included."
    for name in ("mean", "before", "first", "deaf", "sound"):
        wanted, sentence = _SAYS[name]
        verdict = verdicts[name]
        if (verdict is None) != (wanted is None) or bool(verdict) != bool(wanted):
            return f"not yet. {sentence}"
    return ""


INDEPENDENT = Exercise(look="", judge=_judge_check)


# 6.B: a map [B, c, h, w] as tokens, row by row
def _tokens(cells: Tensor) -> Tensor:
    return cells.flatten(2).transpose(1, 2)


_map = torch.arange(2 * 3 * 2 * 4, dtype=torch.float32).reshape(2, 3, 2, 4)

TOKENS = Exercise(
    look="Which axes are the cells? Make one axis of them, then bring the channels last.",
    right=_tokens,
    cases=((_map,), (_map[:, :, :, :2],)),
    wrong=(
        (
            lambda cells: cells.reshape(len(cells), -1, cells.shape[1]),
            "The shape is right, the content is not: reshape cuts one channel into pieces. The axes"
            " must change places.",
        ),
        (
            lambda cells: cells.transpose(2, 3).flatten(2).transpose(1, 2),
            "Those are the columns one after the other; row by row was asked for.",
        ),
        (
            lambda cells: cells.flatten(2),
            "Those are [B, c, h*w]: a token for each channel. The cells are the tokens.",
        ),
        (
            lambda cells: cells.mean((2, 3)),
            "That is the mean of the cells, one vector a picture: what is to be repaired.",
        ),
        (
            lambda cells: cells.flatten(2).transpose(1, 2).flatten(0, 1),
            "The samples have been put into one list; keep the axis B.",
        ),
    ),
)


# 6.C: merged attention by the library's layer, whose order is (token, sample, width)
def _by_library(turn: bool = True, turn_back: bool = True, mask: str = "right") -> Callable:
    def fuse(attend: nn.MultiheadAttention, words: Tensor, cells: Tensor, there: Tensor) -> Tensor:
        both = torch.cat([words, cells], 1)
        both = both.transpose(0, 1) if turn else both
        hidden = {"right": ~there, "inverted": there, "none": None}[mask]
        out = attend(both, both, both, key_padding_mask=hidden, need_weights=False)[0]
        if not turn:
            return out[:, : words.shape[1]]
        out = out[: words.shape[1]]
        return out.transpose(0, 1) if turn_back else out

    return fuse


def _fuse_cells_only(
    attend: nn.MultiheadAttention, words: Tensor, cells: Tensor, there: Tensor
) -> Tensor:
    hidden = ~there[:, words.shape[1] :]
    q, k = words.transpose(0, 1), cells.transpose(0, 1)
    return attend(q, k, k, key_padding_mask=hidden, need_weights=False)[0].transpose(0, 1)


def _fuse_case() -> tuple[nn.MultiheadAttention, Tensor, Tensor, Tensor]:
    """A layer as it comes, made anew at each call, with words, cells and what is there."""
    random = torch.Generator().manual_seed(6)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        attend = nn.MultiheadAttention(8, 2).double().eval().requires_grad_(False)
        attend.in_proj_weight.mul_(3)
    words, cells = (
        torch.randn(3, n, 8, generator=random, dtype=torch.float64) for n in (4, 5)
    )  # fmt: skip
    there = torch.ones(3, 9, dtype=torch.bool)
    there[0, 3] = there[1, 2] = there[1, 3] = False  # pads
    there[2, 4:] = False  # no picture
    return attend, words, cells, there


_FUSE_MISTAKES = (
    (
        _by_library(mask="inverted"),
        "The library's mask is True where a key may NOT be attended; ours is the reverse.",
    ),
    (_by_library(mask="none"), "The pads and the missing picture are attended: pass the mask."),
    (
        _by_library(turn=False, mask="none"),
        "The layer reads the first axis as the tokens: your samples attend to each other.",
    ),
    (
        _by_library(turn=False),
        "The layer refuses the mask, because it reads your first axis as the tokens: turn the"
        " sequences to its order, and the result back.",
    ),
    (
        _by_library(turn_back=False),
        "The result is in the library's order; turn it back to [B, L, d].",
    ),
    (
        _fuse_cells_only,
        "The keys are the cells alone: that is the specimen's code, not the formula.",
    ),
)


def _fused(fuse: Callable) -> Tensor | None:
    """What `fuse` gives for the case; None where the layer refuses the shape of the mask."""
    try:
        return fuse(*_fuse_case())
    except AssertionError:
        return None


def _judge_fuse(answer: Any) -> str:
    """Each function gets a layer of its own, so that one that changes it harms no other."""
    attend, words, cells, there = _fuse_case()
    try:
        given = answer(attend, words, cells, there)
    except AssertionError:
        given = None
    if attend.batch_first:
        return "not yet. Leave the layer as it comes; turn what you give it and what it gives back."
    right = _fused(_by_library())
    if _alike(given, right):
        return ""
    for mistake, sentence in _FUSE_MISTAKES:
        if _alike(given, _fused(mistake)):
            return f"not yet. {sentence}"
    if given is not None and given.shape != cast(Tensor, right).shape:
        return f"not yet. The shape is {list(given.shape)}, {list(words.shape)} was asked for."
    return "not yet. Three things: the order of the axes, in and out; the keys; the mask's sense."


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-6, equal_nan=True)


FUSE = Exercise(look="", judge=_judge_fuse, wrong=_FUSE_MISTAKES)


# 6.D: a constant of a module, which must follow it
class _Ruler(nn.Module):
    def __init__(self, keep: Callable[[nn.Module, Tensor], None], xy: Tensor):
        super().__init__()
        keep(self, xy)
        self.place = nn.Linear(2, 4, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        return cells + self.place(cast(Tensor, self.xy))


def _judge_keep(answer: Any) -> str:
    """Build a module with the reader's function, and take it to float64 and to the meta device."""
    xy = torch.tensor([[0.0, 1.0], [1.0, -1.0], [0.5, 0.0]])
    cells = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(6))
    ruler = _Ruler(answer, xy.clone())
    if not isinstance(getattr(ruler, "xy", None), Tensor):
        return "no answer yet: the module has no xy that is a tensor."
    if not torch.equal(cast(Tensor, ruler.xy), xy):
        return "not yet. module.xy holds other numbers than it was given."
    if isinstance(ruler.xy, nn.Parameter):
        return "not yet. It would count as a parameter now: it is a constant of the module."
    try:
        deepcopy(ruler).double()(cells.double())
        deepcopy(ruler).to("meta")(cells.to("meta"))
    except RuntimeError:
        return (
            "not yet. It stays behind when the module moves. Which method of a module takes a"
            " tensor that moves with it?"
        )
    if len(ruler.state_dict()) > 1:
        return (
            "not yet, but nearly. It would be saved with every checkpoint, and an old checkpoint"
            " would be refused: the method has an argument for that."
        )
    return ""


KEEP = Exercise(look="", judge=_judge_keep, in_place=True)
