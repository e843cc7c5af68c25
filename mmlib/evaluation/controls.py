"""What a score stands beside: models that see less, and inputs that belong to other rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmlib.errors import expected


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


def contents(inputs: Sequence[Any]) -> Tensor:
    """Numbers [N] from 0 that tell inputs apart: two are equal where the inputs are.

    Pictures (Pillow's, arrays, tensors) are compared by what they show, all else by ==; a thing
    that cannot be hashed is equal to itself alone. Numbers rise in the order of first occurrence.
    """
    seen: dict[Hashable, int] = {}
    return torch.tensor([seen.setdefault(_key(x), len(seen)) for x in inputs], dtype=torch.long)


def _key(x: Any) -> Hashable:
    if isinstance(x, Image.Image):
        return "picture", x.mode, x.size, x.tobytes()
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray):
        return "array", x.dtype.str, x.shape, x.tobytes()
    try:
        hash(x)
    except TypeError:
        return "id", id(x)
    return "value", x


def blank_picture(images: Sequence[Any]) -> Any:
    """A picture that shows nothing: the mean color of all of them, in the form of the first.

    images are Pillow's, or arrays or tensors of one shape, [H, W, 3] or [3, H, W] say; of arrays
    the blank holds for each channel (the axis of length 1, 3 or 4, the last or else the first) its
    mean. Raises UserError for other things, for which nobody knows what blank means.
    """
    first = images[0]
    if isinstance(first, Image.Image):
        means = [np.asarray(x.convert("RGB")).reshape(-1, 3).mean(0) for x in images]
        color = tuple(int(c) for c in np.mean(means, 0).round())
        return Image.new("RGB", first.size, color).convert(first.mode)
    if isinstance(first, np.ndarray | Tensor) and {np.shape(x) for x in images} == {first.shape}:
        shape = tuple(first.shape)
        at = next((a for a in (-1, 0) if shape and shape[a] in (1, 3, 4)), None)
        total = np.mean([np.asarray(x, dtype=float) for x in images], 0)
        if at is not None:
            other = tuple(axis for axis in range(len(shape)) if axis != at % len(shape))
            total = np.broadcast_to(total.mean(other, keepdims=True), shape)
        else:
            total = np.full(shape, total.mean())
        if isinstance(first, Tensor):
            return torch.from_numpy(np.array(total)).to(first)
        return total.astype(first.dtype)
    raise expected(
        "pictures as Pillow's, or arrays of one shape", type(first).__name__, "pass blank_image"
    )
