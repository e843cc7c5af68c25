"""Checkpoints: one safetensors file, written whole or not at all; no pickle is ever loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmlib.errors import expected
from mmlib.files import write_whole

OPTIMIZER = "training.optimizer."


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: Any = None,
    recipe: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write folder/model.safetensors: the weights and, where given, what resuming needs.

    The file is written beside the old one and then takes its name, so that a crash or a full disk
    leaves the old one whole. Raises UserError where there is no room.
    """
    tensors = {name: x.detach().cpu().contiguous() for name, x in module.state_dict().items()}
    if optimizer is not None:
        for number, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"{OPTIMIZER}{number}.{name}"] = value.detach().cpu().contiguous()
    metadata = {"recipe": json.dumps(recipe or {}), "state": json.dumps(state or {})}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    write_whole(path, save(tensors, metadata))


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """(tensors by name, recipe, state) of folder/model.safetensors.

    Raises UserError where it is missing, cut off, or another kind of file (a pickle, say).
    """
    path = folder / "model.safetensors"
    if not path.exists():
        raise expected(f"a checkpoint {path}", "no such file", "name the folder of a run")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise expected(
            f"a whole safetensors file in {path}", f"'{error}'",
            "it is cut off or of another kind (no pickle is ever loaded): copy it anew",
        ) from error  # fmt: skip
    return (
        tensors,
        json.loads(metadata.get("recipe", "{}")),
        json.loads(metadata.get("state", "{}")),
    )


def load_weights(folder: Path, module: nn.Module) -> dict[str, Any]:
    """Load the weights of a checkpoint into `module`, every name and shape; returns its recipe.

    Raises UserError where a name or a shape does not fit.
    """
    tensors, recipe, _ = read_checkpoint(folder)
    _fill(module, {n: x for n, x in tensors.items() if not n.startswith("training.")}, folder)
    return recipe


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Load weights and optimiser to go on with a run; returns its state.

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
    _fill(module, {n: x for n, x in tensors.items() if not n.startswith(OPTIMIZER)}, folder)
    values: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        if name.startswith(OPTIMIZER):
            number, field = name.removeprefix(OPTIMIZER).split(".")
            values.setdefault(int(number), {})[field] = x
    optimizer.load_state_dict({**optimizer.state_dict(), "state": values})
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
