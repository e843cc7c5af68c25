"""Checkpoints: whole or not at all, of this recipe or refused, and never a pickle."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from strategies import error_line, normal
from torch import nn
from toy import CONFIG, EXECUTION, Points, Toy, run, same
from transformers import LlamaConfig, LlamaForCausalLM

from mmlib.errors import UserError
from mmlib.training.checkpoint import (
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    write_whole,
)
from mmlib.training.fit import fit


def module(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def stepped(steps: int = 2):
    """A module and its optimizer after some steps; the last weight has no gradient."""
    built = module()
    optimizer = torch.optim.AdamW(built.parameters(), 0.1)
    for i in range(steps):
        optimizer.zero_grad()
        built[0](normal(i, 4, 2, dtype=torch.float32)).square().sum().backward()
        optimizer.step()
    return built, optimizer


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        normal(0, 3, 2, dtype=torch.float32),
        normal(0, 3, 2),
        normal(0, 3, 2, dtype=torch.bfloat16),
        torch.tensor([float("nan"), float("-inf"), -0.0]),
        torch.arange(-3, 3),
        torch.tensor(7),
        torch.tensor([True, False]),
        torch.zeros(0, 4),
        normal(0, 3, 2, dtype=torch.float32).t(),  # not contiguous
    ],
    ids=str,
)
def test_tensors_come_back_bitwise(value, tmp_path):
    built = nn.Module()
    built.register_buffer("x", value)
    save_checkpoint(tmp_path, built)
    tensors, recipe, state = read_checkpoint(tmp_path)
    assert list(tensors) == ["x"] and (recipe, state) == ({}, {})
    assert tensors["x"].dtype == value.dtype and tensors["x"].shape == value.shape
    if value.is_floating_point():  # bitwise: NaN is not equal to itself
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        tensors["x"], value = tensors["x"].view(integer), value.contiguous().view(integer)
    assert torch.equal(tensors["x"], value)


def test_recipe_and_state_come_back(tmp_path):
    recipe, state = {"a": [1, 2], "b": {"c": None, "d": 0.1}}, {"step": 3, "best": -float("inf")}
    save_checkpoint(tmp_path, module(), (), recipe, state)
    assert read_checkpoint(tmp_path)[1:] == (recipe, state)


def test_weights_and_statistics_are_loaded(tmp_path):
    built, other = module(), module()
    built.train()
    built(normal(0, 5, 2, dtype=torch.float32))  # moves the statistics
    nn.init.constant_(built[0].weight, 7.0)
    save_checkpoint(tmp_path, built, (), {"r": 1})
    assert not same(built.state_dict(), other.state_dict())
    assert load_weights(tmp_path, other) == {"r": 1}
    assert same(built.state_dict(), other.state_dict())


def test_the_optimizer_goes_on_where_it_was(tmp_path):
    """The step after loading is bitwise the step that the first optimizer takes."""
    (built, optimizer), (other, fresh) = stepped(), stepped(0)
    save_checkpoint(tmp_path, built, [optimizer], {"r": 1}, {"step": 2})
    assert load_checkpoint(tmp_path, other, [fresh], {"r": 1}) == {"step": 2}
    for m, o in ((built, optimizer), (other, fresh)):
        o.zero_grad()
        m[0](normal(9, 4, 2, dtype=torch.float32)).square().sum().backward()
        o.step()
    assert same(built.state_dict(), other.state_dict())
    assert len(fresh.state) == 2, "what had no gradient has no state"


def test_weights_can_be_taken_from_a_checkpoint_with_an_optimizer(tmp_path):
    built, optimizer = stepped()
    save_checkpoint(tmp_path, built, [optimizer])
    other = module()
    load_weights(tmp_path, other)
    assert same(built.state_dict(), other.state_dict())


def tied(width: int = 3) -> nn.Module:
    """An embedding whose matrix is the head's as well, as in most language models."""
    torch.manual_seed(0)
    built = nn.ModuleDict(
        {"embeddings": nn.Embedding(5, width), "head": nn.Linear(width, 5, bias=False)}
    )
    built["head"].weight = built["embeddings"].weight
    return built


def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path):
    built, other = tied(), tied()
    nn.init.normal_(built["head"].weight)
    save_checkpoint(tmp_path, built)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert list(file.keys()) == ["embeddings.weight"]
    load_weights(tmp_path, other)
    assert torch.equal(other["head"].weight, built["head"].weight)
    assert other["head"].weight is other["embeddings"].weight
    assert set(read_checkpoint(tmp_path)[0]) == {"embeddings.weight", "head.weight"}


def test_two_views_of_one_storage_are_two_tensors(tmp_path):
    built = nn.Module()
    whole = torch.arange(6.0)
    built.register_buffer("first", whole[:3])
    built.register_buffer("second", whole[3:])
    built.register_buffer("turned", whole.view(2, 3).T)
    save_checkpoint(tmp_path, built)
    found, _, _ = read_checkpoint(tmp_path)
    assert same(found, built.state_dict())


def test_a_tied_language_model_of_hugging_face_is_saved_and_loaded(tmp_path):
    config = LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    built, other = LlamaForCausalLM(config), LlamaForCausalLM(config)
    save_checkpoint(tmp_path, built)
    load_weights(tmp_path, other)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(built(ids).logits, other(ids).logits)
    assert other.lm_head.weight is other.model.embed_tokens.weight


@pytest.mark.parametrize("name", ["recipe", "state", "tied"])
@pytest.mark.parametrize("value", ["{", "[1]", "3"])
def test_notes_of_another_program_are_one_line(name, value, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", {name: value})
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path)
    error_line(error, "the notes of a run in", "copy it anew")


# --- what is not loaded ---------------------------------------------------------------------------


def saved(folder: Path) -> Path:
    save_checkpoint(folder, module())
    return folder / "model.safetensors"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_checkpoint_cut_off_is_one_line(share, tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    before = module().state_dict()
    other = module()
    with pytest.raises(UserError) as error:
        load_weights(tmp_path, other)
    error_line(error, "a whole safetensors file", str(path), "copy it anew")
    assert same(other.state_dict(), before)


def test_a_pickle_in_its_place_is_refused_and_never_executed(tmp_path):
    path, trace = saved(tmp_path), tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    path.write_bytes(pickle.dumps({"weight": Evil()}))
    pickle.loads(path.read_bytes())
    assert trace.exists(), "loaded as a pickle it would act"
    trace.rmdir()
    with pytest.raises(UserError) as error:
        load_weights(tmp_path, module())
    error_line(error, "no pickle is ever loaded")
    assert not trace.exists()


def test_a_torch_file_in_its_place_is_refused(tmp_path):
    torch.save(module().state_dict(), saved(tmp_path))
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path)
    error_line(error, "no pickle is ever loaded")


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path)
    error_line(error, "model.safetensors", "no such file")


def test_names_and_shapes_must_all_fit(tmp_path):
    save_checkpoint(tmp_path / "wide", module(4))
    save_checkpoint(tmp_path / "less", module()[0])
    save_checkpoint(tmp_path / "more", nn.Sequential(*module(), nn.Linear(3, 3)))
    for name in ("wide", "less", "more"):
        with pytest.raises(UserError) as error:
            load_weights(tmp_path / name, module())
        error_line(error, f"weights of this Sequential in {tmp_path / name}")


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    built, optimizer = stepped()
    save_checkpoint(tmp_path, built, [optimizer], {"seed": 1, "d": 8, "old": 1})
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path, module(), [stepped(0)[1]], {"seed": 2, "d": 8, "new": 1})
    error_line(error, "the same recipe", "another new, old, seed in", "--out")


def test_fit_refuses_to_go_on_with_another_recipe(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError) as error:
        fit(Toy(), Points(), CONFIG, tmp_path, {"toy": 1}, seed=0, execution=EXECUTION)
    error_line(error, "another toy in")


# --- a full disk ----------------------------------------------------------------------------------


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile:
    """A file on a disk that takes the first hundred bytes."""

    def __init__(self, path: Path):
        self.file = open(path, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[:100])
        full()


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole(where, tmp_path, monkeypatch):
    path = saved(tmp_path)
    old, other = path.read_bytes(), module()
    nn.init.constant_(other[0].weight, 7.0)
    if where == "write":
        monkeypatch.setattr(Path, "open", lambda path, mode: FullFile(path))
    else:
        monkeypatch.setattr(os, where, full)
    with pytest.raises(UserError) as error:
        save_checkpoint(tmp_path, other)
    error_line(error, "room for", str(path), "No space left on device", "resume")
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"], "nothing half-written"
    save_checkpoint(tmp_path, other)
    assert path.read_bytes() != old, "with room the same call succeeds"


def test_a_run_on_a_disk_that_fills_up_can_go_on(tmp_path, monkeypatch):
    """Each save after the first checkpoint fails; resumed, the run ends as if it had not."""
    whole, _ = run(tmp_path / "whole")
    fsync = os.fsync

    def fill(step: int) -> None:
        if step == 6:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(UserError) as error:
        run(tmp_path / "cut", before_batch=fill)
    error_line(error, "No space left on device")
    monkeypatch.setattr(os, "fsync", fsync)
    assert same(whole, run(tmp_path / "cut")[0])


def test_a_file_is_never_seen_half_written(tmp_path, monkeypatch):
    """It has its name only once its bytes are on disk; a crash in between leaves the old one."""
    path = tmp_path / "x.json"
    write_whole(path, b"old")

    def crash(descriptor: int) -> None:
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_whole(path, json.dumps([1]).encode())
    assert path.read_bytes() == b"[1]" and len(list(tmp_path.iterdir())) == 1
