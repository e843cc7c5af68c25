"""What a score stands beside: models that see less, and inputs that belong to other rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shown_sets(modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{name: modalities that a model is shown}, from the names of the modalities alone.

    "all"; "only_M" for each; with three or more also "without_M" for each, which would say the same
    as "only_" of the other where there are two.
    """
    every = tuple(modalities)
    sets = {"all": every, **{f"only_{name}": (name,) for name in every}}
    if len(every) > 2:
        for name in every:
            sets[f"without_{name}"] = tuple(other for other in every if other != name)
    return sets


def derangement(content: Tensor, seed: int) -> Tensor:
    """A permutation [N] that gives each row the content of another: content[p[i]] ≠ content[i].

    content [N] tells equal inputs by equal numbers. All rows are exchanged, whatever their labels.
    Where one content fills more than half of the rows it cannot go elsewhere for all of them: then
    as few rows as possible keep it, 2 · its rows − N. Every row is used once, so each content stays
    as frequent as it was.

    Rows are laid out by content, both in random order, and moved on by the largest content's rows.
    Source: chapter 09.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(content), generator=generator)
    _, number = content[shuffled].unique(return_inverse=True)
    blocks = int(number.max()) + 1 if len(content) else 0
    order = torch.randperm(blocks, generator=generator)[number].argsort(stable=True)
    rows = shuffled[order]
    largest = int(number.bincount().max()) if len(content) else 0
    exchanged = torch.empty_like(rows)
    exchanged[rows] = rows.roll(-largest)
    return exchanged
