"""The record `pomology`: real paintings, real names, five folds by name. Does fusion help?

What it should show (known before it was run, from logistic regression on pooled features): the
picture alone is good, the name alone is poor, and both together are better than the picture by less
than five folds can tell, since a variety name that was never seen says little about the species.

The data come from MMLIB_DATA or the public address. The compact copy has smaller pictures than the
public source, so the record says which was used.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmlib.data import pomology
from mmlib.data.table import read_table
from mmlib.tasks.cross_validation import CrossValidation, train_table
from mmlib.tasks.table_model import load_columns
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.run_folder import read_log

EVERY = 20
# of the losses; one thread and two differ by 1.3e-6 (AVX2), other processors were not tried
TOLERANCE = 1e-3


def recipe(data: Path) -> TableRecipe:
    """The run of the README's command, on the CSV that `mmlib data pomology` writes."""
    return TableRecipe(str(data / "pomology.csv"), "image", "name", "species", "name")


def folds(folder: Path) -> dict[str, Any]:
    """The whole run: five folds, all models and controls; resumes from its own caches."""
    pomology.write(folder / "data")
    report = train_table(recipe(folder / "data"), folder / "run")
    del report["recipe"]["data"]  # a path of this machine
    return report


def first_losses(folder: Path) -> dict[str, Any]:
    """The mean loss of each epoch on every twentieth row: a test computes them again in seconds."""
    pomology.write(folder / "data")
    asked = recipe(folder / "data")
    table = read_table(asked.data, asked.inputs, asked.label_column, asked.group_column)
    table = replace(table, rows=table.rows[::EVERY])
    run = CrossValidation.of(asked, table, load_columns(asked), folder)
    shutil.rmtree(folder / "first", ignore_errors=True)
    run.fit("first", "all", torch.arange(len(table.rows)), asked.seed)
    losses = [entry["loss"] for entry in read_log(folder / "first" / "all" / "log.jsonl")]
    steps = len(losses) // asked.epochs
    means = [sum(losses[i : i + steps]) / steps for i in range(0, len(losses), steps)]
    return {"rows": len(table.rows), "losses": means}


UNITS = {"first_losses": first_losses, "folds": folds}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record: DESIGN's fields, from the report of the run and the fingerprint."""
    report = units["folds"]
    kept = (
        "controls", "controls_accuracy", "gain_over", "probe_gain_over", "modalities", "sentence",
        "rows", "missing", "groups", "folds", "by_class", "warnings",
    )  # fmt: skip
    return {
        "recipe": report["recipe"],
        "seeds": [report["recipe"]["seed"]],
        "source": "compact copy" if os.environ.get("MMLIB_DATA") else pomology.ADDRESS,
        "data_sha256": report["data_sha256"],
        "metrics": {name: report[name] for name in ("accuracy", "balanced_accuracy")},
        **{name: report[name] for name in kept},
        "first_losses": units["first_losses"]["losses"],
    }
