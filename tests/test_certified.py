"""The certificate of a run: a model of scenes asked as the report asks, a table by its folds."""

import numpy as np
import pytest
from strategies import error_line
from test_report import report as table_report

from mmlib.data.scenes.batches import collate, with_modality
from mmlib.data.scenes.stream import held_out_scenes
from mmlib.errors import UserError
from mmlib.evaluation.certificate import Certificate
from mmlib.evaluation.intervals import fold_interval
from mmlib.evaluation.report import names_of
from mmlib.tasks import certified
from mmlib.tasks.certified import (
    certify_language,
    certify_scenes,
    certify_table,
    language_answers,
    scene_answers,
    table_parts,
)
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import controls
from mmlib.tasks.scenes import SceneTask, ask_model

RECIPE = SceneRecipe(preset="tiny", questions=4)
PICTURES = 12


@pytest.fixture(scope="module")
def model():
    return SceneTask.from_recipe(RECIPE).model


@pytest.fixture(scope="module")
def found(model) -> Certificate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "PRIOR", 50)
        return certify_scenes(model, RECIPE, PICTURES)


def test_its_probabilities_are_the_models(model):
    """In training mode too, and however texts and pictures are paired."""
    batch = collate(drawn := held_out_scenes("test", 3, questions=4))
    texts = [q.text for _, asked in drawn for q in asked]
    images = [batch["pictures"][row // 4].numpy() for row in range(12)]
    want = ask_model(model.eval(), batch).logits.softmax(-1).detach()
    order = np.random.default_rng(0).permutation(12).tolist()
    model.train()
    given = scene_answers(model)([texts[i] for i in order], [images[i] for i in order])
    assert model.training
    for modality, pairs in (("text", (texts, [None] * 12)), ("image", ([None] * 12, images))):
        alone = ask_model(model.eval(), with_modality(batch, modality)).logits.softmax(-1)
        assert scene_answers(model)(*pairs).numpy() == pytest.approx(
            alone.detach().numpy(), abs=1e-5
        )
    assert given.numpy() == pytest.approx(want[order].numpy(), abs=1e-5)


def test_a_scene_models_scores_are_the_reports(model, found):
    """Asked by another path: whole batches, and masks for what is missing."""
    drawn = held_out_scenes("test", PICTURES, RECIPE.objects, 4, reference=RECIPE.reference)
    want = controls(model, collate(drawn))
    for name, control in (
        ("all", "both"),
        ("without_image", "text_only"),
        ("without_text", "image_only"),
        ("blank_image", "blank"),
    ):
        assert found.scores[name]["mean"] == pytest.approx(want[control]["overall"]["mean"]), name
    assert "48 questions in 12 groups" in found.over
    assert set(found.not_measured) == {"trained baselines", "attention"}
    assert {"additive", "guess_text", "nothing"} <= set(found.scores)


def test_a_tables_certificate_is_of_its_folds():
    report = table_report()
    found, balanced = certify_table(report), report["folds"]["balanced_accuracy"]
    assert found.scores["all"] == report["balanced_accuracy"]
    assert found.drops["exchanged_image"] == report["gain_over"]["exchanged_image"]
    assert found.drops["guess_answers"] == report["gain_over"]["majority"]
    # Shapley's value of two, fold by fold
    image = [
        ((i - none) + (both - text)) / 2
        for both, i, text, none in zip(
            *(balanced[k] for k in ("all", "only_image", "only_text", "majority")), strict=True
        )
    ]
    assert found.shapley["image"] == pytest.approx(fold_interval(image))
    assert found.verdict == "undecided" and "4 rows in 2 folds" in str(found)
    assert Certificate.from_json(found.to_json()) == found


def test_a_tables_page_has_each_score_and_the_warnings():
    report = {**table_report(), "warnings": ["mind <this>"]}
    page = certify_table(report).to_html("t", *table_parts(report))
    assert all(words in page for words in names_of(["image", "text"]).values())
    assert "Warning: mind &lt;this&gt;." in page and page.count("<svg") == 4


@pytest.mark.parametrize("make", [certify_table, table_parts])
def test_what_is_no_report_of_a_table_is_one_line(make):
    with pytest.raises(UserError) as error:
        make({"balanced_accuracy": 3})
    error_line(error, "the report of a run on a table")


# --- a language model -----------------------------------------------------------------------------


def test_a_language_model_is_asked_as_the_certificate_asks(monkeypatch):
    """With its picture, with none, with a question mark in place of a text that is missing."""
    given: list = []

    def write(model, processor, prompts, pictures, most):
        given.extend(zip(prompts, map(len, pictures), strict=True))
        return ["red"] * len(prompts)

    monkeypatch.setattr("mmlib.tasks.certified.generate_texts", write)
    picture = np.zeros((64, 64, 3), np.uint8)
    said = language_answers(None, None)(["how many", None, "how many"], [picture, picture, None])  # type: ignore[arg-type]
    assert given == [("how many?", 1), ("?", 1), ("how many?", 0)] and said == ["red"] * 3
    recipe = LanguageRecipe("any", questions=2)
    found = certify_language(None, None, recipe, pictures=6)  # type: ignore[arg-type]
    assert found.drops["exchanged_image"]["mean"] == 0 and "calibration" in found.not_measured
    assert "12 questions in 6 groups" in str(found)
