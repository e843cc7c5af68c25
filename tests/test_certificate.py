"""The certificate: five models it must tell apart, its figures by another way, its forms."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from strategies import error_line
from transformers import ViltConfig, ViltForQuestionAnswering

from mmlib.book.five_models import BLANK, TextPrior, five_models, questions, rows
from mmlib.data.scenes import ANSWERS, Scene
from mmlib.errors import UserError
from mmlib.evaluation.certificate import NAMES, VERDICTS, Certificate
from mmlib.evaluation.certify import best_guesses, certify
from mmlib.evaluation.clusters import cluster_difference
from mmlib.evaluation.controls import contents, derangement

LEARNED = questions(400, 1)
PRIOR = [(question.text, question.answer) for _, asked in LEARNED for question in asked]
MODELS = five_models(LEARNED)
DATA = rows(questions(150, 0))
N = len(DATA["texts"])


def certified(name: str, **more) -> Certificate:
    given = {"classes": ANSWERS, "blank_image": BLANK, "prior": PRIOR}
    return certify(MODELS[name], **DATA, **given | more)


@pytest.fixture(scope="module")
def certificates() -> dict[str, Certificate]:
    return {name: certified(name) for name in MODELS}


# --- the five -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_each_of_five_models_is_called_what_it_is(name, certificates):
    found = certificates[name]
    assert found.verdict == name
    assert str(found).startswith(VERDICTS[name])


@pytest.mark.parametrize(
    "other, controls",
    [
        ("text prior", ["exchanged_image"]),
        ("picture only", ["exchanged_text"]),
        ("additive", ["additive"]),
        ("collapsed", ["exchanged_image", "exchanged_text"]),
    ],
)
def test_what_fuses_is_told_from_the_others_by_intervals_that_do_not_touch(
    other, controls, certificates
):
    for control in controls:
        fuses, lacks = (certificates[name].drops[control] for name in ("fuses", other))
        assert fuses["low"] > lacks["high"] and fuses["low"] > 0
        assert lacks["low"] <= 0 <= lacks["high"]


def test_few_questions_leave_it_undecided():
    """Not "collapsed": an interval over twelve pictures reaches from no difference to one."""
    few = {name: given[:48] for name, given in DATA.items()}
    found = certify(MODELS["collapsed"], **few, classes=ANSWERS, blank_image=BLANK)
    assert found.drops["exchanged_image"]["mean"] == 0 and found.verdict == "undecided"


def test_answers_alone_do_not_say_whether_it_is_more_than_a_sum():
    def answers(texts, images):
        return [ANSWERS[c] for c in MODELS["fuses"](texts, images).argmax(-1)]

    found = certify(answers, **DATA, blank_image=BLANK)
    assert found.verdict == "uses both" and "additive" not in found.scores
    assert {"best additive model", "calibration"} <= set(found.not_measured)
    assert found.scores["all"] == certified("fuses", additive_rows=2).scores["all"]
    assert found.asked == {"all": 6 * N}


# --- each figure by another way -------------------------------------------------------------------


def share_right(p: np.ndarray, label: str) -> float:
    """Of one row of probabilities: a part where several answers are the most probable."""
    best = [word for word, x in zip(ANSWERS, p, strict=True) if x > p.max() * (1 - 1e-9)]
    return (label in best) / len(best)


def by_hand(name: str, texts: list, images: list) -> np.ndarray:
    """How right each answer is, asked one by one."""
    pairs = zip(texts, images, DATA["labels"], strict=True)
    return np.array([share_right(MODELS[name]([t], [i])[0], y) for t, i, y in pairs])


def means(found: dict) -> dict[str, float]:
    return {name: x["mean"] for name, x in found.items()}


@pytest.mark.parametrize("name", ["fuses", "additive"])
def test_scores_and_drops_are_counted_one_by_one(name, certificates):
    texts, images, labels = DATA.values()
    text = [texts[i] for i in derangement(contents(texts), 0)]
    image = [images[i] for i in derangement(contents(images), 1)]
    assert not any(a == b for a, b in zip(text, texts, strict=True))
    assert not any(a is b for a, b in zip(image, images, strict=True))
    prior = TextPrior(LEARNED)(texts, images).argmax(-1)
    often = Counter(answer for _, answer in PRIOR).most_common(1)[0][0]
    no_text, no_image = [""] * N, [BLANK] * N
    want = {
        "all": by_hand(name, texts, images),
        "exchanged_image": by_hand(name, texts, image),
        "exchanged_text": by_hand(name, text, images),
        "blank_image": by_hand(name, texts, no_image),
        "blank_text": by_hand(name, no_text, images),
        "nothing": by_hand(name, no_text, no_image),
        "guess_text": np.array([ANSWERS[c] for c in prior]) == np.array(labels),
        "guess_answers": np.array([label == often for label in labels]),
    }
    found = certificates[name]
    scores, drops = means(found.scores), means(found.drops)
    assert {k: scores[k] for k in want} == pytest.approx({k: x.mean() for k, x in want.items()})
    whole = want.pop("all")
    for control, x in want.items():
        assert drops[control] == pytest.approx(whole.mean() - x.mean())
        assert found.drops[control] == pytest.approx(
            cluster_difference(whole, x, [id(image) for image in images])
        )
    said, then = (MODELS[name](texts, i).argmax(-1) for i in (images, image))
    assert found.changed["image"]["mean"] == pytest.approx((said != then).mean())
    # Shapley's values of two, written out
    v, i, t, none = whole.mean(), want["blank_text"].mean(), want["blank_image"].mean(), 0
    none = want["nothing"].mean()
    assert means(found.shapley) == pytest.approx(
        {
            "image": ((i - none) + (v - t)) / 2,
            "text": ((t - none) + (v - i)) / 2,
            "interaction": v - i - t + none,
        }
    )


def test_an_interaction_is_said_with_its_scale():
    """A sum has one in accuracy, so it must not be told as what only both together bring."""
    found = certify(MODELS["additive"], **DATA, classes=ANSWERS, blank_image=BLANK,
                    additive_rows=20)  # fmt: skip
    assert found.verdict == "additive" or found.drops["additive"]["mean"] == 0
    assert found.shapley["interaction"]["mean"] > 0
    assert "points" in str(found).split("their interaction is ")[1]
    assert "on the scale of accuracy, where a sum can have one too." in str(found)
    assert any(line.startswith("due to interaction") for line in found.lines())


@pytest.mark.parametrize("name", ["fuses", "additive", "picture only"])
def test_the_best_additive_model_is_hessel_and_lees_algorithm(name):
    """For each of N pairs, means over all N texts and all N pictures, one by one."""
    few = {key: given[:20] for key, given in DATA.items()}
    found = certify(
        MODELS[name], **few, classes=ANSWERS, blank_image=BLANK, additive_rows=20
    )  # fmt: skip
    texts, images, labels = few.values()
    log = np.log(np.array([[MODELS[name]([t], [i])[0] for i in images] for t in texts]))
    hit = []
    for n, label in enumerate(labels):
        f = sum(log[n, j] for j in range(20)) / 20
        g = sum(log[j, n] for j in range(20)) / 20
        mu = sum(log[j, k] for j in range(20) for k in range(20)) / 400
        hit.append(share_right(np.exp(f + g - mu), label))
    assert found.scores["additive"]["mean"] == pytest.approx(np.mean(hit))
    assert found.drops["additive"]["mean"] == pytest.approx(
        by_hand(name, *list(DATA.values())[:2])[:20].mean() - np.mean(hit)
    )
    assert found.asked["additive"] == len(set(texts)) * len(set(images)) < 400


def test_calibration_is_measured_of_the_answer_that_is_given(certificates):
    """The oracle is always right and always says 0.9: ten points, by hand."""
    found = certificates["fuses"]
    assert found.calibration["error"] == pytest.approx(0.1)
    assert [row["n"] for row in found.reliability] == [N]
    assert certificates["text prior"].calibration["error"] < 0.1


# --- what it is asked with ------------------------------------------------------------------------


def test_a_function_that_takes_none_is_asked_without():
    def answer(texts, images):
        return [
            "no" if t is None else "yes" if i is None else "both"
            for t, i in zip(texts, images, strict=True)
        ]

    labels = ["both", "yes"] * 20
    found = certify(answer, [f"q{i}" for i in range(40)], [f"p{i}" for i in range(40)], labels,
                    missing=True)  # fmt: skip
    assert found.scores["without_image"]["mean"] == found.scores["all"]["mean"] == 0.5
    assert found.scores["without_text"]["mean"] == found.scores["nothing"]["mean"] == 0
    assert found.shapley["text"]["mean"] == 0.5 and found.shapley["image"]["mean"] == 0
    assert "missing modality" not in found.not_measured
    # names of files are pictures that nobody can blank
    assert "pass blank_image" in found.not_measured["blank picture"]
    alone = certify(lambda t, i: ["yes"] * len(t), ["q"] * 4, list("abcd"), ["yes"] * 4)
    assert {"blank picture", "Shapley"} <= set(alone.not_measured) and not alone.shapley


def test_batches_do_not_matter_and_each_row_is_asked_once():
    sizes: list[int] = []

    def counted(texts, images):
        sizes.append(len(texts))
        return MODELS["additive"](texts, images)

    given = {**DATA, "classes": ANSWERS, "blank_image": BLANK, "additive_rows": 30}
    found = certify(counted, **given, batch_size=64)
    assert max(sizes) <= 64 and sum(sizes) == found.asked["all"]
    again = certify(MODELS["additive"], **given)
    assert again == found
    as_tensor = certify(lambda t, i: torch.tensor(MODELS["additive"](t, i)), **given)
    assert as_tensor == found


def test_questions_on_one_picture_are_one_group():
    found, alone = certified("additive"), certified("additive", groups=range(N))
    assert "600 questions in 150 groups" in found.over and "in 600 groups" in alone.over
    width = [x.scores["all"]["high"] - x.scores["all"]["low"] for x in (found, alone)]
    assert width[0] > 1.1 * width[1]


def test_the_best_guess_comes_from_others():
    """Each text once: from its own label it would be guessed rightly, from the other half never."""
    keys, labels = list("aabbcd"), [1, 1, 2, 2, 3, 4]
    # groups 0, 2, 4 and 1, 3, 5 tell of each other
    assert best_guesses(keys, labels, range(6)) == [1, 1, 2, 2, 1, 1]
    assert best_guesses(keys, labels, [0] * 6) is None
    prior = [("a", 9), ("b", 8), ("b", 8)]
    assert best_guesses(keys, labels, range(6), prior) == [9, 9, 8, 8, 8, 8]
    assert best_guesses([""] * 2, [0, 0], [0, 1], prior) == [8, 8]


def test_a_hugging_face_model_of_another_family_is_certified():
    """ViLT, small and untrained: what it takes is a function of ten lines."""
    torch.manual_seed(0)
    config = ViltConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, image_size=32, patch_size=16, num_labels=2,
    )  # fmt: skip
    model = ViltForQuestionAnswering(config).eval()

    def answer(texts, images):
        words = [[1 + len(word) for word in text.split()] for text in texts]
        ids = torch.zeros(len(words), max(1, *map(len, words)), dtype=torch.long)
        for row, of_text in zip(ids, words, strict=True):
            row[: len(of_text)] = torch.tensor(of_text)
        pixels = torch.tensor(np.array([np.asarray(i.resize((32, 32))) for i in images]))
        with torch.no_grad():
            pixels = pixels.permute(0, 3, 1, 2) / 255
            return model(input_ids=ids, pixel_values=pixels).logits.softmax(-1)

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(40)]
    texts = [" ".join("a" * int(n) for n in rng.integers(1, 9, 3)) for _ in range(40)]
    labels = ["yes", "no"] * 20
    found = certify(answer, texts, images, labels, classes=["yes", "no"], additive_rows=8)
    assert found.verdict in ("undecided", "collapsed")
    assert {"additive", "blank_image", "blank_text"} <= set(found.scores)
    assert set(found.shapley) == {"image", "text", "interaction"}
    assert 8 < found.asked["additive"] <= 64


# --- the verdict follows the intervals ------------------------------------------------------------

BIG, NONE, OPEN = (0.2, 0.4), (-0.01, 0.02), (-0.1, 0.15)


@pytest.mark.parametrize(
    "image, text, additive, verdict",
    [
        (BIG, BIG, BIG, "fuses"),
        (BIG, BIG, NONE, "additive"),
        (BIG, BIG, OPEN, "undecided"),
        (BIG, BIG, None, "uses both"),
        (NONE, BIG, BIG, "text prior"),
        (BIG, NONE, NONE, "picture only"),
        (NONE, NONE, None, "collapsed"),
        (OPEN, BIG, BIG, "undecided"),
        (BIG, OPEN, BIG, "undecided"),
        (NONE, OPEN, NONE, "undecided"),
        ((-0.4, -0.2), BIG, BIG, "text prior"),  # another picture helps: it is no use
        ((0.01, 0.03), BIG, BIG, "text prior"),  # too little to count
    ],
)
def test_the_verdict(image, text, additive, verdict):
    def drop(ends):
        return {"mean": sum(ends) / 2, "low": ends[0], "high": ends[1], "n": 9}

    drops = {"exchanged_image": drop(image), "exchanged_text": drop(text)}
    if additive:
        drops["additive"] = drop(additive)
    found = Certificate("accuracy", "9 questions", {"all": drop((0.5, 0.7))}, drops)
    assert found.verdict == verdict and str(found).startswith(VERDICTS[verdict])


def test_without_its_controls_nothing_is_decided():
    whole = {"all": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}}
    assert Certificate("accuracy", "9 questions", whole, {}).verdict == "undecided"


# --- what it is kept and shown as -----------------------------------------------------------------


def test_it_says_each_figure_and_what_was_not_measured(certificates):
    found = certificates["fuses"]
    lines = "\n".join(found.lines())
    for name in found.scores:
        assert NAMES[name] in lines
    assert all(f"Not measured, {name}: {why}." in lines for name, why in found.not_measured.items())
    assert f"{found.asked['all']} rows asked, {found.asked['additive']} for" in lines
    text = str(found)
    assert "\n" not in text and "600 questions in 150 groups, for one trained model" in text
    drop = found.drops["exchanged_image"]
    ends = f"[{100 * drop['low']:.1f}, {100 * drop['high']:.1f}]"
    assert f"other pictures cost {100 * drop['mean']:.1f} points {ends}" in text
    assert text.encode("ascii")


def test_calibration_is_compared_with_chance():
    found = certified("text prior", additive_rows=2)
    assert "no more than" in str(found)
    worse = replace(found, calibration={**found.calibration, "error": 0.5})
    assert "differ by 50.0 points, more than" in str(worse)


def test_json_and_back(certificates):
    for found in certificates.values():
        saved = json.loads(json.dumps(found.to_json()))
        assert saved["verdict"] == found.verdict and saved["text"] == str(found)
        again = Certificate.from_json(saved | {"verdict": "fuses", "text": "typed by hand"})
        assert again == found and again.verdict == found.verdict


@pytest.mark.parametrize("saved", [{}, {"score": "accuracy"}, {"scores": 3}, []])
def test_what_is_no_certificate_is_one_line(saved, certificates):
    with pytest.raises(UserError) as error:
        Certificate.from_json(saved)
    error_line(error, "certify the model again")
    whole = certificates["fuses"].to_json()
    with pytest.raises(UserError) as error:
        Certificate.from_json(whole | {"scores": {"all": 0.5}})
    error_line(error, "a certificate")


# --- mistakes -------------------------------------------------------------------------------------


def uniform(texts, images):
    return np.full((len(texts), 2), 0.5)


@pytest.mark.parametrize(
    "answer, more, parts",
    [
        (uniform, {"labels": ["x"]}, ["as many texts", "got [4, 4, 1, 1]"]),
        (uniform, {"groups": [1]}, ["got [4, 4, 4, 1]"]),
        (uniform, {"classes": None}, ["classes", "pass classes"]),
        (uniform, {"classes": ["x", "y", "z"]}, ["probabilities [n, 3]", "shape [4, 2]"]),
        (uniform, {"classes": ["y", "z"]}, ["labels among the classes", "'x'"]),
        (lambda t, i: uniform(t, i) + 3, {}, ["sum 1", "apply a softmax"]),
        (lambda t, i: uniform(t, i)[1:], {}, ["4 answers", "got 3"]),
        (lambda t, i: ["x"], {}, ["4 answers", "got 1"]),
    ],
)
def test_each_mistake_is_one_line(answer, more, parts):
    given = {"labels": ["x"] * 4, "classes": ["x", "y"], **more}
    with pytest.raises(UserError) as error:
        certify(answer, list("abcd"), [Scene((), g) for g in range(4)], **given)
    error_line(error, *parts)
