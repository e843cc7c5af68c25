"""Training: the document's loop, steps that do not depend on how they are cut, exact resume."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from strategies import error_line, normal
from torch import nn
from toy import CONFIG, EXECUTION, IGNORED, Points, Toy, run, same

from mmlib.errors import UserError
from mmlib.evaluation import accuracy_interval
from mmlib.generation import predict
from mmlib.models import MultimodalBert, preset
from mmlib.tasks.scene_recipe import SceneRecipe
from mmlib.tasks.scene_run import batches
from mmlib.tasks.scenes import SceneTask
from mmlib.training.checkpoint import read_checkpoint
from mmlib.training.config import Execution, TrainingConfig
from mmlib.training.fit import fit, start, take_step
from mmlib.training.interrupts import Interrupted, stop_signals
from mmlib.training.loop import train
from mmlib.training.run_folder import Log, read_log
from mmlib.training.seeds import derive_seed
from mmlib.training.task import Share, split

C = 4


def model(seed: int = 0) -> MultimodalBert:
    torch.manual_seed(seed)
    built = MultimodalBert.from_config(preset("tiny", C, 20, image_size=16))
    built.encoders["image"].freeze()
    return built


def batch(seed: int = 0, B: int = 8):
    """(text_input, image_input, target) of random texts, pictures and labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 20, (B, 5), generator=generator)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
    images = normal(seed, B, 3, 16, 16, dtype=torch.float32)
    return text, images, torch.randint(0, C, (B,), generator=generator)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in module.state_dict().items()}


# --- the document's loop --------------------------------------------------------------------------


def test_the_documents_loop_overfits_one_batch():
    """train(model, dataloader, optimizer, criterion); every answer of the batch is then right."""
    built, one = model(), batch()
    optimizer = torch.optim.AdamW(built.parameters(), 3e-3)
    losses = train(built, [one] * 40, optimizer, nn.CrossEntropyLoss())
    assert len(losses) == 40
    assert losses[0] == pytest.approx(math.log(C), abs=0.7)
    assert losses[-1] < 0.05
    assert predict(built, *one[:2]).tolist() == one[2].tolist()


def test_the_loss_of_each_batch_is_returned():
    """With a learning rate of 0 each is the plain mean cross entropy."""
    built = model()
    pairs = [batch(seed) for seed in range(3)]
    losses = train(built, pairs, torch.optim.SGD(built.parameters(), 0.0), nn.CrossEntropyLoss())
    expected = [F.cross_entropy(built(text, image), y).item() for text, image, y in pairs]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_gradients_do_not_pile_up_from_batch_to_batch():
    built, other, pairs = model(), model(), [batch(0), batch(1)]
    train(built, pairs, torch.optim.SGD(built.parameters(), 0.1), nn.CrossEntropyLoss())
    for text, image, target in pairs:
        parameters = [p for p in other.parameters() if p.requires_grad]
        loss = F.cross_entropy(other(text, image), target)
        for p, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True
        ):
            p.data -= 0.1 * gradient
    for name, x in built.state_dict().items():
        assert torch.allclose(x, other.state_dict()[name], atol=1e-6), name


def spoil_label(pair):
    target = pair[2].clone()
    target[3] = C
    return pair[0], pair[1], target


def spoil_picture(pair):
    images = pair[1].clone()
    images[2, 0, 1, 1] = float("inf")
    return pair[0], images, pair[2]


@pytest.mark.parametrize(
    "spoil, parts",
    [(spoil_label, (f"0 to {C - 1}", f"got {C} at batch 1")), (spoil_picture, ("at batch 1",))],
)
def test_a_bad_batch_is_named_and_leaves_the_weights_alone(spoil, parts):
    built, good = model(), model()
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(built.parameters(), 0.01)
    with pytest.raises(UserError) as error:
        train(built, [batch(0), spoil(batch(1)), batch(2)], optimizer, loss)
    error_line(error, *parts)
    train(good, [batch(0)], torch.optim.AdamW(good.parameters(), 0.01), loss)
    assert same(weights(built), weights(good)), "the weights of the step before the bad batch"


def test_labels_that_the_criterion_ignores_are_no_mistake():
    built, (text, image, target) = model(), batch()
    optimizer = torch.optim.SGD(built.parameters(), 0.0)
    ignoring = torch.where(torch.arange(len(target)) < 2, -100, target)
    losses = train(built, [(text, image, ignoring)], optimizer, nn.CrossEntropyLoss())
    built.train()
    assert losses == pytest.approx([F.cross_entropy(built(text, image)[2:], target[2:]).item()])
    with pytest.raises(UserError) as error:  # PyTorch would end in an IndexError
        train(built, [(text, image, target - 1 - target.max())], optimizer, nn.CrossEntropyLoss())
    error_line(error, "at batch 0")


def accuracy_after(labels_of_text: bool) -> dict[str, float]:
    """Learn which of four words a text ends with, from right labels or from shuffled ones."""
    torch.manual_seed(0)
    built = MultimodalBert.from_config(
        preset("tiny", C, 20, image_size=16, max_position_embeddings=5)
    )
    built.encoders["image"].freeze()

    def pairs(seed: int):
        text, images, _ = batch(seed, B=64)
        target = text["input_ids"][:, -1] % C
        order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
        return text, images[:1], target if labels_of_text else target[order]

    optimizer = torch.optim.AdamW(built.parameters(), 3e-3)
    train(built, [pairs(seed) for seed in range(40)], optimizer, nn.CrossEntropyLoss())
    text, images, _ = batch(1000, B=256)
    right = predict(built, text, images[:1]) == text["input_ids"][:, -1] % C
    return accuracy_interval(int(right.sum()), 256, level=0.999)


def test_shuffled_labels_teach_nothing():
    """On new data the model trained on shuffled labels is at chance; the right labels teach."""
    assert accuracy_after(labels_of_text=True)["low"] > 0.9
    shuffled = accuracy_after(labels_of_text=False)
    assert shuffled["low"] < 1 / C < shuffled["high"]


# --- schedule, clipping, accumulation -------------------------------------------------------------


def test_the_schedule_counts_steps():
    """Linear warm-up to 1, then a cosine from 1 to the floor, by hand at its landmarks."""
    config = TrainingConfig(steps=110, warmup_steps=10, lr_floor=0.1)
    assert config.schedule(0) == pytest.approx(1 / 10)
    assert config.schedule(4) == pytest.approx(0.5)
    assert config.schedule(9) == config.schedule(10) == 1, "lr itself is reached"
    assert config.schedule(35) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert config.schedule(60) == pytest.approx(0.1 + 0.9 / 2)
    assert config.schedule(110) == pytest.approx(0.1)
    falling = [config.schedule(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)
    assert TrainingConfig(steps=100, warmup_steps=0).schedule(0) == 1


@pytest.mark.parametrize("steps, warmup", [(5, 5), (3, 10)])
def test_a_warm_up_as_long_as_the_run_reaches_what_it_can(steps, warmup):
    config = TrainingConfig(steps=steps, warmup_steps=warmup)
    assert [config.schedule(step) for step in range(steps)] == [
        (step + 1) / warmup for step in range(steps)
    ]


def test_each_step_is_taken_at_the_rate_of_its_number(tmp_path):
    """The log has the schedule's rates, and AdamW took its first step at the first of them."""
    before = weights(Toy())
    run(tmp_path / "whole")
    assert [entry["lr"] for entry in read_log(tmp_path / "whole" / "log.jsonl")] == [
        CONFIG.lr * CONFIG.schedule(step) for step in range(CONFIG.steps)
    ]
    one = replace(CONFIG, weight_decay=0.0, max_grad_norm=1e9)

    def cut(step: int) -> None:
        if step == 1:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(tmp_path / "one", one, replace(EXECUTION, checkpoint_every=1), before_batch=cut)
    after, _, _ = read_checkpoint(tmp_path / "one" / "last")
    # Adam's first step moves each weight by the rate, whatever the size of its gradient
    moved = max((after[name] - x).abs().max().item() for name, x in before.items())
    assert moved == pytest.approx(CONFIG.lr * CONFIG.schedule(0), rel=1e-3)


def one_step(task, config: TrainingConfig, step: int = 0, given=None):
    """The change of the weights, which is minus the gradient: SGD with a learning rate of 1."""
    before = weights(task)
    accelerator = start(EXECUTION)
    optimizer = torch.optim.SGD([{"params": list(task.parameters()), "peak_lr": 1.0}], 1.0)
    module, optimizer = accelerator.prepare(task, optimizer)
    batches = split(given or Points().batch(step), config.accumulate)
    flat = replace(config, warmup_steps=0, lr_floor=1.0)  # the rate of each step is 1
    losses = take_step(module, [optimizer], accelerator, flat, batches, step, seed=0)
    return losses, {name: before[name] - x for name, x in weights(task).items()}


def norm(gradient) -> float:
    return math.sqrt(sum(x.square().sum().item() for x in gradient.values()))


@pytest.mark.parametrize("k", [2, 4, 8])
def test_a_batch_in_microbatches_is_one_big_batch(k):
    """They have 1 to 4 labels each, so a mean of their means would be another gradient."""
    free = replace(CONFIG, max_grad_norm=1e9)
    losses, whole = one_step(Toy(dropout=0.0), replace(free, accumulate=1))
    in_pieces, gradient = one_step(Toy(dropout=0.0), replace(free, accumulate=k))
    assert in_pieces == pytest.approx(losses, rel=1e-5)
    assert norm({n: gradient[n] - whole[n] for n in whole}) < 1e-5 * norm(whole)


def test_a_mean_of_means_would_be_another_gradient():
    """The fault that the test above looks for is large on these batches."""
    task = Toy(dropout=0.0)
    _, whole = one_step(Toy(dropout=0.0), replace(CONFIG, accumulate=1, max_grad_norm=1e9))
    means = []
    for piece in split(Points().batch(0), 2):
        means.append(sum(total / count for total, count in task(piece).values()))
    gradients = torch.autograd.grad(sum(means) / 2, list(task.parameters()))
    wrong = dict(zip((n for n, _ in task.named_parameters()), gradients, strict=True))
    assert norm({n: wrong[n] - whole[n] for n in whole}) > 0.1 * norm(whole)


def test_a_step_divides_by_the_labels_of_the_batch():
    task, given = Toy(dropout=0.0), Points().batch(0)
    expected = F.cross_entropy(task.net(given["x"]), given["target"], ignore_index=IGNORED)
    losses, _ = one_step(task, replace(CONFIG, accumulate=4))
    assert losses["answer"] == pytest.approx(expected.item(), rel=1e-6)
    assert losses["loss"] == pytest.approx(losses["answer"] + losses["size"], rel=1e-6)


def test_a_batch_without_labels_changes_nothing_by_them():
    given = Points().batch(0)
    given["target"] = torch.full_like(given["target"], IGNORED)
    losses, gradient = one_step(Toy(dropout=0.0), CONFIG, given=given)
    assert losses["answer"] == 0 and math.isfinite(norm(gradient))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_clipping_bounds_the_norm_of_the_whole_gradient(accumulate):
    config = replace(CONFIG, accumulate=accumulate)
    _, free = one_step(Toy(), replace(config, max_grad_norm=1e9))
    assert norm(free) > 0.02
    _, clipped = one_step(Toy(), replace(config, max_grad_norm=0.01))
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_trained_batch_norm_is_what_microbatches_change(frozen):
    """The whole model gives one gradient however the batch is cut, with its BatchNorm at rest; at
    work it takes its statistics from each microbatch, and the gradient is another one."""
    recipe = SceneRecipe(preset="tiny", pictures=4, questions=2)
    given, found = batches(recipe).batch(0), []
    for k in (1, 2):
        task = SceneTask.from_recipe(recipe)
        if frozen:
            task.model.encoders["image"].freeze()
        found.append(one_step(task, replace(CONFIG, accumulate=k, max_grad_norm=1e9), given=given))
    whole, cut = (gradient for _, gradient in found)
    trained = [name for name in whole if "running" not in name and "num_batches" not in name]
    apart = norm({n: cut[n] - whole[n] for n in trained}) / norm({n: whole[n] for n in trained})
    assert apart < 1e-5 if frozen else apart > 0.01


def test_dropout_is_the_microbatchs_own():
    """Keyed by its number in the whole batch: whoever computes it draws the same."""
    _, whole = one_step(Toy(), replace(CONFIG, accumulate=2, max_grad_norm=1e9))
    _, again = one_step(Toy(), replace(CONFIG, accumulate=2, max_grad_norm=1e9))
    _, other = one_step(Toy(), replace(CONFIG, accumulate=4, max_grad_norm=1e9))
    assert same(whole, again) and not same(whole, other)


def test_counts_that_forward_contradicts_are_a_bug_that_is_told():
    task = Toy()
    task.counts = lambda batch: {"answer": torch.tensor(8.0), "size": torch.tensor(4.0)}
    with pytest.raises(RuntimeError, match="disagree"):
        one_step(task, CONFIG)


class Contrastive(Toy):
    """A loss that compares a batch's samples with each other."""

    by_sample = False


def test_a_loss_that_compares_samples_is_refused_in_pieces(tmp_path):
    whole = replace(CONFIG, steps=1, accumulate=1)
    arguments = dict(seed=0, execution=EXECUTION)
    fit(Contrastive(), Points(), whole, tmp_path / "whole", {}, **arguments)
    with pytest.raises(UserError) as error:
        fit(Contrastive(), Points(), replace(whole, accumulate=2), tmp_path / "2", {}, **arguments)
    error_line(error, "a whole batch at once for Contrastive", "accumulate 2")


def test_a_batch_that_the_pieces_do_not_divide_is_one_line():
    with pytest.raises(UserError) as error:
        split({"x": torch.zeros(9, 2), "rows": torch.zeros(18)}, 2)
    error_line(error, "9 rows of 'x'")
    parts = split({"pictures": torch.arange(2), "questions": torch.arange(6)}, 2)
    assert [p["questions"].tolist() for p in parts] == [[0, 1, 2], [3, 4, 5]]


def test_the_hook_after_a_step_is_called_after_each(tmp_path):
    class Bounded(Toy):
        def after_step(self) -> None:
            with torch.no_grad():
                self.net[0].bias.clamp_(max=0.0)

    task = Bounded()
    fit(task, Points(), CONFIG, tmp_path, {}, seed=0, execution=EXECUTION)
    assert (task.net[0].bias <= 0).all() and not (run(tmp_path / "free")[1].net[0].bias <= 0).all()


# --- what stops a run -----------------------------------------------------------------------------


def power_cut_at(step: int):
    """Before that step's batch the power goes."""

    def cut(at: int) -> None:
        if at == step:
            raise PowerCut

    return cut


class Spoiled(Points):
    """The batch of step 6 is spoiled by `change`."""

    change = staticmethod(dict)

    def batch(self, step):
        given = super().batch(step)
        return self.change(given) if step == 6 else given


class InfiniteGradient(torch.autograd.Function):
    """x itself, with a gradient that is not finite: a root at zero would have one."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


class Steep(Toy):
    """From the seventh step on the loss is finite and its gradient is not."""

    steps = 0

    def forward(self, batch):
        parts = super().forward(batch)
        self.steps += 1
        if self.steps > 2 * 6:  # two microbatches a step
            parts["size"] = (InfiniteGradient.apply(parts["size"][0]), parts["size"][1])
        return parts


@pytest.mark.parametrize(
    "task, change, parts",
    [
        (Toy, lambda b: b | {"x": b["x"] * float("nan")}, ("a finite loss", "step 6 of seed 0")),
        (Toy, lambda b: b | {"target": b["target"] + 2}, ("labels from 0", "step 6 of seed 0")),
        (Steep, dict, ("a finite gradient", "step 6 of seed 0")),
    ],
)
def test_a_bad_step_is_named_and_touches_no_weight(task, change, parts, tmp_path):
    built, data = task(), Spoiled()
    data.change = change
    with pytest.raises(UserError) as error:
        fit(built, data, CONFIG, tmp_path, {}, seed=0, execution=EXECUTION, evaluate=built.score)
    error_line(error, *parts)
    assert read_checkpoint(tmp_path / "last")[2]["step"] == 5
    assert len(read_log(tmp_path / "log.jsonl")) == 6
    other = Toy()
    with pytest.raises(PowerCut):
        fit(
            other, Points(before_batch=power_cut_at(6)), CONFIG, tmp_path / "six", {}, seed=0,
            execution=EXECUTION,
        )  # fmt: skip
    assert same(weights(built), weights(other)), "the weights of the step before"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_while_a_batch_is_made_is_one_line(workers, tmp_path):
    """PyTorch would put the worker's stack trace into the message."""

    def refuse(step: int) -> None:
        raise UserError("expected this, got that; do so")

    with pytest.raises(UserError) as error:
        run(tmp_path, execution=replace(EXECUTION, workers=workers), before_batch=refuse)
    error_line(error, "expected this")


@pytest.mark.parametrize(
    "kind, field, value",
    [
        *((TrainingConfig, name, 0) for name in ("steps", "accumulate", "evaluate_every")),
        *((TrainingConfig, "lr", value) for value in (-1.0, math.nan, math.inf)),
        *((TrainingConfig, "max_grad_norm", value) for value in (0, -0.1, math.nan)),
        *((TrainingConfig, "weight_decay", value) for value in (-1, math.inf)),
        (TrainingConfig, "warmup_steps", -1),
        (TrainingConfig, "precision", "fp17"),
        (TrainingConfig, "optimizer", "adam"),
        (TrainingConfig, "ema_decay", 1.0),
        (Execution, "workers", -1),
        (Execution, "checkpoint_every", 0),
        (Execution, "device", "tpu"),
    ],
)
def test_figures_with_which_no_step_can_be_taken_are_one_line(kind, field, value):
    with pytest.raises(UserError) as error:
        kind(**{field: value})
    error_line(error, field, f"{value}")


# --- the same run, however it is cut --------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    first, _ = run(tmp_path / "first")
    again, _ = run(tmp_path / "again")
    other, _ = run(tmp_path / "other", seed=1)
    assert same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("first", "again")]
    assert logs[0] == logs[1]


def test_workers_do_not_change_a_run(tmp_path):
    alone, _ = run(tmp_path / "alone")
    helped, _ = run(tmp_path / "helped", execution=replace(EXECUTION, workers=2))
    assert same(alone, helped)


class PowerCut(Exception):
    """What stands for kill -9 within the process: nothing is saved on the way out."""


@pytest.mark.parametrize("at", [[2], [5], [7], [3, 8, 11]])
def test_a_run_that_was_cut_off_ends_in_the_same_weights(at, tmp_path):
    """Bitwise, with dropout, accumulation, schedule, optimizer, best weights and log."""
    whole, _ = run(tmp_path / "whole")
    for stop in at:

        def cut(step: int, stop: int = stop) -> None:
            if step == stop:
                raise PowerCut

        with pytest.raises(PowerCut):
            run(tmp_path / "cut", before_batch=cut)
    # a step that is resumed must not depend on what the process drew before
    torch.manual_seed(99)
    resumed, _ = run(tmp_path / "cut")
    assert same(whole, resumed)
    for name in ("last", "best"):
        files = [load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "cut")]
        assert same(*files)
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "cut")]
    assert logs[0] == logs[1] and [e["step"] for e in logs[1]] == list(range(1, CONFIG.steps + 1))


def test_a_finished_run_takes_no_step(tmp_path):
    whole, _ = run(tmp_path)
    asked: list[int] = []
    again, _ = run(tmp_path, before_batch=asked.append)
    assert asked == [] and same(whole, again)


def test_dropout_makes_a_run_depend_on_the_seed_of_each_step(tmp_path):
    """Else the tests of resuming would not see whether the step's seed is set."""
    assert not same(run(tmp_path / "a")[0], run(tmp_path / "b", dropout=0.0)[0])


def test_keys_differ_for_each_seed_and_step():
    keys = {derive_seed(seed, step) for seed in range(20) for step in range(1, 200)}
    assert len(keys) == 20 * 199
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert all(0 <= k < 2**64 for k in keys)


def test_batches_can_be_sent_to_a_worker_of_another_start_method():
    """macOS and Windows start workers anew and send them the task."""
    copy = pickle.loads(pickle.dumps(Share(Points(), 1, 0, 2)))
    assert torch.equal(copy[3][1]["x"], Points().batch(3)["x"][4:])


def test_the_best_weights_are_those_of_the_best_score(tmp_path):
    scores = iter([0.2, 0.9, 0.5, 0.9])
    task, seen = Toy(), []

    def score() -> dict[str, float]:
        seen.append(weights(task))
        return {"overall": next(scores)}

    config = replace(CONFIG, steps=4, evaluate_every=1)
    state = fit(task, Points(), config, tmp_path, {}, seed=0, evaluate=score, execution=EXECUTION)
    assert state["best"] == 0.9 and state["step"] == 4
    assert same(load_file(tmp_path / "best" / "model.safetensors"), seen[1])
    assert not same(seen[1], seen[3])


def test_bfloat16_stays_near_float32_and_can_follow_it_in_one_process(tmp_path):
    run(tmp_path / "no", replace(CONFIG, steps=3), dropout=0.0)
    run(tmp_path / "bf16", replace(CONFIG, steps=3, precision="bf16"), dropout=0.0)
    exact, near = (
        [entry["loss"] for entry in read_log(tmp_path / name / "log.jsonl")]
        for name in ("no", "bf16")
    )
    assert near != exact
    assert near == pytest.approx(exact, rel=0.02)
    saved = load_file(tmp_path / "bf16" / "best" / "model.safetensors")
    assert all(x.dtype == torch.float32 for x in saved.values())


# --- the log --------------------------------------------------------------------------------------


def test_the_log_forgets_what_is_past_the_checkpoint_or_cut_in_half(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"other": 1}\n{"step": 4, "lo')
    log = Log(path, 2)
    log.write({"step": 3, "loss": 0.5})
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5}]


def test_a_full_disk_while_the_log_is_written_is_one_line(tmp_path, monkeypatch):
    log = Log(tmp_path / "log.jsonl", 0)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError) as error:
        log.write({"step": 1})
    error_line(error, "log.jsonl", "No space left on device", "resume")


# --- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    whole, _ = run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)

    def press(step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "cut", before_batch=press)
    out = tmp_path / "cut"
    assert str(stopped.value) == (
        f"stopped at step 7 of 12, saved in {out}; go on with: mmlib train --resume {out}"
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint(out / "last")[2]["step"] == 7, "no step of the checkpoint's own"
    assert same(whole, run(out)[0])


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stop_signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert asked
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_fit_runs_outside_the_main_thread(tmp_path):
    """A notebook's or a server's thread may not touch signals."""
    found = {}
    thread = threading.Thread(target=lambda: found.update(run(tmp_path / "thread")[0]))
    thread.start()
    thread.join()
    assert same(found, run(tmp_path / "main")[0])


# --- kill -9, by the command line -----------------------------------------------------------------

# The command line without its report, which takes longer than these runs.
COMMAND = (
    "import sys, mmlib.tasks.scene_run as s; from mmlib.evaluation import accuracy_by_kind; "
    "s.report = lambda *given: {'accuracy': accuracy_by_kind([1], [1], ['x'])['overall'],"
    " 'by_kind': {}, 'controls': {}}; "
    "from mmlib.cli import main; sys.exit(main(sys.argv[1:]))"
)
OPTIONS = (
    "--preset tiny --pictures 4 --questions 2 --steps 60 --workers 2 --dropout 0.2"
    " --accumulate 2 --checkpoint-every 25 --evaluate-every 30 --warmup-steps 5 --seed 3"
).split()


def command(stderr: Path, *arguments: str) -> subprocess.Popen:
    """Start the command line in a process group of its own, as a terminal does."""
    with stderr.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "train", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )


def wait_for_step(run_folder: Path, step: int, process: subprocess.Popen) -> int:
    """Wait until the log shows that step; the step that it shows."""
    log = run_folder / "log.jsonl"
    while True:
        shown = log.read_text().count("\n") if log.exists() else 0
        if shown >= step:
            return shown
        assert process.poll() is None, "the run ended before it could be cut off"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """One run uninterrupted; one killed by -9, resumed, stopped by Ctrl-C, resumed."""
    folder = tmp_path_factory.mktemp("killed")
    whole, cut = folder / "whole", folder / "cut"
    facts: dict = {"whole": whole, "cut": cut}

    uninterrupted = command(folder / "stderr of whole", *OPTIONS, "--out", str(whole))
    process = command(folder / "stderr", *OPTIONS, "--out", str(cut))
    wait_for_step(cut, 30, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    facts["killed at"] = (cut / "log.jsonl").read_text().count("\n")
    facts["kept"] = read_checkpoint(cut / "last")[2]["step"]

    process = command(folder / "stderr", "--resume", str(cut))
    wait_for_step(cut, 34, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    facts["code"] = process.wait()
    facts["stderr"] = (folder / "stderr").read_text()
    facts["stopped at"] = read_checkpoint(cut / "last")[2]["step"]

    assert command(folder / "stderr", "--resume", str(cut)).wait() == 0
    assert uninterrupted.wait() == 0
    return facts


def test_kill_9_in_mid_epoch_then_resume_is_bitwise_the_uninterrupted_run(killed):
    """By the command line, with two workers, dropout and accumulation."""
    assert killed["kept"] == 25 < 30 <= killed["killed at"] < 50, "cut between two checkpoints"
    for name in ("last", "best"):
        files = [load_file(killed[run] / name / "model.safetensors") for run in ("whole", "cut")]
        assert same(*files)
    names = list(load_file(killed["cut"] / "last" / "model.safetensors"))
    assert any("optimizer" in name for name in names)


def test_the_log_of_a_killed_run_holds_each_step_once(killed):
    whole, cut = (read_log(killed[run] / "log.jsonl") for run in ("whole", "cut"))
    assert [entry["step"] for entry in cut] == list(range(1, 61))
    assert whole == cut


def test_ctrl_c_on_the_command_line_is_one_line(killed):
    assert killed["code"] == 130
    assert 34 <= killed["stopped at"] < 60
    assert killed["stderr"] == (
        f"mmlib: stopped at step {killed['stopped at']} of 60, saved in {killed['cut']}; "
        f"go on with: mmlib train --resume {killed['cut']}\n"
    )


def test_the_recipe_of_a_run_folder_is_the_options(killed):
    recipe = json.loads((killed["cut"] / "recipe.json").read_text())
    assert (recipe["seed"], recipe["dropout"]) == (3, 0.2)
    assert recipe["training"]["accumulate"] == 2
    assert json.loads((killed["cut"] / "report.json").read_text())["recipe"] == recipe
