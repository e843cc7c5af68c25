"""Seeds: everything random is keyed by what it is for, so a run may be cut anywhere."""

from __future__ import annotations

import numpy as np


def derive_seed(*numbers: int) -> int:
    """One well-mixed seed of several numbers, (seed, step) say: 64 bits. Source: O'Neill (2015)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
