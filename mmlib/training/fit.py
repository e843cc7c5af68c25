"""Training: chapter 07. `fit` goes on where it was cut off, on one process or on several.

Everything random is keyed: the batch by (seed, step), dropout by (seed, step, microbatch). So a
step is the same whether the run came to it in one piece or in ten, and nothing but weights,
optimizer and step number has to be saved. How many processes or microbatches share the work changes
nothing but the last digits, unless the model trains a BatchNorm: its statistics are those of a
microbatch.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from mmlib.errors import UserError, expected
from mmlib.training.checkpoint import load_checkpoint, save_checkpoint
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.interrupts import Interrupted, leave_interrupts, stop_signals
from mmlib.training.loop import naming, require_finite
from mmlib.training.memory import hold_memory
from mmlib.training.optimizers import RunningMean, build_optimizers
from mmlib.training.run_folder import Log, RunFolder
from mmlib.training.seeds import derive_seed
from mmlib.training.task import Batch, Data, Share, Task, to_device

Evaluate = Callable[[], dict[str, float]]


def fit(
    task: Task,
    data: Data,
    config: TrainingConfig,
    out: Path,
    recipe: Mapping[str, Any],
    *,
    seed: int,
    evaluate: Evaluate | None = None,
    execution: Execution = Execution(),
    until: int | None = None,
) -> dict[str, Any]:
    """Train the task, writing log.jsonl, best/ and last/ into `out`; go on where `out` ended.

    recipe is what the run was made from; a checkpoint of another recipe is refused. evaluate gives
    figures on validation data, of which "overall" decides what weights are the best; without it
    there is no best/. until stops after so many steps of the schedule. Returns {"step", "seconds",
    "best"}. On a CPU a resumed run ends in bitwise the weights of an uninterrupted one.

    Raises UserError for a loss or a gradient that is not finite (the weights are those before the
    bad batch), a full disk, a checkpoint that does not fit, a loss that cannot be taken in pieces;
    Interrupted after Ctrl-C. Source: chapter 07.
    """
    hold_memory()
    accelerator = start(execution)
    if not task.by_sample and accelerator.num_processes * config.accumulate > 1:
        raise expected(
            f"a whole batch at once for {type(task).__name__}, whose samples are compared",
            f"{accelerator.num_processes} processes, accumulate {config.accumulate}",
            "train it in one process with accumulate 1",
        )
    folder, steps = RunFolder(out), min(config.steps, until or config.steps)
    task.to(accelerator.device)
    optimizers = build_optimizers(task, config)
    mean = RunningMean(task, config.ema_decay) if config.ema_decay else None
    kept = mean.values if mean else {}
    state: dict[str, Any] = {"step": 0, "best": -math.inf, "seconds": 0.0}
    if (folder.last / "model.safetensors").exists():
        state = load_checkpoint(folder.last, task, optimizers, recipe, kept)
        _check_state(state, folder.last, config.steps)
    elif folder.log.exists():
        raise expected(
            f"the checkpoint of the run that {folder.log} tells of", f"none in {folder.last}",
            "bring it back, or choose another --out",
        )  # fmt: skip
    module, *prepared = prepare(accelerator, task, optimizers)
    writes = accelerator.is_main_process

    def save(place: Path, with_optimizers: bool = True) -> None:
        if writes:
            given = (optimizers, recipe, state, kept) if with_optimizers else ((), recipe)
            save_checkpoint(place, task, *given)

    if not state["step"]:
        save(folder.last)  # from here on a log without a checkpoint is a loss, and is told
    log = Log(folder.log, state["step"]) if writes else None
    loader = load(data, accelerator, config, execution, range(state["step"], steps))
    begun, before = time.monotonic(), state["seconds"]
    bar = tqdm(
        total=steps, initial=state["step"], unit="step", dynamic_ncols=True,
        disable=None if writes else True,
    )  # fmt: skip
    with stop_signals() as asked, bar:
        for step, batches in enumerate(loader, state["step"]):
            if isinstance(batches, UserError):
                raise batches
            losses = take_step(module, prepared, accelerator, config, batches, step, seed)
            if mean:
                mean.update(task, step)
            done = step + 1
            rate = config.lr * config.schedule(step)
            entry: dict[str, Any] = {"step": done, "lr": rate, **losses}
            last = done == steps
            if evaluate and (last or done % config.evaluate_every == 0):
                with mean.in_place(task) if mean else nullcontext():
                    entry["score"] = evaluate()
                    if entry["score"]["overall"] > state["best"]:
                        state["best"] = entry["score"]["overall"]
                        save(folder.best, with_optimizers=False)
            if log:
                log.write(entry)
            state |= {"step": done, "seconds": before + time.monotonic() - begun}
            bar.set_postfix(
                loss=f"{losses['loss']:.3f}", best=f"{state['best']:.3f}", refresh=False
            )
            bar.update()
            stop = _anyone(accelerator, bool(asked))
            if done % execution.checkpoint_every == 0 or last or stop:
                save(folder.last)
            if stop:
                raise Interrupted(
                    f"stopped at step {done} of {config.steps}, saved in {out}; "
                    f"go on with: mmlib train --resume {shlex.quote(str(out))}"
                )
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return state


def _check_state(state: Mapping[str, Any], place: Path, steps: int) -> None:
    """Raises UserError where the notes of a checkpoint are not those of a run of so many steps."""
    step = state.get("step")
    numbers = all(type(state.get(name)) in (int, float) for name in ("best", "seconds"))
    if type(step) is not int or not 0 <= step <= steps or not numbers:
        raise expected(
            f"step (0 to {steps}), best and seconds in the notes of {place}", str(dict(state))[:80],
            "it was not written by this run: copy it anew",
        )  # fmt: skip


def start(execution: Execution) -> Accelerator:
    """The Accelerator of this process: the GPU where there is one, or the CPU; alone or one of W.

    Precision is not its affair (`take_step` has its own autocast), so that a second run in the same
    process may have another.
    """
    # a part of the loss that is switched off leaves its head without a gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=execution.device == "cpu", kwargs_handlers=[unused])


def is_main_process(execution: Execution) -> bool:
    """Whether this process is the one that writes files: the only one, or the first of several."""
    return start(execution).is_main_process


def prepare(
    accelerator: Accelerator, task: Task, optimizers: Sequence[torch.optim.Optimizer]
) -> list[Any]:
    """The task, already on the device, and its optimizers as the Accelerator wraps them."""
    # Accelerate would move AdamW's step counts to the GPU, whence each is then fetched each step
    placed = [True] + [False] * len(optimizers)
    return list(accelerator.prepare(task, *optimizers, device_placement=placed))


def load(
    data: Data, accelerator: Accelerator, config: TrainingConfig, execution: Execution, steps: range
) -> DataLoader:
    """This process's microbatches of those steps in order, made beside the training."""
    return DataLoader(
        Share(data, accelerator.num_processes, accelerator.process_index, config.accumulate),
        batch_size=None, sampler=steps,
        num_workers=execution.workers, prefetch_factor=4 if execution.workers else None,
        worker_init_fn=leave_interrupts, pin_memory=accelerator.device.type == "cuda",
    )  # fmt: skip


def take_step(
    module: nn.Module, optimizers: list[Any], accelerator: Accelerator, config: TrainingConfig,
    batches: list[Batch], step: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """One step of the optimizers on this process's microbatches; returns the parts of the loss.

    module is the prepared task. Each part of the loss is divided by its count over all microbatches
    of all processes. One transfer from the device is made, after the backward passes.
    """
    task: Task = accelerator.unwrap_model(module)
    module.train()
    where = f"step {step} of seed {seed}"
    batches = [to_device(batch, accelerator.device) for batch in batches]
    with naming(where):
        counted = [task.counts(batch) for batch in batches]
    names = list(counted[0])
    counts = torch.stack([sum_of([c[name] for c in counted]) for name in names]).float()
    counts = accelerator.reduce(counts)
    totals = torch.zeros_like(counts)
    seen = torch.zeros_like(counts)
    first = accelerator.process_index * len(batches)
    for number, batch in enumerate(batches):
        torch.manual_seed(derive_seed(seed, step, first + number))
        together = nullcontext() if number == len(batches) - 1 else accelerator.no_sync(module)
        with together, naming(where):
            bf16 = config.precision == "bf16"
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                parts = module(batch)
            sums = torch.stack([parts[name][0] for name in names])
            shares = sums / counts.clamp(min=1e-9)
            # DistributedDataParallel takes the mean of the processes' gradients; a sum is wanted
            accelerator.backward(shares.sum() * accelerator.num_processes)
        totals += shares.detach()
        seen += torch.stack([parts[name][1].detach() for name in names]).float()
    norm = accelerator.clip_grad_norm_(module.parameters(), config.max_grad_norm)
    totals, seen = accelerator.reduce(totals), accelerator.reduce(seen)
    *found, gradient, missed = torch.cat(
        [totals, norm.reshape(1).to(totals), (seen - counts).abs().amax().reshape(1)]
    ).tolist()
    if missed > 1e-3 * (1 + max(counts.tolist())):
        raise RuntimeError(f"{type(task).__name__}.counts and forward disagree by {missed}")
    require_finite(torch.tensor(sum(found)), where)
    require_finite(torch.tensor(gradient), where, "gradient")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * config.schedule(step)
        optimizer.step()
        optimizer.zero_grad()
    task.after_step()
    return {"loss": sum(found), **dict(zip(names, found, strict=True))}


def sum_of(counts: list[Tensor]) -> Tensor:
    """The sum of scalar tensors."""
    return torch.stack([count.float() for count in counts]).sum()


def _anyone(accelerator: Accelerator, asked: bool) -> bool:
    """Whether a process was asked to stop: all of them stop at the same step."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)) > 0)
