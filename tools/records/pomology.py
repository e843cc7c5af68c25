"""The record `pomology`: real paintings, real names, five folds by name. Does fusion help?

What it should show (known before it was run, from logistic regression on pooled features): the
picture alone is good, the name alone is poor, and both together are better than the picture by less
than five folds can tell, since a variety name that was never seen says little about the species.

The data come from MMLIB_DATA or the public address. The compact copy has smaller pictures than the
public source, so the record says which was used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mmlib.data import pomology
from mmlib.data.table import read_table
from mmlib.tasks.cross_validation import Backbones, CrossValidation, TableRecipe, train_table
from mmlib.training.fit import read_log

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
    how = recipe(folder / "data")
    table = read_table(how.data, "image", "name", "species", "name")
    rows, classes = table.rows[::EVERY], table.classes
    backbones = Backbones.load(how)
    features = backbones.extract(how, rows, folder / "features")
    target = torch.tensor([classes.index(row.label) for row in rows])
    log = folder / "log.jsonl"
    log.unlink(missing_ok=True)
    run = CrossValidation(how, backbones, features, target, len(classes), log)
    run.fit("first", "both", torch.arange(len(rows)), how.seed, lambda: None)
    return {"rows": len(rows), "losses": [entry["loss"] for entry in read_log(log)]}


UNITS = {"first_losses": first_losses, "folds": folds}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record: DESIGN's fields, from the report of the run and the fingerprint."""
    report = units["folds"]
    return {
        "recipe": report["recipe"],
        "seeds": [report["recipe"]["seed"]],
        "source": "compact copy" if os.environ.get("MMLIB_DATA") else pomology.ADDRESS,
        "data_sha256": report["data_sha256"],
        "metrics": {name: report[name] for name in ("accuracy", "balanced_accuracy")},
        "controls": report["controls"],
        "controls_accuracy": report["controls_accuracy"],
        "gain_over": report["gain_over"],
        "probe_gain_over_image_only": report["probe_gain_over_image_only"],
        "sentence": report["sentence"],
        "rows": report["rows"],
        "without_text": report["without_text"],
        "groups": report["groups"],
        "folds": report["folds"],
        "by_class": report["by_class"],
        "warnings": report["warnings"],
        "first_losses": units["first_losses"]["losses"],
    }
