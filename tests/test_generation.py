"""The document's `predict`: one class a sample, and no trace left in the model."""

import pytest
import torch
from strategies import normal
from torch import nn

from mmlib.generation import evaluating, predict
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


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_a_model_that_is_partly_frozen_comes_back_as_it_was(model):
    """model.train() afterwards would wake a BatchNorm that was put to sleep by hand."""
    model.train()
    model.encoders["image"].backbone.bn1.eval()
    before = modes(model)
    assert len(set(before)) == 2
    predict(model, *inputs())
    assert modes(model) == before
    with evaluating(model) as inside:
        assert inside is model and not any(modes(model)) and not torch.is_grad_enabled()
    assert modes(model) == before and torch.is_grad_enabled()


def test_the_modes_come_back_after_an_error_too(model):
    model.train()
    before = modes(model)
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert modes(model) == before and torch.is_grad_enabled()


def test_predict_takes_inputs_by_name(model):
    text, pictures = inputs()
    by_order = predict(model, text, pictures)
    assert torch.equal(predict(model, {"text": text, "image": pictures}), by_order)
    nobody = torch.zeros(P, dtype=torch.bool)
    given = {"text": text, "image": pictures}, {"image": nobody}
    assert torch.equal(predict(model, *given), predict(model, text, pictures, nobody))


def test_inputs_go_to_the_models_device():
    """The meta device stands for any."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4, device="meta")

        def forward(self, rows, present=None):
            assert present["a"].device.type == "meta"
            return self.linear(rows["a"])

    given = {"a": normal(0, 2, 3, dtype=torch.float32)}
    assert predict(Model(), given, {"a": torch.ones(2)}).device.type == "meta"


def test_an_answer_can_be_a_target(model):
    """A tensor of inference mode could not: it may not be saved for a backward pass."""
    answer = predict(model, *inputs())
    logits = normal(0, B, C).requires_grad_()
    nn.functional.cross_entropy(logits, answer).backward()
    assert logits.grad is not None
