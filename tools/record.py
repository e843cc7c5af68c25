"""Run a long experiment piece by piece and write its record.

    python -m tools.record NAME [UNIT …] [OPTION=VALUE …]

tools/records/NAME.py holds UNITS, {unit: function(folder) -> JSON values}, and summarize({unit:
values}) -> the record. A finished unit is kept in runs/records/NAME/UNIT.json, so a run that was
cut off goes on with the next one (and a unit that trains goes on within its folder). Named units
alone are run where some are named, and OPTIONS, where a record has them ({name: default}), are
passed to each; the record is written when all are there. Until then the
finished units also stand in book/results/partial/NAME.json, which can be committed: another machine
goes on from it.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def versions() -> dict[str, str]:
    """What the figures depend on, besides the code."""
    import numpy
    import PIL
    import torch
    import transformers

    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
        "transformers": transformers.__version__, "pillow": PIL.__version__,
    }  # fmt: skip


def device() -> str:
    """Where the runs of this process train: the name of the GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def options(record: Any, given: list[str]) -> dict[str, float]:
    """The OPTIONS of a record, as changed by NAME=VALUE; one line where that is none of them."""
    values = dict(getattr(record, "OPTIONS", {}))
    for argument in given:
        name, _, text = argument.partition("=")
        try:
            values[name] = type(values[name])(text)
        except (KeyError, ValueError):
            known = ", ".join(f"{n}=NUMBER" for n in values) or "no options for this record"
            raise SystemExit(f"expected {known}, got '{argument}'; correct it") from None
    return values


def load(name: str) -> Any:
    """The module tools/records/NAME.py."""
    path = ROOT / "tools" / "records" / f"{name}.py"
    known = sorted(p.stem for p in (ROOT / "tools" / "records").glob("[a-z]*.py"))
    if name not in known:
        raise SystemExit(f"expected a record of {', '.join(known)}, got '{name}'; choose one")
    spec = importlib.util.spec_from_file_location(f"records.{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


def main(name: str, wanted: list[str]) -> None:
    """Run what is missing of the record NAME; write book/results/NAME.json when all is there."""
    from mmlib.files import write_whole

    record = load(name)
    chosen = options(record, [argument for argument in wanted if "=" in argument])
    wanted = [argument for argument in wanted if "=" not in argument]
    partial = ROOT / "book" / "results" / "partial" / f"{name}.json"
    unknown = set(wanted) - set(record.UNITS)
    if unknown:
        raise SystemExit(
            f"expected units of {', '.join(record.UNITS)}, got {', '.join(unknown)}; choose some"
        )
    folder = ROOT / "runs" / "records" / name
    folder.mkdir(parents=True, exist_ok=True)
    if partial.exists():
        for unit, values in json.loads(partial.read_text("utf8")).items():
            if not (folder / f"{unit}.json").exists():
                write_whole(folder / f"{unit}.json", json.dumps(values, indent=1).encode())
    for unit in wanted or record.UNITS:
        path = folder / f"{unit}.json"
        if path.exists():
            continue
        print(f"{name}: {unit}", flush=True)
        start = time.monotonic()
        values = record.UNITS[unit](folder / unit, **chosen)
        values.setdefault("seconds", round(time.monotonic() - start, 1))
        write_whole(path, json.dumps(values, indent=1).encode())
    done = [unit for unit in record.UNITS if (folder / f"{unit}.json").exists()]
    units = {unit: json.loads((folder / f"{unit}.json").read_text("utf8")) for unit in done}
    missing = [unit for unit in record.UNITS if unit not in units]
    if missing:
        partial.parent.mkdir(parents=True, exist_ok=True)
        write_whole(partial, (json.dumps(units, indent=1) + "\n").encode())
        print(f"{name}: not yet done: {', '.join(missing)}")
        return
    result = {
        "command": f"make record NAME={name}", "date": date.today().isoformat(),
        "versions": versions(), "device": device(),
        "seconds": round(sum(values["seconds"] for values in units.values()), 1),
        **record.summarize(units),
    }  # fmt: skip
    path = ROOT / "book" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    partial.unlink(missing_ok=True)
    print(f"{name}: written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("expected the name of a record, got none; see tools/records")
    main(sys.argv[1], sys.argv[2:])
