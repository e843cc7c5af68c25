"""Checkpoints: one safetensors file, written whole or not at all; no pickle is ever loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.files import write_whole

TRAINING = "training."  # what only resuming needs: optimizer0.3.exp_avg, mean.model.head.weight


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    recipe: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    mean: Mapping[str, Tensor] | None = None,
) -> None:
    """Write folder/model.safetensors: the weights and, where given, what resuming needs.

    A tensor that stands under several names (a head tied to its embeddings) is written once, the
    other names beside it. The file is written beside the old one and then takes its name, so that a
    crash or a full disk leaves the old one whole. Raises UserError where there is no room.
    """
    tensors, tied = _once(module.state_dict())
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"{TRAINING}optimizer{number}.{index}.{name}"] = value
    for name, value in (mean or {}).items():
        tensors[f"{TRAINING}mean.{name}"] = value
    metadata = {"recipe": recipe or {}, "state": state or {}, "tied": tied}
    whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    text = {name: json.dumps(value) for name, value in metadata.items()}
    write_whole(folder / "model.safetensors", save(whole, text))


def _once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(each tensor under its first name, {further name: first name})."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, x in state.items():
        place = (x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride())
        if x.numel() and place in first:
            tied[name] = first[place]
        else:
            first[place] = name
            tensors[name] = x
    return tensors, tied


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """(tensors by name, recipe, state) of folder/model.safetensors; tied names are all there.

    Raises UserError where it is missing, cut off, or another kind of file (a pickle, say).
    """
    path = folder / "model.safetensors"
    if not path.exists():
        raise expected(f"a checkpoint {path}", "no such file", "name the folder of a run")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = [json.loads(metadata.get(name, "{}")) for name in ("recipe", "state", "tied")]
        if not all(isinstance(note, dict) for note in notes):
            raise TypeError("a note that is no JSON object")
        recipe, state, tied = notes
        tensors |= {name: tensors[first] for name, first in tied.items()}
    except SafetensorError as error:
        raise expected(
            f"a whole safetensors file in {path}", f"'{error}'",
            "it is cut off or of another kind (no pickle is ever loaded): copy it anew",
        ) from error  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise expected(
            f"the notes of a run in {path}", f"'{error}'",
            "it was not written by mmlib: copy it anew",
        ) from error  # fmt: skip
    return tensors, recipe, state


def load_weights(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Load the weights of a checkpoint into `module`, every name and shape; returns its recipe.

    Raises UserError where a name or a shape does not fit.
    """
    tensors, recipe, _ = read_checkpoint(folder)
    _fill(module, {n: x for n, x in tensors.items() if not n.startswith(TRAINING)}, folder)
    return recipe


def load_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    recipe: Mapping[str, Any],
    mean: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Load weights, optimizers and `mean` to go on with a run; returns its state.

    Raises UserError where the checkpoint was made from another recipe.
    """
    tensors, saved, state = read_checkpoint(folder)
    if saved != dict(recipe):
        different = [n for n in {**saved, **recipe} if saved.get(n) != recipe.get(n)]
        raise expected(
            "a checkpoint of the same recipe",
            f"another {', '.join(sorted(different))} in {folder}",
            "resume with the run's own recipe, or choose a new --out",
        )
    kept = {n.removeprefix(TRAINING): x for n, x in tensors.items() if n.startswith(TRAINING)}
    _fill(module, {n: x for n, x in tensors.items() if not n.startswith(TRAINING)}, folder)
    for number, optimizer in enumerate(optimizers):
        values: dict[int, dict[str, Tensor]] = {}
        for name, x in kept.items():
            part, _, rest = name.partition(".")
            if part == f"optimizer{number}":
                index, field = rest.split(".")
                values.setdefault(int(index), {})[field] = x
        optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
    for name, value in (mean or {}).items():
        value.copy_(kept[f"mean.{name}"])
    return state


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise expected(
            f"weights of this {type(module).__name__} in {folder}", reason[:200],
            "build the model from the run's own recipe.json",
        ) from error  # fmt: skip
