"""The document's `predict`: one class a sample, and no trace left in the model."""

import pytest
import torch
from strategies import normal
from torch import nn

from mmlib.generation import predict
from mmlib.models import MultimodalBert, preset

C, B, P = 5, 6, 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MultimodalBert.from_config(preset("tiny", C, 20, dropout=0.5))


def inputs():
    ids = torch.randint(0, 20, (B, 7), generator=torch.Generator().manual_seed(1))
    pictures = normal(2, P, 3, 64, 64, dtype=torch.float32)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}, pictures


def test_predict_gives_the_most_probable_class_of_each_sample(model):
    """[B] classes, not [B, L]: the argmax of a token's vector would be its loudest coordinate."""
    text, pictures = inputs()
    answer = predict(model, text, pictures)
    assert answer.shape == (B,) and answer.dtype == torch.long
    model.eval()
    logits = model(text, pictures)
    assert answer.tolist() == [max(range(C), key=row.__getitem__) for row in logits.tolist()]


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_mode_and_ignores_dropout(model, training):
    text, pictures = inputs()
    model.train(training)
    statistics = {n: x.clone() for n, x in model.state_dict().items()}
    answers = {tuple(predict(model, text, pictures).tolist()) for _ in range(5)}
    assert len(answers) == 1
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(x, statistics[n]) for n, x in model.state_dict().items())


def test_predict_builds_no_graph():
    class Model(nn.Module):
        seen = True

        def forward(self, text, image):
            Model.seen = torch.is_grad_enabled()
            return image

    model = Model()
    answer = predict(model, {}, normal(0, 2, 3).requires_grad_())
    assert not Model.seen and not answer.requires_grad
