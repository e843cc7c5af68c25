"""Training on the reader's own table, and the answer to the question whether fusion helps.

Each modality goes through a frozen backbone once (`mmlib.data.features`); what is trained is the
rest of the model: projections, fusion layers, head. The same model is trained with all modalities
and with each alone (with three or more, also without each) on each of k folds; every score is of
rows that the model has not seen, in groups it has not seen. No choice is made by a test fold: the
number of epochs is fixed by the recipe.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmlib.data.cache import cached
from mmlib.data.features import Features, extract
from mmlib.data.folds import split
from mmlib.data.frozen import FrozenColumn
from mmlib.data.table import LISTED, Row, Table, check_trainable, read_table
from mmlib.data.table_batches import TableBatches
from mmlib.errors import expected
from mmlib.evaluation.controls import derangement, shown_sets
from mmlib.evaluation.report import describe_report, report_of
from mmlib.files import write_whole
from mmlib.tasks.table import TableTask, balanced_weights
from mmlib.tasks.table_model import keys, load_columns, predict_table, probabilities
from mmlib.tasks.table_recipe import TableRecipe
from mmlib.training.checkpoint import save_checkpoint
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit, start
from mmlib.training.interrupts import resumable
from mmlib.training.run_folder import RunFolder
from mmlib.training.seeds import derive_seed

__all__ = [
    "CrossValidation",
    "TableRecipe",
    "describe_report",
    "predict_table",
    "train_table",
]

# the features lie in memory: a worker would copy them to save nothing
ALONE = Execution(workers=0)


def train_table(recipe: TableRecipe, out: Path, execution: Execution = ALONE) -> dict[str, Any]:
    """Trains on a table and writes the run folder; returns the report, which is report.json too.

    The folder holds recipe.json, table.json (which rows), report.json, best/model.safetensors (the
    final model is trained on every row, so none is left to choose a step by), a folder with
    log.jsonl for each model, and the caches features/ and folds/. A run that was cut off goes on
    where it was: call again with the same recipe and folder. A finished one is not trained again.

    Raises UserError where the table cannot be learned from, the weights cannot be found, or the
    folder holds a run of another recipe or of other rows; Interrupted after Ctrl-C.
    """
    with resumable(out):
        return _train_table(replace(recipe, data=str(Path(recipe.data).resolve())), out, execution)


def _train_table(recipe: TableRecipe, out: Path, execution: Execution) -> dict[str, Any]:
    started = time.monotonic()
    accelerator = start(execution)
    if accelerator.num_processes > 1:
        raise expected(
            "one process for a table", accelerator.num_processes, "start it without a launcher"
        )
    table = read_table(recipe.data, recipe.inputs, recipe.label_column, recipe.group_column)
    check_trainable(table, recipe.folds)
    labels = [row.label for row in table.rows]
    groups = [row.group for row in table.rows] if recipe.group_column else None
    folds = split(labels, groups, recipe.folds, recipe.seed)
    columns = load_columns(recipe, accelerator.device)
    task_maker(recipe, columns)(torch.ones(len(table.classes)), recipe.seed)  # refused before --out
    folder = RunFolder(out)
    with folder.claimed(recipe):
        _same_rows(table, folder)
        if folder.report.exists():
            return folder.read_report()
        run = CrossValidation.of(recipe, table, columns, out, execution)
        tests = [torch.from_numpy(test) for _, test in folds]
        outcomes = [
            run.fold(number, torch.from_numpy(rows), test)
            for number, ((rows, _), test) in enumerate(zip(folds, tests, strict=True))
        ]
        final = run.fit("final", "all", torch.arange(len(table.rows)), derive_seed(recipe.seed))
        notes = {"classes": table.classes, "columns": keys(columns)}
        save_checkpoint(folder.best, final, (), recipe.to_json(), notes)
        report = {
            **report_of(table, run.target, tests, outcomes),
            "recipe": recipe.to_json(),
            "cut": dict(run.features.cut),
            "data_sha256": digest_of(table),
            "seconds": round(time.monotonic() - started, 1),
        }
        folder.write_report(report)
        for last in out.glob("*/**/last"):  # to go on from, and there is nothing to go on with
            shutil.rmtree(last)
    return report


def task_maker(
    recipe: TableRecipe, columns: Mapping[str, FrozenColumn]
) -> Callable[[Tensor, int], TableTask]:
    """(class weights [C], seed) → an untrained task; raises UserError for an unknown fusion."""
    return partial(
        TableTask.new, columns, recipe.d, recipe.heads, recipe.layers, recipe.fusion, recipe.dropout
    )


def _config(learning_rate: float, weight_decay: float, steps: int) -> TrainingConfig:
    """AdamW, warm-up over a tenth of the steps, then a cosine to zero."""
    return TrainingConfig(
        steps, learning_rate, weight_decay, warmup_steps=steps // 10, lr_floor=0.0
    )


def digest_of(table: Table) -> str:
    """SHA-256 of what the rows hold, in order: inputs (a file's bytes), labels, groups."""
    digest = hashlib.sha256()
    for row in table.rows:
        digest.update(_words(table, row).encode())
    return digest.hexdigest()


def _words(table: Table, row: Row) -> str:
    return json.dumps([*(row.content(m) for m in table.modalities), row.label, row.group])


def _same_rows(table: Table, folder: RunFolder) -> None:
    """Writes table.json, or finds that the run was made from these very rows.

    Raises UserError where it was not, with the rows that are new and the number that are gone.
    """
    path = folder.path / "table.json"
    now = [
        [row.number, hashlib.sha256(_words(table, row).encode()).hexdigest()[:16]]
        for row in table.rows
    ]
    if not path.exists():
        write_whole(path, (json.dumps({"rows": now}) + "\n").encode())
        return
    try:
        before = [str(digest) for _, digest in json.loads(path.read_text("utf8"))["rows"]]
    except (ValueError, KeyError, TypeError):
        raise expected(
            f"the rows of the run in {path}", "something else", "copy it anew, or train again"
        ) from None
    if before == [digest for _, digest in now]:
        return
    gone = sum((Counter(before) - Counter(str(digest) for _, digest in now)).values())
    left, new = Counter(before), []
    for number, digest in now:
        left[str(digest)] -= 1
        if left[str(digest)] < 0:
            new.append(f"row {number}")
    more = f" and {len(new) - LISTED} more" if len(new) > LISTED else ""
    named = f" ({', '.join(new[:LISTED])}{more})" if new else ""
    changes = (
        f"{len(new)} new or changed{named} and {gone} gone" if new or gone else "another order"
    )
    raise expected(
        f"the rows of {table.path.name} that {folder.path} was trained on",
        changes,
        f"choose another --out (a copy of {folder.path / 'features'} in it saves time), or put the "
        "old rows back",
    )


@dataclass(frozen=True)
class CrossValidation:
    """What the models of one run share, and how one of them is trained and tested.

    new_task (class weights [C], seed) makes an untrained task; config (steps) says how the steps
    are taken; identity is what the run was made from: nothing of another one is taken up.
    """

    features: Features
    target: Tensor
    modalities: Sequence[str]
    new_task: Callable[[Tensor, int], TableTask]
    config: Callable[[int], TrainingConfig]
    epochs: int
    batch_size: int
    seed: int
    out: Path
    identity: Mapping[str, Any]
    execution: Execution = ALONE

    @classmethod
    def of(
        cls, recipe: TableRecipe, table: Table, columns: Mapping[str, FrozenColumn], out: Path,
        execution: Execution = ALONE,
    ) -> CrossValidation:  # fmt: skip
        """The training of a recipe on a table's rows; its features are extracted here, or found."""
        classes = table.classes
        return cls(
            extract(columns, table.rows, out / "features"),
            torch.tensor([classes.index(row.label) for row in table.rows]),
            table.modalities,
            task_maker(recipe, columns),
            partial(_config, recipe.learning_rate, recipe.weight_decay),
            recipe.epochs,
            recipe.batch_size,
            recipe.seed,
            out,
            {"recipe": recipe.to_json(), "rows": digest_of(table), "columns": keys(columns)},
            execution,
        )

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return int(self.target.max()) + 1

    def fold(self, number: int, rows: Tensor, test: Tensor) -> dict[str, Tensor]:
        """Predicted classes of the test rows, {name: [N_test]}, by every model and control.

        One model for each of `shown_sets`, a linear probe beside each; of the model that is shown
        all, each modality exchanged in turn; the label that is most frequent in training. What an
        earlier call has finished comes from out/folds.
        """
        key = [json.dumps(self.identity, sort_keys=True), str(number)]
        return cached(
            self.out / "folds",
            key,
            lambda: self._compute(number, rows, test),
            lambda found: all(x.shape == test.shape for x in found.values()) and "all" in found,
        )

    def _compute(self, number: int, rows: Tensor, test: Tensor) -> dict[str, Tensor]:
        outcome = {}
        seed = derive_seed(self.seed, number)
        for name, shown in shown_sets(self.modalities).items():
            task = self.fit(f"fold-{number}", name, rows, seed)
            outcome[name] = self.answer(task, test, shown)
            if name == "all":
                for place, modality in enumerate(self.modalities):
                    others = self.exchange(modality, test, derive_seed(seed, place))
                    exchanged = self.answer(task, test, shown, {modality: others})
                    outcome[f"exchanged_{modality}"] = exchanged
            outcome[f"probe_{name}"] = self.probe(shown, rows, test)
        most = self.target[rows].bincount(minlength=self.num_classes).argmax()
        outcome["majority"] = most.repeat(len(test))
        return outcome

    def fit(self, stage: str, name: str, rows: Tensor, seed: int) -> TableTask:
        """The model of one of `shown_sets`, trained on these rows; goes on where it was cut off.

        Cross entropy with each class weighted by `balanced_weights`.
        """
        shown = shown_sets(self.modalities)[name]
        data = TableBatches(self.features, self.target, rows, shown, self.batch_size, seed)
        task = self.new_task(balanced_weights(self.target[rows], self.num_classes), seed)
        identity = {**self.identity, "stage": stage, "shown": list(shown)}
        config = self.config(data.steps(self.epochs))
        fit(
            task, data, config, self.out / stage / name, identity, seed=seed,
            execution=self.execution,
        )  # fmt: skip
        return task

    def answer(
        self,
        task: TableTask,
        rows: Tensor,
        shown: Sequence[str],
        exchanged: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The class of each row [N]; a modality may be that of other rows."""
        return probabilities(task, self.features, rows, shown, exchanged).argmax(-1)

    def exchange(self, modality: str, rows: Tensor, seed: int) -> Tensor:
        """For each of these rows another of them whose input differs, wherever that is possible."""
        content = self.features.streams[modality].index[rows]
        return rows[derangement(content, seed)]

    def probe(self, shown: Sequence[str], rows: Tensor, test: Tensor) -> Tensor:
        """The reference: logistic regression on the mean of each modality's frozen features."""
        pooled = self.features.pooled(shown)
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
        )
        probe.fit(pooled[rows].numpy(), self.target[rows].numpy())
        return torch.from_numpy(probe.predict(pooled[test].numpy()))
