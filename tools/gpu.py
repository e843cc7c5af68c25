"""What is asked of a GPU before a run: whether it computes what a CPU does, and how fast.

`compare` says how far two passes over one batch are apart and whether that is within TOLERANCES,
`speed` takes real steps for some seconds, and `steps_within` turns a budget in minutes into the
number of steps by which the schedule is drawn.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmlib.errors import UserError
from mmlib.tasks.scenes import SceneTask
from mmlib.training.checkpoint import save_checkpoint
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import load, prepare, start, take_step
from mmlib.training.optimizers import build_optimizers
from mmlib.training.task import Batch, Data, to_device

# The most that ‖a − b‖ / ‖b‖ may be. On a CPU `base` in bf16 (4 pictures, 8 questions) was apart
# from fp32 by 0.015 in the logits, 0.011 in the loss and 1.1 in the gradient: ResNet-50 with fresh
# weights and BatchNorm passes a rounding on enlarged. So in bf16 the gradient's distance is
# recorded and not judged, but that it is finite is.
TOLERANCES = {
    "fp32": {"logits": 1e-3, "loss": 1e-3, "gradient": 0.05},
    "bf16": {"logits": 0.1, "loss": 0.1},
    "compiled": {"logits": 0.1, "loss": 0.1},
}
# NVIDIA's data sheets: operations a second in bf16, dense, of the card that torch calls so
PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}
EVALUATIONS, SAVES = 10, 5  # within a run; the first of SAVES is made before the first step


class Pass(NamedTuple):
    """What came of one batch: logits [B, C], the loss, the gradient of all parameters as one."""

    logits: Tensor
    loss: float
    gradient: Tensor


def run_once(task: SceneTask, batch: Mapping[str, Tensor], bf16: bool) -> Pass:
    """A batch forward and backward in training mode, where the task is; all of it in fp32 on the
    CPU afterwards. BatchNorm's statistics move, and the gradients are cleared."""
    device = next(task.parameters()).device
    logits: list[Tensor] = []
    hook = task.model.head.register_forward_hook(lambda *call: logits.append(call[-1].detach()))
    try:
        task.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts = task(to_device(dict(batch), device))
        loss = torch.stack([total / count for total, count in parts.values()]).sum()
        loss.backward()
    finally:
        hook.remove()
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    gradient = torch.cat([g.detach().float().cpu().flatten() for g in gradients])
    task.zero_grad()
    return Pass(logits[0].float().cpu(), loss.item(), gradient)


def compare(name: str, found: Pass, reference: Pass) -> dict[str, Any]:
    """How far `found` is from `reference`, and whether TOLERANCES[name] allows it.

    {"logits", "loss", "gradient": ‖a − b‖ / ‖b‖ or None where it is no number; "tolerance";
    "finite": of all gradients; "passed"}.
    """
    apart = {
        "logits": _apart(found.logits, reference.logits),
        "loss": abs(found.loss - reference.loss) / abs(reference.loss),
        "gradient": _apart(found.gradient, reference.gradient),
    }
    finite = bool(found.gradient.isfinite().all())
    allowed = TOLERANCES[name]
    # "<=": a NaN does not pass
    passed = finite and all(apart[part] <= allowed[part] for part in allowed)
    numbers = {part: x if math.isfinite(x) else None for part, x in apart.items()}
    return {**numbers, "tolerance": allowed, "finite": finite, "passed": passed}


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm()) if a.shape == b.shape else math.inf


@contextmanager
def exact() -> Iterator[None]:
    """Products in fp32 as they are written, without the GPU's short form of it (TF32)."""
    precision, short = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = short


def first_pictures(batch: Batch, pictures: int) -> Batch:
    """The first pictures of a batch with all their questions."""
    rows = len(batch["pictures"])
    return {name: x[: pictures * len(x) // rows] for name, x in batch.items()}


def compile_backbones(
    task: SceneTask, batch: Batch, backend: str | Callable
) -> tuple[str, Pass | None]:
    """Compile all backbones in place and run a batch in bf16: ("yes", what came of it).

    In place, the modules stay what they are: no `_orig_mod.` comes into the names of the weights.
    Where compiling fails they run without, and it is ("no: " and the kind of error, None).
    """
    backbones: list[nn.Module] = [e.get_submodule("backbone") for e in task.model.encoders.values()]
    try:
        for backbone in backbones:
            backbone.compile(backend=backend, dynamic=False)
        return "yes", run_once(task, batch, bf16=True)
    except Exception as error:  # a compiler may fail in any way, and is not needed
        for backbone in backbones:
            backbone._compiled_call_impl = None
        task.zero_grad()
        return f"no: {type(error).__name__}", None


class Pace(NamedTuple):
    """Steps that were taken in `seconds`, of which `waited` went by without a batch."""

    steps: int
    seconds: float
    waited: float


def pace(
    step: Callable[[int], float], settle: float, seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Pace:  # fmt: skip
    """Take steps for `settle` seconds unmeasured and then for `seconds`.

    step(number) takes one and returns how long it waited for its batch.
    """
    number, begun = 0, clock()
    while clock() - begun < settle:
        step(number)
        number += 1
    first, waited, begun = number, 0.0, clock()
    while clock() - begun < seconds:
        waited += step(number)
        number += 1
    return Pace(number - first, clock() - begun, waited)


def speed(
    task: SceneTask, data: Data, config: TrainingConfig, execution: Execution, seed: int,
    settle: float, seconds: float, scratch: Path,
) -> tuple[Pace, float]:  # fmt: skip
    """(the pace of `fit`'s own steps, the seconds that one whole checkpoint takes to write).

    The task is trained meanwhile. scratch is a folder that is made and taken away.
    """
    accelerator = start(execution)
    optimizers = build_optimizers(task, config)
    module, *prepared = prepare(accelerator, task, optimizers)
    # the queue that the workers fill beforehand is empty again when `settle` is over
    batches = iter(load(data, accelerator, config, execution, range(10**9)))

    def step(number: int) -> float:
        asked = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - asked
        if isinstance(batch, UserError):
            raise batch
        take_step(module, prepared, accelerator, config, batch, number, seed)
        return waited

    found = pace(step, settle, seconds)
    begun = time.monotonic()
    save_checkpoint(scratch, task, optimizers)
    took = time.monotonic() - begun
    shutil.rmtree(scratch)
    accelerator.free_memory()
    return found, took


def steps_within(seconds: float, rate: float, evaluation: float, checkpoint: float) -> int:
    """The steps at `rate` a second that leave room for EVALUATIONS and SAVES; 0 where none does.

    evaluation and checkpoint are the seconds that one takes. An evaluation that is the best so far
    writes the weights alone, a third of a checkpoint (AdamW keeps two more numbers a weight).
    """
    apart = EVALUATIONS * (evaluation + checkpoint / 3) + SAVES * checkpoint
    return max(0, int((seconds - apart) * rate))
