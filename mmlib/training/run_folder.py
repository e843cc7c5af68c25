"""The run folder: recipe.json, log.jsonl, best/, last/, report.json, and who may write them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmlib.errors import expected
from mmlib.files import make_folder, unwritable, write_whole
from mmlib.training.recipe import Recipe


class RunFolder:
    """The files of one run, by name; nothing is made or read before it is asked for."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.recipe, self.report = self.path / "recipe.json", self.path / "report.json"
        self.log, self.best, self.last = (self.path / n for n in ("log.jsonl", "best", "last"))

    @contextmanager
    def claimed(self, recipe: Recipe, writes: bool = True) -> Iterator[None]:
        """The folder is this recipe's run, and this process alone writes to it, within the block.

        A new folder gets recipe.json. Where several processes train together, writes is True for
        the one that writes, and the others only look whether the recipe fits. Raises UserError
        where it holds a run of another recipe, another process is at work in it, nothing may be
        written there, or its name is not UTF-8.
        """
        self._refuse_name()
        self._refuse_another(recipe)
        if not writes:
            yield
            return
        make_folder(self.path)
        lock = FileLock(self.path / ".lock")  # the system's own: kill -9 gives it back
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise expected(
                f"{self.path} to oneself", "another process that trains in it",
                "wait for its end, or choose another --out",
            ) from None  # fmt: skip
        except OSError as error:
            raise unwritable("a run", self.path, error) from error
        with lock:
            self._refuse_another(recipe)  # written by a process that has ended in between
            write_whole(self.recipe, _lines(recipe.to_json()))
            yield

    def _refuse_name(self) -> None:
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # safetensors would write its weights there, and not read them
            raise expected(
                "a folder whose name is UTF-8", ascii(str(self.path)), "choose another --out"
            ) from None

    def _refuse_another(self, recipe: Recipe) -> None:
        if not self.recipe.exists():
            return
        saved, new = self.read_recipe(), recipe.to_json()
        if differs := sorted(name for name in {**saved, **new} if saved.get(name) != new.get(name)):
            raise expected(
                f"a folder for this recipe in {self.path}",
                f"a run with another {', '.join(differs)}",
                "choose a new --out, or go on with the old run by --resume",
            )

    def read_recipe(self) -> dict[str, Any]:
        """The JSON of recipe.json. Raises UserError where there is none, or it is none."""
        return _object(self.recipe, "a run folder with", "name the --out of a run")

    def read_report(self) -> dict[str, Any]:
        """The JSON of report.json. Raises UserError where the run has none yet, or it is none."""
        remedy = f"mmlib train --resume {shlex.quote(str(self.path))}"
        return _object(self.report, "a finished run with", remedy)

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write report.json whole. Raises UserError where the disk is full."""
        write_whole(self.report, _lines(report))


def _lines(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    # a path that is not UTF-8 holds lone surrogates: the escape of Python is that of JSON
    return text.encode("utf8", "backslashreplace")


def _object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        raise expected(f"{what} {path}", "no such file", remedy) from None
    except OSError as error:  # no permission, or a folder of that name: it is there
        raise expected(f"to read {path}", f"'{error.strerror}'", "mend that path") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise expected(f"a JSON object in {path}", "something else", "copy it anew, or train again")
    return found


class Log:
    """A JSON-lines file that holds each step once: lines past `step` are from a cut-off run.

    Raises UserError where the disk is full.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [line for line in _lines_of(path) if _step_of(line) <= step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one entry, on disk before the next step begins."""
        try:
            with self.path.open("a", encoding="utf8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise unwritable("a line", self.path, error) from error


def _lines_of(path: Path) -> list[str]:
    return path.read_text("utf8", errors="replace").splitlines() if path.exists() else []


def _step_of(line: str) -> float:
    """The step of a line; infinite where it was cut in half by kill -9, or is no entry of ours."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
    return step if type(step) is int else math.inf


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl, one a step; a line that is none is left out."""
    return [json.loads(line) for line in _lines_of(path) if _step_of(line) < math.inf]
