"""Why a kind of question waits: the recipe of `small` with one cause taken away.

**This record is of the world as first made** ("outermost" references, no word "nearest") **and of
the recipe of that time**, AdamW in 2,400 steps; it was run with the code of commit fb46b08, whose
optimizer decayed biases and norms too. It is kept until sections 7.6 and 7.7 are written anew.

Every variant is that recipe with one field changed, on the same schedule, cut off at step 1,300 of
2,400: there the whole recipe has learned each kind or most of it, so there is something to lose.
The curves of the whole recipe, and the best guesses, are those of the record scenes_small of that
time, and stand in this record. A pair (variant, whole) of one seed shares the initial weights and,
where the batch is not what was changed, the batches; both answer the same 800 validation questions.
Nothing is chosen by them here: the weights are the last.

What it should show stands in PREDICTIONS, committed before the first variant was run. Beside the
whole recipe's, an accuracy "falls" (by a tenth or more, the interval below 0), "holds" (the
interval within a tenth of 0), or is "open" where the story says nothing.

- pictures: as many questions about an eighth of the pictures. To *find* is learned from many
  places: location, relation and reference fall. Color and shape hold, a few pictures show them.
- dense: no loss says what lies in a cell. The phrases still point at cells by color and shape, so
  what names one thing is seen all the same: existence, color, shape and location hold. Counting
  and comparison name no thing and have no phrase: they fall.
- curriculum: all kinds and six things from the first step. What is learned by then holds; relation
  and comparison, which are asked 360 steps earlier, are open.
- location: no row and no column is asked. Location itself falls (it never saw an answer); relation
  and reference fall with it, for nothing else makes the model say *where*. The others hold.
- grounding: no phrase is told its cell. Relation needs two things by their names and falls; what
  needs one thing finds it by the answer alone and holds.

Added when the first runs of grounding and location (seed 0 of each) had been seen, and before any
other: without grounding relation had come *sooner*. A look into these models at relation questions
says how. With grounding a phrase's last word looks at its cell in layer 3, behind the layer that
is taught to point, and one layer is left to compare in. Without it [CLS] looks at the cells itself,
in layers 1 and 2. So `looks` is kept of each run, and there is one more variant:

- shallow: the first layer is taught to point, not the second. The word then looks at its cell in
  layer 2, and relation is half learned sooner than by the whole recipe, with each seed. No accuracy
  falls.

This stays as it was believed; what came of it, and where it was wrong, is section 7.7.

A smaller world, in which the whole recipe would end in four minutes, was looked for first: three
or four things at most, half the questions, half the width, other mixtures, one seed each. None
came to relation sooner by the clock than `small`, so the world is the whole one, and the time is
saved at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmlib.data.scenes import KINDS
from mmlib.data.scenes.stream import held_out_questions
from mmlib.encoders import scale_pixels
from mmlib.evaluation import Interval, interval, paired_interval
from mmlib.evaluation.inference import evaluating
from mmlib.models import MultimodalBert
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import validation_score
from mmlib.tasks.scene_run import batches
from mmlib.tasks.scenes import SceneTask
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.run_folder import read_log

RECIPE = SceneRecipe(
    reference="outermost", curriculum=0.15, dense=1.0, grounding=0.5, location=1.5,
    training=TrainingConfig(
        steps=2400, lr=1e-3, weight_decay=0.01, warmup_steps=200, lr_floor=0.03,
        evaluate_every=100, optimizer="adamw",
    ),
)  # fmt: skip
TITLE = "The recipe of small with one part taken away, in the world as first made (chapter 07)"
SEEDS = (0, 1, 2)
LAST = 1300
MARGIN = 0.10
RECORDED = Path(__file__).resolve().parents[2] / "book" / "results" / "plateaus.json"

VARIANTS: dict[str, dict[str, Any]] = {
    "pictures": {"pictures": 4, "questions": 64},
    "dense": {"dense": 0.0},
    "curriculum": {"curriculum": 0.0},
    "location": {"location": 0.0},
    "grounding": {"grounding": 0.0},
    "shallow": {},
}
GROUNDING_LAYER = {"shallow": 0}  # counted from 0
PREDICTIONS = {
    "pictures": {
        "existence": "open", "counting": "open", "color": "holds", "shape": "holds",
        "comparison": "open", "location": "falls", "relation": "falls", "reference": "falls",
    },
    "dense": {
        "existence": "holds", "counting": "falls", "color": "holds", "shape": "holds",
        "comparison": "falls", "location": "holds", "relation": "open", "reference": "open",
    },
    "curriculum": {
        "existence": "holds", "counting": "holds", "color": "holds", "shape": "holds",
        "comparison": "open", "location": "holds", "relation": "open", "reference": "holds",
    },
    "location": {
        "existence": "holds", "counting": "holds", "color": "holds", "shape": "holds",
        "comparison": "holds", "location": "falls", "relation": "falls", "reference": "falls",
    },
    "grounding": {
        "existence": "holds", "counting": "holds", "color": "holds", "shape": "holds",
        "comparison": "holds", "location": "holds", "relation": "falls", "reference": "holds",
    },
    "shallow": {
        "existence": "holds", "counting": "holds", "color": "holds", "shape": "holds",
        "comparison": "holds", "location": "holds", "relation": "open", "reference": "holds",
    },
}  # fmt: skip


def looks(
    model: MultimodalBert, asked: Mapping[str, Tensor], kind: str = "relation"
) -> dict[str, list[float]]:
    """How much of its attention goes to the cell of a named thing, layer by layer.

    word: from the last word of the thing's phrase (the last layer asks no word); first: from [CLS].
    The mean over the phrases of a kind, of the head in which it is largest.
    """
    asked = {name: x[: 40 * RECIPE.questions] for name, x in asked.items()}
    pictures = scale_pixels(asked["pictures"][:40], channels_last=True)
    text = {name: asked[name] for name in ("input_ids", "attention_mask")}
    with evaluating(model):
        layers = [layer["image"] for layer in model.weights(text, pictures)]
    of_kind = (asked["kind"] == KINDS.index(kind))[:, None] & (asked["phrases"] >= 0)
    rows, words = of_kind.nonzero(as_tuple=True)
    cells = asked["phrases"][rows, words]
    return {
        "word": [layer[rows, :, words, cells].mean(0).max().item() for layer in layers[:-1]],
        "first": [layer[rows, :, 0, cells].mean(0).max().item() for layer in layers],
    }


def train_variant(name: str, seed: int) -> Callable[[Path], dict[str, Any]]:
    def run(folder: Path) -> dict[str, Any]:
        recipe, task = variant(name, seed)
        asked = questions()
        state = fit(
            task, batches(recipe), recipe.training, folder, recipe.to_json(), seed=seed,
            evaluate=lambda: validation_score(task.model, asked), until=LAST,
            execution=Execution(workers=0, device="cpu"),
        )  # fmt: skip
        log = read_log(folder / "log.jsonl")
        return {
            "seconds": state["seconds"],
            "curve": [{"step": e["step"], **e["score"]} for e in log if "score" in e],
            "looks": looks(task.model, asked),
        }

    return run


def questions() -> dict[str, Tensor]:
    """The whole recipe's validation questions, which every variant is asked."""
    return held_out_questions(
        "validation", 100, RECIPE.objects, RECIPE.questions, reference=RECIPE.reference
    )


def variant(name: str, seed: int) -> tuple[SceneRecipe, SceneTask]:
    """A changed recipe and its task."""
    recipe = replace(RECIPE, seed=seed, **VARIANTS[name])
    task = SceneTask.from_recipe(recipe)
    task.grounding_layer = GROUNDING_LAYER.get(name, task.grounding_layer)
    return recipe, task


UNITS = {f"{name}_{seed}": train_variant(name, seed) for seed in SEEDS for name in VARIANTS}


def outcome(difference: Interval) -> str:
    """ "falls", "holds", "rises" or "undecided": a difference of accuracies by the rule above."""
    if difference["mean"] <= -MARGIN and difference["high"] < 0:
        return "falls"
    if difference["mean"] >= MARGIN and difference["low"] > 0:
        return "rises"
    if -MARGIN < difference["low"] and difference["high"] < MARGIN:
        return "holds"
    return "undecided"


def verdict(predicted: str, found: str) -> str:
    """What became of a prediction."""
    if predicted == "open" or found == "undecided":
        return "open" if predicted == "open" else "undecided"
    return "as predicted" if predicted == found else "not as predicted"


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    recorded = json.loads(RECORDED.read_text("utf8"))
    curves = {"whole": recorded["curves"]["whole"]} | {
        name: {f"seed_{s}": units[f"{name}_{s}"]["curve"] for s in SEEDS} for name in VARIANTS
    }
    last = {
        name: [next(at for at in curve if at["step"] == LAST) for curve in of_seeds.values()]
        for name, of_seeds in curves.items()
    }
    ends = {
        name: {kind: [at[kind] for at in found] for kind in KINDS} for name, found in last.items()
    }
    differences = {
        name: {kind: paired_interval(ends[name][kind], ends["whole"][kind]) for kind in KINDS}
        for name in VARIANTS
    }
    found = {
        name: {kind: outcome(by_kind[kind]) for kind in KINDS}
        for name, by_kind in differences.items()
    }
    return {
        "title": TITLE,
        "recipe": RECIPE.to_json(),
        "seeds": list(SEEDS),
        "step": LAST,
        "margin": MARGIN,
        "best_guess": recorded["best_guess"],
        "variants": VARIANTS,
        "predictions": PREDICTIONS,
        "metrics": {
            name: {kind: interval(values) for kind, values in by_kind.items()}
            for name, by_kind in ends.items()
        },
        "differences": differences,
        "outcomes": found,
        "verdicts": {
            name: {kind: verdict(PREDICTIONS[name][kind], found[name][kind]) for kind in KINDS}
            for name in VARIANTS
        },
        "looks": {
            name: {f"seed_{s}": units[f"{name}_{s}"]["looks"] for s in SEEDS} for name in VARIANTS
        },
        "curves": {
            name: {
                seed: [at for at in curve if at["step"] <= LAST] for seed, curve in of_seeds.items()
            }
            for name, of_seeds in curves.items()
        },
    }
