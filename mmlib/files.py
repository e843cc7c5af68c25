"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from mmlib.errors import expected


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or leave what was there. Raises UserError where the disk is full."""
    part = path.with_suffix(path.suffix + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise expected(
            f"room for {len(content) / 1e6:.1f} MB at {path}", error.strerror,
            "free some space and resume; the file that was there is whole",
        ) from error  # fmt: skip
