"""Exercise 7.6: four runs that were cut off and resumed, and what each of them forgot."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from mmlib.book.exercises import Exercise
from mmlib.training.seeds import derive_seed


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
    "moments": "what does AdamW's first step look like, eq. (7.18)? Look at the update of step 6.",
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
