"""Chapter 06: its checks on its programs, each displayed equation, and the checker's judges.

The repairs are taken from the notebook's own cells: what is tested is what is read.
"""

import contextlib
import io
import json
import math
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmlib.attention import attention
from mmlib.book import checks, figures
from mmlib.book.exercises import check
from mmlib.book.exercises.chapter_06 import _CLAIMS, _NAMES, _SYMPTOMS, EXERCISES
from mmlib.book.exercises.chapter_06_turns import TOKENS, _by_library, _check_models
from mmlib.data.scenes import ANSWERS
from mmlib.errors import UserError
from mmlib.evaluation import paired_interval
from mmlib.fusion import CrossAttention, MergedAttention
from mmlib.tokens import Tokens
from tools import record

ROOT = Path(__file__).parents[1]


@cache
def cells() -> dict:
    """The notebook's cells by their ids (read where they are needed: mutants have no notebook)."""
    notebook = nbformat.read(ROOT / "notebooks" / "06_multimodal_bert.ipynb", 4)
    return {cell.id.removeprefix("c06-"): cell for cell in notebook.cells}


# (check, the program that it fails on, the program that mends it)
REPAIRS = (
    ("called", "Specimen", "OneKey"),
    ("apart", "TwoVectors", "OneKey"),
    ("words", "OneKey", "Grid"),
    ("padding", "Grid", "Masked"),
    ("missing", "KeyMask", "Missing"),
    ("formula", "Missing", "Formula"),
    ("padding", "Formula", "Merged"),
    ("device", "Formula", "Merged"),
    ("places", "Merged", "Places"),
    ("own", "Places", "Blocks"),
    ("start", "Blocks", "Answering"),
    ("device", "Answering", "yours"),
    ("frozen", "Answering", "yours"),
    ("dropout", "Answering", "yours"),
    ("labels", "Answering", "yours"),
    ("finite", "Answering", "yours"),
    ("answers", "Answering", "yours"),
    ("weights", "Answering", "yours"),
)
LESSON = (
    "specimen", "batch", "run", "two-repairs", "board", "repair-", "try-", "yours-", "matrix-run",
)  # fmt: skip
seeds = st.integers(0, 2**16)


@pytest.fixture(scope="module")
def chapter():
    """The names that the cells of specimen, repairs and the reader's class define."""
    names: dict = {"figures": figures}
    with contextlib.redirect_stdout(io.StringIO()):
        for name, cell in cells().items():
            if cell.cell_type == "code" and name.startswith(LESSON) and "figure" not in name:
                exec(compile(cell.source, name, "exec"), names)
    return names


@pytest.fixture(scope="module")
def programs(chapter):
    return chapter["programs"]


def test_every_check_has_a_program_that_it_fails_on():
    assert {check for check, _, _ in REPAIRS} | {"rows"} == set(checks.CHECKS)


@pytest.mark.parametrize("name, before, after", REPAIRS)
def test_repair(programs, name, before, after):
    assert checks.outcome(name, programs[before])[0] == "fails"
    assert checks.outcome(name, programs[after])[0] == "passes"


@pytest.mark.parametrize("name", checks.CHECKS)
def test_no_check_passes_on_the_specimen_and_each_on_the_finished_program(programs, name):
    assert checks.outcome(name, programs["Specimen"])[0] in ("fails", "stops")
    assert checks.outcome(name, programs["yours"])[0] == "passes"


def test_rows_finds_a_result_that_is_not_one_a_sample(programs):
    class Turned(nn.Module):
        def forward(self, text, image, image_mask=None):
            return torch.ones(12, len(image), 64)

    assert checks.outcome("rows", _with(programs["yours"], Turned()))[0] == "fails"


def _with(program, model):
    return replace(program, model=model)


def test_a_model_that_hears_nothing_is_called_blind(programs):
    assert checks.outcome("padding", programs["OneKey"])[0] == "blind"

    class Deaf(nn.Module):
        def forward(self, text, image, image_mask=None):
            return torch.ones(len(image), len(ANSWERS))

    assert checks.outcome("apart", _with(programs["yours"], Deaf()))[0] == "blind"


def _ignores_pictures(programs):
    missing = programs["Missing"].model

    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = deepcopy(missing)

        def forward(self, text, image, image_mask=None):
            nothing = torch.zeros(len(image), dtype=torch.bool)
            return self.inner(text, image, nothing) + self.inner.words(text)

    return _with(programs["Missing"], Ignores().eval())


def _stops_always(*given):
    raise UserError("batch 1 holds a label that is no class")


@pytest.mark.parametrize(
    "name, change, state",
    [
        ("missing", _ignores_pictures, "blind"),
        ("finite", {"train": lambda *given: None}, "blind"),
        ("labels", {"train": lambda *given: None}, "fails"),
        ("labels", {"train": _stops_always}, "blind"),
        ("answers", {"predict": lambda model, text, image: torch.ones(4).long()}, "fails"),
        ("weights", {"load": _stops_always}, "stops"),
    ],
)
def test_a_check_has_a_control(programs, name, change, state):
    if isinstance(change, dict):
        program = replace(programs["yours"], **change)
    else:
        program = change(programs)
    assert checks.outcome(name, program)[0] == state


def test_a_mask_made_on_the_cpu_is_left_behind(programs):
    """What the class of the first edition did: it made its default mask where the CPU is."""
    yours = programs["yours"].model

    class Stays(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = deepcopy(yours)

        def forward(self, text, image, image_mask=None):
            return self.inner(text, image, torch.ones(len(image), dtype=torch.bool))

    assert checks.outcome("device", _with(programs["yours"], Stays()))[0] == "fails"


def test_the_board_names_what_an_earlier_check_says(programs, capsys):
    checks.board({n: programs[n] for n in ("Missing", "Formula")}, "formula")
    with pytest.raises(UserError, match="expected a check of called"):
        checks.board(programs, "speed")


def test_frozen_is_blind_where_nothing_would_drift(programs):
    model = deepcopy(programs["yours"].model)
    for part in list(model.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.Identity())
    assert checks.outcome("frozen", _with(programs["yours"], model))[0] == "blind"


@pytest.mark.parametrize("reads", ["before", "after", "first"])
def test_a_model_in_which_some_samples_read_others_is_found(programs, reads):
    alone = programs["OneKey"].model

    class Reads(nn.Module):
        def forward(self, text, image, image_mask=None):
            out = alone(text, image)
            more = torch.zeros_like(out)
            if reads == "before":
                more[1:] = out[:-1]
            elif reads == "after":
                more[:-1] = out[1:]
            else:
                more[0] = out[-1]
            return out + 0.1 * more

    assert checks.outcome("apart", _with(programs["OneKey"], Reads()))[0] == "fails"


@pytest.mark.parametrize(
    "name, before, after",
    [("words", "OneKey", "Grid"), ("padding", "Formula", "Merged"), ("own", "Places", "Blocks")],
)
def test_the_checks_say_the_same_at_the_documents_width(chapter, name, before, after):
    for version, wanted in ((before, "fails"), (after, "passes")):
        wide = chapter["program"](chapter[version], d=768)
        assert checks.outcome(name, wide)[0] == wanted


def test_the_readers_class_is_mmlibs(chapter):
    """The cell asserts it; here a planted difference shows that its assertion can fail."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(cells()["same"].source, "same", "exec"), chapter)
    wrong = dict(chapter)
    source = cells()["yours-model"].source.replace(
        "words.value + self.modality", "words.value - self.modality"
    )
    assert source != cells()["yours-model"].source
    with contextlib.redirect_stdout(io.StringIO()):
        for part in (source, cells()["yours-config"].source):
            exec(compile(part, "yours", "exec"), wrong)
        with pytest.raises(AssertionError):
            exec(compile(cells()["same"].source, "same", "exec"), wrong)


# --- equations ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:expected two or more keys")
def test_6_1_one_key():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, batch_first=True).double()
    words, picture = torch.randn(2, 5, 12).double(), torch.randn(2, 1, 12).double()
    out, _ = layer(words, picture, picture)
    _, _, W_v = layer.in_proj_weight.chunk(3)
    b_v = layer.in_proj_bias.chunk(3)[2]
    for b in range(2):
        h = layer.out_proj.weight @ (W_v @ picture[b, 0] + b_v) + layer.out_proj.bias
        for word in range(5):
            torch.testing.assert_close(out[b, word], h)
    ours = CrossAttention(12, ("text", "image"), 3).double()
    streams = {"text": Tokens.all_visible(words), "image": Tokens.all_visible(picture)}
    result = ours(streams["text"], streams)
    torch.testing.assert_close(result, result[:, :1].expand_as(result))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), seeds)
def test_6_2_pads(words, pads, seed):
    random = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(n, 3, generator=random).double() for n in (1, words + pads, words + pads)
    )
    e = [math.exp(float(q[0] @ key) / math.sqrt(3)) for key in k]
    Z_words, Z_pads = sum(e[:words]), sum(e[words:])
    h_words = sum(x * value for x, value in zip(e[:words], v, strict=False)) / Z_words
    h_pads = sum(x * value for x, value in zip(e[words:], v[words:], strict=True)) / Z_pads
    share = Z_pads / (Z_words + Z_pads)
    out = attention(q[None, None], k[None, None], v[None, None])[0, 0, 0]
    torch.testing.assert_close(out, (1 - share) * h_words + share * h_pads)
    mask = (torch.arange(words + pads) < words)[None, None, None]
    out = attention(q[None, None], k[None, None], v[None, None], mask)[0, 0, 0]
    torch.testing.assert_close(out, h_words)
    even = attention(0 * q[None, None], k[None, None], v[None, None])[0, 0, 0]
    part = pads / (words + pads)
    torch.testing.assert_close(even, (1 - part) * v[:words].mean(0) + part * v[words:].mean(0))


def test_6_3_shared_weights():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).double()
    x = torch.randn(4, 5, 3).double()
    out = layer(x)
    out.retain_grad()
    out.square().sum().backward()
    total = torch.zeros(2, 3).double()
    for b in range(4):
        for token in range(5):
            total += torch.outer(out.grad[b, token], x[b, token])
    torch.testing.assert_close(layer.weight.grad, total)
    # one NaN sample whose result nobody asks for is enough
    layer.zero_grad()
    x[3] = float("nan")
    layer(x)[:3].sum().backward()
    assert layer.weight.grad.isnan().all()


def test_6_4_no_share_of_the_text():
    """With the text's keys masked the formula is attention over the cells alone."""
    torch.manual_seed(0)
    layer = MergedAttention(8, ("text", "image"), 2).double()
    words, cells = (Tokens.all_visible(torch.randn(2, n, 8).double()) for n in (3, 4))
    cross = CrossAttention(8, ("text", "image"), 2).double()
    for name in ("W_q", "W_o"):
        getattr(cross.attend, name).load_state_dict(getattr(layer, name).state_dict())
    for name in ("W_k", "W_v"):
        getattr(cross.attend, name).load_state_dict(getattr(layer, name)["image"].state_dict())
    without = layer(words, {"text": words.absent(), "image": cells})
    torch.testing.assert_close(without, cross(words, {"text": words, "image": cells}))
    share = layer.weights(words, {"text": words.absent(), "image": cells})["text"].sum(-1)
    assert (share == 0).all()
    joint = layer(words, {"text": words, "image": cells})
    assert (joint - without).abs().max() > 1e-3


def test_6_5_permutation():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 3).double() for n in (2, 4, 4))
    out = attention(q, k, v)
    for order in permutations(range(4)):
        torch.testing.assert_close(attention(q, k[:, :, order], v[:, :, order]), out)
    # the control: keys without their values are another memory
    assert (attention(q, k[:, :, (1, 0, 2, 3)], v) - out).abs().max() > 1e-3


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), seeds, st.floats(0, 4))
def test_6_7_words_melt_together(keys, seed, scale):
    random = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(n, 3, generator=random).double() for n in (2, keys, keys))
    w = (scale * q @ k.T).softmax(-1)
    h = w @ v
    difference = sum((w[0, j] - w[1, j]) * v[j] for j in range(keys))
    torch.testing.assert_close(h[0] - h[1], difference)
    bound = (w[0] - w[1]).abs().sum() * v.norm(dim=1).max()
    assert (h[0] - h[1]).norm() <= bound + 1e-12
    if scale == 0:
        assert (h[0] - h[1]).abs().max() < 1e-12


@pytest.mark.parametrize("C, sigma", [(2, 0.5), (31, 0.3), (31, 1.5), (768, 1.0), (5, 3.0)])
def test_6_6_first_loss(C, sigma):
    random = torch.Generator().manual_seed(C)
    z = sigma * torch.randn(40_000, C, generator=random, dtype=torch.float64)
    loss = float((torch.logsumexp(z, 1) - z[:, 0]).mean())
    error = 4 * float((torch.logsumexp(z, 1) - z[:, 0]).std()) / 200
    assert math.log(C) - error <= loss <= math.log(C) + sigma**2 / 2 + error
    # both sides are wide of the other, so the bound is not empty
    assert loss > math.log(C) + error / 4 or sigma < 0.5


# --- the record of the repairs --------------------------------------------------------------------


@pytest.fixture(scope="module")
def repairs():
    """The record's module and its training data."""
    made = record.load("repairs")
    return made, made.data("train", train_mode=False)


@pytest.mark.parametrize("name", ["whole", "words_no_keys_deep", "no_places", "least", "neighbors"])
def test_the_record_of_the_repairs_is_of_this_code(repairs, name, monkeypatch):
    """The losses of the first two steps of seed 0, taken again, are those of the record."""
    made, given = repairs
    monkeypatch.setattr(made, "STEPS", 2)
    recorded = json.loads((ROOT / "book" / "results" / "repairs.json").read_text("utf8"))
    _, losses = made.trained(name, 0, given)
    assert losses == pytest.approx(recorded["fingerprint"][name][:2], rel=1e-4)


def test_each_variant_undoes_what_it_says(repairs):
    """What may not matter to a variant does not change its answers, and what may does."""
    made, given = repairs
    few = made.rows(given, torch.arange(16))
    turned = few | {"features": few["features"].flip(1)}  # cells change places
    pads = made.more_pads(few)

    def logits(model, batch):
        with torch.no_grad():
            return made.logits(model.eval(), batch)

    def moves(name, changed):
        torch.manual_seed(0)
        model = made.VARIANTS[name]()
        return float((logits(model, few) - logits(model, changed)).abs().max()) > 1e-4

    assert moves("whole", turned) and not moves("no_places", turned)
    assert not moves("one_vector", turned)
    assert moves("pads", pads) and not moves("whole", pads)
    torch.manual_seed(0)
    alone = made.one_key_map()
    assert alone.fusion[0].mixer.W_k["image"] is alone.fusion[0].mixer.W_k["text"]
    words = few | {"input_ids": few["input_ids"].flip(0), "attention_mask": few["attention_mask"]}
    assert moves("whole", words)


def test_the_sentences_of_6_7_hold_for_the_record():
    """What the prose around the figures says in words, and no cell computes."""
    found = json.loads((ROOT / "book" / "results" / "repairs.json").read_text("utf8"))
    mean = {
        name: {kind: x["mean"] for kind, x in v["by_kind"].items()}
        | {how: x["mean"] for how, x in v["accuracy"].items()}
        for name, v in found["variants"].items()
    }
    whole, guess = mean["whole"], found["best_guess"]["overall"]
    assert mean["least"]["asked"] < guess
    assert abs(mean["neighbors"]["asked"] - guess) < 0.03
    assert abs(whole["other_picture"] - guess) < 0.03 < whole["other_question"] - guess
    seeing = {n: v["asked"] for n, v in mean.items() if n not in ("least", "neighbors")}
    assert min(seeing, key=seeing.__getitem__) == "one_vector"
    # colors, shapes and places as before; existence and counting suffer
    lost = {kind: whole[kind] - mean["words_no_keys"][kind] for kind in found["best_guess"] if kind
            in whole}  # fmt: skip
    assert max(lost["color"], lost["shape"], lost["location"]) < 0.02
    assert min(lost["existence"], lost["counting"]) > 0.2
    # either layer will do; a deeper BERT brings existence back and counting in part
    for name in ("words_no_keys_first", "words_no_keys_last"):
        assert whole["existence"] - mean[name]["existence"] < 0.1
    deep = mean["words_no_keys_deep"]
    assert deep["existence"] > whole["existence"] - 0.02
    assert mean["words_no_keys"]["counting"] + 0.05 < deep["counting"] < whole["counting"] - 0.05
    seeds = found["by_seed"]
    ends = [[one["asked"] for one in seeds[name]] for name in ("one_key_map", "whole")]
    apart = paired_interval(*ends)
    assert apart["low"] < 0 < apart["high"]


def test_on_the_emoji_attention_adds_nothing_to_a_linear_model():
    """As the page says: two scores of the same folds, each within the other's interval."""
    found = json.loads((ROOT / "book" / "results" / "emoji.json").read_text("utf8"))
    ours = found["metrics"]["balanced_accuracy"]
    linear = found["linear_by_division"]["subgroup"]["picture_and_name"]
    assert ours["low"] < linear["mean"] < ours["high"] and ours["mean"] <= linear["mean"]
    assert linear["low"] < ours["mean"] < linear["high"]


# --- the exercises on paper, by counting and by simulation ----------------------------------------


@pytest.mark.parametrize("L, C", [(6.9, 31), (3.5, 31), (9.0, 4)])
def test_exercise_6_4_solves_the_bound(L, C):
    sigma = EXERCISES["6.4"].right(L, C)
    assert math.log(C) + sigma**2 / 2 == pytest.approx(L)


# --- the exercises that are judged by what they do ------------------------------------------------


def said(capsys, name, answer):
    check(name, answer)
    return capsys.readouterr().out.strip()


def changes(a, b):
    return (a - b).abs().max() > 1e-5


def sound_check(model, text, image):
    together = model(text, image)
    if not changes(together, model(-text, -2 * image)):
        return None
    alone = [model(text[b : b + 1], image[b : b + 1]) for b in range(len(text))]
    return not changes(together, torch.cat(alone))


def by_order(model, text, image):
    if sound_check(model, text, image) is None:
        return None
    return not changes(model(text.flip(0), image.flip(0)).flip(0), model(text, image))


def only_the_next(model, text, image):
    verdict = sound_check(model, text, image)
    if verdict is None:
        return None
    other = image.clone()
    other[1] += 1  # looks at sample 3, whom the "sample before" of 1 does not reach
    return not changes(model(text, other)[3], model(text, image)[3])


def only_of_the_first(model, text, image):
    """Changes all others and looks at the first."""
    other = torch.cat([image[:1], -2 * image[1:]])
    if sound_check(model, text, image) is None:
        return None
    return not changes(model(text, other)[0], model(text, image)[0])


def only_by_the_first(model, text, image):
    """Changes the first and looks at all others."""
    other = torch.cat([-2 * image[:1], image[1:]])
    if sound_check(model, text, image) is None:
        return None
    return not changes(model(text, other)[1:], model(text, image)[1:])


def without_control(model, text, image):
    return sound_check(model, text, image) is not False


def to_the_bit(model, text, image):
    if sound_check(model, text, image) is None:
        return None
    alone = [model(text[b : b + 1], image[b : b + 1]) for b in range(len(text))]
    return torch.equal(model(text, image), torch.cat(alone))


@pytest.mark.parametrize(
    "answer, part",
    [
        (sound_check, "right."),
        (by_order, "adds the mean of the batch"),
        (without_control, "output is a constant"),
        (to_the_bit, "only its last digits"),
        (lambda *given: False, "refuses every model"),
        (lambda *given: None, "no answer yet"),
        (lambda *given: True, "calls every model sound"),
        (only_of_the_first, "each sample but the first reads"),
        (only_by_the_first, "the first sample alone reads"),
    ],
)
def test_the_readers_check_is_run_on_faulty_models(answer, part, capsys):
    assert part in said(capsys, "6.A", answer)


def test_a_check_that_misses_one_neighbor_is_named(capsys):
    def misses(model, text, image):
        verdict = sound_check(model, text, image)
        if verdict is False and only_the_next(model, text, image):
            return True
        return verdict

    assert "reads the one before it" in said(capsys, "6.A", misses)


def test_the_models_of_6_a_are_what_they_are_called():
    models = _check_models()
    random = torch.Generator().manual_seed(0)
    text, image = (torch.randn(3, 3, generator=random) for _ in range(2))
    assert sound_check(models["sound"], text, image)
    assert sound_check(models["mean"], text, image) is False
    assert sound_check(models["before"], text, image) is False
    assert sound_check(models["first"], text, image) is False
    assert only_of_the_first(models["before"], text, image)
    assert only_by_the_first(models["first"], text, image)
    assert sound_check(models["deaf"], text, image) is None


def test_symptoms(capsys):
    right = {key: name for key, (name, _) in _SYMPTOMS.items()}
    assert said(capsys, "6.2", right).endswith("right.")
    for key, (_, hint) in _SYMPTOMS.items():
        text = said(capsys, "6.2", {**right, key: "own"})
        assert f"1 of them. Think again about {key}: {hint}" in text
    assert "keys a, b" in said(capsys, "6.2", "padding")
    assert "'loading' is none of the names" in said(capsys, "6.2", {**right, "f": "loading"})
    text = cells()["exercise-2-text"].source
    assert all(f"*{name}*" in text for name in _NAMES) and set(checks.CHECKS) >= _NAMES


def test_the_symptoms_are_causes_that_a_check_finds():
    assert {name for name, _ in _SYMPTOMS.values()} <= set(checks.CHECKS)


def test_claims_and_their_comparisons(capsys):
    right = {key: name for key, (name, _) in _CLAIMS.items()}
    assert said(capsys, "6.1", right).endswith("right.")
    assert "'more data' is none of the names" in said(capsys, "6.1", {**right, "a": "more data"})
    for key, (name, hint) in _CLAIMS.items():
        other = "more seeds" if name != "more seeds" else "other question"
        text = said(capsys, "6.1", {**right, key: other})
        assert f"1 of them. Think again about {key}: {hint}" in text
    text = cells()["exercise-1-text"].source
    assert all(f"*{name}*" in text for name in right.values())  # the reader can choose it


@pytest.mark.parametrize(
    "keep, part",
    [
        (lambda m, xy: m.register_buffer("xy", xy, persistent=False), "right."),
        (lambda m, xy: m.register_buffer("xy", xy), "saved with every checkpoint"),
        (lambda m, xy: setattr(m, "xy", nn.Parameter(xy)), "would count as a parameter"),
        (lambda m, xy: setattr(m, "xy", xy), "stays behind"),
        (lambda m, xy: m.register_buffer("xy", xy.flip(1), persistent=False), "other numbers"),
        (lambda m, xy: None, "no answer yet"),
    ],
)
def test_what_a_module_keeps(keep, part, capsys):
    assert part in said(capsys, "6.D", keep)


@pytest.mark.parametrize(("mistake", "sentence"), TOKENS.wrong)
def test_a_map_as_tokens(mistake, sentence, capsys):
    assert said(capsys, "6.B", mistake).endswith(sentence)


def changes_the_layer(attend, words, cells, there):
    attend.batch_first = True
    both = torch.cat([words, cells], 1)
    return attend(both, both, both, key_padding_mask=~there)[0][:, : words.shape[1]]


@pytest.mark.parametrize(
    "answer, part",
    [
        (_by_library(), "right."),
        (changes_the_layer, "Leave the layer as it comes"),
        (_by_library(turn=False), "refuses the mask"),
        (_by_library(turn=False, mask="inverted"), "refuses the mask"),
        (lambda attend, words, cells, there: words[0], "The shape is [4, 8]"),
        (lambda attend, words, cells, there: words, "Three things"),
        (lambda *given: None, "no answer yet"),
        (lambda attend, words, cells: words, "stops with TypeError"),
    ],
)
def test_the_fusion_by_the_library_is_tried(answer, part, capsys):
    assert part in said(capsys, "6.C", answer)
    assert said(capsys, "6.C", _by_library()).endswith("right.")  # no answer harms the next


def absorb(text_to="encoders.text.proj", image_to="encoders.image.norm", exchanged=False):
    def change(model):
        text, image = model.modality.weight.detach().clone()
        if exchanged:
            text, image = image, text
        with torch.no_grad():
            for name, vector in ((text_to, text), (image_to, image)):
                if name:
                    model.get_submodule(name).bias += vector
            model.modality.weight.zero_()
        return model

    return change


@pytest.mark.parametrize(
    "answer, part",
    [
        (absorb(), "right."),
        (absorb(None, None), "what they added is lost"),
        (absorb(image_to="encoders.image.proj"), "before the LayerNorm"),
        (absorb(exchanged=True), "the second the picture's"),
        (absorb(text_to=None), "One of the two modalities"),
        (lambda model: model, "are not zero"),
    ],
)
def test_the_absorbed_vectors_are_tried(answer, part, capsys):
    assert part in said(capsys, "6.3", answer)
