"""Does a learning rate that rises at first help `tiny`, and from which rate on?

AdamW, 100 steps of four pictures with eight questions, on scenes of one or two things; the rate
follows the cosine, either from its peak in the first step on or after a linear warm-up of 20 steps.
Both add up to nearly the same distance (the shares of the rate sum to about 51). Every step
has pictures that no step has seen, so the training loss is that of fresh data. The end point is the
mean of the whole loss over the last 20 steps, by seed the difference of the two runs, which have
the same first weights and the same batches.

What it should show (written before any of these runs): at 0.003, the rate of the recipe, three
seeds do not tell the two apart; at 0.01 the run without warm-up is behind at first and catches up;
at 0.03 warm-up ends lower with each seed, since the first steps without it are as long as the
weights themselves are large.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmlib.evaluation import paired_interval
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_run import batches
from mmlib.tasks.scenes import SceneTask
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.run_folder import read_log

RATES = (0.003, 0.01, 0.03)
WARMUP = (0, 20)
SEEDS = (0, 1, 2)
STEPS, LAST = 100, 20


def recipe(rate: float, warmup: int, seed: int, steps: int = STEPS) -> SceneRecipe:
    """The run of that name; steps cut it off without changing what comes before."""
    return SceneRecipe(
        preset="tiny", seed=seed, objects=(1, 2), pictures=4, plain=0.0,
        training=TrainingConfig(steps=steps, lr=rate, warmup_steps=warmup),
    )  # fmt: skip


def losses(of: SceneRecipe) -> list[float]:
    """The whole loss of each step."""
    data = replace(batches(of), stages=of.stages()[:1])
    task = SceneTask.from_recipe(of)
    with tempfile.TemporaryDirectory() as folder:
        here = Execution(workers=0, device="cpu", checkpoint_every=STEPS)
        fit(task, data, of.training, Path(folder), of.to_json(), seed=of.seed, execution=here)
        return [round(entry["loss"], 4) for entry in read_log(Path(folder) / "log.jsonl")]


def _unit(rate: float, warmup: int, seed: int) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"losses": losses(recipe(rate, warmup, seed))}


UNITS = {
    f"{rate}_{warmup}_{seed}": _unit(rate, warmup, seed)
    for rate in RATES
    for seed in SEEDS
    for warmup in WARMUP
}


def _end(curve: list[float]) -> float:
    return sum(curve[-LAST:]) / LAST


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The curves, the mean loss at the end, and with warm-up minus without, by seed."""

    def curve(rate: float, warmup: int, seed: int) -> list[float]:
        return units[f"{rate}_{warmup}_{seed}"]["losses"]

    ends = {
        str(rate): {str(w): [_end(curve(rate, w, seed)) for seed in SEEDS] for w in WARMUP}
        for rate in RATES
    }
    return {
        "recipe": recipe(RATES[0], WARMUP[1], SEEDS[0]).to_json(),
        "rates": list(RATES),
        "seeds": list(SEEDS),
        "curves": {
            str(rate): {str(w): [curve(rate, w, seed) for seed in SEEDS] for w in WARMUP}
            for rate in RATES
        },
        "ends": ends,
        "differences": {
            rate: paired_interval(by["20"], by["0"]) for rate, by in ends.items()
        },
    }
