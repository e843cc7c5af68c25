"""Exercises 7.1, 7.3 and 7.5: sick runs by their curves, groups of rates, resumed runs."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlib.book.exercises import Exercise
from mmlib.models import MultimodalBert, preset
from mmlib.training.seeds import derive_seed

# --- 7.1: six runs, by their curves ---------------------------------------------------------------

_NOISE = 0.15  # the share of labels that are wrong, so that no honest model is below FLOOR
FLOOR = -(1 - _NOISE) * math.log(1 - _NOISE) - _NOISE * math.log(_NOISE / 2)
_FAULTS = {
    "A": "leak",
    "B": "zero_grad",
    "C": "frozen",
    "D": "healthy",
    "E": "overfits",
    "F": "rate",
}


def _points(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n points [n, 2] of the plane, and how many of their coordinates are positive, with noise."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    other = (y + torch.randint(1, 3, (n,), generator=g)) % 3
    return x, torch.where(torch.rand(n, generator=g) < _NOISE, other, y)


@cache
def curves(run: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The losses of run "A" to "F" over 120 steps: on its batches, and on points it never sees."""
    fault = _FAULTS[run]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    rate = {"rate": 20.0, "zero_grad": 0.06}.get(fault, 0.5)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), rate)
    if fault == "overfits":
        optimizer = torch.optim.AdamW(net.parameters(), 0.05, weight_decay=0.0)

    def seen(x: Tensor, y: Tensor) -> Tensor:
        label = F.one_hot(y, 3).double()
        return torch.cat([x, label if fault == "leak" else torch.zeros_like(label)], 1)

    own, unseen = [], []
    new = _points(400, 10**6)
    for step in range(120):
        x, y = _points(40, 0) if fault == "overfits" else _points(64, step)
        loss = F.cross_entropy(net(seen(x, y)), y)
        if fault != "zero_grad":
            optimizer.zero_grad()
        if fault != "frozen":
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            unseen.append(float(F.cross_entropy(net(seen(*new)), new[1])))
        own.append(float(loss.detach()))
    return tuple(own), tuple(unseen)


_SAYS = {
    "leak": "both losses are far below the floor, so something in the input tells the label, on"
    " new points as well.",
    "zero_grad": "the loss falls at first as it should. Then the old gradients, which are still"
    " added, carry the weights past the goal and back, in swings.",
    "frozen": "the loss on new points does not move at all; the other one moves because its"
    " batches do.",
    "healthy": "both losses come down together and stay above the floor, not far from it.",
    "overfits": "the loss on its own points goes below the floor while that on new points rises.",
    "rate": "from the second step on the loss is many times that of guessing.",
}


def _diagnose(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(_FAULTS):
        return f"not yet. Give a dictionary with the keys {', '.join(_FAULTS)}."
    if unknown := [word for word in answer.values() if word not in _SAYS]:
        return f"not yet. '{unknown[0]}' is not one of {', '.join(sorted(_SAYS))}."
    for run, fault in _FAULTS.items():
        if answer[run] != fault:
            return f"not yet. Look at run {run} again: {_SAYS[fault]}"
    return ""


DIAGNOSED = Exercise(look="", judge=_diagnose)

# --- 7.3: the rates of pretrained and new parts ---------------------------------------------------

NEW, PRETRAINED, DECAY = 1e-3, 1e-4, 0.01
FROZEN = ("conv1", "bn1", "layer1")


def half_frozen() -> MultimodalBert:
    """A `tiny` model of which the picture's first stages are frozen."""
    torch.manual_seed(7)
    model = MultimodalBert.from_config(preset("tiny", 5, 20))
    image: Any = model.encoders["image"]
    image.freeze(*FROZEN)
    return model


def wanted(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Name of each parameter that learns -> its rate and its decay."""
    return {
        name: (
            PRETRAINED if name.startswith("encoders.") and ".backbone." in name else NEW,
            DECAY if p.dim() >= 2 else 0.0,
        )
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _judge_groups(answer: Any) -> str:
    model = half_frozen()
    names = {id(p): name for name, p in model.named_parameters()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    groups = answer(model)
    given: dict[str, tuple[float, float]] = {}
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            if name in given:
                return f"not yet. {name} is in two groups; the optimizer refuses that."
            given[name] = (float(group["lr"]), float(group["weight_decay"]))
    asked = wanted(model)
    if inside := sorted(frozen & set(given)):
        return f"not yet. {inside[0]} is frozen and in a group; leave it out."
    if missing := [name for name in asked if name not in given]:
        return f"not yet. {missing[0]} learns and is in no group, so it will never move."
    rates = {name: given[name][0] for name in asked}
    off = [name for name in asked if not math.isclose(rates[name], asked[name][0])]
    if off and len(set(rates.values())) == 1:
        return "not yet. Everything has the same rate."
    if off and all("backbone" not in name and name.startswith("encoders.") for name in off):
        return (
            f"not yet. {off[0]} belongs to an encoder, but it is new: only the backbone was"
            " pretrained."
        )
    if off:
        return f"not yet. {off[0]} has the rate {rates[off[0]]:g}, and should have another."
    off = [name for name in asked if given[name][1] != asked[name][1]]
    if off and not any(decay for _, decay in given.values()):
        return "not yet. Nothing decays: matrices and kernels should, by 0.01."
    if off:
        what = "has one axis and should not decay" if asked[off[0]][1] == 0 else "should decay"
        return f"not yet. {off[0]} {what}."
    return ""


GROUPS = Exercise(look="", judge=_judge_groups)

# --- 7.5: four resumed runs -----------------------------------------------------------------------


def resumed(run: str) -> list[dict[str, float]]:
    """What steps 4 to 7 of a run look like that was cut off after step 5 and resumed.

    run "A" to "D". Each step gives {"step", "x", "rate", "update"}: the first number of its batch,
    the learning rate, and the mean size of AdamW's update in units of that rate.
    """
    lost = _LOST[run]
    torch.manual_seed(7)
    layer = torch.nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1, (0.9, 0.98), weight_decay=0.0)
    rows = []
    for step in range(8):
        if step == 6 and lost == "moments":
            optimizer = torch.optim.AdamW(layer.parameters(), 0.1, (0.9, 0.98), weight_decay=0.0)
        again = step - 6 if step >= 6 else step
        draw = torch.Generator().manual_seed(derive_seed(7, again if lost == "batches" else step))
        x = torch.randn(8, 6, generator=draw)
        y = torch.randint(3, (8,), generator=draw)
        rate = 0.1 * (1 - (again if lost == "rate" else step) / 10)
        for group in optimizer.param_groups:
            group["lr"] = rate
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        F.cross_entropy(layer(x), y).backward()
        optimizer.step()
        moved = (layer.weight.detach() - before).abs().mean() / rate
        rows.append({"step": step, "x": float(x[0, 0]), "rate": rate, "update": float(moved)})
    first = {"step": 0, "x": rows[0]["x"], "rate": rows[0]["rate"], "update": rows[0]["update"]}
    return [first, *rows[4:]]


_LOST = {"A": "moments", "B": "batches", "C": "nothing", "D": "rate"}
_WORDS = ("moments", "batches", "rate", "nothing")
_WHY = {
    "moments": "what does AdamW's first step look like, eq. (7.5)? Look at the update of step 6.",
    "batches": "compare its first number at step 6 with that at step 0.",
    "rate": "the rate falls by the same amount each step, and is a function of the step.",
    "nothing": "rate, batch and size of the update go on as if nothing had happened.",
}


def _judge(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(_LOST):
        return f"not yet. Give a dictionary with the keys {', '.join(_LOST)}."
    if unknown := [word for word in answer.values() if word not in _WORDS]:
        return f"not yet. '{unknown[0]}' is not one of {', '.join(_WORDS)}."
    for run, lost in _LOST.items():
        if answer[run] != lost:
            return f"not yet. Look at run {run} again: {_WHY[lost]}"
    return ""


RESUMED = Exercise(look="", judge=_judge)
