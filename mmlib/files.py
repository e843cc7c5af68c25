"""Files that appear whole or not at all, and the line that says why one could not be written."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from mmlib.errors import UserError, expected


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or leave what was there.

    Raises UserError where the disk is full, or the folder may not be written to.
    """
    part = path.with_suffix(path.suffix + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):  # nothing can be removed from a read-only disk
            part.unlink(missing_ok=True)
        size = max(len(content), 100_000)  # a disk without room for 0.0 MB would be a riddle
        raise unwritable(f"{size / 1e6:.1f} MB", path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, or find it there.

    Raises UserError where a file of that name stands there, or nothing may be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable("a folder", path, error) from error


def unwritable(what: str, path: Path, error: OSError) -> UserError:
    """The line for what could not be written to path: no room, or no permission."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return expected(
            f"room for {what} at {path}", error.strerror,
            "free some space and resume; what was there is whole",
        )  # fmt: skip
    return expected(
        f"to write {what} to {path}", f"'{error.strerror or error}'",
        "choose a folder that you may write to, or mend its permissions",
    )  # fmt: skip
