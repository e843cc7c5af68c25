"""Evaluation: chapter 09. A score, its interval, and the controls that could refute it."""

from mmlib.evaluation.intervals import (
    Interval,
    accuracy_by_kind,
    accuracy_interval,
    balanced_accuracy,
    interval,
    learned_at,
    paired_interval,
)

__all__ = [
    "Interval",
    "accuracy_by_kind",
    "accuracy_interval",
    "balanced_accuracy",
    "interval",
    "learned_at",
    "paired_interval",
]
