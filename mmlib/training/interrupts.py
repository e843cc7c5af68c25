"""Ctrl-C as a request that the training loop honors between two steps, never within one."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlib.errors import UserError


class Interrupted(UserError):
    """The run was stopped by the user; what is done is saved, and the message says how to go on."""


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """For a run of several trainings: where one is stopped, the message names the run in `out`."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"stopped; what is done is saved in {out}; "
            f"go on with: mmlib train --resume {shlex.quote(str(out))}"
        ) from None


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects Ctrl-C in the list that it gives; a second one stops at once.

    Outside the main thread nothing is changed.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches the workers as well, but when to stop is the loop's decision."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
