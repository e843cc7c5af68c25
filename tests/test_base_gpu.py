"""`make gpu`, rehearsed on a CPU at tiny size: it is cut off, goes on, and its record is whole."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from table_makers import tiny_bert
from torch import nn

from mmlib.data.scenes import CELLS, KINDS, WORDS
from mmlib.data.scenes.batches import encode_questions
from mmlib.data.scenes.stream import SceneBatches
from mmlib.encoders.pretrained import load_text
from mmlib.errors import UserError
from mmlib.models import ModelConfig
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.training.run_folder import read_log
from tools import gpu, record
from tools.records import base_gpu
from tools.records.base_gpu import FULL, REHEARSAL, Lease, build

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
STEPS = REHEARSAL.recipe.training.steps
PARTS = ("fp32", "bf16", "compiled")


class PowerCut(Exception):
    """What stands for a machine that is taken away."""


class CutOff(SceneBatches):
    """Batches of a machine that is taken away in the fifth step."""

    def batch(self, step):
        if step == 4:
            raise PowerCut
        return super().batch(step)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A rehearsal, cut off in its fifth step and started again; its record after each part."""
    folder = tmp_path_factory.mktemp("gpu")
    result, records = folder / "base_gpu.json", {}

    def seen(name):
        records[name] = json.loads(result.read_text("utf8"))

    lease = Lease(REHEARSAL, folder / "run", result, 5.0, CPU)
    lease.check()
    seen("checks")
    lease.measure()
    seen("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_gpu, "batches", lambda recipe: CutOff(**vars(batches(recipe))))
        with pytest.raises(PowerCut):
            lease.train()
    seen("cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "speed", None)  # what is done is not measured again
        base_gpu.train(REHEARSAL, folder / "run", result, 0.001, CPU)
    seen("whole")
    return folder, records


batches = base_gpu.batches


def test_the_record_is_written_after_each_part(rehearsed):
    _, records = rehearsed
    parts = [records[name]["part"] for name in ("checks", "speed", "cut", "whole")]
    assert parts == ["checks", "speed", "speed", "report"]
    assert [r["complete"] for r in records.values()] == [False, False, False, True]
    assert "recipe" not in records["checks"], "no recipe before it is known what is trained"
    assert records["cut"]["steps_done"] == 4 and "metrics" not in records["cut"]
    assert [at["step"] for at in records["cut"]["curve"]] == [1, 2, 3, 4]


def test_a_run_that_was_cut_off_goes_on_with_the_number_it_had(rehearsed):
    """Although the second start was given no time at all."""
    folder, records = rehearsed
    cut, whole = records["cut"], records["whole"]
    assert whole["steps_done"] == whole["recipe"]["training"]["steps"] == STEPS
    assert whole["curve"][:4] == cut["curve"], "steps before the cut are not taken again"
    assert [e["step"] for e in read_log(folder / "run" / "log.jsonl")] == list(range(1, STEPS + 1))
    assert whole["speed"] == cut["speed"] and whole["recipe"] == cut["recipe"]
    # the record is written before the log has the line of its step
    assert whole["first_losses"][:3] == cut["first_losses"]
    assert {n: whole["checks"][n] for n in PARTS} == {n: cut["checks"][n] for n in PARTS}


def test_the_record_has_what_a_record_must_have(rehearsed):
    found = rehearsed[1]["whole"]
    assert found["rehearsal"] is True and found["device"] == "cpu"
    assert found["command"].startswith("make gpu MINUTES=")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["versions"]["torch"] == torch.__version__ and found["seeds"] == [0]
    assert found["pretrained"] == {"text": "none", "image": "none"}
    assert found["compiled"] == "yes" and found["parameters"] > 0
    assert len(found["data_sha256"]) == 64 and len(found["first_losses"]) == 5
    assert found["seconds"] > 0 and found["questions_per_second"] > 0
    assert found["peak_flops"] is None and found["mfu"] is None, "a CPU has no peak here"
    assert set(found["controls"]) == {"text_only", "image_only", "shuffled", "blank"}
    assert set(found["metrics"]) <= {"overall", *KINDS}
    for scores in (found["metrics"], *found["controls_by_kind"].values()):
        assert all(0 <= x["low"] <= x["mean"] <= x["high"] <= 1 for x in scores.values())
    speed = found["speed"]
    assert speed["steps"] / speed["seconds"] == pytest.approx(speed["steps_per_second"], rel=0.05)
    assert 0 <= speed["data_wait_share"] < 1 and speed["steps_of_the_run"] == STEPS
    assert speed["evaluation_seconds"] > 0 and speed["checkpoint_seconds"] > 0
    assert not (rehearsed[0] / "run" / "trial").exists()


def test_the_recipe_of_the_record_is_what_was_trained(rehearsed):
    found = rehearsed[1]["whole"]
    recipe = SceneRecipe.from_json(found["recipe"])
    assert recipe == base_gpu.with_steps(REHEARSAL.recipe, STEPS)
    assert (recipe.training.precision, recipe.training.evaluate_every) == ("bf16", 1)
    assert sum(e["lr"] == 1e-4 for e in read_log(rehearsed[0] / "run" / "log.jsonl")) >= 1
    changed = replace(
        REHEARSAL.recipe, text_layers=3, fusion="gated", dropout=0.25, axes=False,
        coordinates=False, grounding=0.0,
    )  # fmt: skip
    task, config, _ = build(replace(REHEARSAL, recipe=changed))
    text, image = task.model.encoders["text"], task.model.encoders["image"]
    assert text.backbone.config.num_hidden_layers == config.text_layers == 3
    assert image.place is None and not image.axes
    assert {m.p for m in task.model.fusion.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert type(task.model.fusion[0].mixer).__name__.lower().startswith("gated")
    assert (config.dropout, config.fusion, config.axes) == (0.25, "gated", False)
    assert ModelConfig(**found["model"]).text_layers == recipe.text_layers == 1


def test_the_checks_say_how_far_apart(rehearsed):
    checks = rehearsed[1]["checks"]["checks"]
    for name in PARTS:
        found = checks[name]
        assert found["passed"] and found["finite"] and found["tolerance"] == gpu.TOLERANCES[name]
    assert checks["fp32"]["logits"] == 0, "the CPU is compared with itself"
    assert 0 < checks["bf16"]["logits"] < 0.1
    # attention's own products are not counted on a CPU, the helping heads not in the formula
    assert checks["flops"] == pytest.approx(checks["flops_by_formula"], rel=0.1)


@pytest.mark.parametrize("spoil", ["logits", "loss", "gradient", "nan", "lost"])
def test_a_check_fails_where_something_is_wrong(spoil):
    right = gpu.Pass(torch.tensor([[1.0, 2.0]]), 0.7, torch.tensor([1.0, -2.0, 3.0]))
    assert gpu.compare("fp32", right, right)["passed"]
    wrong = {
        "logits": right._replace(logits=right.logits * 1.01),
        "loss": right._replace(loss=0.701),
        "gradient": right._replace(gradient=right.gradient * 1.1),
        "nan": right._replace(gradient=torch.tensor([1.0, float("nan"), 3.0])),
        "lost": right._replace(gradient=torch.tensor([1.0, -2.0])),
    }[spoil]
    found = gpu.compare("fp32", wrong, right)
    assert not found["passed"]
    json.dumps(found, allow_nan=False)
    assert base_gpu.failed({"flops": 3, "fp32": found}).startswith("expected the check fp32 within")
    assert base_gpu.failed({"flops": 3, "compile": "yes"}) == ""


def test_a_check_that_fails_stops_the_run_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.TOLERANCES, "bf16", {"logits": 0.0, "loss": 1.0})
    plan = replace(REHEARSAL, backend="eager")
    for _ in range(2):  # it is not taken for done
        with pytest.raises(SystemExit) as left:
            base_gpu.train(plan, tmp_path / "run", tmp_path / "record.json", 5.0, CPU)
        assert re.fullmatch(
            r"expected the check bf16 within logits 0.0[^\n]+, got logits 0\.\d+[^\n]+; [^\n]+",
            str(left.value.code),
        )
    found = json.loads((tmp_path / "record.json").read_text("utf8"))
    assert found["part"] == "checks" and found["checks"]["bf16"]["logits"] > 0
    assert found["checks"]["bf16"]["passed"] is False and "speed" not in found


def test_the_weights_are_written_unwrapped(rehearsed):
    """Compiled or not, a checkpoint holds the names of the module; nothing in bfloat16."""
    folder, _ = rehearsed
    saved = load_file(folder / "run" / "best" / "model.safetensors")
    plain, *_ = build(REHEARSAL)
    assert set(saved) == set(plain.state_dict())
    plain.load_state_dict(saved)
    assert all(x.dtype in (torch.float32, torch.int64) for x in saved.values())


def broken(graph, inputs):
    """A compiler that fails."""
    raise RuntimeError("no compiler here")


def test_where_compiling_fails_the_run_goes_on_without(tmp_path):
    """And what the passes moved is put back, BatchNorm's statistics included."""
    before = build(REHEARSAL)[0].state_dict()
    for backend, said in ((broken, r"no: \w+"), ("eager", "yes")):
        task, *_ = build(REHEARSAL)
        found = base_gpu.check(task, replace(REHEARSAL, backend=backend), CPU, done=False)
        assert re.fullmatch(said, found["compile"])
        assert ("compiled" in found) == (backend == "eager") and not base_gpu.failed(found)
        state = task.state_dict()
        assert all(torch.equal(x, state[name]) for name, x in before.items())
        assert all(p.grad is None for p in task.parameters())
        assert gpu.run_once(task, batches(REHEARSAL.recipe).batch(0), bf16=True).loss > 0


class Clock:
    """A clock that goes on by what a step takes, and by nothing else."""

    def __init__(self, step: float):
        self.now, self.step, self.taken = 0.0, step, []

    def __call__(self) -> float:
        return self.now

    def take(self, number: int) -> float:
        self.taken.append(number)
        self.now += 5.0 if number == 0 else self.step
        return self.step / 4


def test_minutes_become_steps():
    """Two steps a second after a slow first one; what is not training is taken off."""
    clock = Clock(0.5)
    found = gpu.pace(clock.take, 6.0, 10.0, clock)
    assert (found.steps, found.seconds, found.waited) == (20, 10.0, 2.5)
    assert clock.taken == list(range(2 + 1 + 20)), "the first step and the settling are not counted"
    # 100 s less 10 evaluations with a third of a checkpoint and 5 checkpoints: 100 − 20 − 15
    assert gpu.steps_within(100.0, 2.0, evaluation=1.0, checkpoint=3.0) == 130
    assert gpu.steps_within(35.0, 2.0, 1.0, 3.0) == gpu.steps_within(-5.0, 2.0, 1.0, 3.0) == 0
    recipe = base_gpu.with_steps(FULL.recipe, 8001)
    assert (recipe.training.steps, recipe.training.warmup_steps) == (8001, 401)
    assert recipe.training.evaluate_every == 801, "ten evaluations, the last after the last step"


def test_minutes_that_leave_no_time_are_one_line(tmp_path):
    plan = replace(REHEARSAL, backend="eager")
    with pytest.raises(SystemExit) as left:
        base_gpu.train(plan, tmp_path / "run", tmp_path / "record.json", 0.1, CPU)
    assert re.fullmatch(r"expected minutes[^\n]+, got 0.1, [^\n]+; name more", str(left.value.code))
    found = json.loads((tmp_path / "record.json").read_text("utf8"))
    assert found["speed"]["steps_per_second"] > 0 and "recipe" not in found


def test_utilization_is_of_the_card_that_is_there(tmp_path):
    lease = Lease(REHEARSAL, tmp_path / "run", tmp_path / "record.json", 5.0, CPU)
    lease.checks = {"flops": 5e12}
    assert lease.utilization(20.0) is None and base_gpu.percent(None).startswith("unknown")
    lease.peak = gpu.PEAKS["NVIDIA H200"]
    assert lease.utilization(20.0) == pytest.approx(1e14 / 989e12)
    assert gpu.PEAKS.get("NVIDIA H100 PCIe") is None, "another card of that name is slower"


def test_base_is_the_documents_model_and_its_cells_are_the_worlds():
    """BERT-base, ResNet-50, width 768, 8 heads, one layer; 8 × 8 cells from 64-pixel pictures."""
    task, shape, _ = build(replace(FULL, text="", image=""))
    config = task.model.encoders["text"].backbone.config
    assert (config.num_hidden_layers, config.hidden_size) == (12, 768)
    assert FULL.recipe.text_layers == shape.text_layers == 12 and shape.image == "resnet50"
    assert len(task.model.fusion) == 1 and task.model.fusion[0].mixer.H == 8
    names = dict(task.model.encoders["image"].backbone.named_modules())
    assert sum(name.endswith("conv2") for name in names) == 3 + 4 + 6 + 3
    with torch.no_grad():
        cells = task.model.encoders["image"].eval()(torch.zeros(1, 3, 64, 64))
    assert cells.value.shape == (1, CELLS * CELLS, 768)


def test_a_pretrained_bert_gets_the_words_of_the_world(tmp_path):
    """Each word has the mean of its pieces' vectors; other weights are as they were."""
    saved = tiny_bert(tmp_path / "bert")
    bert, tokenizer = load_text(tmp_path / "bert")
    old = saved.get_input_embeddings().weight
    red, unknown, cls = (tokenizer.convert_tokens_to_ids(t) for t in ("red", "[UNK]", "[CLS]"))
    adapted = base_gpu.with_the_worlds_words(bert, tokenizer)
    new = adapted.get_input_embeddings().weight
    assert new.shape == (len(WORDS), 16) and new.requires_grad
    assert torch.equal(new[WORDS.index("red")], old[red])
    assert torch.equal(new[WORDS.index("star")], old[unknown]), "a word that this BERT lacks"
    assert torch.equal(new[WORDS.index("[CLS]")], old[cls])
    for name, x in saved.encoder.state_dict().items():
        assert torch.equal(x, adapted.encoder.state_dict()[name])
    assert {m.p for m in adapted.modules() if isinstance(m, nn.Dropout)} == {0.0}
    states = adapted(**encode_questions(["is there a red circle"])).last_hidden_state
    assert states.shape == (1, 12, 16)


def test_pretrained_parts_are_taken_where_they_are_found(tmp_path, capsys):
    tiny_bert(tmp_path / "bert")
    task, config, found = build(replace(REHEARSAL, text=str(tmp_path / "bert")))
    assert found == {"text": str(tmp_path / "bert"), "image": "none"}
    bert = task.model.encoders["text"].backbone.config
    assert bert.hidden_size == config.text_width == 16
    assert bert.num_hidden_layers == config.text_layers

    def nowhere(name: str):
        raise UserError("expected the weights, got none; do so")

    assert base_gpu.pretrained(nowhere, "some-bert") is None
    assert "without pretrained weights: expected the weights" in capsys.readouterr().out
    assert base_gpu.pretrained(nowhere, "") is None


def test_without_a_gpu_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        base_gpu.on_a_gpu(tmp_path, minutes=7.0)
    line = str(left.value.code)
    assert re.fullmatch(
        r"expected a GPU[^\n]+, got none; [^\n]+tools.records.base_gpu FOLDER", line
    )


def test_make_gpu_is_the_record():
    text = (ROOT / "Makefile").read_text()
    line = re.search(r"^gpu:.*\n\t(.+)$", text, re.MULTILINE)
    assert line and line[1].endswith("-m tools.record base_gpu minutes=$(MINUTES)")
    assert re.search(r"^MINUTES \?= 7$", text, re.MULTILINE)
    module = record.load("base_gpu")
    assert module.OPTIONS == {"minutes": 7.0}
    assert set(module.UNITS) == {"seed_0"} and module.summarize({"seed_0": {"a": 1}}) == {"a": 1}


def test_minutes_reach_the_run_through_the_record(tmp_path, monkeypatch):
    """And the record says the device that it was made on."""
    source = (
        "OPTIONS = {'minutes': 7.0}\n"
        "UNITS = {'one': lambda folder, minutes: {'minutes': minutes}}\n"
        "summarize = lambda units: units['one']\n"
    )
    (tmp_path / "tools" / "records").mkdir(parents=True)
    (tmp_path / "tools" / "records" / "timed.py").write_text(source)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    for name in ("is_available", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, lambda: "some card")
    record.main("timed", ["minutes=3"])
    written = json.loads((tmp_path / "book" / "results" / "timed.json").read_text("utf8"))
    assert written["minutes"] == 3.0 and written["device"] == "some card"
    for bad in ("minutes=soon", "hours=1"):
        with pytest.raises(SystemExit) as left:
            record.main("timed", [bad])
        assert str(left.value.code) == f"expected minutes=NUMBER, got '{bad}'; correct it"
