"""Pretrained causal language models: from a package, a folder or the hub, and with LoRA."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mmlib.encoders.pretrained import locate, quiet
from mmlib.errors import expected
from mmlib.files import make_folder, write_whole


def load_language(name_or_path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in float32 and evaluation mode, and its tokenizer.

    A name of `PARTS` comes from its package, whose quantized weights (GGUF) are made floats once
    and kept in `cache_folder()`; "owner/name" from the hub; a folder from the disk.

    Raises UserError where none serves, or the folder holds no such model.
    """
    folder = locate(name_or_path)
    packed = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    if packed and not (folder / "config.json").exists():
        folder = _unpacked(packed[0])
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library raises many kinds; each means that it cannot be read
        raise expected(
            "a causal language model with its tokenizer", f"{folder}: {str(error)[:200]}",
            "name a folder that save_pretrained wrote",
        ) from None  # fmt: skip
    return model.eval(), tokenizer


def cache_folder() -> Path:
    """Where mmlib keeps what can be made again: MMLIB_CACHE, or mmlib in the user's own cache."""
    given = os.environ.get("MMLIB_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "mmlib"


def _unpacked(file: Path) -> Path:
    """The folder of a GGUF file's model in floats, made where it is not there yet (half a minute).

    Raises UserError where the package `gguf` is missing or the disk is full.
    """
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / f"{file.stem}-{sha256[:16]}"
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise expected(
            f"the package gguf, which reads {file.name}", "it is not installed",
            "run `pip install --no-deps gguf`",
        )  # fmt: skip
    make_folder(cache_folder())
    part = Path(tempfile.mkdtemp(dir=cache_folder()))
    try:
        # its progress bar asks nobody whether it may be shown
        with quiet(), redirect_stderr(io.StringIO()):
            packed = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            )
        # save_pretrained refuses what was quantized: the floats are written by hand
        del packed.config.quantization_config
        state = packed.state_dict()
        if packed.config.tie_word_embeddings:
            del state["lm_head.weight"]
        write_whole(part / "model.safetensors", save(state, {"format": "pt"}))
        for saved in (packed.config, packed.generation_config, tokenizer):
            saved.save_pretrained(part)
        if not folder.exists():  # what another process made meanwhile is as good
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def add_lora(language: PreTrainedModel, rank: int) -> None:
    """Freeze a language model, and put a trainable W + 2 · B A in place of each W it has.

    A [rank, d_in] is drawn at random and B [d_out, rank] is 0, so that at first nothing changes.
    The embeddings and the head stay as they are.

    Raises UserError where the package `peft` is missing. Source: Hu et al. (2022), LoRA.
    """
    if importlib.util.find_spec("peft") is None:
        raise expected("the package peft", "it is not installed", "run `pip install peft`")
    from peft import LoraConfig, inject_adapter_in_model

    head = language.get_output_embeddings()
    names = [
        name for name, part in language.named_modules()
        if isinstance(part, nn.Linear) and part is not head
    ]  # fmt: skip
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=names,
        lora_dropout=0.0, bias="none",
    )  # fmt: skip
    inject_adapter_in_model(config, language)  # which freezes all that it did not add
