"""What was computed once, kept in files that appear whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mmlib.files import write_whole

SHARD = 64  # rows a file: one file a row would be thousands, one for all would be lost in a crash


def digest(*parts: str) -> str:
    """A file's name for what these words decide; words are kept apart, so no two lists agree."""
    return hashlib.sha256("\0".join([str(len(p)) + ":" + p for p in parts]).encode()).hexdigest()[
        :32
    ]


def cached(
    folder: Path,
    key: Sequence[str],
    compute: Callable[[], dict[str, Tensor]],
    fits: Callable[[dict[str, Tensor]], bool] = bool,
) -> dict[str, Tensor]:
    """What `compute` gives, from the file in `folder` that an earlier call with this key wrote.

    One that was damaged later, or of whose content `fits` is False, is computed again.
    """
    file = folder / f"{digest(*key)}.safetensors"
    if file.is_file():
        try:
            if fits(found := load_file(file)):
                return found
        except SafetensorError:
            pass
    tensors = {name: value.contiguous() for name, value in compute().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(tensors))
    return tensors


def cached_rows(
    folder: Path, keys: Sequence[str], compute: Callable[[list[int]], Sequence[Tensor]]
) -> list[Tensor]:
    """The tensor of each key [*], from the shards in `folder` or from `compute`.

    Shards hold tensors by the digest of their key, so what is kept does not depend on its
    neighbors: with rows added or taken away, only what no shard holds is computed. `compute` gets
    the positions of up to `SHARD` lacking keys, in the order of `keys`, and its tensors are the
    next shard. Shards that were damaged are deleted, and their rows computed again.
    """
    names = [digest(key) for key in keys]
    found = _stored(folder, set(names))
    lacking = list(dict.fromkeys(name for name in names if name not in found))
    place = {name: number for number, name in enumerate(names)}
    for start in range(0, len(lacking), SHARD):
        shard = lacking[start : start + SHARD]
        tensors = compute([place[name] for name in shard])
        new = {name: x.contiguous() for name, x in zip(shard, tensors, strict=True)}
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{digest(*shard)}.safetensors", save(new))
        found |= new
    return [found[name] for name in names]


def _stored(folder: Path, wanted: set[str]) -> dict[str, Tensor]:
    """The tensors of these names in the shards of a folder."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as shard:
                for name in wanted.intersection(shard.keys()):
                    found[name] = shard.get_tensor(name)
        except SafetensorError:
            path.unlink()
    return found
