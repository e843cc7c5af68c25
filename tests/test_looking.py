"""Where an answer looks: the picture says what the model's weights say."""

import matplotlib.pyplot as plt
import pytest
import torch

from mmlib.book.looking import looks
from mmlib.data.scenes import Scene, Thing, render
from mmlib.data.scenes.batches import encode_questions
from mmlib.encoders import scale_pixels
from mmlib.errors import UserError
from mmlib.tasks.small import load_small

SCENE = Scene(
    (Thing(color=0, shape=0, size=1, x=16, y=18), Thing(color=2, shape=1, size=1, x=47, y=22)), 235
)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_the_brightest_cell_is_that_of_the_weights(layer):
    model, question = load_small().model, "what color is the square"
    figure, alt = looks(model, SCENE, question, layer)
    pixels = torch.from_numpy(render(SCENE).copy())[None]
    with torch.no_grad():
        inputs = encode_questions([question]), scale_pixels(pixels, channels_last=True)
        share = model.weights(*inputs)[layer]["image"][0].mean(0)[0]
    dark = torch.as_tensor(figure.axes[0].images[1].get_array()[..., 3])
    assert dark.flatten().argmin() == share.argmax() and float(dark.min()) == 0
    row, column = divmod(int(share.argmax()), 8)
    assert "blue" in alt and f"row {row + 1}, column {'abcdefgh'[column]}" in alt
    plt.close(figure)


def test_a_word_of_another_world_is_refused():
    with pytest.raises(UserError, match="words of the generated world"):
        looks(load_small().model, SCENE, "what color is the dog")
