"""Does a model that answers *reference* questions find the thing that they name?

Exactly one thing lies on the named side of the named thing, or the question is not asked. So that
thing is the outermost of the picture in that direction, and who looks for the outermost thing need
not read the name. The control names a thing that is not in the picture, on the models of
`scenes_small`; beside it the side is exchanged for its opposite, and nothing at all.

What it should show: seen before this was written, on seeds 2 and 3 at half of their training: with
another name nine answers of ten stay. Exchanging the side should change most answers.

The seeds are those whose weights the machine that finished `scenes_small` still had; where they are
gone they are trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmlib.data.scenes import COLORS, SHAPES, Question, Scene, sample_questions
from mmlib.data.scenes.batches import collate, encode_questions
from mmlib.evaluation import interval
from mmlib.tasks.scenes import STREAMS, SceneRecipe, SceneTask, ask_model, train_scenes
from mmlib.training.checkpoint import load_weights

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (2, 3, 4)
PICTURES = 1000
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
Asked = tuple[Scene, Question]


def questions() -> list[Asked]:
    """The reference questions about fresh scenes of two to six things."""
    rng = np.random.default_rng([STREAMS["test"], 7])
    drawn = [sample_questions(rng, (2, 6), 8) for _ in range(PICTURES)]
    return [(scene, q) for scene, asked in drawn for q in asked if q.kind == "reference"]


def same(scene: Scene, text: str) -> str:
    """The question as it is."""
    return text


def other_side(scene: Scene, text: str) -> str:
    """The question about the opposite side."""
    return " ".join(OPPOSITE.get(word, word) for word in text.split())


def absent_name(scene: Scene, text: str) -> str:
    """The question about the first thing in the world's order that is not in the picture."""
    there = {(thing.color, thing.shape) for thing in scene.things}
    color, shape = next(
        (c, s) for c in range(len(COLORS)) for s in range(len(SHAPES)) if (c, s) not in there
    )
    return " ".join([*text.split()[:-2], list(COLORS)[color], SHAPES[shape]])


CHANGES: dict[str, Callable[[Scene, str], str]] = {
    "nothing": same, "name": absent_name, "side": other_side,
}  # fmt: skip


def answers(task: SceneTask, asked: list[Asked], texts: list[str]) -> torch.Tensor:
    """The model's answers [N] to these texts about the scenes of `asked`."""
    task.model.eval()
    batch, found = collate([(scene, [q]) for scene, q in asked]), []
    with torch.inference_mode():
        for start in range(0, len(texts), 200):
            piece = {name: x[start : start + 200] for name, x in batch.items()}
            piece |= encode_questions(texts[start : start + 200])
            found.append(ask_model(task.model, piece).logits.argmax(-1))
    return torch.cat(found)


def control(seed: int) -> Callable[[Path], dict[str, Any]]:
    def run(folder: Path) -> dict[str, Any]:
        trained = ROOT / "runs" / "records" / "scenes_small" / f"seed_{seed}"
        if not (trained / "report.json").exists():
            train_scenes(SceneRecipe(seed=seed), trained)
        task = SceneTask(SceneRecipe(seed=seed))
        load_weights(trained / "best", task.module)
        asked = questions()
        target = collate([(scene, [q]) for scene, q in asked])["target"]
        given = {
            name: answers(task, asked, [change(scene, q.text) for scene, q in asked])
            for name, change in CHANGES.items()
        }
        return {
            "questions": len(asked),
            "right": (given["nothing"] == target).float().mean().item(),
            "stay": {
                name: (found == given["nothing"]).float().mean().item()
                for name, found in given.items()
            },
        }

    return run


UNITS = {f"seed_{seed}": control(seed) for seed in SEEDS}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Right answers, and the share of answers that stay, over the seeds."""
    seeds = list(units.values())
    return {
        "seeds": list(SEEDS),
        "questions": seeds[0]["questions"],
        "metrics": {"right": interval([unit["right"] for unit in seeds])},
        "controls": {name: interval([unit["stay"][name] for unit in seeds]) for name in CHANGES},
    }
