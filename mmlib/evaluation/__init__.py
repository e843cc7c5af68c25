"""Evaluation: chapter 09. A score, its interval, and the controls that could refute it."""

from mmlib.evaluation.intervals import (
    Interval,
    accuracy_by_kind,
    accuracy_interval,
    balanced_accuracy,
    clip_interval,
    fold_interval,
    format_interval,
    interval,
    learned_at,
    paired_interval,
)

__all__ = [
    "Interval",
    "accuracy_by_kind",
    "accuracy_interval",
    "balanced_accuracy",
    "clip_interval",
    "fold_interval",
    "format_interval",
    "interval",
    "learned_at",
    "paired_interval",
]
