"""Learning the generated world: batches keyed by step, labels in their places, honest controls."""

import hashlib
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from strategies import error_line, normal
from torch import nn
from torch.utils.data import DataLoader
from toy import same

import mmlib.data.scenes.stream as stream
import mmlib.tasks.scene_run as scene_run
import mmlib.tasks.scenes as scene_task
from mmlib.data.scenes import (
    ANSWERS,
    COLORS,
    KINDS,
    SHAPES,
    WORDS,
    Scene,
    Thing,
    answer,
    render,
    sample_questions,
)
from mmlib.data.scenes.batches import (
    ANSWER_INDEX,
    LENGTH,
    WORD_INDEX,
    blank_pictures,
    collate,
    encode_questions,
    exchange_pictures,
    with_modality,
)
from mmlib.data.scenes.controls import answer_or_none
from mmlib.data.scenes.questions import Question
from mmlib.data.scenes.stream import held_out_questions, held_out_scenes
from mmlib.errors import UserError
from mmlib.evaluation import accuracy_by_kind
from mmlib.fusion import FUSIONS
from mmlib.losses import IGNORE
from mmlib.models import FusionOutput
from mmlib.tasks.scene_recipe import EASY_KINDS, SceneRecipe
from mmlib.tasks.scene_report import (
    answer_questions,
    controls,
    reference_control,
    report,
    validation_score,
)
from mmlib.tasks.scene_run import answer_about, batches, load_run, train_scenes
from mmlib.tasks.scenes import CELL_CLASSES, SceneSupervision, SceneTask, ask_model
from mmlib.training.checkpoint import load_weights
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.run_folder import read_log
from mmlib.training.task import Share, split

TRAINING = TrainingConfig(steps=4, warmup_steps=1, evaluate_every=2)
RECIPE = SceneRecipe(
    preset="tiny", pictures=4, questions=2, grounding=0.5, training=TRAINING
)  # every loss
EXECUTION = Execution(workers=0, checkpoint_every=2, device="cpu")


def recipe(**changes) -> SceneRecipe:
    """A recipe of seconds; fields of its training may be changed as well."""
    of_steps = {n: changes.pop(n) for n in list(changes) if n in vars(TRAINING)}
    return replace(RECIPE, **changes, training=replace(TRAINING, **of_steps))


def task_of(**changes) -> SceneTask:
    return SceneTask.from_recipe(recipe(**changes))


def pictures(batch) -> set[str]:
    """A digest of each picture."""
    return {hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in batch["pictures"]}


def drawn(number: int = 30, questions: int = 4):
    rng = np.random.default_rng(5)
    return [sample_questions(rng, questions=questions) for _ in range(number)]


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_is_keyed_by_seed_and_step():
    data, again = batches(recipe()), batches(recipe())
    third = data.batch(3)
    again.batch(1)
    assert all(torch.equal(x, again.batch(3)[name]) for name, x in third.items())
    for other in (data.batch(2), batches(recipe(seed=1)).batch(3)):
        assert not pictures(third) & pictures(other)


def test_whatever_worker_makes_it():
    data = batches(recipe())
    loader = DataLoader(Share(data, 1, 0, 1), batch_size=None, sampler=[2, 0, 3], num_workers=2)
    for step, (made,) in zip([2, 0, 3], loader, strict=True):
        assert all(torch.equal(x, data.batch(step)[name]) for name, x in made.items())


def test_training_validation_and_test_share_no_picture_and_no_scene(monkeypatch):
    """Neither bytes nor things: a scene on another ground would be a near-duplicate."""
    found: dict[str, tuple[set, set]] = {}
    scenes: list[Scene] = []

    def kept(given):
        scenes.extend(scene for scene, _ in given)
        return collate(given)

    monkeypatch.setattr(stream, "collate", kept)
    given = recipe(pictures=100, curriculum=0.0, objects=(2, 6))
    asked = (given.objects, given.questions)
    for name, make in {
        "train": lambda: [batches(given).batch(step) for step in range(4)],
        "another seed": lambda: [batches(replace(given, seed=1)).batch(0)],
        "validation": lambda: [held_out_questions("validation", 300, *asked)],
        "test": lambda: [held_out_questions("test", 300, *asked)],
        "unseen combinations": lambda: [held_out_questions("test", 100, *asked, "held_out")],
    }.items():
        scenes.clear()
        digests = set().union(*(pictures(batch) for batch in make()))
        assert len(digests) == len(scenes)
        found[name] = digests, {frozenset(scene.things) for scene in scenes}
    names = list(found)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not found[a][0] & found[b][0] and not found[a][1] & found[b][1], (a, b)


def test_held_out_questions_are_those_of_the_held_out_scenes():
    drawn_ = held_out_scenes("validation", 5, (2, 6), 3)
    batch = held_out_questions("validation", 5, (2, 6), 3)
    assert all(torch.equal(x, batch[name]) for name, x in collate(drawn_).items())
    assert len(batch["target"]) == 15


def digest(batch) -> str:
    """Of all its bytes; a phrase without a label counts as -1, as it was once written."""
    given = batch | {"phrases": batch["phrases"].where(batch["phrases"] != IGNORE, -1)}
    found = hashlib.sha256()
    for name in sorted(given):
        found.update(f"{name}{given[name].dtype}".encode() + given[name].numpy().tobytes())
    return found.hexdigest()[:16]


def test_outermost_is_the_world_as_it_was_first_made():
    """The digests were taken from commit aea9048, before references asked for the nearest."""
    old = recipe(
        pictures=8, questions=4, steps=10, curriculum=0.2, focus=(1.0, 1.0), seed=3,
        reference="outermost",
    )  # fmt: skip
    assert [digest(batches(old).batch(step)) for step in (0, 1, 2, 5)] == [
        "c0932bbe2b45d1a7", "11aef7007a3ef747", "32fe3dd37b5394a3", "f328f49b025cc56d",
    ]  # fmt: skip
    asked = (old.objects, old.questions)
    for given, wanted in (
        (("test", 20, *asked), "7cbf84d75aa24b24"),
        (("validation", 20, *asked), "dd7b36196fc291d7"),
        (("test", 20, *asked, "held_out"), "ad7ccc74d922fbf2"),
    ):
        assert digest(held_out_questions(*given, reference="outermost")) == wanted
        assert digest(held_out_questions(*given)) != wanted


@pytest.mark.parametrize("reference", ["nearest", "plain", "outermost"])
def test_the_recipe_says_how_a_reference_is_asked(reference):
    batch = batches(recipe(reference=reference, pictures=40, curriculum=0.0, questions=4)).batch(0)
    asked = [
        [WORDS[i] for i in ids]
        for ids, kind in zip(batch["input_ids"], batch["kind"], strict=True)
        if KINDS[kind] == "reference"
    ]
    assert asked and all(("nearest" in words) == (reference != "outermost") for words in asked)


def test_the_batch_says_what_the_scenes_hold():
    """Shapes, and each question's picture, answer and kind; the oracle agrees."""
    given = drawn(questions=3)
    batch = collate(given)
    P, B = 30, 90
    assert batch["pictures"].shape == (P, 64, 64, 3) and batch["pictures"].dtype == torch.uint8
    assert batch["image_mask"].all() and batch["image_mask"].shape == (P,)
    for b in range(B):
        scene, asked = given[b // 3]
        question = asked[b % 3]
        words = [WORDS[i] for i in batch["input_ids"][b][batch["attention_mask"][b]]]
        assert words == ["[CLS]", *question.text.split()]
        assert ANSWERS[batch["target"][b]] == answer(scene, question.text)
        assert KINDS[batch["kind"][b]] == question.kind
        assert (batch["pictures"][b // 3].numpy() == render(scene)).all()


def test_phrases_point_from_the_word_that_ends_them_to_the_cell_of_the_thing():
    """The label stands at the token of "circle" in "the red circle", [CLS] counted."""
    things = (Thing(0, 0, 0, 12, 20), Thing(2, 1, 1, 50, 50))
    text = "is the red circle left of the blue square"
    asked = Question("relation", text, "yes", ((3, things[0].cell), (8, things[1].cell)))
    batch = collate([(Scene(things, 240), [asked])])
    expected = [-100] * LENGTH
    expected[4], expected[9] = 2 * 8 + 1, 6 * 8 + 6
    assert batch["phrases"].tolist() == [expected]
    tokens = ["[CLS]", *text.split()]
    assert (tokens[4], tokens[9]) == ("circle", "square")


def test_phrases_name_the_thing_in_their_cell():
    """For sampled questions: the words before the token are the color and shape in the cell."""
    batch, seen = collate(drawn(100)), 0
    for b, row in enumerate(batch["phrases"]):
        tokens = [WORDS[i] for i in batch["input_ids"][b]]
        for position, cell in enumerate(row.tolist()):
            if cell < 0:
                continue
            color, shape, _ = batch["cells"][b // 4, cell].tolist()
            assert color > 0, "a thing lies there"
            words, seen = tokens[position - 1 : position + 1], seen + 1
            named = {list(COLORS)[color - 1], SHAPES[shape - 1]}
            assert set(words) & named and tokens[position] in {*SHAPES, "object"}
            assert not (set(words) & ({*COLORS, *SHAPES} - named))
    assert seen > 100


def test_cells_are_labeled_where_the_pixels_are():
    """Each thing's cell has its color, shape and size plus one; all other cells zeros."""
    given = drawn(20)
    for (scene, _), cells in zip(given, collate(given)["cells"], strict=True):
        labeled = {i: tuple(row) for i, row in enumerate(cells.tolist()) if any(row)}
        assert labeled == {t.cell: (t.color + 1, t.shape + 1, t.size + 1) for t in scene.things}
        for cell, (color, _, _) in labeled.items():
            thing = next(t for t in scene.things if t.cell == cell)
            assert tuple(render(scene)[thing.y, thing.x]) == list(COLORS.values())[color - 1]
            assert (cell % 8, cell // 8) == (thing.x // 8, thing.y // 8)


def test_easy_scenes_come_first_and_only_then():
    """The curriculum: few things and easy kinds in the first share of the steps."""
    data = batches(recipe(curriculum=0.5, focus=(1.0, 1.0), pictures=40, questions=4))
    things, kinds = [], []
    for step in range(4):
        batch = data.batch(step)
        things.append((batch["cells"][..., 0] > 0).sum(1).max().item())
        kinds.append({KINDS[k] for k in batch["kind"].tolist()})
    assert things[0] <= 3 and things[1] <= 3 < min(things[2:])
    assert kinds[0] | kinds[1] <= set(EASY_KINDS)
    assert kinds[2] == kinds[3] == set(KINDS)
    whole = batches(recipe(curriculum=0.0, pictures=40, questions=4)).batch(0)
    assert (whole["cells"][..., 0] > 0).sum(1).max() > 3


def test_relation_and_reference_are_asked_most_once_the_rest_is_learned():
    """Shares of the kinds by stage, over the questions of four steps each."""
    data = batches(recipe(steps=20, curriculum=0.2, focus=(0.4, 0.7), pictures=40, questions=8))
    shares = []
    for steps in (range(4, 8), range(9, 13), range(15, 19)):
        kinds = torch.cat([data.batch(step)["kind"] for step in steps])
        shares.append([
            float((kinds == KINDS.index(kind)).float().mean())
            for kind in ("relation", "reference")
        ])  # fmt: skip
    (related, referred), (both, both_too), (late, most) = shares
    assert related < 0.25 > referred and both > 0.25 < both_too
    assert late < 0.15 and most > 0.35


def test_half_of_the_pictures_are_asked_plainly():
    """A plain reference is asked of three things too, a balanced one of four at least."""
    fewest = {}
    for plain in (0.0, 1.0):
        given = recipe(plain=plain, curriculum=0.0, focus=(0.0, 0.0), objects=(3, 6), pictures=40)
        batch = batches(given).batch(0)
        things = (batch["cells"][..., 0] > 0).sum(1)
        asked = (batch["kind"] == KINDS.index("reference")).view(len(things), -1).any(1)
        fewest[plain] = int(things[asked].min())
    assert fewest == {0.0: 4, 1.0: 3}


@pytest.mark.parametrize("curriculum", [0.0, 0.9])
def test_without_location_none_is_asked(curriculum):
    given = recipe(location=0.0, curriculum=curriculum, focus=(1.0, 1.0), pictures=60, questions=4)
    kinds = {KINDS[k] for k in batches(given).batch(0)["kind"].tolist()}
    assert kinds == set(EASY_KINDS if curriculum else KINDS) - {"location"}


@pytest.mark.parametrize("modality", ["both", "text", "image"])
def test_the_batches_hide_what_the_recipe_hides(modality):
    whole, hidden = (batches(recipe(modality=m)).batch(0) for m in ("both", modality))
    wanted = with_modality(whole, modality)
    assert all(torch.equal(x, wanted[name]) for name, x in hidden.items())


# --- questions as numbers -------------------------------------------------------------------------


def test_questions_are_cls_and_one_number_a_word():
    found = encode_questions(["is there a red circle", "how many objects are there"])
    assert found["input_ids"].shape == (2, LENGTH)
    assert found["input_ids"][0].tolist() == [
        *(WORD_INDEX[w] for w in "[CLS] is there a red circle".split()),
        *[WORD_INDEX["[PAD]"]] * 6,
    ]
    assert found["attention_mask"].sum(1).tolist() == [6, 6]
    assert found["attention_mask"].dtype == torch.bool


def test_no_question_of_the_world_is_too_long():
    longest = max(len(q.text.split()) for _, asked in drawn(300) for q in asked)
    assert longest == 11 == LENGTH - 1


def test_an_unknown_word_and_a_long_question_are_one_line():
    with pytest.raises(UserError) as error:
        encode_questions(["is there a red circle", "is there a pink circle"])
    error_line(error, "words of the generated world", "got 'pink'")
    with pytest.raises(UserError) as error:
        encode_questions(["the " * LENGTH])
    error_line(error, f"at most {LENGTH - 1} words", f"got {LENGTH}")


# --- one side taken away --------------------------------------------------------------------------


def test_what_is_hidden_and_nothing_else():
    batch = collate(drawn(3))
    assert with_modality(batch, "both") is batch
    text, image = with_modality(batch, "text"), with_modality(batch, "image")
    assert not text["image_mask"].any()
    assert {n for n in batch if text[n] is not batch[n]} == {"image_mask"}
    assert {n for n in batch if image[n] is not batch[n]} == {
        "attention_mask", "input_ids", "phrases",
    }  # fmt: skip
    assert image["attention_mask"].sum(1).eq(1).all() and image["attention_mask"][:, 0].all()
    assert image["input_ids"][:, 0].eq(WORD_INDEX["[CLS]"]).all()
    assert image["input_ids"][:, 1:].eq(0).all(), "no word may be read from the padding"
    assert image["phrases"].eq(-100).all()


def test_exchanged_pictures_are_all_there_and_none_in_its_place():
    batch = collate(drawn(5))
    exchanged = exchange_pictures(batch)
    assert pictures(exchanged) == pictures(batch)
    same_place = (exchanged["pictures"] == batch["pictures"]).flatten(1).all(1)
    assert not same_place.any()
    assert {n for n in batch if exchanged[n] is not batch[n]} == {"pictures"}


def test_blank_pictures_show_one_gray():
    blank = blank_pictures(collate(drawn(2)))["pictures"]
    assert blank.unique().numel() == 1 and blank.shape == (2, 64, 64, 3)
    assert any((render(Scene((), gray)) == blank[0].numpy()).all() for gray in range(225, 250))


class Stub(nn.Module):
    """A model of a test's making: answers(ids [B, 12], pictures [P, 3, 64, 64]) → class [B]."""

    def __init__(self, answers):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.answers = answers

    def outputs(self, text, images, image_mask):
        ids = text["input_ids"] * text["attention_mask"]
        images = torch.where(image_mask[:, None, None, None], images, 0.0)
        return SimpleNamespace(logits=F.one_hot(self.answers(ids, images), len(ANSWERS)).float())


def rate(scores) -> dict[str, float]:
    return {name: value["overall"]["mean"] for name, value in scores.items()}


def test_a_model_that_ignores_the_picture_scores_the_same_without_it():
    """So the controls tell it: shuffled, blank and text alone are the score itself."""
    scores = controls(Stub(lambda ids, images: ids.sum(1) % len(ANSWERS)), collate(drawn(40)))
    assert scores["shuffled"] == scores["both"] == scores["blank"] == scores["text_only"]
    assert scores["both"]["overall"]["n"] == 160


def test_a_model_that_sees_is_refuted_by_no_control():
    """It knows each picture's answers by its bytes; with another picture it is mostly wrong."""
    batch = collate(drawn(60, questions=2))
    known = {x.numpy().tobytes(): i for i, x in enumerate(ask_pictures(batch))}

    def answers(ids, images):
        pictures_ = [known.get(x.numpy().tobytes()) for x in images]
        return torch.tensor(
            [
                0 if p is None else batch["target"][2 * p + i].item()
                for p in pictures_
                for i in (0, 1)
            ]
        )

    scores = rate(controls(Stub(answers), batch))
    assert scores["both"] == scores["image_only"] == 1.0
    assert max(scores[name] for name in ("shuffled", "blank", "text_only")) < 0.5


def ask_pictures(batch) -> torch.Tensor:
    """The pictures as a model is given them."""
    seen = {}
    stub = Stub(lambda ids, images: seen.update(images=images) or torch.zeros(len(ids)).long())
    ask_model(stub, batch)
    return seen["images"]


def test_pictures_reach_the_model_channels_first_from_minus_one_to_one():
    batch = collate(drawn(2))
    images = ask_pictures(batch)
    assert images.shape == (2, 3, 64, 64) and images.dtype == torch.float32
    assert torch.allclose(
        (images.permute(0, 2, 3, 1) + 1) * 127.5, batch["pictures"].float(), atol=1e-4
    )
    extremes = torch.tensor([0, 255]).byte()[:, None, None, None].expand(2, 64, 64, 3)
    black, white = ask_pictures(batch | {"pictures": extremes})
    assert (black == -1).all() and (white == 1).all()


@pytest.mark.parametrize("questions", [1, 3])
def test_answers_come_in_order_across_pieces(questions):
    """60 pictures are answered in two pieces; each answer belongs to its question."""
    batch = collate(drawn(60, questions))
    stub = Stub(lambda ids, images: ids.sum(1) % len(ANSWERS))
    prediction, target, kind = answer_questions(stub.train(), batch)
    ids = batch["input_ids"] * batch["attention_mask"]
    assert prediction == (ids.sum(1) % len(ANSWERS)).tolist()
    assert target == batch["target"].tolist()
    assert kind == [KINDS[k] for k in batch["kind"]]
    assert stub.training


# --- another name, another side -------------------------------------------------------------------


def oracle(drawn_, heard=lambda words: words):
    """A model that answers right what it hears of a question, and "yes" where it has no answer.

    It knows the scenes by their pictures; its first answer to a text it cannot answer is "yes".
    """
    shown = ask_pictures(collate(drawn_))
    scenes = {x.numpy().tobytes(): scene for x, (scene, _) in zip(shown, drawn_, strict=True)}

    def answers(ids, images):
        found = []
        for row, image in zip(ids, images, strict=True):
            words = heard([WORDS[i] for i in row if i][1:])
            said = answer_or_none(scenes[image.numpy().tobytes()], " ".join(words))
            found.append(ANSWER_INDEX[said or "yes"])
        return torch.tensor(found)

    return Stub(answers)


def references(drawn_) -> int:
    return sum(q.kind == "reference" for _, asked in drawn_ for q in asked)


def test_a_model_that_reads_name_and_side_changes_its_answer_with_either():
    drawn_ = held_out_scenes("test", 60)
    found = reference_control(oracle(drawn_), drawn_)
    assert found["accuracy"]["mean"] == found["accuracy_present_name"]["mean"] == 1
    assert found["accuracy"]["n"] == references(drawn_) > 20
    assert set(found["stay"]) == {"present_name", "absent_name", "side"}
    assert found["stay"]["present_name"]["mean"] == found["stay"]["absent_name"]["mean"] == 0
    assert found["stay"]["side"]["mean"] < 0.3  # the other side need not be well posed
    for share in found["stay"].values():
        assert 0 <= share["low"] <= share["mean"] <= share["high"] <= 1
        assert share["n"] == references(drawn_)


def test_a_model_that_ignores_the_name_is_told():
    """It looks from the first thing of the scene, whatever the name: the answer stays."""
    drawn_ = held_out_scenes("test", 60)
    found = reference_control(Stub(lambda ids, images: ids[:, 2] % 7), drawn_)
    assert {share["mean"] for share in found["stay"].values()} == {1.0}

    def deaf(ids, images):  # reads the side alone
        return torch.tensor([sum(map(ord, WORDS[i[7]])) % len(ANSWERS) for i in ids])

    found = reference_control(Stub(deaf), drawn_)
    assert found["stay"]["present_name"]["mean"] == found["stay"]["absent_name"]["mean"] == 1.0
    assert found["stay"]["side"]["mean"] == 0


def test_the_outermost_world_has_the_control_too():
    """There no other name has another answer, which is why it was left: only absent ones tell."""
    drawn_ = held_out_scenes("test", 60, reference="outermost")
    found = reference_control(oracle(drawn_), drawn_)
    assert found["accuracy"]["mean"] == 1
    assert found["stay"]["absent_name"]["n"] == references(drawn_)
    assert set(found["stay"]) == {"absent_name", "side"} and "accuracy_present_name" not in found


def test_without_a_reference_there_is_no_control():
    drawn_ = [sample_questions(np.random.default_rng(0), (1, 3), 2, {"color": 1.0})]
    assert reference_control(oracle(drawn_), drawn_) == {}


# --- supervision ----------------------------------------------------------------------------------


def test_a_word_points_into_its_own_picture():
    """Scores [B, L, L_i] by hand, text b on picture b // (B / P)."""
    d, P, B, L, cells = 6, 2, 6, 3, 5
    head = SceneSupervision(d)
    words, image = normal(0, B, L, d, dtype=torch.float32), normal(1, P, cells, d).float()
    scores = head.point(words, image)
    assert scores.shape == (B, L, cells)
    for b in range(B):
        expected = head.ask(words[b]) @ head.answer(image[b // 3]).T / d**0.5
        assert torch.allclose(scores[b], expected, atol=1e-5)


def test_the_parts_of_the_loss_by_hand():
    task = task_of(dense=0.7, grounding=0.3).eval()
    batch = batches(recipe()).batch(0)
    outputs = ask_model(task.model, batch)
    parts = {n: total / count for n, (total, count) in task(batch).items()}
    assert parts["answer"].item() == pytest.approx(
        F.cross_entropy(outputs.logits, batch["target"]).item(), rel=1e-5
    )
    out = task.supervision.cells(outputs.tokens["image"].value)
    for number, name in enumerate(("cell_color", "cell_shape", "cell_size")):
        first = sum(CELL_CLASSES[:number])
        logits = out[..., first : first + CELL_CLASSES[number]].flatten(0, 1)
        weight = torch.ones(CELL_CLASSES[number])
        weight[0] = 0.05
        mean = F.cross_entropy(logits, batch["cells"][..., number].flatten(), weight)
        assert parts[name].item() == pytest.approx(0.7 * mean.item(), rel=1e-4)
    words = outputs.hidden_states[0].value
    scores = task.supervision.point(words, outputs.tokens["image"].value).flatten(0, 1)
    pointing = F.cross_entropy(scores, batch["phrases"].flatten(), ignore_index=IGNORE)
    assert parts["grounding"].item() == pytest.approx(0.3 * pointing.item(), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"dense": 0.0}, {"grounding": 0.0}], ids=str)
def test_the_counts_are_those_of_the_losses(changes):
    """By the labels alone, in the same order, of which `fit` makes its divisors."""
    task, batch = task_of(**changes), batches(recipe()).batch(0)
    of_losses = {name: count.item() for name, (_, count) in task(batch).items()}
    counted = {n: x.item() for n, x in task.counts(batch).items()}
    assert counted == pytest.approx(of_losses) and list(counted) == list(of_losses)


def test_pieces_hold_whole_pictures_with_their_questions():
    batch = batches(recipe()).batch(0)
    pieces = split(batch, 2)
    for name, x in batch.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), x)
    assert [len(p["pictures"]) for p in pieces] == [2, 2]
    assert [len(p["target"]) for p in pieces] == [4, 4]


def test_grounding_is_at_the_second_layer_where_there_are_more_than_two():
    assert task_of().grounding_layer == 0
    assert task_of(preset="small").grounding_layer == 1


# --- each cause can be taken away -----------------------------------------------------------------

PARTS = {"answer", "cell_color", "cell_shape", "cell_size", "grounding"}
CAUSES: list[tuple[dict, set[str]]] = [
    ({}, PARTS),
    ({"dense": 0.0}, {"answer", "grounding"}),
    ({"grounding": 0.0}, PARTS - {"grounding"}),
    ({"dense": 0.0, "grounding": 0.0}, {"answer"}),
    ({"location": 0.0}, PARTS),
    ({"coordinates": False}, PARTS),
    ({"axes": False}, PARTS),
    ({"curriculum": 0.0}, PARTS),
    ({"pictures": 1}, PARTS),
    ({"text_layers": 0}, PARTS),
    ({"dropout": 0.1}, PARTS),
    ({"modality": "text"}, PARTS),
    ({"modality": "image"}, PARTS),
    ({"modality": "text", "dense": 0.0, "grounding": 0.0}, {"answer"}),
    ({"accumulate": 2}, PARTS),
    ({"precision": "bf16"}, PARTS),
    ({"optimizer": "muon"}, PARTS),
    ({"ema_decay": 0.9}, PARTS),
    ({"reference": "outermost"}, PARTS),
    *(({"fusion": name, "grounding": 0.0}, PARTS - {"grounding"}) for name in FUSIONS),
]


@pytest.mark.parametrize("changes, parts", CAUSES, ids=[str(changes) for changes, _ in CAUSES])
def test_each_cause_is_one_field_of_the_recipe(changes, parts, tmp_path):
    """Without it a step is taken, its part of the loss is gone, and weights have moved."""
    given = recipe(**{"steps": 1, **changes})
    task = SceneTask.from_recipe(given)
    before = {n: x.clone() for n, x in task.model.named_parameters()}
    fit(task, batches(given), given.training, tmp_path, {}, seed=0, execution=EXECUTION)
    (entry,) = read_log(tmp_path / "log.jsonl")
    assert set(entry) - {"step", "lr", "loss"} == parts
    assert entry["loss"] == pytest.approx(sum(entry[name] for name in parts))
    assert 0 < entry["answer"] < 20
    moved = {n for n, x in task.model.named_parameters() if not torch.equal(x, before[n])}
    assert any(n.startswith("head") for n in moved)


def test_coordinates_and_text_layers_are_gone_from_the_model():
    model = task_of(coordinates=False, text_layers=0).model
    assert (
        model.encoders["image"].place is None
        and len(model.encoders["text"].backbone.encoder.layer) == 0
    )
    assert task_of().model.encoders["image"].place is not None
    assert hasattr(task_of(axes=False).model.encoders["image"], "cell")


def test_the_seed_decides_the_first_weights():
    a, b, c = (task_of(seed=seed).state_dict() for seed in (0, 0, 1))
    assert same(a, b) and not same(a, c)


# --- recipes --------------------------------------------------------------------------------------


def test_a_recipe_round_trips_through_json():
    given = recipe(objects=(2, 4), seed=7, coordinates=False, precision="bf16", steps=9)
    again = SceneRecipe.from_json(json.loads(json.dumps(given.to_json())))
    assert again == given and isinstance(again.objects, tuple)
    assert SceneRecipe.from_json({"kind": "scenes"}) == SceneRecipe()


@pytest.mark.parametrize("extra", [{"color": 1}, {"training": {"speed": 2}}, {"steps": 3}])
def test_an_unknown_field_of_a_recipe_is_one_line(extra):
    with pytest.raises(UserError) as error:
        SceneRecipe.from_json(RECIPE.to_json() | extra)
    error_line(error, "fields of a", re.findall(r"color|speed|steps", str(extra))[0])


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"modality": "sound"}, ("both or text or image", "'sound'")),
        ({"objects": (0, 9)}, ("within 1 to 6", "(0, 9)")),
        ({"pictures": 0}, ("pictures of 1 or more", "got 0")),
        ({"questions": 0}, ("questions of 1 or more", "got 0")),
        ({"text_layers": -1}, ("text_layers of 0 or more", "got -1")),
        ({"seed": -1}, ("seed of 0 or more", "got -1")),
        ({"dense": -1.0}, ("dense of 0 or more", "got -1")),
        ({"grounding": float("nan")}, ("grounding of 0 or more", "got nan")),
        ({"location": float("inf")}, ("location of 0 or more", "got inf")),
        ({"curriculum": float("nan")}, ("curriculum of 0 or more", "got nan")),
        ({"curriculum": 1.0}, ("curriculum", "got 1.0")),
        ({"focus": (0.5, 0.4)}, ("focus in rising order", "1 1 asks all")),
        ({"focus": (0.1, 0.4), "curriculum": 0.3}, ("focus in rising order",)),
        ({"plain": 1.5}, ("plain from 0 to 1", "got 1.5")),
        ({"dropout": 1.0}, ("dropout", "got 1.0")),
        ({"accumulate": 3}, ("accumulate to divide 4 pictures", "got 3")),
        ({"reference": "farthest"}, ("reference nearest or plain or outermost", "farthest")),
    ],
    ids=str,
)
def test_a_recipe_of_figures_that_make_no_batch_is_one_line(changes, parts):
    with pytest.raises(UserError) as error:
        recipe(**changes)
    error_line(error, *parts)


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"fusion": "late"}, ("token-level fusion", "grounding to 0")),
        ({"fusion": "sum"}, ("merged", "'sum'")),
        ({"preset": "huge"}, ("tiny, small, base", "'huge'")),
        ({"preset": "base"}, ("64-pixel pictures", "base")),
        ({"objects": (1, 3)}, ("objects for reference", "allow more objects")),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_run_is_one_line_and_writes_nothing(
    changes, parts, monkeypatch, tmp_path
):
    # base would take gigabytes before its picture size is looked at
    monkeypatch.setattr(scene_task.MultimodalBert, "from_config", refuse_base)
    with pytest.raises(UserError) as error:
        train_scenes(recipe(**changes), tmp_path / "run", EXECUTION)
    error_line(error, *parts)
    assert not (tmp_path / "run").exists()


from_config = scene_task.MultimodalBert.from_config


def refuse_base(config):
    assert config.d < 768, "base is refused before it is built"
    return from_config(config)


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps, best after the second, with its report on twenty pictures."""
    out, scores = tmp_path_factory.mktemp("run") / "tiny", iter([0.9, 0.1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_run, "validation_score", lambda *given: {"overall": next(scores)})
        patch.setattr(scene_run, "report", lambda *given: report(*given, 20))
        result = train_scenes(recipe(), out, EXECUTION)
    return out, result


def test_a_run_folder_holds_what_is_promised(trained):
    out, result = trained
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock", "best", "last", "log.jsonl", "recipe.json", "report.json",
    ]  # fmt: skip
    written = json.loads((out / "report.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert set(written["controls"]) == {"text_only", "image_only", "shuffled", "blank"}
    assert set(written["accuracy"]) >= {"mean", "low", "high"}
    assert written["by_kind"]["overall"] == written["accuracy"]
    assert written["accuracy"]["n"] == 20 * 2
    assert written["held_out_combinations"]["overall"]["n"] == 50 * 2
    assert written["recipe"] == recipe().to_json() and written["seconds"] >= 0
    assert [e["step"] for e in read_log(out / "log.jsonl") if "score" in e] == [2, 4]


def test_the_report_is_about_the_best_weights(tmp_path, monkeypatch):
    """Of steps 2 and 4 the second scored less: its weights are others, and not those asked."""
    scores, asked = iter([0.9, 0.1]), {}

    def report_(model, recipe):
        asked.update({name: x.clone() for name, x in model.state_dict().items()})
        return {}

    monkeypatch.setattr(scene_run, "validation_score", lambda *given: {"overall": next(scores)})
    monkeypatch.setattr(scene_run, "report", report_)
    train_scenes(recipe(), tmp_path, EXECUTION)
    best, last = task_of(), task_of()
    load_weights(tmp_path / "best", best)
    load_weights(tmp_path / "last", last)
    assert same(asked, best.model.state_dict()) and not same(asked, last.model.state_dict())


def test_a_run_is_loaded_with_its_best_weights(trained):
    """Asked again, they give the report's figures."""
    out, result = trained
    best = task_of()
    load_weights(out / "best", best)
    again, task = load_run(out)
    assert again == recipe() and same(task.state_dict(), best.state_dict())
    batch = held_out_questions("test", 20, again.objects, again.questions)
    assert accuracy_by_kind(*answer_questions(task.model, batch)) == result["by_kind"]
    assert result["reference"] == reference_control(
        task.model, held_out_scenes("test", 20, again.objects, again.questions)
    )


def test_the_score_that_chooses_is_of_the_validation_pictures(tmp_path, monkeypatch):
    """Once drawn, with the other modality hidden; the figures are those of its accuracy."""
    asked = []

    def score(model, batch, modality):
        asked.append((batch, modality))
        return {"overall": 0.5}

    monkeypatch.setattr(scene_run, "validation_score", score)
    monkeypatch.setattr(scene_run, "report", lambda *given: {})
    train_scenes(recipe(modality="text", reference="outermost"), tmp_path, EXECUTION)
    (batch, modality), (again, _) = asked
    wanted = held_out_questions("validation", 100, (1, 6), 2, reference="outermost")
    assert all(torch.equal(x, batch[name]) for name, x in wanted.items())
    assert modality == "text" and again is batch


def test_a_score_is_the_accuracy_of_each_kind():
    batch = collate(drawn(40))
    stub = Stub(lambda ids, images: ids.sum(1) % len(ANSWERS))
    wanted = accuracy_by_kind(*answer_questions(stub, batch))
    assert validation_score(stub, batch) == {n: value["mean"] for n, value in wanted.items()}


def test_another_recipe_in_the_same_folder_is_one_line(trained):
    with pytest.raises(UserError) as error:
        train_scenes(recipe(seed=5), trained[0], EXECUTION)
    error_line(error, "a run with another seed", "--resume")


def picture(path, size=(64, 64), mode="RGB"):
    Image.fromarray(render(drawn(1)[0][0])).resize(size).convert(mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_an_answer_about_a_picture_file(mode, trained, tmp_path):
    _, task = load_run(trained[0])
    given = answer_about(task, picture(tmp_path / "x.png", mode=mode), "is there a red circle")
    assert given in ANSWERS


def test_the_model_is_asked_about_a_file_as_about_a_scene(trained, tmp_path, monkeypatch):
    """Pixels and words are bitwise those of a batch; the class is said as its word."""
    scene, (question,) = drawn(1, questions=1)[0]
    batch, task, asked = collate([(scene, [question])]), load_run(trained[0])[1], {}

    def answer_yes(model, text, image):
        asked.update(model=model, text=text, image=image)
        return torch.tensor([ANSWER_INDEX["yes"]])

    monkeypatch.setattr(scene_run, "predict", answer_yes)
    Image.fromarray(render(scene)).save(tmp_path / "x.png")
    assert answer_about(task, tmp_path / "x.png", question.text) == "yes"
    assert asked["model"] is task.model
    assert torch.equal(asked["image"], ask_pictures(batch))
    assert all(torch.equal(x, batch[name]) for name, x in asked["text"].items())


def test_a_picture_of_another_size_is_one_line(trained, tmp_path):
    with pytest.raises(UserError) as error:
        answer_about(load_run(trained[0])[1], picture(tmp_path / "x.png", (80, 64)), "is there a")
    error_line(error, "64 × 64", "got 80 × 64")


def test_a_broken_picture_is_one_line(trained, tmp_path):
    """Absent, empty, no picture, cut off, a folder, a bomb, and bytes changed at random."""
    _, task = load_run(trained[0])
    whole = picture(tmp_path / "whole.png").read_bytes()
    rng, contents = np.random.default_rng(0), [b"", b"no picture", whole[:40], whole[:-200]]
    for _ in range(60):
        spoiled = bytearray(whole)
        for at in rng.integers(8, len(whole), 3):
            spoiled[at] = rng.integers(256)
        contents.append(bytes(spoiled))
    refused = 0
    for content in contents:
        (tmp_path / "x.png").write_bytes(content)
        try:
            answer_about(task, tmp_path / "x.png", "is there a red circle")
        except UserError as error:
            refused += 1
            assert re.fullmatch(r"expected a picture[^\n]+, got [^\n]+; [^\n]+", str(error))
    assert refused > 20
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(UserError) as error:
            answer_about(task, path, "is there a red circle")
        error_line(error, f"a picture file {path}")


def test_a_decompression_bomb_is_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError) as error:
        answer_about(load_run(trained[0])[1], picture(tmp_path / "x.png"), "is there a red circle")
    error_line(error, "a picture file", "decompression bomb")


def test_outputs_are_what_the_task_reads():
    assert {"logits", "hidden_states", "tokens"} <= set(FusionOutput.__dataclass_fields__)
