"""The `small` preset on the generated world: five seeds, their controls, two models of one side.

What it should show (written before anything was run): all kinds at 97 % or more and 99 % overall.
Text alone and exchanged pictures stay at the best guess from the text, pictures alone at the best
guess from the objects: the questions were balanced for that. A reference keeps few of its answers
where the name is exchanged for that of another thing, and none of the models answers an absent name
as if nothing had happened in more than half of the cases: without the name the best rule is right
in half. Combinations of color and shape that were never trained should cost some points, since the
text of a shape question never paired them.

With its second seed the first recipe did not keep that promise (the record `recipe`). So the rate
is now held for longer, and relation and reference are asked most some fifty steps earlier; which of
the three it takes is not told. What was written when seeds 1 and 2 had been seen, and no other:
reference is learned with every seed, at some step before the rate begins to fall.

The weights of seed 0 become the package's own (`mmlib.tasks.small`), in half precision.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmlib.data.scenes import KINDS, best_guess, sample_questions
from mmlib.data.scenes.stream import STREAMS, held_out_questions
from mmlib.evaluation import interval
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import answer_questions
from mmlib.tasks.scene_run import train_scenes
from mmlib.tasks.small import ASSET, load_small, write_small
from mmlib.training.config import Execution
from mmlib.training.run_folder import read_log

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2, 3, 4)
RECIPE = SceneRecipe()
SHORT = replace(RECIPE.training, steps=400, evaluate_every=200)
ORDER = ("overall", *KINDS)
EXECUTION = Execution(device="cpu")


def train_seed(seed: int, **changes: Any):
    def run(folder: Path) -> dict[str, Any]:
        recipe = replace(RECIPE, seed=seed, **changes)
        result = train_scenes(recipe, folder, EXECUTION)
        log = read_log(folder / "log.jsonl")
        return {
            "recipe": result.pop("recipe"),
            "seconds": result.pop("seconds"),
            "report": result,
            "losses": [entry["loss"] for entry in log[:5]],
            "curve": [{"step": e["step"], **e["score"]} for e in log if "score" in e],
        }

    return run


def guess(folder: Path) -> dict[str, Any]:
    """The best guesses from one side, on fresh questions drawn as those of the test."""
    rng = np.random.default_rng([STREAMS["test"], 77])
    pictures = [sample_questions(rng, RECIPE.objects, RECIPE.questions) for _ in range(6000)]
    return {"text": best_guess(pictures, "text"), "objects": best_guess(pictures, "objects")}


def package(folder: Path) -> dict[str, Any]:
    """Seed 0's weights as the package's own, and what they answer once they are halved."""
    sha256 = write_small(folder.parent / "seed_0")
    (ASSET / "README.md").write_text(CARD.format(sha256=sha256), encoding="utf8")
    test = held_out_questions("test", 200, RECIPE.objects, RECIPE.questions)
    given, target, _ = answer_questions(load_small().model, test)
    return {
        "sha256": sha256, "bytes": (ASSET / "model.safetensors").stat().st_size,
        "accuracy": float(np.mean(np.equal(given, target))),
    }  # fmt: skip


CARD = """# The trained `small`

`MultimodalBert` at the preset `small` (1.5 million parameters: a BERT layer, a ResNet at stride 8,
four layers of merged attention, width 128), trained from random weights on the generated world of
`mmlib.data.scenes` and on nothing else: pictures of up to six colored shapes and eight kinds of
questions about them. Load it with `mmlib.tasks.small.load_small()`.

It is seed 0 of the record scenes_small (`make record NAME=scenes_small`), which says what it
answers rightly, by kind, beside the controls. Weights in half precision, computed with in float32.
SHA-256 of the weights:

`{sha256}`

It knows the words of that world and no others; a photograph means nothing to it. Eight
combinations of color and shape were never shown in training, and it answers questions about them
less well. License: Apache-2.0, as the code.
"""

UNITS = {
    **{f"seed_{seed}": train_seed(seed) for seed in SEEDS},
    "package": package,
    "text_alone": train_seed(0, modality="text", dense=0.0, training=SHORT),
    "image_alone": train_seed(0, modality="image", training=SHORT),
    "best_guess": guess,
}


def of_seeds(units: dict[str, Any], *path: str) -> list[Any]:
    """What stands at `path` of each seed's report."""
    found = []
    for seed in SEEDS:
        value = units[f"seed_{seed}"]["report"]
        for step in path:
            value = value[step]
        found.append(value)
    return found


def over_seeds(units: dict[str, Any], *path: str) -> dict[str, Any]:
    """{kind: interval over the seeds} of the figures at `path` of each seed's report."""
    found = of_seeds(units, *path)
    return {
        kind: interval([value[kind]["mean"] for value in found])
        for kind in ORDER
        if kind in found[0]
    }


def references(units: dict[str, Any]) -> dict[str, Any]:
    """The control of reference over the seeds: right answers, and the shares that stay."""
    stay = of_seeds(units, "reference", "stay")
    return {
        "accuracy": interval([x["mean"] for x in of_seeds(units, "reference", "accuracy")]),
        "accuracy_present_name": interval(
            [x["mean"] for x in of_seeds(units, "reference", "accuracy_present_name")]
        ),
        **{f"stays_with_{name}": interval([x[name]["mean"] for x in stay]) for name in stay[0]},
    }


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    recipe = SceneRecipe.from_json(units["seed_0"]["recipe"])
    test = held_out_questions(
        "test", 1000, recipe.objects, recipe.questions, reference=recipe.reference
    )
    data = hashlib.sha256(
        b"".join(test[n].numpy().tobytes() for n in ("pictures", "input_ids", "target"))
    )
    names = ("text_only", "image_only", "shuffled", "blank")
    by_kind = {name: over_seeds(units, "controls", name) for name in names}
    return {
        "recipe": recipe.to_json(),
        "seeds": list(SEEDS),
        "data_sha256": data.hexdigest(),
        "seconds_a_seed": interval([units[f"seed_{seed}"]["seconds"] for seed in SEEDS]),
        "metrics": over_seeds(units, "by_kind"),
        "controls": {name: by_kind[name]["overall"] for name in names},
        "controls_by_kind": by_kind,
        "reference_control": references(units),
        "held_out_combinations": over_seeds(units, "held_out_combinations"),
        "trained_alone": {
            name: {kind: units[name]["report"]["by_kind"][kind] for kind in ORDER}
            for name in ("text_alone", "image_alone")
        },
        "best_guess": {kind: units["best_guess"]["text"][kind] for kind in ORDER},
        "best_guess_from_objects": {kind: units["best_guess"]["objects"][kind] for kind in ORDER},
        "package": units["package"],
        "curves": {f"seed_{seed}": units[f"seed_{seed}"]["curve"] for seed in SEEDS},
        "reports": {f"seed_{seed}": units[f"seed_{seed}"]["report"] for seed in SEEDS},
        "first_losses": units["seed_0"]["losses"],
    }
