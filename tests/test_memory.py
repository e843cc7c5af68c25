"""What a process does with the memory that it frees (chapter 07)."""

import ctypes
import subprocess
import sys

import pytest

import mmlib.training.memory
from mmlib.training.memory import hold_memory

GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
FAULTS = """
import resource, sys
import numpy as np
from mmlib.training.memory import hold_memory
if "hold" in sys.argv:
    assert hold_memory()
before = 0
for step in range(20):
    parts = [np.ones(1_000_000) for _ in range(8)]
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(*options: str) -> int:
    """Pages that the system filled with zeros in fifteen rounds of 64 MB."""
    command = [sys.executable, "-c", FAULTS, *options]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not GLIBC, reason="glibc alone has mallopt's two thresholds")
def test_held_memory_is_not_asked_for_again():
    assert 10 * pages("hold") < pages()


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(mmlib.training.memory.sys, "platform", "darwin")
    assert not hold_memory()


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(mmlib.training.memory.ctypes, "CDLL", lambda name: object())
    assert not hold_memory()
