"""Encoders: padding, places of the cells, and backbones that do not move."""

import pytest
import torch
from strategies import error_line, normal
from torch import Tensor, nn

from mmlib.encoders import (
    GridEncoder,
    TextEncoder,
    resnet50_grid,
    resnet_for_small_pictures,
    resnet_grid,
    small_bert,
)
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
    assert torch.equal(features.value, states[-1]) and features.value.shape == (1, 4, WIDTH)
    assert features.mask.dtype == torch.bool
    projected = text_encoder.project(features)
    assert projected.value.shape == (1, 4, d)
    assert torch.equal(projected.value, text_encoder(given).value)


def test_an_integer_mask_as_tokenizers_give_it(text_encoder):
    given = texts([3, 4], [5], length=3)
    integer = given | {"attention_mask": given["attention_mask"].long()}
    assert torch.equal(text_encoder(given).value, text_encoder(integer).value)
    assert text_encoder(integer).mask.dtype == torch.bool


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


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 4, 4, 3), (3, 4, 4), (2, 1, 4, 4)])
def test_a_wrong_picture_shape_is_one_line(shape):
    with pytest.raises(UserError) as error:
        grid()(torch.zeros(shape))
    error_line(error, "[B, 3, 4, 4]", f"got {list(shape)}", "channels first")


# --- what is frozen does not move -----------------------------------------------------------------


def steps(encoder: GridEncoder, number: int = 3) -> None:
    """Optimiser steps over all parameters, weight decay included, in train()."""
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


def test_frozen_features_do_not_depend_on_the_neighbours_in_the_batch():
    encoder = small_grid().freeze().train()
    pictures = normal(0, 4, 3, 16, 16, dtype=torch.float32)
    alone = encoder.features(pictures[:1]).value
    assert torch.allclose(encoder.features(pictures).value[:1], alone, atol=1e-5)


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
