"""Two processes train one model: gradients, files and interruptions are those of one process."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toy import CONFIG, EXECUTION, Points, Toy

from mmlib.training.fit import fit
from mmlib.training.run_folder import read_log

ROOT = Path(__file__).resolve().parents[1]

# Trains a toy into sys.argv[1] until step argv[2], by two microbatches a process.
SCRIPT = """
import sys
sys.path[:0] = ["tests", "."]
from test_processes import train

train(sys.argv[1], int(sys.argv[2]), accumulate=2)
"""


class PowerCut(Exception):
    """What stands for kill -9."""


def train(out: Path, stop: int, accumulate: int) -> None:
    """Six steps of a toy in this process, or one of several; the power goes at step `stop`."""

    def cut(step: int) -> None:
        if step == stop:
            raise PowerCut

    config, task = replace(CONFIG, steps=6, accumulate=accumulate, ema_decay=0.9), Toy()
    with suppress(PowerCut):
        fit(
            task, Points(before_batch=cut), config, Path(out), {}, seed=0, evaluate=task.score,
            execution=EXECUTION,
        )  # fmt: skip


def train_on_two(out: Path, stop: int) -> None:
    """The same on two processes, as torchrun starts them.

    (`accelerate launch` does the same on GPUs; on CPUs it starts several processes only by MPI.)
    """
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, str(out), str(stop)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def close(a, b, tolerance: float) -> bool:
    return a.keys() == b.keys() and all(
        (a[n] - b[n]).abs().max() <= tolerance * (1 + b[n].abs().max()) for n in a
    )


def weights(out: Path, name: str = "last"):
    return load_file(out / name / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process with four microbatches; two with two each; two, cut off, then one."""
    folder = tmp_path_factory.mktemp("processes")
    train(folder / "one", stop=99, accumulate=4)
    train_on_two(folder / "two", stop=99)
    train_on_two(folder / "cut", stop=5)
    cut = weights(folder / "cut")
    train(folder / "cut", stop=99, accumulate=4)
    return folder, cut


def test_two_processes_train_the_model_that_one_trains(runs):
    """To 1e-6: weights, AdamW's moments of the gradient, the running mean; with dropout, which
    belongs to the microbatch, whoever computes it."""
    folder, _ = runs
    for name in ("last", "best"):
        assert close(weights(folder / "two", name), weights(folder / "one", name), 1e-6)
    assert any("exp_avg" in name for name in weights(folder / "two"))


def test_one_process_writes_and_both_measure_the_same(runs):
    folder, _ = runs
    one, two = (read_log(folder / name / "log.jsonl") for name in ("one", "two"))
    assert [e["step"] for e in two] == list(range(1, 7))
    assert [e["loss"] for e in two] == pytest.approx([e["loss"] for e in one], rel=1e-6)
    assert [e.get("score") for e in two] == [e.get("score") for e in one]


def test_a_run_cut_off_on_two_goes_on_on_one(runs):
    folder, cut = runs
    resumed, whole = weights(folder / "cut"), weights(folder / "one")
    assert not close(cut, whole, 1e-6), "it was cut off before its end"
    assert close(resumed, whole, 1e-6)
    assert [e["step"] for e in read_log(folder / "cut" / "log.jsonl")] == list(range(1, 7))
