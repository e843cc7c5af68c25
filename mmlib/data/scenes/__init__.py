"""The generated world: pictures of coloured shapes, and what can be said and asked about them.

`world` draws scenes, `questions` asks about them, `answers` reads a question and answers it from
the scene without knowing how it was made, `captions` says sentences and judges them.
"""

from mmlib.data.scenes.answers import answer, best_guess
from mmlib.data.scenes.captions import caption, is_true
from mmlib.data.scenes.questions import Question, ask, sample_questions
from mmlib.data.scenes.world import (
    ANSWERS,
    CELLS,
    COLORS,
    HELD_OUT,
    KINDS,
    PIXELS,
    RELATIONS,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    Thing,
    cell_targets,
    render,
    sample_scene,
)

__all__ = [
    "ANSWERS",
    "CELLS",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "PIXELS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "WORDS",
    "Question",
    "Scene",
    "Thing",
    "answer",
    "ask",
    "best_guess",
    "caption",
    "cell_targets",
    "is_true",
    "render",
    "sample_questions",
    "sample_scene",
]
