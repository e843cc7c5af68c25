"""The record that takes one cause away at a time: its rule, its pairs, its figures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmlib.data.scenes import KINDS
from mmlib.encoders import scale_pixels
from mmlib.evaluation import paired_interval
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_run import batches
from mmlib.tasks.scenes import SceneTask
from tools import record

RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"
PLATEAUS = record.load("plateaus")
TINY = replace(PLATEAUS.RECIPE, preset="tiny")
WRITTEN = json.loads((RESULTS / "plateaus.json").read_text("utf8"))


def between(low: float, high: float) -> dict[str, float]:
    return {"mean": (low + high) / 2, "low": low, "high": high, "n": 3}


@pytest.mark.parametrize(
    "low, high, found",
    [
        (-0.5, -0.1, "falls"),
        (-0.5, 0.1, "undecided"),  # a fall in the mean, and 0 is not excluded
        (-0.06, -0.01, "holds"),  # surely lower, and by less than the margin
        (-0.11, 0.05, "undecided"),
        (-0.15, -0.02, "undecided"),  # surely lower, the margin within the interval
        (0.05, 0.4, "rises"),
        (-0.09, 0.09, "holds"),
    ],
)
def test_an_outcome_is_read_from_the_interval(low, high, found):
    assert PLATEAUS.outcome(between(low, high)) == found


@pytest.mark.parametrize(
    "predicted, found, verdict",
    [
        ("falls", "falls", "as predicted"),
        ("falls", "holds", "not as predicted"),
        ("holds", "rises", "not as predicted"),
        ("holds", "undecided", "undecided"),
        ("open", "falls", "open"),
        ("open", "undecided", "open"),
    ],
)
def test_a_verdict_needs_a_prediction_and_an_outcome(predicted, found, verdict):
    assert PLATEAUS.verdict(predicted, found) == verdict


def test_the_record_has_the_predictions_of_its_module_and_a_prediction_for_each_kind():
    assert WRITTEN["predictions"] == PLATEAUS.PREDICTIONS
    assert set(PLATEAUS.PREDICTIONS) == set(PLATEAUS.VARIANTS)
    assert all(set(of_kind) == set(KINDS) for of_kind in PLATEAUS.PREDICTIONS.values())


def test_the_whole_recipe_and_its_curves_stand_in_the_record():
    """Its figures are of the world as first made, and are kept when the record is made anew."""
    assert SceneRecipe.from_json(WRITTEN["recipe"]) == PLATEAUS.RECIPE
    assert PLATEAUS.RECIPE.reference == "outermost"
    assert WRITTEN["seeds"] == list(PLATEAUS.SEEDS) and WRITTEN["step"] == PLATEAUS.LAST
    assert "as first made" in WRITTEN["title"] and "fb46b08" in WRITTEN["command"]
    every = PLATEAUS.RECIPE.training.evaluate_every
    for name in ("whole", *PLATEAUS.VARIANTS):
        for seed in WRITTEN["seeds"]:
            curve = WRITTEN["curves"][name][f"seed_{seed}"]
            assert [at["step"] for at in curve] == list(range(every, PLATEAUS.LAST + 1, every))
    units = {
        f"{name}_{seed}": {
            "curve": WRITTEN["curves"][name][f"seed_{seed}"],
            "looks": WRITTEN["looks"][name][f"seed_{seed}"],
        }
        for name in PLATEAUS.VARIANTS
        for seed in WRITTEN["seeds"]
    }
    again = json.loads(json.dumps(PLATEAUS.summarize(units)))
    for part in ("best_guess", "curves", "metrics", "outcomes", "verdicts", "looks", "recipe"):
        assert again[part] == WRITTEN[part], part


def test_each_difference_is_that_of_the_last_points_of_the_curves_and_each_verdict_its_own():
    for name in PLATEAUS.VARIANTS:
        for kind in KINDS:
            ends = [
                [curve[-1][kind] for curve in WRITTEN["curves"][of].values()]
                for of in (name, "whole")
            ]
            assert WRITTEN["differences"][name][kind] == pytest.approx(paired_interval(*ends))
            found = PLATEAUS.outcome(WRITTEN["differences"][name][kind])
            assert WRITTEN["outcomes"][name][kind] == found
            assert WRITTEN["verdicts"][name][kind] == PLATEAUS.verdict(
                PLATEAUS.PREDICTIONS[name][kind], found
            )


def test_a_variant_steps_at_the_rate_of_the_whole_recipe_though_it_is_cut_off():
    assert PLATEAUS.LAST < PLATEAUS.RECIPE.training.steps
    for name in PLATEAUS.VARIANTS:
        recipe, _ = PLATEAUS.variant(name, 1)
        assert recipe.training == PLATEAUS.RECIPE.training and recipe.seed == 1


@pytest.mark.parametrize("name", PLATEAUS.VARIANTS)
def test_a_variant_starts_as_the_whole_recipe_and_sees_its_batches(name, monkeypatch):
    monkeypatch.setattr(PLATEAUS, "RECIPE", TINY)
    whole = SceneTask.from_recipe(replace(TINY, seed=1))
    recipe, variant = PLATEAUS.variant(name, 1)
    for (key, a), b in zip(whole.state_dict().items(), variant.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert variant.grounding_layer == PLATEAUS.GROUNDING_LAYER.get(name, whole.grounding_layer)
    ours, theirs = (batches(of).batch(1000) for of in (replace(TINY, seed=1), recipe))
    assert len(ours["target"]) == len(theirs["target"])
    # what is taken away is a loss, a layer or the first part of the run: the batch is the same
    same = all(torch.equal(x, theirs[key]) for key, x in ours.items() if key != "pictures")
    assert same == (name not in ("pictures", "location"))


def test_looks_are_the_shares_of_attention_that_a_loop_over_the_phrases_finds():
    task, asked = SceneTask.from_recipe(TINY).eval(), PLATEAUS.questions()
    found = PLATEAUS.looks(task.model, asked)
    assert [len(found["word"]), len(found["first"])] == [1, 2]  # the last layer asks no word
    pictures = scale_pixels(asked["pictures"][:40], channels_last=True)
    text = {name: asked[name][:320] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        layers = [layer["image"] for layer in task.model.weights(text, pictures)]
    of_word, of_first = [], []
    for question in range(320):
        if KINDS[asked["kind"][question]] != "relation":
            continue
        for word, cell in enumerate(asked["phrases"][question].tolist()):
            if cell >= 0:
                of_word.append(layers[0][question, :, word, cell])
                of_first.append(layers[1][question, :, 0, cell])
    assert found["word"][0] == pytest.approx(torch.stack(of_word).mean(0).max().item())
    assert found["first"][1] == pytest.approx(torch.stack(of_first).mean(0).max().item())
