"""MultimodalBert: sizes, sharing of pictures, missing modalities, and what each fusion may do."""

import itertools

import pytest
import torch
from strategies import error_line, normal
from torch import Tensor

from mmlib.errors import UserError
from mmlib.fusion import FUSIONS
from mmlib.models import PRESETS, ModelConfig, MultimodalBert, preset

C, VOCABULARY, L = 5, 20, 6
every_fusion = pytest.mark.parametrize("fusion", FUSIONS)


def build(fusion: str = "merged", seed: int = 0, **changes) -> MultimodalBert:
    """A model for 16-pixel pictures (2 × 2 cells), all of its gates open."""
    torch.manual_seed(seed)
    config = preset("tiny", C, VOCABULARY, **{"fusion": fusion, "image_size": 16, **changes})
    model = MultimodalBert.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.data.fill_(1.0)
    return model


def texts(B: int, seed: int = 0, length: int = L) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (B, L), generator=generator)
    ids[:, 0] = 2  # [CLS]
    mask = (torch.arange(L) < length).expand(B, L)
    return {"input_ids": ids, "attention_mask": mask}


def pictures(P: int, seed: int = 1, size: int = 16) -> Tensor:
    return normal(seed, P, 3, size, size, dtype=torch.float32)


def largest_change(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


# --- sizes ----------------------------------------------------------------------------------------


def test_presets_by_one_dial():
    sizes = {name: preset(name, C, VOCABULARY) for name in PRESETS}
    assert list(sizes) == ["tiny", "small", "base"]
    assert sizes["tiny"].d < sizes["small"].d < sizes["base"].d
    assert sizes["small"] == ModelConfig(C, VOCABULARY)
    base = sizes["base"]
    assert (base.d, base.heads, base.text_layers, base.text_heads) == (768, 8, 12, 12)
    assert (base.max_position_embeddings, base.image, base.image_size) == (512, "resnet50", 224)


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_small_presets_read_pictures_of_64_pixels_as_64_cells(name):
    model = MultimodalBert.from_config(preset(name, C, VOCABULARY)).eval()
    outputs = model.outputs(texts(2), pictures(1, size=64))
    d = PRESETS[name]["d"]
    assert outputs.logits.shape == (2, C)
    assert outputs.tokens["image"].value.shape == (1, 64, d) and outputs.tokens[
        "text"
    ].value.shape == (2, L, d)
    assert len(outputs.hidden_states) == PRESETS[name]["layers"]
    assert [x.value.shape[1] for x in outputs.hidden_states] == [L] * (
        PRESETS[name]["layers"] - 1
    ) + [1]


def bert_parameters(vocabulary: int, positions: int, width: int, layers: int) -> int:
    """Devlin et al. (2019): embeddings (words, positions, two types, norm); a layer has four square
    maps, two of width × 4 width, their biases, and two norms."""
    embeddings = (vocabulary + positions + 2) * width + 2 * width
    layer = 4 * (width * width + width) + (8 * width * width + 5 * width) + 4 * width
    return embeddings + layers * layer


def merged_layer_parameters(d: int) -> int:
    """Queries, outputs, keys and values of two modalities: six square maps; two norms; the
    feed-forward part of width 4 d."""
    return 6 * (d * d + d) + 4 * d + (8 * d * d + 5 * d)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("axes", [True, False])
@pytest.mark.parametrize("coordinates", [True, False])
def test_every_parameter_is_accounted_for(coordinates, axes):
    model = build(
        layers=3, d=24, text_layers=2, coordinates=coordinates, axes=axes, image_size=24
    )  # fmt: skip
    assert count(model.encoders["text"].backbone) == bert_parameters(VOCABULARY, 32, 32, 2)
    assert count(model.encoders["text"]) - count(model.encoders["text"].backbone) == 32 * 24 + 24
    places = 3 + 3 if axes else 3 * 3
    image = (128 * 24 + 24) + places * 24 + (2 * 24 if coordinates else 0) + 2 * 24
    assert count(model.encoders["image"]) - count(model.encoders["image"].backbone) == image
    assert count(model.fusion) == 3 * merged_layer_parameters(24)
    assert count(model.modality) == 2 * 24
    assert count(model.head) == 2 * 24 + 24 * C + C


def test_base_is_bert_base_and_resnet50_and_takes_a_step():
    """The document's sizes exactly: BERT-base, ResNet-50, width 768, 8 heads; one step on the CPU.

    This is the one large test: 130 million parameters, some gigabytes.
    """
    words = 30_522  # bert-base-uncased
    torch.manual_seed(0)
    model = MultimodalBert.from_config(preset("base", C, words))
    bert = model.encoders["text"].backbone
    assert count(bert) == bert_parameters(words, 512, 768, 12) == 108_891_648
    assert (bert.config.num_hidden_layers, bert.config.num_attention_heads) == (12, 12)
    # torchvision's ResNet-50 has 25,557,032, of which its classifier 2,048 · 1,000 + 1,000
    assert count(model.encoders["image"].backbone) == 25_557_032 - 2_049_000
    assert (model.fusion[0].mixer.d, model.fusion[0].mixer.H) == (768, 8)
    assert count(model.fusion) == merged_layer_parameters(768)

    model.train()
    text = {"input_ids": torch.tensor([[2, 17, 30_521, 9]])}
    text["attention_mask"] = torch.ones_like(text["input_ids"], dtype=torch.bool)
    outputs = model.outputs(text, pictures(1, size=224))
    assert outputs.tokens["image"].value.shape == (1, 49, 768)
    torch.nn.functional.cross_entropy(outputs.logits, torch.tensor([3])).backward()
    silent = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not silent
    for part in (
        bert.encoder.layer[0],
        model.encoders["image"].backbone.conv1,
        model.fusion,
        model.head,
    ):
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0  # type: ignore[union-attr]
    before = model.head[1].weight.detach().clone()
    torch.optim.SGD(model.parameters(), 1e-3).step()
    assert not torch.equal(before, model.head[1].weight)


# --- sharing and batches --------------------------------------------------------------------------


@every_fusion
def test_sharing_a_picture_equals_repeating_it(fusion):
    """Text b belongs to picture b // (B / P); logits and gradients are those of B pictures."""
    model = build(fusion)
    text, shared = texts(6), pictures(3)
    gradients = []
    for given in (shared, shared.repeat_interleave(2, 0)):
        model.zero_grad()
        logits = model(text, given)
        (logits * normal(3, 6, C, dtype=torch.float32)).sum().backward()
        gradients.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    (a, grad_a), (b, grad_b) = gradients
    assert torch.allclose(a, b, atol=1e-5)
    for name, gradient in grad_a.items():
        if gradient is None:
            assert grad_b[name] is None
        else:
            assert torch.allclose(gradient, grad_b[name], rtol=1e-3, atol=1e-4), name


def test_texts_that_do_not_divide_among_the_pictures_are_one_line():
    with pytest.raises(UserError) as error:
        build()(texts(5), pictures(2))
    error_line(error, "divides the batch 5", "got 2")


@every_fusion
def test_a_batch_gives_what_each_pair_gives_alone(fusion):
    model = build(fusion)
    text, images = texts(3), pictures(3)
    together = model(text, images)
    for i in range(3):
        alone = model({n: x[i : i + 1] for n, x in text.items()}, images[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


@every_fusion
def test_the_length_of_the_padding_is_irrelevant(fusion):
    model = build(fusion)
    padded, images = texts(2, length=4), pictures(2)
    short = {name: x[:, :4] for name, x in padded.items()}
    assert torch.allclose(model(padded, images), model(short, images), atol=1e-5)


# --- what the answer depends on -------------------------------------------------------------------


@every_fusion
def test_another_picture_and_another_text_change_the_logits(fusion):
    model = build(fusion)
    logits = model(texts(2), pictures(2))
    assert largest_change(logits, model(texts(2), pictures(2, seed=9))) > 1e-3
    assert largest_change(logits, model(texts(2, seed=9), pictures(2))) > 1e-3


@every_fusion
def test_a_missing_picture_is_finite_and_its_pixels_are_irrelevant(fusion):
    model, text = build(fusion), texts(4)
    mask = torch.tensor([True, False])
    images = pictures(2)
    logits = model(text, images, mask)
    images[1] = 1e3
    changed = model(text, images, mask)
    assert logits.isfinite().all()
    assert torch.equal(logits[2:], changed[2:])
    # the mask is of the picture, so it concerns the texts 2 and 3 alone
    assert torch.allclose(logits[:2], model(text, images)[:2], atol=1e-5)
    assert largest_change(logits[2:], model(text, pictures(2))[2:]) > 1e-4


@every_fusion
def test_a_missing_text_is_cls_alone_and_its_words_are_irrelevant(fusion):
    model, images = build(fusion), pictures(2)
    missing = torch.zeros(2, L, dtype=torch.bool)
    missing[:, 0] = True
    logits = [model(texts(2, seed) | {"attention_mask": missing}, images) for seed in (0, 1)]
    assert logits[0].isfinite().all()
    assert torch.allclose(*logits, atol=1e-6)
    assert largest_change(logits[0], model(texts(2), images)) > 1e-4


def interaction(fusion: str, missing: bool = False) -> Tensor:
    """logit(t, i) − logit(t, i′) − logit(t′, i) + logit(t′, i′), which is 0 for a sum."""
    model = build(fusion).double()
    asked, shown = [texts(1, seed) for seed in (0, 1)], [pictures(1, seed) for seed in (2, 3)]
    logits = {}
    for (i, text), (j, image) in itertools.product(enumerate(asked), enumerate(shown)):
        logits[i, j] = model(text, image.double())
    return logits[0, 0] - logits[0, 1] - logits[1, 0] + logits[1, 1]


def test_late_fusion_is_a_sum_of_logits():
    assert interaction("late").abs().max() < 1e-12


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if name != "late"])
def test_every_other_fusion_lets_the_modalities_interact(fusion):
    assert interaction(fusion).abs().max() > 1e-6


@every_fusion
def test_every_fusion_learns_in_one_step(fusion):
    """One step of gradient descent lowers the loss, and reaches both encoders."""
    model = build(fusion).train()
    text, images, target = texts(4), pictures(4), torch.tensor([0, 1, 2, 3])
    model.encoders[
        "image"
    ].freeze()  # else BatchNorm makes the loss before the step another function
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    loss = torch.nn.functional.cross_entropy(model(text, images), target)
    loss.backward()
    for part in (model.encoders["text"].backbone, model.encoders["image"].proj):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0
    optimizer.step()
    assert torch.nn.functional.cross_entropy(model(text, images), target) < loss


# --- inside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if not FUSIONS[name].pooled])
def test_the_last_layers_shortcut_gives_the_same_logits(fusion):
    """The last layer asks for [CLS] alone; asking for all tokens gives the same answer."""
    model = build(fusion, layers=2)
    outputs = model.outputs(texts(3, length=4), pictures(3))
    state, streams = outputs.tokens["text"], {"image": outputs.tokens["image"]}
    for block in model.fusion:
        state = block(state, streams)
    assert state.value.shape[1] == L and outputs.hidden_states[-1].value.shape[1] == 1
    assert torch.allclose(model.head(state.value[:, 0]), outputs.logits, atol=1e-5)


def test_the_modalities_are_marked():
    """Tokens that agree in all but their modality must be told apart."""
    model = build()
    outputs = model.outputs(texts(1), pictures(1))
    assert torch.allclose(
        outputs.tokens["text"].value - model.encoders["text"](texts(1)).value,
        model.modality.weight[0],
        atol=1e-6,
    )
    assert torch.allclose(
        outputs.tokens["image"].value - model.encoders["image"](pictures(1)).value,
        model.modality.weight[1],
        atol=1e-6,
    )
    assert largest_change(model.modality.weight[0], model.modality.weight[1]) > 1e-3


def test_weights_say_where_each_layer_looks():
    model = build(layers=2)
    layers = model.weights(texts(2, length=4), pictures(1))
    assert len(layers) == 2
    for weights in layers:
        assert weights["text"].shape == (2, 2, L, L) and weights["image"].shape == (2, 2, L, 4)
        total = weights["text"].sum(-1) + weights["image"].sum(-1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
        assert (weights["text"][..., 4:] == 0).all(), "padding is not looked at"


@pytest.mark.parametrize("fusion", ["late", "cross"])
def test_weights_of_another_fusion_are_one_line(fusion):
    with pytest.raises(UserError) as error:
        build(fusion).weights(texts(1), pictures(1))
    error_line(error, "merged attention", "fusion='merged'")


def test_dropout_is_off_in_evaluation():
    model = build(dropout=0.5)
    text, images = texts(2), pictures(2)
    assert torch.equal(model(text, images), model(text, images))
    model.train()
    model.encoders["image"].freeze()
    assert not torch.equal(model(text, images), model(text, images))


# --- mistakes -------------------------------------------------------------------------------------


def test_an_unknown_preset_fusion_or_image_encoder_is_one_line():
    with pytest.raises(UserError) as error:
        preset("huge", C, VOCABULARY)
    error_line(error, "tiny, small, base", "'huge'")
    with pytest.raises(UserError) as error:
        build("sum")
    error_line(error, *FUSIONS, "'sum'")
    with pytest.raises(UserError) as error:
        build(image="vgg")
    error_line(error, "small, resnet50", "'vgg'")
