"""The exercises of chapter 06, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import ceil, floor, log, log2, sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmlib.book.exercises import Exercise
from mmlib.encoders import Encoder, GridEncoder
from mmlib.models import MultimodalBert, preset

# 6.1: words, pads and cells under one softmax at equal scores
_share_of_pads = Exercise(
    right=lambda words, pads, cells: pads / (words + pads + cells),
    wrong=(
        (
            lambda words, pads, cells: pads / (words + pads),
            "That is the share within BERT. In the fusion the cells are keys as well.",
        ),
        (
            lambda words, pads, cells: pads / (words + cells),
            "The pads are in the denominator too: softmax sums over all keys.",
        ),
        (lambda words, pads, cells: pads / words, "A share of the whole, not a ratio to a part."),
        (lambda words, pads, cells: pads / (pads + cells), "The real words are keys as well."),
        (
            lambda words, pads, cells: words / (words + pads + cells),
            "That is the words' share; the pads' was asked for.",
        ),
        (
            lambda words, pads, cells: (words + pads) / (words + pads + cells),
            "That is the share of all text tokens, the real ones included.",
        ),
        (
            lambda words, pads, cells: 0.0,
            "That is what the mask makes of it. Without a mask a pad is a key like any other.",
        ),
    ),
    cases=((6, 6, 64), (9, 3, 49), (5, 0, 4), (12, 20, 1)),
    look="At equal scores every term e^s is the same. How many terms are there, how many are pads?",
)

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


_independence = Exercise(look="", judge=_judge_check)

_SYMPTOMS = {
    "a": ("padding", "sorting by length changes only with whom a text is padded."),
    "b": ("words", "what does it mean that no prediction depends on the question?"),
    "c": ("missing", "which softmax has no key in that batch, and what is 0/0?"),
    "d": ("places", "what do the two questions differ in, once the cells are a bag?"),
    "e": ("frozen", "no gradient, no step, and yet another network: what moves in a forward pass?"),
    "f": ("weights", "same file, same seed of the data: what else is drawn at random?"),
    "g": ("start", "to which number of classes does that first loss belong?"),
    "h": ("answers", "what else does a prediction change than its own output?"),
}


def _judge_symptoms(answer: Any) -> str:
    """Each symptom to the check that finds its cause."""
    if not isinstance(answer, dict) or set(answer) != set(_SYMPTOMS):
        return f"not yet. A dictionary with the keys {', '.join(_SYMPTOMS)} is asked for."
    wrong = [key for key, (name, _) in _SYMPTOMS.items() if answer[key] != name]
    if not wrong:
        return ""
    key = wrong[0]
    return f"not yet, {len(wrong)} of them. Think again about {key}: {_SYMPTOMS[key][1]}"


_symptoms = Exercise(look="", judge=_judge_symptoms)


# 6.4: merged attention by the library's layer, whose order is (token, sample, width)
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


_planted = Exercise(look="", judge=_judge_fuse, wrong=_FUSE_MISTAKES)


def _tiny_model() -> MultimodalBert:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        config = preset("tiny", 5, 20, image_size=16)
        model = MultimodalBert.from_config(config).double().eval()
        nn.init.normal_(model.modality.weight)  # as if it had been learned
        nn.init.normal_(cast(GridEncoder, model.encoders["image"]).norm.weight)
    return model


def _logits(model: MultimodalBert) -> Tensor:
    random = torch.Generator().manual_seed(6)
    ids = torch.randint(3, 20, (2, 5), generator=random)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
    pictures = torch.randn(2, 3, 16, 16, generator=random, dtype=torch.float64)
    with torch.no_grad():
        return model(text, pictures)


def _judge_absorbed(answer: Any) -> str:
    """Whether the reader's function empties the modality vectors and keeps the logits."""
    model = _tiny_model()
    given = deepcopy(model)
    with torch.no_grad():
        changed = answer(given)
    changed = given if changed is None else changed
    if bool(changed.modality.weight.any()):
        return "not yet. The vectors of the modalities are not zero."
    before, after = _logits(model), _logits(changed)
    if torch.allclose(before, after, atol=1e-9):
        return ""
    m = model.modality.weight.detach()
    text, image = cast(Encoder, model.encoders["text"]), cast(GridEncoder, model.encoders["image"])
    places = {
        "encoders.text.proj.bias": text.proj.bias,
        "encoders.image.norm.bias": image.norm.bias,
        "encoders.image.proj.bias": image.proj.bias,
    }
    grown = {}
    for name, bias in places.items():
        now = cast(nn.Linear, changed.get_submodule(name.removesuffix(".bias"))).bias
        grown[name] = (now - bias).detach()
    if not any(bool(g.any()) for g in grown.values()):
        return "not yet. They are zero, but what they added is lost: where can it stand instead?"
    if bool(grown["encoders.image.proj.bias"].any()):
        return (
            "not yet. The picture's bias stands before the LayerNorm, which takes away the mean and"
            " rescales the rest. What is added last?"
        )
    if torch.allclose(grown["encoders.text.proj.bias"], m[1]):
        return "not yet. The first vector is the text's, the second the picture's."
    return "not yet. One of the two modalities has the wrong bias; compare the tokens of outputs()."


_absorb = Exercise(look="", judge=_judge_absorbed, in_place=True)

_least_sigma = Exercise(
    right=lambda L, C: sqrt(2 * (L - log(C))),
    wrong=(
        (lambda L, C: sqrt(L - log(C)), "The bound has σ²/2: the two is missing."),
        (lambda L, C: 2 * (L - log(C)), "That is σ²; the root was asked for."),
        (lambda L, C: L - log(C), "That is σ²/2."),
        (
            lambda L, C: sqrt(2 * (L - log2(C))) if log2(C) < L else 0.0,
            "Natural logarithms: a loss is in nats.",
        ),
        (lambda L, C: sqrt(2 * L), "The loss of equal logits, ln C, is to be taken off first."),
        (lambda L, C: sqrt(2 * (L + log(C))), "ln C stands on the other side with a minus."),
    ),
    cases=((6.9, 31), (9.0, 4), (3.5, 31)),
    look="Put the observed loss in the middle of the inequality and use its right half.",
)


def _batches(share: float, momentum: float) -> float:
    return log(1 - share) / log(1 - momentum)


_until = Exercise(
    right=lambda share, momentum: ceil(_batches(share, momentum)),
    wrong=(
        (
            lambda share, momentum: floor(_batches(share, momentum)),
            "After that many batches a little is still missing: round up.",
        ),
        (
            lambda share, momentum: ceil(log(share) / log(1 - momentum)),
            "That is when the old mean still weighs `share`; it should weigh what is left of it.",
        ),
        (
            lambda share, momentum: ceil(share / momentum),
            "Each batch moves it by a share of what is left, not of the whole.",
        ),
        (
            lambda share, momentum: ceil(log(1 - share) / log(momentum)),
            "PyTorch's momentum is the weight of the new batch, not of the old mean.",
        ),
    ),
    cases=((0.9, 0.1), (0.5, 0.1), (0.99, 0.03), (0.75, 0.3)),
    look="In the book's equation, when has the weight of the old mean fallen to 1 − share?",
)

EXERCISES: dict[str, Exercise] = {
    "6.1": _share_of_pads,
    "6.2": _independence,
    "6.3": _symptoms,
    "6.4": _planted,
    "6.5": _absorb,
    "6.6": _least_sigma,
    "6.7": _until,
}
