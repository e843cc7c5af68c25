"""Chapter 05's pairs: a picture of one thing above another, and the five words that say so."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlib.data.scenes import COLORS, SHAPES, Scene, Thing, render

VOCABULARY = (*COLORS, *SHAPES, "above")
GROUND = 240


def drawn_pairs(N: int, seed: int) -> tuple[list[Scene], Tensor, Tensor]:
    """N scenes with their pictures [N, 768] and captions [N, 5], indices of VOCABULARY.

    A caption is color, shape, "above", color, shape, and the two colors differ. A picture is
    16 × 16 colors in a row, float64, shifted by their mean and divided by 64.
    """
    random = np.random.default_rng(seed)
    scenes, captions = [], []
    for _ in range(N):
        colors = random.choice(len(COLORS), 2, replace=False)
        shapes = random.integers(len(SHAPES), size=2)
        xs = random.integers(20, 45, 2)
        ys = random.integers((12, 44), (20, 52))  # the first is above
        places = zip(colors, shapes, xs, ys, strict=True)
        things = tuple(Thing(int(c), int(s), 1, int(x), int(y)) for c, s, x, y in places)
        scenes.append(Scene(things, GROUND))
        (c1, c2), (s1, s2) = colors.tolist(), (len(COLORS) + shapes).tolist()
        captions.append([c1, s1, len(VOCABULARY) - 1, c2, s2])
    pictures = torch.tensor(np.stack([render(scene) for scene in scenes])).double()
    pictures = F.avg_pool2d(pictures.permute(0, 3, 1, 2), 4).flatten(1)
    return scenes, (pictures - pictures.mean()) / 64, torch.tensor(captions)
