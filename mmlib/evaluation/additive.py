"""The best additive model: what is left of a table of logits without its interaction."""

from __future__ import annotations

from torch import Tensor


def additive_part(table: Tensor) -> Tensor:
    """The sum f(text) + g(picture) nearest to a table [T, P] of logits, eq. (4.11).

    Source: Hessel and Lee (2020), EMAP.
    """
    f, g = table.mean(1, keepdim=True), table.mean(0, keepdim=True)
    return f + g - table.mean()  # both hold the overall mean
