"""A table's model as a run keeps it: its columns, what was trained, and answers for new rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlib.data.features import Features, extract
from mmlib.data.frozen import FrozenColumn, FrozenPicture, FrozenText
from mmlib.data.table import Row, columns, describe, read_table, unknown_labels
from mmlib.data.table_batches import batch_of
from mmlib.encoders.pretrained import load_image, load_text
from mmlib.errors import expected
from mmlib.evaluation.inference import evaluating
from mmlib.tasks.table import TableTask
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.checkpoint import load_weights, read_checkpoint
from mmlib.training.config import Execution
from mmlib.training.fit import start
from mmlib.training.run_folder import RunFolder
from mmlib.training.task import to_device

BATCH = 256


def load_columns(
    recipe: TableRecipe, device: torch.device | str = "cpu"
) -> dict[str, FrozenColumn]:
    """{modality: its frozen network, on that device}; the text asks, so it comes first.

    Raises UserError where weights cannot be found.
    """
    text, tokenizer = load_text(recipe.text_encoder)
    image = load_image(recipe.image_encoder)
    return {
        "text": FrozenText(text.to(device), tokenizer, recipe.text_length),  # type: ignore[arg-type]
        "image": FrozenPicture(image.to(device), recipe.image_size),
    }


def keys(columns: Mapping[str, FrozenColumn]) -> dict[str, str]:
    """{modality: all that decides its features}, fingerprint of the network included."""
    return {name: " ".join(column.key()) for name, column in columns.items()}


def probabilities(
    task: TableTask,
    features: Features,
    rows: Tensor,
    shown: Sequence[str],
    exchanged: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """p(class | row) of these rows [N, C], on the CPU; see `batch_of` for `exchanged`."""
    device = task.class_weight.device
    found = []
    with evaluating(task):
        for start_ in range(0, len(rows), BATCH):
            part = slice(start_, start_ + BATCH)
            taken = {name: others[part] for name, others in (exchanged or {}).items()}
            batch = to_device(batch_of(features, rows[part], shown, taken), device)
            found.append(task.logits(batch).softmax(-1).cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class TableModel:
    """What a finished run answers with."""

    recipe: TableRecipe
    columns: Mapping[str, FrozenColumn]
    task: TableTask
    classes: Sequence[str]

    @classmethod
    def load(cls, run: Path, execution: Execution = Execution()) -> TableModel:
        """The model of a run folder, every trained tensor of it.

        Raises UserError where the run is not one of `train_table`, where a tensor is not there, or
        where its networks cannot be found or have other weights than those it was trained with.
        """
        folder = RunFolder(run)
        _, values, state = read_checkpoint(folder.best)
        recipe = TableRecipe.from_json(values)
        classes, saved = _state(state, folder)
        device = start(execution).device
        columns = load_columns(recipe, device)
        if keys(columns) != saved:
            raise expected(
                f"the networks that {run} was trained with",
                f"other weights for {recipe.text_encoder} or {recipe.image_encoder}",
                "install the same ones, or train again",
            )
        task = TableTask.new(
            columns, recipe.d, recipe.heads, recipe.layers, recipe.fusion, recipe.dropout,
            torch.ones(len(classes)), recipe.seed,
        )  # fmt: skip
        load_weights(folder.best, task)
        return cls(recipe, columns, task.to(device), classes)

    def predict(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The answer for each row: {"row", "label", "probability"}, in the rows' order."""
        if not rows:
            return []
        with tempfile.TemporaryDirectory() as cache:
            features = extract(self.columns, rows, Path(cache))
        whole = probabilities(self.task, features, torch.arange(len(rows)), list(self.columns))
        probability, best = whole.max(-1)
        return [
            {"row": row.number, "label": self.classes[int(c)], "probability": round(float(p), 4)}
            for row, p, c in zip(rows, probability, best, strict=True)
        ]


def _state(state: Any, folder: RunFolder) -> tuple[list[str], dict[str, str]]:
    """The classes and the networks' keys of a checkpoint's notes."""
    classes = state.get("classes") if isinstance(state, dict) else None
    saved = state.get("columns") if isinstance(state, dict) else None
    if (
        not isinstance(classes, list)
        or not all(isinstance(label, str) for label in classes)
        or len(classes) < 2
        or not isinstance(saved, dict)
    ):
        raise expected(
            f"the labels of a run on a table in {folder.best}",
            "none",
            "copy it anew, or train again",
        )
    return classes, saved


def predict_table(
    run: Path, data: str | Path, execution: Execution = Execution()
) -> list[dict[str, Any]]:
    """`TableModel.predict` for a CSV with the run's columns; its label column may be missing.

    Rows that cannot be used are in the list too, as {"row", "problem"}. Where the table has labels,
    each answer has "given", the label of the table.

    Raises UserError as `TableModel.load` and `read_table` do, and where a label is none of those
    the run knows, with the numbers of the rows.
    """
    model = TableModel.load(run, execution)
    label = model.recipe.label_column
    label_column = label if label in columns(data) else None
    table = read_table(data, model.recipe.inputs, label_column, labels_needed=False)
    if unknown := unknown_labels(table, model.classes):
        raise expected(
            f"labels that {run} knows ({', '.join(model.classes)})",
            describe(unknown),
            "remove these rows, or train again with them",
        )
    answers = model.predict(table.rows)
    for answer, row in zip(answers, table.rows, strict=True):
        if row.label:
            answer["given"] = row.label
    problems = [{"row": problem.row, "problem": problem.reason} for problem in table.problems]
    return sorted(answers + problems, key=lambda answer: answer["row"])
