"""Chapter 04's table: each fusion on each symbolic task, against what theory allows.

Written before the record was run (a shorter trial of ten rows on `xor` and `reference` had been
seen): every cell ends within TOLERANCE nats of the least loss that its form
allows, and none below it. So `late` and the document's own pattern (attention to one picture
vector) stay at ln 2 on `xor`; whatever reads only means stays at the pooled bound on `reference`,
where a picture without any text does as well; more parameters do not help `late`; text and image
alone suffice on their own bit and on `redundant`, where no fusion can be better.

There is nothing to sample: a step is one gradient of the exact expected loss over all inputs, so
seeds differ in the initial weights alone.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmlib.book.limits import FORM, limit
from mmlib.book.symbolic_model import SymbolicModel, expected_accuracy, expected_loss
from mmlib.book.symbols import TASKS, SymbolicTask
from mmlib.evaluation import interval
from mmlib.fusion import FUSIONS, MergedAttention
from mmlib.tokens import Tokens

SEEDS = tuple(range(8))
STEPS, RATE, WIDTH, HEADS = 300, 0.01, 16, 4
TOLERANCE = 0.02  # nats between the least loss that theory allows and the loss reached
EVERY = 10  # steps between two points of a curve
CONTROLS = ("shuffled_picture", "shuffled_text", "no_picture", "no_text")


class Row(NamedTuple):
    """One line of the table: a fusion, what it is shown, the form its answer must then have."""

    fusion: str
    form: str
    d: int = WIDTH
    averaged: bool = False  # the picture is one vector
    sees: tuple[str, ...] = ("text", "image")


def parameters(fusion: str, d: int) -> int:
    """Parameters of the whole symbolic model; every task has the same feature widths."""
    return sum(p.numel() for p in SymbolicModel(TASKS["xor"], fusion, d, HEADS).parameters())


def width_for(fusion: str, count: int) -> int:
    """The least width, a multiple of the heads, at which the fusion has that many parameters."""
    return next(d for d in range(HEADS, 4096, HEADS) if parameters(fusion, d) >= count)


ROWS: dict[str, Row] = {
    "text_alone": Row("concat", "text", sees=("text",)),
    "picture_alone": Row("concat", "picture", sees=("image",)),
    "late": Row("late", "sum"),
    "late_wide": Row("late", "sum", width_for("late", max(parameters(f, WIDTH) for f in FUSIONS))),
    "cross_one_key": Row("cross", "sum", averaged=True),
    **{name: Row(name, FORM[name]) for name in ("bilinear", "film", "concat")},
    "merged_one_key": Row("merged", "means", averaged=True),
    **{name: Row(name, form) for name, form in FORM.items() if form == "tokens"},
}


def prediction(row: Row, task: SymbolicTask) -> dict[str, float]:
    """What theory allows: {"accuracy": at most, "loss": at least}."""
    return asdict(limit(task, row.form))


def inputs(row: Row, task: SymbolicTask, missing: tuple[str, ...] = ()) -> tuple[Tokens, Tokens]:
    """All pairs as the row sees them; a missing side has nothing to attend to and says nothing."""
    texts, pictures = (task.averaged() if row.averaged else task).pairs()
    gone = [side for side in ("text", "image") if side in missing or side not in row.sees]
    if "text" in gone:
        texts = Tokens(torch.zeros_like(texts.value), texts.absent().mask)
    if "image" in gone:
        pictures = pictures.absent()
    return texts, pictures


def train(row: Row, task: SymbolicTask, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> dict:
    """All seeds side by side; vmap makes of them one computation, not one model.

    Returns "losses" [steps, S], the final "logits" {view: [S, T·P, 2]}, "snapshots" and "share"
    (merged attention alone: its weights on the way, its share on the picture at the end).
    """
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(SymbolicModel(task, row.fusion, row.d, HEADS))
    weights, _ = stack_module_state(models)
    one, seen = models[0], inputs(row, task)

    def loss(w: dict[str, Tensor]) -> Tensor:
        return expected_loss(functional_call(one, w, seen), task)

    def answers(missing: tuple[str, ...] = ()) -> Tensor:
        view = inputs(row, task, missing)
        with torch.no_grad():
            return vmap(lambda w: functional_call(one, w, view))(weights)

    optimizer = torch.optim.Adam(weights.values(), lr=RATE)
    losses, snapshots = [], []
    merged = isinstance(one.fusion, MergedAttention)
    # the fused kernel has no rule for vmap and would run model by model
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("ignore", "expected two or more keys")
        for step in range(steps):
            if merged and step % EVERY == 0:
                snapshots.append(_attention(one, weights, row, task))
            optimizer.zero_grad()
            each = vmap(loss)(weights)
            each.sum().backward()
            optimizer.step()
            losses.append(each.detach())
        logits = {"": answers(), "no_picture": answers(("image",)), "no_text": answers(("text",))}
        if merged:
            snapshots.append(_attention(one, weights, row, task))
    return {"losses": torch.stack(losses), "logits": logits, "snapshots": snapshots}


def _attention(
    model: SymbolicModel, weights: dict, row: Row, task: SymbolicTask
) -> dict[str, Tensor]:
    """Merged attention of the first word, mean over heads: {modality: [S, T·P, L_m]}."""
    look, seen = _Look(model), inputs(row, task)
    named = {f"model.{name}": w for name, w in weights.items()}
    with torch.no_grad():
        maps = vmap(lambda w: functional_call(look, w, seen))(named)
    return {m: w[..., 0, :].mean(2) for m, w in maps.items()}


class _Look(torch.nn.Module):
    """`functional_call` calls forward; this makes forward the attention weights."""

    def __init__(self, model: SymbolicModel):
        super().__init__()
        self.model = model

    def forward(self, texts: Tokens, pictures: Tokens) -> dict[str, Tensor]:
        streams = self.model.streams(texts, pictures)
        assert isinstance(self.model.fusion, MergedAttention)
        return self.model.fusion.weights(streams["text"], streams)


def cell(row: Row, task: SymbolicTask) -> dict[str, Any]:
    """Train one cell of the table and measure it, exactly, over all inputs."""
    result = train(row, task)
    final, T = result["logits"][""], len(task.texts)
    values: dict[str, Any] = {
        "loss": [float(expected_loss(x, task)) for x in final],
        "accuracy": [expected_accuracy(x, task) for x in final],
        "shuffled_picture": [expected_accuracy(x, task, "picture") for x in final],
        "shuffled_text": [expected_accuracy(x, task, "text") for x in final],
        "no_picture": [expected_accuracy(x, task) for x in result["logits"]["no_picture"]],
        "no_text": [expected_accuracy(x, task) for x in result["logits"]["no_text"]],
        "first_losses": result["losses"][:5].T.tolist(),
        "curve": result["losses"][::EVERY].mean(1).tolist(),
    }
    if result["snapshots"]:
        weight = task.weight.flatten().float()
        shares = [(s["image"].sum(-1) @ weight) for s in (result["snapshots"][0],
                  result["snapshots"][-1])]  # fmt: skip
        values["share_at_start"], values["share"] = (s.tolist() for s in shares)
        # seed 0: what each question looks at, mean over the pictures [question, word or cell]
        values["attention"] = [
            torch.cat([s["text"], s["image"]], -1)[0].reshape(T, -1, s["text"].shape[-1]
            + s["image"].shape[-1]).mean(1).tolist()
            for s in result["snapshots"]
        ]  # fmt: skip
    return values


def _unit(row: Row, task: SymbolicTask):
    def run(folder: Path) -> dict[str, Any]:
        torch.set_num_threads(1)  # the sums are short; a second thread only changes their order
        return cell(row, task)

    return run


UNITS = {f"{r}-{t}": _unit(row, task) for r, row in ROWS.items() for t, task in TASKS.items()}


def _rounded(value: Any) -> Any:
    """Six decimals, all that is read from a record."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_rounded(x) for x in value]
    if isinstance(value, dict):
        return {k: _rounded(x) for k, x in value.items()}
    return value


def verdict(reached: list[float], least: float) -> str:
    """Theory against experiment, by the mean loss: "agrees", "falls short" or "refutes theory"."""
    if min(reached) < least - 1e-4:
        return "refutes theory"
    return "agrees" if sum(reached) / len(reached) <= least + TOLERANCE else "falls short"


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    """The record: per row and task the prediction, the figures by seed, and their intervals."""
    cells: dict[str, dict] = {r: {} for r in ROWS}
    for r, row in ROWS.items():
        for t, task in TASKS.items():
            # the chapter looks at the attention of one cell; the others would be most of the file
            dropped = {"seconds"} if (r, t) == ("merged", "reference") else {"seconds", "attention"}
            cells[r][t] = {k: v for k, v in units[f"{r}-{t}"].items() if k not in dropped}
            cells[r][t]["prediction"] = prediction(row, task)
            cells[r][t]["verdict"] = verdict(cells[r][t]["loss"], cells[r][t]["prediction"]["loss"])

    def intervals(name: str) -> dict[str, dict]:
        return {r: {t: interval(c[name]) for t, c in tasks.items()} for r, tasks in cells.items()}

    record = {
        "title": "Fusion methods on symbolic tasks (chapter 04)",
        "recipe": {"steps": STEPS, "rate": RATE, "optimizer": "Adam", "heads": HEADS,
                   "tolerance": TOLERANCE, "every": EVERY, "batch": "all inputs"},
        "seeds": list(SEEDS),
        "data": {name: task.digest() for name, task in TASKS.items()},
        "rows": {r: {**row._asdict(), "parameters": parameters(row.fusion, row.d)}
                 for r, row in ROWS.items()},
        "metrics": {"accuracy": intervals("accuracy"), "loss": intervals("loss")},
        "controls": {name: intervals(name) for name in CONTROLS[:2]},
        "agreement": {v: sum(c["verdict"] == v for tasks in cells.values() for c in tasks.values())
                      for v in ("agrees", "falls short", "refutes theory")},
        "cells": cells,
    }  # fmt: skip
    return _rounded(record)
