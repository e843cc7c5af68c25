"""The exercises of chapter 06, and the mistakes they invite, derived as one would make them."""

from __future__ import annotations

from copy import deepcopy
from math import log, log2, sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmlib.book.exercises import Exercise
from mmlib.book.exercises.chapter_06_turns import FUSE, INDEPENDENT, KEEP, TOKENS
from mmlib.encoders import Encoder, GridEncoder
from mmlib.models import MultimodalBert, preset

# 6.1: which comparison could refute the claim
_CLAIMS = {
    "a": ("other question", "what must be exchanged if the words are to have had no part in it?"),
    "b": ("other picture", "what must be exchanged if the words alone might have been enough?"),
    "c": (
        "another name",
        "with another picture or another question a model that answers about any thing of the"
        " picture would lose as well. What must change, and nothing else?",
    ),
    "d": (
        "one vector, same trunk",
        "two models were compared that differ in more than the grid. Which one differs in that?",
    ),
    "e": ("unseen pictures", "what would a model do that had learned its pictures by heart?"),
    "f": ("more seeds", "what else than the repair differs between two trained models?"),
}


def _judge_claims(answer: Any) -> str:
    return _judge_letters(answer, _CLAIMS)


def _judge_letters(answer: Any, right: dict[str, tuple[str, str]]) -> str:
    """A dictionary letter -> name, and for the first wrong one its hint."""
    if not isinstance(answer, dict) or set(answer) != set(right):
        return f"not yet. A dictionary with the keys {', '.join(right)} is asked for."
    names = _NAMES if right is _SYMPTOMS else {name for name, _ in right.values()}
    if unknown := [key for key in right if answer[key] not in names]:
        return f"not yet. {answer[unknown[0]]!r} is none of the names to choose from."
    wrong = [key for key, (name, _) in right.items() if answer[key] != name]
    if not wrong:
        return ""
    key = wrong[0]
    return f"not yet, {len(wrong)} of them. Think again about {key}: {right[key][1]}"


_claims = Exercise(look="", judge=_judge_claims)

# 6.2: each symptom to the check that finds its cause
_NAMES = set(
    "apart words padding missing formula places own start device frozen dropout labels finite"
    " answers weights".split()
)
_SYMPTOMS = {
    "a": ("padding", "what is behind the words that was not there before, and may it count?"),
    "b": ("words", "what does it mean that no prediction depends on the question?"),
    "c": ("missing", "which softmax has no key in that batch, and what is 0/0?"),
    "d": ("places", "what do the two questions differ in, once the cells are a bag?"),
    "e": ("frozen", "no gradient, no step, and yet another network: what moves in a forward pass?"),
    "f": ("weights", "same file, same seed of the data: what else is drawn at random?"),
    "g": ("start", "to which number of classes does that first loss belong?"),
    "h": ("answers", "what else does a prediction change than its own output?"),
    "i": ("device", "what of a model does not move when the model is moved?"),
}


def _judge_symptoms(answer: Any) -> str:
    return _judge_letters(answer, _SYMPTOMS)


_symptoms = Exercise(look="", judge=_judge_symptoms)


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


EXERCISES: dict[str, Exercise] = {
    "6.A": INDEPENDENT,
    "6.B": TOKENS,
    "6.C": FUSE,
    "6.D": KEEP,
    "6.1": _claims,
    "6.2": _symptoms,
    "6.3": _absorb,
    "6.4": _least_sigma,
}
