"""The weights that come with the package: halved, checked against their card, loaded whole."""

import numpy as np
import pytest
import torch
from strategies import error_line

from mmlib.data.scenes import KINDS
from mmlib.data.scenes.batches import collate, exchange_pictures
from mmlib.data.scenes.stream import held_out_questions, held_out_scenes
from mmlib.errors import UserError
from mmlib.tasks import small
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import answer_questions
from mmlib.tasks.scene_run import load_run
from mmlib.tasks.scenes import SceneTask, ask_model
from mmlib.training.checkpoint import save_checkpoint
from mmlib.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose best weights are those of a new model."""
    recipe = SceneRecipe(preset="tiny", seed=3)
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(recipe):
        save_checkpoint(folder.best, SceneTask.from_recipe(recipe), recipe=recipe.to_json())
    return folder.path


@pytest.fixture
def asset(run, tmp_path, monkeypatch):
    """That run's weights as the package's own, with their card."""
    monkeypatch.setattr(small, "ASSET", tmp_path / "asset")
    digest = small.write_small(run, small.ASSET)
    (small.ASSET / "README.md").write_text(f"SHA-256 `{digest}`")
    return small.ASSET


def test_they_are_half_as_large_and_answer_as_before(run, asset):
    sizes = [(at / "model.safetensors").stat().st_size for at in (run / "best", asset)]
    assert sizes[1] < 0.6 * sizes[0]
    batch = held_out_questions("test", 4)
    _, before = load_run(run)
    after = small.load_small()
    assert not after.training and all(p.dtype == torch.float32 for p in after.parameters())
    with torch.no_grad():
        logits = [ask_model(task.model.eval(), batch).logits for task in (before, after)]
    assert (logits[0] - logits[1]).abs().max() < 0.01 * logits[0].abs().max()
    assert not torch.equal(*logits), "halved"


def test_weights_that_are_not_those_of_the_card_are_refused(asset):
    card = asset / "README.md"
    card.write_text("SHA-256 `0000`")
    with pytest.raises(UserError) as error:
        small.load_small()
    error_line(error, "the weights that", "install mmlib anew")
    card.unlink()
    with pytest.raises(UserError) as error:
        small.load_small()
    error_line(error, "no card")


def test_the_packages_weights_answer_each_kind_of_question_by_the_picture():
    """Each kind, on test scenes; with another picture most answers are no longer right."""
    task = small.load_small()
    scenes = held_out_scenes("test", 60)
    given, target, kind = answer_questions(task.model, collate(scenes))
    right = np.equal(given, target)
    assert right.mean() > 0.95
    asked = {name: right[np.equal(kind, name)].mean() for name in set(kind)}
    assert set(asked) == set(KINDS) and min(asked.values()) > 0.8
    with_another = exchange_pictures(collate(scenes))
    assert np.equal(answer_questions(task.model, with_another)[0], target).mean() < 0.4
