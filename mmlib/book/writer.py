"""The small writer of chapter 08: what it reads of a scene, the captions it learns, its judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from mmlib.data.scenes.batches import WORD_INDEX
from mmlib.data.scenes.captions import caption, is_true
from mmlib.data.scenes.stream import STREAMS
from mmlib.data.scenes.texts import pad_right, pixels
from mmlib.data.scenes.world import (
    COLOR_NAMES,
    NUMBER_WORDS,
    RELATIONS,
    SHAPES,
    SIZES,
    WORDS,
    Scene,
    article,
    sample_scene,
)
from mmlib.encoders import scale_pixels
from mmlib.errors import expected
from mmlib.evaluation.inference import evaluating
from mmlib.tasks.scenes import CELL_CLASSES
from mmlib.tasks.small import load_small
from mmlib.tokens import Tokens

START, END = WORD_INDEX["[CLS]"], WORD_INDEX["[SEP]"]
THINGS = 4  # tokens of a picture, and the most things of a scene
AT_A_TIME = 100  # pictures
_RELATION_WORDS = {word for relation in RELATIONS for word in relation.split()}
_NAMES = (COLOR_NAMES, SHAPES, SIZES)
NextWord = Callable[[Sequence[str]], dict[str, float]]


def draw_scenes(stream: str, count: int, seed: int = 0) -> list[Scene]:
    """So many scenes of one to four things, of the stream "train", "validation" or "test"."""
    rng = np.random.default_rng([STREAMS[stream], 8, seed])
    return [sample_scene(rng, (1, THINGS)) for _ in range(count)]


def short_caption(scene: Scene, rng: Generator) -> str:
    """A true sentence of the grammar that names no relation: "there are two red stars"."""
    while True:
        sentence = caption(scene, rng)
        if not _RELATION_WORDS & set(sentence.split()):
            return sentence


def ids_of(sentence: str) -> list[int]:
    """The ids of a sentence's words, and of its end.

    Raises UserError for a word that the world does not know.
    """
    unknown = [word for word in sentence.split() if word not in WORD_INDEX]
    if unknown:
        raise expected("words of the generated world", f"'{unknown[0]}'", "see WORDS")
    return [*(WORD_INDEX[word] for word in sentence.split()), END]


def text_of(ids: Sequence[int]) -> str:
    """What ids say; an end is left out."""
    return " ".join(WORDS[n] for n in ids if n != END)


def see(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """What the trained `small` sees: things [P, 4, 128], and the ids of their words [P, 4, 3].

    A thing is a cell of the picture's grid of which `small` says that something lies in it, row by
    row: at most four, those it is surest of. Its words are what `small` says: color, shape, size.
    Where there are fewer things, rows of zeros stand at the end.
    """
    task = load_small()
    grid, says = task.model.encoders["image"], task.supervision.cells
    things, names = [], []
    with evaluating(task):
        for start in range(0, len(scenes), AT_A_TIME):
            pictures = pixels(scenes[start : start + AT_A_TIME])
            cells = grid(scale_pixels(pictures, channels_last=True)).value
            logits = says(cells).split(CELL_CLASSES, -1)
            found = _kept(1 - logits[0].softmax(-1)[..., 0])
            things.append(_taken(cells, found))
            words = [
                torch.tensor([WORD_INDEX[w] for w in words])[part[..., 1:].argmax(-1)]
                for words, part in zip(_NAMES, logits, strict=True)
            ]
            names.append(_taken(torch.stack(words, -1), found))
    return torch.cat(things), torch.cat(names)


def _kept(occupied: Tensor) -> Tensor:
    """The cells to keep [P, 4] of P(something lies in it) [P, n]: in order, then −1."""
    share, cell = occupied.topk(THINGS)
    last = occupied.shape[1]
    cell = cell.masked_fill(share < 0.5, last).sort(-1).values
    return cell.masked_fill(cell == last, -1)


def _taken(x: Tensor, cells: Tensor) -> Tensor:
    """x [P, n, …] at cells [P, 4]; zeros where there is none."""
    rows = torch.arange(len(x))[:, None]
    there = (cells >= 0).view(*cells.shape, *[1] * (x.dim() - 2))
    return x[rows, cells.clamp(min=0)] * there


class ThingEncoder(nn.Module):
    """Things [P, 4, 128] of `see` → tokens [P, 4, d] by a linear map; zeros are no token."""

    def __init__(self, d: int):
        super().__init__()
        self.map = nn.Linear(128, d)

    def forward(self, things: Tensor, present: Tensor | None = None) -> Tokens:
        """Tokens [P, 4, d], masked where there is no thing, or no picture (present [P])."""
        mask = (things != 0).any(-1)
        if present is not None:
            mask = mask & present[:, None]
        return Tokens(self.map(things), mask)


def name_things(encoder: ThingEncoder, embedding: Tensor, things: Tensor, names: Tensor) -> float:
    """Set the map by least squares so that a thing's token is the sum of its words' embeddings.

    embedding [V, d], things [P, 4, 128] and names [P, 4, 3] as of `see`. Returns the share of the
    sums' variance that is not met. Nothing else is trained. Source: the first of the three stages
    in which mmlib teaches a language model to see (`mmlib.tasks.language`).
    """
    there = (things != 0).any(-1)
    x, wanted = things[there].double(), embedding.detach()[names[there]].sum(1).double()
    means = x.mean(0), wanted.mean(0)
    x, centered = x - means[0], wanted - means[1]
    gram = x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ centered)
    with torch.no_grad():
        encoder.map.weight.copy_(weight.T)
        encoder.map.bias.copy_(means[1] - means[0] @ weight)
    return float((centered - x @ weight).square().sum() / centered.square().sum())


def caption_batch(sentences: Sequence[str], placeholder: int) -> dict[str, Tensor]:
    """Four placeholders, the start, a sentence and its end: ids, mask and answer [B, L]."""
    rows = []
    for sentence in sentences:
        words = ids_of(sentence)
        before = [placeholder] * THINGS + [START]
        rows.append((before + words, [False] * len(before) + [True] * len(words)))
    return pad_right(rows)


# --- a writer that counts -------------------------------------------------------------------------


def count_words(sentences: Sequence[str], context: int = 2) -> NextWord:
    """A writer without eyes: p(next word | the last `context` words), by counting in sentences.

    It is a function of the words so far to {word: probability}, most probable first; the end of a
    sentence is the word "[SEP]".
    """
    counts: dict[tuple[str, ...], Counter[str]] = {}
    for sentence in sentences:
        words = [*sentence.split(), "[SEP]"]
        for n, word in enumerate(words):
            counts.setdefault(tuple(words[max(0, n - context) : n]), Counter())[word] += 1

    def next_word(words: Sequence[str]) -> dict[str, float]:
        found = counts.get(tuple(words[max(0, len(words) - context) :]), Counter({"[SEP]": 1}))
        whole = sum(found.values())
        # ties in the order of the vocabulary, so that a machine's hashes decide nothing
        ranked = sorted(found.items(), key=lambda pair: (-pair[1], WORD_INDEX[pair[0]]))
        return {word: count / whole for word, count in ranked}

    return next_word


# --- beam search ----------------------------------------------------------------------------------


def beam_search(
    next_logits: Callable[[list[list[int]]], Tensor], width: int, max_new_tokens: int = 16,
    end: int = END,
) -> tuple[list[int], float]:  # fmt: skip
    """The most probable text that a beam of `width` finds: its ids without the end, and ln p.

    next_logits takes n texts of one length, as ids written so far, and gives logits [n, V]. In each
    step every text of the beam is continued by every word, and the `width` most probable stay. A
    text that ended stays for comparison; where nothing is dropped, the search is exact.

    Raises UserError for a width below 1. Source: the search is older than neural models; Holtzman
    et al. (2020) show what it does to their texts.
    """
    if width < 1:
        raise expected("a width of 1 or more", width, "1 is greedy")
    beam: list[tuple[float, list[int]]] = [(0.0, [])]
    best: tuple[float, list[int]] = (-float("inf"), [])
    for _ in range(max_new_tokens):
        log_p = next_logits([ids for _, ids in beam]).log_softmax(-1)
        total = torch.tensor([[p] for p, _ in beam]) + log_p
        top = total.flatten().topk(min(width, total.numel()))
        grown = []
        for p, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            row, word = divmod(place, total.shape[1])
            if word == end:
                best = max(best, (p, beam[row][1]))
            else:
                grown.append((p, [*beam[row][1], word]))
        # a longer text is never more probable: what is behind the best cannot pass it
        beam = [(p, ids) for p, ids in grown if p > best[0]]
        if not beam:
            break
    return (best[1], best[0]) if best[0] > -float("inf") else (beam[0][1], beam[0][0])


# --- pictures as codes ----------------------------------------------------------------------------


def quantize(z: Tensor, levels: Sequence[int]) -> Tensor:
    """Finite scalar quantization: z [..., n] → each number on one of its levels, within −1 … 1.

    A number is squashed by tanh and rounded to the nearest of levels[i] even steps; the gradient
    passes as if it had not been rounded. Raises UserError where levels do not fit z.
    Source: Mentzer et al. (2024), where even numbers of levels are shifted by half a step instead.
    """
    if len(levels) != z.shape[-1] or min(levels) < 2:
        raise expected(f"{z.shape[-1]} levels of 2 or more", list(levels), "pass one a number")
    half = (torch.tensor(levels, dtype=z.dtype) - 1) / 2
    bounded = z.tanh()
    rounded = ((bounded + 1) * half).round() / half - 1
    return bounded + (rounded - bounded).detach()


def code_of(q: Tensor, levels: Sequence[int]) -> Tensor:
    """The number of a code [...], 0 to the product of levels less 1, of quantized q [..., n]."""
    code = torch.zeros(q.shape[:-1], dtype=torch.long)
    for place, steps in enumerate(levels):
        code = code * steps + ((q[..., place] + 1) * (steps - 1) / 2).round().long()
    return code


def patches(pictures: Tensor, side: int = 8) -> Tensor:
    """Pictures [P, 64, 64, 3] → squares of side × side pixels, [P, n, 3 · side²], row by row."""
    P, size = len(pictures), pictures.shape[1] // side
    x = pictures.view(P, size, side, size, side, 3).transpose(2, 3)
    return x.reshape(P, size * size, -1)


def unpatch(squares: Tensor, side: int = 8) -> Tensor:
    """The pictures [P, 64, 64, 3] that `patches` cut."""
    P, size = len(squares), int(squares.shape[1] ** 0.5)
    x = squares.view(P, size, size, side, side, 3).transpose(2, 3)
    return x.reshape(P, size * side, size * side, 3)


# --- judges ---------------------------------------------------------------------------------------


def overlap(said: str, reference: str) -> float:
    """Which share of the words said, each as often as it occurs, the reference has too.

    This is BLEU of single words, without its penalty for short texts. Source: Papineni et al.
    (2002).
    """
    words, given = Counter(said.split()), Counter(reference.split())
    return sum((words & given).values()) / max(1, sum(words.values()))


def changes(sentence: str) -> Iterator[str]:
    """The sentence with one color exchanged for each other one that takes the same article."""
    words = sentence.split()
    for n, word in enumerate(words):
        if word in COLOR_NAMES:
            for other in COLOR_NAMES:
                if other != word and article(other) == article(word):
                    yield " ".join([*words[:n], other, *words[n + 1 :]])


def one_word_off(sentence: str, scene: Scene) -> list[str]:
    """Which kinds of word make a false sentence true, if one word is exchanged for its like.

    Of "size", "color", "shape" and "number", in this order, those in which the sentence is wrong by
    one word; none where it is wrong by more. Raises UserError outside the grammar.
    """
    is_true(sentence, scene)
    plural = tuple(shape + "s" for shape in SHAPES)
    kinds = (
        ("size", SIZES), ("color", COLOR_NAMES), ("shape", SHAPES), ("shape", plural),
        ("number", ("no", *NUMBER_WORDS[2:])),
    )  # fmt: skip
    words = sentence.split()
    found = {
        kind
        for kind, alike in kinds
        for n, word in enumerate(words)
        if word in alike
        for other in alike
        if other != word and is_true(_with_articles([*words[:n], other, *words[n + 1 :]]), scene)
    }
    return [kind for kind in ("size", "color", "shape", "number") if kind in found]


def _with_articles(words: Sequence[str]) -> str:
    """The words as a sentence, in which a or an fits what follows it."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    return " ".join(article(after) if word in ("a", "an") else word for word, after in pairs)
