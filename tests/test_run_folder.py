"""The run folder: whose it is, who writes to it, and what is read from files that others wrote."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from strategies import error_line

from mmlib.errors import UserError
from mmlib.files import make_folder, write_whole
from mmlib.training.recipe import Recipe
from mmlib.training.run_folder import FileLock, Log, RunFolder, read_log

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Small(Recipe):
    kind: ClassVar[str] = "small"

    seed: int = 0
    name: str = "a"


def refused(path: Path, recipe: Recipe, *parts: str, writes: bool = True) -> None:
    with pytest.raises(UserError) as error, RunFolder(path).claimed(recipe, writes):
        pytest.fail("it was claimed")
    error_line(error, *parts)


# --- whose it is ----------------------------------------------------------------------------------


def test_a_new_folder_gets_the_recipe_and_can_be_claimed_again(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run")
    for _ in range(2):
        with folder.claimed(Small(seed=3)):
            assert folder.read_recipe() == {"kind": "small", "seed": 3, "name": "a"}


def test_another_recipe_is_named_and_nothing_is_changed(tmp_path):
    with RunFolder(tmp_path).claimed(Small()):
        pass
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for writes in (True, False):
        refused(tmp_path, Small(1, "b"), "a run with another name, seed", "--resume", writes=writes)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path):
    with RunFolder(tmp_path / "run").claimed(Small(), writes=False):
        assert not (tmp_path / "run").exists()


def test_a_second_claim_is_refused_while_the_first_holds(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.claimed(Small()):
        refused(tmp_path, Small(), "to oneself", "another process", "--out")
        with folder.claimed(Small(), writes=False):
            pass  # the other processes of the same training
    with folder.claimed(Small()):
        pass


def test_the_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), RunFolder(tmp_path).claimed(Small()):
        raise RuntimeError
    with RunFolder(tmp_path).claimed(Small()):
        pass


HOLD = """
import sys
sys.path[:0] = ["tests", "."]
from test_run_folder import RunFolder, Small

with RunFolder(sys.argv[1]).claimed(Small()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    """kill -9 as well: the lock is the system's."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        refused(tmp_path, Small(), "another process that trains in it")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunFolder(tmp_path).claimed(Small()):
        pass


# --- what cannot be written or read ---------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_read_only_folder_says_what_is_wrong(number, tmp_path, monkeypatch):
    """Where it is made, where it is locked, and where a file is written."""

    def fail(*given, **more):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", fail)
        refused(tmp_path / "new", Small(), "to write a folder", os.strerror(number), "permissions")
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", fail)
        refused(tmp_path, Small(), "to write a run", os.strerror(number))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        patch.setattr(Path, "unlink", fail)  # nor can anything be removed
        with pytest.raises(UserError) as error:
            write_whole(tmp_path / "x", b"12345")
        error_line(error, f"to {tmp_path / 'x'}", os.strerror(number))
        assert "room" not in str(error.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one(number, tmp_path, monkeypatch):
    def fail(*given, **more):
        raise OSError(number, os.strerror(number))

    log = Log(tmp_path / "log.jsonl", 0)
    monkeypatch.setattr(Path, "open", fail)
    for write in (lambda: write_whole(tmp_path / "x", b"1"), lambda: log.write({"step": 1})):
        with pytest.raises(UserError) as error:
            write()
        error_line(error, "room for", os.strerror(number), "free some space and resume")


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(UserError) as error:
            make_folder(path)
        error_line(error, f"a folder to {path}")


def test_no_permission_is_not_no_such_file(tmp_path, monkeypatch):
    (tmp_path / "recipe.json").write_text("{}")

    def fail(*given, **more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path).read_recipe()
    error_line(error, f"to read {tmp_path / 'recipe.json'}", "Permission denied")


WRONG = [b"", b"{", b"[]", b"3", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000, b"{'a': 1}"]


@pytest.mark.parametrize("content", WRONG, ids=lambda content: repr(content[:9]))
def test_what_is_no_json_object_is_one_line(content, tmp_path):
    for name in ("recipe", "report"):
        (tmp_path / f"{name}.json").write_bytes(content)
        with pytest.raises(UserError) as error:
            getattr(RunFolder(tmp_path), f"read_{name}")()
        error_line(error, f"a JSON object in {tmp_path / name}.json")
    refused(tmp_path, Small(), "a JSON object")


def test_what_is_missing_says_how_to_get_it(tmp_path):
    folder = RunFolder(tmp_path / "my run")
    with pytest.raises(UserError) as error:
        folder.read_recipe()
    error_line(error, "a run folder with", "no such file", "--out")
    with pytest.raises(UserError) as error:
        folder.read_report()
    error_line(error, "a finished run with", f"mmlib train --resume '{folder.path}'")


def test_a_name_that_is_not_utf_8_comes_back_from_the_files(tmp_path):
    """A table's, say. Linux allows any bytes in a path; Python holds them as lone surrogates."""
    name = os.fsdecode(b"caf\xe9.csv")
    folder = RunFolder(tmp_path)
    with folder.claimed(Small(name=name)):
        folder.write_report({"name": name, "sign": "−"})
    assert Small.from_json(folder.read_recipe()).name == name
    assert folder.read_report() == {"name": name, "sign": "−"}
    assert "−" in folder.report.read_text("utf8"), "what is readable stays so"


def test_a_folder_whose_name_is_not_utf_8_is_refused_before_the_training(tmp_path):
    """safetensors writes its weights there, and does not read them."""
    path = tmp_path / os.fsdecode(b"caf\xe9")
    refused(path, Small(), "a folder whose name is UTF-8", r"caf\udce9", "--out")
    assert not path.exists()


# --- the log --------------------------------------------------------------------------------------

ODD = [
    '{"step": 2, "loss": 0.', "[1]", "3", "null", '{"loss": 1}', '{"step": "2"}', '{"step": null}',
    '{"step": true}', '{"step": NaN}', '{"step": -Infinity}', '{"step": [1]}', '{"step": 1.5}',
    "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("line", ODD, ids=lambda line: line[:20])
def test_a_line_that_is_no_entry_is_left_out(line, tmp_path):
    path = tmp_path / "log.jsonl"
    good = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    path.write_text("\n".join([json.dumps(good[0]), line, json.dumps(good[1]), ""]))
    assert read_log(path) == good
    Log(path, 2)
    assert [json.loads(kept) for kept in path.read_text().splitlines()] == good
    Log(path, 1).write({"step": 2, "loss": 3.0})
    assert read_log(path) == [good[0], {"step": 2, "loss": 3.0}]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []
