"""`make gpu`, rehearsed on a CPU at tiny size: it is cut off, goes on, and its record is whole."""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from table_makers import tiny_bert

from mmlib.data.scenes import CELLS, KINDS, WORDS
from mmlib.data.scenes.batches import encode_questions
from mmlib.encoders.pretrained import load_text
from mmlib.errors import UserError
from mmlib.training.fit import read_log
from tools import record
from tools.records import base_gpu
from tools.records.base_gpu import FULL, REHEARSAL, GpuTask, compile_backbones, train

ROOT = Path(__file__).resolve().parents[1]
STEPS = REHEARSAL.recipe.optimization.steps


class PowerCut(Exception):
    """What stands for a machine that is taken away."""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A rehearsal that is cut off in its fifth step and started again; its record each time."""
    folder = tmp_path_factory.mktemp("gpu")
    result, records = folder / "base_gpu.json", []

    class CutOff(GpuTask):
        def batch(self, step):
            if step == 4:
                raise PowerCut
            return super().batch(step)

    patch = pytest.MonkeyPatch()
    patch.setattr(base_gpu, "GpuTask", CutOff)
    with pytest.raises(PowerCut):
        train(REHEARSAL, folder / "run", result, rehearsal=True)
    records.append(json.loads(result.read_text("utf8")))
    patch.undo()
    train(REHEARSAL, folder / "run", result, rehearsal=True)
    records.append(json.loads(result.read_text("utf8")))
    return folder, records


def test_the_record_is_there_before_the_run_is_over(rehearsed):
    _, (early, _) = rehearsed
    assert early["complete"] is False and early["steps_done"] == 3
    assert [at["step"] for at in early["curve"]] == [3]
    assert "metrics" not in early


def test_a_run_that_was_cut_off_goes_on(rehearsed):
    folder, (early, final) = rehearsed
    assert final["complete"] is True and final["steps_done"] == STEPS
    assert [at["step"] for at in final["curve"]] == [3, 6]
    assert final["curve"][0] == early["curve"][0], "steps before the cut are not taken again"
    assert [e["step"] for e in read_log(folder / "run" / "log.jsonl")] == list(range(1, STEPS + 1))


def test_the_record_has_what_a_record_must_have(rehearsed):
    _, (_, found) = rehearsed
    assert found["rehearsal"] is True and found["device"] == "cpu"
    assert found["command"] == "make gpu" and re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["versions"]["torch"] == torch.__version__
    assert found["recipe"]["optimization"]["precision"] == "bf16" and found["seeds"] == [0]
    assert found["pretrained"] == {"text": "none", "image": "none"}
    assert found["compiled"] == "yes"
    assert len(found["data_sha256"]) == 64 and len(found["first_losses"]) == 5
    assert found["seconds"] > 0 and found["questions_per_second"] > 0
    assert set(found["controls"]) == {"text_only", "image_only", "shuffled", "blank"}
    assert set(found["metrics"]) <= {"overall", *KINDS}
    for scores in (found["metrics"], *found["controls_by_kind"].values()):
        assert all(0 <= x["low"] <= x["mean"] <= x["high"] <= 1 for x in scores.values())


def test_the_weights_are_written_unwrapped(rehearsed):
    """Compiled or not, a checkpoint holds the names of the module; nothing in bfloat16."""
    folder, _ = rehearsed
    saved = load_file(folder / "run" / "best" / "model.safetensors")
    plain = GpuTask(REHEARSAL).module
    assert set(saved) == set(plain.state_dict())
    plain.load_state_dict(saved)
    assert all(x.dtype in (torch.float32, torch.int64) for x in saved.values())


def test_where_compiling_fails_the_run_goes_on_without(monkeypatch):
    """And what the trial step moved is put back, BatchNorm's statistics included."""
    task = GpuTask(REHEARSAL)
    before = {name: x.clone() for name, x in task.module.state_dict().items()}

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    try:
        said = compile_backbones(task, broken, torch.device("cpu"))
        assert re.fullmatch(r"no: \w+", said)
        parts = task.losses(task.batch(0))
        assert all(torch.isfinite(total) for total, _ in parts.values())
    finally:
        torch.compiler.set_stance("default")
    assert compile_backbones(task2 := GpuTask(REHEARSAL), "eager", torch.device("cpu")) == "yes"
    for built in (GpuTask(REHEARSAL), task2):
        state = built.module.state_dict()
        assert all(torch.equal(x, state[name]) for name, x in before.items())
        assert all(p.grad is None for p in built.module.parameters())


def test_base_is_the_documents_model_and_its_cells_are_the_worlds():
    """BERT-base, ResNet-50, width 768, 8 heads, one layer; 8 × 8 cells from 64-pixel pictures."""
    task = GpuTask(FULL._replace(text="", image=""))
    config = task.model.encoders["text"].backbone.config
    assert (config.num_hidden_layers, config.hidden_size) == (12, 768)
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
    states = adapted(**encode_questions(["is there a red circle"])).last_hidden_state
    assert states.shape == (1, 12, 16)


def test_pretrained_parts_are_taken_where_they_are_found(tmp_path, capsys):
    tiny_bert(tmp_path / "bert")
    task = GpuTask(REHEARSAL._replace(text=str(tmp_path / "bert")))
    assert task.found == {"text": str(tmp_path / "bert"), "image": "none"}
    assert task.model.encoders["text"].backbone.config.hidden_size == 16

    def nowhere(name: str):
        raise UserError("expected the weights, got none; do so")

    assert base_gpu.pretrained(nowhere, "some-bert") is None
    assert "without pretrained weights: expected the weights" in capsys.readouterr().out
    assert base_gpu.pretrained(nowhere, "") is None


def test_a_worker_gets_what_it_needs_and_no_model():
    task = pickle.loads(pickle.dumps(GpuTask(REHEARSAL)))
    assert not hasattr(task, "module")
    assert torch.equal(task.batch(3)["target"], GpuTask(REHEARSAL).batch(3)["target"])


def test_without_a_gpu_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as left:
        base_gpu.on_a_gpu(tmp_path)
    line = str(left.value.code)
    assert re.fullmatch(
        r"expected a GPU[^\n]+, got none; [^\n]+tools.records.base_gpu FOLDER", line
    )


def test_make_gpu_is_the_record():
    line = re.search(r"^gpu:.*\n\t(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line and line[1].endswith("-m tools.record base_gpu")
    module = record.load("base_gpu")
    assert set(module.UNITS) == {"seed_0"} and module.summarize({"seed_0": {"a": 1}}) == {"a": 1}
