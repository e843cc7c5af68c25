"""Which parameter gets which rate and decay; Muon; the running mean of the weights."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from strategies import normal
from torch import nn
from toy import CONFIG, EXECUTION, Points, Toy, run, same

from mmlib.models import MultimodalBert, preset
from mmlib.training.config import TrainingConfig
from mmlib.training.fit import fit
from mmlib.training.muon import Muon, orthogonalize
from mmlib.training.optimizers import (
    RunningMean,
    build_optimizers,
    is_hidden_matrix,
    scale_rates,
)


def settings(task: nn.Module, config: TrainingConfig) -> dict[str, tuple[str, float, float]]:
    """(optimizer, peak rate, decay) of each parameter by name."""
    names = {p: name for name, p in task.named_parameters()}
    found = {}
    for optimizer in build_optimizers(task, config):
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert names[p] not in found, "in one group of one optimizer"
                kind = type(optimizer).__name__
                found[names[p]] = (kind, group["peak_lr"], group["weight_decay"])
    return found


def test_decay_holds_matrices_and_kernels_alone():
    model = MultimodalBert.from_config(preset("tiny", 4, 20))
    found = settings(model, TrainingConfig(weight_decay=0.3))
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        assert found[name][2] == (0.3 if p.dim() >= 2 else 0.0), name
    kinds = {len(p.shape) for p in model.parameters()}
    assert {1, 2, 4} <= kinds, "biases and norms, matrices, kernels"


def test_a_part_learns_at_its_own_rate_and_a_frozen_one_not_at_all():
    model = MultimodalBert.from_config(preset("tiny", 4, 20))
    scale_rates(model.encoders["text"], 0.1)
    model.encoders["image"].freeze()
    found = settings(model, TrainingConfig(lr=0.5))
    assert not any(name.startswith("encoders.image.backbone") for name in found)
    for name, (_, rate, _) in found.items():
        assert rate == pytest.approx(0.05 if name.startswith("encoders.text") else 0.5), name


def test_the_rate_of_a_part_reaches_its_steps(tmp_path):
    """Adam's first step moves a weight by its rate: a tenth in the last layer, none at 0."""
    task = Toy()
    before = {name: x.clone() for name, x in task.state_dict().items()}
    scale_rates(task.net[3], 0.1)
    task.net[0].bias.lr_scale = 0.0
    config = replace(CONFIG, steps=1, weight_decay=0.0, max_grad_norm=1e9)
    fit(task, Points(), config, tmp_path, {}, seed=0, execution=EXECUTION)
    rate = config.lr * config.schedule(0)
    moved = {name: (before[name] - x).abs().max().item() for name, x in task.state_dict().items()}
    expected = {"net.0.weight": 1, "net.0.bias": 0, "net.3.weight": 0.1, "net.3.bias": 0.1}
    assert moved == pytest.approx({n: rate * scale for n, scale in expected.items()}, rel=1e-3)


def test_muon_takes_the_matrices_of_hidden_layers():
    model = MultimodalBert.from_config(preset("tiny", 4, 20))
    found = settings(model, TrainingConfig(optimizer="muon", lr=0.5, muon_lr=0.25))
    muon = {name for name, (kind, _, _) in found.items() if kind == "Muon"}
    assert "fusion.0.mixer.W_q.weight" in muon and "fusion.1.mlp.0.weight" in muon
    assert "encoders.text.backbone.encoder.layer.0.attention.self.query.weight" in muon
    for name, p in model.named_parameters():
        assert found[name][1] == (0.25 if name in muon else 0.5)
        if p.dim() != 2 or "embedding" in name or name.startswith(("head", "modality")):
            assert name not in muon, name
    assert not is_hidden_matrix("supervision.cells.weight", torch.zeros(2, 2))


# --- Muon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_orthogonalize_keeps_the_directions_and_levels_their_lengths(shape):
    """U S V^T becomes U S' V^T with S' near 1: the singular vectors stay those of the SVD."""
    x = normal(0, 3, *shape)
    out = orthogonalize(x).double()
    U, S, V = torch.linalg.svd(x, full_matrices=False)
    inner = U.mT @ out @ V.mT
    levels = inner.diagonal(dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(levels)).abs().max() < 1e-4
    assert (S.amax(-1) > 1.5 * S.amin(-1)).all(), "there is something to level"
    assert ((levels > 0.6) & (levels < 1.25)).all()


def test_a_batch_of_matrices_is_each_of_them():
    x = normal(1, 5, 6, 9, dtype=torch.float32)
    alone = torch.stack([orthogonalize(m[None])[0] for m in x])
    assert torch.allclose(orthogonalize(x), alone, atol=1e-5)


def test_orthogonalize_is_in_float32_and_survives_zero():
    assert orthogonalize(torch.zeros(1, 3, 4)).abs().max() == 0
    assert orthogonalize(normal(0, 1, 3, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_step_of_muon_by_hand():
    """Momentum 0.95 after Nesterov, the factor 0.2 √max(m, n), decay apart from the gradient."""
    p = nn.Parameter(normal(0, 4, 6, dtype=torch.float32))
    optimizer = Muon([p], lr=0.1, weight_decay=0.5)
    expected, buffer = p.detach().clone(), torch.zeros(4, 6)
    for step in range(3):
        gradient = normal(step + 1, 4, 6, dtype=torch.float32)
        p.grad = gradient.clone()
        optimizer.step()
        buffer = 0.95 * buffer + 0.05 * gradient
        update = orthogonalize((0.05 * gradient + 0.95 * buffer)[None])[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * update
        assert torch.allclose(p, expected, atol=1e-5)
    size = (0.2 * 6**0.5 * update).square().mean().sqrt()
    assert 0.12 < size < 0.28, "a step as large as AdamW's, about 0.2 an entry"


def test_muon_refuses_what_is_no_matrix_and_passes_what_has_no_gradient():
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1)
    p = nn.Parameter(torch.ones(2, 2))
    Muon([p], 0.1, weight_decay=0.1).step()
    assert torch.equal(p, torch.ones(2, 2))


# --- the running mean -----------------------------------------------------------------------------


def test_the_mean_forgets_its_start_and_follows():
    module = nn.Linear(1, 1, bias=False)
    mean = RunningMean(module, 0.9)
    value = module.weight.item()
    for step in range(40):
        with torch.no_grad():
            module.weight.fill_(float(step))
        mean.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        value = decay * value + (1 - decay) * step
    assert mean.values["weight"].item() == pytest.approx(value, rel=1e-5)
    with mean.in_place(module):
        assert module.weight.item() == pytest.approx(value, rel=1e-5)
    assert module.weight.item() == 39


# --- resume ---------------------------------------------------------------------------------------


class PowerCut(Exception):
    """What stands for kill -9."""


@pytest.mark.parametrize("stop", [3, 7])
def test_muon_and_the_mean_resume_bitwise(stop, tmp_path):
    config = replace(CONFIG, optimizer="muon", ema_decay=0.8)
    whole, _ = run(tmp_path / "whole", config)

    def cut(step: int) -> None:
        if step == stop:
            raise PowerCut

    with pytest.raises(PowerCut):
        run(tmp_path / "cut", config, before_batch=cut)
    resumed, _ = run(tmp_path / "cut", config)
    assert same(whole, resumed)
    for name in ("best", "last"):
        pair = [load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "cut")]
        assert same(*pair)
    kept = load_file(tmp_path / "cut" / "last" / "model.safetensors")
    assert any("mean." in name for name in kept) and any("momentum_buffer" in n for n in kept)


def test_the_best_weights_are_the_mean_of_the_last(tmp_path):
    config = replace(CONFIG, ema_decay=0.8, evaluate_every=CONFIG.steps)
    weights, _ = run(tmp_path, config)
    best = load_file(tmp_path / "best" / "model.safetensors")
    last = load_file(tmp_path / "last" / "model.safetensors")
    for name, x in weights.items():
        assert torch.equal(best[name], last[f"training.mean.{name}"])
        assert not torch.equal(best[name], x)
