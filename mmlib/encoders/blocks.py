"""A picture for a language model: blocks of a frozen grid's cells, each as a few tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.encoders.base import Encoder
from mmlib.encoders.image import GridEncoder
from mmlib.errors import expected
from mmlib.tokens import Tokens


class BlockEncoder(Encoder):
    """The tokens of a grid, each 2 × 2 of them side by side, through a small MLP to tokens of d.

    grid is a GridEncoder of h × w cells of `width` columns, which carry their places; a block is
    a vector of 4 · width, and gives `each` tokens of width d: [P, each · h·w / 4, d], block by
    block, row by row. The grid is frozen.

    Raises UserError for a grid that blocks of 2 × 2 do not cover.
    Source: Liu et al. (2024) for the MLP; Shi et al. (2016) for space put into depth.
    """

    def __init__(self, grid: GridEncoder, d: int, each: int = 2):
        width = grid.proj.out_features
        super().__init__(grid, 4 * width, each * d)
        self.side = int(grid.places.shape[0] ** 0.5)
        if self.side % 2 or self.side**2 != grid.places.shape[0]:
            raise expected(
                "a square grid of even sides", f"{grid.places.shape[0]} cells", "choose another"
            )
        self.each = each
        self.out = nn.Linear(each * d, each * d)
        self.freeze()

    @property
    def length(self) -> int:
        """How many tokens a picture gives, L_i."""
        return self.each * self.side**2 // 4

    def shape(self, inputs: Tensor) -> tuple[int, int]:
        """P and the number of blocks of pictures [P, 3, size, size]; raises as the grid."""
        P, cells = self._grid.shape(inputs)
        return P, cells // 4

    @property
    def _grid(self) -> GridEncoder:
        assert isinstance(self.backbone, GridEncoder)
        return self.backbone

    def read(self, inputs: Tensor) -> Tokens:
        """Pictures [P, 3, size, size] → blocks of four cells, Tokens [P, h·w / 4, 4 · width]."""
        cells = self.backbone(inputs).value
        P, _, width = cells.shape
        half = self.side // 2
        blocks = cells.view(P, half, 2, half, 2, width).transpose(2, 3)
        return Tokens.all_visible(blocks.reshape(P, half * half, 4 * width))

    def project(self, features: Tokens) -> Tokens:
        """Blocks [P, n, 4 · width] → tokens [P, each · n, d]."""
        x = self.out(F.gelu(self.proj(features.value)))
        value = x.unflatten(-1, (self.each, -1)).flatten(1, 2)
        return Tokens(value, features.mask.repeat_interleave(self.each, 1))
