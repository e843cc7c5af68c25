"""Training: chapter 07. The document's loop, and `fit`, which goes on where it was cut off.

Everything random is keyed by (seed, step): the batch, which `Task.batch` makes, and the dropout.
So a step is the same whether the run came to it in one piece or in ten, and nothing but weights,
optimiser and step number has to be saved.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mmlib.errors import UserError, expected
from mmlib.files import write_whole
from mmlib.losses import check_labels
from mmlib.training.checkpoint import load_checkpoint, save_checkpoint


def train(
    model: nn.Module, dataloader: Iterable, optimizer: torch.optim.Optimizer, criterion: nn.Module
) -> list[float]:
    """One pass over the data, the document's signature; returns the loss of each batch.

    The dataloader gives (text_input, image_input, target): what `model` takes, and target [B].
    Raises UserError where a label is not a class, or the loss is not finite; the weights are then
    those before the bad batch. Source: the document, sec. 4.
    """
    model.train()
    losses = []
    for number, (text_input, image_input, target) in enumerate(dataloader):
        optimizer.zero_grad()
        output = model(text_input, image_input)
        ignore = getattr(criterion, "ignore_index", -100)
        check_labels(target, output.shape[-1], ignore, f"batch {number}")
        loss = criterion(output, target)
        require_finite(loss, f"batch {number}")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def require_finite(loss: Tensor, where: str) -> None:
    """Raises UserError where a scalar loss is NaN or infinite, naming the batch."""
    if not torch.isfinite(loss):
        raise expected(
            "a finite loss", f"{loss.item()} at {where}",
            "look at that batch, or lower the learning rate",
        )  # fmt: skip


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Adds the place, as in "step 12 of seed 0", to a user error raised within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} ({where})") from error


@dataclass(frozen=True)
class Optimization:
    """How the steps are taken; every schedule counts steps, never the clock.

    steps of the optimiser; learning_rate at the end of warmup steps, then a cosine down to
    `floor` of it; clip bounds the gradient's norm; accumulate splits a batch into that many
    pieces; workers make batches beside the training; checkpoint and evaluate every so many steps.
    precision is "no" or "bf16". Source: Loshchilov & Hutter (2017; 2019).

    Raises UserError for a figure with which no step can be taken.
    """

    steps: int = 2400
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 200
    floor: float = 0.03
    clip: float = 1.0
    accumulate: int = 1
    workers: int = 1
    checkpoint_every: int = 100
    evaluate_every: int = 100
    precision: str = "no"

    def __post_init__(self) -> None:
        least = {
            "steps": 1, "warmup": 0, "accumulate": 1, "workers": 0, "checkpoint_every": 1,
            "evaluate_every": 1, "learning_rate": 0, "weight_decay": 0, "floor": 0, "clip": 0,
        }  # fmt: skip
        for name, bound in least.items():
            # not "<": a NaN is refused as well
            if not getattr(self, name) >= bound:
                raise expected(f"{name} of {bound} or more", getattr(self, name), "raise it")
        if self.precision not in ("no", "bf16"):
            raise expected("precision no or bf16", f"'{self.precision}'", "choose one")

    def rate(self, step: int) -> float:
        """The learning rate of that step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (self.floor + (1 - self.floor) * cosine)


class Task(Protocol):
    """What `fit` needs to know of a problem: its module, its batches, its losses, its score."""

    seed: int

    @property
    def module(self) -> nn.Module:
        """All that is trained."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of that step, the same whenever it is asked for."""

    def pieces(self, batch: dict[str, Tensor], number: int) -> list[dict[str, Tensor]]:
        """The batch in `number` pieces."""

    def losses(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Each part of the loss as (sum, divisor), its weight included in the sum."""

    def divisors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The divisors of the whole batch, from its labels alone."""

    def score(self) -> dict[str, float]:
        """Figures on the validation data; "overall" decides which weights are the best."""


def key(*numbers: int) -> int:
    """One well-mixed seed of several numbers: (seed, step) → 64 bits. Source: O'Neill (2015)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


class Batches(Dataset):
    """The batches of a task by step, so that a loader may start anywhere."""

    def __init__(self, task: Task):
        self.task = task

    def __getitem__(self, step: int) -> dict[str, Tensor] | UserError:
        try:
            return self.task.batch(step)
        except UserError as error:  # raised in a worker it would come with a stack trace around it
            return error


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches the workers as well, but when to stop is the loop's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Interrupted(UserError):
    """The run was stopped by the user; what is done is saved, and the message says how to go on."""


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Turn Ctrl-C into a request that the loop honours between two steps, never within one.

    A second Ctrl-C stops at once. Outside the main thread nothing is changed.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def fit(task: Task, how: Optimization, out: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Train task.module, writing log.jsonl, best/ and last/ into `out`; go on where `out` ended.

    recipe is what the run folder was made from; a checkpoint of another recipe is refused.
    Returns {"steps", "seconds", "samples_per_second", "best"}. On a CPU a resumed run ends in
    bitwise the weights of an uninterrupted one.

    Raises UserError for a loss that is not finite, a full disk, a checkpoint that does not fit;
    Interrupted after Ctrl-C. Source: chapter 07.
    """
    out.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # or a second run in this process could not change precision
    accelerator = Accelerator(mixed_precision=how.precision, cpu=not torch.cuda.is_available())
    optimizer = torch.optim.AdamW(
        task.module.parameters(), how.learning_rate, (0.9, 0.98), weight_decay=how.weight_decay
    )
    state: dict[str, Any] = {"step": 0, "best": -math.inf, "seconds": 0.0}
    if (out / "last" / "model.safetensors").exists():
        state = load_checkpoint(out / "last", task.module, optimizer, recipe)
    module, optimizer = accelerator.prepare(task.module, optimizer)
    log = Log(out / "log.jsonl", state["step"])
    loader = DataLoader(
        Batches(task), batch_size=None, sampler=range(state["step"], how.steps),
        num_workers=how.workers, prefetch_factor=4 if how.workers else None,
        worker_init_fn=_leave_interrupts,
    )  # fmt: skip
    start, before = time.monotonic(), state["seconds"]
    bar = tqdm(total=how.steps, initial=state["step"], unit="step", dynamic_ncols=True)
    step = state["step"]
    with stop_signals() as asked, bar:
        for step, batch in enumerate(loader, state["step"]):
            if isinstance(batch, UserError):
                raise batch
            torch.manual_seed(key(task.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = how.rate(step)
            losses = take_step(task, module, optimizer, accelerator, how, batch, step)
            done = step + 1
            entry: dict[str, Any] = {"step": done, "rate": how.rate(step), **losses}
            if done % how.evaluate_every == 0 or done == how.steps:
                entry["score"] = task.score()
                if entry["score"]["overall"] > state["best"]:
                    state["best"] = entry["score"]["overall"]
                    save_checkpoint(out / "best", task.module, recipe=recipe)
            log.write(entry)
            state |= {"step": done, "seconds": before + time.monotonic() - start}
            bar.set_postfix(
                loss=f"{losses['loss']:.3f}", best=f"{state['best']:.3f}", refresh=False
            )
            bar.update()
            if done % how.checkpoint_every == 0 or done == how.steps or asked:
                save_checkpoint(out / "last", task.module, optimizer, recipe, state)
            if asked:
                raise Interrupted(
                    f"stopped at step {done} of {how.steps}, saved in {out}; "
                    f"go on with: mmlib train --resume {out}"
                )
    return state


def take_step(
    task: Task, module: nn.Module, optimizer: Any, accelerator: Accelerator, how: Optimization,
    batch: dict[str, Tensor], step: int,
) -> dict[str, float]:  # fmt: skip
    """One step of the optimiser, the batch in `accumulate` pieces; returns the parts of the loss.

    Each part is divided by the labels of the whole batch, so that k pieces give the gradient of
    one: a mean of the pieces' means would weigh a label by how few it shares its piece with.
    """
    module.train()
    where = f"step {step} of seed {task.seed}"
    batch = {name: x.to(accelerator.device) for name, x in batch.items()}
    with naming(where):
        divisors = {name: x.clamp(min=1e-9) for name, x in task.divisors(batch).items()}
    total: dict[str, float] = {name: 0.0 for name in divisors}
    for piece in task.pieces(batch, how.accumulate):
        with naming(where), accelerator.autocast():
            parts = task.losses(piece)
        shares = {name: part / divisors[name] for name, (part, _) in parts.items()}
        loss = torch.stack(list(shares.values())).sum()
        require_finite(loss, where)
        accelerator.backward(loss)
        for name, share in shares.items():
            total[name] += share.item()
    accelerator.clip_grad_norm_(module.parameters(), how.clip)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": sum(total.values()), **total}


class Log:
    """A JSON-lines file that holds each step once: lines past `step` are from a cut-off run.

    Raises UserError where the disk is full.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        lines = path.read_text("utf8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry, on disk before the next step begins."""
        try:
            with self.path.open("a", encoding="utf8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise expected(
                f"room for a line in {self.path}", error.strerror,
                "free some space and resume: the last checkpoint is whole",
            ) from error  # fmt: skip


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # cut in half by kill -9
        return math.inf


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl, one a step."""
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def as_json(recipe: Any) -> dict[str, Any]:
    """A recipe dataclass as plain JSON values."""
    return json.loads(json.dumps(asdict(recipe)))
