"""Training on the reader's own table, and the answer to the question whether fusion helps.

Picture and text go through frozen backbones once (`mmlib.data.features`); what is trained is the
rest of `MultimodalBert`: projections, fusion layers, head. The same model is trained with both
modalities, with the picture alone and with the text alone, on each of k folds; every score is of
rows that the model has not seen, in groups it has not seen. No choice is made by a test fold: the
number of epochs is fixed by the recipe.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from mmlib.data.features import ABSENT, Features, FromFeatures, remembered
from mmlib.data.table import Table, check_trainable, read_table
from mmlib.errors import expected
from mmlib.evaluation.report import describe_report, report_of
from mmlib.files import write_whole
from mmlib.generation import predict
from mmlib.tasks.table import Backbones, TableRecipe, predict_rows, predict_table, save_model
from mmlib.training.fit import Interrupted, Optimization, key, train

__all__ = [
    "Backbones",
    "CrossValidation",
    "TableRecipe",
    "describe_report",
    "predict_rows",
    "predict_table",
    "train_table",
]

# what each trained model is shown: (picture, text)
SHOWN = {"both": (True, True), "image_only": (True, False), "text_only": (False, True)}


def train_table(recipe: TableRecipe, out: Path) -> dict[str, Any]:
    """Trains on a table and writes the run folder; returns the report, which is report.json too.

    The folder holds recipe.json, log.jsonl, report.json, best/ and last/model.safetensors (the
    same: the final model is trained on every row, so none is left to choose an epoch by), and the
    caches features/ and folds/, by which a run that was cut off goes on: call again with the same
    recipe and folder.

    Raises UserError where the table cannot be learned from, the weights cannot be found, or the
    folder holds a run of another recipe; Interrupted after Ctrl-C.
    """
    try:
        return _train_table(replace(recipe, data=str(Path(recipe.data).resolve())), out)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; finished folds and features are in {out}; "
            f"go on with: mmlib train --resume {out}"
        ) from None


def _train_table(recipe: TableRecipe, out: Path) -> dict[str, Any]:
    started = time.monotonic()
    table = read_table(
        recipe.data,
        recipe.image_column,
        recipe.text_column,
        recipe.label_column,
        recipe.group_column,
    )
    check_trainable(table, recipe.folds)
    backbones = Backbones.load(recipe)
    _claim(out, recipe)
    classes, prints = table.classes, backbones.fingerprints()
    features = backbones.extract(recipe, table.rows, out / "features")
    target = torch.tensor([classes.index(row.label) for row in table.rows])
    log = out / "log.jsonl"
    validation = CrossValidation(recipe, backbones, features, target, len(classes), log)
    splits = split(table, recipe)
    identity = [recipe.to_json(), digest_of(table), *prints.values()]
    sizes = [len(rows) for rows, _ in splits for _ in SHOWN] + [len(target)]
    outcomes = []
    with tqdm(total=validation.steps(sizes), desc="training", unit="step", disable=None) as bar:
        for number, (rows, test) in enumerate(splits):

            def compute(number: int = number, rows=rows, test=test) -> dict[str, Tensor]:
                return validation.fold(number, rows, test, bar.update)

            outcomes.append(remembered(out / "folds", [*identity, str(number)], compute))
            # a fold that was remembered took no step, but is done
            bar.update(validation.steps(sizes[: (number + 1) * len(SHOWN)]) - bar.n)
        everything = torch.arange(len(target))
        model = validation.fit("final", "both", everything, key(recipe.seed), bar.update).model
    for place in ("best", "last"):
        save_model(out / place, model, recipe, {"classes": classes, "backbones": prints})
    report = {
        **report_of(table, target, [test for _, test in splits], outcomes),
        "recipe": asdict(recipe),
        "texts_cut": features.cut,
        "data_sha256": digest_of(table),
        "seconds": round(time.monotonic() - started, 1),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_whole(out / "report.json", text.encode())
    return report


def _claim(out: Path, recipe: TableRecipe) -> None:
    """Writes recipe.json, or finds the same one there."""
    file = out / "recipe.json"
    if file.is_file() and file.read_text(encoding="utf-8").strip() != recipe.to_json():
        raise expected(
            f"a new folder or one with this recipe for {out}",
            "another recipe",
            "choose another --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(recipe.to_json() + "\n", encoding="utf-8")


def digest_of(table: Table) -> str:
    """SHA-256 of what the rows hold, in order: the pictures' bytes, texts, labels, groups."""
    digest = hashlib.sha256()
    for row in table.rows:
        digest.update(json.dumps([row.digest, row.text, row.label, row.group]).encode())
    return digest.hexdigest()


def split(table: Table, recipe: TableRecipe) -> list[tuple[Tensor, Tensor]]:
    """(training rows [n], test rows [m]) of each fold: labels in equal shares, no group in both."""
    labels = [row.label for row in table.rows]
    kind = StratifiedGroupKFold if recipe.group_column else StratifiedKFold
    folds = kind(recipe.folds, shuffle=True, random_state=recipe.seed)
    groups = [row.group for row in table.rows] if recipe.group_column else None
    return [
        (torch.from_numpy(train), torch.from_numpy(test))
        for train, test in folds.split(np.zeros(len(labels)), labels, groups)
    ]


class CrossValidation:
    """What the models of one run share, and how one of them is trained and tested."""

    def __init__(
        self,
        recipe: TableRecipe,
        backbones: Backbones,
        features: Features,
        target: Tensor,
        classes: int,
        log: Path,
    ):
        self.recipe, self.backbones, self.features = recipe, backbones, features
        self.target, self.classes, self.log = target, classes, log

    def steps(self, sizes: Sequence[int]) -> int:
        """How many optimizer steps it takes to train one model on each of so many rows."""
        return sum(-(-size // self.recipe.batch_size) for size in sizes) * self.recipe.epochs

    def fold(
        self, number: int, train_rows: Tensor, test: Tensor, stepped: Callable[[], object]
    ) -> dict[str, Tensor]:
        """Predicted classes of the test rows, {name: [N_test]}, by every model and control."""
        out = {}
        seed = key(self.recipe.seed, number)
        for shown in SHOWN:
            model = self.fit(f"fold {number}", shown, train_rows, seed, stepped)
            out[shown] = self.answer(model, shown, test)
            if shown == "both":
                order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
                out["shuffled"] = self.answer(model, shown, test, pictures_of=test[order])
            out[f"probe_{shown}"] = self.probe(shown, train_rows, test)
        most = self.target[train_rows].bincount(minlength=self.classes).argmax()
        out["majority"] = most.expand(len(test))
        return out

    def fit(
        self, stage: str, shown: str, rows: Tensor, seed: int, stepped: Callable[[], object]
    ) -> FromFeatures:
        """One model, trained on these rows with the modalities that are shown.

        Cross entropy with each class weighted by N / (C · its rows), so that rare classes count as
        much as frequent ones; AdamW, warm-up over a tenth of the steps, then a cosine to zero.
        """
        recipe = self.recipe
        steps = self.steps([len(rows)])
        how = Optimization(steps, recipe.learning_rate, warmup=steps // 10, floor=0.0)
        model = FromFeatures(self.backbones.model(recipe, self.classes, seed), self.features)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, how.rate(0), weight_decay=recipe.weight_decay)
        taken = 0

        def after_step(*_: Any) -> None:
            nonlocal taken
            taken += 1
            optimizer.param_groups[0]["lr"] = how.rate(taken)
            stepped()

        def before_step(*_: Any) -> None:
            nn.utils.clip_grad_norm_(trained, how.clip)

        optimizer.register_step_pre_hook(before_step)
        optimizer.register_step_post_hook(after_step)
        counts = self.target[rows].bincount(minlength=self.classes).clamp(min=1)
        criterion = nn.CrossEntropyLoss(len(rows) / (self.classes * counts))
        with torch.random.fork_rng():  # dropout draws from the global generator
            torch.manual_seed(seed)
            for epoch in range(recipe.epochs):
                batches = rows[torch.randperm(len(rows))].split(recipe.batch_size)
                pairs = ((*self.inputs(shown, batch), self.target[batch]) for batch in batches)
                losses = train(model, pairs, optimizer, criterion)
                entry = {"stage": stage, "shown": shown, "epoch": epoch, "loss": np.mean(losses)}
                with self.log.open("a", encoding="utf8") as file:
                    file.write(json.dumps(entry) + "\n")
        return model

    def inputs(
        self, shown: str, rows: Tensor, pictures_of: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The numbers of text and picture of these rows; what is not shown is ABSENT."""
        image, text = SHOWN[shown]
        absent = torch.full_like(rows, ABSENT)
        pictures = self.features.image_index[rows if pictures_of is None else pictures_of]
        return self.features.text_index[rows] if text else absent, pictures if image else absent

    def answer(
        self, model: FromFeatures, shown: str, rows: Tensor, pictures_of: Tensor | None = None
    ) -> Tensor:
        """The class of each row [N]; the pictures may be those of other rows."""
        text_index, image_index = self.inputs(shown, rows, pictures_of)
        pairs = zip(text_index.split(256), image_index.split(256), strict=True)
        return torch.cat([predict(model, text, image) for text, image in pairs])

    def probe(self, shown: str, rows: Tensor, test: Tensor) -> Tensor:
        """The reference: logistic regression on the mean of each modality's frozen features."""
        pooled = self.features.pooled(*SHOWN[shown])
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
        )
        probe.fit(pooled[rows].numpy(), self.target[rows].numpy())
        return torch.from_numpy(probe.predict(pooled[test].numpy()))
