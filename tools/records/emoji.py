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

What it showed. The scores by subgroup are as expected, the gain over the name too, that over the
picture is a little larger; other folds by subgroup say the same. Where one side alone is right,
both together follow it in two of three rows (a coin would give one of two); that is more than half
of the gain over the name. The rest was not expected: of the rows that both sides get wrong, one in
seven is right together, three times as many as are lost of those that both get right. Some of these
are chance, as the three models are trained apart. Linear probes, of which one can ask how sure they
are, follow the surer side, and so does the product of their probabilities, which scores alike: no
interaction has to be learned here. "Activities" is the worst, and the name alone is better at it
than both.

More leaks than was expected: at random the probes score about 19 points higher. Nearly all of it is
the kind. Near-duplicates, of which most are people, whom everything recognizes, are worth about a
point, which is less than the folds can tell.

What it does not show. That fusion helps is said of one model, shown both or one. A linear probe on
both is as good as that model, and the gain of the probes has the same size but cannot be told from
0; nor can the gain of the model over a linear probe on the name alone.

The data come from MMLIB_DATA or the public address, where the same files lie.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlib.data import emoji
from mmlib.data.folds import split
from mmlib.data.table import Table, read_table
from mmlib.evaluation.controls import shown_sets
from mmlib.evaluation.intervals import balanced_accuracy, fold_interval
from mmlib.evaluation.report import score_interval
from mmlib.tasks.cross_validation import CrossValidation, train_table
from mmlib.tasks.table_model import load_columns
from mmlib.tasks.table_recipe import TableRecipe
from tools import tables

# who is right alone: (picture, name)
SIDES = {
    "both": (True, True), "picture": (True, False), "name": (False, True), "neither": (False, False)
}  # fmt: skip


def recipe(data: Path, group_column: str | None = "subgroup", seed: int = 0) -> TableRecipe:
    """The run of the README's command, on the CSV that `mmlib data emoji` writes."""
    return TableRecipe(str(data / "emoji.csv"), "image", "name", "group", group_column, seed)


def folds(folder: Path, seed: int = 0) -> dict[str, Any]:
    """The whole run: five folds, all models and controls; resumes from its own caches."""
    asked = recipe(prepared(folder), seed=seed)
    report = {**train_table(asked, folder / "run"), "cases": cases(asked, folder / "run")}
    del report["recipe"]["data"]  # a path of this machine
    return report


def prepared(folder: Path) -> Path:
    """The folder of the CSV; the features of the unit `subgroup`, once there, are taken over."""
    features = folder.parent / "subgroup" / "run" / "features"
    if features.exists() and not (folder / "run" / "features").exists():
        shutil.copytree(features, folder / "run" / "features")
    emoji.write(folder / "data")
    return folder / "data"


def divided(asked: TableRecipe, run: Path) -> tuple[Table, CrossValidation, list[list[Tensor]]]:
    """The table of a run, its training, and its folds: training rows [n] and test rows [m]."""
    table = read_table(asked.data, asked.inputs, asked.label_column, asked.group_column)
    validation = CrossValidation.of(asked, table, load_columns(asked), run)
    labels = [row.label for row in table.rows]
    groups = [row.group for row in table.rows] if asked.group_column else None
    made = split(labels, groups, asked.folds, asked.seed)
    return table, validation, [[torch.from_numpy(rows) for rows in fold] for fold in made]


def cases(asked: TableRecipe, run: Path) -> dict[str, Any]:
    """Who is right where, all folds together, from the predictions that a run has kept.

    For each of `SIDES`, {"rows", "together"}: how many rows, and the share of them that picture and
    name together answer rightly. And the names that are right, or wrong, only together.
    """
    table, validation, parts = divided(asked, run)
    right = {key: torch.zeros_like(validation.target) > 0 for key in shown_sets(table.modalities)}
    for number, (train, test) in enumerate(parts):
        found = validation.fold(number, train, test)
        for key, hit in right.items():
            hit[test] = found[key] == validation.target[test]
    together, picture, name = right["all"], right["only_image"], right["only_text"]
    result: dict[str, Any] = {}
    for who, (first, second) in SIDES.items():
        rows = (picture == first) & (name == second)
        share = together[rows].double().mean().item()
        result[who] = {"rows": int(rows.sum()), "together": share}
    for word, chosen in (
        ("right_only_together", together & ~picture & ~name),
        ("wrong_only_together", ~together & picture & name),
    ):
        result[word] = [table.rows[i].inputs["text"] for i in chosen.nonzero().flatten().tolist()]
    return result


def linear(folder: Path, group_column: str | None) -> dict[str, Any]:
    """The linear probes alone, where the rows are divided otherwise: seconds, not minutes."""
    table, validation, parts = divided(recipe(prepared(folder), group_column), folder / "run")
    target = validation.target
    probes = {
        name: [
            balanced_accuracy(validation.probe(shown, train, test).tolist(), target[test].tolist())
            for train, test in parts
        ]
        for name, shown in shown_sets(table.modalities).items()
    }
    gains = {
        name: [both - alone for both, alone in zip(probes["all"], found, strict=True)]
        for name, found in probes.items()
    }
    return {
        "controls": {f"probe_{name}": score_interval(found) for name, found in probes.items()},
        "probe_gain_over": {name: fold_interval(found) for name, found in gains.items()},
    }


def first_losses(folder: Path) -> dict[str, Any]:
    """`tables.first_losses` of the run by subgroup."""
    emoji.write(folder / "data")
    return tables.first_losses(recipe(folder / "data"), folder)


UNITS = {
    "first_losses": first_losses,
    "subgroup": folds,
    "other_folds": partial(folds, seed=1),
    "family": partial(linear, group_column="family"),
    "random": partial(linear, group_column=None),
}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record of the run by subgroup; beside it other folds, and other divisions."""
    probes = {
        name: table_of(units[name]["controls"], units[name]["probe_gain_over"], "probe_")
        for name in ("subgroup", "family", "random")
    }
    models = {
        name: table_of({"all": found["balanced_accuracy"], **found["controls"]}, found["gain_over"])
        for name, found in units.items()
        if name in ("subgroup", "other_folds")
    }
    return {
        "source": emoji.ADDRESS,
        **tables.summary(units["subgroup"], units["first_losses"]),
        "cases": units["subgroup"]["cases"],
        "divided_again": models,
        "linear_by_division": probes,
    }


def table_of(scores: dict[str, Any], gains: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Balanced accuracy together and of each alone, and what both gain over each."""
    return {
        "picture_and_name": scores[f"{prefix}all"],
        "picture_alone": scores[f"{prefix}only_image"],
        "name_alone": scores[f"{prefix}only_text"],
        "gain_over_picture": gains["only_image"],
        "gain_over_name": gains["only_text"],
    }
