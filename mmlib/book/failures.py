"""Chapter 09: the smallest world in which fusion fails, and trainings of a second in it.

A picture shows the four shapes once each, red or blue; a question asks for the color of one of
them. Circles and squares have the habit of being red, triangles and stars of being blue. It is the
task *reference* of chapter 04 with other weights, so scores over all inputs are exact, and scenes
drawn from it are asked as `certify` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mmlib.book.symbolic_model import SymbolicModel, expected_loss
from mmlib.book.symbols import SymbolicTask, reference
from mmlib.data.scenes import COLORS, SHAPES, Scene, sample_scene
from mmlib.errors import expected
from mmlib.tokens import Tokens

CLASSES = ("red", "blue")
HABIT = tuple(CLASSES.index(color) for color in ("red", "red", "blue", "blue"))  # by SHAPES
EMPTY = Scene((), 237)
GRAIN = 16
_COLOR = tuple(tuple(COLORS).index(color) for color in CLASSES)


def usual(text: str) -> str:
    """The color that the shape, the last word of the question, usually has."""
    return CLASSES[HABIT[SHAPES.index(text.split(" ")[-1])]]


def four_things(count: int, habit: float, seed: int) -> list[Scene]:
    """Scenes of the four shapes, each of its usual color with probability `habit`.

    Raises UserError where habit is no probability.
    """
    _checked(habit)
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(count):
        drawn = sample_scene(rng, (4, 4))
        keeps, order = rng.random(4) < habit, rng.permutation(4)
        colors = [_COLOR[HABIT[s] if k else 1 - HABIT[s]] for s, k in enumerate(keeps)]
        things = tuple(
            replace(thing, shape=int(s), color=colors[s])
            for thing, s in zip(drawn.things, order, strict=True)
        )
        scenes.append(replace(drawn, things=things))
    return scenes


def asked(scenes: Sequence[Scene], seed: int) -> dict[str, list]:
    """One question a scene, as the arguments texts, images, labels [N] of `certify`."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(4, size=len(scenes)).tolist()
    labels = [
        next(CLASSES[_COLOR.index(t.color)] for t in scene.things if t.shape == shape)
        for scene, shape in zip(scenes, shapes, strict=True)
    ]
    texts = [f"what color is the {SHAPES[shape]}" for shape in shapes]
    return {"texts": texts, "images": list(scenes), "labels": labels}


def habit_task(habit: float) -> SymbolicTask:
    """All 4 questions on all 16 pictures, each pair with its probability under the habit.

    Symbol k is SHAPES[k]; answer 0 is red, 1 blue. At 0.5 it is `reference`, whose weights are all
    equal. Raises UserError where habit is no probability.
    """
    _checked(habit)
    task = reference()
    kept = torch.tensor(HABIT)[:, None] == task.answer  # [4, 16]
    each = kept.double().mul(2 * habit - 1).add(1 - habit).prod(0)
    return replace(task, name="habit", weight=(each / 4).expand(4, -1).contiguous())


def train(
    task: SymbolicTask, steps: int = 300, seed: int = 0, fusion: str = "merged", d: int = 16
) -> SymbolicModel:
    """A model of the task, trained on its exact expected loss; one thread, the same each time."""
    torch.manual_seed(seed)
    model = SymbolicModel(task, fusion, d)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = expected_loss(model(*task.pairs()), task)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def strangers(count: int, seed: int) -> SymbolicTask:
    """4 questions on `count` pictures whose answers are coin flips: nothing can be learned of them
    but by heart. A picture is one cell of GRAIN random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    pictures = torch.randn(count, 1, GRAIN, generator=rng)
    flips = torch.randint(2, (4, count), generator=rng)
    even = torch.full((4, count), 1 / (4 * count), dtype=torch.float64)
    asks = "a coin flip for each shape and picture"
    return SymbolicTask("strangers", asks, reference().texts, pictures, flips, even)


def copies(task: SymbolicTask, noise: float = 0.1) -> SymbolicTask:
    """The task on near-copies of its pictures, as another compression of the files would be."""
    rng = torch.Generator().manual_seed(len(task.pictures))
    blurred = task.pictures + noise * torch.randn(task.pictures.shape, generator=rng)
    return replace(task, pictures=blurred)


def rows_of(task: SymbolicTask, names: Sequence[str] = CLASSES) -> dict[str, list]:
    """Each question on each picture as the arguments of `certify`; a picture is its cells."""
    T, P = task.answer.shape
    asked = [(t, p) for p in range(P) for t in range(T)]
    return {
        "texts": [f"{SHAPES[t]}" for t, _ in asked],
        "images": [task.pictures[p] for _, p in asked],
        "labels": [names[int(task.answer[t, p])] for t, p in asked],
    }


def answers(model: nn.Module, scale: float = 1.0) -> Callable[[Sequence[str], Sequence], Tensor]:
    """The model as `certify` asks: questions and pictures → p [n, 2] of CLASSES.

    A picture is a scene, whose cells are multiplied by scale before the model sees them, or its
    cells themselves. A text without a shape, and a shape that the scene lacks, are zeros.
    """
    words_of = reference().texts

    def answer(texts: Sequence[str], pictures: Sequence) -> Tensor:
        words = torch.stack([_words(words_of, text) for text in texts])
        cells = [x if isinstance(x, Tensor) else scale * _cells(x) for x in pictures]
        with torch.no_grad():
            logits = model(Tokens.all_visible(words), Tokens.all_visible(torch.stack(cells)))
        return logits.softmax(-1)

    return answer


def _words(words_of: Tensor, text: str) -> Tensor:
    named = text.split(" ")[-1]
    return words_of[SHAPES.index(named)] if named in SHAPES else torch.zeros_like(words_of[0])


def _cells(scene: Scene) -> Tensor:
    """[4, 6]: of each shape, one-hot shape and one-hot color, as `reference` writes a cell."""
    cells = torch.zeros(4, 6)
    for thing in scene.things:
        cells[thing.shape, thing.shape] = 1
        cells[thing.shape, 4 + _COLOR.index(thing.color)] = 1
    return cells


def _checked(habit: float) -> None:
    if not 0 <= habit <= 1:
        raise expected("a probability from 0 to 1", habit, "pass habit=0.9")
