"""What the records of runs on a table have in common: their fingerprint, and what they keep."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmlib.data.table import read_table
from mmlib.tasks.cross_validation import CrossValidation
from mmlib.tasks.table_model import load_columns
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.run_folder import read_log

EVERY = 20
# of the losses; one thread and two differ by 1.3e-6 (AVX2), other processors were not tried
TOLERANCE = 1e-3
KEPT = (
    "controls", "controls_accuracy", "gain_over", "probe_gain_over", "modalities", "sentence",
    "rows", "missing", "groups", "folds", "by_class", "warnings",
)  # fmt: skip


def first_losses(recipe: TableRecipe, folder: Path) -> dict[str, Any]:
    """The mean loss of each epoch on every twentieth row: a test computes them again in seconds."""
    table = read_table(recipe.data, recipe.inputs, recipe.label_column, recipe.group_column)
    table = replace(table, rows=table.rows[::EVERY])
    run = CrossValidation.of(recipe, table, load_columns(recipe), folder)
    shutil.rmtree(folder / "first", ignore_errors=True)
    run.fit("first", "all", torch.arange(len(table.rows)), recipe.seed)
    losses = [entry["loss"] for entry in read_log(folder / "first" / "all" / "log.jsonl")]
    steps = len(losses) // recipe.epochs
    means = [sum(losses[i : i + steps]) / steps for i in range(0, len(losses), steps)]
    return {"rows": len(table.rows), "losses": means}


def summary(report: dict[str, Any], losses: dict[str, Any]) -> dict[str, Any]:
    """A record: what is kept of the report of a run, and `first_losses`."""
    return {
        "recipe": report["recipe"],
        "seeds": [report["recipe"]["seed"]],
        "data_sha256": report["data_sha256"],
        "metrics": {name: report[name] for name in ("accuracy", "balanced_accuracy")},
        **{name: report[name] for name in KEPT},
        "first_losses": losses["losses"],
    }
