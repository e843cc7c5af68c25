"""What a planted fault showed that no other test would see, or not within a second."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from strategies import error_line
from toy import CONFIG, EXECUTION, Points, Toy, run

from mmlib.errors import UserError
from mmlib.training.fit import fit


class Drawing(Toy):
    """Notes one random number a microbatch, as dropout would draw it."""

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.drawn: list[float] = []

    def forward(self, batch):
        self.drawn.append(torch.rand(()).item())
        return super().forward(batch)


def test_each_step_draws_its_own_random_numbers(tmp_path):
    """Keyed by the seed alone a run resumes bitwise too, with one dropout mask for all steps."""
    drawn = []
    for seed in (0, 1):
        task = Drawing(seed)
        fit(task, Points(seed), CONFIG, tmp_path / str(seed), {}, seed=seed, execution=EXECUTION)
        drawn += task.drawn
    assert len(drawn) == len(set(drawn)) == 2 * CONFIG.steps * CONFIG.accumulate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The tensors and notes of a toy's finished run."""
    run(out := tmp_path_factory.mktemp("toy"))
    with safe_open(out / "last" / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize(
    "state",
    [
        {}, {"step": 3}, {"step": "3", "best": 0.5, "seconds": 1.0},
        {"step": True, "best": 0.5, "seconds": 1.0}, {"step": -1, "best": 0.5, "seconds": 1.0},
        {"step": 13, "best": 0.5, "seconds": 1.0}, {"step": 3, "best": None, "seconds": 1.0},
        {"step": 3, "best": 0.5, "seconds": "1"}, {"step": 3.0, "best": 0.5, "seconds": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_notes_of_the_wrong_type_are_one_line(state, checkpoint, tmp_path):
    tensors, notes = checkpoint
    (tmp_path / "last").mkdir()
    path = tmp_path / "last" / "model.safetensors"
    save_file(tensors, path, notes | {"state": json.dumps(state)})
    with pytest.raises(UserError) as error:
        run(tmp_path)
    error_line(error, "step (0 to 12), best and seconds", str(tmp_path / "last"))
    assert not (tmp_path / "log.jsonl").exists()
