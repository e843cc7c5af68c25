"""What a run on a table trains: its recipe, the model on frozen backbones, saving, prediction.

Training it, and the answer to whether fusion helps, are in `mmlib.tasks.cross_validation`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import BertModel, PreTrainedTokenizerBase

from mmlib.data.features import Features, FromFeatures, extract, fingerprint
from mmlib.data.table import Row, columns, describe, read_table, unknown_labels
from mmlib.encoders import GridEncoder, TextEncoder
from mmlib.encoders.networks import PictureGrid
from mmlib.encoders.pretrained import load_image, load_text
from mmlib.errors import expected
from mmlib.files import write_whole
from mmlib.models import MultimodalBert
from mmlib.training.checkpoint import read_checkpoint


@dataclass(frozen=True)
class TableRecipe:
    """All that decides a run on a table; round-trips through JSON.

    data is the CSV; group_column names what must stay on one side of a split (a name, a shop, a
    day). side is the size of a picture in pixels, text_length the longest text in word pieces. The
    defaults of the last three lines were chosen on a part of one training fold of pomology.
    """

    data: str
    image_column: str
    text_column: str
    label_column: str
    group_column: str | None = None
    seed: int = 0
    folds: int = 5
    text_encoder: str = "all-MiniLM-L6-v2"
    image_encoder: str = "efficientnet-lite0"
    side: int = 160
    text_length: int = 64
    fusion: str = "merged"
    d: int = 128
    heads: int = 4
    layers: int = 1
    dropout: float = 0.3
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise expected("at least 2 folds", self.folds, "one fold is tested, the others train")
        if self.epochs < 1 or self.batch_size < 1:
            raise expected(
                "epochs and batch_size of at least 1",
                f"{self.epochs} and {self.batch_size}",
                "raise the smaller one",
            )

    def to_json(self) -> str:
        """The recipe as JSON, one field a line."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TableRecipe:
        """The recipe that `to_json` wrote; raises UserError for a field it does not know."""
        values = json.loads(text)
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise expected(
                "a recipe for a table", f"the fields {', '.join(unknown)}", "remove them"
            )
        try:
            return cls(**values)
        except TypeError:  # a field without a default is not there
            raise expected(
                "a recipe for a table", f"only {', '.join(values)}", "train again"
            ) from None


@dataclass(frozen=True)
class Backbones:
    """The frozen networks of a recipe, shared by all the models of a run."""

    text: BertModel
    tokenizer: PreTrainedTokenizerBase
    image: PictureGrid

    @classmethod
    def load(cls, recipe: TableRecipe) -> Backbones:
        """Loads both; raises UserError where weights cannot be found."""
        text, tokenizer = load_text(recipe.text_encoder)
        return cls(text, tokenizer, load_image(recipe.image_encoder))

    def fingerprints(self) -> dict[str, str]:
        """The SHA-256 of both networks' tensors."""
        return {"text": fingerprint(self.text), "image": fingerprint(self.image)}

    def model(self, recipe: TableRecipe, classes: int, seed: int) -> MultimodalBert:
        """A `MultimodalBert` on these backbones; what is to be trained is drawn from the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            text, image = self.encoders(recipe)
            return MultimodalBert(
                text, image, recipe.d, recipe.heads, recipe.layers, recipe.fusion, classes,
                recipe.dropout,
            )  # fmt: skip

    def encoders(self, recipe: TableRecipe) -> tuple[TextEncoder, GridEncoder]:
        """The frozen encoders: these backbones, and projections to width d yet to be trained."""
        text = TextEncoder(self.text, recipe.d)
        image = GridEncoder(self.image, self.image.width, recipe.d, recipe.side)
        text.freeze()
        image.freeze()
        return text, image

    def extract(self, recipe: TableRecipe, rows: Sequence[Row], folder: Path) -> Features:
        """The features of these rows; see `mmlib.data.features.extract`."""
        text, image = self.encoders(recipe)
        return extract(text, image, self.tokenizer, rows, recipe.text_length, folder)


def save_model(
    folder: Path, model: MultimodalBert, recipe: TableRecipe, state: Mapping[str, Any]
) -> None:
    """Writes what was trained; the frozen backbones are named and fingerprinted, not copied."""
    tensors = {name: x for name, x in model.state_dict().items() if ".backbone." not in name}
    metadata = {"recipe": recipe.to_json(), "state": json.dumps(state, ensure_ascii=False)}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", save(tensors, metadata))


def predict_rows(run: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The answer for each row: {"row", "label", "probability"}, in the rows' order.

    Raises UserError where the run is not one of `train_table`, or where its backbones cannot be
    found or have other weights than those it was trained with.
    """
    tensors, recipe_fields, state = read_checkpoint(run / "best")
    recipe = TableRecipe.from_json(json.dumps(recipe_fields))
    backbones = Backbones.load(recipe)
    if backbones.fingerprints() != state.get("backbones"):
        raise expected(
            f"the backbones that {run} was trained with",
            f"other weights for {recipe.text_encoder} or {recipe.image_encoder}",
            "install the same ones, or train again",
        )
    classes = state["classes"]
    model = backbones.model(recipe, len(classes), recipe.seed)
    model.load_state_dict({**model.state_dict(), **tensors})
    with tempfile.TemporaryDirectory() as cache:
        features = backbones.extract(recipe, rows, Path(cache))
    whole = FromFeatures(model, features).eval()
    with torch.inference_mode():
        batches = torch.arange(len(rows)).split(256)
        logits = [whole(features.text_index[i], features.image_index[i]) for i in batches]
        probability, best = torch.cat(logits).softmax(-1).max(-1)
    return [
        {"row": row.number, "label": classes[int(c)], "probability": round(float(p), 4)}
        for row, p, c in zip(rows, probability, best, strict=True)
    ]


def predict_table(run: Path, data: str | Path) -> list[dict[str, Any]]:
    """`predict_rows` for a CSV with the columns of the run; its label column may be missing.

    Rows that cannot be used are in the list too, as {"row", "problem"}. Where the table has labels,
    each answer has "given", the label of the table.

    Raises UserError where a label is none of those the run knows, with the numbers of the rows.
    """
    _, recipe_fields, state = read_checkpoint(run / "best")
    recipe = TableRecipe.from_json(json.dumps(recipe_fields))
    label_column = recipe.label_column if recipe.label_column in columns(data) else None
    table = read_table(
        data, recipe.image_column, recipe.text_column, label_column, labels_needed=False
    )
    if unknown := unknown_labels(table, state["classes"]):
        raise expected(
            f"labels that {run} knows ({', '.join(state['classes'])})",
            describe(unknown),
            "remove these rows, or train again with them",
        )
    answers = predict_rows(run, table.rows) if table.rows else []
    for answer, row in zip(answers, table.rows, strict=True):
        if row.label:
            answer["given"] = row.label
    problems = [{"row": problem.row, "problem": problem.reason} for problem in table.problems]
    return sorted(answers + problems, key=lambda answer: answer["row"])
