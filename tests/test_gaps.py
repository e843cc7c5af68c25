"""What a planted fault showed that no other test would see, or not within a second."""

from dataclasses import replace

import torch
from toy import HOW, Toy

from mmlib.training.fit import fit


class Drawing(Toy):
    """Notes one random number a step, as dropout would draw it."""

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.drawn: list[float] = []

    def losses(self, batch):
        self.drawn.append(torch.rand(()).item())
        return super().losses(batch)


def test_each_step_draws_its_own_random_numbers(tmp_path):
    """Keyed by the seed alone a run resumes bitwise too, with one dropout mask for all steps."""
    drawn = []
    for seed in (0, 1):
        task = Drawing(seed)
        fit(task, replace(HOW, accumulate=1), tmp_path / str(seed), {})
        drawn += task.drawn
    assert len(drawn) == len(set(drawn)) == 2 * HOW.steps
