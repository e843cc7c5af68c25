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

from mmlib.data import pomology
from mmlib.tasks.cross_validation import train_table
from mmlib.tasks.table_recipe import TableRecipe
from tools import tables


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
    """`tables.first_losses` of the run."""
    pomology.write(folder / "data")
    return tables.first_losses(recipe(folder / "data"), folder)


UNITS = {"first_losses": first_losses, "folds": folds}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record, from the report of the run and the fingerprint."""
    return {
        "source": "compact copy" if os.environ.get("MMLIB_DATA") else pomology.ADDRESS,
        **tables.summary(units["folds"], units["first_losses"]),
    }
