"""What the tests of tokens, attention and fusion share: random shapes, heads, masks and tokens for
hypothesis, drawn the same on each run; what may stand in padding; the form of an error line."""

import os
import re

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from mmlib.tokens import Tokens

# A planted fault needs no smallest example (tools/mutants.py).
PHASES = [Phase.explicit, Phase.generate] if "NO_SHRINKING" in os.environ else list(Phase)
settings.register_profile(
    "mmlib",
    derandomize=True,  # a test that fails for the reader fails for us too
    deadline=None,
    database=None,
    max_examples=30,
    phases=PHASES,
)
settings.load_profile("mmlib")

NAMES = ("text", "image", "audio")
# What padding may hold without any influence.
HOSTILE = [1e10, 1e30, float("inf"), float("-inf"), float("nan")]

batches = st.integers(1, 3)
lengths = st.integers(1, 6)
heads = st.sampled_from([1, 2, 4])
head_widths = st.sampled_from([1, 2, 5])
seeds = st.integers(0, 2**31 - 1)


def error_line(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    """The message is one line that says expected, got and remedy, and names the parts."""
    line = str(error.value)
    assert re.fullmatch(r"expected [^\n]+, got [^\n]+; [^\n]+", line), line
    for part in parts:
        assert part in line


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers of that shape, fixed by the seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@st.composite
def masks(draw, *shape: int, some: bool = False) -> Tensor:
    """A boolean tensor of that shape; with `some`, each last row holds a True."""
    bits = draw(st.lists(st.booleans(), min_size=1, max_size=64))
    size = int(torch.tensor(shape).prod())
    mask = torch.tensor([bits[i % len(bits)] for i in range(size)]).view(shape)
    if some:
        mask[..., 0] |= ~mask.any(-1)
    return mask


@st.composite
def heads_of_attention(draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q [B, H, L_q, d_k], k [B, H, L_k, d_k], v [B, H, L_k, d_v] and a mask [B, 1, L_q, L_k].

    Rows of the mask without any True occur.
    """
    B, H, L_q, L_k = draw(batches), draw(heads), draw(lengths), draw(lengths)
    d_k, d_v, seed = draw(head_widths), draw(head_widths), draw(seeds)
    q, k = normal(seed, B, H, L_q, d_k), normal(seed + 1, B, H, L_k, d_k)
    return q, k, normal(seed + 2, B, H, L_k, d_v), draw(masks(B, 1, L_q, L_k))


@st.composite
def tokens(draw, B: int, L: int, d: int, some: bool = False) -> Tokens:
    """Tokens [B, L, d] under a random mask; with `some`, each row has a visible token."""
    return Tokens(normal(draw(seeds), B, L, d), draw(masks(B, L, some=some)))
