"""Does fusion help? The controls that a table's scores stand beside, and the sentence from them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import error_line

from mmlib.data.table import Row, Table
from mmlib.errors import UserError
from mmlib.evaluation.controls import derangement, shown_sets
from mmlib.evaluation.intervals import clip_interval, fold_interval, format_interval
from mmlib.evaluation.report import (
    describe_report,
    listed,
    names_of,
    report_of,
    score_interval,
    sentence,
    warnings_of,
)

TWO, THREE = ("image", "text"), ("image", "text", "sensors")

# ---------------------------------------------------------------- what models are shown


def test_two_modalities_are_shown_together_and_alone():
    assert shown_sets(TWO) == {"all": TWO, "only_image": ("image",), "only_text": ("text",)}


def test_with_three_each_is_left_out_as_well():
    sets = shown_sets(THREE)
    assert list(sets)[:4] == ["all", "only_image", "only_text", "only_sensors"]
    assert sets["without_text"] == ("image", "sensors")
    assert sets["without_image"] == ("text", "sensors") and len(sets) == 7


def test_names_are_computed_from_the_modalities():
    names = names_of(THREE)
    assert names["all"] == "picture, text and sensors"
    assert names["only_image"] == "picture alone" and names["without_sensors"] == "without sensors"
    assert names["exchanged_text"] == "texts exchanged"
    assert names["probe_without_image"] == "linear, without picture"
    assert listed(["a"]) == "a" and listed(["a", "b"]) == "a and b"


# ---------------------------------------------------------------- the exchange


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**31))
def test_an_exchange_gives_each_row_another_content_wherever_that_is_possible(content, seed):
    rows = torch.tensor(content)
    order = derangement(rows, seed)
    assert sorted(order.tolist()) == list(range(len(content)))  # so each content is as frequent
    kept = int((rows[order] == rows).sum())
    assert kept == max(0, 2 * max(content.count(c) for c in content) - len(content))


def test_an_exchange_knows_no_labels_and_is_drawn_from_the_seed():
    """Of distinct contents each row gets any other, those of other labels included."""
    rows = torch.arange(200)
    first, again, other = (derangement(rows, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    label = rows % 2
    assert 60 < int((label[first] != label).sum()) < 140
    label = (rows < 100).long()
    assert 60 < int((label[first] != label).sum()) < 140


# ---------------------------------------------------------------- intervals


def test_fold_intervals_are_those_of_nadeau_and_bengio():
    values = [0.1, 0.3, 0.2, 0.25, 0.15]
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    found = fold_interval(values)
    assert found["mean"] == pytest.approx(0.2) and found["n"] == 5
    assert found["high"] - 0.2 == pytest.approx(half) == pytest.approx(0.2 - found["low"])


def test_scores_stay_between_0_and_1():
    found = score_interval([0.99, 0.6, 1.0])
    assert found["high"] == 1.0 and found["low"] < found["mean"]
    assert clip_interval({"mean": 0.0, "low": -0.2, "high": 0.1, "n": 3})["low"] == 0.0


def test_an_interval_is_written_in_percent_or_as_a_difference():
    found = {"mean": 0.9712, "low": 0.962, "high": 0.9794, "n": 5}
    assert format_interval(found) == "97.1 [96.2, 97.9]"
    gain = {"mean": -0.00636, "low": -0.0247, "high": 0.0119, "n": 5}
    assert format_interval(gain, sign=True) == "-0.6 [-2.5, +1.2]"
    tiny = {"mean": -1e-9, "low": -1e-9, "high": 1e-9, "n": 5}
    assert format_interval(tiny) == "0.0 [0.0, 0.0]"
    assert format_interval(found, digits=3, factor=1) == "0.971 [0.962, 0.979]"


# ---------------------------------------------------------------- the sentence


def noisy(mean: float, spread: float = 0.01) -> list[float]:
    return [mean + spread * step for step in (-1, 0.5, 0, 1, -0.5)]


def scores_of(image: list[float], text: list[float]) -> dict[str, list[float]]:
    """Scores of two modalities from what each lacks of all together, by fold."""
    both = noisy(0.8)
    return {
        "all": both,
        "only_image": [b + d for b, d in zip(both, image, strict=True)],
        "only_text": [b + d for b, d in zip(both, text, strict=True)],
    }


@pytest.mark.parametrize(
    ("image", "text", "start", "named"),
    [
        (-0.20, -0.30, "Fusion helps:", ["picture", "text"]),
        (-0.20, 0.00, "Fusion does not help by an amount we can tell:", ["text"]),
        (0.00, -0.30, "Fusion does not help by an amount we can tell:", ["picture"]),
        (0.00, 0.00, "Fusion does not help by an amount we can tell:", ["picture", "text"]),
        (0.20, -0.30, "Fusion hurts:", ["picture"]),
        (0.20, 0.30, "Fusion hurts:", ["picture", "text"]),
    ],
)
def test_the_sentence_follows_the_figures(image, text, start, named):
    # the differences vary from fold to fold, so their intervals have a width
    line = sentence(scores_of(noisy(image, 0.02), noisy(text, 0.03)), TWO)
    assert line.startswith(start) and line.endswith("(5 folds).")
    for name in ("picture", "text"):
        assert (f"over the {name} alone" in line) == (name in named)
    if image == -0.20:
        assert ("+20.0 points" in line) == ("picture" in named)


def test_hurting_needs_more_evidence_where_two_are_compared():
    spread = [-2.0, -1.0, 0.0, 1.0, 2.0]
    half = stats.t.ppf(0.975, 4) * np.std(spread, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    # a loss whose 95 % interval ends just below 0, and whose 97.5 % interval does not
    worse = [0.01 * (1.05 * half + s) for s in spread]
    line = sentence(scores_of(worse, worse), TWO)
    assert line.startswith("Fusion does not help by an amount we can tell")
    both = [0.8] * 5
    alone = {"all": both, "only_image": [0.8 + w for w in worse]}
    assert sentence(alone, ("image",)).startswith("Fusion hurts")


def test_a_gain_whose_interval_holds_zero_is_no_help():
    gain = [-0.10, 0.08, -0.06, 0.05, -0.04]
    found = sentence(scores_of([-0.3 + g for g in gain], gain), TWO)
    assert sum(gain) < 0
    assert found.startswith("Fusion does not help by an amount we can tell:")
    assert "over the text alone" in found and "over the picture alone" not in found


def test_the_sentence_of_three_says_what_each_adds_to_the_others():
    scores = scores_of(noisy(-0.2, 0.02), noisy(-0.3, 0.02))
    both = scores["all"]
    for name, loss in (("only_sensors", 0.4), ("without_image", 0.1), ("without_text", 0.05)):
        scores[name] = [b - loss for b in both]
    scores["without_sensors"] = both
    line = sentence(scores, THREE)
    assert line.startswith("Fusion helps: picture, text and sensors together gain +20.0 points")
    assert "over the sensors alone; to the others picture adds +10.0 points" in line
    assert "text adds +5.0 points" in line and "sensors adds +0.0 points" in line


def test_the_sentence_can_be_written_on_any_terminal():
    """A minus that Windows' code page 1252 lacks ended a finished run in a traceback."""
    line = sentence(scores_of(noisy(0.2, 0.02), noisy(0.0, 0.03)), TWO)
    assert "-20.0 points" in line
    assert line.encode("cp1252").decode("cp1252") == line.encode("ascii").decode("ascii")


# ---------------------------------------------------------------- the report


def small(modalities: tuple[str, ...] = TWO, **groups: str) -> Table:
    rows = [
        Row(2, {"text": "a"}, "A", "group g1"), Row(3, {"text": "b"}, "B", "group g2"),
        Row(4, {"text": "a"}, "A", "group g3"), Row(5, {"image": "c"}, "B", "group g4"),
    ]  # fmt: skip
    return Table(Path("t.csv"), modalities, tuple(rows))


def report(modalities: tuple[str, ...] = TWO) -> dict:
    """Two folds of two rows; all together is right in three of four, the others in two."""
    table, target = small(modalities), torch.tensor([0, 1, 0, 1])
    tests = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    right, wrong = torch.tensor([0, 1]), torch.tensor([0, 0])
    names = [n for n in names_of(modalities) if n != "all"]
    outcomes = [{"all": right, **dict.fromkeys(names, wrong)}]
    outcomes.append({"all": wrong, **dict.fromkeys(names, wrong)})
    return {**report_of(table, target, tests, outcomes), "cut": {"text": 2}}


def test_scores_are_means_over_folds_and_not_over_rows():
    found = report()
    assert found["folds"]["balanced_accuracy"]["all"] == [1.0, 0.5]
    assert found["balanced_accuracy"]["n"] == 2 and found["balanced_accuracy"]["mean"] == 0.75
    half = stats.t.ppf(0.975, 1) * np.std([1.0, 0.5], ddof=1) * math.sqrt(1 / 2 + 1)
    gain = found["gain_over"]["only_text"]
    assert gain["n"] == 2 and gain["mean"] == 0.25
    assert gain["high"] - gain["mean"] == pytest.approx(half)
    assert found["probe_gain_over"]["only_image"]["mean"] == 0.0
    assert set(found["probe_gain_over"]) == {"only_image", "only_text"}
    assert set(found["controls"]) == set(names_of(TWO)) - {"all"}


def test_the_report_counts_by_modality_and_by_class():
    found = report()
    assert found["missing"] == {"image": 3, "text": 1} and found["groups"] == 4
    assert found["by_class"]["A"] == {"rows": 2, "all": 1.0, "only_image": 1.0, "only_text": 1.0}
    assert found["by_class"]["B"] == {"rows": 2, "all": 0.5, "only_image": 0.0, "only_text": 0.0}


def test_a_folds_score_weighs_classes_alike():
    table = Table(Path("t"), TWO, tuple(Row(i, {"text": "x"}, "AAAB"[i], "g") for i in range(4)))
    outcome = {name: torch.zeros(4, dtype=torch.long) for name in names_of(TWO)}
    found = report_of(table, torch.tensor([0, 0, 0, 1]), [torch.arange(4)], [outcome])
    assert found["accuracy"]["mean"] == 0.75 and found["balanced_accuracy"]["mean"] == 0.5


def test_the_described_report_shows_every_score_and_ends_with_the_sentence():
    problems = [{"row": 7, "reason": "no file x.png"}]
    found = {**report(), "unusable": problems, "warnings": ["mind this"]}
    lines = describe_report(found).splitlines()
    assert lines[-1] == found["sentence"]
    assert "1 rows not used: row 7: no file x.png." in lines and "Warning: mind this." in lines
    assert "4 rows in 4 groups, 3 without picture, 1 without text, 2 texts cut." in lines
    by_words = {line[:26].strip(): line[26:].split() for line in lines[1:10]}
    assert list(by_words) == list(names_of(TWO).values())
    assert by_words["picture and text"][0] == by_words["picture and text"][3] == "75.0"
    assert by_words["texts exchanged"][0] == "50.0"


def test_three_modalities_are_described_by_their_names():
    lines = describe_report(report(THREE)).splitlines()
    words = [line.split("  ")[0] for line in lines]
    assert "picture, text and sensors" in words and "sensors exchanged" in words
    assert "without sensors" in words and "linear, without text" in words


@pytest.mark.parametrize(
    "damage",
    [
        {"controls": []}, {"unusable": [{"line": 3}]}, {"balanced_accuracy": 0.5},
        {"modalities": [1]}, {"sentence": None}, {"accuracy": {"mean": "0.5", "low": 0, "high": 1}},
        {"missing": 3}, {"modalities": []},
    ],
)  # fmt: skip
def test_a_damaged_report_is_one_line(damage):
    with pytest.raises(UserError) as error:
        describe_report({**report(), **damage})
    error_line(error, "damaged", "report.json")
    with pytest.raises(UserError):
        describe_report({})


def test_a_report_is_plain_json():
    found = report()
    assert json.loads(json.dumps(found)) == found


def test_warnings_name_what_is_in_two_groups():
    assert warnings_of(small()) == [
        "2 of 4 rows have texts that occur in another group, so a model may have seen in training "
        "what it is tested on"
    ]
    rows = tuple(Row(n, {"image": "p"}, "A", f"row {n}", {"image": "d"}) for n in (2, 3))
    first, second = warnings_of(Table(Path("t"), TWO, rows))
    assert "--group-column" in first and second.startswith("2 of 2 rows have pictures")
