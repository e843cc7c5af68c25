"""How much of the answers can be guessed where an input is left unread.

`best_guess` leaves out a whole side, the text or the picture; `best_unread` leaves out words of the
text. Both find the best rule by asking anew, and score it on questions that it was not made from.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from mmlib.data.scenes.questions import Question, View
from mmlib.data.scenes.world import COLOR_NAMES, KINDS, RELATIONS, SHAPES, Scene
from mmlib.errors import expected

Picture = tuple[Scene, Sequence[Question]]

_THING = r"(?P<color>\w+) (?P<shape>\w+)"
_SIDE = "|".join(RELATIONS)
# The words of each kind of question that a rule may leave unread, as named groups.
_READ = {
    kind: re.compile(form)
    for kind, form in {
        "existence": rf"is there (?P<name>an? {_THING})",
        "counting": r"how many (?P<name>.+) are there",
        "color": r"what color is the (?P<name>\w+)",
        "shape": r"what shape is the (?P<name>\w+) object",
        "comparison": r"are there more (?P<first>\w+) than (?P<second>\w+) objects",
        "location": rf"which (?P<line>\w+) is the (?P<name>{_THING}) in",
        "relation": rf"is the (?P<first>\w+ \w+) (?P<side>{_SIDE}) the (?P<second>\w+ \w+)",
        "reference": rf"what (?P<asked>\w+) is the (?:nearest )?object (?P<side>{_SIDE}) "
        rf"the (?P<name>{_THING})",
    }.items()
}
# For each kind, what `best_unread` can leave out.
INPUTS = {kind: tuple(form.groupindex) for kind, form in _READ.items()}


def best_guess(
    pictures: Sequence[Picture],
    by: str,
    combinations: str = "train",
    reference: str = "nearest",
) -> dict[str, float]:
    """Accuracy, by kind and "overall", of the best guess that sees one side alone.

    by "text": for each question's exact text the answer it most often has, counted on the even
    pictures and tested on the odd, and the other way round. A text's counts are smoothed by those
    of its form (names of colors and shapes left out), so that rare texts do not mislead. Take
    thousands of pictures: the guess is as good as its counts.

    by "objects": the guess knows the scene, but not the question. "overall" is the accuracy of
    one answer a scene, the most probable one over all kinds (their shares as in `pictures` for as
    many things). A kind's own figure is a bound: the most probable answer where the kind is known,
    so that no guess without the question does better on that kind. Probabilities come from 64
    fresh questions of each kind about each scene.

    pictures are what `sample_questions` returns, combinations and reference what it was given.
    Raises UserError for another `by`, or fewer than two pictures.
    """
    if by not in ("text", "objects"):
        raise expected('by "text" or "objects"', by, "choose one of them")
    if len(pictures) < 2:
        raise expected("two pictures or more", len(pictures), "sample thousands")
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    guesses = _by_text(pictures) if by == "text" else _by_objects(pictures, combinations, reference)
    for question, of_kind, of_all in guesses:
        asked.update((question.kind, "overall"))
        right[question.kind] += of_kind == question.answer
        right["overall"] += of_all == question.answer
    return {kind: right[kind] / asked[kind] for kind in (*KINDS, "overall") if asked[kind]}


# A question, the best guess of its answer where its kind is known, and where it is not.
Guess = tuple[Question, str, str]
_NAMES = re.compile(rf"\b(?:{'|'.join(COLOR_NAMES)}|(?:{'|'.join(SHAPES)})s?)\b")
_SMOOTHING = 5.0


def _by_text(pictures: Sequence[Picture]) -> Iterator[Guess]:
    for half in (0, 1):
        texts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        forms: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for _, questions in pictures[1 - half :: 2]:
            for question in questions:
                texts[question.text][question.answer] += 1
                forms[_NAMES.sub("*", question.text)][question.answer] += 1
        for _, questions in pictures[half::2]:
            for question in questions:
                form = forms[_NAMES.sub("*", question.text)]
                total = form.total() or 1
                score = {word: _SMOOTHING * count / total for word, count in form.items()}
                for word, count in texts[question.text].items():
                    score[word] += count
                guess = max(score, key=score.__getitem__, default="")
                yield question, guess, guess


def _by_objects(pictures: Sequence[Picture], combinations: str, reference: str) -> Iterator[Guess]:
    rng = np.random.default_rng(0)
    shares: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for scene, questions in pictures:
        shares[len(scene.things)].update(question.kind for question in questions)
    for scene, questions in pictures:
        view = View(scene, combinations, reference)
        overall: Counter[str] = Counter()
        best = {}
        for kind, share in shares[len(scene.things)].items():
            fresh = [question for _ in range(64) if (question := view.ask(kind, rng))]
            answers = Counter(question.answer for question in fresh)
            for word, count in answers.items():
                overall[word] += share * count
            best[kind] = max(answers, key=answers.__getitem__, default="")
        guess = max(overall, key=overall.__getitem__)
        for question in questions:
            yield question, best[question.kind], guess


def leave_out(kind: str, text: str, unread: str) -> str:
    """The text of a question with the words of one input, of INPUTS[kind], as a "*".

    Raises UserError for another input, and for a text that is no question of the kind.
    """
    if kind not in INPUTS or unread not in INPUTS[kind]:
        known = "; ".join(f"{kind}: {', '.join(inputs)}" for kind, inputs in INPUTS.items())
        raise expected(f"an input of {known}", f"{kind}: {unread}", "choose one of them")
    match = _READ[kind].fullmatch(text)
    if match is None:
        raise expected(f"a question of {kind}", f"'{text}'", "give the question's own kind")
    start, end = match.span(unread)
    # "an" gives away that the color is orange
    return f"{text[:start]}*{text[end:]}".replace("an *", "a *")


def best_unread(
    pictures: Sequence[Picture],
    draws: int = 256,
    combinations: str = "train",
    reference: str = "nearest",
) -> dict[str, dict[str, float]]:
    """Accuracy, by kind and input left unread, of the best rule that reads all the rest.

    The rule knows the scene, how questions are drawn, and the text but for the words of the input
    (INPUTS[kind]); it answers what most often is the answer. For each picture and each kind asked
    about it, `draws` fresh questions are drawn; the rule is made from one half and scored on the
    other, and the other way round. So no rule is scored on what it was made from, and the figure
    comes out, if anything, a little low: with few draws the rule is not quite the best. A kind's
    figure weighs each picture by its questions of that kind in `pictures`.

    pictures, combinations, reference: as in `best_guess`.
    Raises UserError for fewer than two draws.
    """
    if draws < 2:
        raise expected("two draws or more", draws, "take hundreds")
    rng = np.random.default_rng(0)
    right: defaultdict[str, Counter[str]] = defaultdict(Counter)
    asked: Counter[str] = Counter()
    for scene, questions in pictures:
        view = View(scene, combinations, reference)
        for kind, weight in Counter(question.kind for question in questions).items():
            halves: tuple[Counter[tuple[str, str]], ...] = (Counter(), Counter())
            for i in range(draws):
                if question := view.ask(kind, rng):
                    halves[i % 2][question.text, question.answer] += 1
            asked[kind] += weight * (halves[0].total() + halves[1].total())
            for unread in INPUTS[kind]:
                right[kind][unread] += weight * _right(kind, unread, halves)
    return {
        kind: {unread: right[kind][unread] / asked[kind] for unread in INPUTS[kind]}
        for kind in KINDS
        if asked[kind]
    }


def _right(kind: str, unread: str, halves: Sequence[Counter[tuple[str, str]]]) -> int:
    """How many draws the rule made from the other half answers."""
    counted: list[defaultdict[str, Counter[str]]] = []
    for half in halves:
        answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (text, answer), count in half.items():
            answers[leave_out(kind, text, unread)][answer] += count
        counted.append(answers)
    found = 0
    for made, scored in (counted, counted[::-1]):
        for text, given in scored.items():
            if rule := made.get(text):
                found += given[max(rule, key=rule.__getitem__)]
    return found
