"""Chapter 06: the checks that a program of model, loop, prediction and loading is asked to pass.

A check takes a `Program` and returns (verdict, what decided): True where it is sound, False where
not, None where the check is blind, because the model ignores what would have shown the fault. Most
compare two runs that differ in one thing. Where nothing may move, a change below STILL of the
largest entry passes (float32 rounds near 1e-7); where something must, it is above MOVES.
"""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import HTML, display
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import BertModel
from transformers.utils import logging

from mmlib.book import figures
from mmlib.data.scenes import ANSWERS, WORDS, sample_questions
from mmlib.data.scenes.batches import collate
from mmlib.encoders import scale_pixels, small_bert
from mmlib.errors import UserError, expected

STILL, MOVES = 1e-5, 1e-4
KINDS = ("existence", "color", "location", "reference")
LACKING = "encoder.layer.1.output.dense.weight"

Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Program:
    """What is checked: model(text_input, image_input), and what trains, asks and loads it."""

    model: nn.Module
    train: Callable[..., Any]
    predict: Callable[..., Tensor]
    load: Callable[[Path], Any]


@dataclass(frozen=True)
class Batch:
    """Four questions of different lengths about four pictures of the generated world.

    text {"input_ids": [4, 12], "attention_mask": [4, 12]}, image [4, 3, 64, 64], target [4].
    """

    text: Mapping[str, Tensor]
    image: Tensor
    target: Tensor

    def questions(self) -> list[str]:
        """The questions in words."""
        return [" ".join(WORDS[i] for i in ids[1:] if i) for ids in self.text["input_ids"]]

    def backwards(self, *rows: int) -> dict[str, Tensor]:
        """The text with the words of these rows in reverse."""
        ids = self.text["input_ids"].clone()
        for row in rows:
            n = int(self.text["attention_mask"][row].sum())
            ids[row, 1:n] = ids[row, 1:n].flip(0)
        return dict(self.text) | {"input_ids": ids}

    def other_picture(self, *rows: int) -> Tensor:
        """The image with the pictures of these rows as their negatives."""
        image = self.image.clone()
        for row in rows:
            image[row] = -image[row]
        return image


@cache
def batch() -> Batch:
    """The batch that every check asks about; one question of each of KINDS."""
    rng = np.random.default_rng(6)
    drawn = collate([sample_questions(rng, (3, 4), 1, {kind: 1.0}) for kind in KINDS])
    text = {name: drawn[name] for name in ("input_ids", "attention_mask")}
    return Batch(text, scale_pixels(drawn["pictures"], channels_last=True), drawn["target"])


def parts(d: int = 64) -> tuple[BertModel, ResNet]:
    """A BERT of width d and a ResNet of two stages (128 channels), with random weights: seed 6."""
    torch.manual_seed(6)
    bert = small_bert(len(WORDS), d, layers=2, heads=4, max_position_embeddings=32)
    with torch.no_grad():
        for parameter in bert.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)  # at the usual 0.02 all words have nearly one state
    resnet = ResNet(BasicBlock, [1, 1, 1, 1])
    resnet.layer3 = resnet.layer4 = nn.Identity()
    resnet.fc = nn.Linear(128, 1)
    return bert, resnet


# --- what the checks share ------------------------------------------------------------------------


def moved(a: Tensor, b: Tensor) -> float:
    """The largest change between a and b [B, …], as a share of the largest entry of a."""
    return float(((a - b).abs().max() / a.abs().max()).detach())


def size(change: float) -> str:
    """The change in two digits; rounding is shown as 0."""
    return "0" if change < STILL else f"{change:.2g}"


def still(change: float, control: float) -> Verdict:
    """The verdict on what may not move, beside what must."""
    if control < MOVES:
        return None, f"control {size(control)}"
    return change < STILL, f"{size(change)}; control {size(control)}"


def moves(change: float) -> Verdict:
    """The verdict on what must move."""
    return change > MOVES, size(change)


def at_words(out: Tensor) -> Tensor:
    """Results [B, L, d] at the visible words of the batch, or logits [B, C] as they are."""
    mask = batch().text["attention_mask"]
    return out[mask] if out.dim() == 3 and out.shape[1] == mask.shape[1] else out


def first(out: Tensor) -> Tensor:
    """The result [B, L, d] at [CLS], or logits [B, C] as they are."""
    return out[:, 0] if out.dim() == 3 else out


@contextmanager
def changed(module: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """What the module returns goes through `change`."""
    hook = module.register_forward_hook(lambda m, given, out: change(out))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def turned(model: nn.Module, tokens: list[int]) -> Iterator[None]:
    """BERT's states of these tokens come out times -1, so that only what follows can carry it."""

    def change(out: Any) -> Any:
        states = out.last_hidden_state.clone()
        states[:, tokens] *= -1
        out.last_hidden_state = states
        return out

    bert = next(m for m in model.modules() if isinstance(m, BertModel))
    with changed(bert, change):
        yield


# --- the model ------------------------------------------------------------------------------------


@torch.no_grad()
def called(program: Program) -> Verdict:
    """attention is given queries, keys and values"""
    try:
        program.model(batch().text, batch().image)
    except TypeError as error:
        return False, type(error).__name__
    except Exception:  # another fault, further on
        pass
    return True, "called"


@torch.no_grad()
def rows(program: Program) -> Verdict:
    """a batch of four gives four results"""
    out = program.model(batch().text, batch().image)
    return len(out) == 4, f"{list(out.shape)}"


@torch.no_grad()
def apart(program: Program) -> Verdict:
    """no sample reads the others; control: each its own picture"""
    given, model = batch(), program.model
    out, change, control = model(given.text, given.image), [], []
    for b in range(4):
        rest = [n for n in range(4) if n != b]
        others = model(given.backwards(*rest), given.other_picture(*rest))
        change.append(moved(out[b], others[b]))
        control.append(moved(out[b], model(given.text, given.other_picture(b))[b]))
    return still(max(change), min(control))


@torch.no_grad()
def words(program: Program) -> Verdict:
    """other words, another result"""
    given = batch()
    before = at_words(program.model(given.text, given.image))
    return moves(moved(before, at_words(program.model(given.backwards(0), given.image))))


@torch.no_grad()
def padding(program: Program) -> Verdict:
    """eight more pads change nothing; control: other words"""
    given = batch()
    longer = {n: torch.cat([x, torch.zeros(4, 8).to(x.dtype)], 1) for n, x in given.text.items()}
    out = program.model(given.text, given.image)
    padded = program.model(longer, given.image)
    if out.dim() == 3 and out.shape[1] > 1:
        padded = padded[:, : out.shape[1]]
    control = program.model(given.backwards(0), given.image)
    return still(moved(at_words(out), at_words(padded)), moved(at_words(out), at_words(control)))


def missing(program: Program) -> Verdict:
    """a missing picture counts for nothing; control: one that is there"""
    given, model = batch(), deepcopy(program.model)
    there = torch.tensor([True, True, True, False])
    out = model(given.text, given.image, there)
    out[:3].square().mean().backward()  # the loss of the other three
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    bad = sum(not g.isfinite().all() for g in grads)
    if bad or not out.isfinite().all():
        return False, f"NaN in {bad} of {len(grads)} gradients"
    other = model(given.text, given.other_picture(0, 3), there)
    return still(moved(out[3], other[3]), moved(out[0], other[0]))


@torch.no_grad()
def formula(program: Program) -> Verdict:
    """words are keys: the second word's state moves the first's result"""
    given, model = batch(), program.model
    before = first(model(given.text, given.image))
    with turned(model, [1]):
        return moves(moved(before, first(model(given.text, given.image))))


@torch.no_grad()
def places(program: Program) -> Verdict:
    """cells that change places are noticed"""
    given, model = batch(), program.model
    last = [m for m in model.modules() if isinstance(m, BasicBlock)][-1]
    before = first(model(given.text, given.image))
    with changed(last, lambda out: out.flip(-1, -2)):
        return moves(moved(before, first(model(given.text, given.image))))


@torch.no_grad()
def own(program: Program) -> Verdict:
    """a word gets through where attention brings nothing"""
    given, model = batch(), deepcopy(program.model)
    for name, parameter in model.named_parameters():
        if "W_o" in name or "out_proj" in name:
            parameter.zero_()
    before = first(model(given.text, given.image))
    with turned(model, [0]):
        after = first(model(given.text, given.image))
    largest = max(float(x.abs().max()) for x in (before, after))
    return moves(float((after - before).abs().max()) / max(largest, STILL))


@torch.no_grad()
def start(program: Program) -> Verdict:
    """logits [B, C], and a first loss near ln C"""
    given, C = batch(), len(ANSWERS)
    out = program.model(given.text, given.image)
    if out.shape != (4, C):
        return False, f"{list(out.shape)}"
    loss = float(nn.functional.cross_entropy(out, given.target))
    return abs(loss - np.log(C)) < 1, f"{loss:.1f}; ln C {np.log(C):.1f}"


@torch.no_grad()
def frozen(program: Program) -> Verdict:
    """a frozen encoder is the same after train(); control: one that is not"""

    def drift(model: nn.Module) -> float:  # of what a forward pass writes
        state = [b for b in model.buffers() if b.is_floating_point()]
        before = [b.clone() for b in state]
        model.train()(batch().text, batch().image)
        return max(
            (float((b - a).abs().max()) for a, b in zip(before, state, strict=True)), default=0.0
        )

    return still(drift(_freeze(program.model)), drift(deepcopy(program.model)))


@torch.no_grad()
def dropout(program: Program) -> Verdict:
    """a frozen BERT gives one result twice in train(); control: one that is not"""

    def apart_(model: nn.Module) -> float:
        bert = next(m for m in model.modules() if isinstance(m, BertModel))
        for part in bert.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.1  # what a pretrained BERT comes with
        model.train()
        torch.manual_seed(6)
        states = [bert(**batch().text).last_hidden_state for _ in range(2)]
        return moved(*states)

    return still(apart_(_freeze(program.model)), apart_(deepcopy(program.model)))


def _freeze(model: nn.Module) -> nn.Module:
    """A copy, frozen by its own method where it has one, else by what one does without it."""
    model = deepcopy(model)
    able: list[Any] = [m for m in model.modules() if hasattr(m, "freeze")]
    for part in able:
        part.freeze()
    return model if able else model.requires_grad_(False)


class _SaysYes(TorchFunctionMode):
    """On the meta device, which has no numbers, whatever is asked of a number is true."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def device(program: Program) -> Verdict:
    """the model follows to another device (meta: shapes alone, no GPU needed)"""
    model = deepcopy(program.model).to("meta")
    text = {name: x.to("meta") for name, x in batch().text.items()}
    try:
        with _SaysYes():
            model(text, batch().image.to("meta"))
    except RuntimeError as error:
        return False, "left behind" if "device" in str(error) else "stops"
    return True, "runs"


# --- what stands around the model -----------------------------------------------------------------


def _trained(program: Program, pictures: Tensor, labels: Tensor) -> tuple[str, list[Tensor]]:
    """Three batches, of which the second is the one given; what was said, and the weights then."""
    model, given = deepcopy(program.model), batch()
    sound = (given.text, given.image, given.target)
    loader = [sound, (given.text, pictures, labels), sound]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    try:
        program.train(model, loader, optimizer, nn.CrossEntropyLoss())
        said = "trained to the end"
    except (UserError, IndexError) as error:
        said = str(error)
    return said, list(model.parameters())


def labels(program: Program) -> Verdict:
    """a wrong label stops the loop, which names batch 1; control: none"""
    control, _ = _trained(program, batch().image, batch().target)
    if control != "trained to the end":
        return None, "stops on sound data"
    wrong = batch().target.clone()
    wrong[2] = len(ANSWERS)
    said, _ = _trained(program, batch().image, wrong)
    named = re.search(r"\b1\b", said) is not None
    return named, "named" if named else "not named"


def finite(program: Program) -> Verdict:
    """a NaN in a picture spoils no weight; control: sound batches move"""
    spoiled = batch().image.clone()
    spoiled[2, 0, 5, 5] = float("nan")
    _, weights = _trained(program, spoiled, batch().target)
    if all(map(torch.equal, weights, program.model.parameters())):
        return None, "nothing is trained"
    bad = sum(not w.isfinite().all() for w in weights)
    return not bad, f"NaN in {bad} of {len(weights)} weights"


def answers(program: Program) -> Verdict:
    """predict: [B], the model's classes, and it stays in its mode"""
    given, model = batch(), deepcopy(program.model).train()
    said = program.predict(model, given.text, given.image)
    if said.shape != (4,) or not bool((said < len(ANSWERS)).all()):
        return False, f"{list(said.shape)}"
    if not torch.equal(said, program.model(given.text, given.image).argmax(-1)):
        return False, "not the model's"
    return model.training, "train" if model.training else "left in eval"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's reports and progress bars: the verdict says what they say."""
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(told)
        logging.enable_progress_bar()


@torch.no_grad()
def weights(program: Program) -> Verdict:
    """what a file lacks is not drawn at random; control: a whole file"""

    def states(place: Path) -> Tensor:
        loaded = program.load(place)
        bert = loaded[0] if isinstance(loaded, tuple) else loaded
        return bert.eval()(batch().text["input_ids"])[0]

    with _quiet():
        folders, saved = saved_berts()
        if moved(saved(batch().text["input_ids"])[0], states(folders["whole"])) > STILL:
            return None, "a whole file is not loaded"
        try:
            one, two = states(folders["lacking"]), states(folders["lacking"])
        except Exception as error:
            named = LACKING in str(error)
            return named, "refused by name" if named else "stops"
    return False, f"two loads differ by {size(moved(one, two))}"


@cache
def saved_berts() -> tuple[dict[str, Path], BertModel]:
    """Folders "whole" and "lacking" (without LACKING) of one saved BERT, and the BERT."""
    top = Path(tempfile.mkdtemp())
    torch.manual_seed(6)
    saved = small_bert(len(WORDS), 64, 2, 4, 32).eval()
    folders = {name: top / name for name in ("whole", "lacking")}
    for folder in folders.values():
        saved.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(WORDS))
    path = folders["lacking"] / "model.safetensors"
    tensors = load_file(folders["whole"] / "model.safetensors")
    save_file({n: w for n, w in tensors.items() if n != LACKING}, path, metadata={"format": "pt"})
    return folders, saved


CHECKS: dict[str, Callable[[Program], Verdict]] = {
    check.__name__: check
    for check in (
        called, rows, apart, words, padding, missing, formula, places, own, start, device, frozen,
        dropout, labels, finite, answers, weights,
    )
}  # fmt: skip


def outcome(name: str, program: Program) -> tuple[str, str]:
    """(passes, fails, blind or stops; what decided) of the check of that name on a program."""
    try:
        sound, says = CHECKS[name](program)
    except Exception as error:  # whatever stops the program is what is to be told
        return "stops", type(error).__name__
    return {True: "passes", False: "fails", None: "blind"}[sound], says


_known: dict[tuple[str, Program], tuple[str, str]] = {}


def result(name: str, program: Program) -> tuple[str, str]:
    """As `outcome`, run once a program."""
    if (name, program) not in _known:
        _known[name, program] = outcome(name, program)
    return _known[name, program]


# section of chapter 06 -> the checks that it introduces
SECTIONS = {
    "6.1": ("called", "rows", "apart"), "6.2": ("words",), "6.3": ("padding", "missing"),
    "6.4": ("formula",), "6.5": ("places", "own", "start"), "6.6": ("device", "frozen", "dropout"),
    "What goes wrong": ("labels", "finite", "answers", "weights"),
}  # fmt: skip


def listed() -> None:
    """Display, folded, what each check asks and where the chapter comes to it."""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{html.escape(str(CHECKS[name].__doc__))}</td>'
        f"<td>{section}</td></tr>"
        for section, names in SECTIONS.items() for name in names
    )  # fmt: skip
    head = "".join(f'<th scope="col">{word}</th>' for word in ("check", "what it asks", "section"))
    display(
        HTML(
            f"<details><summary><b>All {len(CHECKS)} checks, and where each one comes</b></summary>"
            '<div class="mm-table" style="overflow-x:auto" tabindex="0" role="group" '
            f'aria-label="all checks"><table class="table"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div></details>"
        )
    )


def board(programs: Mapping[str, Program], newest: str) -> None:
    """Show the newest check on some programs, and each check before it that not all of them pass.

    Raises UserError where there is no such check.
    """
    if newest not in CHECKS:
        raise expected(f"a check of {', '.join(CHECKS)}", f"'{newest}'", "choose one")
    table, sound = [], []
    for name in list(CHECKS)[: list(CHECKS).index(newest) + 1]:
        found = [result(name, program) for program in programs.values()]
        if name != newest and all(state == "passes" for state, _ in found):
            sound.append(name)
            continue
        table.append((name, *(f"{state} ({says})" for state, says in found)))
    figures.table(
        ("check", *programs), table,
        f"{newest}: {CHECKS[newest].__doc__}."
        + (f" Also run, and passed: {', '.join(sound)}." if sound else ""),
    )  # fmt: skip
