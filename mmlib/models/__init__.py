"""Models: encoders, what stands above them, and a head."""

from mmlib.models.fusion_model import FusionModel, FusionOutput
from mmlib.models.multimodal_bert import PRESETS, ModelConfig, MultimodalBert, preset

__all__ = ["PRESETS", "FusionModel", "FusionOutput", "ModelConfig", "MultimodalBert", "preset"]
