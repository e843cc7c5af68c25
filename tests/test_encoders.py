"""Encoders: padding, places of the cells, and backbones that do not move."""

import pytest
import torch
from strategies import error_line, normal
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import mmlib.encoders.text
from mmlib.encoders import (
    GridEncoder,
    TextEncoder,
    resnet50_grid,
    resnet_for_small_pictures,
    resnet_grid,
    scale_pixels,
    small_bert,
)
from mmlib.encoders.networks import PictureGrid
from mmlib.errors import UserError
from mmlib.tokens import Tokens

d, WIDTH, POSITIONS = 12, 16, 9


class Pixels(nn.Module):
    """A backbone whose cells are the pixels themselves, in an order that a test chooses."""

    def __init__(self, order: Tensor | None = None):
        super().__init__()
        self.order = order

    def forward(self, pictures: Tensor) -> Tensor:
        cells = pictures.flatten(2)
        cells = cells if self.order is None else cells[..., self.order]
        return cells.view_as(pictures)


@pytest.fixture
def text_encoder():
    torch.manual_seed(0)
    return TextEncoder(small_bert(20, WIDTH, 2, 2, POSITIONS), d).eval()


def grid(size: int = 4, coordinates: bool = True) -> GridEncoder:
    torch.manual_seed(0)
    return GridEncoder(Pixels(), 3, d, size, coordinates).eval()


def texts(*rows: list[int], length: int) -> dict[str, Tensor]:
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
    return {"input_ids": ids, "attention_mask": mask}


# --- text -----------------------------------------------------------------------------------------


def test_the_length_of_the_padding_is_irrelevant(text_encoder):
    short, long = texts([3, 4, 5], length=3), texts([3, 4, 5], length=POSITIONS)
    long["input_ids"][:, 3:] = 7  # whatever stands in the padding
    a, b = text_encoder(short), text_encoder(long)
    assert torch.allclose(a.value, b.value[:, :3], atol=1e-5)
    assert b.mask.tolist() == [[True] * 3 + [False] * (POSITIONS - 3)]
    # the comparison could fail: with the mask all True the padding is read
    unmasked = text_encoder(long | {"attention_mask": torch.ones(1, POSITIONS, dtype=torch.bool)})
    assert (a.value - unmasked.value[:, :3]).abs().max() > 1e-3


def test_a_batch_gives_what_each_text_gives_alone(text_encoder):
    rows = ([3, 4, 5, 6, 7], [8], [9, 10, 11])
    together = text_encoder(texts(*rows, length=6))
    for i, row in enumerate(rows):
        alone = text_encoder(texts(row, length=len(row)))
        assert torch.allclose(together.value[i, : len(row)], alone.value[0], atol=1e-5)


def test_text_features_are_berts_last_states(text_encoder):
    given = texts([3, 4, 5], length=4)
    features = text_encoder.features(given)
    states = text_encoder.backbone(
        given["input_ids"], given["attention_mask"], output_hidden_states=True
    ).hidden_states
    assert features.value.shape == (1, 4, WIDTH) and not features.value[0, 3].any()  # padding
    assert torch.allclose(features.value[:, :3], states[-1][:, :3], atol=1e-6)
    assert features.mask.dtype == torch.bool
    projected = text_encoder.project(features)
    assert projected.value.shape == (1, 4, d)
    assert torch.equal(projected.value, text_encoder(given).value)


def test_many_texts_are_read_in_groups_of_like_length(text_encoder, monkeypatch):
    """States and gradients are those of one reading, whatever the order of the lengths."""
    given = texts(*([3 + i % 5] * (1 + i * 5 % 7) for i in range(9)), length=POSITIONS)
    weights = list(text_encoder.backbone.parameters())

    def read() -> list[Tensor]:
        x = text_encoder.features(given)
        loss = x.visible().square().sum()
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        return [x.visible(), *found]

    at_once = read()
    monkeypatch.setattr(mmlib.encoders.text, "TOGETHER", 2)
    for a, b in zip(read(), at_once, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_integer_mask_as_tokenizers_give_it(text_encoder):
    given = texts([3, 4], [5], length=3)
    integer = given | {"attention_mask": given["attention_mask"].long()}
    assert torch.equal(text_encoder(given).value, text_encoder(integer).value)
    assert text_encoder(integer).mask.dtype == torch.bool


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"attention_mask": torch.ones(2, 1, dtype=torch.long)}, ("[2, 3]", "int64 [2, 1]")),
        ({"attention_mask": torch.ones(1, 3, dtype=torch.bool)}, ("[2, 3]", "bool [1, 3]")),
        ({"attention_mask": torch.ones(2, 3)}, ("booleans or integers", "float32")),
        ({"input_ids": torch.ones(3, dtype=torch.long)}, ("[B, L]", "int64 [3]")),
        ({"input_ids": torch.ones(2, 3)}, ("integers", "float32 [2, 3]")),
    ],
)
def test_a_text_of_another_form_is_one_line(text_encoder, change, parts):
    """A mask of length 1 would be broadcast without a word."""
    with pytest.raises(UserError) as error:
        text_encoder(texts([3, 4], [5], length=3) | change)
    error_line(error, *parts)


@pytest.mark.parametrize("given", [{"input_ids": torch.ones(1, 2)}, torch.ones(1, 2)])
def test_a_text_without_its_mask_is_one_line(text_encoder, given):
    with pytest.raises(UserError) as error:
        text_encoder(given)
    error_line(error, "input_ids and attention_mask", "tokenizer")


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_an_empty_batch_of_texts_is_one_line(text_encoder, shape):
    empty = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(UserError) as error:
        text_encoder({"input_ids": empty, "attention_mask": empty})
    error_line(error, "one or more rows", f"{shape[0]} of {shape[1]}")


def test_a_missing_text_is_zeros_that_nothing_may_attend(text_encoder):
    given = texts([3, 4], [5, 6, 7], length=3)
    features = text_encoder.features(given, torch.tensor([False, True]))
    assert not features.mask[0].any() and features.mask[1].all()
    assert not features.value[0].any()
    assert torch.allclose(features.value[1], text_encoder.features(given).value[1], atol=1e-6)


def test_a_text_longer_than_the_positions_is_one_line(text_encoder):
    with pytest.raises(UserError) as error:
        text_encoder(texts([3], length=POSITIONS + 1))
    error_line(error, f"at most {POSITIONS} word pieces", f"got {POSITIONS + 1}", "truncation")


# --- pictures: places -----------------------------------------------------------------------------


def test_cells_become_tokens_row_by_row():
    pictures = normal(0, 2, 3, 4, 4, dtype=torch.float32)
    features = grid().features(pictures)
    assert features.value.shape == (2, 16, 3)
    assert torch.equal(features.value[1, 4 * 2 + 3], pictures[1, :, 2, 3])


def test_places_are_x_then_y_from_minus_one_to_one():
    places = grid(3).places.view(3, 3, 2)
    assert places[0, 0].tolist() == [-1, -1]
    assert places[0, 2].tolist() == [1, -1], "x grows to the right"
    assert places[2, 0].tolist() == [-1, 1], "y grows downwards"


def forget_rows_and_columns(encoder: GridEncoder) -> None:
    encoder.row.data.zero_()
    encoder.column.data.zero_()


def shuffled_tokens(encoder: GridEncoder) -> tuple[Tensor, Tensor]:
    """Tokens of a picture, and of the same cells each at another place, put back in order."""
    pictures, order = normal(0, 2, 3, 4, 4, dtype=torch.float32), torch.arange(16).roll(5)
    before = encoder(pictures).value
    encoder.backbone.order = order
    return before, encoder(pictures).value[:, order.argsort()]


@pytest.mark.parametrize("coordinates", [True, False])
def test_a_cell_knows_its_place(coordinates):
    """Learned rows and columns alone tell places apart, and so do coordinates alone."""
    encoder = grid(coordinates=coordinates)
    assert (encoder.place is not None) == coordinates
    if coordinates:
        forget_rows_and_columns(encoder)
    before, after = shuffled_tokens(encoder)
    assert (before - after).abs().amax((0, 2)).min() > 1e-2


def test_the_learned_part_is_one_vector_a_row_and_one_a_column():
    encoder = grid(3, coordinates=False)
    encoder.norm = nn.Identity()
    tokens = encoder(torch.zeros(1, 3, 3, 3)).value.view(3, 3, d) - encoder.proj.bias
    for y in range(3):
        for x in range(3):
            assert torch.allclose(tokens[y, x], encoder.row[y, 0] + encoder.column[0, x], atol=1e-6)


def test_without_axes_the_learned_part_is_one_vector_a_cell():
    torch.manual_seed(0)
    encoder = GridEncoder(Pixels(), 3, d, 3, coordinates=False, axes=False).eval()
    encoder.norm = nn.Identity()
    tokens = encoder(torch.zeros(1, 3, 3, 3)).value.view(3, 3, d) - encoder.proj.bias
    assert torch.allclose(tokens, encoder.cell, atol=1e-6)
    # not a sum of a row's and a column's: the four corners of such a sum cancel
    corners = tokens[0, 0] - tokens[0, 2] - tokens[2, 0] + tokens[2, 2]
    assert corners.abs().max() > 0.1


def test_without_position_and_place_a_picture_is_a_bag_of_cells():
    encoder = grid(coordinates=False)
    forget_rows_and_columns(encoder)
    before, after = shuffled_tokens(encoder)
    assert torch.allclose(before, after, atol=1e-6)


def test_a_missing_picture_is_a_mask():
    pictures = normal(0, 3, 3, 4, 4, dtype=torch.float32)
    tokens = grid()(pictures, torch.tensor([True, False, True]))
    assert tokens.mask.all(1).tolist() == [True, False, True]
    assert not tokens.mask[1].any()


class Counting(nn.Module):
    """A backbone that keeps how many pictures each of its calls had."""

    def __init__(self):
        super().__init__()
        self.calls: list[int] = []

    def forward(self, pictures: Tensor) -> Tensor:
        self.calls.append(len(pictures))
        return pictures


@pytest.mark.parametrize("present", [[True, False, True], [True] * 3, [False] * 3])
def test_the_backbone_sees_the_rows_that_are_present_and_no_others(present):
    backbone = Counting()
    encoder = GridEncoder(backbone, 3, d, 4)
    backbone.calls.clear()
    pictures = normal(0, 3, 3, 4, 4, dtype=torch.float32)
    features = encoder.features(pictures, torch.tensor(present))
    assert backbone.calls == [sum(present)] * any(present), "never with an empty batch"
    assert features.value.shape == (3, 16, 3) and features.mask.all(1).tolist() == present
    for i, there in enumerate(present):
        want = pictures[i].flatten(1).T if there else torch.zeros(16, 3)
        assert torch.equal(features.value[i], want), "each row stands in its place"


def test_in_training_a_missing_picture_is_not_in_the_statistics_of_the_others():
    """BatchNorm takes mean and variance over the batch, so its pixels would reach other rows."""
    pictures = normal(0, 3, 3, 16, 16, dtype=torch.float32)
    outcomes = []
    for pixels in (0.0, 5.0, float("nan")):
        encoder = small_grid().train()
        pictures[1] = pixels
        tokens = encoder(pictures, torch.tensor([True, False, True]))
        tokens.visible().square().sum().backward()
        outcomes.append((tokens.value[[0, 2]], encoder))
    alone = small_grid().train()
    want = alone(pictures[[0, 2]])
    for value, encoder in outcomes:
        assert torch.allclose(value, want.value, atol=1e-5)
        assert all(p.grad.isfinite().all() for p in encoder.parameters())
        for name, x in alone.backbone.named_buffers():
            assert torch.equal(x, encoder.backbone.get_buffer(name)), name


@pytest.mark.parametrize(
    "present",
    [
        torch.tensor([False]),
        torch.tensor([True, False, True, True]),
        torch.ones(3),
        torch.ones(3, dtype=torch.long),
        torch.ones(3, 1, dtype=torch.bool),
        [True, False, True],
    ],
)
def test_what_is_present_is_one_true_or_false_a_row(present):
    with pytest.raises(UserError) as error:
        grid()(torch.zeros(3, 3, 4, 4), present)
    error_line(error, "boolean", "shape [3]", "a row")


def test_an_empty_batch_of_pictures_is_one_line():
    with pytest.raises(UserError) as error:
        grid()(torch.zeros(0, 3, 4, 4))
    error_line(error, "one or more rows", "0 of 16")


# --- pixels ---------------------------------------------------------------------------------------


def test_pixels_become_minus_one_to_one_with_their_channels_first():
    pixels = torch.arange(256, dtype=torch.uint8)[:240].view(2, 8, 5, 3)
    scaled = scale_pixels(pixels, channels_last=True)
    assert scaled.shape == (2, 3, 8, 5) and scaled.dtype == torch.float32
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2).expand(3, 1, 2)
    assert scale_pixels(ends)[0, 0].tolist() == [-1, 1]
    assert scaled[1, 2, 7, 4] == pixels[1, 7, 4, 2].float() / 127.5 - 1
    assert torch.equal(scale_pixels(pixels.movedim(-1, -3)), scaled)


@pytest.mark.parametrize(
    "pixels, last",
    [
        (torch.zeros(3, 4, 5), False),
        (torch.zeros(3, 4, 5, dtype=torch.long), False),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), False),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), True),
        (torch.zeros(3, 3, dtype=torch.uint8), True),
    ],
)
def test_pixels_of_another_type_or_order_are_one_line(pixels, last):
    """What is scaled twice, or along the rows, gives a picture that no error shows."""
    with pytest.raises(UserError) as error:
        scale_pixels(pixels, channels_last=last)
    error_line(error, "uint8", "h, w", str(list(pixels.shape)))


def test_an_encoder_reads_bytes_and_scaled_pictures_alike():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(grid()(pixels).value, grid()(scale_pixels(pixels)).value)
    with pytest.raises(UserError) as error:
        grid()(pixels.long())
    error_line(error, "float or uint8", "int64", "scale_pixels")


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 4, 4, 3), (3, 4, 4), (2, 1, 4, 4)])
def test_a_wrong_picture_shape_is_one_line(shape):
    with pytest.raises(UserError) as error:
        grid()(torch.zeros(shape))
    error_line(error, "[B, 3, 4, 4]", f"got {list(shape)}", "channels first")


# --- what is frozen does not move -----------------------------------------------------------------


def steps(encoder: GridEncoder, number: int = 3) -> None:
    """Optimizer steps over all parameters, weight decay included, in train()."""
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), 0.1, weight_decay=0.1)
    for i in range(number):
        pictures = 3 + normal(i, 4, 3, 16, 16, dtype=torch.float32)
        optimizer.zero_grad()
        encoder(pictures).value.square().sum().backward()
        optimizer.step()


def state(module: nn.Module) -> dict[str, Tensor]:
    """Weights and BatchNorm statistics, copied."""
    return {name: x.clone() for name, x in module.state_dict().items()}


def small_grid() -> GridEncoder:
    torch.manual_seed(0)
    return GridEncoder(resnet_for_small_pictures(), 128, d, 16)


def test_a_frozen_backbone_is_bitwise_unchanged_by_training():
    encoder = small_grid()
    assert encoder.freeze() is encoder
    before = state(encoder)
    steps(encoder)
    after = state(encoder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not {name for name in moved if name.startswith("backbone.")}
    assert not encoder.backbone.training and encoder.training


def test_a_backbone_that_is_not_frozen_moves_weights_and_statistics():
    """The test above could fail: without freeze() both move."""
    encoder = small_grid()
    before = state(encoder.backbone)
    steps(encoder)
    after = state(encoder.backbone)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.endswith("weight") for name in moved)
    assert any(name.endswith("running_mean") for name in moved)


def test_frozen_features_do_not_depend_on_the_neighbors_in_the_batch():
    encoder = small_grid().freeze().train()
    pictures = normal(0, 4, 3, 16, 16, dtype=torch.float32)
    alone = encoder.features(pictures[:1]).value
    assert torch.allclose(encoder.features(pictures).value[:1], alone, atol=1e-5)


def test_freezing_takes_effect_at_once():
    """Not only at the next call of train(): the encoder may be in training mode already."""
    encoder = small_grid().train()
    encoder.freeze()
    assert not any(module.training for module in encoder.backbone.modules())
    assert encoder.proj.training and encoder.training
    assert not any(p.requires_grad for p in encoder.backbone.parameters())
    before = state(encoder.backbone)
    encoder(normal(0, 2, 3, 16, 16, dtype=torch.float32))
    assert all(torch.equal(x, before[n]) for n, x in encoder.backbone.state_dict().items())


def test_the_stages_of_a_backbone_are_named_from_input_to_output(text_encoder):
    assert small_grid().stages() == ["conv1", "bn1", "layer1", "layer2"]
    assert text_encoder.stages() == ["embeddings", "encoder.layer.0", "encoder.layer.1"]
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    wrapped = PictureGrid(resnet_grid(resnet), 512, (0.5,) * 3, (0.5,) * 3)
    names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    assert GridEncoder(wrapped, 512, d, 32).stages() == [f"network.{name}" for name in names]
    assert grid().stages() == []


def test_all_but_the_last_stage_frozen():
    """Weights and BatchNorm statistics of what is frozen stay to the bit; the last stage learns."""
    encoder = small_grid()
    encoder.freeze(*encoder.stages()[:-1])
    before = state(encoder.backbone)
    steps(encoder)
    after = state(encoder.backbone)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layer2"}
    for name, module in encoder.backbone.named_modules():
        assert module.training or name.startswith(("conv1", "bn1", "layer1")), name
        assert not (module.training and name.startswith(("conv1", "bn1", "layer1"))), name
    assert any(not torch.equal(before[n], after[n]) for n in before if n.endswith("running_var"))


def test_freezing_adds_up_and_unfreezing_undoes_all():
    encoder = small_grid().train()
    encoder.freeze("conv1").freeze("layer1", "conv1")
    assert encoder.frozen == ("conv1", "layer1")
    asks = {n.split(".")[0] for n, p in encoder.backbone.named_parameters() if p.requires_grad}
    assert asks == {"bn1", "layer2"}
    encoder.unfreeze()
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(module.training for module in encoder.train().modules())


def test_bert_can_be_frozen_up_to_a_layer(text_encoder):
    text_encoder.freeze("embeddings", "encoder.layer.0").train()
    text_encoder(texts([3, 4], length=2)).value.square().sum().backward()
    silent = {n for n, p in text_encoder.backbone.named_parameters() if p.grad is None}
    assert silent == {
        n for n, _ in text_encoder.backbone.named_parameters() if "encoder.layer.1" not in n
    }


def test_a_part_that_the_backbone_does_not_have_is_one_line():
    encoder = small_grid()
    with pytest.raises(UserError) as error:
        encoder.freeze("conv1", "layer9")
    error_line(error, "conv1, bn1, layer1, layer2", "layer9", "stages()")
    assert not encoder.frozen and all(p.requires_grad for p in encoder.parameters())


def test_building_an_encoder_leaves_each_modules_own_mode():
    """A BatchNorm that was frozen by hand in a backbone that trains is frozen afterwards."""
    backbone = resnet_for_small_pictures().train()
    backbone.bn1.eval()
    modes = [module.training for module in backbone.modules()]
    GridEncoder(backbone, 128, d, 16)
    assert [module.training for module in backbone.modules()] == modes


@pytest.mark.parametrize("training", [True, False])
def test_building_an_encoder_leaves_batchnorm_and_mode_as_they_were(training):
    backbone = resnet_for_small_pictures().train(training)
    before = state(backbone)
    encoder = GridEncoder(backbone, 128, d, 32)
    assert all(torch.equal(x, before[name]) for name, x in backbone.state_dict().items())
    assert backbone.training == training
    assert encoder.row.shape == (4, 1, d) and encoder.column.shape == (1, 4, d)


# --- backbones ------------------------------------------------------------------------------------


def test_the_small_resnet_keeps_eight_by_eight_cells():
    assert resnet_for_small_pictures().eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 128, 8, 8)


def test_the_resnet_grid_is_torchvisions_resnet_before_its_pooling():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    resnet = resnet18(weights=None).eval()
    pictures = normal(0, 1, 3, 64, 64, dtype=torch.float32)
    cells = resnet_grid(resnet)(pictures)
    assert cells.shape == (1, 512, 2, 2)
    assert torch.allclose(resnet.fc(cells.mean((2, 3))), resnet(pictures), atol=1e-5)


def test_resnet50_has_torchvisions_parameters_without_the_classifier():
    from torchvision.models import resnet50

    with torch.device("meta"):
        grid, whole = resnet50_grid(), resnet50(weights=None)
    count = sum(p.numel() for p in grid.parameters())
    classifier = 2048 * 1000 + 1000
    assert count == sum(p.numel() for p in whole.parameters()) - classifier == 23_508_032


def test_small_bert_has_no_dropout_and_no_pooled_head():
    bert = small_bert(20, WIDTH, 3, 2, POSITIONS).train()
    assert bert.pooler is None and len(bert.encoder.layer) == 3
    ids = torch.tensor([[1, 2, 3]])
    first, second = (bert(ids).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)
    assert bert.config.intermediate_size == 4 * WIDTH


def test_every_encoder_returns_tokens(text_encoder):
    assert isinstance(text_encoder(texts([1], length=1)), Tokens)
    assert isinstance(grid()(torch.zeros(1, 3, 4, 4)), Tokens)
