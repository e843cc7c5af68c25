"""The generated world: pictures of colored shapes, and what can be said and asked about them.

`world` draws scenes, `questions` asks about them, `answers` reads a question and answers it from
the scene without knowing how it was made, `captions` says sentences and judges them. `priors` finds
what can be guessed with an input left unread, `controls` exchanges one word of a question.
"""

from mmlib.data.scenes.answers import answer
from mmlib.data.scenes.captions import caption, is_true
from mmlib.data.scenes.controls import other_name, other_side
from mmlib.data.scenes.priors import INPUTS, best_guess, best_unread
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
    "INPUTS",
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
    "best_unread",
    "caption",
    "cell_targets",
    "is_true",
    "other_name",
    "other_side",
    "render",
    "sample_questions",
    "sample_scene",
]
