"""mmlib: fusing modalities into language models, the package behind the book.

The public names are those of `_PUBLIC`. A name is imported when it is first used, so that
`import mmlib`, and a command line that is only asked for help, load no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmlib.attention import MultiHeadAttention as MultiHeadAttention
    from mmlib.attention import attention as attention
    from mmlib.attention import attention_mask as attention_mask
    from mmlib.attention import attention_weights as attention_weights
    from mmlib.blocks import TransformerBlock as TransformerBlock
    from mmlib.errors import UserError as UserError
    from mmlib.evaluation.additive import emap as emap
    from mmlib.evaluation.calibration import calibration_error as calibration_error
    from mmlib.evaluation.calibration import reliability as reliability
    from mmlib.evaluation.calibration import risk_coverage as risk_coverage
    from mmlib.evaluation.certificate import Certificate as Certificate
    from mmlib.evaluation.certify import certify as certify
    from mmlib.evaluation.decomposition import Decomposition as Decomposition
    from mmlib.evaluation.decomposition import decompose as decompose
    from mmlib.evaluation.intervals import accuracy_interval as accuracy_interval
    from mmlib.evaluation.intervals import balanced_accuracy as balanced_accuracy
    from mmlib.evaluation.intervals import interval as interval
    from mmlib.evaluation.intervals import paired_interval as paired_interval
    from mmlib.evaluation.shapley import shapley_interactions as shapley_interactions
    from mmlib.evaluation.shapley import shapley_values as shapley_values
    from mmlib.fusion import FUSIONS as FUSIONS
    from mmlib.fusion import build_fusion as build_fusion
    from mmlib.fusion import modality_share as modality_share
    from mmlib.generation import predict as predict
    from mmlib.losses import cross_entropy as cross_entropy
    from mmlib.losses import info_nce as info_nce
    from mmlib.losses import masked_lm as masked_lm
    from mmlib.losses import matching as matching
    from mmlib.losses import prefix_lm as prefix_lm
    from mmlib.losses import siglip as siglip
    from mmlib.models.multimodal_bert import ModelConfig as ModelConfig
    from mmlib.models.multimodal_bert import MultimodalBert as MultimodalBert
    from mmlib.models.multimodal_bert import preset as preset
    from mmlib.tokens import Tokens as Tokens
    from mmlib.training.config import TrainingConfig as TrainingConfig
    from mmlib.training.fit import fit as fit
    from mmlib.training.loop import train as train

__version__ = "0.1.0"

_PUBLIC = {
    "mmlib.attention": (
        "MultiHeadAttention",
        "attention",
        "attention_mask",
        "attention_weights",
    ),
    "mmlib.blocks": ("TransformerBlock",),
    "mmlib.errors": ("UserError",),
    "mmlib.evaluation.additive": ("emap",),
    "mmlib.evaluation.calibration": ("calibration_error", "reliability", "risk_coverage"),
    "mmlib.evaluation.certificate": ("Certificate",),
    "mmlib.evaluation.certify": ("certify",),
    "mmlib.evaluation.decomposition": ("Decomposition", "decompose"),
    "mmlib.evaluation.intervals": (
        "accuracy_interval",
        "balanced_accuracy",
        "interval",
        "paired_interval",
    ),
    "mmlib.evaluation.shapley": ("shapley_interactions", "shapley_values"),
    "mmlib.fusion": (
        "FUSIONS",
        "build_fusion",
        "modality_share",
    ),
    "mmlib.generation": ("predict",),
    "mmlib.losses": (
        "cross_entropy",
        "info_nce",
        "masked_lm",
        "matching",
        "prefix_lm",
        "siglip",
    ),
    "mmlib.models.multimodal_bert": (
        "ModelConfig",
        "MultimodalBert",
        "preset",
    ),
    "mmlib.tokens": ("Tokens",),
    "mmlib.training.config": ("TrainingConfig",),
    "mmlib.training.fit": ("fit",),
    "mmlib.training.loop": ("train",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


class _Package(ModuleType):
    """This module, but that the submodule `attention` does not hide the function of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'mmlib' has no attribute '{name}'")
        value = getattr(import_module(_HOME[name]), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOME})


sys.modules[__name__].__class__ = _Package
