"""Chapter 09, equation by equation: against loops and brute force; its worlds and its failures."""

import math
from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from strategies import error_line

from mmlib.book import failures
from mmlib.book.exercises import Exercise, check
from mmlib.book.exercises.chapter_09 import EXERCISES, READINGS, verdict
from mmlib.book.exercises.chapter_09_turns import exchange
from mmlib.book.five_models import BLANK, five_models, questions, rows
from mmlib.book.spans import spans
from mmlib.book.symbolic_model import SymbolicModel, expected_accuracy
from mmlib.book.symbols import TASKS, reference
from mmlib.book.worths import SCALES, worth
from mmlib.data.scenes import ANSWERS, COLORS, SHAPES, answer
from mmlib.errors import UserError
from mmlib.evaluation.additive import emap
from mmlib.evaluation.calibration import calibration_error, risk_coverage
from mmlib.evaluation.certify import certify
from mmlib.evaluation.clusters import cluster_interval
from mmlib.evaluation.controls import contents, derangement
from mmlib.evaluation.decomposition import decompose
from mmlib.evaluation.shapley import shapley_interactions, shapley_values
from mmlib.tokens import Tokens

PAIR = frozenset({"image", "text"})
SHOWN = [frozenset(s) for s in ((), ("text",), ("image",), ("image", "text"))]


# --- the equations --------------------------------------------------------------------------------


def test_9_1_cost():
    """Of the same questions, each with the picture of another row, asked one by one."""
    scenes = failures.four_things(60, 0.8, 3)
    texts, images, labels = failures.asked(scenes, 3).values()

    def looks(texts, images):
        return [answer(scene, text) for text, scene in zip(texts, images, strict=True)]

    pi = derangement(contents(images), 1).tolist()
    assert sorted(pi) == list(range(60)) and all(images[pi[n]] != images[n] for n in range(60))
    own = other = 0
    for n in range(60):
        own += (answer(images[n], texts[n]) == labels[n]) / 60
        other += (answer(images[pi[n]], texts[n]) == labels[n]) / 60
    blanks = {"blank_image": images[0], "blank_text": texts[0]}
    found = certify(looks, texts, images, labels, **blanks)
    assert found.drops["exchanged_image"]["mean"] == pytest.approx(own - other)
    assert own == pytest.approx(1) and other < 0.9


def best_sum(table):
    """The solution of 9.B."""
    return table.mean(1) + table.mean(0) - table.mean((0, 1))


def test_9_2_best_sum():
    """Loops, least squares over all sums f(t) + g(i), and the library's own."""
    N, C = 5, 3
    table = torch.randn(N, N, C, dtype=torch.float64).log_softmax(-1)
    by_loop = torch.zeros(N, C, dtype=torch.float64)
    for n in range(N):
        for j in range(N):
            by_loop[n] += table[n, j] / N + table[j, n] / N
            for k in range(N):
                by_loop[n] -= table[j, k] / N**2
    design = np.array([[float(t == a) for a in range(N)] + [float(i == b) for b in range(N)]
                       for t in range(N) for i in range(N)])  # fmt: skip
    fitted = design @ np.linalg.lstsq(design, table.reshape(N * N, C).numpy(), rcond=None)[0]
    diagonal = fitted.reshape(N, N, C)[range(N), range(N)]
    for found in (best_sum(table), by_loop, torch.from_numpy(diagonal)):
        torch.testing.assert_close(found, by_loop)

    def ask(texts, images):
        return torch.stack([table[t, i] for t, i in zip(texts, images, strict=True)]).exp()

    logits, cost = emap(ask, list(range(N)), list(range(N)))
    torch.testing.assert_close(logits, by_loop)
    assert cost == N * N


def worth_of(none, text, image, both):
    return dict(zip(SHOWN, (none, text, image, both), strict=True))


SCORES = [(25.0, 40.0, 35.0, 90.0), (20.0, 60.0, 45.0, 80.0), (0.0, 0.0, 0.0, 1.0)]


@pytest.mark.parametrize("scores", SCORES)
def test_9_3_shares(scores):
    """The mean gain over both orders; the formula; the shares sum to the gain."""
    v = worth_of(*scores)
    gains = {"text": [], "image": []}
    for order in permutations(gains):
        before = frozenset()
        for player in order:
            gains[player].append(v[before | {player}] - v[before])
            before |= {player}
    none, text, image, both = scores
    found = shapley_values(v)
    assert found == {name: sum(gains[name]) / 2 for name in ("image", "text")}
    assert found["image"] == (image - none) / 2 + (both - text) / 2
    assert found["image"] + found["text"] == both - none


@pytest.mark.parametrize("scores", SCORES)
def test_9_4_interaction(scores):
    """By how much the two orders differ, for either input."""
    none, text, image, both = scores
    found = shapley_interactions(worth_of(*scores))[PAIR]
    assert found == both - text - image + none
    assert (both - text) - (image - none) == found == (both - image) - (text - none)


def joint(task):
    """p(text, picture, answer) [T, P, 2] of a symbolic task."""
    return torch.stack([task.weight * (task.answer == y) for y in (0, 1)], -1).numpy()


def bits(p):
    """I(X; Y) in bits of a table [X, Y], by its definition."""
    of_x, of_y = p.sum(1), p.sum(0)
    return sum(
        p[x, y] * math.log2(p[x, y] / (of_x[x] * of_y[y]))
        for x in range(p.shape[0]) for y in range(p.shape[1]) if p[x, y] > 0
    )  # fmt: skip


@pytest.mark.parametrize("habit", [0.5, 0.8, None])
def test_9_5_parts(habit):
    p = joint(TASKS["xor"] if habit is None else failures.habit_task(habit))
    d = decompose(p)
    assert d.redundant + d.unique_a == pytest.approx(bits(p.sum(1)), abs=1e-6)
    assert d.redundant + d.unique_b == pytest.approx(bits(p.sum(0)), abs=1e-6)
    assert d.total == pytest.approx(bits(p.reshape(-1, 2)), abs=1e-6)
    words = {None: 0.0, 0.5: 0.0, 0.8: 1 + 0.8 * math.log2(0.8) + 0.2 * math.log2(0.2)}[habit]
    assert bits(p.sum(1)) == pytest.approx(words, abs=1e-9)  # by hand: 1 less the entropy
    if habit is None:
        assert d.synergistic == pytest.approx(1, abs=1e-6)


AND = torch.tensor([[0, 0], [0, 1]])


def test_and_is_half_synergy_and_yet_a_sum_answers_it():
    p = np.zeros((2, 2, 2))
    for a in (0, 1):
        for b in (0, 1):
            p[a, b, int(AND[a, b])] = 0.25
    d = decompose(p)
    assert (d.redundant, d.synergistic) == pytest.approx((0.311278, 0.5), abs=1e-5)
    assert all((a + b - 1.5 > 0) == bool(AND[a, b]) for a in (0, 1) for b in (0, 1))


def test_a_habit_takes_from_the_picture_and_from_synergy():
    """What the words gain is what the other two lose: nothing goes by unseen."""
    even, habit = (decompose(joint(failures.habit_task(h))) for h in (0.5, 0.8))
    words = habit.redundant + habit.unique_a - even.redundant - even.unique_a
    assert words == pytest.approx(0.278, abs=1e-3)
    assert even.unique_b - habit.unique_b == pytest.approx(0.202, abs=1e-3)
    assert even.synergistic - habit.synergistic == pytest.approx(0.076, abs=1e-3)
    assert habit.total == pytest.approx(even.total)  # both are one bit


def test_9_6_groups():
    x, groups = [1.0, 0, 1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 2, 3, 3]
    N, G, mean = len(x), 4, sum(x) / 8
    total = 0.0
    for g in range(G):
        total += sum(x[n] - mean for n in range(N) if groups[n] == g) ** 2
    variance = G / (G - 1) * total / N**2
    half = stats.t.ppf(0.975, G - 1) * variance**0.5
    found = cluster_interval(x, groups)
    assert found["high"] - found["mean"] == pytest.approx(half)
    alone = np.std(x, ddof=1) / N**0.5
    assert EXERCISES["9.4"].right(x, groups) == pytest.approx(variance**0.5 / alone)
    assert EXERCISES["9.4"].right(x, range(N)) == pytest.approx(1)


@cache
def sums():
    """Opinions f [T, C] and g [I, C] of texts and pictures, row 0 those of a blank."""
    rng = np.random.default_rng(7)
    return 2 * rng.normal(size=(6, 4)), 2 * rng.normal(size=(6, 4))


def sum_model(texts, images):
    f, g = sums()
    s = f[[int(t or 0) for t in texts]] + g[list(images)]
    return np.exp(s) / np.exp(s).sum(-1, keepdims=True)


def test_9_7_normalizer():
    """The interaction of log p is that of minus log Z, and a margin has none."""
    f, g = sums()
    texts, images, labels = list("12345"), [1, 2, 3, 4, 5], [0, 1, 2, 3, 0]
    given = dict(texts=texts, images=images, labels=labels, classes=range(4), blank_image=0)
    log_p = shapley_interactions(worth(sum_model, **given, scale="log probability"))[PAIR]

    def log_z(t, i):
        return math.log(sum(math.exp(f[t, c] + g[i, c]) for c in range(4)))

    for n, (t, i) in enumerate(zip(range(1, 6), images, strict=True)):
        want = -(log_z(t, i) - log_z(t, 0) - log_z(0, i) + log_z(0, 0))
        assert log_p[n] == pytest.approx(want)
    assert abs(log_p).max() > 0.1
    margin = worth(sum_model, **given, scale="margin")
    assert abs(shapley_interactions(margin)[PAIR]).max() < 1e-9
    both = margin[PAIR]
    for n in range(5):
        s = f[n + 1] + g[n + 1]
        assert both[n] == pytest.approx(s[labels[n]] - s.mean())


def test_9_8_least_information():
    """AND has one direction in which its table may move; the least is searched along it."""

    def moved(e):
        # q(0, 1, 0), q(1, 0, 0) give up e, which q(0, 0, 0) and q(1, 1, 0) get
        q = np.zeros((2, 2, 2))
        q[0, 0, 0], q[0, 1, 0], q[1, 0, 0], q[1, 1, 0] = 0.25 + e, 0.25 - e, 0.25 - e, e
        q[1, 1, 1] = 0.25
        return q

    p = moved(0.0)
    for e in (0.0, 0.1, 0.25):
        assert moved(e).sum(0) == pytest.approx(p.sum(0))
        assert moved(e).sum(1) == pytest.approx(p.sum(1))
    least = min(bits(moved(e).reshape(4, 2)) for e in np.linspace(0, 0.25, 2001))
    want = bits(p.reshape(4, 2)) - least
    assert decompose(p).synergistic == pytest.approx(want, abs=1e-5)


def test_9_9_calibration_error():
    rng = np.random.default_rng(9)
    sure = rng.random(200)
    right = (rng.random(200) < sure**2).astype(int)
    want = 0.0
    for b in range(10):
        mine = [n for n in range(200) if b / 10 < sure[n] <= (b + 1) / 10]
        if mine:
            share, mean = (sum(x[n] for n in mine) / len(mine) for x in (right, sure))
            want += len(mine) / 200 * abs(share - mean)
    assert calibration_error(sure, right, bins=10) == pytest.approx(want)


def coverage(confidence, right, risk):
    """The solution of 9.D."""
    best, N = 0.0, len(right)
    for threshold in set(confidence):
        given = [r for c, r in zip(confidence, right, strict=True) if c >= threshold]
        if given.count(0) / len(given) <= risk:
            best = max(best, len(given) / N)
    return best


def test_9_10_risk():
    rng = np.random.default_rng(1)
    sure = rng.integers(1, 9, 60) / 10  # with ties
    right = (rng.random(60) < sure).astype(int)
    curve = risk_coverage(sure, right)
    for tau, risk, share in zip(curve["threshold"], curve["risk"], curve["coverage"], strict=True):
        given = [n for n in range(60) if sure[n] >= tau]
        assert risk == pytest.approx(sum(1 - right[n] for n in given) / len(given))
        assert share == pytest.approx(len(given) / 60)
    for most in (0.0, 0.2, 0.35, 1.0):
        fits = curve["coverage"][curve["risk"] <= most]
        want = fits.max() if len(fits) else 0.0
        assert coverage(sure.tolist(), right.tolist(), most) == pytest.approx(want)
        assert EXERCISES["9.D"].right(sure.tolist(), right.tolist(), most) == pytest.approx(want)


# --- the surprise: one sum, three scales ----------------------------------------------------------


@cache
def asked_of_five():
    return five_models(questions(400, 1)), rows(questions(150, 0))


def interaction(name, scale):
    models, data = asked_of_five()
    v = worth(models[name], **data, classes=ANSWERS, scale=scale, blank_image=BLANK)
    groups = contents(data["images"]).tolist()
    return cluster_interval(np.round(shapley_interactions(v)[PAIR], 9), groups)


def test_a_sum_interacts_by_its_scale():
    found = {scale: interaction("additive", scale) for scale in SCALES}
    assert found["accuracy"]["low"] > 0 > found["log probability"]["high"]
    assert found["margin"]["low"] == found["margin"]["high"] == 0
    assert all(interaction("fuses", scale)["low"] > 0 for scale in SCALES)


def test_accuracy_here_is_that_of_the_certificate():
    models, data = asked_of_five()
    certificate = certify(models["additive"], **data, classes=ANSWERS, blank_image=BLANK,
                          additive_rows=2)  # fmt: skip
    for name, found in certificate.shapley.items():
        v = worth(models["additive"], **data, classes=ANSWERS, scale="accuracy", blank_image=BLANK)
        want = shapley_interactions(v)[PAIR] if name == "interaction" else shapley_values(v)[name]
        assert found["mean"] == pytest.approx(want.mean())


def test_ties_count_their_share():
    def even(texts, images):
        return np.full((len(texts), 4), 0.25)

    v = worth(even, ["a"], [1], [2], range(4), "accuracy", blank_image=0)
    assert v[PAIR].tolist() == [0.25]


def test_an_unknown_scale_is_one_line():
    with pytest.raises(UserError) as error:
        worth(sum_model, ["1"], [1], [0], range(4), "points", blank_image=0)
    error_line(error, "accuracy, log probability, margin", "points")


# --- the world of the failures --------------------------------------------------------------------


def test_scenes_keep_the_habit():
    scenes = failures.four_things(400, 0.8, 0)
    kept = []
    for scene in scenes:
        assert sorted(t.shape for t in scene.things) == [0, 1, 2, 3]
        for thing in scene.things:
            color = tuple(COLORS)[thing.color]
            kept.append(color == failures.usual(f"what color is the {SHAPES[thing.shape]}"))
    assert np.mean(kept) == pytest.approx(0.8, abs=0.04)
    assert scenes == failures.four_things(400, 0.8, 0) != failures.four_things(400, 0.8, 1)
    data = failures.asked(scenes, 0)
    assert data["labels"] == [answer(s, t) for s, t in zip(scenes, data["texts"], strict=True)]
    assert set(data["texts"]) == {f"what color is the {shape}" for shape in SHAPES}


def test_the_tasks_weights_are_the_habits():
    even, habit = failures.habit_task(0.5), failures.habit_task(0.8)
    torch.testing.assert_close(even.weight, reference().weight)
    assert float(habit.weight.sum()) == pytest.approx(1)
    for s, shape in enumerate(SHAPES):
        usual = failures.CLASSES.index(failures.usual(shape))
        given = habit.weight[s] * (habit.answer[s] == usual)
        assert float(given.sum()) == pytest.approx(0.8 / 4)


def test_a_model_answers_scenes_as_it_answers_the_task():
    torch.manual_seed(0)
    model, task = SymbolicModel(reference(), "merged"), reference()
    want = model(*task.pairs()).softmax(-1).reshape(4, 16, 2).detach()
    ask = failures.answers(model)
    for scene in failures.four_things(20, 0.5, 2):
        colors = {t.shape: tuple(COLORS)[t.color] for t in scene.things}
        values = [failures.CLASSES.index(colors[s]) for s in range(4)]
        picture = int("".join(map(str, values)), 2)
        texts = [f"what color is the {shape}" for shape in SHAPES]
        torch.testing.assert_close(ask(texts, [scene] * 4), want[:, picture])
    dark = failures.answers(model, scale=0.0)
    torch.testing.assert_close(dark(texts[:1], [scene]), ask(texts[:1], [failures.EMPTY]))


@pytest.mark.parametrize("make", [failures.habit_task, lambda h: failures.four_things(1, h, 0)])
def test_no_probability_is_one_line(make):
    with pytest.raises(UserError) as error:
        make(1.5)
    error_line(error, "a probability from 0 to 1", "1.5")


def test_copies_are_near_and_strangers_are_not():
    task = failures.strangers(12, 0)
    near, far = failures.copies(task), failures.strangers(12, 1)
    own, new = task.pictures.flatten(1), far.pictures.flatten(1)
    assert torch.cdist(near.pictures.flatten(1), own).argmin(1).tolist() == list(range(12))
    assert (near.pictures != task.pictures).all() and (near.answer == task.answer).all()
    assert (
        torch.cdist(new, own).min()
        > 3 * (near.pictures - task.pictures).flatten(1).norm(dim=1).max()
    )
    data = failures.rows_of(task)
    assert len(data["labels"]) == 48
    for n, (text, image, label) in enumerate(zip(*data.values(), strict=True)):
        p, t = divmod(n, 4)
        assert text == SHAPES[t] and (image == task.pictures[p]).all()
        assert label == failures.CLASSES[task.answer[t, p]]


def examined(model, habit, scale=1.0):
    scenes = failures.four_things(80, habit, 5)
    return certify(failures.answers(model, scale), **failures.asked(scenes, 5), additive_rows=30,
                   classes=failures.CLASSES, blank_image=failures.EMPTY)  # fmt: skip


def test_a_habit_hides_what_a_model_looks_at():
    """On pictures that all keep the habit nothing tells the two models apart."""
    spoiled, sound = (failures.train(failures.habit_task(h), 60) for h in (1.0, 0.5))
    with_habit = [examined(model, 1.0) for model in (spoiled, sound)]
    assert [x.verdict for x in with_habit] == ["text prior"] * 2
    assert all(x.scores["all"]["mean"] == 1 for x in with_habit)
    without = [examined(model, 0.5) for model in (spoiled, sound)]
    assert without[0].drops["exchanged_image"]["mean"] == 0 and without[1].verdict == "fuses"
    assert without[0].scores["all"]["high"] < without[1].scores["all"]["low"]


def test_a_picture_that_is_scaled_twice_is_not_used():
    task = failures.habit_task(0.75)
    small = failures.replace(task, pictures=task.pictures / 255)
    once, twice = failures.train(task, 60), failures.train(small, 60)
    assert examined(once, 0.75).verdict == "fuses"
    found = examined(twice, 0.75, 1 / 255)
    assert found.verdict == "text prior" and found.drops["exchanged_image"]["mean"] == 0


def test_what_was_learned_by_heart_fuses_on_copies_and_is_a_coin_on_others():
    coins = failures.strangers(24, 0)
    model = failures.train(coins, 120, fusion="concat", d=32)
    found = [
        certify(failures.answers(model), **failures.rows_of(task), classes=failures.CLASSES)
        for task in (failures.copies(coins), failures.strangers(40, 9))
    ]
    assert found[0].verdict == "fuses" and found[0].scores["all"]["mean"] > 0.9
    assert found[1].scores["all"]["low"] < 0.5 < found[1].scores["all"]["high"]
    assert found[1].verdict != "fuses"


def test_blank_missing_and_trained_alone_say_different_things():
    agree = TASKS["redundant"]
    blank = failures.replace(agree, pictures=0 * agree.pictures)

    def right(model, shown):
        return expected_accuracy(model(*shown.pairs()).detach(), agree)

    cross = failures.train(agree, 60, fusion="cross")
    words, cells = agree.pairs()
    gone = cross(words, Tokens(cells.value, torch.zeros_like(cells.mask))).detach()
    assert right(cross, agree) == expected_accuracy(gone, agree) == 1
    merged = failures.train(agree, 60, 3)  # the seed that falls says one thing to both words
    gone = merged(words, Tokens(cells.value, torch.zeros_like(cells.mask))).detach()
    assert right(merged, agree) == 1 and len(set(gone.argmax(-1).tolist())) == 1
    assert right(cross, blank) == 0.5, "gray cells outweigh the word, missing ones do not"
    assert right(failures.train(blank, 60, fusion="cross"), blank) == 1


def test_a_model_that_loses_nothing_with_another_picture_can_use_it():
    """Both of the first Deeper section: with a blank text the picture is enough."""
    agree = TASKS["redundant"]
    silent = failures.replace(agree, texts=0 * agree.texts)
    for seed in range(2):
        model = failures.train(agree, 80, seed)
        logits, alone = (model(*x.pairs()).detach() for x in (agree, silent))
        assert expected_accuracy(logits, agree, "picture") == 1
        assert expected_accuracy(logits, agree, "text") == 0.5
        assert expected_accuracy(alone, agree) == 1


def test_what_collapsed_to_chance_may_change_its_answers():
    """The costs are of the score: so is the verdict, and the page says so."""
    models, data = asked_of_five()
    turned = certify(models["fuses"], **data, classes=ANSWERS[::-1], blank_image=BLANK,
                     additive_rows=2)  # fmt: skip
    assert turned.verdict == "collapsed"
    assert all(found["low"] > 0.5 for found in turned.changed.values())


def test_the_prior_of_the_collapsed_scores_as_the_usual_color():
    """Whatever share of the questions asked that is, so it is printed beside the score."""
    task = failures.habit_task(0.75)
    small = failures.replace(task, pictures=task.pictures / 255)
    ask = failures.answers(failures.train(small, 100), 1 / 255)
    texts, images, labels = failures.asked(failures.four_things(120, 0.75, 120), 5).values()
    said = [failures.CLASSES[c] for c in ask(texts, images).argmax(-1)]
    assert said == [failures.usual(text) for text in texts]


# --- exercises and drawings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "pictures", [[0, 0, 1, 1], [3, 1, 2], [5, 5, 5, 1, 2, 3], list(range(9)) * 2]
)
def test_the_exchange_of_9_a(pictures):
    other = exchange(pictures)
    assert sorted(other) == list(range(len(pictures)))
    assert not any(pictures[row] == pictures[n] for n, row in enumerate(other))


@pytest.mark.parametrize(
    "answer, part",
    [
        (exchange, "right."),
        (lambda pictures: [(n + 1) % len(pictures) for n in range(len(pictures))], "6 of 9"),
        (lambda pictures: list(range(len(pictures))), "keeps its own row"),
        (lambda pictures: [0] * len(pictures), "taken twice"),
        (lambda pictures: [p + 90 for p in pictures], "numbers of *rows*"),
        (lambda pictures: [0], "need 9 row numbers"),
        (lambda pictures: 3, "a list with a row number"),
        (lambda pictures: None, "no answer yet"),
    ],
)
def test_what_is_said_to_an_exchange(answer, part, capsys):
    check("9.A", answer)
    assert part in capsys.readouterr().out


def test_the_readings_of_9_3(capsys):
    right = {name: verdict(reading) for name, reading in READINGS.items()}
    assert list(right.values()) == ["additive", "undecided", "text prior", "fuses"]
    some = {"pictures": (2.5, 1.0, 4.0), "texts": (2.5, 1.0, 4.0)}  # above 0, and too little
    counts = {"pictures": (9.0, 2.0, 16.0), "texts": (9.0, 2.0, 16.0)}
    assert (verdict(some), verdict(counts)) == ("collapsed", "uses both")
    check("9.3", right)
    assert "right." in capsys.readouterr().out
    for name in READINGS:
        wrong = "collapsed" if name != "B" else "text prior"
        check("9.3", right | {name: wrong})
        assert f"about {name}:" in capsys.readouterr().out
    for given, part in ((3, "keys A, B"), (right | {"A": "sum"}, "'sum' is none")):
        check("9.3", given)
        assert part in capsys.readouterr().out


def test_wrong_labels_by_drawing_them():
    rng = np.random.default_rng(0)
    true = rng.random(200_000) < 0.5
    said = np.where(rng.random(200_000) < 0.9, true, ~true)
    label = np.where(rng.random(200_000) < 0.1, ~true, true)
    assert EXERCISES["9.5"].right(0.9, 0.1) == pytest.approx((said == label).mean(), abs=5e-3)


def test_each_mistake_is_told_from_the_others():
    for name, exercise in EXERCISES.items():
        found: list[tuple] = []
        for one in (exercise.right, *(wrong for wrong, _ in exercise.wrong)):
            if not exercise.judge:
                found.append(results(exercise, one))
        assert len(set(found)) == len(found), name


def results(exercise: Exercise, answer) -> tuple:
    given = [answer(*case) if callable(answer) else answer for case in exercise.cases]
    return tuple(tuple(np.round(np.asarray(x, float), 2).ravel().tolist()) for x in given)


def test_spans_say_each_interval():
    found = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    figure, alt = spans([("one", found, "text"), ("two", found, "image")], "right", margin=0.05)
    assert alt == "right: one 50.0 [25.0, 75.0]; two 50.0 [25.0, 75.0]."
    (axis,) = figure.axes
    lines = [line.get_xdata() for line in axis.lines]
    assert list(lines[0]) == [25.0, 75.0] and list(lines[1]) == [50.0]
    assert axis.get_ylim() == (1.5, -0.5), "the first row is at the top"
    assert spans([("x", found, "text")], "r", factor=1, digits=2)[1] == "r: x 0.50 [0.25, 0.75]."
    with pytest.raises(UserError) as error:
        spans([], "right")
    error_line(error, "at least one interval")
