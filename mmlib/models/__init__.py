"""Models: encoders, what stands above them, and a head."""

from mmlib.models.multimodal_bert import PRESETS, ModelConfig, MultimodalBert, Trace, preset

__all__ = ["PRESETS", "ModelConfig", "MultimodalBert", "Trace", "preset"]
