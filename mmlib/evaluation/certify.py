"""Asking any model whether it fuses: what `certify` gives it to answer, and what it counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlib.errors import UserError, expected
from mmlib.evaluation.additive import FLOOR, emap
from mmlib.evaluation.calibration import calibration_error, calibration_floor, reliability
from mmlib.evaluation.certificate import MARGIN, Certificate
from mmlib.evaluation.clusters import cluster_accuracy, cluster_difference, cluster_effect
from mmlib.evaluation.controls import blank_picture, contents, derangement
from mmlib.evaluation.intervals import Interval
from mmlib.evaluation.shapley import shapley_interactions, shapley_values

# Lists of N texts and pictures → N answers, or p(class) [N, C].
Answer = Callable[[list[Any], list[Any]], Any]

TIE = 1e-9  # logits that differ by less are the same
UNSEEN = {
    "trained baselines": "models of the picture or the text alone must be trained, and it is given "
    "as a function",
    "attention": "it is given as a function, whose insides cannot be seen",
}


def certify(
    answer: Answer,
    texts: Sequence[str],
    images: Sequence[Any],
    labels: Sequence[Hashable],
    *,
    classes: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
    prior: Sequence[tuple[str, Hashable]] | None = None,
    blank_text: str = "",
    blank_image: Any = None,
    missing: bool = False,
    additive_rows: int = 100,
    batch_size: int = 256,
    margin: float = MARGIN,
    seed: int = 0,
) -> Certificate:
    """Does a model use the picture, the text, and the two together? A `Certificate`.

    answer (texts, images), two lists of n ≤ batch_size, gives n answers, compared with the labels
    by ==, or probabilities [n, C] (an array or tensor) of `classes` [C], which then must be given.
    It should give the same answer to the same question each time. texts, images and labels [N].

    groups [N] name what belongs together (the questions on one picture; by default those whose
    pictures are equal), so that intervals are over groups: 95 %, of this one model, not over seeds.
    Each control is compared with the model on the same questions.

    What is asked: the questions as they are; each with the picture, and each with the text, of
    another one (`derangement`); with blank_image (default: the mean color of all, `blank_picture`),
    blank_text, and both; with missing=True also with None in their place. Shapley's shares are of
    the score when inputs are None, or else blank. With probabilities the best additive model is
    made from additive_rows of the questions, drawn by the seed, which costs up to as many rows
    squared (`emap`). The best guess from the text is the answer that the same text most often has
    in `prior`, pairs of text and label that the model may have learned from, or else in the other
    half of the groups; a text that does not occur there gets the most frequent answer.

    margin: the difference, as a share, from which one counts for the verdict.
    Raises UserError where lengths differ, probabilities are none, or labels are not in `classes`.
    Source: chapter 09; Hessel and Lee (2020), Shapley (1953).
    """
    asked = _Asked(answer, texts, images, labels, classes, groups, batch_size)
    other_text, other_image = (
        derangement(contents(given), seed + place).tolist()
        for place, given in enumerate((texts, images))
    )
    swapped_texts = [texts[i] for i in other_text]
    swapped_images = [images[i] for i in other_image]
    rows: dict[str, Any] = {"all": asked(texts, images)}
    rows["exchanged_image"] = asked(texts, swapped_images)
    rows["exchanged_text"] = asked(swapped_texts, images)
    not_measured = dict(UNSEEN)
    N = len(texts)
    no_text, no_image = [blank_text] * N, [blank_image] * N
    if blank_image is None:
        try:
            no_image = [blank_picture(images)] * N
        except UserError as error:
            not_measured["blank picture"] = str(error)
    rows["blank_text"] = asked(no_text, images)
    if "blank picture" not in not_measured:
        rows["blank_image"] = asked(texts, no_image)
    worth = None
    if missing:
        nothing = [None] * N
        rows["without_image"], rows["without_text"] = asked(texts, nothing), asked(nothing, images)
        rows["nothing"] = asked(nothing, nothing)
        worth = ("nothing", "without_image", "without_text")
    else:
        not_measured["missing modality"] = "missing=True says that it takes None for an input"
        if "blank_image" in rows:
            rows["nothing"] = asked(no_text, no_image)
            worth = ("nothing", "blank_image", "blank_text")
    right = {name: asked.right(found) for name, found in rows.items()}
    for name, keys in (("guess_text", list(texts)), ("guess_answers", [""] * N)):
        guess = best_guesses(keys, labels, asked.groups, prior)
        if guess is not None:
            right[name] = np.array([a == b for a, b in zip(guess, labels, strict=True)], float)
        else:
            not_measured[name] = "one group leaves none to learn the guess from; pass prior"
    scores = {name: cluster_accuracy(x, asked.groups) for name, x in right.items()}
    drops = {
        name: cluster_difference(right["all"], x, asked.groups)
        for name, x in right.items()
        if name != "all"
    }
    shapley: dict[str, Interval] = {}
    if worth is None:
        not_measured["Shapley"] = "it needs a blank picture, or missing=True"
    else:
        shapley = _shares(right, worth, asked.groups)
    calibration: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    count: dict[str, int] = {}
    if asked.classes is None:
        for name in ("best additive model", "calibration"):
            not_measured[name] = "it needs probabilities, and answers are given"
    else:
        scores["additive"], drops["additive"], count["additive"] = asked.additive(
            texts, images, right["all"], additive_rows, seed
        )
        sure = rows["all"].max(-1)
        floor = calibration_floor(sure)
        calibration = {
            "error": calibration_error(sure, right["all"]),
            "floor": floor["mean"],
            "floor_high": floor["high"],
        }
        table = reliability(sure, right["all"])
    changed = {
        name: cluster_accuracy(asked.differ(rows["all"], rows[f"exchanged_{name}"]), asked.groups)
        for name in ("image", "text")
    }
    over = f"{N} questions in {len(set(asked.groups))} groups, for one trained model"
    return Certificate(
        "accuracy", over, scores, drops, changed, shapley, calibration, table, not_measured,
        {"all": asked.count, **count}, margin,
    )  # fmt: skip


def best_guesses(
    keys: Sequence[str],
    labels: Sequence[Hashable],
    groups: Sequence[Hashable],
    prior: Sequence[tuple[str, Hashable]] | None = None,
) -> list[Hashable] | None:
    """The answer that each key [N] most often has among others, or the most frequent one for a key
    that they do not have; None where there are no others.

    Others are the pairs of `prior`, where given (of which keys that are all equal read the labels
    alone), or else the rows of the other half of the groups: every second one in their order.
    Among equally frequent answers it is the one that came first. Source: chapter 09.
    """
    half = (contents(groups) % 2).tolist()
    alone = len(set(keys)) == 1
    guesses: list[Hashable] = [None] * len(keys)
    for mine in (0, 1):
        pairs = prior or [
            (k, y) for k, y, h in zip(keys, labels, half, strict=True) if h != mine
        ]  # fmt: skip
        if not pairs:
            return None
        by_key: defaultdict[str, Counter[Hashable]] = defaultdict(Counter)
        for key, label in pairs:
            by_key[keys[0] if alone else key][label] += 1
        overall = Counter(label for _, label in pairs)
        for row, key in enumerate(keys):
            if half[row] == mine:
                guesses[row] = (by_key.get(key) or overall).most_common(1)[0][0]
    return guesses


def _shares(
    right: dict[str, np.ndarray], worth: tuple[str, str, str], groups: Sequence[Hashable]
) -> dict[str, Interval]:
    """Shapley's shares of the score, from what is right without each, question by question."""
    nothing, no_image, no_text = (right[name] for name in worth)
    players = frozenset({"image", "text"})
    game = {
        frozenset(): nothing, frozenset({"text"}): no_image, frozenset({"image"}): no_text,
        players: right["all"],
    }  # fmt: skip
    shares = {name: cluster_effect(x, groups) for name, x in shapley_values(game).items()}
    both = shapley_interactions(game)[players]  # from −2 to 2 of one question
    return {**shares, "interaction": cluster_effect(both, groups, 2.0)}


class _Asked:
    """The function with what its answers are compared with; it counts the rows it is asked."""

    def __init__(
        self, answer: Answer, texts: Sequence[Any], images: Sequence[Any],
        labels: Sequence[Hashable], classes: Sequence[Hashable] | None,
        groups: Sequence[Hashable] | None, batch_size: int,
    ):  # fmt: skip
        given = [len(x) for x in (texts, images, labels, labels if groups is None else groups)]
        if len(set(given)) > 1 or given[0] < 2:
            raise expected(
                "as many texts, pictures, labels and groups, at least 2", given, "pass lists of N"
            )
        self.answer, self.labels, self.batch_size = answer, list(labels), batch_size
        self.groups = contents(images).tolist() if groups is None else list(groups)
        self.named = None if classes is None else list(classes)
        self.classes: list[Hashable] | None = None  # known to be probabilities once it answered
        self.count = 0

    def __call__(self, texts: Sequence[Any], images: Sequence[Any]) -> Any:
        """Answers as a list [n], or probabilities as an array [n, C]."""
        found = []
        for start in range(0, len(texts), self.batch_size):
            part = slice(start, start + self.batch_size)
            some = list(texts[part])
            given = self.answer(some, list(images[part]))
            if len(given) != len(some):
                raise expected(f"{len(some)} answers", len(given), "answer each question once")
            self.count += len(some)
            found.append(self._probabilities(given) if hasattr(given, "ndim") else list(given))
        if isinstance(found[0], np.ndarray):
            return np.concatenate(found)
        return [one for part in found for one in part]

    def _probabilities(self, given: Any) -> Any:
        p = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        if p.ndim == 1:  # an array of answers
            return p.tolist()
        if self.named is None:
            raise expected(
                "classes, the name of each probability", "none", "pass classes=[…] to certify"
            )
        C = len(self.named)
        p = p.astype(float)
        if p.shape[1:] != (C,) or not (p >= 0).all() or not np.allclose(p.sum(-1), 1, atol=1e-3):
            raise expected(
                f"probabilities [n, {C}], each row of sum 1",
                f"shape {list(p.shape)} or other sums", "apply a softmax to logits",
            )  # fmt: skip
        if lacking := [y for y in self.labels if y not in self.named]:
            raise expected("labels among the classes", f"'{lacking[0]}'", "name all classes")
        self.classes = self.named
        return p

    def right(self, found: Any) -> np.ndarray:
        """How right each answer is, [N]: 1 or 0, or a part where several classes are as probable.

        It is the chance that one of these, drawn blindly, is the label.
        """
        if self.classes is None:
            return np.array([a == b for a, b in zip(found, self.labels, strict=True)], float)
        return self.share_right(torch.from_numpy(found).clamp(min=FLOOR).log(), self.labels)

    def share_right(self, logits: Tensor, labels: Sequence[Hashable]) -> np.ndarray:
        """The share that the label [n] has of the classes with the highest logit [n, C]."""
        assert self.classes is not None
        label = torch.tensor([self.classes.index(one) for one in labels])
        best = (logits > logits.max(-1, keepdim=True).values - TIE).double()
        return (best[torch.arange(len(label)), label] / best.sum(-1)).numpy()

    def said(self, found: Any) -> list[Hashable]:
        """The answers [n], of probabilities the most probable class."""
        return found if self.classes is None else found.argmax(-1).tolist()

    def differ(self, a: Any, b: Any) -> np.ndarray:
        """1.0 where the two answers differ, [N]."""
        return np.array([x != y for x, y in zip(self.said(a), self.said(b), strict=True)], float)

    def additive(
        self, texts: Sequence[Any], images: Sequence[Any], right: np.ndarray, most: int, seed: int
    ) -> tuple[Interval, Interval, int]:
        """Accuracy of the best additive model on `most` of the rows, its loss there, its cost."""
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
        rows = sorted(order[:most].tolist())
        logits, cost = emap(
            lambda t, i: torch.from_numpy(self(t, i)),
            [texts[row] for row in rows], [images[row] for row in rows],
        )  # fmt: skip
        hit = self.share_right(logits, [self.labels[row] for row in rows])
        groups = [self.groups[row] for row in rows]
        return cluster_accuracy(hit, groups), cluster_difference(right[rows], hit, groups), cost
