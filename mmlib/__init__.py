"""mmlib: fusing modalities into language models, the package behind the book.

One module a chapter; the public names are those listed here.
"""

from mmlib.attention import (
    MultiHeadAttention,
    TransformerBlock,
    attention,
    attention_mask,
    attention_weights,
)
from mmlib.errors import UserError
from mmlib.evaluation import accuracy_interval, balanced_accuracy, interval, paired_interval
from mmlib.fusion import FUSIONS, build_fusion, modality_share
from mmlib.generation import predict
from mmlib.losses import cross_entropy, info_nce, masked_lm, matching, prefix_lm, siglip
from mmlib.models import ModelConfig, MultimodalBert, preset
from mmlib.tokens import Tokens
from mmlib.training import Optimization, fit, train

__version__ = "0.1.0"

__all__ = [
    "FUSIONS",
    "ModelConfig",
    "MultiHeadAttention",
    "MultimodalBert",
    "Optimization",
    "Tokens",
    "TransformerBlock",
    "UserError",
    "accuracy_interval",
    "attention",
    "attention_mask",
    "attention_weights",
    "balanced_accuracy",
    "build_fusion",
    "cross_entropy",
    "fit",
    "info_nce",
    "interval",
    "masked_lm",
    "matching",
    "modality_share",
    "paired_interval",
    "predict",
    "prefix_lm",
    "preset",
    "siglip",
    "train",
]
