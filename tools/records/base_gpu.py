"""The `base` preset on the generated world, on one GPU: `make gpu`, one command that goes on where
it was cut off.

    python -m tools.records.base_gpu FOLDER    # the rehearsal: tiny, on a CPU, record in FOLDER

`base` is the document's model at its own sizes: BERT-base, ResNet-50, width 768, 8 heads, one layer
of fusion. ResNet-50 divides a picture's sides by 32, so the world's 64 pixels are enlarged to 256:
the 8 × 8 cells of the network are then the cells of the world, which the dense supervision and the
location questions speak of. (At the usual 224 there would be 7 × 7, and no cell would be one of the
world's.) The scenes, rather than a public data set, because their controls and best guesses are
known and their pictures never run out. Grounding needs word states after a fusion layer, and one
layer computes [CLS] alone, so it is off.

Pretrained weights are taken where `mmlib.encoders.pretrained` finds them, else none, and the record
says which. Training is in bf16 with fp32 weights; both backbones are compiled in place, or not at
all where that fails. The record is written at each evaluation, `complete` only at the end.

What it should show (written before it was ever run, when no GPU could be had): existence, colour
and shape are learned at least as well as by `small`. Whether one look of [CLS] at the cells is
enough for relation and reference, which `small` answers with four layers, is open: a ResNet could
write into each cell what lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import BertModel

from mmlib.data.scenes import ANSWERS, PIXELS, WORDS
from mmlib.data.scenes.batches import LENGTH
from mmlib.encoders import GridEncoder, TextEncoder, resnet50_grid, small_bert
from mmlib.encoders.pretrained import load_image, load_text
from mmlib.errors import UserError
from mmlib.files import write_whole
from mmlib.models import MultimodalBert, preset
from mmlib.tasks.scenes import (
    SceneRecipe,
    SceneSupervision,
    SceneTask,
    held_out_questions,
    report,
)
from mmlib.training.checkpoint import load_weights
from mmlib.training.fit import Optimization, as_json, fit, key, read_log
from tools.record import ROOT, versions

RESULT = ROOT / "book" / "results" / "base_gpu.json"
STRIDE = 32
SIDE = 8 * STRIDE  # pixels after enlarging: one cell of the network is one of the world's


class Plan(NamedTuple):
    """What is trained: the recipe, the names of pretrained parts ("" for none), how it compiles,
    how many pictures the report asks about."""

    recipe: SceneRecipe
    text: str
    image: str
    backend: str
    report: int


FULL = Plan(
    SceneRecipe(
        preset="base", pictures=64, grounding=0.0,
        optimization=Optimization(
            steps=8000, learning_rate=1e-4, warmup=500, workers=12, checkpoint_every=400,
            evaluate_every=200, precision="bf16",
        ),
    ),
    text="bert-base-uncased", image="resnet50", backend="inductor", report=1000,
)  # fmt: skip
REHEARSAL = FULL._replace(
    recipe=replace(
        FULL.recipe, preset="tiny", pictures=4, questions=2,
        optimization=replace(
            FULL.recipe.optimization, steps=6, warmup=2, workers=0, checkpoint_every=2,
            evaluate_every=3,
        ),
    ),
    text="", image="", backend="aot_eager", report=10,
)  # fmt: skip


def pretrained(load: Callable[[str], Any], name: str) -> Any:
    """What `load` finds under that name, or None where it is found nowhere or none is asked for."""
    try:
        return load(name) if name else None
    except UserError as error:
        print(f"without pretrained weights: {error}", flush=True)
        return None


def with_the_worlds_words(bert: BertModel, tokenizer: Any) -> BertModel:
    """A pretrained BERT whose vocabulary is the world's: one vector a word, the mean of its pieces.

    So a question has the same positions as for the other presets, and each word keeps its meaning.
    """
    old = bert.get_input_embeddings().weight.detach()
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    rows = torch.stack([old[ids].mean(0) for ids in pieces])
    bert.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=0))
    bert.config.vocab_size = len(WORDS)
    return bert


def rehearsal_network() -> nn.Sequential:
    """One convolution in ResNet-50's place: [B, 3, 256, 256] → [B, 16, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(3, 16, STRIDE, stride=STRIDE, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    )


class GpuTask(SceneTask):
    """The questions of `SceneTask` for a network that divides a picture's sides by 32.

    found says which parts are pretrained; tell(score) is called after each evaluation.
    """

    def __init__(self, plan: Plan):
        recipe = plan.recipe
        recipe.check()
        self.recipe, self.seed = recipe, recipe.seed
        torch.manual_seed(key(recipe.seed))
        config = preset(recipe.preset, len(ANSWERS), len(WORDS), max_position_embeddings=LENGTH)
        text, image = pretrained(load_text, plan.text), pretrained(load_image, plan.image)
        self.found = {
            name: given if part else "none"
            for name, given, part in (("text", plan.text, text), ("image", plan.image, image))
        }
        bert = with_the_worlds_words(*text) if text else small_bert(
            config.vocab_size, config.text_width, config.text_layers, config.text_heads, LENGTH
        )  # fmt: skip
        if config.image == "resnet50":
            network, width = image or resnet50_grid(), 2048
        else:
            network, width = rehearsal_network(), 16
        enlarged = nn.Sequential(
            nn.Upsample(size=(SIDE, SIDE), mode="bilinear", align_corners=False), network
        )
        self.model = MultimodalBert(
            TextEncoder(bert, config.d), GridEncoder(enlarged, width, config.d, PIXELS),
            config.d, config.heads, config.layers, config.fusion, config.num_classes,
        )  # fmt: skip
        self.supervision = SceneSupervision(config.d)
        self.module = nn.ModuleDict({"model": self.model, "supervision": self.supervision})
        self.tell: Callable[[dict[str, float]], Any] = dict

    def __getstate__(self) -> dict[str, Any]:
        # for a worker, which makes batches and needs no model
        return {"recipe": self.recipe, "seed": self.seed}

    def score(self) -> dict[str, float]:
        """As in `SceneTask`, and told."""
        score = super().score()
        self.tell(score)
        return score


def compile_backbones(task: GpuTask, backend: str, device: torch.device) -> str:
    """Compile both backbones in place and try one step; "yes", or "no" and the kind of error.

    In place, the modules stay what they are: no `_orig_mod.` comes into the names of the weights.
    What the trial moved (BatchNorm's statistics) is put back.
    """
    task.module.to(device).train()
    before = {name: x.clone() for name, x in task.module.state_dict().items()}
    batch = {name: x.to(device) for name, x in task.batch(0).items()}
    said = "yes"
    try:
        for encoder in (task.model.encoders["text"], task.model.encoders["image"]):
            encoder.get_submodule("backbone").compile(backend=backend)
        with torch.autocast(device.type, torch.bfloat16):
            parts = task.losses(batch)
        torch.stack([total for total, _ in parts.values()]).sum().backward()
    except Exception as error:  # a compiler may fail in any way, and is not needed
        torch.compiler.set_stance("force_eager")
        said = f"no: {type(error).__name__}"
    task.module.zero_grad()
    task.module.load_state_dict(before)
    return said


def train(plan: Plan, folder: Path, result: Path, rehearsal: bool) -> dict[str, Any]:
    """Train in `folder`, or go on there; the record is written to `result` as it grows.

    Raises UserError as `fit` does.
    """
    device = torch.device("cpu" if rehearsal else "cuda")
    if not rehearsal:
        torch.set_float32_matmul_precision("high")
    task = GpuTask(plan)
    test = held_out_questions("test", plan.report, plan.recipe)
    data = b"".join(test[n].numpy().tobytes() for n in ("pictures", "input_ids", "target"))
    facts: dict[str, Any] = {
        "command": "make gpu", "rehearsal": rehearsal, "complete": False,
        "date": date.today().isoformat(), "versions": versions(),
        "device": "cpu" if rehearsal else torch.cuda.get_device_name(),
        "recipe": as_json(plan.recipe), "seeds": [plan.recipe.seed],
        "pixels": SIDE, "pretrained": task.found,
        "data_sha256": hashlib.sha256(data).hexdigest(),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "compiled": compile_backbones(task, plan.backend, device),
    }  # fmt: skip
    log = folder / "log.jsonl"

    def write(**more: Any) -> dict[str, Any]:
        entries = read_log(log)
        grown = facts | {
            "steps_done": len(entries),
            "first_losses": [entry["loss"] for entry in entries[:5]],
            "curve": [{"step": e["step"], **e["score"]} for e in entries if "score" in e],
        } | more  # fmt: skip
        result.parent.mkdir(parents=True, exist_ok=True)
        write_whole(result, (json.dumps(grown, indent=1, ensure_ascii=False) + "\n").encode())
        return grown

    def tell(score: dict[str, float]) -> None:
        # the log gets this step's line after its evaluation
        done = len(read_log(log)) + 1
        write(steps_done=done, curve=[*write()["curve"], {"step": done, **score}])

    task.tell = tell
    state = fit(task, plan.recipe.optimization, folder, facts["recipe"] | {"found": task.found})
    load_weights(folder / "best", task.module)
    final = report(task, plan.report)
    asked = plan.recipe.pictures * plan.recipe.questions * state["step"]
    return write(
        complete=True, seconds=round(state["seconds"], 1),
        questions_per_second=round(asked / state["seconds"], 1),
        peak_memory_bytes=0 if rehearsal else torch.cuda.max_memory_allocated(),
        metrics=final["by_kind"],
        controls={name: found["overall"] for name, found in final["controls"].items()},
        controls_by_kind=final["controls"],
        held_out_combinations=final["held_out_combinations"],
    )  # fmt: skip


def on_a_gpu(folder: Path) -> dict[str, Any]:
    """The whole run; one line where there is no GPU."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "expected a GPU that torch can use, got none; run it where there is one,"
            " or rehearse: python -m tools.records.base_gpu FOLDER"
        )
    # under its own name, by which a worker finds the class of the task
    from tools.records import base_gpu

    return base_gpu.train(FULL, folder, RESULT, rehearsal=False)


UNITS = {"seed_0": on_a_gpu}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record is the one unit as it stands."""
    return units["seed_0"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("expected a folder for the rehearsal, got none; name one")
    at = Path(sys.argv[1])
    train(REHEARSAL, at / "run", at / "base_gpu.json", rehearsal=True)
