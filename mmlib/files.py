"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
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
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise not_written(path, len(content), error) from error


def not_written(path: Path, size: int, error: OSError) -> UserError:
    """The line for a file of that many bytes that could not be written: room, or permission."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return expected(
            f"a folder that may be written to at {path.parent}", error.strerror,
            "change its permissions, or choose another folder",
        )  # fmt: skip
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return expected(
            f"the folder {path.parent}", error.strerror, "make it, or choose another folder"
        )
    return expected(
        f"room for {max(size, 100_000) / 1e6:.1f} MB at {path}", error.strerror,
        "free some space and resume; the file that was there is whole",
    )  # fmt: skip
