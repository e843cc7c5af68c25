"""The record `emoji`: a drawing and its name, the group to be told, folds by subgroup.

What it should show, written down before it was run. Known is a quick run with other features on
folds at random: picture 0.69, name 0.67, the two fused late 0.773 (accuracy). By subgroup a model
is tested on a kind of thing that it has never seen, so everything will be lower: about 0.55 to 0.65
for the picture and for the name, and about 0.65 to 0.7 for both. Fusion should help here, by 3 to
10 points over each side alone, because the two sides are about equally good and err on different
rows; on the paintings of `pomology` one side was poor, and fusion gained nothing. Most of the gain
should lie in rows of which one side alone is right; where both are wrong, fusion should be wrong
too. "Activities" has five subgroups, one for each fold, that have little in common: it should be
the worst. Folds at random should score 10 to 15 points higher, and those that only keep
near-duplicates together should be nearer to random than to subgroups.

The data come from MMLIB_DATA or the public address, where the same files lie.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmlib.data import emoji
from mmlib.data.table import read_table
from mmlib.tasks.cross_validation import CrossValidation, train_table
from mmlib.tasks.table_model import load_columns
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.run_folder import read_log

EVERY = 20
# of the losses; one thread and two differ by 1.3e-6 (AVX2), other processors were not tried
TOLERANCE = 1e-3


def recipe(data: Path, group_column: str | None = "subgroup") -> TableRecipe:
    """The run of the README's command, on the CSV that `mmlib data emoji` writes."""
    return TableRecipe(str(data / "emoji.csv"), "image", "name", "group", group_column)


def folds(folder: Path, group_column: str | None) -> dict[str, Any]:
    """The whole run: five folds, all models and controls; resumes from its own caches.

    Each unit extracts the features anew, which takes less than its training.
    """
    emoji.write(folder / "data")
    report = train_table(recipe(folder / "data", group_column), folder / "run")
    del report["recipe"]["data"]  # a path of this machine
    return report


def first_losses(folder: Path) -> dict[str, Any]:
    """The mean loss of each epoch on every twentieth row: a test computes them again in seconds."""
    emoji.write(folder / "data")
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


UNITS = {
    "first_losses": first_losses,
    "subgroup": partial(folds, group_column="subgroup"),
    "random": partial(folds, group_column=None),
}
