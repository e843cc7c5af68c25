"""The `base` preset on the generated world, on one GPU, in so many minutes: `make gpu`.

    python -m tools.record base_gpu minutes=7  # the same from a checkout, nothing installed
    python -m tools.records.base_gpu FOLDER    # the rehearsal: tiny, on a CPU, record in FOLDER

Four parts, and the record is written after each and at each evaluation, `complete` only at the
end: *checks* (the GPU computes what the CPU does, compiled what eager does), *speed* (steps a
second, of which the number of steps that fits the minutes is derived), *training* by a schedule of
that number, and the *report*. A check that fails stops the run; one that was cut off goes on with
the number it had. It needs torch, torchvision, transformers, accelerate, safetensors, numpy,
scipy, pillow, tqdm and filelock. Without a network set HF_HUB_OFFLINE=1, so that none is waited
for; where it may be stopped from outside, `timeout -s INT 560 …` lets it save.

`base` is the document's model at its own sizes: BERT-base, ResNet-50, width 768, 8 heads, one layer
of fusion. ResNet-50 divides a picture's sides by 32, so the world's 64 pixels are enlarged to 256:
the 8 × 8 cells of the network are then the cells of the world, which the dense supervision and the
location questions speak of. (At the usual 224 there would be 7 × 7, and no cell would be one of the
world's.) The scenes, rather than a public data set, because their controls and best guesses are
known and their pictures never run out. Grounding needs word states after a fusion layer, and one
layer computes [CLS] alone, so it is off.

Pretrained weights are taken where `mmlib.encoders.pretrained` finds them, else none, and the record
says which. Training is in bf16 with fp32 weights; both backbones are compiled in place, or not at
all where that fails. Evaluation and report run without the compiler.

What it should show (written before it was ever run, when no GPU could be had): existence, color
and shape are learned at least as well as by `small`. Whether one look of [CLS] at the cells is
enough for relation and reference, which `small` answers with four layers, is open: a ResNet could
write into each cell what lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel

from mmlib.book.costs import step_flops
from mmlib.data.scenes import CELLS, PIXELS, WORDS
from mmlib.data.scenes.batches import LENGTH
from mmlib.data.scenes.stream import held_out_questions
from mmlib.encoders import GridEncoder, TextEncoder, resnet50_grid, small_bert
from mmlib.encoders.pretrained import load_image, load_text
from mmlib.errors import UserError
from mmlib.files import write_whole
from mmlib.models import PRESETS, ModelConfig, MultimodalBert
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_report import report, validation_score
from mmlib.tasks.scene_run import batches
from mmlib.tasks.scenes import SceneTask, model_config
from mmlib.training.checkpoint import load_weights
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.interrupts import Interrupted
from mmlib.training.run_folder import RunFolder, read_log
from mmlib.training.seeds import derive_seed
from tools import gpu
from tools.record import ROOT, device, versions

RESULT = ROOT / "book" / "results" / "base_gpu.json"
STRIDE = 32
SIDE = CELLS * STRIDE  # pixels after enlarging: one cell of the network is one of the world's
MARGIN = 8.0  # seconds of the budget for what nobody measured: workers that start, files


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and how.

    recipe, of which training.steps is the most that is taken and the warm-up and evaluations are
    derived; workers that make batches; text and image, names of pretrained parts ("" for none);
    backend of the compiler; validation and report, how many pictures an evaluation and the report
    ask about; settle and measured, seconds
    of the speed part; checked, how many pictures GPU and CPU are compared on.
    """

    recipe: SceneRecipe
    workers: int
    text: str
    image: str
    backend: str
    validation: int
    report: int
    settle: float
    measured: float
    checked: int


FULL = Plan(
    SceneRecipe(
        preset="base", text_layers=PRESETS["base"]["text_layers"], pictures=64, grounding=0.0,
        training=TrainingConfig(steps=60_000, lr=1e-4, precision="bf16"),
    ),
    workers=12, text="bert-base-uncased", image="resnet50", backend="inductor",
    validation=100, report=1000, settle=5.0, measured=10.0, checked=8,
)  # fmt: skip
REHEARSAL = replace(
    FULL,
    recipe=replace(
        FULL.recipe, preset="tiny", text_layers=1, pictures=4, questions=2,
        training=replace(FULL.recipe.training, steps=6),
    ),
    workers=0, text="", image="", backend="aot_eager",
    validation=5, report=10, settle=0.1, measured=0.3, checked=2,
)  # fmt: skip


# --- the model ------------------------------------------------------------------------------------


def pretrained(load: Callable[[str], Any], name: str) -> Any:
    """What `load` finds under that name, or None where it is found nowhere or none is asked for."""
    try:
        return load(name) if name else None
    except UserError as error:
        tell(f"without pretrained weights: {error}")
        return None


def with_the_worlds_words(bert: BertModel, tokenizer: Any) -> BertModel:
    """A pretrained BERT whose vocabulary is the world's: one vector a word, the mean of its pieces.

    So a question has the same positions as for the other presets, and each word keeps its meaning.
    Its dropout is off, as in `small_bert`.
    """
    old = bert.get_input_embeddings().weight.detach()
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    rows = torch.stack([old[ids].mean(0) for ids in pieces])
    bert.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=0))
    bert.config.vocab_size = len(WORDS)
    for module in bert.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return bert


def rehearsal_network() -> nn.Sequential:
    """One convolution in ResNet-50's place: [B, 3, 256, 256] → [B, 16, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(3, 16, STRIDE, stride=STRIDE, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    )


def build(plan: Plan) -> tuple[SceneTask, ModelConfig, dict[str, str]]:
    """(the task, the shape of its model, which of its parts are pretrained)."""
    recipe = plan.recipe
    torch.manual_seed(derive_seed(recipe.seed))
    text, image = pretrained(load_text, plan.text), pretrained(load_image, plan.image)
    found = {
        name: given if part else "none"
        for name, given, part in (("text", plan.text, text), ("image", plan.image, image))
    }
    config = replace(model_config(recipe), image_size=PIXELS)
    if text:
        bert = with_the_worlds_words(*text)
        config = replace(
            config, text_width=bert.config.hidden_size, text_layers=bert.config.num_hidden_layers,
            text_heads=bert.config.num_attention_heads,
        )  # fmt: skip
    else:
        bert = small_bert(
            config.vocab_size, config.text_width, config.text_layers, config.text_heads,
            config.max_position_embeddings,
        )  # fmt: skip
    if config.image == "resnet50":
        network, width = image or resnet50_grid(), 2048
    else:
        network, width = rehearsal_network(), 16
        config = replace(config, image="rehearsal_network")
    enlarged = nn.Sequential(
        nn.Upsample(size=(SIDE, SIDE), mode="bilinear", align_corners=False), network
    ).to(memory_format=torch.channels_last)
    model = MultimodalBert(
        TextEncoder(bert, config.d),
        GridEncoder(
            enlarged, width, config.d, config.image_size, config.coordinates, config.axes
        ),
        config.d, config.heads, config.layers, config.fusion, config.num_classes, config.dropout,
    )  # fmt: skip
    return SceneTask(model, config.d, recipe.dense, recipe.grounding), config, found


# --- the record -----------------------------------------------------------------------------------


class Record:
    """What is known so far, written to `path` whenever something comes to it."""

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        self.path, self.facts = path, dict(facts)

    def add(self, **more: Any) -> dict[str, Any]:
        """Write the record with these fields as well; returns all of it."""
        self.facts |= more
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.facts, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.path, text.encode())
        return self.facts


class Parts:
    """The parts that are done, in folder/parts.json: a run that goes on does not repeat them."""

    def __init__(self, folder: Path):
        self.path = folder / "parts.json"
        found = self.path.exists() and json.loads(self.path.read_text("utf8"))
        self.done: dict[str, dict[str, Any]] = found or {}

    def keep(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Keep what a part found; returns it."""
        self.done[name] = values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.done, indent=1).encode())
        return values


# --- the parts ------------------------------------------------------------------------------------


def check(task: SceneTask, plan: Plan, on: torch.device, done: bool) -> dict[str, Any]:
    """Part 1. Compare the device with the CPU on one batch, and compiled with eager.

    {"fp32", "bf16", "compiled": as `gpu.compare`; "compile": "yes" or "no" and the kind of error;
    "compile_seconds"; "flops": operations of a training step}; where the checks are `done`, the
    compiler's two alone. Afterwards the task is on the device, compiled, with the weights it had.
    """
    before = {name: x.clone() for name, x in task.state_dict().items()}
    batch = batches(plan.recipe).batch(0)
    found: dict[str, Any] = {}
    if not done:
        few = gpu.first_pictures(batch, plan.checked)
        tell(f"checks: one batch on the CPU and on {on}")
        reference = gpu.run_once(task, few, bf16=False)
        task.to(on)
        with gpu.exact():
            found["fp32"] = gpu.compare("fp32", gpu.run_once(task, few, bf16=False), reference)
        found["bf16"] = gpu.compare("bf16", gpu.run_once(task, few, bf16=True), reference)
        with FlopCounterMode(display=False) as counter:
            eager = gpu.run_once(task, batch, bf16=True)
        found["flops"] = counter.get_total_flops()
        found["flops_by_formula"] = by_formula(task, batch)
    task.to(on)
    tell(f"checks: compiling with {plan.backend}")
    begun = time.monotonic()
    found["compile"], compiled = gpu.compile_backbones(task, batch, plan.backend)
    found["compile_seconds"] = round(time.monotonic() - begun, 1)
    if compiled and not done:
        found["compiled"] = gpu.compare("compiled", compiled, eager)
    task.load_state_dict(before)
    return found


def by_formula(task: SceneTask, batch: Mapping[str, Tensor]) -> int | None:
    """Operations of a step as chapter 07 counts them; None for a fusion that it does not count."""
    try:
        return step_flops(task.model, len(batch["target"]), len(batch["pictures"]), LENGTH)
    except UserError:
        return None


def failed(checks: Mapping[str, Any]) -> str:
    """One line on the first check that did not pass; empty where all did."""
    for name, found in checks.items():
        if isinstance(found, dict) and not found["passed"]:
            seen = ", ".join(f"{n} {found[n]}" for n in found["tolerance"])
            allowed = ", ".join(f"{n} {x}" for n, x in found["tolerance"].items())
            finite = "finite" if found["finite"] else "not finite"
            return (
                f"expected the check {name} within {allowed}, got {seen}, gradients {finite};"
                " look at the record, mend what differs and start again"
            )
    return ""


def measure(
    task: SceneTask, plan: Plan, on: torch.device, scratch: Path, evaluate: Callable[[], Any]
) -> dict[str, Any]:
    """Part 2. Steps a second of the training as it will be, and the seconds of what it stops for.

    Afterwards the task has the weights that it had.
    """
    before = {name: x.clone() for name, x in task.state_dict().items()}
    tell(f"speed: steps for {plan.settle + plan.measured:g} seconds")
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found, checkpoint = gpu.speed(
        task, batches(plan.recipe), plan.recipe.training, execution_of(plan, on),
        plan.recipe.seed, plan.settle, plan.measured, scratch,
    )  # fmt: skip
    evaluate()  # the first call is slower
    begun = time.monotonic()
    evaluate()
    evaluation = time.monotonic() - begun
    task.load_state_dict(before)
    return {
        "steps": found.steps, "seconds": round(found.seconds, 2),
        "steps_per_second": found.steps / found.seconds,
        "data_wait_share": found.waited / found.seconds,
        "peak_memory_bytes": peak_memory(on),
        "evaluation_seconds": evaluation, "checkpoint_seconds": checkpoint,
    }  # fmt: skip


def report_seconds(plan: Plan, evaluation: float) -> float:
    """How long the report will take, from what an evaluation takes."""
    asked = 5 * plan.report + max(50, plan.report // 5)
    return evaluation * asked / plan.validation + plan.report / 1000


def with_steps(recipe: SceneRecipe, steps: int) -> SceneRecipe:
    """The recipe with a schedule of that many steps: a twentieth to warm up, ten evaluations."""
    every = math.ceil(steps / gpu.EVALUATIONS)
    training = replace(
        recipe.training, steps=steps, warmup_steps=math.ceil(steps / 20), evaluate_every=every
    )
    return replace(recipe, training=training)


def execution_of(plan: Plan, on: torch.device) -> Execution:
    """How it is executed there."""
    return Execution(workers=plan.workers, device="auto" if on.type == "cuda" else "cpu")


def peak_memory(on: torch.device) -> int:
    """The most bytes of the device that were in use; 0 for a CPU, where nobody counts."""
    return torch.cuda.max_memory_allocated() if on.type == "cuda" else 0


class Lease:
    """One run in `folder`, within `minutes` from now on; its record grows in `result`.

    Its parts are called in order: check, measure, train, report. One line (SystemExit) for a check
    that fails, for minutes that leave no time to train, and after Ctrl-C.
    """

    def __init__(self, plan: Plan, folder: Path, result: Path, minutes: float, on: torch.device):
        self.began, self.minutes = time.monotonic(), minutes
        self.plan, self.on, self.run = plan, on, RunFolder(folder)
        self.gpu = on.type == "cuda"
        if self.gpu:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        self.task, config, found = build(plan)
        self.shape = {"model": asdict(config), "pixels": SIDE, "pretrained": found}
        self.parts = Parts(folder)
        name = device() if self.gpu else "cpu"
        self.peak = gpu.PEAKS.get(name)
        self.record = Record(result, {
            "command": f"make gpu MINUTES={minutes:g}", "rehearsal": not self.gpu,
            "complete": False, "part": "none", "date": date.today().isoformat(),
            "versions": versions(), "device": name, "peak_flops": self.peak,
            "minutes": minutes, "workers": plan.workers, "seeds": [plan.recipe.seed],
            **self.shape, "parameters": sum(p.numel() for p in self.task.model.parameters()),
        })  # fmt: skip
        self.questions = plan.recipe.pictures * plan.recipe.questions
        self.validation = held_out_questions(
            "validation", plan.validation, plan.recipe.objects, plan.recipe.questions
        )

    def check(self) -> None:
        """Part 1, and the compiler again where the run goes on."""
        again = "checks" in self.parts.done
        found = check(self.task, self.plan, self.on, again)
        self.checks = {**(self.parts.done["checks"] if again else {}), **found}
        self.record.add(part="checks", compiled=self.checks["compile"], checks=self.checks)
        if line := failed(self.checks):
            raise SystemExit(line)
        self.parts.keep("checks", self.checks)
        took = self.checks["compile_seconds"]
        tell(f"checks: passed; compiled: {self.checks['compile']} ({took} s)")

    def measure(self) -> None:
        """Part 2, once: what it finds decides the number of steps, and with it the recipe."""
        if "speed" not in self.parts.done:
            speed = measure(self.task, self.plan, self.on, self.run.path / "trial", self.evaluate)
            rate, evaluation = speed["steps_per_second"], speed["evaluation_seconds"]
            speed["questions_per_second"] = round(rate * self.questions, 1)
            speed["mfu"] = self.utilization(rate)
            left = self.began + 60 * self.minutes - time.monotonic() - MARGIN
            left -= report_seconds(self.plan, evaluation)
            within = gpu.steps_within(left, rate, evaluation, speed["checkpoint_seconds"])
            speed["steps_of_the_run"] = min(within, self.plan.recipe.training.steps)
            self.record.add(part="speed", speed=speed)
            if within < 1:
                raise SystemExit(
                    f"expected minutes that leave time to train, got {self.minutes:g}, all of it"
                    " taken by checks, evaluations and report; name more"
                )
            self.parts.keep("speed", speed)
        speed = self.parts.done["speed"]
        self.recipe = with_steps(self.plan.recipe, speed["steps_of_the_run"])
        self.record.add(part="speed", speed=speed, recipe=self.recipe.to_json())
        tell(
            f"speed: {speed['steps_per_second']:.1f} steps/s,"
            f" {speed['questions_per_second']:.0f} questions/s, MFU {percent(speed['mfu'])},"
            f" data wait {speed['data_wait_share']:.1%},"
            f" memory {speed['peak_memory_bytes'] / 1e9:.1f} GB: {self.recipe.training.steps} steps"
        )

    def train(self) -> None:
        """Part 3, by a schedule of exactly the steps that were derived."""
        recipe, steps = self.recipe, self.recipe.training.steps
        execution = replace(
            execution_of(self.plan, self.on), checkpoint_every=math.ceil(steps / (gpu.SAVES - 2))
        )
        try:
            with self.run.claimed(recipe):
                state = fit(
                    self.task, batches(recipe), recipe.training, self.run.path,
                    {**recipe.to_json(), **self.shape}, seed=recipe.seed, evaluate=self.score,
                    execution=execution,
                )  # fmt: skip
        except Interrupted:
            self.record.add(**self.grown())
            done = self.record.facts["steps_done"]
            line = f"stopped at step {done} of {steps}; go on with the same command"
            raise SystemExit(line) from None
        rate = state["step"] / state["seconds"]
        self.record.add(
            **self.grown(), part="training", seconds=round(state["seconds"], 1),
            questions_per_second=round(rate * self.questions, 1), mfu=self.utilization(rate),
            peak_memory_bytes=peak_memory(self.on),
        )  # fmt: skip
        tell(
            f"training: {steps} steps in {state['seconds']:.0f} s with evaluations and checkpoints,"
            f" MFU {percent(self.record.facts['mfu'])}, best validation {state['best']:.3f}"
        )

    def report(self) -> dict[str, Any]:
        """Part 4, on the best weights; returns the whole record."""
        recipe, asked = self.recipe, self.plan.report
        load_weights(self.run.best, self.task)
        with torch.compiler.set_stance("force_eager"):
            final = report(self.task.model, recipe, asked)
        test = held_out_questions("test", asked, recipe.objects, recipe.questions)
        data = b"".join(test[n].numpy().tobytes() for n in ("pictures", "input_ids", "target"))
        whole = self.record.add(
            part="report", complete=True, data_sha256=hashlib.sha256(data).hexdigest(),
            metrics=final["by_kind"],
            controls={name: of["overall"] for name, of in final["controls"].items()},
            controls_by_kind=final["controls"],
            held_out_combinations=final["held_out_combinations"],
            minutes_taken=round((time.monotonic() - self.began) / 60, 2),
        )  # fmt: skip
        rows = {"test": whole["metrics"]["overall"], **whole["controls"]}
        tell("report: " + ", ".join(f"{name} {x['mean']:.3f}" for name, x in rows.items()))
        tell(f"report: in {whole['minutes_taken']} of {self.minutes:g} minutes: {self.record.path}")
        return whole

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the validation questions."""
        with torch.compiler.set_stance("force_eager"):  # other shapes would be compiled anew
            return validation_score(self.task.model, self.validation, self.plan.recipe.modality)

    def score(self) -> dict[str, float]:
        """As `evaluate`, and into the record."""
        values = self.evaluate()
        now = self.grown()  # the log gets this step's line after its evaluation
        at = {"step": now["steps_done"] + 1, **values}
        self.record.add(**now | {"steps_done": at["step"], "curve": [*now["curve"], at]})
        return values

    def grown(self) -> dict[str, Any]:
        """What the log says of the training so far."""
        entries = read_log(self.run.log)
        return {
            "steps_done": len(entries),
            "first_losses": [entry["loss"] for entry in entries[:5]],
            "curve": [{"step": e["step"], **e["score"]} for e in entries if "score" in e],
        }

    def utilization(self, rate: float) -> float | None:
        """Model FLOPs utilization: operations of the model a second over the card's peak.

        None for a card that is not in `gpu.PEAKS`. Source: Chowdhery et al. (2022), appendix B.
        """
        return None if self.peak is None else self.checks["flops"] * rate / self.peak


def train(plan: Plan, folder: Path, result: Path, minutes: float, on: torch.device):
    """All parts of a `Lease`, or those that `folder` does not hold yet; returns the record."""
    lease = Lease(plan, folder, result, minutes, on)
    lease.check()
    lease.measure()
    lease.train()
    return lease.report()


def tell(line: str) -> None:
    """Print it at once, for a machine that may be taken away."""
    print(line, flush=True)


def percent(share: float | None) -> str:
    """The utilization in words."""
    return "unknown (no peak for this card in tools/gpu.py)" if share is None else f"{share:.1%}"


def on_a_gpu(folder: Path, minutes: float) -> dict[str, Any]:
    """The whole run; one line where there is no GPU."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "expected a GPU that torch can use, got none; run it where there is one,"
            " or rehearse: python -m tools.records.base_gpu FOLDER"
        )
    return train(FULL, folder, RESULT, minutes, torch.device("cuda"))


OPTIONS = {"minutes": 7.0}
UNITS = {"seed_0": on_a_gpu}


def summarize(units: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record is the one unit as it stands."""
    return units["seed_0"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("expected a folder for the rehearsal, got none; name one")
    at = Path(sys.argv[1])
    train(REHEARSAL, at / "run", at / "base_gpu.json", 5.0, torch.device("cpu"))
