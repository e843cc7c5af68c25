"""Encoders: text, pictures, and what else a model may read, each as `Tokens` [B, L, d]."""

from mmlib.encoders.base import Encoder
from mmlib.encoders.image import (
    GridEncoder,
    resnet50_grid,
    resnet_for_small_pictures,
    resnet_grid,
    scale_pixels,
)
from mmlib.encoders.text import TextEncoder, small_bert

__all__ = [
    "Encoder",
    "GridEncoder",
    "TextEncoder",
    "resnet50_grid",
    "resnet_for_small_pictures",
    "resnet_grid",
    "scale_pixels",
    "small_bert",
]
