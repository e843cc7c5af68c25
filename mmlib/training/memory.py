"""Memory: chapter 07. What a step frees, the next step needs again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers, from glibc's malloc.h


def hold_memory() -> bool:
    """Let this process keep the memory that it frees; returns whether the C library took it.

    glibc gives large pieces back to the system at once. A training step on a CPU asks for the same
    pieces again, and the system must then fill each page with zeros: at the preset `small` some
    30,000 pages a step. Only speed changes, no number. Elsewhere than on Linux with glibc nothing
    is done.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, for one
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30) and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
