"""What a planted fault showed that no other test would see, or not within a second."""

from dataclasses import replace
from pathlib import Path

import torch
from toy import HOW, Toy

from mmlib.data.table import Row, Table
from mmlib.evaluation.report import sentence
from mmlib.tasks.cross_validation import CrossValidation, TableRecipe, split
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


RECIPE = TableRecipe("paintings.csv", "picture", "text", "label", "name")


def test_folds_divide_the_rows_and_never_a_group():
    rows = [Row(i + 2, None, f"text {i}", "ab"[i % 2], f"group {i // 3}") for i in range(60)]
    tested = []
    for train_rows, test_rows in split(Table(Path("paintings.csv"), tuple(rows), ()), RECIPE):
        seen = {rows[i].group for i in train_rows}
        assert not seen & {rows[i].group for i in test_rows}
        tested += test_rows.tolist()
    assert sorted(tested) == list(range(60))


def test_the_control_exchanges_pictures_among_the_test_rows(monkeypatch):
    """The texts stay in their rows; each picture is that of one test row, few of their own."""
    asked = []

    def answer(model, shown, rows, pictures_of=None):
        asked.append((rows, pictures_of))
        return rows

    validation = CrossValidation(RECIPE, None, None, torch.arange(200) % 2, 2, Path("log"))
    monkeypatch.setattr(validation, "fit", lambda *given: None)
    monkeypatch.setattr(validation, "probe", lambda *given: None)
    monkeypatch.setattr(validation, "answer", answer)
    test_rows = torch.arange(100, 200)
    validation.fold(0, torch.arange(100), test_rows, lambda: None)
    assert all(torch.equal(rows, test_rows) for rows, _ in asked)
    (pictures,) = [pictures for _, pictures in asked if pictures is not None]
    assert torch.equal(pictures.sort().values, test_rows)
    assert (pictures == test_rows).sum() < 10  # one is expected to keep its own


def test_a_gain_whose_interval_holds_zero_is_no_help():
    both, gain = [0.8, 0.7, 0.9, 0.6, 0.85], [0.10, -0.08, 0.06, -0.05, 0.04]
    text = [b - g for b, g in zip(both, gain, strict=True)]
    image = [b - 0.3 - g for b, g in zip(both, gain, strict=True)]
    assert sum(gain) > 0
    found = sentence(both, {"the picture alone": image, "the text alone": text})
    assert found.startswith("Fusion does not help by an amount we can tell:")
    assert "over the text alone" in found and "over the picture alone" not in found
