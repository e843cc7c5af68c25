"""What the book asks of a machine, and how large the model is that comes with it.

*disk*: the files of the environment that runs this (`make setup weights`), what of it is there for
NVIDIA's GPUs alone, and the environment of the site (`make book`, which must have been called).
*model*: the parameters of the trained `small` as it answers, and the answers it chooses from.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from mmlib.data.scenes import ANSWERS
from mmlib.tasks.small import load_small

ROOT = Path(__file__).resolve().parents[2]
CUDA = ("nvidia*", "cuda*", "triton*", "torch/lib/*cuda*", "torch/lib/libtorch_nvshmem*")


def size(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def disk(folder: Path) -> dict[str, Any]:
    packages = Path(sysconfig.get_paths()["purelib"])
    everything = size(Path(sys.prefix))
    for_gpus = sum(size(path) for pattern in CUDA for path in packages.glob(pattern))
    return {
        "with_cuda": everything,
        "without_cuda": everything - for_gpus,
        "site": size(ROOT / ".venv-book"),
    }


def model(folder: Path) -> dict[str, Any]:
    small = load_small().model
    return {"parameters": sum(p.numel() for p in small.parameters()), "answers": len(ANSWERS)}


UNITS = {"disk": disk, "model": model}


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    kept = {name: {k: v for k, v in unit.items() if k != "seconds"} for name, unit in units.items()}
    return {"title": "What the book needs, and how large its model is", **kept}
