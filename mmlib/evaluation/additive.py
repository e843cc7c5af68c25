"""The best additive model: what is left of a table of logits without its interaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmlib.evaluation.controls import contents

FLOOR = 1e-12  # a probability below it counts as this one: log 0 would outweigh everything

# Rows of texts and pictures → p(class | text, picture) [rows, C].
Probabilities = Callable[[list[str], list[Any]], Tensor]


def additive_part(table: Tensor) -> Tensor:
    """The sum f(text) + g(picture) nearest to a table [T, P] of logits, eq. (4.11).

    A table [T, P, C] holds the logits of C classes, each of which has its own sum.

    Source: Hessel and Lee (2020), EMAP.
    """
    f, g = table.mean(1, keepdim=True), table.mean(0, keepdim=True)
    return f + g - table.mean((0, 1), keepdim=True)  # both hold the overall mean


def emap(ask: Probabilities, texts: Sequence[str], images: Sequence[Any]) -> tuple[Tensor, int]:
    """Logits [N, C] of the best additive model at the pairs (texts[i], images[i]), and its cost.

    It is the diagonal of `additive_part` of the table of all N texts with all N pictures. A text
    or picture that occurs several times is asked once and counted as often, so the cost, which is
    the second value, is T · P rows of T distinct texts and P distinct pictures, N² where all
    differ. The sums are of log p: it differs from any logits with the same softmax by a number for
    each pair, which moves all classes of a row alike, in the sums too. So the best class, and the
    softmax, are those of the logits' own sums. p below FLOOR counts as FLOOR.

    ask (texts, images) → p [rows, C]. Source: Hessel and Lee (2020), eq. 4 and algorithm 1.
    """
    t, p = contents(texts), contents(images)
    some_texts, some_images = (
        [given[int((index == i).nonzero()[0])] for i in range(int(index.max()) + 1)]
        for given, index in ((texts, t), (images, p))
    )
    # a picture at a time, so that a model that encodes it need not do so for each text
    columns = [ask(some_texts, [image] * len(some_texts)) for image in some_images]
    table = torch.stack(columns, 1).double().clamp(min=FLOOR).log()
    f, g = table[:, p].mean(1)[t], table[t].mean(0)[p]
    return f + g - f.mean(0), len(some_texts) * len(some_images)
