"""Chapter 06: where in a picture a trained model's answer comes from, as far as attention tells."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from mmlib.book import drawing
from mmlib.data.scenes import ANSWERS, CELLS, Scene, render
from mmlib.data.scenes.batches import encode_questions
from mmlib.data.scenes.world import COLUMNS
from mmlib.encoders import scale_pixels
from mmlib.evaluation.inference import evaluating
from mmlib.models import MultimodalBert

SIDE, LEFT = 2.2, 0.9  # inches of the picture, and of the space beside it


def looks(model: MultimodalBert, scene: Scene, question: str, layer: int = 1) -> tuple[Figure, str]:
    """The scene, darkened where there is no attention of [CLS] in
    one fusion layer (counted from 0; the mean over heads), question and answer above it; and the
    words for it.

    Raises UserError for a word that the world does not know, or a fusion without such weights.
    """
    pixels = torch.from_numpy(render(scene).copy())[None]
    inputs = encode_questions([question]), scale_pixels(pixels, channels_last=True)
    with evaluating(model):
        answer = ANSWERS[int(model(*inputs).argmax())]
        share = model.weights(*inputs)[layer]["image"][0, :, 0].mean(0)
    figure, axis = drawing.canvas(2 * LEFT + SIDE, SIDE + 0.3)
    place = (LEFT, LEFT + SIDE, 0.05, 0.05 + SIDE)
    axis.imshow(render(scene), extent=place)
    shade = torch.zeros(CELLS, CELLS, 4)  # black, the thicker the less a cell is attended to
    shade[..., 3] = 0.8 * (1 - share / share.max()).reshape(CELLS, CELLS)
    axis.imshow(shade.numpy(), extent=place, zorder=3)
    axis.text(LEFT + SIDE / 2, SIDE + 0.13, f"{question}?  {answer}", ha="center", fontsize=10)
    axis.set(xlim=(0, 2 * LEFT + SIDE), ylim=(0, SIDE + 0.3))
    top = int(share.argmax())
    return figure, (
        f"{question}? The model says {answer}. Of its cells row {top // CELLS + 1}, column "
        f"{COLUMNS[top % CELLS]}, gets most of the attention."
    )
