"""Five models that are known through and through, for the certificate to tell apart: chapter 09.

They answer what the color or the shape of a thing is, from the scene itself, without any training:
functions of texts and `Scene`s that give probabilities [n, C] of ANSWERS, as `certify` asks for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mmlib.data.scenes import ANSWERS, COLORS, SHAPES, Question, Scene, sample_questions
from mmlib.data.scenes.batches import ANSWER_INDEX
from mmlib.data.scenes.controls import answer_or_none

ASKED = {"color": 1.0, "shape": 1.0}
BLANK = Scene((), 237)
SURE = 0.9
SMOOTHING = 0.5
Array = NDArray[np.float64]
Model = Callable[[Sequence[str], Sequence[Scene]], Array]


def questions(pictures: int, seed: int) -> list[tuple[Scene, list[Question]]]:
    """Scenes of two to four things, each with four questions about a color or a shape."""
    rng = np.random.default_rng(seed)
    return [sample_questions(rng, (2, 4), 4, ASKED) for _ in range(pictures)]


def rows(drawn: Sequence[tuple[Scene, Sequence[Question]]]) -> dict[str, list]:
    """The questions of scenes as the arguments texts, images, labels [N] of `certify`."""
    flat = [(question.text, scene, question.answer) for scene, asked in drawn for question in asked]
    texts, images, labels = map(list, zip(*flat, strict=True))
    return {"texts": texts, "images": images, "labels": labels}


class TextPrior:
    """How often each answer was that of the text in other questions; blind to the scene."""

    def __init__(self, learned: Sequence[tuple[Scene, Sequence[Question]]]):
        self.count: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for _, asked in learned:
            for question in asked:
                self.count[question.text][question.answer] += 1

    def __call__(self, texts: Sequence[str], scenes: Sequence[Scene]) -> Array:
        """p(answer | text) [n, C]."""
        return _normal([[self.count[t][word] for word in ANSWERS] for t in texts])


def picture_only(texts: Sequence[str], scenes: Sequence[Scene]) -> Array:
    """How often each color and shape occurs in the scene [n, C]; deaf to the text."""
    found = np.zeros((len(scenes), len(ANSWERS)))
    for row, scene in zip(found, scenes, strict=True):
        for thing in scene.things:
            row[ANSWER_INDEX[tuple(COLORS)[thing.color]]] += 1
            row[ANSWER_INDEX[SHAPES[thing.shape]]] += 1
    return _normal(found)


def five_models(learned: Sequence[tuple[Scene, Sequence[Question]]]) -> dict[str, Model]:
    """{what the certificate should say: the model}; what is learned is learned from `learned`.

    fuses: the oracle's answer with probability SURE, and where it has none the text's best guess.
    additive: logits that are the sum of those of the text prior and of picture only, so that it
    knows which kind of word is asked for and what there is, and not which thing is meant.
    collapsed: the most frequent answers, whatever is asked.
    """
    text = TextPrior(learned)
    overall = Counter(question.answer for _, asked in learned for question in asked)
    constant = _normal([[overall[word] for word in ANSWERS]])

    def fuses(texts: Sequence[str], scenes: Sequence[Scene]) -> Array:
        p = text(texts, scenes)
        for row, (words, scene) in enumerate(zip(texts, scenes, strict=True)):
            word = answer_or_none(scene, words)
            if word is not None:
                p[row] = (1 - SURE) / (len(ANSWERS) - 1)
                p[row, ANSWER_INDEX[word]] = SURE
        return p

    def additive(texts: Sequence[str], scenes: Sequence[Scene]) -> Array:
        p = text(texts, scenes) * picture_only(texts, scenes)
        return p / p.sum(-1, keepdims=True)

    def collapsed(texts: Sequence[str], scenes: Sequence[Scene]) -> Array:
        return constant.repeat(len(texts), 0)

    return {
        "fuses": fuses, "text prior": text, "picture only": picture_only, "additive": additive,
        "collapsed": collapsed,
    }  # fmt: skip


def _normal(counts: Sequence[Sequence[float]] | Array) -> Array:
    """Probabilities [n, C] from counts, of which none is 0."""
    smooth = np.asarray(counts, dtype=float) + SMOOTHING
    return smooth / smooth.sum(-1, keepdims=True)
