"""Chapter 09: what a model is worth with each input blanked, on three scales, a question a row."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmlib.errors import expected
from mmlib.evaluation.additive import FLOOR
from mmlib.evaluation.certify import TIE

Array = NDArray[np.float64]


def _accuracy(logits: Array, label: NDArray[np.int_]) -> Array:
    best = logits > logits.max(-1, keepdims=True) - TIE
    return best[np.arange(len(label)), label] / best.sum(-1)


def _log_probability(logits: Array, label: NDArray[np.int_]) -> Array:
    return logits[np.arange(len(label)), label]


def _margin(logits: Array, label: NDArray[np.int_]) -> Array:
    return logits[np.arange(len(label)), label] - logits.mean(-1)


# Of log p [N, C] and the labels [N]. log p is the logits less one number a row, so that `margin`,
# the right class's logit above the mean of all, is the same of both, and linear in the logits.
SCALES: Mapping[str, Callable[[Array, NDArray[np.int_]], Array]] = {
    "accuracy": _accuracy, "log probability": _log_probability, "margin": _margin,
}  # fmt: skip


def worth(
    model: Callable[[Sequence[str], Sequence[Any]], Any], texts: Sequence[str],
    images: Sequence[Any], labels: Sequence[Hashable], classes: Sequence[Hashable], scale: str,
    blank_image: Any, blank_text: str = "",
) -> dict[frozenset[str], Array]:  # fmt: skip
    """What each question is worth when the model is shown {}, {"text"}, {"image"} or both [N each].

    What is not shown is blank. model, texts, images, labels, classes as in `certify`; scale is one
    of SCALES. The result is what `shapley_values` and `shapley_interactions` take.

    Raises UserError for an unknown scale.
    """
    if scale not in SCALES:
        raise expected(f"a scale of {', '.join(SCALES)}", scale, "choose one of them")
    label = np.array([list(classes).index(one) for one in labels])
    N = len(labels)
    found = {}
    for shown in ((), ("text",), ("image",), ("image", "text")):
        some = list(texts) if "text" in shown else [blank_text] * N
        seen = list(images) if "image" in shown else [blank_image] * N
        p = np.asarray(model(some, seen), dtype=float)
        found[frozenset(shown)] = SCALES[scale](np.log(np.maximum(p, FLOOR)), label)
    return found
